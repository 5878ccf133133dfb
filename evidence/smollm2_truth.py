"""Whether a feature's influence in the real model's graphs says how much its ablation changes the answer.

Of each prompt's graph, `FEATURES` feature nodes are drawn, an equal number from each quarter of the ranks by influence.
Each is ablated at its position in the running model, everything else free, and KL(model ‖ ablated model) after the
prompt is measured: Spearman's rank correlation with the influence, prompt by prompt. The same with attention frozen,
which is what the graph describes, and for two simpler orders: by activation, and by direct edges to the targets.
"""

from __future__ import annotations

import random
from statistics import mean
from typing import Any

import numpy as np
from _claim import Measured, main, told
from _smollm2 import BOUND, MOST, graph_of, load

FEATURES = 48
EACH = 12
"""Prompts of each kind."""
RESAMPLES = 10_000


def measure(seed: int) -> Measured:
    """The first prompts of each kind; features and the control's order are drawn by the seed."""
    from specimens.smollm2.prompts import PROMPTS

    draw = random.Random(seed)
    found = {
        kind: [told(correlations(prompt, draw)) for prompt in prompts[:EACH]]
        for kind, prompts in PROMPTS.items()
    }
    everything = [each for rows in found.values() for each in rows]
    names = everything[0]
    intervals = {name: interval([each[name] for each in everything], seed) for name in names}
    return Measured(
        value=round(mean(each["influence"] for each in everything), 4),
        n=len(everything),
        control=round(mean(each["random"] for each in everything), 4),
        details={
            "mean": {name: round(mean(each[name] for each in everything), 4) for name in names},
            "interval_95": intervals,
            "by_kind": {
                kind: {name: round(mean(each[name] for each in rows), 4) for name in names}
                for kind, rows in found.items()
            },
            "features_a_prompt": FEATURES,
            "influence_bound": BOUND,
            "most_features": MOST,
        },
    )


def correlations(prompt: Any, draw: random.Random) -> dict[str, float]:
    """Spearman's correlation of each order with the measured effects."""
    from scipy.stats import spearmanr

    from thoughtscope.graphs import influence

    model, dictionary = load("transcoders")
    tokens, graph = graph_of(prompt)
    total, rows = influence(graph), graph.rows("feature")
    chosen = quarters(rows[np.argsort(-total[rows], kind="stable")], draw)
    free, frozen = (effects(model, dictionary, tokens, graph, chosen, how) for how in ("free", "frozen"))
    weights = np.array([target.weight for target in graph.targets])
    reads = [target.node for target in graph.targets]
    direct = abs(graph.edges[reads][:, chosen]).T @ weights
    shuffled = draw.sample(range(len(chosen)), len(chosen))
    orders = {"influence": total[chosen], "activation": graph.value[chosen], "direct_edges": direct,
              "random": np.array(shuffled)}  # fmt: skip
    told = {name: float(spearmanr(order, free).statistic) for name, order in orders.items()}
    return told | {"influence_attention_frozen": float(spearmanr(total[chosen], frozen).statistic)}


def quarters(ranked: np.ndarray, draw: random.Random) -> list[int]:
    """Equally many of each quarter of the ranks."""
    found = [draw.sample(part.tolist(), min(len(part), FEATURES // 4)) for part in np.array_split(ranked, 4)]
    return [row for part in found for row in part]


def effects(model: Any, dictionary: Any, tokens: Any, graph: Any, rows: list[int], attention: Any) -> Any:
    """KL after the prompt with each feature ablated at its position."""
    from thoughtscope.interventions import FeatureEdit, Plan, intervene_many

    plans = [
        Plan(
            edits=(
                FeatureEdit(
                    part=str(graph.layer[row]),
                    index=int(graph.index[row]),
                    op="ablate",
                    positions=(int(graph.position[row]),),
                ),
            ),
            attention=attention,
        )
        for row in rows
    ]
    return [outcome.kl for outcome in intervene_many(model, dictionary, tokens, plans, changes=0, top=1)]


def interval(values: list[float], seed: int) -> list[float]:
    """Of the mean over prompts, by the bootstrap."""
    draws = np.random.default_rng(seed).choice(values, (RESAMPLES, len(values))).mean(1)
    return [round(float(each), 4) for each in np.quantile(draws, (0.025, 0.975))]


if __name__ == "__main__":
    main(
        measure,
        claim="Mean Spearman correlation, over prompts, of a feature's influence in SmolLM2-135M-Instruct's graph with "
        "what its ablation changes (control: a random order).",
        paper={"spearman": 0.72, "of": "feature to feature, 20 prompts", "source": "Ameisen et al. 2025"},
    )
