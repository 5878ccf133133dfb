"""What decides the order of rows: random numbers that are the same everywhere, and who makes which part of a batch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from thoughtscope.core.errors import ThoughtscopeError

LANES = 8
"""Shares into which documents are dealt: at least as many as processes that will ever read them together."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of every batch one of several processes makes: a block of its rows."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ThoughtscopeError(f"rank is 0 to world - 1; got rank {self.rank} of {self.world}.")

    def of(self, n: int) -> range:
        """This process's of `n` things: neighbours, as many as the others' or one more or less."""
        return range(self.rank * n // self.world, (self.rank + 1) * n // self.world)


def generator(*what: int | str) -> torch.Generator:
    """Random numbers that depend on `what` alone, on every machine."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
