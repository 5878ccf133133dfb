"""Matrices in eight bits: a whole number from −127 to 127 for each weight, and one scale a row."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

LARGEST = 127


def to_rows(weight: Float[Tensor, "row _"]) -> tuple[Int[Tensor, "row _"], Float[Tensor, " row"]]:
    """Whole numbers and scales with `weight ≈ scale · number`, at most half a scale away.

    A scale has eight significant bits: near enough that a row's largest weight is 127 of it, and few enough that
    `127 · scale` is exact. So what was restored once is stored again to the bit.
    """
    wide = weight.float()
    size = wide.abs().amax(1) / LARGEST if wide.shape[1] else wide.new_zeros(wide.shape[0])
    scale = size.bfloat16().float()
    scale = scale.where(scale > 0, 1)
    return (wide / scale[:, None]).round().to(torch.int8), scale


def from_rows(numbers: Int[Tensor, "row _"], scale: Float[Tensor, " row"]) -> Float[Tensor, "row _"]:
    """The weights, in float32."""
    return numbers.float() * scale[:, None]
