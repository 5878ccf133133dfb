"""Scores of attribution graphs over held-out prompts: the cross-layer transcoder against the per-layer ones."""

from __future__ import annotations

from statistics import mean
from typing import Any

from _claim import Measured, main
from _specimen import KINDS, held_out_prompts, load

EACH = 12
"""Held-out prompts of each task (opposites: of each language)."""


def measure(seed: int) -> Measured:
    """Full graphs, nothing pruned; the pruned graphs' scores are in the details."""
    from thoughtscope import attribute, prune, tokenize

    prompts = held_out_prompts(seed, EACH)
    details: dict[str, Any] = {}
    for kind in KINDS:
        model, dictionary = load(kind)
        full, small = [], []
        for prompt in prompts:
            graph = attribute(model, dictionary, tokenize(model, prompt))
            full.append(graph)
            small.append(prune(graph))
        details[kind] = {"full": averages(full), "pruned": averages(small)}
    clt, plt = (details[kind]["full"] for kind in KINDS)
    return Measured(value=clt["replacement"], n=len(prompts), control=plt["replacement"], details=details)


def averages(graphs: list[Any]) -> dict[str, float]:
    """Mean scores and mean number of feature nodes."""
    names = ("replacement", "completeness", "mean_path_length")
    found = {name: round(mean(getattr(graph.scores, name) for graph in graphs), 4) for name in names}
    return found | {"feature_nodes": round(mean(len(graph.rows("feature")) for graph in graphs), 1)}


if __name__ == "__main__":
    main(
        measure,
        claim="Mean replacement score of the specimen's cross-layer graphs on held-out prompts "
        "(control: the per-layer graphs of the same prompts).",
        paper={"clt": {"replacement": 0.61, "completeness": 0.80, "mean_path_length": 2.3},
               "plt": {"replacement": 0.37, "completeness": 0.78, "mean_path_length": 3.7},
               "source": "Ameisen et al. 2025, 10M features, 18-layer model"},
    )  # fmt: skip
