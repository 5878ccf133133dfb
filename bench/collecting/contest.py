"""All sides on one case, in turns: their strongest examples first, then medians and ratios from one run."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.collecting.cases import CASES, DASHBOARD, DELPHI, TOP, Case, build
from bench.collecting.equality import compare, floors, windowed, within
from bench.peer.duel import OURS, Side, child
from bench.peer.environment import Peer, interpreter
from bench.peer.equality import Unequal

DELPHI_PEER = Peer(
    name="delphi 0.1.3",
    folder="delphi",
    # It asks for vllm, bitsandbytes, flask and fire, and imports none of them to collect.
    packages=(
        "eai-sparsify==1.3.3", "datasets", "transformers", "orjson", "safetensors", "simple_parsing", "jaxtyping",
        "anyio", "asyncer", "aiofiles", "beartype", "blobfile", "faiss-cpu", "sentence-transformers",
    ),
    alone=("eai-delphi==0.1.3",),
    imports="delphi.latents, delphi.sparse_coders.custom.gemmascope",
)  # fmt: skip
DASHBOARD_PEER = Peer(
    name="SAEDashboard 0.8.0",
    folder="sae-dashboard",
    # It asks for a reader of cross-layer transcoders that asks for torchvision and torchaudio, of other builds of
    # PyTorch; and for a transformer-lens that does not go with the newest pyarrow.
    packages=(
        "sae-lens==6.54.12", "transformer-lens==2.17.0", "transformers==4.56.2", "safetensors==0.4.5",
        "datasets==3.6.0", "pyarrow==20.0.0", "dataclasses-json", "eindex-callum", "einops", "hf-transfer",
        "jaxtyping", "matplotlib<4", "rich<14", "typer<0.13",
    ),
    alone=("sae-dashboard==0.8.0",),
    imports="sae_dashboard.sae_vis_runner",
)  # fmt: skip
PEERS = {DELPHI: (DELPHI_PEER, "delphi"), DASHBOARD: (DASHBOARD_PEER, "dashboard")}
TOGETHER = (64, 256, 1024)
TRIAL = 1024
"""Features of the trial that finds how many SAEDashboard should look at together."""
WARM_UP = 32
"""Rows of the unmeasured turn."""


def contest(case: Case, *, rounds: int, threads: int, seed: int = 0) -> dict[str, Any]:
    """What every side took. Raises `NoPeer` where one cannot be installed, `Unequal` where they found others."""
    entrants = {OURS: (Path(sys.executable), "ours")}
    entrants |= {name: (interpreter(PEERS[name][0]), PEERS[name][1]) for name in case.peers}
    with tempfile.TemporaryDirectory(prefix="bench-") as place, ExitStack() as stack:
        folder = Path(place)
        told = build(case, folder, seed)
        sides = {
            name: stack.enter_context(child(name, python, f"bench.collecting.{module}", folder, threads))
            for name, (python, module) in entrants.items()
        }
        requests: dict[str, dict[str, Any]] = {name: {} for name in sides}
        trial = warmed(sides, place, threads, min(TRIAL, case.n_features))
        if trial:
            requests[DASHBOARD]["features"] = min(trial, key=lambda together: trial[together])
        versions = {name: side.ask("open", folder=place, threads=threads) for name, side in sides.items()}
        turns = take_turns(sides, requests, folder, rounds)
        equality = equal(folder, told)
    return {
        "name": case.name, "about": case.about, "tokens": case.rows * case.context, "features": case.n_features,
        "dtype": case.dtype, "versions": versions, "threads": threads, "rounds": rounds, "trial": trial,
        "equality": equality, **summary(turns),
    }  # fmt: skip


def warmed(sides: Mapping[str, Side], folder: str, threads: int, features: int) -> dict[int, float]:
    """An unmeasured turn of each side on a little text; and SAEDashboard's seconds for `features` of them by how many
    it looks at together, one run each."""
    for name, side in sides.items():
        side.ask("open", folder=folder, threads=threads, rows=WARM_UP)
        side.ask("run", **({"features": TOGETHER[0], "only": TOGETHER[0]} if name == DASHBOARD else {}))
    if DASHBOARD not in sides:
        return {}
    sides[DASHBOARD].ask("open", folder=folder, threads=threads)
    return {
        together: round(sides[DASHBOARD].ask("run", features=together, only=features)["seconds"], 2)
        for together in TOGETHER
    }


def take_turns(
    sides: Mapping[str, Side], requests: Mapping[str, dict[str, Any]], folder: Path, rounds: int
) -> dict[str, list[dict[str, Any]]]:
    """What each side answered, turn by turn; every other turn backwards. The first turn's examples are kept."""
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            save = {"save": str(folder / f"{name}.npz")} if turn == 0 else {}
            turns[name].append(sides[name].ask("run", **requests[name], **save))
            print(f"{name}: {turns[name][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    return turns


def equal(folder: Path, case: Mapping[str, Any]) -> dict[str, Any]:
    """Ours beside each peer's strongest examples. Raises `Unequal`.

    delphi's examples are windows of 32 tokens; SAEDashboard's lie so far within their rows that all it shows is there.
    """
    import numpy as np

    from bench.collecting.dashboard import BUFFER
    from bench.collecting.delphi import WINDOW

    tables = {}
    for name in (OURS, *case["peers"]):
        with np.load(folder / f"{name}.npz") as stored:
            tables[name] = dict(stored)
    floor = {name: floors(table, TOP, case["n_features"]) for name, table in tables.items()}
    mine = {
        DELPHI: windowed(tables[OURS], WINDOW),
        DASHBOARD: within(tables[OURS], case["context"], BUFFER + 1, BUFFER),
    }
    found = {}
    for name in case["peers"]:
        try:
            found[name] = compare(mine[name], tables[name], np.maximum(floor[OURS], floor[name]))
        except Unequal as error:
            raise Unequal(f"{name}: {error}") from None
    return found


def summary(turns: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians by side, with and without the model's forward pass, and each peer's over ours."""
    sides: dict[str, dict[str, Any]] = {}
    for name, made in turns.items():
        seconds = [turn["seconds"] for turn in made]
        beside = [turn["seconds"] - turn["forward_seconds"] for turn in made]
        lists = [turn.get("outputs_seconds", 0.0) for turn in made]
        examples = made[0]["examples"]
        sides[name] = {
            "seconds": statistics.median(seconds),
            "seconds_range": [min(seconds), max(seconds)],
            "without_forward": statistics.median(beside),
            "outputs": statistics.median(lists),
            "cpu_seconds": statistics.median(turn["cpu_seconds"] for turn in made),
            "examples": examples,
            "examples_per_second": examples / statistics.median(seconds),
            "peak_bytes": max(turn["peak"] for turn in made),
        }
    ours = sides[OURS]
    for name, side in sides.items():
        if name == OURS:
            continue
        pairs = [
            theirs["seconds"] / mine["seconds"] for theirs, mine in zip(turns[name], turns[OURS], strict=True)
        ]
        side["ratio"] = ours["examples_per_second"] / side["examples_per_second"]
        side["ratio_of_seconds"] = side["seconds"] / ours["seconds"]
        side["ratio_of_seconds_range"] = [min(pairs), max(pairs)]
        side["ratio_without_forward"] = side["without_forward"] / ours["without_forward"]
        if name == DELPHI:  # it makes no lists of the tokens that a feature raises and lowers
            side["ratio_of_same_work"] = side["seconds"] / (ours["seconds"] - ours["outputs"])
    return {"sides": sides, "peak_of": turns[OURS][0]["peak_of"]}


def results(names: Sequence[str], *, rounds: int, threads: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A contest for each case, as it comes."""
    for name in names:
        yield contest(CASES[name], rounds=rounds, threads=threads, seed=seed)


def shown(found: Mapping[str, Any]) -> str:
    """A result for people."""
    lines = [
        f"{found['name']}: {found['about']}; {found['tokens']:,} tokens, {found['rounds']} rounds",
        f"  {'':14s} {'seconds':>9s} {'without':>9s} {'examples':>10s} {'a second':>9s} {'ratio':>7s} {'without':>8s}",
    ]
    for name, side in found["sides"].items():
        ratios = f" {side['ratio']:7.1f} {side['ratio_without_forward']:8.1f}" if "ratio" in side else ""
        lines.append(
            f"  {name:14s} {side['seconds']:9.1f} {side['without_forward']:9.1f} {side['examples']:10,} "
            f"{side['examples_per_second']:9.0f}{ratios}"
        )
    for name, each in found["equality"].items():
        lines.append(
            f"  {name}: {each['compared']:,} strongest examples equal, {each['on_one_side']} on one side only; values "
            f"differ by up to {each['value_error']:.1e}"
        )
    return "\n".join([*lines, "  without: less the model's forward pass"])
