"""`Sampling`: how the next token is drawn, so that a seed alone decides it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError

_SEEDS = 2**63


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are drawn: by temperature, among the likeliest `top_k`, among the fewest that reach `top_p`.

    Both limits hold where both are given: first `top_k`, then `top_p` of what that leaves. A token depends on the
    logits, the seed and its number in the continuation, and on nothing else: not on other rows of the batch, the
    device's generator, or what was drawn before. So two continuations with one seed, one of them steered, differ by the
    steering alone.
    Raises `ThoughtscopeError` for values out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | tuple[int, ...] = 0
    """One for all rows, or one for each."""

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ThoughtscopeError(
                f"A temperature is over 0; got {self.temperature}. For the likeliest tokens, leave sampling out."
            )
        if not 0 < self.top_p <= 1:
            raise ThoughtscopeError(f"top_p is a share, over 0 and up to 1; got {self.top_p}.")
        if self.top_k is not None and self.top_k < 1:
            raise ThoughtscopeError(f"top_k is a number of tokens, 1 or more; got {self.top_k}.")
        for seed in self.seed if isinstance(self.seed, tuple) else (self.seed,):
            if not 0 <= seed < _SEEDS:
                raise ThoughtscopeError(f"A seed is a whole number from 0 to 2**63 - 1; got {seed}.")

    def seeds(self, rows: int) -> tuple[int, ...]:
        """A seed for each row. Raises `ThoughtscopeError` where there are not as many."""
        if not isinstance(self.seed, tuple):
            return (self.seed,) * rows
        if len(self.seed) != rows:
            raise ThoughtscopeError(f"{rows} rows need one seed or {rows}; got {len(self.seed)}.")
        return self.seed


def probabilities(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling
) -> tuple[Float[Tensor, "batch vocab"], Int[Tensor, "batch vocab"]]:
    """The probability with which each token is drawn, the likeliest first, and the tokens' ids in that order."""
    scaled = logits.detach().to("cpu", torch.float64)
    scaled = (scaled - scaled.amax(-1, keepdim=True)) / sampling.temperature
    # a stable order, so that equal logits stand by their ids wherever this runs
    chances, ids = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        chances[:, sampling.top_k :] = 0
        chances = chances / chances.sum(-1, keepdim=True)
    if sampling.top_p < 1:
        before = chances.cumsum(-1) - chances  # of all likelier tokens: those that reach top_p need no other
        chances = chances.masked_fill(before >= sampling.top_p, 0)
        chances = chances / chances.sum(-1, keepdim=True)
    return chances, ids


def draw(
    logits: Float[Tensor, "batch vocab"], sampling: Sampling, generators: Sequence[torch.Generator]
) -> Int[Tensor, "batch 1"]:
    """A token for each row, by its own generator: one number from 0 to 1 each, looked up in the running total."""
    chances, ids = probabilities(logits, sampling)
    total = chances.cumsum(-1)
    numbers = torch.stack([torch.rand(1, generator=each, dtype=torch.float64) for each in generators])
    place = torch.searchsorted(total, numbers * total[:, -1:], right=True)
    last = (chances > 0).sum(-1, keepdim=True) - 1
    return ids.gather(1, place.minimum(last))


def generators(sampling: Sampling, rows: int) -> list[torch.Generator]:
    """A generator for each row, at its start."""
    return [torch.Generator().manual_seed(seed) for seed in sampling.seeds(rows)]
