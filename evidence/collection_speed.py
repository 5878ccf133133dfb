"""How long collecting examples of features takes beside delphi's cache and SAEDashboard: the same model, dictionary and
token ids, and as many examples of each feature.

Each side runs in a process and an environment of its own, in turns with the others; the strongest examples of every
feature must be the same. A side's time is that from the token ids to the examples of every feature: the model's forward
pass, its activations encoded and kept, examples and figures chosen. The first run installs the peers under `runs/`.
"""

from __future__ import annotations

from typing import Any

from _claim import Measured, Unavailable, main, told

ROUNDS = 3


def measure(seed: int) -> Measured:
    """The smallest ratio over cases and peers, of examples a second or of seconds. Raises where examples differ."""
    from bench._sides import cores
    from bench.collecting.cases import CASES
    from bench.collecting.contest import results
    from bench.peer.environment import NoPeer
    from thoughtscope.models.downloads import fetched

    if fetched("smollm2") is None:
        raise Unavailable("smollm2 is not on this machine (thoughtscope fetch smollm2)")
    try:
        found = [told(one) for one in results(list(CASES), rounds=ROUNDS, threads=cores(), seed=seed)]
    except NoPeer as reason:
        raise Unavailable(str(reason)) from reason
    smallest: dict[str, float] = {}
    without: dict[str, float] = {}
    for one in found:
        for name, side in one["sides"].items():
            if "ratio" in side:
                ratio = min(side["ratio"], side["ratio_of_seconds"])
                smallest[name] = min(smallest.get(name, ratio), ratio)
                without[name] = min(without.get(name, ratio), side["ratio_without_forward"])
    details: dict[str, Any] = {one["name"]: summary(one) for one in found}
    details |= {
        "smallest_ratio": {name: round(ratio, 2) for name, ratio in smallest.items()},
        "smallest_ratio_without_forward": {name: round(ratio, 2) for name, ratio in without.items()},
        "threads": found[0]["threads"],
        "device": "CPU",
        "peak_of": found[0]["peak_of"],
    }
    n = sum(len(one["sides"]) - 1 for one in found)
    return Measured(value=round(min(smallest.values()), 2), n=n, details=details)


def summary(one: dict[str, Any]) -> dict[str, Any]:
    """One case, rounded."""
    sides = {}
    for name, side in one["sides"].items():
        rounded = {key: round(value, 2) for key, value in side.items() if isinstance(value, float)}
        rounded |= {
            key: [round(each, 2) for each in value] for key, value in side.items() if isinstance(value, list)
        }
        examples = {"examples": side["examples"], "examples_per_second": round(side["examples_per_second"])}
        sides[name] = rounded | examples | {"peak_mib": round(side["peak_bytes"] / 2**20)}
    kept = ("about", "tokens", "features", "dtype", "rounds", "trial", "versions")
    equality = {
        name: each | {"value_error": float(f"{each['value_error']:.1g}")}
        for name, each in one["equality"].items()
    }
    return {**{name: one[name] for name in kept}, "equality": equality, "sides": sides}


if __name__ == "__main__":
    main(
        measure,
        claim="Collecting examples of every feature of a dictionary, from token ids to examples that can be read, "
        "beside delphi's cache and SAEDashboard with the same strongest examples: the smallest ratio of thoughtscope's "
        "examples a second to theirs over three cases.",
    )
