"""How much of a feature a table knows: its activation guessed from the token alone, the last two, or any group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float64, Int64, Integer

from thoughtscope.atlas.alike import Matrix


@dataclass(frozen=True, kw_only=True)
class Table:
    """Mean activation of every feature in every group of tokens, taught on some tokens."""

    mean: Float64[np.ndarray, "group feature"]
    """Groups that were never seen have the features' means over all tokens."""
    n: Int64[np.ndarray, " group"]
    """Tokens that each group was taught on."""


def last_tokens(
    ids: Integer[np.ndarray, " token"], starts: Integer[np.ndarray, " start"], n: int
) -> Int64[np.ndarray, " token"]:
    """A group for each different run of `n` tokens that ends at a token; runs do not reach over a document's start."""
    group = ids.astype(np.int64) + 1
    at_start = np.zeros(len(ids), dtype=bool)
    at_start[starts[:-1]] = True
    before = group
    for _ in range(n - 1):
        before = np.where(at_start, 0, np.concatenate([[0], before[:-1]]))
        group = np.unique(group * (before.max() + 1) + before, return_inverse=True)[1]
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def taught(
    matrix: Matrix, groups: Int64[np.ndarray, " token"], taught_on: Bool[np.ndarray, " token"]
) -> Table:
    """The table of all features, from the tokens of `taught_on`."""
    member = _members(groups, taught_on)
    n = np.asarray(member.sum(axis=1)).ravel()
    total = (member @ matrix).toarray().astype(np.float64)
    overall = total.sum(axis=0) / n.sum()
    mean = np.where(n[:, None] > 0, total / np.maximum(n, 1)[:, None], overall)
    return Table(mean=mean, n=n.astype(np.int64))


def explained(
    matrix: Matrix, groups: Int64[np.ndarray, " token"], taught_on: Bool[np.ndarray, " token"]
) -> Float64[np.ndarray, " feature"]:
    """R² of the taught table on all other tokens: 1 − Σ(a − guess)² / Σ(a − mean a)²; NaN for features silent there.

    A feature that stands for a token is explained by the table of tokens, one that needs more context is not.
    """
    table, held = taught(matrix, groups, taught_on), _members(groups, ~taught_on)
    count = np.asarray(held.sum(axis=1)).ravel().astype(np.float64)
    total = (held @ matrix).toarray().astype(np.float64)
    rows = matrix.tocsr()[np.flatnonzero(~taught_on)]
    squares = np.asarray((rows * rows).sum(axis=0, dtype=np.float64)).ravel()
    left = squares - 2 * (table.mean * total).sum(axis=0) + (count[:, None] * table.mean**2).sum(axis=0)
    spread = squares - total.sum(axis=0) ** 2 / count.sum()
    return np.where(spread > 0, 1 - left / np.where(spread > 0, spread, 1), np.nan)


def _members(groups: np.ndarray, of: np.ndarray) -> scipy.sparse.csr_array:
    """(group, token): 1 where a token that counts is of the group."""
    where = np.flatnonzero(of)
    ones = np.ones(len(where), dtype=np.float32)
    return scipy.sparse.csr_array((ones, (groups[where], where)), shape=(int(groups.max()) + 1, len(groups)))
