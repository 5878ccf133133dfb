"""The house rules that a reviewer should not have to check by eye."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import worker_unit

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "thoughtscope"
FUNCTION_LINES, FILE_LINES, SCRIPT_LINES = 60, 600, 400
API = ("core", "models", "dictionaries", "graphs", "interventions", "reports")
TEXT = {".py", ".md", ".toml", ".txt", ".js", ".css", ".html", ".json", ".tsv", ".cfg", ".yml", ".yaml", ""}


@cache
def tracked() -> tuple[Path, ...]:
    """The files of the repository: what git tracks or would track. Without git, everything outside hidden folders."""
    try:
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
        paths = [ROOT / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return tuple(sorted(path for path in paths if path.is_file()))


def python_files(*folders: str) -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- safety --------------------------------------------------------------------------------------------------------


WRITTEN = {("torch_files.py", "torch.save()"), ("theirs.py", "torch.save()")}
"""Other tools' layouts that are written as `torch.save` writes; what reads them follows no pickle."""


def test_nothing_unpickles():
    """Pickle runs what it reads. Foreign torch files load with weights_only=True, and nowhere else than written so."""
    bad = []
    for path in python_files("src", "specimens", "evidence", "bench"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] in ("pickle", "dill", "joblib", "shelve", "marshal") for name in names):
                bad.append(f"{shown(path)}:{node.lineno} imports {names}")
            if isinstance(node, ast.Call):
                bad += [f"{shown(path)}:{node.lineno} {wrong}" for wrong in wrong_call(node)
                        if (path.name, wrong) not in WRITTEN]  # fmt: skip
    assert not bad, "\n".join(bad)


def wrong_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    wrong = []
    if name == "torch.load" and keywords.get("weights_only") != "True":
        wrong.append("torch.load without weights_only=True")
    if (
        name.endswith(".load")
        and name.startswith(("np.", "numpy."))
        and keywords.get("allow_pickle", "False") != "False"
    ):
        wrong.append("numpy.load with allow_pickle")
    if name in ("eval", "exec", "torch.save", "yaml.load", "yaml.unsafe_load"):
        wrong.append(f"{name}()")
    return wrong


