"""Contexts as an assistant reads them: plain, with tokens marked, or token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thoughtscope.atlas.explaining.contexts import Context

MARKED = 0.3
"""A token is marked where its activation is over this share of the context's largest."""
MARKS = (("«", "»"), ("⟦", "⟧"), ("<<", ">>"), ("{{", "}}"), ("⟪", "⟫"))
LEVELS = 10


def plain(text: str) -> str:
    """A text in one line, so that a list of them stays one."""
    return text.replace("\r", "").replace("\n", "⏎").replace("\t", "⇥").strip()


def marks_for(contexts: Sequence[Context]) -> tuple[str, str]:
    """A pair of marks that none of the texts holds; the first pair where each is in one."""
    texts = "\0".join(context.text for context in contexts)
    return next((pair for pair in MARKS if pair[0] not in texts and pair[1] not in texts), MARKS[0])


def peaks(context: Context) -> list[bool]:
    """The tokens at which a context is marked."""
    bar = MARKED * context.largest
    return [value > bar for value in context.values]


def marked(context: Context, flags: Sequence[bool], marks: tuple[str, str]) -> str:
    """The context's text in one line, each run of flagged tokens between marks; no mark parts a character."""
    data = context.text.encode()
    before, after = (mark.encode() for mark in marks)
    pieces, at = [], 0
    edges = np.flatnonzero(np.diff([0, *map(int, flags), 0])).tolist()
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        start, stop = context.offsets[first][0], context.offsets[end - 1][1]
        while start > at and data[start : start + 1] and _inside_a_character(data, start):
            start -= 1
        while stop < len(data) and _inside_a_character(data, stop):
            stop += 1
        pieces += [data[at:start], before, data[start:stop], after]
        at = max(at, stop)
    return plain(b"".join([*pieces, data[at:]]).decode())


def _inside_a_character(data: bytes, at: int) -> bool:
    return at < len(data) and data[at] & 0xC0 == 0x80


def levels(context: Context, largest: float) -> list[int]:
    """Each activation as a whole number from 0 to `LEVELS`, `largest` being that; silent and negative ones are 0."""
    scale = LEVELS / largest if largest > 0 else 0.0
    return [min(LEVELS, max(0, round(value * scale))) for value in context.values]


def piece(text: str) -> str:
    """A token in a list of tokens: one line, its space shown."""
    return plain(text.replace(" ", "·")) or "·"
