"""`Source`: where a trainer's own loop takes its batches from, and what holds the clock.

A step lasts from a batch being handed out to the next one being asked for; whatever the trainer does in between is in
it. Before it hands out a batch the source may wait for its turn: the parent writes how many steps are to be made, and
reads what they took. So no trainer has to be cut into pieces to take turns with others.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.peer.child import peak, reset_peak
from bench.trainers.problem import Problem, fvu

Weights = Callable[[], Mapping[str, Tensor]]


class Done(BaseException):
    """Ends a trainer's loop from within, when no more steps are wanted; no `except Exception` holds it up."""


class Source:
    """The batches of a problem, by site."""

    def __init__(
        self, problem: Problem, send: Callable[[Mapping[str, Any]], None], options: Mapping[str, Any]
    ) -> None:
        self.problem, self.options = problem, options
        self.weights: Weights = problem.start
        """What the trainer has made so far, in the layout of `Problem.start`; each side sets it."""
        self.extra: Callable[[], Mapping[str, Any]] = dict
        """More that a side has to say after its turn."""
        self._send = send
        self._step, self._left = 0, 0
        self._clock: tuple[float, float] | None = None
        self._seconds: list[float] = []
        self._cpu_seconds: list[float] = []
        self._fresh = True

    def __iter__(self) -> Source:
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self._clock is not None:
            wall, cpu = self._clock
            self._seconds.append(time.perf_counter() - wall)
            self._cpu_seconds.append(time.process_time() - cpu)
        if not self._left:
            self._take_turn()
        batch = self.problem.batch_of(self._step)
        self._step, self._left = self._step + 1, self._left - 1
        self._clock = time.perf_counter(), time.process_time()
        return batch

    def _take_turn(self) -> None:
        """Answers for the steps since the last turn, and waits to be told how many to make."""
        said: dict[str, Any] = {"peak": peak(), "peak_of": "turn" if self._fresh else "process"}
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            said |= {"fvu": fvu(self.problem, self.weights())} | dict(self.extra())
        self._send(said | {"seconds": self._seconds, "cpu_seconds": self._cpu_seconds})
        line = sys.stdin.readline()
        if not line:
            raise Done
        self._left = json.loads(line)["steps"]
        self._seconds, self._cpu_seconds = [], []
        self._fresh = reset_peak()


def without_clipping() -> None:
    """Lets `clip_grad_norm_` do its work to no effect: some trainers have a norm of 1 written in, without an option."""
    clip = torch.nn.utils.clip_grad_norm_
    torch.nn.utils.clip_grad_norm_ = lambda parameters, _norm: clip(parameters, float("inf"))
