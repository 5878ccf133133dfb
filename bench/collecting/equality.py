"""Whether two sides found the same strongest examples of every feature, by place and value.

A table lists, by feature, the strongest examples of a side that keeps `top` of each: `feature`, `place`, `value`. What
lies beyond the weakest that a side has room for cannot be compared, nor what lies within rounding of it: there, which
of two equals is kept is chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.peer.equality import Unequal

TOLERANCE = 2e-3
"""Of a value: half precision on some sides, and two ways through a model in float32."""
ROUNDING = 1e-4
"""Values with four decimals."""
SHARE = 0.999
"""Of the examples that must be on both sides: at a threshold, rounding decides whether a feature is active at all."""
Table = Mapping[str, Any]


def floors(table: Table, top: int, n_features: int) -> np.ndarray:
    """By feature, the value down to which a table has every example; 0 where it has all there are."""
    feature, value = (np.asarray(table[name]) for name in ("feature", "value"))
    weakest = np.full(n_features, np.inf)
    np.minimum.at(weakest, feature, value)
    return np.where(np.bincount(feature, minlength=n_features) < top, 0, weakest)


def windowed(table: Mapping[str, Any], window: int) -> dict[str, np.ndarray]:
    """A table whose places are tokens as one whose places are windows: of those in one, the strongest."""
    feature, place, value = (np.asarray(table[name]) for name in ("feature", "place", "value"))
    order = np.lexsort((-value, place // window, feature))
    keys = np.stack([feature[order], place[order] // window])
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(keys, axis=1) != 0).any(0)
    kept = order[first]
    return {"feature": feature[kept], "place": place[kept] // window, "value": value[kept]}


def within(table: Mapping[str, Any], context: int, before: int, after: int) -> dict[str, np.ndarray]:
    """The entries of a table whose tokens have so many others before and after them in their rows."""
    at = np.asarray(table["place"]) % context
    kept = (at >= before) & (at < context - after)
    return {name: np.asarray(table[name])[kept] for name in ("feature", "place", "value")}


def compare(ours: Table, theirs: Table, floor: np.ndarray) -> dict[str, Any]:
    """How many examples above `floor` are on both sides, and by how much their values differ. Raises `Unequal`."""
    keys, values = [], []
    for table in (ours, theirs):
        feature, place, value = (np.asarray(table[name]) for name in ("feature", "place", "value"))
        keys.append(feature.astype(np.int64) << 32 | place)
        values.append(value)
    _, mine, other = np.intersect1d(*keys, return_indices=True)
    apart = np.abs(values[0][mine] - values[1][other]) - ROUNDING
    error = float((apart / values[1][other]).max(initial=0))
    alone = sum(
        int(
            (
                value[~np.isin(key, keys[1 - side])] > _clear(floor)[key[~np.isin(key, keys[1 - side])] >> 32]
            ).sum()
        )
        for side, (key, value) in enumerate(zip(keys, values, strict=True))
    )
    compared = int((values[0][mine] > _clear(floor)[keys[0][mine] >> 32]).sum())
    if not compared or alone > (1 - SHARE) * compared or error > TOLERANCE:
        raise Unequal(
            f"{alone:,} of the strongest examples are on one side only, {compared:,} on both; "
            f"their values differ by up to {error:.1e}"
        )
    return {"compared": compared, "on_one_side": alone, "value_error": error}


def _clear(floor: np.ndarray) -> np.ndarray:
    """Values that rounding cannot have brought above a floor."""
    return floor * (1 + TOLERANCE) + ROUNDING
