"""Explanations as short rules that can be run: a context, a kind of byte, both, the last byte, the last two.

Each unit gets the rule that its activations follow best on the text for choosing. What the rule says is then tested on
the other text: does it predict activations, does it tell which tokens the unit raises, how many points of 14 is it
worth. The same rules, tests and texts are used for features and for neurons.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float64, Int64
from scipy.stats import rankdata

from thoughtscope.atlas.alike import correlations
from thoughtscope.atlas.tables import taught
from thoughtscope.replications.towards.contexts import counting
from thoughtscope.replications.towards.corpus import BEGIN, VOCAB
from thoughtscope.replications.towards.rows import Row
from thoughtscope.replications.towards.subject import N_LABELS, Subject, Text, Units

KINDS = ("upper", "lower", "digit", "space", "mark", "lead byte", "following byte", "letter")
SAMPLE = 150
"""Units of each sort that are rated."""
EXAMPLES = 540
"""Tokens on which a prediction of activations is scored: 60 examples of 9 tokens in the paper."""


def kinds(ids: Int64[np.ndarray, " token"]) -> Int64[np.ndarray, " token"]:
    """The number of each byte's kind in `KINDS`."""
    return _KIND_OF[ids]


def _kind_table() -> Int64[np.ndarray, " vocab"]:
    table = np.full(VOCAB, 4)
    table[65:91], table[97:123], table[48:58], table[[10, 32]] = 0, 1, 2, 3
    table[0xC0:0x100], table[0x80:0xC0], table[256:BEGIN] = 5, 6, 7
    return table.astype(np.int64)


_KIND_OF = _kind_table()


@dataclass(frozen=True, kw_only=True, eq=False)
class Rules:
    """Every rule on one text: where it holds."""

    text: Text

    @cached_property
    def groups(self) -> tuple[Int64[np.ndarray, " token"], ...]:
        """Five ways to put tokens into groups, each group a rule; their numbers mean the same on every text."""
        ids, label = self.text.ids, self.text.truth.astype(np.int64)
        before = np.concatenate([[BEGIN], ids[:-1]])
        before[self.text.starts[:-1]] = BEGIN
        kind = kinds(ids)
        return label, kind, label * len(KINDS) + kind, ids, before * VOCAB + ids

    @cached_property
    def matrix(self) -> Any:
        """(token, rule): 1 where the rule holds. Rules are the same on every text."""
        sizes = (N_LABELS, len(KINDS), N_LABELS * len(KINDS), VOCAB, VOCAB * VOCAB)
        n = len(self.text.ids)
        blocks = [
            scipy.sparse.csc_array((np.ones(n, np.float32), (np.arange(n), group)), shape=(n, size))
            for group, size in zip(self.groups, sizes, strict=True)
        ]
        return scipy.sparse.hstack(blocks, format="csc")


@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """Units with the rule of each, picked on the text for choosing."""

    units: Units
    index: Int64[np.ndarray, " unit"]
    rule: Int64[np.ndarray, " unit"]
    confidence: Float64[np.ndarray, " unit"]
    """Correlation of unit and rule on the text for choosing."""


def explain(units: Units, choose: Rules, *, seed: int) -> Explained:
    """The best rule of up to `SAMPLE` live units, drawn by `seed`."""
    random = np.random.default_rng(seed)
    live = units.live
    index = np.sort(random.choice(live, min(SAMPLE, len(live)), replace=False)) if len(live) else live
    often = np.flatnonzero(np.asarray(choose.matrix.sum(axis=0)).ravel() >= 5)
    found = np.nan_to_num(correlations(units.choose.matrix[:, index], choose.matrix[:, often]), nan=-1.0)
    best = found.argmax(axis=1)
    return Explained(units=units, index=index, rule=often[best], confidence=found.max(axis=1))


# --- the rubric ----------------------------------------------------------------------------------------------------


