"""`transitions`: which features follow which, as the states of an automaton follow one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer

from thoughtscope.atlas.alike import Matrix


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """How often features are active right after one another."""

    after: Float64[np.ndarray, "source target"]
    """Share of the source's active tokens, but for the last of documents, whose next token has the target active."""
    base: Float64[np.ndarray, " target"]
    """Share of all tokens on which the target is active."""
    n: Int64[np.ndarray, " source"]
    """The active tokens behind each row."""


def transitions(matrix: Matrix, starts: Integer[np.ndarray, " start"]) -> Transitions:
    """Transitions of all features over documents that begin at `starts`, whose last entry is the number of tokens.

    Rows of features that are never active are NaN.
    """
    active = (matrix > 0).astype(np.float32).tocsr()
    inner = np.ones(active.shape[0], dtype=bool)
    inner[starts[1:] - 1] = False  # what follows the last token of a document is another document
    now = np.flatnonzero(inner)
    before, then = active[now], active[now + 1]
    n = np.asarray(before.sum(axis=0)).ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        after = (before.T @ then).toarray().astype(np.float64) / n[:, None]
    base = np.asarray(active.sum(axis=0, dtype=np.float64)).ravel() / active.shape[0]
    return Transitions(after=after, base=base, n=n.astype(np.int64))
