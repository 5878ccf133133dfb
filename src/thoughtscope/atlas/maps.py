"""`umap`: places for features on a plane, so that those that write alike lie together.

UMAP (McInnes, Healy and Melville 2018) on a graph of exact nearest neighbours: weights by their equations 1 to 3, the
layout by their section 3.2, stochastic gradients with negative samples. Edges are taken in random batches that touch
a point about once each, so that a step of numpy does what the published code does edge by edge.

The parameters are those of Towards Monosemanticity (Bricken et al. 2023, "Feature UMAP"): 15 neighbours by cosine,
`min_dist` 0.05 for the map; 10 dimensions with `min_dist` 0.1 for the clusters.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Int
from scipy import sparse
from scipy.optimize import curve_fit

from thoughtscope.core.progress import Progress, silent

N_NEIGHBOURS = 15
"""Of which a point itself is one, as in the published code."""
EPOCHS = 200
NEGATIVES = 5
"""Points that an edge's first point is pushed away from, each time that the edge pulls."""
_CLIP = 4.0


def umap(
    index: Int[np.ndarray, "point near"],
    distance: Float[np.ndarray, "point near"],
    *,
    dim: int = 2,
    min_dist: float = 0.05,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Progress = silent,
) -> Float32[np.ndarray, "point dim"]:
    """A layout of points by their nearest neighbours and the distances to them, nearest first, without themselves.

    The same input and seed give the same layout on one machine.
    """
    rng = np.random.default_rng(seed)
    graph = fuzzy_graph(index, distance)
    where = spectral_start(graph, dim, rng)
    edges = sparse.triu(graph, k=1).tocoo()
    due = edges.data / edges.data.max(initial=1e-12)  # how many times an epoch an edge pulls
    keep = due >= 1 / epochs
    head, tail, due = edges.row[keep], edges.col[keep], due[keep].astype(np.float32)
    a, b = curve(min_dist)
    size = max(1, len(where) // 2)
    for epoch in range(epochs):
        # An edge is taken in this epoch if its running count passes a whole number.
        now = np.flatnonzero(np.floor((epoch + 1) * due) > np.floor(epoch * due))
        rng.shuffle(now)
        rate = 1 - epoch / epochs
        for start in range(0, len(now), size):
            batch = now[start : start + size]
            _step(where, head[batch], tail[batch], a, b, rate, rng)
        progress("layout", epoch + 1, epochs)
    return where


def fuzzy_graph(
    index: Int[np.ndarray, "point near"], distance: Float[np.ndarray, "point near"]
) -> sparse.csr_array:
    """How surely two points belong together: exp(-(d - ρ) / σ), joined in both directions as p + q - pq.

    ρ is the distance to the nearest, and σ such that a point's weights add up to log2 of its neighbours, itself
    counted among them (equations 1 to 3).
    """
    rho = distance[:, :1]
    beyond = np.maximum(distance - rho, 0)
    sigma = _widths(beyond, np.log2(distance.shape[1] + 1))
    weight = np.exp(-beyond / sigma[:, None])
    n = len(index)
    one = sparse.csr_array(
        (weight.ravel(), index.ravel(), np.arange(0, weight.size + 1, weight.shape[1])), (n, n)
    )
    other = one.T.tocsr()
    return (one + other - one.multiply(other)).tocsr()


def _widths(beyond: Float[np.ndarray, "point near"], target: float) -> Float[np.ndarray, " point"]:
    """σ by bisection, for all points at once; not below a thousandth of the mean distance."""
    low, high = np.zeros(len(beyond)), np.full(len(beyond), np.inf)
    sigma = np.ones(len(beyond))
    for _ in range(64):
        too_wide = np.exp(-beyond / sigma[:, None]).sum(-1) > target
        high = np.where(too_wide, sigma, high)
        low = np.where(too_wide, low, sigma)
        sigma = np.where(np.isinf(high), sigma * 2, (low + high) / 2)
        sigma = np.minimum(sigma, 1e12)
    return np.maximum(sigma, 1e-3 * max(float(beyond.mean()), 1e-12))


def curve(min_dist: float, spread: float = 1.0) -> tuple[float, float]:
    """a and b of 1 / (1 + a x^2b), nearest to 1 up to `min_dist` and exp(-(x - min_dist) / spread) beyond it."""
    x = np.linspace(0, 3 * spread, 300)
    wanted = np.where(x < min_dist, 1.0, np.exp(-(x - min_dist) / spread))
    (a, b), _ = curve_fit(lambda x, a, b: 1 / (1 + a * x ** (2 * b)), x, wanted)
    return float(a), float(b)


def spectral_start(
    graph: sparse.csr_array, dim: int, rng: np.random.Generator, rounds: int = 100
) -> Float32[np.ndarray, "point dim"]:
    """Smooth functions on the graph: subspace iteration on its normalised adjacency, not to the end.

    Each coordinate is a point's rank in it, from -10 to 10: else what hangs together by itself lies far from all else.
    """
    degree = np.maximum(np.asarray(graph.sum(1)).ravel(), 1e-12)
    scale = sparse.diags_array(degree**-0.5)
    step = (scale @ graph @ scale).tocsr()
    first = np.sqrt(degree) / np.linalg.norm(np.sqrt(degree))
    found = rng.standard_normal((graph.shape[0], dim))
    for _ in range(rounds):
        found = found + step @ found
        found -= np.outer(first, first @ found)  # the constant function says nothing
        found, _ = np.linalg.qr(found)
    rank = found.argsort(0, kind="stable").argsort(0, kind="stable")
    return (rank / max(1, len(found) - 1) * 20 - 10).astype(np.float32)


def _step(
    where: Float32[np.ndarray, "point dim"],
    head: Int[np.ndarray, " edge"],
    tail: Int[np.ndarray, " edge"],
    a: float,
    b: float,
    rate: float,
    rng: np.random.Generator,
) -> None:
    """Pulls the ends of some edges together, and pushes both from random points; changes `where`."""
    apart = where[head] - where[tail]
    square = np.maximum((apart**2).sum(-1), 1e-12)
    power = square**b
    pull = np.clip((-2 * a * b * power / square / (1 + a * power))[:, None] * apart, -_CLIP, _CLIP)
    pushed = np.concatenate([head, tail]).repeat(NEGATIVES)
    apart = where[pushed] - where[rng.integers(len(where), size=len(pushed))]
    square = (apart**2).sum(-1)
    factor = 2 * b / ((0.001 + square) * (1 + a * square**b))
    push = np.clip(factor[:, None] * apart, -_CLIP, _CLIP)
    n = len(where)
    for axis in range(where.shape[1]):
        moved = np.bincount(head, pull[:, axis], n) - np.bincount(tail, pull[:, axis], n)
        moved += np.bincount(pushed, push[:, axis], n)
        where[:, axis] += rate * moved
