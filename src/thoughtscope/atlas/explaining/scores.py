"""`Score`: how well a label told active contexts from silent ones, with everything that could not be judged counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from thoughtscope.atlas.explaining.contexts import Context

FIGURES = ("balanced_accuracy", "f1", "auroc", "pearson")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A label, and the contexts on which it is tested."""

    label: str
    contexts: tuple[Context, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a scorer found. A figure is None where it has none, or where nothing was judged that would give it."""

    scorer: str
    asked: int
    """Contexts that were to be judged."""
    n: int
    """Contexts that were judged: the figures rest on these."""
    balanced_accuracy: float | None = None
    """Mean of the shares of positive and of negative ones that were judged right."""
    f1: float | None = None
    auroc: float | None = None
    pearson: float | None = None
    unparsed: int = 0
    """Answers that have not the form that was asked for."""
    refused: int = 0
    failed: int = 0
    """Requests that brought no answer."""
    yes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By kind of context: how many were called positive, of how many that were judged."""

    def to_json(self) -> dict[str, Any]:
        """The score as plain JSON values."""
        return asdict(self) | {"yes": {kind: list(pair) for kind, pair in self.yes.items()}}


def averaged(scores: Sequence[Score]) -> dict[str, Any]:
    """The mean of each figure over the labels that have it, with their number, and the sums of all counts."""
    found: dict[str, Any] = {"labels": len(scores)}
    for name in FIGURES:
        values = [value for each in scores if (value := getattr(each, name)) is not None]
        if values:
            found[name] = float(np.mean(values))
            found[f"{name}_labels"] = len(values)
    counts = ("asked", "n", "unparsed", "refused", "failed")
    return found | {name: sum(getattr(each, name) for each in scores) for name in counts}


def balanced_accuracy(said: Bool[np.ndarray, " row"], truth: Bool[np.ndarray, " row"]) -> float | None:
    """Mean of the two rates; None without both kinds."""
    if truth.all() or not truth.any():
        return None
    return float((said[truth].mean() + (~said[~truth]).mean()) / 2)


def f1(said: Bool[np.ndarray, " row"], truth: Bool[np.ndarray, " row"]) -> float | None:
    """Of positives; None where there is none, said or true."""
    total = int(said.sum() + truth.sum())
    return float(2 * (said & truth).sum() / total) if total else None


def auroc(value: Float[np.ndarray, " row"], truth: Bool[np.ndarray, " row"]) -> float | None:
    """The chance that a positive has a higher value than a negative, ties half; None without both kinds."""
    from scipy.stats import rankdata

    n = int(truth.sum())
    if not 0 < n < len(truth):
        return None
    return float((rankdata(value)[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


def pearson(guess: Float[np.ndarray, " row"], value: Float[np.ndarray, " row"]) -> float | None:
    """The correlation; None where one of the two does not vary."""
    if len(guess) < 2 or np.ptp(guess) == 0 or np.ptp(value) == 0:
        return None
    return float(np.corrcoef(guess, value)[0, 1])
