"""The non-linearity of a dictionary, as data: ReLU, JumpReLU and the kinds of TopK are one type with one `apply`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch, describe_choices

Kind = Literal["relu", "jumprelu", "topk", "abs_topk", "groupmax"]
COMPETING = ("topk", "abs_topk", "groupmax")
"""Kinds in which a feature's activation depends on the others'; they have a `k`."""


@dataclass(frozen=True, kw_only=True)
class Activation:
    """Which pre-activations pass, and as what. JumpReLU's thresholds are weights and lie with their layer.

    - relu:      a = max(x, 0)
    - jumprelu:  a = x where x > θ (strictly, θ ≥ 0), else 0              (Rajamanoharan et al. 2024, eq. 5)
    - topk:      a = max(x, 0) for the k largest x of a position, else 0   (Gao et al. 2024, eq. 3)
    - abs_topk:  a = x for the k largest |x| of a position, else 0: activations may be negative
    - groupmax:  a = max(x, 0) for the largest x of each of k equal groups of neighbours, else 0

    >>> pre = torch.tensor([-1.0, 0.5, 2.0])
    >>> Activation(kind="relu").apply(pre).tolist()
    [0.0, 0.5, 2.0]
    >>> Activation(kind="topk", k=1).apply(pre).tolist()
    [0.0, 0.0, 2.0]
    >>> Activation(kind="abs_topk", k=2).apply(pre).tolist()
    [-1.0, 0.0, 2.0]
    >>> Activation(kind="jumprelu").apply(pre, threshold=torch.full((3,), 0.5)).tolist()
    [0.0, 0.0, 2.0]
    """

    kind: Kind
    k: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DictionaryMismatch(describe_choices(self.kind, get_args(Kind), what="activation"))
        if self.competes != (self.k is not None) or (self.k is not None and self.k < 1):
            raise DictionaryMismatch(
                f"Activations of the kinds {', '.join(COMPETING)} need k ≥ 1 and no other takes it; got {self.kind}, "
                f"k={self.k}."
            )

    @property
    def competes(self) -> bool:
        """Whether a feature's activation depends on the other features' pre-activations."""
        return self.kind in COMPETING

    def apply(
        self, pre: Float[Tensor, "*rows feature"], threshold: Float[Tensor, " feature"] | None = None
    ) -> Float[Tensor, "*rows feature"]:
        """The activations of pre-activations `pre`, one independent row each."""
        if self.kind == "relu":
            return pre.relu()
        if self.kind == "jumprelu":
            assert threshold is not None
            return pre.where(pre > threshold, 0)
        assert self.k is not None
        if self.kind == "groupmax":
            groups = pre.unflatten(-1, (self.k, -1))
            values, index = groups.max(-1, keepdim=True)
            return torch.zeros_like(groups).scatter(-1, index, values.relu()).flatten(-2)
        size = pre.abs() if self.kind == "abs_topk" else pre
        index = size.topk(min(self.k, pre.shape[-1]), dim=-1).indices
        values = pre.gather(-1, index)
        return torch.zeros_like(pre).scatter(-1, index, values if self.kind == "abs_topk" else values.relu())
