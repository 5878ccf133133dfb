"""Command lines tried after each other in one process, which imports the package once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAM = """
import json, sys
from thoughtscope.cli import main
for line in sys.stdin:
    sys.argv = ["thoughtscope", *json.loads(line)]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{sys.argv} ended with {end.code}")
    print("\\ndone:", sys.argv[1], flush=True)
"""


def run_commands(
    commands: Sequence[Sequence[str]], folder: Path, environment: Mapping[str, str], *, before: str = ""
) -> str:
    """Runs them in `folder`, where each must end well and say something; what all of them said on stderr.

    `before` is a piece of Python that comes before the package is imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", before + PROGRAM],
        input="".join(json.dumps(command) + "\n" for command in commands),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout
    for command in commands:
        own, end, said = said.partition(f"\ndone: {command[0]}\n")
        assert end and own.strip(), f"{command} said nothing: {done.stdout}"
    return done.stderr
