"""`Claim`: what a paper says, as a statement that a measurement can fail; `judge`: whether it did, by rule.

The claims of a paper are data, in the `expected.json` beside its recipe: they are there before anything is measured.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources.abc import Traversable
from statistics import median
from typing import Any, Literal

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.parsing import strict_json

HOLDS: Mapping[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
Outcome = Literal["replicated", "partly", "not replicated", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What a figure must be: at least, or at most, `value`."""

    op: str
    value: float | int

    def __post_init__(self) -> None:
        if self.op not in HOLDS:
            raise ThoughtscopeError(f"A bound is one of {' '.join(HOLDS)}; got {self.op!r}.")

    def holds(self, figure: float) -> bool:
        """Whether a figure keeps the bound; NaN never does."""
        return HOLDS[self.op](figure, self.value)

    def __str__(self) -> str:
        return f"{self.op} {self.value:g}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper."""

    name: str
    """Of the measurement that decides it, among those of the recipe."""
    statement: str
    """One sentence about what is measured here."""
    where: str
    """Section or figure of the paper."""
    unit: str
    """What the figure is: a share, a correlation, nats, …"""
    holds: Bound
    paper: float | int | None = None
    """The published figure; None where only a figure's curve or a sentence is published."""
    published: str = ""
    """What the paper says beside the figure, or how its setting differs."""
    control: str = ""
    """What is measured beside it, where the effect should be absent."""
    margin: float | int | None = None
    """By how much the figure must exceed the control's (with `<=`: stay below it)."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Claim:
        """A claim as `expected.json` has it. Raises `ThoughtscopeError` for unknown names and missing ones."""
        try:
            return cls(**{**data, "holds": Bound(**data["holds"])})
        except (KeyError, TypeError) as error:
            raise ThoughtscopeError(
                f"A claim is unreadable: {error!r:.200}. Got {dict(data)!r:.200}."
            ) from None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was measured for a claim, once for each seed."""

    values: tuple[float, ...]
    n: int
    """Of cases behind each value."""
    controls: tuple[float, ...] = ()
    """Of the same seeds; empty where no control applies."""
    note: str = ""
    """What a reader should know of this run: what was chosen, what failed."""

    def __post_init__(self) -> None:
        if not self.values or (self.controls and len(self.controls) != len(self.values)):
            raise ThoughtscopeError(
                f"A measurement has a value for each seed, and as many controls or none; got {len(self.values)} and "
                f"{len(self.controls)}."
            )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a claim, and why."""

    claim: Claim
    seen: Seen | None
    outcome: Outcome
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values, NaN as null."""
        seen = self.seen and {
            **asdict(self.seen),
            "values": _plain(self.seen.values),
            "controls": _plain(self.seen.controls),
        }
        return {**asdict(self), "seen": seen}


def read_claims(file: Traversable) -> tuple[Claim, ...]:
    """The claims of an `expected.json`. Raises `CorruptArtefact` where it is none,
    `ThoughtscopeError` for a bad claim.
    """
    rows = strict_json(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CorruptArtefact(f"{file} is not a list of claims.")
    claims = tuple(Claim.from_json(row) for row in rows)
    if len({claim.name for claim in claims}) < len(claims):
        raise CorruptArtefact(f"{file} has two claims of the same name.")
    return claims


def judge(claim: Claim, seen: Seen | None) -> Verdict:
    """Replicated: bound and margin hold for every seed. Partly: they do for the median seed, or the bound alone does
    for all.

    Without a measurement, or without the control that a margin needs, nothing is decided.
    """
    if seen is None or (claim.margin is not None and not seen.controls):
        missing = "no measurement" if seen is None else "no control, which the claim compares with"
        return Verdict(claim=claim, seen=seen, outcome="not measured", reason=missing)
    beyond = _beyond(claim, seen)
    bounds = [claim.holds.holds(value) for value in seen.values]
    kept = [bound and margin for bound, margin in zip(bounds, beyond, strict=True)]
    if all(kept):
        return Verdict(claim=claim, seen=seen, outcome="replicated", reason=_reason(claim, seen))
    middle = _median(seen)
    partly = all(bounds) or (claim.holds.holds(middle.values[0]) and _beyond(claim, middle)[0])
    return Verdict(
        claim=claim, seen=seen, outcome="partly" if partly else "not replicated", reason=_reason(claim, seen)
    )


def _beyond(claim: Claim, seen: Seen) -> list[bool]:
    """By seed, whether the figure is far enough from the control's."""
    if claim.margin is None:
        return [True] * len(seen.values)
    sign = 1 if claim.holds.op == ">=" else -1
    return [sign * (value - control) >= claim.margin
            for value, control in zip(seen.values, seen.controls, strict=True)]  # fmt: skip


def _median(seen: Seen) -> Seen:
    controls = (median(seen.controls),) if seen.controls else ()
    return Seen(values=(median(seen.values),), n=seen.n, controls=controls)


def _reason(claim: Claim, seen: Seen) -> str:
    said = f"{_figures(seen.values)} ({claim.unit}), asked {claim.holds}"
    if seen.controls:
        said += f"; control {_figures(seen.controls)}"
    if claim.margin is not None:
        said += f", asked {claim.margin:g} {'above' if claim.holds.op == '>=' else 'below'} it"
    return said


def _plain(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _figures(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
