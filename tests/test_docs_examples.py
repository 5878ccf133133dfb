"""The examples in docstrings run and print what they say; pages that say so run from top to bottom."""

from __future__ import annotations

import doctest
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "thoughtscope"
WITH_EXAMPLES = sorted(
    ".".join(("thoughtscope", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0 and found.failed == 0


def test_there_are_examples() -> None:
    assert len(WITH_EXAMPLES) >= 5 and len(NOTEBOOKS) >= 2


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text())["cells"]


@each_notebook
def test_a_notebook_keeps_no_outputs(notebook: Path) -> None:
    """What a cell printed once goes stale; here it is run instead. And there is a sentence before each piece of code."""
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["metadata"]["kernelspec"]["name"]) == (4, "python3")
    kinds = [cell["cell_type"] for cell in content["cells"]]
    assert kinds[0] == "markdown" and "code code" not in " ".join(kinds)
    assert len({cell["id"] for cell in content["cells"]}) == len(kinds)
    for cell in content["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("dictionaries", 6), ("training", 3)])
def test_a_page_runs(name: str, least: int, tmp_path: Path) -> None:
    """Its snippets one after the other, as it says; a warning is an error."""
    page = (ROOT / "docs" / f"{name}.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(snippets))
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(snippets) >= least and len(done.stdout.splitlines()) >= least


# --- commands --------------------------------------------------------------------------------------------------------

PAGES = (
    "README.md",
    "README.zh-CN.md",
    "docs/cli.md",
    "docs/quickstart.md",
    "docs/features.md",
    "docs/file-formats.md",
    "docs/training.md",
)
"""Pages whose commands run as they stand; docs/cli.md is made of the help texts."""
COMMANDS = list(
    dict.fromkeys(
        line.partition(" #")[0].strip()
        for page in PAGES
        for block in re.findall(r"^```(?:sh|console)?\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if re.match(r"thoughtscope [a-z]", line.strip())
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name: models and dictionaries of a user's own, and graphs that were traced."""
    from tests.chat_templates import CHATML, chat_model
    from tests.dictionary_oracle import random_coder
    from tests.tiny_microscope import random_dictionary
    from tests.tiny_models import tiny_model
    from thoughtscope.dictionaries import save_dictionary

    folder = tmp_path_factory.mktemp("workplace")
    chatting = chat_model(CHATML, layers=3, max_position_embeddings=8192)
    chatting.module.save_pretrained(folder / "chat-model")
    chatting.tokenizer.save_pretrained(folder / "chat-model")
    save_dictionary(random_coder(chatting, ["resid_post.1"]), folder / "sae")
    model = tiny_model("llama", layers=3)
    for name in ("gpt2", "llama", "my-model"):
        model.module.save_pretrained(folder / name)
        model.tokenizer.save_pretrained(folder / name)
    for name in ("transcoders", "my-transcoders"):
        save_dictionary(random_dictionary(model), folder / name)
    (folder / "texts").mkdir()
    for number in range(20):
        (folder / "texts" / f"{number}.txt").write_text("The cat sees the dog in the park. " * (20 + number))
    (folder / "recipes.py").write_text(
        "from thoughtscope.training import recipes\n\n\ndef mine():\n    return recipes.sae('resid_post.2')\n"
    )
    (folder / "labels").mkdir()
    (folder / "labels" / "labels.json").write_text(
        '{"resid_post.1/0": "the letter c", "resid_post.1/3": "dogs"}'
    )
    for name in ("first", "second"):
        (folder / "runs" / name).mkdir(parents=True)
        line = {"step": 1, "n_steps": 2, "tokens": 100, "fvu": 0.5}
        (folder / "runs" / name / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return folder


TINY = ("n_features=64", "schedule.n_tokens=600", "schedule.batch=100", "data.buffer_tokens=600")
"""What a training in an example is cut down to here."""


@pytest.fixture(scope="module")
def activations(workplace: Path, specimen: Any) -> None:
    """The store that an example reads."""
    from thoughtscope.training.data import harvest_to

    source = f"text:{workplace / 'texts'}"
    harvest_to(workplace / "activations", specimen.model, source, ["resid_post.3"], n_tokens=1000)


@pytest.fixture(scope="module")
def specimen() -> object:
    from thoughtscope.microscope import open_microscope

    return open_microscope()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_pages_runs(
    command: str,
    workplace: Path,
    specimen: Any,
    activations: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In a folder that holds the files which it names. A server is opened, and not left running."""
    from thoughtscope.cli import app
    from thoughtscope.microscope import opening

    def opened(model: str = "specimen", dictionary: str | None = None, **options: object) -> object:
        if model == "specimen" and dictionary is None:
            return specimen
        if model == "smollm2":  # fetched from the network elsewhere
            model, dictionary = "chat-model", "sae"
        return opening.open_microscope(model, dictionary, **options)

    monkeypatch.setattr("thoughtscope.microscope.open_microscope", opened)
    checks = importlib.import_module("thoughtscope.dictionaries.preflight")
    fitting = SimpleNamespace(doubts=(), n_tokens=0)
    monkeypatch.setattr(checks, "preflight", lambda *_: fitting)  # random weights fit nothing
    monkeypatch.setattr("thoughtscope.server.launch.serve_session", served)
    monkeypatch.setattr(
        "thoughtscope.server.curves.serve_curves", lambda *_, announce, **__: announce("http://…")
    )
    from thoughtscope import models

    load = models.load_model
    monkeypatch.setattr(
        models,
        "load_model",
        lambda name, **more: specimen.model if name == "specimen" else load(name, **more),
    )
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("thoughtscope.atlas.mapping.EPOCHS", 3)
    monkeypatch.setattr("thoughtscope.models.downloads.fetch", lambda name, **_: tmp_path / f"{name}.gguf")
    monkeypatch.setattr(
        "thoughtscope.models.gguf.gguf_model", lambda path, **_: (path.with_suffix(".float32"), "0")
    )
    for path in workplace.iterdir():
        if path.name != "activations" or " --store" in command:
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command.replace("$(openssl rand -hex 16)", "0" * 32), comments=True)[1:]
    if arguments[0] in ("train", "sweep"):
        fewer = ("k=4",) if "k=16" in arguments else ()
        arguments += [f"--set={each}" for each in (*TINY, *fewer)]
    feature = traced_files(arguments, specimen, tmp_path)
    arguments = [feature if word.startswith("feature:LAYER") else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["thoughtscope", *arguments])
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    with pytest.raises(SystemExit) as end:
        app.run()
    out, err = capsys.readouterr()
    unexpected = [line for line in err.splitlines() if not re.search(r"warning: |^\w+ [\d,]+ of", line)]
    assert not end.value.code and unexpected == [], err
    assert out


def served(session: Any, access: object, *, announce: Callable[[str], None], **options: object) -> None:
    """What a server would do, without one: the model is loaded, and what was to be traced is there."""
    if session.loading is not None:
        session.loading.result(timeout=60)
    for made in session._pending.values():
        made.result(timeout=60)
    announce("http://127.0.0.1:0/")
    session.close()


def traced_files(arguments: list[str], specimen: object, folder: Path) -> str:
    """Writes the graph that a command reads; a feature of it."""
    from thoughtscope.graphs import write_json
    from thoughtscope.microscope import trace

    read = [
        word for word, before in zip(arguments, ["", *arguments], strict=False)
        if word.endswith(".json") and before not in ("--out",) and not word.startswith("for-")
    ]  # fmt: skip
    graph = trace(specimen, "Fact: the capital of the state containing Dallas is") if read else None  # type: ignore[arg-type]
    for name in read:
        write_json(graph, folder / name)  # type: ignore[arg-type]
    return "" if graph is None else str(graph.node_id(int(graph.rows("feature")[0])))


def test_the_examples_of_every_command_are_among_them() -> None:
    """The pages show what the help texts do; and the help texts what the commands take."""
    from thoughtscope.cli.app import app

    shown = "\n".join(COMMANDS)
    for registered in app.registered_commands:
        for line in (registered.help or "").partition("Examples:\n")[2].splitlines():
            assert line.strip() in shown, line
    assert len(COMMANDS) >= 25
