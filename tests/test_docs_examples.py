"""The examples in docstrings run and print what they say; notebooks and pages that say so run from top to bottom."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "thoughtscope"
WITH_EXAMPLES = sorted(
    ".".join(("thoughtscope", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

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
@each_notebook
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    """In a Python of its own, in an empty folder, without network; a warning is an error."""
    script = tmp_path / "notebook.py"
    code = ["".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code"]
    script.write_text("\n\n".join(code))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_page_on_dictionaries_runs(tmp_path: Path) -> None:
    """Its snippets one after the other, as it says; a warning is an error."""
    page = (ROOT / "docs" / "dictionaries.md").read_text()
    snippets = re.findall(r"^```python\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(snippets))
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(script)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(snippets) >= 6 and len(done.stdout.splitlines()) >= 7
