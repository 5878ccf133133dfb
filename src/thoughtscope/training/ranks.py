"""`Ranks`: the processes that train one dictionary together, each with a stretch of every part's features.

What has a row a feature (W_enc, b_enc, W_dec, extras, Adam's moments, how long each is silent) is sharded: as a
DTensor it is `Shard(0)` over the ranks, and a step works on the local shard. What belongs to a site (b_dec, W_skip) is
on every rank, the same. Every rank has all tokens of a batch, and asks the others for what all features decide: which
entries are among the k largest, what they write together, how many were active.

A process by itself is `Ranks()`, for which every verb is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError

T = TypeVar("T")
PATIENCE = 600.0
"""Seconds that a rank waits for the others. One that was killed is noticed at once; this is for one that hangs."""


class Ranks:
    """A process by itself; `Joined` has the same verbs for many. Every rank calls the same verbs in the same order."""

    rank = 0
    world = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that speaks for all: that writes metrics and manifests."""
        return self.rank == 0

    def rows(self, n: int) -> range:
        """This rank's of `n` features: neighbours, cut as a DTensor's `Shard(0)` is."""
        return rows_of(n, self.rank, self.world)

    def total(self, x: Tensor) -> Tensor:
        """The sum over the ranks of tensors of one shape."""
        return x

    def gathered(self, x: Shaped[Tensor, "row ..."]) -> Shaped[Tensor, "all ..."]:
        """The rows of all ranks, one rank's after the other's; each may have another number of them."""
        return x

    def whole(self, x: Shaped[Tensor, "row ..."], n: int) -> Shaped[Tensor, "all ..."]:
        """A sharded tensor of `n` rows from its shards, on every rank."""
        return x

    def told(self, text: str) -> list[str]:
        """What each rank says, in their order."""
        return [text]

    def any(self, what: bool) -> bool:
        """Whether it is so on any rank."""
        return bool(self.total(torch.tensor(int(what))) > 0) if self.world > 1 else what

    def agree(self, what: Mapping[str, Any]) -> None:
        """Raises `ThoughtscopeError`, on every rank, for the first of these on which ranks differ."""
        for name, value in what.items():
            said = self.told(repr(value))
            if len(set(said)) > 1:
                raise ThoughtscopeError(
                    f"Ranks differ in {name}: {', '.join(said)}. Start all of them alike."
                )

    def together(self, work: Callable[[], T]) -> T:
        """Does the work here, and raises `ThoughtscopeError` on every rank if it failed on any: nobody waits for it."""
        if self.world == 1:
            return work()
        try:
            done = work()
        except Exception as error:
            self.told(f"{type(error).__name__}: {error}")
            raise
        for rank, why in enumerate(self.told("")):
            if why:
                raise ThoughtscopeError(f"Rank {rank} failed: {why}")
        return done

    def hold(self, stack: ExitStack, manager: Callable[[], Any]) -> None:
        """Enters a context for all, in the first rank; where that fails, it fails on every rank."""
        self.together(lambda: stack.enter_context(manager()) if self.first else None)


class Joined(Ranks):
    """The ranks of a process group."""

    def __init__(self, device: torch.device | str = "cpu", *, patience: float = PATIENCE) -> None:
        from torch import distributed

        device = torch.device(device)
        if not distributed.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=timedelta(seconds=patience))
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self.device = device
        self._mesh: Any = None

    def total(self, x: Tensor) -> Tensor:
        from torch.distributed import all_reduce

        x = x.contiguous().clone()
        all_reduce(x)
        return x

    def gathered(self, x: Tensor) -> Tensor:
        lengths = self._stacked(torch.tensor(len(x))).tolist()
        most = max(lengths)
        if not most:
            return x
        if len(x) < most:
            x = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
        every = self._stacked(x)
        if min(lengths) == most:
            return every.flatten(0, 1)
        return torch.cat([rows[:n] for rows, n in zip(every, lengths, strict=True)])

    def whole(self, x: Tensor, n: int) -> Tensor:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import DTensor, Shard

        if self._mesh is None:
            self._mesh = init_device_mesh(x.device.type, (self.world,))
        shape = torch.Size([n, *x.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        shared = DTensor.from_local(x, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)
        return shared.full_tensor()

    def told(self, text: str) -> list[str]:
        data = torch.frombuffer(bytearray(text.encode() + b"\n"), dtype=torch.uint8)  # never empty
        lengths = self._stacked(torch.tensor(len(data))).tolist()
        ends = torch.tensor(lengths).cumsum(0).tolist()
        every = bytes(self.gathered(data).tolist())
        return [every[end - n : end - 1].decode() for n, end in zip(lengths, ends, strict=True)]

    def _stacked(self, x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "rank ..."]:
        """Tensors of one shape from all ranks; as bytes, so that every type can travel."""
        from torch.distributed import all_gather

        x = x.contiguous()
        flat = x.reshape(-1).view(torch.uint8)
        every = flat.new_empty(self.world, len(flat))
        all_gather(list(every.unbind()), flat)
        return every.view(-1).view(x.dtype).view(self.world, *x.shape)


def rows_of(n: int, rank: int, world: int) -> range:
    """The rows of `rank` when `n` are cut in `world` shards as `torch.chunk` and `Shard(0)` do."""
    size = -(-n // world)
    return range(min(n, rank * size), min(n, (rank + 1) * size))


def ranks_here(device: torch.device | str = "cpu") -> Ranks:
    """Those that a launcher such as torchrun started (it says so in the environment), or this process by itself."""
    return Joined(device) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Ranks()
