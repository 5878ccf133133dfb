"""Scaling Monosemanticity, done again: how many of its claims hold on the specimen and on SmolLM2.

The claims, with their bounds and controls, are `src/thoughtscope/replications/scaling/expected.json`; the settings are
in the README beside it. What needs SmolLM2 is "not measured" where the model was not fetched.
"""

from __future__ import annotations

import math
from typing import Any

from _claim import Measured, main, told


def measure(seed: int) -> Measured:
    """One row a claim; `value` counts those that replicate. The seeds of trainings and splits are the recipe's own."""
    from thoughtscope.replications import replicate

    found = replicate("scaling")
    rows = [told(shown(verdict)) for verdict in found.verdicts]
    return Measured(
        value=found.count("replicated"),
        n=len(rows),
        details={
            "partly": found.count("partly"),
            "not_replicated": found.count("not replicated"),
            "not_measured": found.count("not measured"),
            "claims": {row.pop("name"): row for row in rows},
        },
    )


def shown(verdict: Any) -> dict[str, Any]:
    """A claim, what the paper has, what was seen, and the verdict."""
    claim, seen = verdict.claim, verdict.seen
    return {
        "name": claim.name,
        "statement": claim.statement,
        "where": claim.where,
        "unit": claim.unit,
        "asked": str(claim.holds),
        "margin": claim.margin,
        "paper": claim.paper,
        "published": claim.published,
        "outcome": verdict.outcome,
        "values": None if seen is None else rounded(seen.values),
        "controls": None if seen is None else rounded(seen.controls),
        "n": None if seen is None else seen.n,
        "note": None if seen is None else seen.note,
    }


def rounded(values: tuple[float, ...]) -> list[float | None]:
    """As JSON has them: what is no number is null."""
    return [round(value, 4) if math.isfinite(value) else None for value in values]


if __name__ == "__main__":
    main(
        measure,
        claim="Claims of Scaling Monosemanticity that replicate on the specimen and on SmolLM2-135M-Instruct (count; "
        "n: claims tried).",
        paper={
            "attribution_with_ablation": 0.81,
            "activation_with_ablation": 0.12,
            "dead": [0.02, 0.35, 0.65],
            "source": "Templeton et al. 2024",
        },
    )
