"""What a user gets: the wheel is built from the checkout, and works from a folder that is not the checkout."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_lines import run_commands

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PROMPT = "Fact: the capital of the state containing Dallas is"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, by the build tools that are pinned."""
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "thoughtscope"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0")[:-1]:
        if name.startswith(("src/", "pyproject", "README.md", "LICENSE")) and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*build, "--no-build-isolation", "--wheel-dir", str(out), str(source)], check=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def outside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a Python that finds the wheel's content first, in an empty folder."""
    installed = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    home = tmp_path_factory.mktemp("home")
    yield {
        **os.environ,
        "PYTHONPATH": str(installed),
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "HF_HUB_OFFLINE": "1",
    }


def run(outside: dict[str, str], *command: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=outside, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_everything_that_the_package_has(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tracked = {name.removeprefix("src/") for name in listed.stdout.split("\0")[:-1] if (ROOT / name).exists()}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == tracked
    assert any(name.endswith("ui/index.html") for name in packed)


def test_the_path_of_the_readme_runs_outside_the_checkout(outside: dict[str, str], tmp_path: Path) -> None:
    """Word for word, and with the result that the page promises."""
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"<!-- the path -->\n```python\n(.*?)```", text, flags=re.DOTALL)
    told = "\nimport thoughtscope\nprint(thoughtscope.__file__)\nprint(repr(outcome.before.tokens[0]), repr(outcome.after.tokens[0]))"
    lines = run(outside, "-c", code + told, folder=tmp_path).splitlines()
    before, after = re.fullmatch(r"'(.*)' '(.*)'", lines[-1]).groups()
    assert lines[-2].startswith(outside["PYTHONPATH"])
    assert before == " Austin" and after != " Austin"


def test_the_commands_of_the_readme_run_outside_the_checkout(outside: dict[str, str], tmp_path: Path) -> None:
    """All that end by themselves; `--open` serves, so the graph is written in its place. Trainings are cut down."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "cat.txt").write_text("The cat sees the dog in the park. " * 200)
    few = ("n_features=64", "schedule.n_tokens=600", "schedule.batch=100", "data.buffer_tokens=600")
    text = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    commands = [
        line.split("  #")[0].strip()
        for line in blocks.splitlines()
        if line.startswith("thoughtscope ") and "smollm2" not in line  # fetched from the network
    ]
    assert len(commands) >= 2
    lines = [[word for word in shlex.split(command)[1:] if word != "--open"] for command in commands]
    lines = [line + [f"--set={each}" for each in few] * (line[0] == "train") for line in lines]
    made = [["trace", PROMPT, "--out", "graph.json"], ["report", "graph.json", "--out", "report.html"]]
    run_commands(lines + made, tmp_path, outside)
    assert run(outside, "-m", "thoughtscope", "--version", folder=tmp_path)
    assert "Austin" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_outside_the_checkout(
    notebook: Path, outside: dict[str, str], tmp_path: Path
) -> None:
    """In a Python of its own, in an empty folder; a warning is an error."""
    cells = json.loads(notebook.read_text())["cells"]
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    run(outside, "-W", "error::UserWarning", str(script), folder=tmp_path)
