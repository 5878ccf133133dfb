"""`shard_model`: a model that is too big for one device, its weights spread over processes by FSDP2, for capture.

Every process has a slice of every weight. A forward pass gathers a block's weights from all of them, uses them and
frees them, so hooks see the tensors that the whole model has, to the bit. It also means that all processes run a pass
or none does, though each has its own text: `Pace` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.models.model import Model

PATIENCE = 600.0
"""Seconds that a process waits for the others' passes."""
_IDLE, _WORK, _LEAVE = range(3)


class Pace:
    """Keeps the passes of a sharded model in step: before each, the processes vote; who needs none runs an idle one.

    Processes that all run the same passes need no vote; those that each read their own text do so while it is `kept`.
    """

    def __init__(self, model: Model, group: Any) -> None:
        self._lock, self._group = model.lock, group
        self._kept = self._idling = False
        model.module.register_forward_pre_hook(self._before, prepend=True)

    @contextmanager
    def kept(self, idle: Callable[[], object]) -> Iterator[Callable[[], None]]:
        """While open, passes are voted on. The value is to be called when this process needs no more for now: it runs
        `idle`, which is one pass, as often as another runs one, until none needs any.

        Where one process leaves, the others' next pass raises `ThoughtscopeError`: none waits for what will not come.
        """
        self._kept = True
        try:
            yield lambda: self._wait(idle)
        finally:
            with self._lock:
                if self._kept:
                    self._vote(_LEAVE)
                self._kept = False

    def _wait(self, idle: Callable[[], object]) -> None:
        while True:
            with self._lock:
                if self._vote(_IDLE) == _IDLE:
                    return
                self._idling = True
                try:
                    idle()
                finally:
                    self._idling = False

    def _before(self, *_: Any) -> None:
        if self._kept and not self._idling:
            self._vote(_WORK)

    def _vote(self, mine: int) -> int:
        from torch import distributed

        vote = torch.tensor(mine)
        distributed.all_reduce(vote, distributed.ReduceOp.MAX, group=self._group)
        if int(vote) == _LEAVE:
            self._kept = False
            if mine != _LEAVE:
                raise ThoughtscopeError(
                    "Another process has stopped reading the model. Its own message says why."
                )
        return int(vote)


def shard_model(model: Model, *, device: torch.device | str | None = None) -> Model:
    """`model` with its weights spread over the processes of the default group, on `device` or where they are.

    Load it on the CPU in each process first: a block at a time goes to the device. For `capture` and harvesting;
    its facts keep shapes but no weights, so attribution and logit reads of them fail. Processes that capture different
    texts do it under `Model.pace`. Raises `ThoughtscopeError` without a process group.
    """
    from torch import distributed
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    if not (distributed.is_available() and distributed.is_initialized()):
        raise ThoughtscopeError(
            "A model is sharded over the processes of a group, and there is none. Start them with torchrun, and call "
            "torch.distributed.init_process_group."
        )
    place = torch.device(device or model.device)
    # Groups of its own: passes run in a thread, beside what a training asks of the same processes.
    patience = timedelta(seconds=PATIENCE)
    weights = distributed.new_group(backend="nccl" if place.type == "cuda" else "gloo", timeout=patience)
    mesh = DeviceMesh.from_group(weights, place.type)
    for block in model.family.blocks:
        fully_shard(block.module, mesh=mesh, reshard_after_forward=True)
    fully_shard(model.module, mesh=mesh)
    sharded = replace(model, family=_without_numbers(model.family))
    return replace(sharded, pace=Pace(sharded, distributed.new_group(backend="gloo", timeout=patience)))


def _without_numbers(facts: Any) -> Any:
    """The same facts with shapes for weights, which would otherwise keep the whole model in memory."""
    if isinstance(facts, Tensor):
        return facts.detach().to("meta")
    if isinstance(facts, tuple):
        return tuple(_without_numbers(each) for each in facts)
    if is_dataclass(facts) and not isinstance(facts, type):
        held = {field.name: getattr(facts, field.name) for field in fields(facts) if field.init}
        return replace(facts, **{name: _without_numbers(value) for name, value in held.items()})
    return facts
