"""`Outcome`: what a plan did to the model's answer, before and after."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

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


NEGLIGIBLE = 1e-3
"""Logits. A smaller predicted change predicts nothing; a smaller measured one confirms nothing."""

Verdict = Literal["confirmed", "no_stronger", "not_compared", "refuted", "untested"]
VERDICTS: Mapping[Verdict, str] = {
    "confirmed": "confirmed: the answer's logit moved as predicted, and further than with random features",
    "no_stronger": "right direction, but no stronger than random features",
    "not_compared": "right direction, but not compared with random features",
    "refuted": "refuted: the answer's logit did not move as predicted",
    "untested": "nothing to test: the graph predicts no change of the answer",
}


@dataclass(frozen=True, kw_only=True)
class Control:
    """How far the answer's logit moved when random features of equal strength were changed in place of the plan's."""

    changes: tuple[float, ...]
    """One for each draw, as `Outcome.logit_change`; none where none could be drawn."""
    reason: str | None = None
    """Why none could be drawn."""

    @property
    def largest(self) -> float | None:
        """The largest change, either way; None where there is none."""
        return max(map(abs, self.changes), default=None)


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
    rival: str
    """The likeliest token before the plan that is not the answer."""
    rival_id: int
    difference_before: float
    """The answer's logit less the rival's."""
    difference_after: float
    feature_changes: tuple[FeatureChange, ...]
    """The largest changes of features that the plan does not edit, largest first."""
    generation_before: str | None
    """The continuation alone, without the prompt."""
    generation_after: str | None
    prediction_confirmed: bool | None
    """See `confirms`; None when the plan's graph does not predict the answer's logit."""
    control: Control | None = None
    """What random features did; None where nobody asked, see `intervene_controlled`."""

    @property
    def threshold(self) -> float:
        """The change of the answer's logit that must be exceeded: `NEGLIGIBLE`, or the control's largest."""
        largest = None if self.control is None else self.control.largest
        return max(NEGLIGIBLE, largest or 0.0)

    @property
    def verdict(self) -> Verdict:
        """What the plan showed, a key of `VERDICTS`: only what random features do not do as well is confirmed."""
        if self.prediction_confirmed is None:
            return "untested"
        if not self.prediction_confirmed:
            return "refuted"
        if self.control is None or self.control.largest is None:
            return "not_compared"
        return "confirmed" if abs(self.logit_change) > self.threshold else "no_stronger"

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
            if data.get("control") is not None:
                control = data["control"]
                fields["control"] = Control(changes=tuple(control["changes"]), reason=control["reason"])
            fields["feature_changes"] = tuple(FeatureChange(**change) for change in data["feature_changes"])
            outcome = cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidPlan(f"This outcome cannot be read: {error}.") from None
        said = outcome.plan.prediction
        nouns = [outcome, outcome.before, outcome.after, outcome.control, *outcome.feature_changes]
        for noun in [*nouns, said, *(() if said is None else said.changes)]:
            _check_kinds(noun)
        if any(len(each.tokens) != len(each.probabilities) for each in (outcome.before, outcome.after)):
            raise InvalidPlan("This outcome cannot be read: every token has one probability.")
        return outcome


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < math.inf


_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "float": _number,
    "int": lambda value: type(value) is int,
    "int | None": lambda value: value is None or type(value) is int,
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: isinstance(value, str | None),
    "bool | None": lambda value: isinstance(value, bool | None),
    "tuple[str, ...]": lambda value: (
        isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    ),
    "tuple[float, ...]": lambda value: isinstance(value, tuple) and all(map(_number, value)),
}
"""By annotation: whether a value from a file is of that kind."""


def _check_kinds(noun: Any) -> None:
    """Raises `InvalidPlan` naming a field of an outcome whose value is not what its annotation says."""
    for field in () if noun is None else dataclasses.fields(noun):
        value = getattr(noun, field.name)
        kind = str(field.type)
        if kind in _KINDS and not _KINDS[kind](value):
            raise InvalidPlan(f"This outcome cannot be read: {field.name} is {value!r:.60}, not {kind}.")


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
