"""The peers' own environments: made once, under `runs/`, as their packages and ours cannot be installed together."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "runs" / "bench"


class NoPeer(Exception):
    """Raised where a peer cannot be installed or imported; says why."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A library to be compared with, at a version."""

    name: str
    folder: str
    """Of its environment, under `HOME`."""
    packages: tuple[str, ...]
    imports: str
    """Modules that must be there afterwards."""
    alone: tuple[str, ...] = ()
    """Packages that are installed without what they ask for: they ask for other builds than they need."""


CIRCUIT_TRACER = Peer(
    name="circuit-tracer 0.5.0",
    folder="circuit-tracer",
    packages=(
        "circuit-tracer==0.5.0", "transformers==4.57.3", "transformer-lens==3.2.1", "nnsight==0.6.0",
    ),
    imports="circuit_tracer, transformer_lens",
)  # fmt: skip


def interpreter(peer: Peer = CIRCUIT_TRACER) -> Path:
    """The peer's Python. Installs it on the first call. Raises `NoPeer`."""
    home = HOME / peer.folder
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    ready, wanted = home / ".ready", "\n".join([_torch(), *peer.packages, *peer.alone])
    if ready.is_file() and ready.read_text() == wanted:
        return python
    print(f"installing {peer.name} into {home.relative_to(ROOT)}, once …", file=sys.stderr)
    _run(peer, [sys.executable, "-m", "venv", "--clear", str(home)])
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--retries", "1"]
    # PyTorch first and by itself, at our version: left to the peer's requirements, pip would fetch another build.
    for packages in ([_torch()], [_torch(), *peer.packages]):
        _run(peer, [*install, *packages])
    if peer.alone:
        _run(peer, [*install, "--no-deps", *peer.alone])
    _run(peer, [str(python), "-c", f"import {peer.imports}"])
    ready.write_text(wanted)
    return python


def _torch() -> str:
    found = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert found is not None
    return found[0]


def _run(peer: Peer, command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        lines = [line for line in done.stdout.splitlines() if line.strip()] or [f"status {done.returncode}"]
        raise NoPeer(f"{peer.name} cannot be installed here: {lines[-1].strip()}")