@pytest.mark.parametrize(
    "text", ["torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "eval(x)"]
)
def test_the_gate_sees(text):
    assert wrong_call(ast.parse(text).body[0].value)


# --- the repository speaks of itself only --------------------------------------------------------------------------

# Spelt in pieces so that this file passes its own test.
FOREIGN = [r"(?<![.\w])/" + r"work\b", "/tmp/" + "env", "pypi" + r"\.org/simple", r"files\.python" + "hosted",
           "--(extra-)?index" + "-url", r"download\.py" + "torch", "shared/" + "(reference|design|data|prototypes)",
           "COMMON" + r"\.md", "issue " + "#", "this " + "session"]  # fmt: skip


def test_no_word_about_where_it_was_made():
    bad = []
    for path in tracked():
        if path.suffix not in TEXT or "vendor" in path.parts or path.stat().st_size > 2_000_000:
            continue
        text = path.read_text(errors="replace")
        bad += [f"{shown(path)}: {word}" for word in FOREIGN if re.search(word, text)]
    assert not bad, "\n".join(bad)


def test_weights_stay_small():
    """All shipped weights together at most 100 MB; no other large file."""
    weights = sum(path.stat().st_size for path in tracked() if path.suffix == ".safetensors")
    assert weights <= 100_000_000, f"{weights:,} bytes of weights"
    large = [shown(p) for p in tracked() if p.suffix != ".safetensors" and p.stat().st_size > 3_000_000]
    assert not large, f"large files: {large}"


# --- shape of the code ---------------------------------------------------------------------------------------------


def test_files_stay_readable():
    limits = [(path, FILE_LINES) for path in python_files("src", "tests", "specimens", "evidence", "bench")]
    limits += [(p, SCRIPT_LINES) for p in tracked() if p.suffix == ".js" and "vendor" not in p.parts]
    long = [f"{shown(path)}: {n} lines (limit {limit})" for path, limit in limits
            if (n := len(path.read_text().splitlines())) > limit]  # fmt: skip
    assert not long, "\n".join(long)


def test_functions_stay_readable():
    long = []
    for path in python_files("src", "specimens", "evidence", "bench"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if lines > FUNCTION_LINES:
                    long.append(
                        f"{shown(path)}:{node.lineno} {node.name}: {lines} lines (limit {FUNCTION_LINES})"
                    )
    assert not long, "\n".join(long)


def test_no_drawers_for_odds_and_ends():
    bad = [shown(path) for path in tracked() if re.fullmatch(r"(utils?|helpers?|common|misc)(\.py)?", path.name)
           or set(path.relative_to(ROOT).parts) & {"utils", "helpers", "common", "misc"}]  # fmt: skip
    assert not bad, f"a function lives with the noun it serves: {bad}"


def test_public_functions_are_documented():
    """In the layers that people call from Python; the command line and the server speak through their help."""
    bad = []
    for path in python_files("src"):
        if path.relative_to(PACKAGE).parts[0] not in API:
            continue
        for node in ast.parse(path.read_text()).body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                bad.append(f"{shown(path)}:{node.lineno} {node.name}")
    assert not bad, "\n".join(bad)


def test_scripts_parse():
    """What only runs on a fresh machine is at least well formed here."""
    runner = ROOT / ".ci" / "run"
    assert runner.stat().st_mode & 0o111, ".ci/run must be executable"
    assert subprocess.run(["bash", "-n", str(runner)], capture_output=True, timeout=20).returncode == 0
    targets = ["demo", "test", "check", "bench", "docs", "evidence", "screenshots", "specimen"]
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for script in re.findall(r"python (\S+\.py)", done.stdout):
        assert (ROOT / script).exists(), f"the Makefile runs {script}, which does not exist"
    for module in re.findall(r"python -m ((?:specimens|tests)[\w.]*)", done.stdout):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), (
            f"the Makefile runs {module}, which does not exist"
        )


def test_habits_run_what_exists():
    """The forge's workflows call targets of the Makefile; a commit is checked by nothing that `make check` leaves out."""
    import tomllib

    import yaml

    makefile = (ROOT / "Makefile").read_text()
    workflows = [
        yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))
    ]
    steps = [step for flow in workflows for job in flow["jobs"].values() for step in job["steps"]]
    targets = [
        target for step in steps for target in re.findall(r"\bmake (?:-s )?(\w+)", step.get("run", ""))
    ]
    assert {"check", "test", "docs", "wheel"} <= set(targets)
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, flags=re.MULTILINE)] == []
    assert all(flow["permissions"] == {"contents": "read"} for flow in workflows)
    assert "secrets." not in "".join(path.read_text() for path in (ROOT / ".github").rglob("*.yml"))
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    check = makefile.partition("\ncheck:")[2].partition("\n\n")[0]
    for hook in local["hooks"]:
        tool = re.search(r"(?:-m |bin/)(\w[\w-]*)(?: |$)", hook["entry"].replace("bin/python ", ""))
        assert tool and tool[1] in check, hook["entry"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["license"], citation["keywords"]) == (project["license"], project["keywords"])


def test_a_worker_has_one_thread():
    """Several workers with several threads each would wait for one another."""
    import torch

    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


