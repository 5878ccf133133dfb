"""Runs every benchmark of this folder, one after another: `python bench/run_all.py [--rounds N] [--json]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Passes its arguments on to each; exits with 1 if one failed."""
    scripts = sorted(
        path for path in HERE.glob("*.py") if not path.name.startswith("_") and path.stem != "run_all"
    )
    failed = [
        path.stem for path in scripts if subprocess.run([sys.executable, str(path), *sys.argv[1:]]).returncode
    ]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
