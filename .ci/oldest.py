"""`python .ci/oldest.py`: the lowest version that pyproject.toml allows of each dependency, as pins; not PyTorch's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(requirement: str) -> str:
    """`rich>=13` as `rich==13`. A requirement without a lower bound promises too much."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)", requirement)
    if match is None:
        raise SystemExit(f"{requirement} in {PROJECT.name} has no plain lower bound.")
    return f"{match[1]}=={match[2]}"


if __name__ == "__main__":
    pins = map(lowest, tomllib.loads(PROJECT.read_text())["project"]["dependencies"])
    print("\n".join(pin for pin in pins if not pin.startswith("torch==")))