def rubric(
    explained: Explained, test: Rules, raised: Float64[np.ndarray, " unit"]
) -> Int64[np.ndarray, " interval"]:
    """Points from 0 to 14 for every interval of activation that is not empty, of every unit.

    - confidence, 0 to 3: correlation of unit and rule at least 0.3, 0.5, 0.7; below 0.3 there is no interpretation, and
      everything else is 0 too
    - activations, 0 to 5: of the interval's tokens the rule holds for at least 0.2, 0.4, 0.6, 0.8, 0.95
    - logits, 0 to 3: of the ten tokens raised most, at least 0.5, 0.7, 0.9 are likelier after the rule than elsewhere
    - specificity, 0 to 3: the rule holds in the interval 3, 10, 30 times as often as in all text
    """
    activity = explained.units.test
    intervals = activity.intervals.count.sum(axis=2)[explained.index]  # (unit, interval)
    holds = _held_in_intervals(explained, test)
    share = holds / np.maximum(intervals, 1)
    base = np.asarray(test.matrix[:, explained.rule].mean(axis=0)).ravel()
    points = np.searchsorted([0.3, 0.5, 0.7], explained.confidence, side="right")[:, None]
    points = points + np.searchsorted([0.2, 0.4, 0.6, 0.8, 0.95], share, side="right")
    points = points + np.searchsorted([0.5, 0.7, 0.9], raised, side="right")[:, None]
    points = points + np.searchsorted([3, 10, 30], share / np.maximum(base, 1e-9)[:, None], side="right")
    points = np.where(explained.confidence[:, None] >= 0.3, points, 0)
    return points[intervals > 0]


def _held_in_intervals(explained: Explained, test: Rules) -> Int64[np.ndarray, "unit interval"]:
    """How many tokens of each unit's intervals its rule holds for."""
    matrix = explained.units.test.matrix[:, explained.index].tocoo()
    n = explained.units.test.intervals.count.shape[1]
    largest = np.maximum(
        np.asarray(explained.units.test.matrix.max(axis=0).todense()).ravel()[explained.index], 1e-9
    )
    interval = np.ceil(matrix.data / largest[matrix.col] * n).astype(np.int64).clip(1, n) - 1
    holds = np.zeros(len(matrix.data))
    for way, first in zip(
        test.groups, np.cumsum([0, N_LABELS, len(KINDS), N_LABELS * len(KINDS), VOCAB]), strict=True
    ):
        holds += way[matrix.row] + first == explained.rule[matrix.col]
    shape = (len(explained.index), n)
    return (
        np.bincount(matrix.col * n + interval, weights=holds, minlength=shape[0] * n)
        .reshape(shape)
        .astype(np.int64)
    )


# --- which tokens are raised ---------------------------------------------------------------------------------------


def after_rule(rules: Rules, which: Int64[np.ndarray, " unit"]) -> Float64[np.ndarray, "unit vocab"]:
    """log P(next token | the rule holds) − log P(next token), counts plus a tenth."""
    text = rules.text
    last = np.zeros(len(text.ids), dtype=bool)
    last[text.starts[1:] - 1] = True
    at = np.flatnonzero(~last)
    then = scipy.sparse.csr_array(
        (np.ones(len(at)), (np.arange(len(at)), text.ids[at + 1])), shape=(len(at), VOCAB)
    )
    total = np.asarray(then.sum(axis=0)).ravel() + 0.1
    counted = (rules.matrix[:, which].tocsr()[at].T @ then).toarray() + 0.1 * total / total.sum() * 10
    return np.log(counted / counted.sum(axis=1, keepdims=True)) - np.log(total / total.sum())


def raised_tokens(
    explained: Explained, choose: Rules
) -> tuple[Float64[np.ndarray, " unit"], Float64[np.ndarray, " unit"]]:
    """By unit: the share of its ten most raised tokens that are likelier after its rule, and the share of pairs, of a
    raised token and a random one, in which the rule tells them apart (ties are half)."""
    known = np.unique(counting().ids)
    said = after_rule(choose, explained.rule)[:, known]  # (unit, token)
    logits = explained.units.logits.double().numpy()[explained.index][:, known]
    top = np.argsort(-logits, axis=1)[:, :10]
    of_top = np.take_along_axis(said, top, axis=1)
    wins = (of_top[:, :, None] > said[:, None, :]).mean(axis=(1, 2))
    ties = (of_top[:, :, None] == said[:, None, :]).mean(axis=(1, 2))
    return (of_top > 0).mean(axis=1), wins + ties / 2


