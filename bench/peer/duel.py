"""Both sides on one case, in turns: their equality first, then medians and one ratio from one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peer.cases import Case, build
from bench.peer.environment import ROOT, interpreter
from bench.peer.equality import compare

OURS, THEIRS = "thoughtscope", "circuit-tracer"
BEST = 1000
MODES = {"every_feature": None, f"best_{BEST}": BEST}
BATCHES = (32, 64, 128, 256)


@dataclass
class Side:
    """A child process that holds a model and a dictionary, and traces when told to."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Sends one request and waits. Raises `RuntimeError` with what the child said last."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline() or "{}")
        if not answer or "error" in answer:
            said = answer.get("error") or "\n".join(self.log.read_text().splitlines()[-5:])
            raise RuntimeError(f"{self.name}: {said}")
        return answer


@contextmanager
def child(name: str, python: Path | str, module: str, folder: Path, threads: int) -> Iterator[Side]:
    """Starts a side; it ends when its input does."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(ROOT / "src") if name.startswith(OURS) else "",
    }  # fmt: skip
    log = folder / f"{name}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [str(python), "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        try:
            yield Side(name, process, log)
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def duel(case: Case, *, rounds: int, threads: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A result for each mode, as it comes. Raises `NoPeer` without circuit-tracer, `Unequal` when the graphs differ."""
    theirs = interpreter()
    with tempfile.TemporaryDirectory(prefix="bench-") as place, ExitStack() as stack:
        folder = Path(place)
        files = build(case, folder, seed)
        sides = {
            OURS: stack.enter_context(child(OURS, sys.executable, "bench.peer.ours", folder, threads)),
            THEIRS: stack.enter_context(child(THEIRS, theirs, "bench.peer.theirs", folder, threads)),
        }
        versions = {name: side.ask("open", threads=threads, **files) for name, side in sides.items()}
        sides[THEIRS].ask(
            "run", max_nodes=1, batch_size=BATCHES[0]
        )  # so that the first trial is not a cold one
        for mode, max_nodes in MODES.items():
            batch, trial = best_batch(sides[THEIRS], max_nodes)
            requests = {OURS: {"max_nodes": max_nodes}, THEIRS: {"max_nodes": max_nodes, "batch_size": batch}}
            equality = equal(sides, requests, folder, whole=max_nodes is None)
            turns = rounds if max_nodes else min(rounds, case.rounds or rounds)
            yield {
                "name": case.name,
                "mode": mode,
                "about": case.about,
                "tokens": case.length,
                "versions": versions,
                "threads": threads,
                "batch_size": batch,
                "batch_trial": trial,
                "equality": equality,
                **take_turns(sides, requests, turns),
            }


def best_batch(side: Side, max_nodes: int | None) -> tuple[int, dict[int, float]]:
    """circuit-tracer's fastest batch size here, by one run each of so many rows, until one takes twice the best."""
    trial: dict[int, float] = {}
    for batch in BATCHES:
        found = side.ask("run", max_nodes=BEST, batch_size=batch, rank_once=max_nodes is None)
        trial[batch] = round(found["seconds"], 3)
        if trial[batch] > 2 * min(trial.values()):
            break
    return min(trial, key=lambda batch: trial[batch]), trial


def equal(sides: dict[str, Side], requests: dict[str, Any], folder: Path, *, whole: bool) -> dict[str, Any]:
    """The unmeasured turn: both graphs, compared. Raises `Unequal`."""
    import numpy as np

    tables = {}
    for name, side in sides.items():
        path = folder / f"{name}.npz"
        side.ask("run", save=str(path), **requests[name])
        with np.load(path) as stored:
            tables[name] = dict(stored)
    return compare(tables[OURS], tables[THEIRS], whole=whole)


def take_turns(sides: dict[str, Side], requests: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Medians over `rounds` measured turns; every other turn backwards."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            runs[name].append(sides[name].ask("run", **requests[name]))
    seconds = {name: [run["seconds"] for run in each] for name, each in runs.items()}
    median = {name: statistics.median(each) for name, each in seconds.items()}
    by_turn = [theirs / ours for ours, theirs in zip(seconds[OURS], seconds[THEIRS], strict=True)]
    return {
        "rounds": rounds,
        "seconds": median,
        "ratio": median[THEIRS] / median[OURS],
        "ratio_range": [min(by_turn), max(by_turn)],
        "seconds_range": {name: [min(each), max(each)] for name, each in seconds.items()},
        "cpu_seconds": {
            name: statistics.median(run["cpu_seconds"] for run in each) for name, each in runs.items()
        },
        "peak_bytes": {name: max(run["peak"] for run in each) for name, each in runs.items()},
        "peak_of": runs[OURS][0]["peak_of"],
        "nodes": {name: each[0]["nodes"] for name, each in runs.items()},
    }
