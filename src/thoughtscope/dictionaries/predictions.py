"""What the model predicts in a changed run, against its own predictions: loss, divergence, agreement."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROWS = 512
"""Positions whose distributions over the vocabulary are compared at a time."""


@dataclass(kw_only=True)
class Predictions:
    """Running sums over positions, in float64; `n` positions count, `n_next` of them have a next token to predict."""

    loss: float = 0.0
    kl: float = 0.0
    agree: int = 0
    n: int = 0
    n_next: int = 0

    def add(
        self,
        ids: Int[Tensor, "batch pos"],
        keep: Bool[Tensor, "batch pos"],
        clean: Float[Tensor, "batch pos vocab"],
        changed: Float[Tensor, "batch pos vocab"],
    ) -> None:
        """Adds the positions that `keep` marks: what `changed` predicts there, against what `clean` does."""
        self.n += int(keep.sum())
        for row, column in _split(keep.nonzero(as_tuple=True)):
            before, after = _wide(clean[row, column]), _wide(changed[row, column])
            log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
            self.kl += float((log_p.exp() * (log_p - log_q)).sum(-1).double().sum())
            self.agree += int((before.argmax(-1) == after.argmax(-1)).sum())
            told = column + 1 < ids.shape[1]
            following = ids.to(keep.device)[row[told], column[told] + 1]
            self.loss -= float(log_q[told].gather(1, following[:, None]).double().sum())
            self.n_next += int(told.sum())


def _split(rows: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    return list(zip(*(axis.split(ROWS) for axis in rows), strict=True))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
