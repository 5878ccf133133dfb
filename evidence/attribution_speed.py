"""How long attribution takes beside circuit-tracer 0.5.0, on the same models, dictionaries and prompts.

Two processes with an interpreter each trace in turns; before any time counts, their graphs are compared edge by edge.
The first run installs circuit-tracer into an environment of its own under `runs/`.
"""

from __future__ import annotations

from typing import Any

from _claim import Measured, Unavailable, main

ROUNDS = 3


def measure(seed: int) -> Measured:
    """The smallest ratio of medians over three shapes and two modes. Raises where the graphs differ."""
    from bench._sides import cores
    from bench.peer.cases import CASES
    from bench.peer.duel import OURS, THEIRS, duel
    from bench.peer.environment import NoPeer

    try:
        results = [
            one for case in CASES.values() for one in duel(case, rounds=ROUNDS, threads=cores(), seed=seed)
        ]
    except NoPeer as reason:
        raise Unavailable(str(reason)) from reason
    details: dict[str, Any] = {}
    for one in results:
        shape = details.setdefault(one["name"], {"about": one["about"], "tokens": one["tokens"]})
        shape[one["mode"]] = summary(one, OURS, THEIRS)
    equality = [one["equality"] for one in results]
    details |= {
        "largest_edge_error": max(one["edge_error"] for one in equality),
        "largest_activation_error": max(one["activation_error"] for one in equality),
        "smallest_overlap_of_best": min(one["overlap"] for one in equality),
        "versions": results[0]["versions"],
        "threads": results[0]["threads"],
        "device": "CPU, float32",
        "peak_of": results[0]["peak_of"],
        "edge_error": "of the target's largest edge, over features, errors, tokens and logits that both graphs have",
    }
    return Measured(value=round(min(one["ratio"] for one in results), 2), n=len(results), details=details)


def summary(one: dict[str, Any], ours: str, theirs: str) -> dict[str, Any]:
    """One shape and mode, rounded."""
    equality = one["equality"]
    return {
        "ratio": round(one["ratio"], 2),
        "ratio_range": [round(ratio, 2) for ratio in one["ratio_range"]],
        "seconds": round(one["seconds"][ours], 3),
        "peer_seconds": round(one["seconds"][theirs], 3),
        "seconds_range": [round(seconds, 3) for seconds in one["seconds_range"][ours]],
        "peer_seconds_range": [round(seconds, 3) for seconds in one["seconds_range"][theirs]],
        "cpu_seconds": round(one["cpu_seconds"][ours], 3),
        "peer_cpu_seconds": round(one["cpu_seconds"][theirs], 3),
        "peak_mib": round(one["peak_bytes"][ours] / 2**20),
        "peer_peak_mib": round(one["peak_bytes"][theirs] / 2**20),
        "active_features": equality["active"],
        "nodes": one["nodes"][ours],
        "peer_nodes": one["nodes"][theirs],
        "targets_compared": equality["targets_compared"],
        "edge_error": equality["edge_error"],
        "overlap": round(equality["overlap"], 4),
        "peer_batch_size": one["batch_size"],
        "rounds": one["rounds"],
    }


if __name__ == "__main__":
    main(
        measure,
        claim="Attribution beside circuit-tracer 0.5.0 on the same models, dictionaries and prompts, the graphs found "
        "equal first: the smallest ratio of its time to thoughtscope's over three shapes, all features and best 1,000.",
    )
