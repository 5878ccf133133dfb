"""All edges of a prompt's graph: thoughtscope against plain autograd, and against circuit-tracer 0.5.0.

Autograd is the implementation that the tests use as an oracle: one backward pass for each target in float64, nothing
shared. circuit-tracer runs in an environment of its own, which the first call makes under `runs/`, beside thoughtscope
on three shapes (`peer/cases.py`), once with every feature expanded and once with the best 1,000. Where it cannot be
installed this says so and exits with status 3.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from _sides import NOT_COMPARED, arguments, show, take_turns

if TYPE_CHECKING:
    import numpy as np

    from thoughtscope.dictionaries import Features
    from thoughtscope.graphs import Graph

PROMPT = "The quick brown fox jumps"


def compare(rounds: int) -> dict[str, Any]:
    """Both sides on a random Llama with a random cross-layer dictionary: no download, and the same on every machine."""
    import numpy as np
    import torch

    from tests.autograd_oracle import edges_by_autograd, random_dictionary
    from tests.tiny_models import tiny_model
    from thoughtscope.dictionaries import encode
    from thoughtscope.graphs import attribute
    from thoughtscope.models import capture, tokenize

    model = tiny_model("llama", layers=3)
    dictionary = random_dictionary(model, cross_layer=True)
    tokens = tokenize(model, PROMPT)
    features = encode(dictionary, capture(model, tokens, sites=dictionary.sites))
    reference = attribute(model, dictionary, tokens, max_targets=2)
    last = tokens.ids.shape[1] - 1
    logits = []
    for target in reference.targets:
        direction = torch.full((model.vocab_size,), -1.0 / model.vocab_size)
        direction[target.vocab_id] += 1
        logits.append((last, direction))

    sides = {
        "thoughtscope": lambda: attribute(model, dictionary, tokens, max_targets=2).edges.toarray(),
        "autograd": lambda: edges_by_autograd(model, dictionary, features, tokens, logits)[0],
    }
    seconds, results = take_turns(sides, rounds=rounds)
    ours, theirs = results["thoughtscope"], results["autograd"]
    rows, columns = shared(reference, features, len(dictionary.parts), last + 1)
    difference = np.abs(
        ours[np.ix_(rows[:, 0], columns[:, 0])] - theirs[np.ix_(rows[:, 1], columns[:, 1])]
    ).max()
    return {
        "name": "attribution",
        "case": f"{len(features)} features, {tokens.ids.shape[1]} tokens, {len(dictionary.parts)} layers",
        "seconds": seconds,
        "ratio": seconds["autograd"] / seconds["thoughtscope"],
        "difference": float(difference / np.abs(theirs).max()),
        "rounds": rounds,
        "notes": [],
    }


def shared(graph: Graph, features: Features, n_layers: int, n_pos: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns as (ours, the oracle's) for the nodes that the graph keeps: those that can reach a target."""
    import numpy as np

    places = zip(features.part.tolist(), features.position.tolist(), features.index.tolist(), strict=True)
    sources = [f"feature:{layer}:{position}:{index}" for layer, position, index in places]
    n = len(sources)
    sources += [f"error:{layer}:{position}" for layer in range(n_layers) for position in range(n_pos)]
    sources += [f"token:{position}" for position in range(n_pos)]
    ours = {str(node): row for row, node in enumerate(graph.node_ids())}
    columns = [(ours[name], number) for number, name in enumerate(sources) if name in ours]
    rows = [(mine, number) for mine, number in columns if number < n]
    rows += [(target.node, n + number) for number, target in enumerate(graph.targets)]
    return np.array(rows), np.array(columns)


def beside_circuit_tracer(chosen: argparse.Namespace) -> bool:
    """Shows a result for each case and mode; False, with the reason, where the peer cannot be installed."""
    from bench.peer.cases import CASES
    from bench.peer.duel import duel
    from bench.peer.environment import NoPeer

    try:
        for name in chosen.cases or CASES:
            for found in duel(CASES[name], rounds=chosen.rounds, threads=chosen.threads):
                show(found | described(found), as_json=chosen.json)
    except NoPeer as reason:
        print(f"not compared: {reason}", file=sys.stderr)
        return False
    return True


def described(found: dict[str, Any]) -> dict[str, Any]:
    """A result of `duel` in the words of `show`."""
    equality, peak, nodes = found["equality"], found["peak_bytes"], found["nodes"]
    whole = equality["overlap"] == 1
    return {
        "name": f"attribution, {found['name']}",
        "case": f"{found['about']}; {equality['active']:,} active features, {found['tokens']} tokens; "
        f"{found['mode'].replace('_', ' ')}",
        "difference": equality["edge_error"],
        "scale": "the target's largest edge",
        "notes": [
            f"ratios of single turns {found['ratio_range'][0]:.1f} to {found['ratio_range'][1]:.1f}",
            "peak memory " + ", ".join(f"{side} {size / 2**20:,.0f} MiB" for side, size in peak.items())
            + ("" if found["peak_of"] == "call" else " (since the processes' start)"),
            "nodes " + ", ".join(f"{side} {number:,}" for side, number in nodes.items())
            + ("" if whole else f"; {equality['overlap']:.1%} of the features chosen are the same"),
            f"circuit-tracer's batch size {found['batch_size']}, its fastest of "
            + ", ".join(f"{batch} ({seconds:.1f} s)" for batch, seconds in found["batch_trial"].items()),
        ],
    }  # fmt: skip


def main() -> None:
    """Command line."""
    from bench.peer.cases import CASES

    chosen = arguments(
        __doc__ or "", {"cases": {"nargs": "*", "choices": list(CASES), "help": "shapes (default all)"}}
    )
    import torch

    torch.set_num_threads(chosen.threads)
    show(compare(chosen.rounds), as_json=chosen.json)
    if not beside_circuit_tracer(chosen):
        sys.exit(NOT_COMPARED)


if __name__ == "__main__":
    main()
