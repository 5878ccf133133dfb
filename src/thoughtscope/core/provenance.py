"""Where an artefact comes from: the commit, the versions, the platform, the seed and the hashes of its inputs."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from thoughtscope.core.files import file_sha256

_PACKAGES = ("thoughtscope", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scipy")


def provenance(
    *, seed: int | None = None, inputs: Mapping[str, str | os.PathLike[str]] | None = None, **facts: Any
) -> dict[str, Any]:
    """What a reader needs to make the same thing again, as JSON-able data; equal runs give equal records (no clock).

    `inputs` names files; each is recorded by its SHA-256. `facts` (JSON-able) are added as given.
    """
    record: dict[str, Any] = {"commit": commit(), "versions": versions(), "platform": _platform()}
    if seed is not None:
        record["seed"] = seed
    if inputs:
        record["inputs"] = {name: file_sha256(path) for name, path in inputs.items()}
    return record | facts


@cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from (`+changes` if it differs), or None outside one."""
    package = Path(__file__).resolve().parents[1]
    # Only a source checkout counts: an installed copy may lie inside the repository of somebody else's project.
    root = package.parents[1]
    if not (root / ".git").exists() or not (root / "src" / "thoughtscope").is_dir():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def versions() -> dict[str, str]:
    """The installed version of each package that shapes a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


def _git(root: Path, *arguments: str) -> str:
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
