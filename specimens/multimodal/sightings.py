"""Where a thing is seen or read: drawings and words in sentences, as rows that a detector is judged on.

Each of the four kinds of sightings (drawings, and the words of three languages) has the same sentences with the same
rows: the thing itself, which is the whole drawing or the naming word, and each other word of the sentence, which names
nothing. A unit's value on a row is its largest activation on the row's tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from specimens.multimodal.drawings import drawing
from specimens.multimodal.words import HELD_OUT, LANGUAGES, THINGS, TRAINED, filled, sentence

KINDS = ("drawings", *LANGUAGES)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A sentence with one thing in it."""

    kind: str
    """Of `KINDS`."""
    thing: str
    text: str
    rows: tuple[tuple[int, int], ...]
    """First and last character (exclusive) of each row; the first row is the thing itself."""


def sightings(seed: int, each: int, *, held_out: bool) -> list[Sighting]:
    """`each` of every kind and thing. Held-out ones have styles and frames that training never shows."""
    name = "held out" if held_out else "tuning"
    rng = Random(f"sightings:{name}:{seed}")
    return [_one(kind, thing, rng, held_out) for kind in KINDS for thing in THINGS for _ in range(each)]


def _one(kind: str, thing: str, rng: Random, held_out: bool) -> Sighting:
    if kind == "drawings":
        language = rng.choice(LANGUAGES)
        drawn = drawing(thing, rng, held_out=held_out)
        text = filled(rng.choice((HELD_OUT if held_out else TRAINED)[language]), drawn, language, rng)
        start = text.index(drawn)
        end = start + len(drawn)
    else:
        named = sentence(thing, kind, rng, held_out=held_out)
        text, start, end = named.text, named.start, named.end
    others = [match.span() for match in _WORD.finditer(text)]
    apart = [(left, right) for left, right in others if right <= start or left >= end]
    return Sighting(kind=kind, thing=thing, text=text, rows=((start, end), *apart))


def occurrences(labels: Sequence[str], firsts: Sequence[int]) -> dict[str, list[int]]:
    """By thing, the rows where it is, given each sentence's label and its first row."""
    found: dict[str, list[int]] = {thing: [] for thing in THINGS}
    for label, row in zip(labels, firsts, strict=True):
        found[label].append(row)
    return found
