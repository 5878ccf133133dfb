"""Edges of attribution graphs against an independent autograd implementation, for every model family.

The oracle (`tests/autograd_oracle.py`) runs the Hugging Face module itself in float64 with queries and keys detached,
norms frozen as `out / in`, and MLPs replaced by gated dictionary terms; the derivative of a target with respect to a
gate is an edge. It uses none of the family facts that the package linearises with.
"""

from __future__ import annotations

from typing import Any

from _claim import Measured, main

WRONG_FAMILY = "gemma2"  # has everything that the wrong variants leave out
PROMPT_LENGTH = 8
KINDS: dict[str, dict[str, Any]] = {
    "per-layer": {},
    "cross-layer": {"cross_layer": True, "read": "mlp_norm"},
    "skip": {"skip": True, "write": "mlp_raw", "activation": "jumprelu"},
    "cross-layer, early read": {"cross_layer": True, "skip": True, "read": "resid_pre", "write": "mlp_raw"},
}


def measure(seed: int) -> Measured:
    """The largest difference of an edge over families and dictionaries, relative to its target's scale.

    The scale is the larger of the target's largest edge and its value: an edge can be a scalar product that cancels to
    almost nothing, and is then exact to rounding on the scale of what it adds up to.
    """
    from thoughtscope.models.random_models import random_families

    labels = [(family, {}) for family in random_families()] + [("gpt_neox", {"use_parallel_residual": False})]
    cases: dict[str, dict[str, float]] = {}
    n_edges = n_targets = 0
    for family, overrides in labels:
        name = family + (" (sequential)" if overrides else "")
        for kind, settings in KINDS.items():
            found = compare(family, overrides, settings, seed)
            n_edges += found.pop("edges")
            n_targets += found.pop("targets")
            cases[f"{name}, {kind}"] = found
    wrong = {
        variant: compare(WRONG_FAMILY, {}, KINDS["skip"], seed, wrong=variant)["edge_error"]
        for variant in ("unfrozen norms", "unfrozen patterns", "no post-norm")
    }
    return Measured(
        value=max(case["edge_error"] for case in cases.values()),
        n=n_edges,
        control=wrong,
        details={
            "edges_compared": n_edges,
            "targets_compared": n_targets,
            "largest_over_targets_largest_edge": max(case["over_largest_edge"] for case in cases.values()),
            "largest_relative_norm": max(case["norm_error"] for case in cases.values()),
            "largest_gap_of_edges_and_bias_to_value": max(case["sum_error"] for case in cases.values()),
            "families": sorted({case.split(",")[0] for case in cases}),
            "control": f"error of the same comparison on {WRONG_FAMILY} with a mistake put into the oracle",
            "precision": "edges in float32, oracle in float64",
            "cases": cases,
        },
    )


def compare(
    family: str, overrides: dict[str, Any], settings: dict[str, Any], seed: int, wrong: str | None = None
) -> dict[str, Any]:
    """One model, one dictionary, one prompt: edges against autograd, and edges plus bias against the value."""
    import numpy as np
    import torch

    from tests.autograd_oracle import edges_by_autograd, random_dictionary
    from thoughtscope.core.ids import NodeId
    from thoughtscope.dictionaries import encode
    from thoughtscope.graphs import attribute
    from thoughtscope.models import capture, random_model, tokens_from_ids

    model = random_model(family, layers=3, seed=seed, **overrides)
    dictionary = random_dictionary(model, seed=seed, **settings)
    ids = torch.randint(0, 250, (PROMPT_LENGTH,), generator=torch.Generator().manual_seed(seed)).tolist()
    tokens = tokens_from_ids(model, ids)
    graph = attribute(model, dictionary, tokens)
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    logits = [
        (int(graph.position[t.node]), torch.nn.functional.one_hot(torch.tensor(t.vocab_id), model.vocab_size))
        for t in graph.targets
    ]
    logits = [(position, one - 1 / model.vocab_size) for position, one in logits]
    expected, values = edges_by_autograd(model, dictionary, features, tokens, logits, wrong=wrong)
    places = zip(features.part.tolist(), features.position.tolist(), features.index.tolist(), strict=True)
    row = {node: number for number, node in enumerate(graph.node_ids())}
    rows = [row.get(NodeId.parse(f"feature:{layer}:{position}:{index}")) for layer, position, index in places]
    targets = np.array([number is not None for number in rows] + [True] * len(logits))
    sources = np.array([number is not None for number in rows] + [True] * (expected.shape[1] - len(rows)))
    # Features that reach no target are not in the graph; what they would contribute must be nothing.
    stray = float(np.abs(expected[np.ix_(targets, ~sources)]).max(initial=0.0))
    expected = expected[np.ix_(targets, sources)]
    at = [number for number in rows if number is not None] + [target.node for target in graph.targets]
    edges = graph.edges.toarray()[at]
    difference = np.abs(edges[:, : expected.shape[1]] - expected)
    largest = np.abs(expected).max(axis=1, keepdims=True)
    scale = np.maximum(largest, np.abs(values[targets])[:, None])
    total = edges.astype(np.float64).sum(axis=1) + graph.bias[at]
    gap = np.abs(total - values[targets]) / np.maximum(np.abs(values[targets]), 1.0)
    return {
        "edge_error": max(float((difference / scale).max()), stray),
        "over_largest_edge": float((difference / largest).max()),
        "norm_error": float(np.linalg.norm(difference) / np.linalg.norm(expected)),
        "sum_error": float(gap.max()),
        "edges": int(np.count_nonzero(expected)),
        "targets": len(at),
    }


if __name__ == "__main__":
    main(
        measure,
        claim="Attribution edges equal an independent autograd implementation on every family, "
        "and edges plus bias add up to each target's value: largest relative error.",
        seed=0,
    )
