"""Side by side: the sides take turns, so that a busy machine slows all of them; medians, and one ratio from one run."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
NOT_COMPARED = 3
"""Exit status of a benchmark whose peer cannot be installed on this machine."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def arguments(description: str, more: Mapping[str, Mapping[str, Any]] | None = None) -> argparse.Namespace:
    """The options of every benchmark, and those that one has besides."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=3, help="measured turns of each side (default 3)")
    parser.add_argument(
        "--threads", type=int, default=cores(), help="threads of PyTorch (default: all cores here)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each comparison")
    for name, settings in (more or {}).items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints a result for people or as JSON."""
    if as_json:
        print(json.dumps(result), flush=True)
        return
    print(f"{result['name']}: {result['case']}")
    for side, seconds in result["seconds"].items():
        print(f"  {side:14s} {seconds:9.3f} s")
    print(f"  ratio {result['ratio']:.1f}, {result['rounds']} rounds")
    print(f"  largest difference {result['difference']:.1e} of {result.get('scale', 'the largest value')}")
    for line in result["notes"]:
        print(f"  {line}", flush=True)
