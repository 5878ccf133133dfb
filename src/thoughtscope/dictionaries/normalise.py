"""What some autoencoders do to each vector before they read it, and undo in what they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Normalise = Literal["layer_norm", "rms_norm"]
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Normalised:
    """Vectors of mean 0 and unit variance, or of unit mean square, and what brings vectors of that size back."""

    x: Float[Tensor, "*rows width"]
    mean: Float[Tensor, "*rows 1"]
    scale: Float[Tensor, "*rows 1"]

    def restore(self, y: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """`y · scale + mean`."""
        return y * self.scale + self.mean


def normalised(x: Float[Tensor, "*rows width"], kind: Normalise) -> Normalised:
    """Each vector on its own.

    - layer_norm: `(x − mean) / (σ + 1e-5)`, with σ over width − 1 as the autoencoders of Gao et al. (2024) have it
    - rms_norm: `x √width / ‖x‖`, and 0 for 0
    """
    if kind == "layer_norm":
        mean = x.mean(-1, keepdim=True)
        centred = x - mean
        scale = centred.std(-1, keepdim=True)
        return Normalised(centred / (scale + LAYER_NORM_EPS), mean, scale)
    length = x.norm(dim=-1, keepdim=True)
    scale = length / x.shape[-1] ** 0.5
    tiny = torch.finfo(x.dtype).tiny
    return Normalised(x / scale.clamp(min=tiny), torch.zeros_like(scale), scale)
