"""The bundler: what a module means must survive, and what it cannot carry must be refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from thoughtscope.reports.bundle import BundleError, bundle

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def run_in_browser(folder: Path, script: str) -> dict[str, object]:
    """Runs a classic script from a file on disk in a real browser; what it leaves in `document.title`, as JSON."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    page = folder / "page.html"
    page.write_text(f"<!doctype html><title>{{}}</title><script>{script}</script>", encoding="utf-8")
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
               "--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}",
               "--dump-dom", page.as_uri()]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return json.loads(dom.split("<title>")[1].split("</title>")[0])


MODULES = {
    "app.js": """
import { add, twice as double } from "./lib/sum.js";
import * as names from "./names.js";
import { h, Fragment } from "./vendor/mini.mjs";
import {
  total, // the sum of all
  Shape,
} from "./names.js";
import "./effect.js";
const note = 'import { nothing } from "nowhere"';
document.title = JSON.stringify({
  sum: add(1, 2), double: double(4), star: Object.keys(names).sort(), h: h("x"), fragment: Fragment,
  total, shape: new Shape().name, effects: globalThis.effects, note, later: names.later(),
});
""",
    "lib/sum.js": "export const add = (a, b) => a + b;\nexport function twice(a) {\n  return add(a, a);\n}\n",
    "names.js": """
import { add } from "./lib/sum.js";
export let total = add(20, 22);
export class Shape { name = "shape"; }
const hidden = 7;
export { hidden as shown };
export async function* stream() {}
export function later() { return helper(); }
function helper() { return "hoisted"; }
export { add as plus } from "./lib/sum.js";
""",
    "effect.js": "globalThis.effects = (globalThis.effects ?? 0) + 1;\n",
    "vendor/mini.mjs": 'import{add as n}from"../lib/sum.js";var r=n(3,4),t=function(x){return x+r};export{t as h,r as Fragment};\n',
}


def test_a_bundle_means_what_its_modules_mean(tmp_path: Path) -> None:
    script = bundle(write(tmp_path / "ui", MODULES), "app.js")
    result = run_in_browser(tmp_path, script)
    assert result == {
        "sum": 3,
        "double": 8,
        "star": ["Shape", "later", "plus", "shown", "stream", "total"],
        "h": "x7",
        "fragment": 7,
        "total": 42,
        "shape": "shape",
        "effects": 1,
        "note": 'import { nothing } from "nowhere"',
        "later": "hoisted",
    }


def test_each_module_stands_once_and_after_what_it_imports(tmp_path: Path) -> None:
    script = bundle(write(tmp_path, MODULES), "app.js")
    order = [line.removeprefix("// ") for line in script.splitlines() if line.startswith("// ")]
    assert sorted(order) == sorted(MODULES)
    assert order.index("lib/sum.js") < order.index("names.js") < order.index("app.js") == len(MODULES) - 1


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"app.js": 'import { a } from "./gone.js";\n'}, "gone.js"),
        ({"app.js": 'import { a } from "../../etc/passwd";\n'}, "passwd"),
        (
            {
                "app.js": 'import { a } from "./b.js";\nexport const c = 1;\n',
                "b.js": 'import { c } from "./app.js";\n',
            },
            "circle",
        ),
        ({"app.js": 'export * from "./b.js";\n', "b.js": "export const a = 1;\n"}, "export *"),
        ({"app.js": "export const { a, b } = window;\n"}, "export const {"),
        ({"app.js": "export const [a] = window;\n"}, "export const ["),
        ({"app.js": 'import { a b } from "./b.js";\n', "b.js": "export const a = 1;\n"}, "a b"),
    ],
)
def test_what_cannot_be_carried_is_refused(tmp_path: Path, files: dict[str, str], word: str) -> None:
    with pytest.raises(BundleError) as refusal:
        bundle(write(tmp_path, files), "app.js")
    assert word in str(refusal.value)


def test_bare_names_go_through_the_aliases(tmp_path: Path) -> None:
    files = {"app.js": 'import { h } from "preact";\nuse(h);\n', "vendor/preact.mjs": "export const h = 1;\n"}
    assert "vendor/preact.mjs" in bundle(
        write(tmp_path, files), "app.js", aliases={"preact": "vendor/preact.mjs"}
    )
    with pytest.raises(BundleError):
        bundle(tmp_path, "app.js")
