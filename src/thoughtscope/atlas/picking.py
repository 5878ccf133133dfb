"""Which examples show a feature: its strongest, and some of each quarter of its activations; no text twice.

Of all features of a part at once, without a loop over them: a dictionary has tens of thousands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64, UInt8, UInt64

from thoughtscope.atlas.columns import Columns

GROUPS = ("Top activations", "Upper quarter", "Upper middle", "Lower middle", "Lower quarter")
BINS = 30
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
LOOKS = 20
"""For each example that is wanted, how many are looked at: a feature of one phrase has few different texts."""
QUARTERED = 8
"""Activations from which on a feature has quarters."""
_TINY = 1e-12
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The stretch of its own document that is shown around each token of a text, and which of them are equal."""

    first: Int64[np.ndarray, " pos"]
    end: Int64[np.ndarray, " pos"]
    name: UInt64[np.ndarray, " pos"]
    """A hash of the tokens in the window: equal for equal texts."""

    @classmethod
    def over(
        cls, ids: Int[np.ndarray, " pos"], starts: Int[np.ndarray, " start"], window: tuple[int, int]
    ) -> Windows:
        """`window`: tokens before and after. Documents begin at `starts`, whose last entry is the text's length."""
        first, end = windows_of(starts, np.arange(len(ids)), window)
        # Σ ids[k] Bᵏ up to each place: a difference of two, times B⁻ᶠⁱʳˢᵗ, is the polynomial of the tokens between.
        powers, inverses = _powers(_BASE, len(ids) + 1), _powers(_inverse(_BASE), len(ids) + 1)
        terms = (ids.astype(np.uint64) + np.uint64(1)) * powers[:-1]
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        return cls(first=first, end=end, name=(sums[end] - sums[first]) * inverses[first])


def windows_of(
    starts: Int[np.ndarray, " start"], peak: Int[np.ndarray, " example"], window: tuple[int, int]
) -> tuple[Int[np.ndarray, " example"], Int[np.ndarray, " example"]]:
    """The first token shown around each peak, and the one after the last."""
    document = np.searchsorted(starts, peak, side="right") - 1
    first = np.maximum(starts[document], peak - window[0])
    return first, np.minimum(starts[document + 1], peak + window[1] + 1)


def _powers(base: np.uint64, n: int) -> UInt64[np.ndarray, " n"]:
    found = np.full(n, base, dtype=np.uint64)
    found[0] = 1
    return np.multiply.accumulate(found)


def _inverse(odd: np.uint64) -> np.uint64:
    return np.uint64(pow(int(odd), -1, 2**64))


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Of all features, one after the other: `offsets` slices the examples, `active_offsets` what is active in each."""

    offsets: Int64[np.ndarray, " offset"]
    event: Int64[np.ndarray, " example"]
    """The event at which each example peaks."""
    group: UInt8[np.ndarray, " example"]
    active_offsets: Int64[np.ndarray, " active_offset"]
    active: Int64[np.ndarray, " active"]
    """The events within each example's window."""


def pick(
    columns: Columns,
    ranked: Int64[np.ndarray, " event"],
    windows: Windows,
    *,
    n_top: int,
    n_quantile: int,
    seed: int,
) -> Examples:
    """`n_top` of the strongest events of every feature, and `n_quantile` of each quarter, by chance from `seed`.

    `ranked` is `strongest_first(columns)`.
    """
    n_features = len(columns.count)
    random = np.random.default_rng(seed)
    taken = _Taken(windows.name[columns.token], n_features)
    taken.take(0, *_first_of(columns, n_top * LOOKS), n_top, ranked)
    for quarter in range(4):
        feature, place = _drawn_of(columns, quarter, n_quantile * LOOKS, random)
        taken.take(1 + quarter, feature, place, n_quantile, ranked)
    feature, event, group = taken.in_order()
    actives, offsets = _within(columns, windows, feature, event)
    bounds = np.searchsorted(feature, np.arange(n_features + 1))
    return Examples(offsets=bounds, event=event, group=group, active_offsets=offsets, active=actives)


def strongest_first(columns: Columns) -> Int64[np.ndarray, " event"]:
    """The events of each feature by falling activation, equal ones in the text's order."""
    # The bits of float16 numbers order like the numbers (negative ones turned round): one key for both.
    bits = columns.value.view(np.uint16)
    rising = np.where(bits >> 15, ~bits, bits | 0x8000)
    return np.argsort(columns.feature.astype(np.uint64) << np.uint64(16) | ~rising, kind="stable")


