"""Ranks that are threads of one process: the verbs of `Joined` without a process group."""

from __future__ import annotations

import threading

import torch

from thoughtscope.training.ranks import Ranks


class Beside(Ranks):
    def __init__(self, rank, world, slots, barrier):
        self.rank, self.world, self._slots, self._barrier = rank, world, slots, barrier

    def exchanged(self, x):
        """What every rank holds here."""
        self._slots[self.rank] = x
        self._barrier.wait()
        every = list(self._slots)
        self._barrier.wait()
        return every

    def total(self, x):
        return torch.stack(self.exchanged(x)).sum(0)

    def gathered(self, x):
        return torch.cat(self.exchanged(x))

    def whole(self, x, n):
        return torch.cat(self.exchanged(x))

    def told(self, text):
        return self.exchanged(text)


def beside(world, work):
    """`work(ranks)` in `world` threads at once; what each returned, or the first error."""
    slots, barrier = [None] * world, threading.Barrier(world, timeout=60)
    found, failed = [None] * world, []

    def run(rank):
        try:
            found[rank] = work(Beside(rank, world, slots, barrier))
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = [error for error in failed if not isinstance(error, threading.BrokenBarrierError)]
    if failed:
        raise (told or failed)[0]
    return found
