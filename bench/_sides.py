"""Side by side: the sides take turns, so that a busy machine slows all of them; medians, and one ratio from one run."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def take_turns(
    sides: Mapping[str, Callable[[], Any]], *, rounds: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each side over `rounds` turns after one unmeasured turn, and what each returned last."""
    results = {name: run() for name, run in sides.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        # Every other turn backwards: whoever is first after a pause has no advantage.
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            start = time.perf_counter()
            results[name] = sides[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}, results


def absent(*packages: str) -> list[str]:
    """Those of `packages` that are not installed."""
    return [package for package in packages if find_spec(package.replace("-", "_")) is None]


def arguments(description: str) -> argparse.Namespace:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3, help="measured turns of each side (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (default 1)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints a result for people or as JSON."""
    if as_json:
        print(json.dumps(result))
        return
    print(f"{result['name']}: {result['case']}")
    for side, seconds in result["seconds"].items():
        print(f"  {side:14s} {seconds:9.3f} s")
    print(f"  ratio {result['ratio']:.1f}, {result['rounds']} rounds")
    print(f"  largest difference {result['difference']:.1e} of the largest value")
    for line in result["notes"]:
        print(f"  {line}")