def _first_of(columns: Columns, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `most` places in each feature's ranking: feature, place."""
    return ragged(columns.offsets[:-1], np.minimum(columns.count, most))


def _drawn_of(
    columns: Columns, quarter: int, most: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`most` places by chance in a quarter of each feature's ranking, for features with enough of them."""
    count = columns.count
    first, end = (count * quarter + 3) // 4, (count * (quarter + 1) + 3) // 4
    wide = np.where(count >= QUARTERED, end - first, 0)
    feature = np.repeat(np.arange(len(count)), np.minimum(wide, most))
    inside = (random.random(len(feature)) * wide[feature]).astype(np.int64)
    return feature, columns.offsets[feature] + first[feature] + inside


def ragged(first: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each i, `first[i], first[i] + 1, …` (`length[i]` of them): i, and the numbers."""
    owner = np.repeat(np.arange(len(length)), length)
    before = np.cumsum(length) - length
    return owner, first[owner] + np.arange(len(owner)) - before[owner]


class _Taken:
    """Examples so far; of each feature no two with the same text."""

    def __init__(self, names: UInt64[np.ndarray, " event"], n_features: int) -> None:
        self._names, self._n_features = names, n_features
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def take(self, group: int, feature: np.ndarray, place: np.ndarray, most: int, ranked: np.ndarray) -> None:
        """Takes, in the order of the candidates, those whose text is new, at most `most` of a feature."""
        event = ranked[place]
        old_feature, old_event = self._joined(0), self._joined(1)
        old = np.arange(len(event) + len(old_event)) < len(old_event)
        every = np.concatenate([old_feature, feature]), self._names[np.concatenate([old_event, event])]
        order = np.lexsort((every[1], every[0]))  # stable: what is taken already comes first, then by rank
        same = (np.diff(every[0][order]) == 0) & (every[1][order][1:] == every[1][order][:-1])
        fresh = np.ones(len(order), dtype=bool)
        fresh[order[1:]] = ~same
        fresh = fresh[~old]
        feature, event = feature[fresh], event[fresh]
        before = np.searchsorted(feature, np.arange(self._n_features))
        kept = np.arange(len(feature)) - before[feature] < most
        self._rows.append((feature[kept], event[kept], np.full(int(kept.sum()), group, np.int64)))

    def _joined(self, column: int) -> np.ndarray:
        return np.concatenate([row[column] for row in self._rows] or [np.zeros(0, np.int64)])

    def in_order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Feature, event and group, by feature and in the order of taking."""
        feature = self._joined(0)
        order = np.argsort(feature, kind="stable")
        return feature[order], self._joined(1)[order], self._joined(2)[order].astype(np.uint8)


def _within(
    columns: Columns, windows: Windows, feature: np.ndarray, event: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The events of the same feature within each example's window, and the offsets that slice them."""
    n_tokens = len(windows.first)
    keys = columns.feature * n_tokens + columns.token  # rising: by feature, then by token
    peak = columns.token[event]
    first = np.searchsorted(keys, feature * n_tokens + windows.first[peak])
    end = np.searchsorted(keys, feature * n_tokens + windows.end[peak])
    _, found = ragged(first, end - first)
    return found, np.concatenate([[0], np.cumsum(end - first)])


def figures(
    columns: Columns, ranked: Int64[np.ndarray, " event"]
) -> tuple[Int32[np.ndarray, "feature bin"], Float32[np.ndarray, "feature quantile"]]:
    """By feature, counts in equal bins from 0 to its largest activation, and activations at `QUANTILES`.

    `ranked` is `strongest_first(columns)`.
    """
    count, feature, value = columns.count, columns.feature, columns.value.astype(np.float32)
    n_features, fires = len(count), columns.count > 0
    rising = value[ranked][::-1]  # of the last feature first
    start = len(value) - columns.offsets[1:]
    quantiles = np.zeros((n_features, len(QUANTILES)), np.float32)
    for column, share in enumerate(QUANTILES):
        quantiles[fires, column] = _interpolated(rising, start[fires], share * (count[fires] - 1))
    share = value / np.maximum(quantiles[:, -1], _TINY)[feature]
    bins = np.clip((share * BINS).astype(np.int64), 0, BINS - 1)
    histogram = np.bincount(feature * BINS + bins, minlength=n_features * BINS)
    return histogram.reshape(n_features, BINS).astype(np.int32), quantiles


def _interpolated(values: np.ndarray, start: np.ndarray, place: Float[np.ndarray, " _"]) -> np.ndarray:
    below = place.astype(np.int64)
    above = np.ceil(place).astype(np.int64)
    low, high = values[start + below], values[start + above]
    return low + (high - low) * (place - below).astype(np.float32)