SKIPS = """
import pytest

def test_passes(): ...

def test_skips():
    pytest.skip("nothing here")

@pytest.mark.gpu
def test_may_skip():
    pytest.skip("no accelerator")
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "2", "--dist", "loadscope"]], ids=["one process", "workers"])
def test_a_skip_fails_where_every_test_must_run(tmp_path, workers):
    """Also a file that skips itself, and also when the tests run in workers."""
    (tmp_path / "test_some.py").write_text(SKIPS)
    (tmp_path / "test_none.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  gpu\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", *workers, str(tmp_path)]
    done = {}
    for strict in ("0", "1"):
        environment = os.environ | {"THOUGHTSCOPE_NO_SKIPS": strict, "PYTHONPATH": str(ROOT)}
        done[strict] = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
    assert done["0"].returncode == 0 and "1 passed" in done["0"].stdout
    assert done["1"].returncode != 0 and "was skipped where every test must run" in done["1"].stdout
    assert re.search(r"1 error", done["1"].stdout), "a file that skips itself"


def test_tests_that_start_a_browser_share_a_worker_and_others_run_by_file():
    units = {
        worker_unit(f"tests/{file}::test_some[a::b/c]") for file in ("browser/test_fit.py", "test_pareto.py")
    }
    assert units == {"browser"}
    assert worker_unit("tests/test_store.py::TestThis::test_that[x]") == "tests/test_store.py"


# --- imports -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("thoughtscope", ("torch", "transformers", "fastapi", "numpy", "pydantic")),
        ("thoughtscope.core.site", ("torch", "numpy")),
        ("thoughtscope.core.store", ("torch", "numpy", "safetensors")),
        ("thoughtscope.cli", ("torch", "transformers", "fastapi")),
    ],
)
def test_imports_are_light(module, heavy):
    code = f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "src", timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"import {module} also imports {done.stdout}"


def test_the_main_path_is_at_the_top_level():
    import thoughtscope

    path = ["load_model", "load_dictionary", "tokenize", "capture", "encode", "attribute", "prune", "group", "plan",
            "intervene", "build_report"]  # fmt: skip
    assert thoughtscope.__all__[: len(path)] == path
    for name in thoughtscope.__all__:
        value = getattr(thoughtscope, name)
        assert callable(value) and value.__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = thoughtscope.no_such_name


def test_one_version():
    import tomllib

    import thoughtscope

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "thoughtscope.__version__"}
    assert "version" not in settings["project"]
    assert f"## {thoughtscope.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def pins() -> dict[str, int]:
    """How many hashes constraints.txt has of each package."""
    found: dict[str, int] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if "==" in line:
            name = line.split("==")[0]
            found[name] = 0
        elif "--hash=sha256:" in line:
            found[name] += 1
    return found


def test_what_is_installed_is_known_by_its_hash():
    """PyTorch alone may come as a build of the machine's own; few packages are asked for by name."""
    import tomllib

    assert [name for name, hashes in pins().items() if not hashes] == ["torch"]
    makefile = (ROOT / "Makefile").read_text()
    assert "--no-deps --require-hashes" in makefile
    assert len(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]) <= 15


def test_the_oldest_and_the_newest_versions_have_a_workflow():
    """What `make oldest` asks for are the lower bounds of pyproject.toml, and a workflow runs it, and the newest."""
    import yaml

    told = subprocess.run(
        [sys.executable, ".ci/oldest.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "transformers==5.4" in told.stdout.split() and "torch" not in told.stdout
    jobs = yaml.safe_load((ROOT / ".github/workflows/check.yml").read_text())["jobs"]
    assert set(jobs["versions"]["strategy"]["matrix"]["which"]) >= {"oldest", "newest"}
    assert any("make oldest" in step.get("run", "") for step in jobs["versions"]["steps"])


def test_every_dependency_has_a_reason_and_a_pin():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["gguf"]]
    names = [re.match(r"[A-Za-z0-9_.-]+", text)[0] for text in wanted]
    pinned = {name.lower().replace("_", "-") for name in pins()}
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    assert [name for name in names if name.lower().replace("_", "-") not in pinned] == []
    assert [name for name in names if f"`{name}`" not in reasons] == []


def test_imported_packages_are_declared():
    """What the package imports is what it asks pip for: nothing arrives by luck with something else."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: texts for name, texts in project["optional-dependencies"].items() if name != "dev"}
    asked = [*project["dependencies"], *(text for texts in extras.values() for text in texts)]
    declared = {re.match(r"[A-Za-z0-9_.-]+", text)[0].replace("-", "_") for text in asked}
    imported = set()
    for path in python_files("src"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    foreign = {
        {"yaml": "pyyaml"}.get(name, name)
        for name in imported - set(sys.stdlib_module_names) - {"thoughtscope"}
    }
    assert foreign <= declared, f"not declared: {sorted(foreign - declared)}"
