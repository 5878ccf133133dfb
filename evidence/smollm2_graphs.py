"""Scores of the real model's graphs: facts, stories and chat turns, by its skip transcoders."""

from __future__ import annotations

from statistics import mean
from typing import Any

from _claim import Measured, main, told
from _smollm2 import BOUND, MOST, graph_of

NAMES = ("replacement", "completeness", "mean_path_length")


def measure(seed: int) -> Measured:
    """Every prompt of the list; nothing is drawn at random."""
    from specimens.smollm2.prompts import PROMPTS

    rows = {kind: [told(row(prompt)) for prompt in prompts] for kind, prompts in PROMPTS.items()}
    everything = [each for kind in rows.values() for each in kind]
    return Measured(
        value=averages(everything)["replacement"],
        n=len(everything),
        details={
            "all": averages(everything),
            **{kind: averages(found) for kind, found in rows.items()},
            "influence_bound": BOUND,
            "most_features": MOST,
        },
    )


def row(prompt: Any) -> dict[str, float]:
    """Scores and size of one prompt's graph, before and after pruning."""
    from thoughtscope import prune

    _, graph = graph_of(prompt)
    small = prune(graph)
    found = {name: float(getattr(graph.scores, name)) for name in NAMES}
    found |= {f"pruned_{name}": float(getattr(small.scores, name)) for name in NAMES}
    return found | {
        "feature_nodes": len(graph.rows("feature")),
        "pruned_feature_nodes": len(small.rows("feature")),
        "tokens": len(graph.tokens),
        "waits": graph.certificate.bound,
    }


def averages(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(mean(row[name] for row in rows), 4) for name in rows[0]}


if __name__ == "__main__":
    main(
        measure,
        claim="Mean replacement score of SmolLM2-135M-Instruct's attribution graphs: beginnings of facts and stories, "
        "and questions in a chat.",
        paper={
            "plt": {"replacement": 0.37, "completeness": 0.78, "mean_path_length": 3.7},
            "clt": {"replacement": 0.61, "completeness": 0.80, "mean_path_length": 2.3},
            "source": "Ameisen et al. 2025, 10M features, 18-layer model",
        },
    )
