"""`Share`: this process's part of what several processes do."""

from __future__ import annotations

import os
from dataclasses import dataclass

from thoughtscope.core.errors import ThoughtscopeError


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which of several processes this one is, and so which part of the work is its own."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ThoughtscopeError(f"rank is 0 to world - 1; got rank {self.rank} of {self.world}.")

    def of(self, n: int) -> range:
        """This process's of `n` things: neighbours, as many as the others' or one more or less."""
        return range(self.rank * n // self.world, (self.rank + 1) * n // self.world)

    @classmethod
    def from_environment(cls) -> Share:
        """As `torchrun` says, by `RANK` and `WORLD_SIZE`; a process by itself without them."""
        stated = {
            name: os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
        }
        try:
            return cls(rank=int(stated["RANK"]), world=int(stated["WORLD_SIZE"]))
        except ValueError:
            raise ThoughtscopeError(
                f"RANK and WORLD_SIZE are whole numbers; the environment says {stated}."
            ) from None
