"""`Pairs` and `Dense`: which entries of a (token, feature) matrix are held, and the four products that training needs.

The matrices of activations, and of gradients at them, are mostly zero. `Pairs` holds what is not, and each product
costs what is active; `Dense` holds everything, for objectives that begin with half of all features active.
With A the held matrix, D the decoders and x the inputs:

    decode      A D           what the features write
    against     G Dᵀ at A     the gradient of each held entry
    columns     Aᵀ x          the gradient of the encoders, or of the decoders, a block of features at a time
    by_feature  Aᵀ 1
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

Block = Callable[[int, int], Float[Tensor, "feature _"]]
"""Rows `start` to `stop` of a matrix with one row a feature, made when they are asked for."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Held entries one by one, sorted by token."""

    token: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    n_tokens: int
    n_features: int

    def spread(self, per_feature: Tensor) -> Tensor:
        """A number per feature, at each held entry."""
        return per_feature[self.feature]

    def by_feature(self, values: Tensor) -> Float[Tensor, " feature"]:
        """The sum over tokens."""
        return values.new_zeros(self.n_features).index_add_(0, self.feature, values)

    def decode(self, values: Tensor, rows: Tensor) -> Float[Tensor, "token _"]:
        """`A D` for values A and one row of D per feature."""
        if not len(values):
            return rows.new_zeros(self.n_tokens, rows.shape[1])
        return _bags(self.feature, rows, self._token_starts, values)

    def against(self, grad: Tensor, rows: Tensor) -> Tensor:
        """At each held entry the dot product of its token's `grad` with its feature's row."""
        if not len(self.token):
            return grad.new_zeros(0)
        # The derivative of an embedding bag with respect to its weights is just this product, and ready-made.
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            grad.contiguous(), rows, self.feature, self._token_starts, self.token, 0, -1
        )

    def columns(self, values: Tensor, x: Tensor) -> Block:
        """`Aᵀ x`, in blocks of features."""
        order, starts = self._by_feature
        token, ordered = self.token[order], values[order].to(x.dtype)

        def block(start: int, stop: int) -> Tensor:
            first, last = int(starts[start]), int(starts[stop])
            if first == last:
                return x.new_zeros(stop - start, x.shape[1])
            return _bags(token[first:last], x, starts[start : stop + 1] - first, ordered[first:last])

        return block

    def split(self, edges: Sequence[int]) -> list[tuple[Pairs, Tensor]]:
        """By ranges of features, each with the index of its entries in the values."""
        found: list[tuple[Pairs, Tensor]] = []
        for start, stop in pairwise(edges):
            kept = ((self.feature >= start) & (self.feature < stop)).nonzero()[:, 0]
            part = Pairs(
                token=self.token[kept],
                feature=self.feature[kept] - start,
                n_tokens=self.n_tokens,
                n_features=stop - start,
            )
            found.append((part, kept))
        return found

    @cached_property
    def _token_starts(self) -> Tensor:
        return _starts(self.token, self.n_tokens)

    @cached_property
    def _by_feature(self) -> tuple[Tensor, Tensor]:
        """The order that sorts the entries by feature, and where each feature's begin in it."""
        return torch.argsort(self.feature.int()), _starts(self.feature, self.n_features)


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Every entry is held; values have the shape (token, feature)."""

    n_tokens: int
    n_features: int
    low: torch.dtype = torch.float32
    """The type of the products' factors."""

    def spread(self, per_feature: Tensor) -> Tensor:
        return per_feature

    def by_feature(self, values: Tensor) -> Float[Tensor, " feature"]:
        return values.sum(0)

    def decode(self, values: Tensor, rows: Tensor) -> Float[Tensor, "token _"]:
        return (values.to(self.low) @ rows.to(self.low)).to(rows.dtype)

    def against(self, grad: Tensor, rows: Tensor) -> Tensor:
        return (grad.to(self.low) @ rows.to(self.low).T).to(grad.dtype)

    def columns(self, values: Tensor, x: Tensor) -> Block:
        low, narrow = values.to(self.low), x.to(self.low)
        return lambda start, stop: (low[:, start:stop].T @ narrow).to(x.dtype)


Pattern = Pairs | Dense
"""Where a (token, feature) matrix may differ from zero. Its values are a tensor of the pattern's own shape."""


def _bags(index: Tensor, rows: Tensor, starts: Tensor, values: Tensor) -> Tensor:
    return embedding_bag(
        index, rows, starts, mode="sum", per_sample_weights=values.to(rows.dtype), include_last_offset=True
    )


def _starts(index: Int[Tensor, " active"], n: int) -> Int[Tensor, " _"]:
    """Where each of 0 … n − 1 begins in the sorted index; the last entry is its length."""
    starts = index.new_zeros(n + 1)
    torch.cumsum(torch.bincount(index, minlength=n), 0, out=starts[1:])
    return starts
