"""Which features are alike: by the direction that they write, and by the tokens on which they are active together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from thoughtscope.atlas.collect import residual_writes
from thoughtscope.atlas.columns import Columns
from thoughtscope.core.progress import Progress, silent

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary, Part

BLOCK = 2**26
"""Cosines that are in memory at a time."""
PAIRS = 2**24
"""Pairs of features that are in memory at a time, where they are counted by token."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The nearest features of each, the nearest first; -1 where there are fewer."""

    index: Int[np.ndarray, "feature near"]
    "Numbers over all parts, one part behind the other."
    cosine: Float[np.ndarray, "feature near"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CoFiring:
    """The features that are most often active where one is, by Jaccard's index; -1 where there are fewer."""

    index: Int[np.ndarray, "feature near"]
    jaccard: Float[np.ndarray, "feature near"]
    "Tokens on which both are active, over those on which at least one is."
    given: Float[np.ndarray, "feature near"]
    "P(other | feature): on which share of the feature's tokens the other is active."


def directions(part: Part, index: Int[Tensor, " active"] | None = None) -> Float[Tensor, "feature d"]:
    """What each feature of a part writes, or some of them, at length 1; a feature without a decoder stays 0.

    Decoders to the residual stream are added up, so that features of several layers lie in one space; a part that
    writes elsewhere has its decoders side by side.
    """
    rows = part.decoder_rows(torch.arange(part.n_features) if index is None else index)
    residual = residual_writes(part)
    if residual:
        whole = torch.stack([rows[site].float() for site in residual]).sum(0)
    else:
        whole = torch.cat([rows[site].float().flatten(1) for site in part.writes], dim=-1)
    return torch.nn.functional.normalize(whole, dim=-1, eps=1e-12).cpu()


def spaces(dictionary: Dictionary) -> dict[str, list[int]]:
    """The numbers of the parts whose directions can be compared, by what they write to."""
    found: dict[str, list[int]] = {}
    for number, part in enumerate(dictionary.parts):
        kinds = "residual" if residual_writes(part) else ", ".join(str(site) for site in part.writes)
        found.setdefault(kinds, []).append(number)
    return found


@torch.no_grad()
def nearest(
    one: Float[Tensor, "feature d"],
    other: Float[Tensor, "other d"],
    *,
    k: int,
    own: Int[np.ndarray, " feature"] | None = None,
    progress: Progress = silent,
) -> tuple[Int[np.ndarray, "feature near"], Float[np.ndarray, "feature near"]]:
    """The `k` rows of `other` with the largest cosine to each row of `one`, exactly, by blocks; both of unit length.

    `own` is the row of `other` that is the same feature, and so no neighbour; -1 for none. Returns indices and cosines,
    largest first; with -1 and 0 where there are fewer.
    """
    index = np.full((len(one), k), -1, np.int32)
    cosine = np.zeros((len(one), k), np.float32)
    size = max(1, BLOCK // max(1, len(other)))
    kept = min(k, len(other))
    for start in range(0, len(one), size):
        found = one[start : start + size] @ other.T
        if own is not None:
            row = np.flatnonzero(own[start : start + size] >= 0)
            found[row, own[start : start + size][row]] = -torch.inf
        best = found.topk(kept, dim=-1)
        there = best.values.isfinite()
        rows = slice(start, start + len(found))
        index[rows, :kept] = torch.where(there, best.indices, -1).numpy()
        cosine[rows, :kept] = torch.where(there, best.values, 0).numpy()
        progress("neighbours", min(start + size, len(one)), len(one))
    return index, cosine


def neighbours_of(
    dictionary: Dictionary,
    *,
    k: int = 15,
    among: Bool[np.ndarray, " feature"] | None = None,
    progress: Progress = silent,
) -> Neighbours:
    """The `k` features of a dictionary whose decoders are nearest to each feature's, by cosine, over all its parts.

    `among` says which features can be a neighbour; all of them unless given. Features are neighbours only where they
    write to the same space; see `spaces`.
    """
    widths = [part.n_features for part in dictionary.parts]
    firsts = np.cumsum([0, *widths])
    total = int(firsts[-1])
    may = np.ones(total, bool) if among is None else among
    index = np.full((total, k), -1, np.int32)
    cosine = np.zeros((total, k), np.float32)
    for numbers in spaces(dictionary).values():
        places = np.concatenate([np.arange(firsts[number], firsts[number + 1]) for number in numbers])
        rows = torch.cat([directions(dictionary.parts[number]) for number in numbers])
        chosen = np.flatnonzero(may[places])
        own = np.full(len(places), -1, np.int64)
        own[chosen] = np.arange(len(chosen))
        found, values = nearest(rows, rows[torch.from_numpy(chosen)], k=k, own=own, progress=progress)
        index[places] = np.where(found < 0, -1, places[chosen][found]) if len(chosen) else -1
        cosine[places] = values
    return Neighbours(index=index, cosine=cosine)


def co_firing(one: Columns, other: Columns | None = None, *, n_tokens: int, k: int = 10) -> CoFiring:
    """Of each feature of `one`, the `k` of `other` that are active on the same tokens most, by Jaccard's index.

    Without `other`, of `one` itself, and no feature counts as its own. Both are of the same text of `n_tokens` tokens.
    Counted exactly, as a product of two sparse matrices, block by block.
    """
    among = one if other is None else other
    here, there = _active(one, n_tokens), _active(among, n_tokens).T.tocsr()
    n_one, n_other = one.count, among.count
    index = np.full((len(n_one), k), -1, np.int32)
    jaccard, given = np.zeros((2, len(n_one), k), np.float32)
    for start, end in _blocks(here, there):
        both = (here[start:end] @ there).tocoo()
        row, column, count = both.row + start, both.col, both.data.astype(np.float64)
        if other is None:
            keep = row != column
            row, column, count = row[keep], column[keep], count[keep]
        score = count / (n_one[row] + n_other[column] - count)
        order = np.lexsort((column, -score, row))
        row, column, count, score = row[order], column[order], count[order], score[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row)
        best = rank < k
        at = (row[best], rank[best])
        index[at], jaccard[at], given[at] = column[best], score[best], (count / n_one[row])[best]
    return CoFiring(index=index, jaccard=jaccard, given=given)


def active_together(
    one: Columns, other: Columns, first: Int[np.ndarray, " pair"], second: Int[np.ndarray, " pair"]
) -> Int[np.ndarray, " pair"]:
    """On how many tokens both features of some pairs are active: `first` of `one`, and `second` of `other`."""
    n_tokens = int(max(one.token.max(initial=-1), other.token.max(initial=-1))) + 1
    here, there = _active(one, n_tokens), _active(other, n_tokens)
    size = max(1, PAIRS // max(1, int(one.count.max(initial=0))))
    found = [
        here[first[start : start + size]].multiply(there[second[start : start + size]]).sum(axis=1)
        for start in range(0, len(first), size)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _active(columns: Columns, n_tokens: int) -> sparse.csr_array:
    """1 where a feature (row) is active on a token (column)."""
    ones = np.ones(len(columns.token), np.int32)
    shape = (len(columns.count), n_tokens)
    return sparse.csr_array((ones, columns.token, columns.offsets), shape=shape)


def _blocks(here: sparse.csr_array, there: sparse.csr_array) -> Iterator[tuple[int, int]]:
    """Rows whose product has at most `PAIRS` terms together, or a single row that has more."""
    by_token = np.diff(there.indptr)
    terms = np.concatenate([[0], np.cumsum(by_token[here.indices])])[here.indptr]
    start = 0
    while start < here.shape[0]:
        end = max(start + 1, int(np.searchsorted(terms, terms[start] + PAIRS, side="right")) - 1)
        yield start, end
        start = end
