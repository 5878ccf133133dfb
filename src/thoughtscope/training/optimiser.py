"""Adam that takes gradients a block of features at a time, so that a gradient never exists as a whole matrix.

A block of some hundred rows with its gradient and both moments lies in the processor's cache while it is made,
projected, applied, brought back to norm 1 and copied to the encoder's low-precision shadow: one pass over the weights
in memory instead of six. On an accelerator a block is the whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.optim.adam import adam

BLOCK_BYTES = 2**21
"""About how much of one matrix a block takes; weights, gradient and two moments of it are four times that."""


class Adam:
    """Kingma & Ba 2015, on named tensors and on ranges of their rows; fused where PyTorch has it for the device."""

    def __init__(self, weights: dict[str, Tensor], betas: tuple[float, float], epsilon: float) -> None:
        self.weights = weights
        self.betas, self.epsilon = betas, epsilon
        self.mean = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.square = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        self.steps = 0
        self.rate = 0.0

    def begin(self, rate: float) -> None:
        """Starts a step with this learning rate."""
        self.steps += 1
        self.rate = rate

    def apply(self, name: str, grad: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Moves rows `start` to `stop` of a weight by their gradient, in place; returns them."""
        rows = self.weights[name][start:stop]
        # The functional form counts its own steps up, so that each call is told of the one before.
        count = torch.full((), self.steps - 1.0, dtype=torch.float32, device=rows.device)
        adam(
            [rows],
            [grad],
            [self.mean[name][start:stop]],
            [self.square[name][start:stop]],
            [],
            [count],
            fused=rows.dtype.is_floating_point and rows.device.type in ("cpu", "cuda", "mps", "xpu"),
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=self.rate,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )
        return rows

    def forget(self, name: str, rows: Tensor) -> None:
        """Sets the moments of some rows to what they were at the start."""
        self.mean[name][rows] = 0
        self.square[name][rows] = 0


def blocks(n_rows: int, row_bytes: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose blocks fit the cache; one range on an accelerator."""
    size = n_rows if device.type != "cpu" else max(16, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, n_rows, size):
        yield start, min(n_rows, start + size)
