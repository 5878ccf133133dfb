"""All trainers of one kind of dictionary on one problem, in turns: their losses first, then medians and ratios."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.peer.duel import OURS, Side, child
from bench.peer.environment import NoPeer, Peer, interpreter
from bench.peer.equality import Unequal
from bench.trainers.problem import WARM_UP, Problem, build

SAELENS = Peer(name="SAELens 6.54.12", folder="sae-lens", packages=("sae-lens==6.54.12",), imports="sae_lens")
DICTIONARY_LEARNING = Peer(
    name="dictionary_learning 0.1.0",
    folder="dictionary-learning",
    # It asks for an nnsight that asks for an old PyTorch.
    packages=("datasets", "einops", "nnsight", "pandas", "safetensors", "tqdm", "transformers", "wandb"),
    alone=("dictionary-learning==0.1.0",),
    imports="dictionary_learning.training",
)
SPARSIFY = Peer(
    name="sparsify 1.3.3", folder="eai-sparsify", packages=("eai-sparsify==1.3.3",), imports="sparsify"
)
CROSSLAYER = Peer(
    name="crosslayer-coding 9499108",
    folder="crosslayer-coding",
    # It asks for torchvision and torchaudio, of other builds of PyTorch, and does not import them.
    packages=("datasets", "h5py", "numpy", "requests", "safetensors", "tqdm", "transformers", "wandb"),
    alone=(
        "clt @ git+https://github.com/curt-tigges/crosslayer-coding@9499108772d656a8386bcbd826624dd6304058c9",
    ),
    imports="clt.training.trainer",
)


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One trainer at one setting."""

    name: str
    module: str
    peer: Peer | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    rival: str = ""
    """Of a peer: which of our entrants has its constraints on decoders, and so learns the same."""


UNIT, FREE = f"{OURS}, unit decoders", f"{OURS}, free decoders"
OUR_UNIT = Entrant(name=UNIT, module="ours", options={"decoder": "unit"})
OUR_FREE = Entrant(name=FREE, module="ours", options={"decoder": "free"})
ENTRANTS: Mapping[str, Sequence[Entrant]] = {
    "sae": (
        OUR_UNIT,
        OUR_FREE,
        Entrant(name="SAELens", module="saelens", peer=SAELENS, rival=FREE),
        Entrant(
            name="dictionary_learning", module="dictionary_learning", peer=DICTIONARY_LEARNING, rival=UNIT
        ),
        Entrant(name="sparsify", module="sparsify", peer=SPARSIFY, rival=UNIT),
    ),
    "transcoder": (OUR_FREE, Entrant(name="sparsify", module="sparsify", peer=SPARSIFY, rival=FREE)),
    "clt": (
        OUR_FREE,
        Entrant(name="crosslayer-coding", module="crosslayer", peer=CROSSLAYER, rival=FREE),
    ),
}
PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem(name="sae-512", kind="sae", width=512, n_features=4096, k=32),
        Problem(name="sae-768", kind="sae", width=768, n_features=24576, k=32, steps_a_turn=8),
        Problem(name="sae-2304", kind="sae", width=2304, n_features=16384, k=64, steps_a_turn=6),
        Problem(name="transcoder-512", kind="transcoder", width=512, n_features=4096, k=32),
        Problem(
            name="transcoder-768", kind="transcoder", width=768, n_features=24576, k=32, steps_a_turn=8
        ),
        Problem(
            name="transcoder-2304", kind="transcoder", width=2304, n_features=16384, k=64, steps_a_turn=6
        ),
        Problem(
            name="clt-512", kind="clt", width=512, n_features=4096, layers=4, threshold=2.5, batch=2048,
            steps_a_turn=6,
        ),
        Problem(
            name="clt-768", kind="clt", width=768, n_features=8192, layers=4, threshold=2.5, batch=2048,
            steps_a_turn=4,
        ),
    )
}  # fmt: skip
TOLERANCE = 0.01
"""How far a side's FVU may lie from ours, as a share of ours."""


