"""How long a training step takes beside other trainers, on the same rows, start weights and order of batches.

Each trainer runs its own loop in a process and an environment of its own, in turns with the others; the fractions of
held-out variance that their dictionaries leave unexplained must agree within 1 %. The first run installs SAELens,
dictionary_learning, sparsify and crosslayer-coding under `runs/`.
"""

from __future__ import annotations

from typing import Any

from _claim import Measured, Unavailable, main

ROUNDS = 3


def measure(seed: int) -> Measured:
    """The smallest ratio of medians to SAELens over three shapes. Raises where the losses differ."""
    from bench._sides import cores
    from bench.peer.environment import NoPeer
    from bench.trainers.contest import PROBLEMS, results

    try:
        found = list(results(list(PROBLEMS), rounds=ROUNDS, threads=cores(), seed=seed))
    except NoPeer as reason:
        raise Unavailable(str(reason)) from reason
    details: dict[str, Any] = {one["name"]: summary(one) for one in found}
    smallest: dict[str, float] = {}
    for one in found:
        for name, side in one["sides"].items():
            if "ratio" in side:
                smallest[name] = min(smallest.get(name, side["ratio"]), side["ratio"])
    details |= {
        "smallest_ratio": {name: round(ratio, 2) for name, ratio in smallest.items()},
        "peers": {name: told for one in found for name, told in one["peers"].items()},
        "threads": found[0]["threads"],
        "device": "CPU",
        "peak_of": found[0]["peak_of"],
        "fvu": "of 2,048 held-out rows",
    }
    n = sum(1 for one in found if "SAELens" in one["sides"])
    return Measured(value=round(smallest["SAELens"], 2), n=n, details=details)


def summary(one: dict[str, Any]) -> dict[str, Any]:
    """One problem, rounded."""
    sides = {}
    for name, side in one["sides"].items():
        sides[name] = {
            "milliseconds": round(1000 * side["seconds"]),
            "milliseconds_range": [round(1000 * seconds) for seconds in side["seconds_range"]],
            "cpu_milliseconds": round(1000 * side["cpu_seconds"]),
            "tokens_per_second": round(side["tokens_per_second"]),
            "peak_mib": round(side["peak_bytes"] / 2**20),
            "fvu": round(side["fvu"], 4),
        }
        if "ratio" in side:
            sides[name] |= {
                "rival": side["rival"],
                "ratio": round(side["ratio"], 2),
                "ratio_range": [round(ratio, 2) for ratio in side["ratio_range"]],
                "cpu_ratio": round(side["cpu_ratio"], 2),
            }
    return {
        "about": one["about"],
        "steps": one["steps"],
        "sides": sides,
        "product_milliseconds": round(1000 * one["product_seconds"]),
        "product_share": {name: round(share, 3) for name, share in one["product_share"].items()},
    }


if __name__ == "__main__":
    main(
        measure,
        claim="Training a TopK sparse autoencoder beside SAELens 6.54.12 with bf16 autocast, on the same rows from the "
        "same weights to the same loss: the smallest ratio of its time for a step to thoughtscope's over three shapes.",
    )
