"""The page's files: vendored code is what it says, nothing is fetched from elsewhere, and modules stay small and plain."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

UI = Path(__file__).parents[1] / "src/thoughtscope/ui"
VENDOR = UI / "vendor"
OWN = sorted(
    path
    for path in UI.rglob("*")
    if path.suffix in {".js", ".css", ".html", ".svg", ".json"} and VENDOR not in path.parents
)
MODULES = json.loads((UI / "modules.json").read_text())["modules"]
VERSIONS = json.loads((VENDOR / "VERSIONS.json").read_text())
IMPORT = re.compile(r"""^import\s*\{[^}]*\}\s*from\s*["'](\.[^"']+)["'];?$""", re.M)


def imports_of(name: str) -> list[str]:
    text = (UI / name).read_text()
    found = re.findall(r'from"(\.[^"]+)"', text) if name.startswith("vendor/") else IMPORT.findall(text)
    return [str(((UI / name).parent / target).resolve().relative_to(UI.resolve())) for target in found]


@pytest.mark.parametrize("entry", VERSIONS, ids=lambda entry: entry["file"])
def test_vendored_files_are_the_published_ones(entry: dict[str, str]) -> None:
    """`sha256` is of the stored file, `sha256_published` of the package's own, before the one stated change."""
    assert hashlib.sha256((VENDOR / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"]) and len(entry["sha256_published"]) == 64
    assert (
        entry["licence"] in {"MIT", "Apache-2.0"}
        and (VENDOR / entry["licence_file"]).is_file()
        and entry["change"]
    )


def test_every_vendored_file_is_listed() -> None:
    listed = (
        {entry["file"] for entry in VERSIONS}
        | {entry["licence_file"] for entry in VERSIONS}
        | {"VERSIONS.json"}
    )
    assert {path.name for path in VENDOR.iterdir()} == listed


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(UI)))
def test_own_files_are_small_and_fetch_nothing(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    addresses = [
        found
        for found in re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}[^\s\"']*", text)
        if "www.w3.org/2000/svg" not in found
    ]
    assert addresses == []
    for risky in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "dangerouslySetInnerHTML",
    ):
        assert risky not in text, risky


def test_the_page_has_no_inline_script_or_style() -> None:
    text = (UI / "index.html").read_text()
    assert (
        re.findall(r"<script(?![^>]*\bsrc=)", text) == []
        and "<style" not in text
        and " style=" not in text
        and " on" not in re.sub(r">[^<]*<", "><", text)
    )


def test_modules_are_listed_in_the_order_of_their_imports() -> None:
    on_disk = {str(path.relative_to(UI)) for path in UI.rglob("*") if path.suffix in {".js", ".mjs"}}
    assert sorted(MODULES) == sorted(on_disk)
    for number, name in enumerate(MODULES):
        late = [target for target in imports_of(name) if target not in MODULES[:number]]
        assert late == [], f"{name} needs {late} before it"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("vendor/")])
def test_modules_say_their_types_and_read_what_they_show(name: str) -> None:
    """Types are checked as JavaScript (`types.d.ts`); whoever reads the whole state draws again on every hover."""
    text = (UI / name).read_text()
    assert text.startswith("// @ts-check\n")
    assert "useStore((s) => s)" not in text and "useStore((state) => state)" not in text


@pytest.mark.parametrize(
    "path", [path for path in OWN if path.suffix in {".js", ".css"}], ids=lambda path: path.name
)
def test_lines_stay_under_120_characters(path: Path) -> None:
    long = [number for number, line in enumerate(path.read_text().splitlines(), 1) if len(line) > 120]
    assert long == []


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("vendor/")])
def test_modules_keep_to_the_plain_forms_that_a_report_can_carry(name: str) -> None:
    text = (UI / name).read_text()
    assert len(re.findall(r"^import\b", text, re.M)) == len(IMPORT.findall(text)), (
        'only `import { a, b } from "./path";`'
    )
    assert "import(" not in text and "export default" not in text and "export *" not in text
    assert re.findall(r"^export (?!const |function |async function |function\* |class )", text, re.M) == []


def test_the_page_becomes_one_classic_script() -> None:
    from thoughtscope.reports.bundle import bundle

    pages = ["app.js", *json.loads((UI / "modules.json").read_text())["pages"]]
    scripts = [bundle(UI, page) for page in pages]
    for script in scripts:
        assert re.findall(r"^\s*(?:import|export)\b", script, re.M) == []
        assert script.count("modules[0] = ") == 1
    assert all(any(f"// {name}" in script for script in scripts) for name in MODULES)
