"""Single units as detectors of concepts: precision, recall and F1 of "this unit is above its threshold".

A unit is a feature, a neuron, or any other number that a model has at each token. Units and thresholds are chosen on
some tokens and scored on others; the same choice serves every kind of unit, so that counts can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

CANDIDATES = 8
"""Units whose thresholds are searched: those of the highest correlation, as many again by being positive alone."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A unit that fires where `sign · value ≥ threshold`, and its F1 on the tokens that it was chosen on."""

    unit: int
    threshold: float
    sign: int = 1
    f1: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How a detector does: of the tokens where it fires the share that hold the concept, and the other way round."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean; 0 where the detector never hits."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@torch.no_grad()
def choose_detectors(
    values: Float[Tensor, "row unit"], occurrences: Sequence[Int[Tensor, " _"]]
) -> list[Detector | None]:
    """For each concept, given as the rows where it occurs, the unit, sign and threshold of the highest F1.

    Thresholds are searched exactly, for the `CANDIDATES` units of the highest correlation (of either sign); in a tie
    the highest threshold. None for a concept that occurs nowhere.
    """
    found: list[Detector | None] = [None] * len(occurrences)
    columns: dict[tuple[int, int], Tensor] = {}
    for concept, candidates in _candidates(values, occurrences).items():
        rows = occurrences[concept]
        for unit, sign in candidates:
            if (unit, sign) not in columns:
                columns[unit, sign] = (sign * values[:, unit]).sort().values
            one = _best_threshold(columns[unit, sign], sign * values[rows, unit], unit, sign)
            best = found[concept]
            if best is None or one.f1 > best.f1:
                found[concept] = one
    return found


def _best_threshold(column: Tensor, positives: Tensor, unit: int, sign: int) -> Detector:
    """The best cut of a sorted column; it lies at the value of a token that holds the concept."""
    ranked = positives.sort(descending=True).values
    hits = torch.searchsorted(-ranked, -ranked, right=True)  # of those that hold it, how many are as high
    fires = len(column) - torch.searchsorted(column, ranked)
    f1 = 2 * hits / (fires + len(ranked))
    at = int(f1.argmax())
    return Detector(unit=unit, threshold=float(ranked[at]), sign=sign, f1=float(f1[at]))


def _candidates(values: Tensor, occurrences: Sequence[Tensor]) -> dict[int, list[tuple[int, int]]]:
    """By concept: the units worth a search, with the sign of their correlation."""
    n = len(values)
    found: dict[int, set[tuple[int, int]]] = {
        concept: set() for concept, rows in enumerate(occurrences) if len(rows)
    }
    concepts = list(found)
    if not concepts:
        return {}
    counts = torch.tensor([len(occurrences[concept]) for concept in concepts])
    rows = torch.cat([occurrences[concept] for concept in concepts])
    offsets = counts.cumsum(0) - counts
    for x in (values.float(), (values > 0).float()):
        among = embedding_bag(
            rows, x, offsets, mode="mean"
        )  # (concept, unit): the mean where the concept occurs
        spread = x.std(0).clamp(min=1e-12)
        odds = (counts / (n - counts).clamp(min=1)).sqrt()
        correlation = (among - x.mean(0)) / spread * odds[:, None]
        top = correlation.abs().topk(min(CANDIDATES, x.shape[1])).indices
        for concept, units, signs in zip(
            concepts, top.tolist(), correlation.gather(1, top).tolist(), strict=True
        ):
            found[concept] |= {(unit, 1 if r >= 0 else -1) for unit, r in zip(units, signs, strict=True)}
    return {concept: sorted(pairs) for concept, pairs in found.items()}


@torch.no_grad()
def detect(
    values: Float[Tensor, "row unit"], detector: Detector, occurrences: Int[Tensor, " _"]
) -> Detection:
    """Precision and recall of a detector on tokens that it was not chosen on; 0 where nothing fires or occurs."""
    fires = detector.sign * values[:, detector.unit] >= detector.threshold
    hits = int(fires[occurrences].sum())
    return Detection(
        precision=hits / max(1, int(fires.sum())),
        recall=hits / max(1, len(occurrences)),
    )
