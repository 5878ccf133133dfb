"""Measures every claim again: `python evidence/run_all.py [NAME…]` writes docs/evidence.json, docs/evidence.md and the
figures in the pages. With names, only those are measured and the others keep their last result; `mutants` is measured
only when it is named. Each result is written as it comes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _claim import ROOT, UNAVAILABLE
from _figures import RESULTS, refill, results, show, stored

from thoughtscope.core.files import atomic_write_text
from thoughtscope.core.provenance import commit, provenance

HERE = Path(__file__).resolve().parent
BY_HAND = ("mutants",)
"""Measured only when named: it takes twenty minutes, and says something of the tests, not of the package."""

INTRODUCTION = """# Evidence

Every figure that these pages state, as measured by `evidence/<name>.py` at the commit given.
`python evidence/<name>.py` measures one again, `make evidence` all of them but `mutants`; `--json` gives the details
too. A value is a share unless its claim says otherwise. A control is the same figure where the effect should be absent,
and *paper* what others have published. Thresholds are not applied here. What needs a program, a device or a file that
is not there says so and has no value; in the other pages a dash stands in its place.
"""


def names() -> list[str]:
    """The claims: every script of this folder that is not part of the machinery."""
    found = (path.stem for path in HERE.glob("*.py"))
    return sorted(name for name in found if not name.startswith("_") and name != "run_all")


def measure(name: str, made_with: str | None) -> dict[str, Any] | None:
    """Runs one script. None (and its error on stderr) when it failed. The results that are written meanwhile are no
    change of the checkout: it counts as what it was before the first script."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, UNAVAILABLE):
        return None
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"commit": made_with}


def table(measured: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """The page that shows all results."""
    columns = ["name", "claim", "value", "n", "control", "paper", "seed", "seconds", "commit"]
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, result in sorted(measured.items()):
        if "unavailable" in result:
            rows.append(
                f"| `{name}` | {cell(result['claim'])} | unavailable: {cell(result['unavailable'])} | | | | | | |"
            )
            continue
        figures = [show(result[key]) for key in columns[2:-1]] + [short(result["commit"])]
        rows.append(f"| `{name}` | {cell(result['claim'])} | " + " | ".join(map(cell, figures)) + " |")
    where = f"{made['platform']}; " + ", ".join(
        f"{package} {one}" for package, one in made["versions"].items()
    )
    return f"{INTRODUCTION}\n" + "\n".join(rows) + f"\n\n{where}.\n"


def short(commit: str | None) -> str:
    """The commit's first digits; a `+` when the checkout had changes."""
    return "unknown" if commit is None else commit[:9] + ("+" if commit.endswith("+changes") else "")


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which to measure (default all but {', '.join(BY_HAND)}): {', '.join(names())}",
    )
    parser.add_argument("--render", action="store_true", help="measure nothing: only write the pages again")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(names()))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Allowed: {', '.join(names())}")
    measured = {name: result for name, result in results().items() if name in names()}
    failed, made_with = [], commit()
    usual = [name for name in names() if name not in BY_HAND]
    for name in [] if chosen.render else chosen.names or usual:
        print(f"{name} …", end=" ", file=sys.stderr, flush=True)
        result = measure(name, made_with)
        if result is None:
            failed.append(name)
            print("failed", file=sys.stderr)
            continue
        measured[name] = result
        print(result.get("value", "unavailable"), file=sys.stderr)
        write(measured, made=provenance())
    if chosen.render:
        write(measured, made=stored()["provenance"] if RESULTS.exists() else provenance())
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def write(measured: Mapping[str, Any], *, made: Mapping[str, Any]) -> None:
    """Writes the results, their page, and the figures of every other page."""
    made = {key: made[key] for key in ("platform", "versions")}
    body = {"provenance": made, "results": dict(sorted(measured.items()))}
    atomic_write_text(RESULTS, json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(RESULTS.with_suffix(".md"), table(measured, made))
    for page in refill():
        print(f"updated {page.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
