"""`Moments`: what a training has to know of a site's activations before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

OUTLIER = 10.0
"""Rows whose norm is more than this many times the median norm are outliers."""
_BLOCK = 8192


def outliers(rows: Float[Tensor, "row width"]) -> Bool[Tensor, " row"]:
    """Which rows have a norm of more than `OUTLIER` times the median norm."""
    norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32)
    return norms > OUTLIER * norms.median() if len(norms) else norms > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The mean of a site's rows, and the mean square about it, over rows and dimensions."""

    mean: Float64[Tensor, " width"]
    mean_square: float
    n_rows: int

    @classmethod
    def of(cls, rows: Float[Tensor, "row width"]) -> Moments:
        """Those of some rows, in float64."""
        n_rows, width = rows.shape
        device = "cpu" if rows.device.type == "mps" else rows.device
        total = torch.zeros(width, dtype=torch.float64, device=device)
        for block in rows.split(_BLOCK):
            total += block.to(device, torch.float64).sum(0)
        mean = total / max(n_rows, 1)
        square = torch.zeros((), dtype=torch.float64, device=device)
        for block in rows.split(_BLOCK):
            square += (block.to(device, torch.float64) - mean).square_().sum()
        return cls(mean=mean.cpu(), mean_square=float(square) / max(n_rows * width, 1), n_rows=n_rows)

    def merged(self, other: Moments) -> Moments:
        """The moments of the rows of both (Chan et al. 1979)."""
        n_rows = self.n_rows + other.n_rows
        share = other.n_rows / max(n_rows, 1)
        between = other.mean - self.mean
        about = self.mean_square * (1 - share) + other.mean_square * share
        spread = float(between.square().mean()) * share * (1 - share)
        return Moments(mean=self.mean + between * share, mean_square=about + spread, n_rows=n_rows)
