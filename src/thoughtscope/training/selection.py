"""Which of many scores pass: exact top-k of each row, and everything above zero, without looking at every entry twice.

Both begin with the maxima of groups of entries, one pass over the matrix that the memory's speed bounds; what follows
looks only into the groups that hold something. The k groups with the largest maxima hold the k largest entries, and a
group whose maximum is not above zero holds nothing that is, so both are exact. The members of the k groups are a matrix
like the first, only narrower: its best are found in the same way, by smaller groups.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from thoughtscope.training.ranks import Ranks

GROUP = 16
"""Entries of a group at most: the second stage looks at 16 k entries of a row, the first at a sixteenth of the row."""


def largest(
    score: Float[Tensor, "row feature"], k: int
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The k largest entries of each row and where they are, in no order; all of a row that has no more than k."""
    n_rows, n_features = score.shape
    k = min(k, n_features)
    size = _group_size(n_features, n_features // (4 * max(k, 1)))
    n_groups = n_features // size
    if size == 1:
        return tuple(score.topk(k, dim=1, sorted=False))  # type: ignore[return-value]
    # Entry f belongs to group f mod n_groups: a group's members lie n_groups apart, so its maximum is one of whole
    # rows of memory, which vector units take side by side.
    grouped = score.view(n_rows, size, n_groups)
    group = grouped.amax(1).topk(k, dim=1, sorted=False).indices  # (row, k)
    members = grouped.gather(2, group[:, None, :].expand(-1, size, -1)).flatten(1)  # (row, size · k)
    value, which = largest(members, k)
    return value, torch.div(which, k, rounding_mode="floor") * n_groups + group.gather(1, which % k)


def above_zero(
    score: Float[Tensor, "row feature"],
) -> tuple[Int[Tensor, " active"], Int[Tensor, " active"], Float[Tensor, " active"]]:
    """Row, feature and value of every entry above 0, sorted by row."""
    n_rows, n_features = score.shape
    size = _group_size(n_features, GROUP)
    n_groups = n_features // size
    grouped = score.view(n_rows, size, n_groups)
    row, group = (grouped.amax(1) > 0).nonzero(as_tuple=True)
    # Offsets of each group's members in the matrix, one gather for all of them.
    first = row * n_features + group
    members = score.flatten()[first[:, None] + n_groups * torch.arange(size, device=score.device)]
    which, member = (members > 0).nonzero(as_tuple=True)
    return row[which], member * n_groups + group[which], members[which, member]


def among_all(value: Float[Tensor, "row candidate"], k: int, ranks: Ranks) -> Bool[Tensor, "row candidate"]:
    """Which of this rank's candidates are among the k largest of their row over all ranks.

    Exactly k are, as long as there are that many; of equal ones at the bar, those of earlier ranks.
    """
    n_rows, n_own = value.shape
    every = ranks.gathered(pad(value, (0, max(0, k - n_own)), value=float("-inf"))[None])  # (rank, row, k)
    every = every.transpose(0, 1).flatten(1)
    bar = every.topk(k, dim=1).values[:, -1:]
    above, level = every > bar, every == bar
    passes = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
    return passes.view(n_rows, ranks.world, -1)[:, ranks.rank, :n_own]


def bar_of_all(score: Float[Tensor, " active"], wanted: int, ranks: Ranks) -> tuple[int, Float[Tensor, ""]]:
    """How many scores all ranks have, and the lowest of the `wanted` largest; of all, where they are no more."""
    every = ranks.gathered(score)
    if len(every) > wanted:
        return len(every), every.kthvalue(len(every) - wanted + 1).values
    return len(every), every.min() if len(every) else every.new_zeros(())


def _group_size(n_features: int, most: int) -> int:
    """The largest power of two up to `GROUP` and `most` that divides the number of features."""
    size = GROUP
    while size > 1 and (n_features % size or size > most):
        size //= 2
    return size
