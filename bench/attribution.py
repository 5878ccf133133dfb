"""All edges of a prompt's graph: thoughtscope's explicit linear algebra against one backward pass for each target.

The second side is the implementation that the tests use as an oracle: plain autograd in float64, nothing shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from _sides import absent, arguments, show, take_turns

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
    missing = absent("circuit-tracer")
    notes = (
        [f"not compared: {', '.join(missing)} (not installed)"]
        if missing
        else ["circuit-tracer: no adapter yet"]
    )
    return {
        "name": "attribution",
        "case": f"{len(features)} features, {tokens.ids.shape[1]} tokens, {len(dictionary.parts)} layers",
        "seconds": seconds,
        "ratio": seconds["autograd"] / seconds["thoughtscope"],
        "difference": float(difference / np.abs(theirs).max()),
        "rounds": rounds,
        "notes": notes,
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


def main() -> None:
    """Command line."""
    chosen = arguments(__doc__ or "")
    import torch

    torch.set_num_threads(chosen.threads)
    show(compare(chosen.rounds), as_json=chosen.json)


if __name__ == "__main__":
    main()