# --- predicted activations -----------------------------------------------------------------------------------------


def predicted(explained: Explained, choose: Rules, test: Rules, *, seed: int) -> Float64[np.ndarray, " unit"]:
    """Spearman correlation of activations with what the rule's way of grouping predicts: mean activations of its
    groups on the text for choosing. Half of the tokens are active ones, half any."""
    random = np.random.default_rng(seed)
    first = np.cumsum([0, N_LABELS, len(KINDS), N_LABELS * len(KINDS), VOCAB])
    way = np.searchsorted(first, explained.rule, side="right") - 1
    scores = np.full(len(explained.index), np.nan)
    for number, (on_choose, on_test) in enumerate(zip(choose.groups, test.groups, strict=True)):
        of = np.flatnonzero(way == number)
        if not len(of):
            continue
        size = int(max(on_choose.max(), on_test.max())) + 1
        means = _group_means(explained.units.choose.matrix[:, explained.index[of]], on_choose, size)
        actual = explained.units.test.matrix[:, explained.index[of]].toarray()
        picked = _sampled(actual, random)  # (example, unit)
        scores[of] = _spearman(
            np.take_along_axis(actual, picked, axis=0), means[on_test[picked], np.arange(len(of))]
        )
    return scores


def _group_means(matrix: Any, groups: np.ndarray, size: int) -> Float64[np.ndarray, "group unit"]:
    full = np.concatenate([groups, [size - 1]])  # so that every group has its row
    padded = scipy.sparse.vstack([matrix, scipy.sparse.csc_array((1, matrix.shape[1]), dtype=matrix.dtype)])
    return taught(padded, full, np.arange(len(full)) < len(groups)).mean


def _sampled(actual: np.ndarray, random: np.random.Generator) -> Int64[np.ndarray, "example unit"]:
    """Token numbers for each unit: half of them, drawn with repetition, where it is active, half anywhere."""
    n_tokens, n_units = actual.shape
    half = EXAMPLES // 2
    order = np.argsort(actual <= 0, axis=0, kind="stable")  # active tokens first
    count = np.maximum((actual > 0).sum(axis=0), 1)
    drawn = (random.random((half, n_units)) * count).astype(np.int64)
    return np.concatenate(
        [np.take_along_axis(order, drawn, axis=0), random.integers(0, n_tokens, (half, n_units))]
    )


def _spearman(a: np.ndarray, b: np.ndarray) -> Float64[np.ndarray, " unit"]:
    ranks = [rankdata(x, axis=0) for x in (a, b)]
    centred = [x - x.mean(axis=0) for x in ranks]
    spread = np.sqrt((centred[0] ** 2).sum(axis=0) * (centred[1] ** 2).sum(axis=0))
    return np.where(spread > 0, (centred[0] * centred[1]).sum(axis=0) / np.maximum(spread, 1e-12), 0.0)


def explanations(subject: Subject) -> dict[str, Row]:
    """The rubric, predicted activations and told tokens, of features and of neurons."""
    choose, test = Rules(text=subject.main.choose.text), Rules(text=subject.main.test.text)
    ours, neurons = (_rated(units, choose, test, subject.seed) for units in (subject.main, subject.neurons))
    n = min(SAMPLE, len(subject.main.live))
    return {
        "rubric": Row(value=ours.points, control=neurons.points, n=ours.n),
        "rubric_of_neurons": Row(value=neurons.points, control=ours.points, n=neurons.n),
        "predicted_activations": Row(value=ours.predicted, control=neurons.predicted, n=n),
        "told_tokens": Row(value=ours.told, control=neurons.told, n=n),
    }


class _Rated(NamedTuple):
    points: float
    predicted: float
    told: float
    n: int


def _rated(units: Units, choose: Rules, test: Rules, seed: int) -> _Rated:
    explained = explain(units, choose, seed=seed)
    likelier, told = raised_tokens(explained, choose)
    points = rubric(explained, test, likelier)
    scores = predicted(explained, choose, test, seed=seed)
    return _Rated(float(np.median(points)), float(np.nanmean(scores)), float(np.mean(told)), len(points))
