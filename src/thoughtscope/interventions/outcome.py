"""`Outcome`: what a plan did to the model's answer, before and after."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.interventions.plans import Plan, read_object


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """The likeliest next tokens, most likely first."""

    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FeatureChange:
    """A feature that the plan did not edit, and what became of its activation."""

    part: str
    position: int
    index: int
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The effect of a plan on the token after the prompt, and on a greedy continuation if one was asked for."""

    plan: Plan
    prompt: str
    before: Distribution
    after: Distribution
    """`before` and `after` list the same tokens: the likeliest of both, each in its own order."""
    kl: float
    """KL(before || after) over the whole vocabulary, in nats."""
    answer: str
    answer_id: int
    rank_before: int
    """Rank of the answer; 1 is the likeliest token."""
    rank_after: int
    probability_before: float
    probability_after: float
    logit_change: float
    """Change of the answer's logit less the vocabulary's mean, before any soft cap: what a graph predicts."""
    feature_changes: tuple[FeatureChange, ...]
    """The largest changes of features that the plan does not edit, largest first."""
    generation_before: str | None
    """The continuation alone, without the prompt."""
    generation_after: str | None
    prediction_confirmed: bool | None
    """See `confirms`; None when the plan's graph does not predict the answer's logit."""

    def to_json(self) -> dict[str, Any]:
        """The outcome as plain JSON values; `from_json` is the exact inverse."""
        return json.loads(json.dumps(asdict(self) | {"plan": self.plan.to_json()}, allow_nan=False))

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Outcome:
        """Reads what `to_json` gave, as values or as text. Raises `InvalidPlan` naming the field."""
        data = read_object(data, tuple(cls.__dataclass_fields__), what="outcome")
        try:
            fields = dict(data)
            fields["plan"] = Plan.from_json(data["plan"])
            for name in ("before", "after"):
                fields[name] = Distribution(**{key: tuple(value) for key, value in data[name].items()})
            fields["feature_changes"] = tuple(FeatureChange(**change) for change in data["feature_changes"])
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidPlan(f"This outcome cannot be read: {error}.") from None


NEGLIGIBLE = 1e-3
"""Logits. A smaller predicted change predicts nothing; a smaller measured one confirms nothing."""


def confirms(plan: Plan, answer_id: int, logit_change: float) -> bool | None:
    """Whether the answer's logit moved the way the graph said.

    The rule: the graph's predicted change of the answer's centred logit is compared with the measured one. True when
    both have the same sign and the measured change is at least 0.001; False when the sign differs or the logit stayed
    where it was; None when the plan has no prediction for this token, or one below 0.001.
    """
    predicted = None if plan.prediction is None else plan.prediction.of(answer_id)
    if predicted is None or abs(predicted) < NEGLIGIBLE:
        return None
    return abs(logit_change) >= NEGLIGIBLE and (predicted > 0) == (logit_change > 0)
