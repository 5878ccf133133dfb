"""`ahead`: an iterator that a thread reads a little ahead of its consumer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
_PATIENCE = 0.2  # seconds after which a waiting thread looks whether the program has ended


class _Ahead(Generic[T]):
    """The thread's side: `wanted` counts the items that it may still make."""

    def __init__(self, make: Callable[[], Iterator[T]], n: int) -> None:
        self._make = make
        self._wanted = threading.Semaphore(n)
        self._made: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        self._stopped = False
        # No daemon: one that the interpreter's end cuts off inside of a kernel takes the process down.
        self._thread = threading.Thread(target=self._run, name="ahead")
        self._thread.start()

    def _run(self) -> None:
        try:
            items = self._make()
            while self._may_go_on():
                try:
                    item = next(items)
                except StopIteration:
                    break
                self._made.put((item,))
                del item
            self._made.put(None)
        except BaseException as error:  # for the consumer, who is elsewhere
            self._made.put(error)

    def _may_go_on(self) -> bool:
        """Waits until another item is wanted; False when none will be."""
        while not self._wanted.acquire(timeout=_PATIENCE):
            if not threading.main_thread().is_alive():
                return False
        return not self._stopped

    def next(self) -> tuple[T] | None:
        self._wanted.release()
        made = self._made.get()
        if isinstance(made, BaseException):
            raise made
        return made

    def stop(self) -> None:
        self._stopped = True
        self._wanted.release()
        self._thread.join()


def ahead(make: Callable[[], Iterator[T]], n: int = 1) -> Iterator[T]:
    """The items of `make()`, which a thread makes up to `n` items ahead of the one that was asked for last.

    The thread makes nothing more until the next item is asked for. What it raises is raised here, in its place. It ends
    with this generator: when that is exhausted, closed or forgotten.
    """
    worker = _Ahead(make, n)
    try:
        while (item := worker.next()) is not None:
            yield item[0]
            del item
    finally:
        worker.stop()
