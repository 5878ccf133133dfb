"""The peer's own environment: made once, under `runs/`, because its packages and ours cannot be installed together."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "runs" / "bench" / "circuit-tracer"
NAME = "circuit-tracer 0.5.0"
PACKAGES = ("circuit-tracer==0.5.0", "transformers==4.57.3", "transformer-lens==3.2.1", "nnsight==0.6.0")


class NoPeer(Exception):
    """Raised where the peer cannot be installed or imported; says why."""


def interpreter() -> Path:
    """The peer's Python. Installs it on the first call. Raises `NoPeer`."""
    python = HOME / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready, wanted = HOME / ".ready", "\n".join([_torch(), *PACKAGES])
    if ready.is_file() and ready.read_text() == wanted:
        return python
    print(f"installing {NAME} into {HOME.relative_to(ROOT)}, once …", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(HOME)])
    # PyTorch first and by itself, at our version: left to the peer's requirements, pip would fetch another build.
    for packages in ([_torch()], [_torch(), *PACKAGES]):
        _run([str(python), "-m", "pip", "install", "--quiet", "--no-input", "--retries", "1", *packages])
    _run([str(python), "-c", "import circuit_tracer, transformer_lens"])
    ready.write_text(wanted)
    return python


def _torch() -> str:
    found = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert found is not None
    return found[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise NoPeer(f"{NAME} cannot be installed here: {lines[-1].strip()}")
