"""`search`: features by words, in what people call them, in their examples and in what they raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from thoughtscope.core.errors import UnknownFeature
from thoughtscope.microscope.features import Known, known
from thoughtscope.microscope.opening import Microscope

CANDIDATES = 200
"""Features whose automatic label is made, to see whether it has the words."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """A feature that was found by words."""

    feature: Known
    matched: Literal["label", "token"]
    what: str
    """The label; or which token, and how: `Dallas`, `after capital`, `raises Texas`."""

    def to_json(self) -> dict[str, Any]:
        return {**self.feature.to_json(), "matched": self.matched, "what": self.what}


def search(microscope: Microscope, text: str, *, n: int = 20) -> list[Match]:
    """The `n` features that have most to do with some words: first those whose label has them, people's before others.

    Then those whose strongest examples peak on the words or right after them, and those that raise a token with them.
    Raises `LimitExceeded` for too many words.
    """
    from thoughtscope.atlas import find_text

    words = text.casefold().split()
    dictionary, labels = microscope.dictionary, microscope.labels.of(microscope.dictionary.name)
    called = [place for place, label in sorted(labels.items()) if _has(label, words)]
    by_people = [match for place in called if (match := _named(microscope, place, labels)) is not None]
    found = [] if microscope.bank is None else find_text(microscope.bank, text, n=max(CANDIDATES, n))
    by_label, by_token = [], []
    for each in found:
        if each.layer >= len(dictionary.parts):
            continue  # a bank of another dictionary
        part = dictionary.parts[each.layer].name
        if f"{part}/{each.index}" in called:
            continue
        feature = known(microscope, part, each.index, labels=labels)
        if feature.label is not None and _has(feature.label, words):
            by_label.append(Match(feature=feature, matched="label", what=feature.label))
        else:
            by_token.append(Match(feature=feature, matched="token", what=each.what))
    return [*by_people, *by_label, *by_token][:n]


def _named(microscope: Microscope, place: str, labels: dict[str, str]) -> Match | None:
    """A feature that a person has named; None for one that this dictionary does not have."""
    part, _, index = place.rpartition("/")
    try:
        feature = known(microscope, part, int(index), labels=labels)
    except (UnknownFeature, ValueError):
        return None
    return Match(feature=feature, matched="label", what=labels[place])


def _has(label: str, words: list[str]) -> bool:
    return bool(words) and all(word in label.casefold() for word in words)
