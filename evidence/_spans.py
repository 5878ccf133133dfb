"""Which tokens a stretch of a text is in."""

from __future__ import annotations

from collections.abc import Iterable


def tokens_of(offsets: Iterable[tuple[int, int]], before: str, words: str) -> list[int]:
    """Positions of the tokens that hold something of `words` behind `before`, by their byte ranges."""
    start = len(before.encode())
    end = start + len(words.encode())
    return [at for at, (left, right) in enumerate(offsets) if right > start and left < end]
