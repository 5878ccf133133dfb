"""`by_interval`: what a feature's weak, middling and strong activations fall on, where the truth of tokens is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer

from thoughtscope.atlas.columns import Columns


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Counts of active tokens by feature, by interval of activation, and by what the token is.

    Intervals are of equal width, from 0 to each feature's largest activation. Where nothing is active shares are NaN.
    """

    count: Int64[np.ndarray, "feature interval label"]
    mass: Float64[np.ndarray, "feature label"]
    """Sums of activations."""
    tokens: Int64[np.ndarray, " label"]
    """Tokens of each label, active or not."""

    @property
    def specificity(self) -> Float64[np.ndarray, "feature interval label"]:
        """Share of an interval's tokens that have the label (Bricken et al. 2023, Arabic feature)."""
        return _share(self.count, self.count.sum(axis=2, keepdims=True))

    @property
    def precision(self) -> Float64[np.ndarray, "feature label"]:
        """Share of all active tokens that have the label."""
        by_label = self.count.sum(axis=1)
        return _share(by_label, by_label.sum(axis=1, keepdims=True))

    @property
    def mass_share(self) -> Float64[np.ndarray, "feature label"]:
        """Share of all activation that falls on the label."""
        return _share(self.mass, self.mass.sum(axis=1, keepdims=True))

    @property
    def sensitivity(self) -> Float64[np.ndarray, "feature label"]:
        """Share of the label's tokens on which the feature is active."""
        return _share(self.count.sum(axis=1), self.tokens[None])


def by_interval(
    columns: Columns, labels: Integer[np.ndarray, " token"], *, n_labels: int, n_intervals: int = 10
) -> Intervals:
    """Counts of the activations of all features by interval and by the labels (0 to `n_labels` − 1) of their tokens."""
    n_features = len(columns.offsets) - 1
    feature, value = columns.feature, columns.value.astype(np.float64)
    largest = np.zeros(n_features)
    np.maximum.at(largest, feature, value)
    interval = np.ceil(value / largest[feature] * n_intervals).astype(np.int64).clip(1, n_intervals) - 1
    label = labels[columns.token].astype(np.int64)
    cell = (feature * n_intervals + interval) * n_labels + label
    shape = (n_features, n_intervals, n_labels)
    return Intervals(
        count=np.bincount(cell, minlength=n_features * n_intervals * n_labels)
        .reshape(shape)
        .astype(np.int64),
        mass=np.bincount(feature * n_labels + label, weights=value, minlength=n_features * n_labels).reshape(
            n_features, n_labels
        ),
        tokens=np.bincount(labels, minlength=n_labels).astype(np.int64),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