def contest(problem: Problem, *, threads: int, seed: int = 0) -> dict[str, Any]:
    """What every side took. Raises `NoPeer` where one cannot be installed, `Unequal` where they learn otherwise."""
    entrants = ENTRANTS[problem.kind]
    pythons = {one.name: interpreter(one.peer) if one.peer else Path(sys.executable) for one in entrants}
    with tempfile.TemporaryDirectory(prefix="bench-") as place, ExitStack() as stack:
        problem = replace(problem, folder=place)
        build(problem, seed)
        sides = {
            one.name: stack.enter_context(
                child(one.name, pythons[one.name], "bench.trainers.child", Path(place), threads)
            )
            for one in entrants
        }
        begun = {
            one.name: sides[one.name].ask(
                "open", module=one.module, folder=place, threads=threads, options=dict(one.options)
            )
            for one in entrants
        }
        rivals = {one.name: one.rival for one in entrants if one.rival}
        check({name: said["fvu"] for name, said in begun.items()}, rivals, tolerance=1e-3)
        turns = take_turns(sides, problem)
    curves = {name: [begun[name]["fvu"], *(turn["fvu"] for turn in made)] for name, made in turns.items()}
    check({name: curve[-1] for name, curve in curves.items()}, rivals)
    return summary(problem, turns, curves, rivals) | {
        "threads": threads,
        "peers": {one.name: one.peer.name for one in entrants if one.peer},
    }


def take_turns(sides: Mapping[str, Side], problem: Problem) -> dict[str, list[dict[str, Any]]]:
    """What each side answered, turn by turn; every other turn backwards."""
    for side in sides.values():
        side.ask("train", steps=WARM_UP)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(problem.turns):
        for name in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            turns[name].append(sides[name].ask("train", steps=problem.steps_a_turn))
    return turns


def check(fvu: Mapping[str, float], rivals: Mapping[str, str], tolerance: float = TOLERANCE) -> None:
    """Raises `Unequal` when a peer's FVU is not its rival's, by more than a share `tolerance` of it."""
    wrong = [
        f"{peer} {fvu[peer]:.4f}, {ours} {fvu[ours]:.4f}"
        for peer, ours in rivals.items()
        if not abs(fvu[peer] - fvu[ours]) <= tolerance * fvu[ours]
    ]
    if wrong:
        raise Unequal(f"FVU not within {tolerance:.1%}: {'; '.join(wrong)}")


def summary(
    problem: Problem,
    turns: Mapping[str, Sequence[Mapping[str, Any]]],
    curves: Mapping[str, Sequence[float]],
    rivals: Mapping[str, str],
) -> dict[str, Any]:
    """Medians over all steps by side, and each peer's over its rival's; ranges are of the turns' medians."""
    sides: dict[str, dict[str, Any]] = {}
    by_turn = {name: [statistics.median(turn["seconds"]) for turn in made] for name, made in turns.items()}
    for name, made in turns.items():
        seconds = statistics.median(_all(made, "seconds"))
        sides[name] = {
            "seconds": seconds,
            "seconds_range": [min(by_turn[name]), max(by_turn[name])],
            "cpu_seconds": statistics.median(_all(made, "cpu_seconds")),
            "tokens_per_second": problem.batch / seconds,
            "peak_bytes": max(turn["peak"] for turn in made),
            "fvu": curves[name][-1],
            "curve": list(curves[name]),
        }
    for name, ours in rivals.items():
        pairs = [theirs / mine for theirs, mine in zip(by_turn[name], by_turn[ours], strict=True)]
        sides[name]["rival"] = ours
        sides[name]["ratio"] = sides[name]["seconds"] / sides[ours]["seconds"]
        sides[name]["ratio_range"] = [min(pairs), max(pairs)]
        sides[name]["cpu_ratio"] = sides[name]["cpu_seconds"] / sides[ours]["cpu_seconds"]
    mine = [name for name in sides if name not in rivals]
    product = min(turn["product_seconds"] for name in mine for turn in turns[name])
    return {
        "name": problem.name,
        "kind": problem.kind,
        "about": about(problem),
        "steps": problem.steps,
        "batch": problem.batch,
        "sides": sides,
        "product_seconds": product,
        "product_share": {name: product / sides[name]["seconds"] for name in mine},
        "peak_of": next(iter(turns.values()))[0]["peak_of"],
    }


def about(problem: Problem) -> str:
    """The problem in words."""
    kind = {"sae": "SAE", "transcoder": "transcoder", "clt": "cross-layer transcoder"}[problem.kind]
    layers = f", {problem.layers} layers" if problem.kind == "clt" else ""
    sparsity = f"TopK, k = {problem.k}" if problem.k else f"JumpReLU from {problem.threshold}"
    sizes = f"d = {problem.width:,}, F = {problem.n_features:,}"
    return f"{kind}{layers}, {sizes}, {sparsity}, batches of {problem.batch:,}"


def results(names: Sequence[str], *, rounds: int, threads: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """A contest for each problem, as it comes."""
    for name in names:
        yield contest(replace(PROBLEMS[name], turns=rounds), threads=threads, seed=seed)


def _all(turns: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [each for turn in turns for each in turn[key]]


__all__ = ["NoPeer", "Unequal", "contest", "results"]
