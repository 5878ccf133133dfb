"""How alike the activations of features are: within a dictionary, across dictionaries, and with any signal."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

Matrix = Any
"""A scipy.sparse array (token, feature), as `Recording.matrix` gives it; those that are compared are of one text."""


def correlations(a: Matrix, b: Matrix) -> Float64[np.ndarray, "source target"]:
    """Pearson correlations of every feature of `a` with every one of `b` over the same tokens; NaN where one never
    changes."""
    return _pearson(a, b, (a.T @ b).toarray())


def correlations_with(
    a: Matrix, signals: Shaped[np.ndarray, "token signal"]
) -> Float64[np.ndarray, "feature signal"]:
    """Pearson correlations of every feature with every signal; NaN where one never changes."""
    dense = signals.astype(np.float64)
    return _pearson(a, dense, np.asarray(a.T @ dense))


def best_matches(found: Float64[np.ndarray, "source target"]) -> Float64[np.ndarray, " source"]:
    """For each feature its largest correlation with any of the other side; NaN only where there is none at all.

    The median over features says how universal a dictionary is (Bricken et al. 2023, Universality).
    """
    largest = np.where(np.isnan(found), -np.inf, found).max(axis=1)
    return np.where(np.isinf(largest), np.nan, largest)


def _pearson(a: Matrix, b: Any, products: np.ndarray) -> Float64[np.ndarray, "source target"]:
    n = a.shape[0]
    (mean_a, spread_a), (mean_b, spread_b) = _moments(a), _moments(b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (products.astype(np.float64) / n - np.outer(mean_a, mean_b)) / np.outer(spread_a, spread_b)


def _moments(x: Any) -> tuple[np.ndarray, np.ndarray]:
    n = x.shape[0]
    mean = np.asarray(x.sum(axis=0, dtype=np.float64)).ravel() / n
    square = np.asarray((x * x).sum(axis=0, dtype=np.float64)).ravel() / n
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))
