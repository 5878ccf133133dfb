"""Runs every benchmark of this folder, one after another: `python bench/run_all.py [--rounds N] [--json]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _sides import NOT_COMPARED

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Passes its arguments on to each; exits with 1 if one failed, with 3 if one lacked its peer."""
    scripts = sorted(
        path for path in HERE.glob("*.py") if not path.name.startswith("_") and path.stem != "run_all"
    )
    status = {
        path.stem: subprocess.run([sys.executable, str(path), *sys.argv[1:]]).returncode for path in scripts
    }
    if failed := [name for name, code in status.items() if code not in (0, NOT_COMPARED)]:
        sys.exit(f"failed: {', '.join(failed)}")
    if NOT_COMPARED in status.values():
        sys.exit(NOT_COMPARED)


if __name__ == "__main__":
    main()
