"""`Progress`: how long work says where it stands. One shape for tracing, encoding, collecting, training and serving."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Called as work gets done; whatever it raises stops the work, which is how a caller cancels.

    >>> def bar(stage, done, total, **figures):
    ...     print(f"{stage}: {done} of {total}", *(f"{name} {value:g}" for name, value in figures.items()))
    >>> bar("train", 3, 10, fvu=0.25)
    train: 3 of 10 fvu 0.25
    """

    def __call__(self, stage: str, done: int, total: int | None, **figures: float) -> None:
        """`stage` is one word ("forward", "attribute", "train"); `total` is None where the end is not known.

        `figures` are running measurements worth showing beside the bar (loss, FVU, tokens).
        """


def silent(stage: str, done: int, total: int | None, **figures: float) -> None:
    """The progress of a caller who did not ask for any."""
