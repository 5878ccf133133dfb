"""What the generator meant by each piece of a document: the concepts that features can be held against.

A concept is named "family/value": `state/Texas` is there at the last token of every place in Texas. What a document
says is found again from its text, which is what the tables and templates of `facts.py` wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from specimens.facts import LANGUAGE_NAMES, families
from specimens.tables import LANGUAGES, capitals, cities, pairs

SUM = re.compile(r"(\d+)(?:\+| \+ | plus )(\d+)(=| = | is )(\d+)")
QUOTED = re.compile(r'"([^"\n]+)"')
HAN = re.compile(r"[\u4e00-\u9fff]")
FRENCH = re.compile(
    r"\b(?:le|la|est|contraire|mot|pour|pas|mais|en anglais|en français|en chinois)\b|^l'", re.IGNORECASE
)
PLACES_OF_DIGITS = ("ones", "tens", "hundreds")


@dataclass(frozen=True)
class Mention:
    """A concept in a text, in characters; at all tokens of the stretch if `whole`, else at its last one."""

    concept: str
    start: int
    end: int
    whole: bool = False


def mentions(text: str) -> Iterator[Mention]:
    """Every concept of one document, in no order."""
    yield from _places(text)
    yield from _sums(text)
    yield from _couplet(text)
    yield from _words(text)
    yield from _languages(text)


# --- geography -----------------------------------------------------------------------------------


@cache
def _names() -> dict[str, tuple[str, str]]:
    """Name of a place -> (state, what it is)."""
    found = {city.name: (city.state, "city") for city in cities()}
    found |= {capital: (state, "capital") for state, capital in capitals().items()}
    return found | {state: (state, "name") for state in capitals()}


@cache
def _any_name() -> re.Pattern[str]:
    """The longest name first, so that "Arkansas City" is not taken for a state."""
    names = sorted(map(re.escape, _names()), key=len, reverse=True)
    return re.compile(r"\b(?:" + "|".join(names) + r")\b")


def _places(text: str) -> Iterator[Mention]:
    """`state/X` at every place in X; `name/X` at the state's name; `capital/X`; `says/X` right before either of them
    where a place in X stands earlier in the line."""
    start = 0
    for line in text.split("\n"):
        known: set[str] = set()
        for match in _any_name().finditer(line):
            state, what = _names()[match[0]]
            left, right = start + match.start(), start + match.end()
            yield Mention(f"state/{state}", left, right)
            if what != "city":
                yield Mention(f"{what}/{state}", left, right)
                if state in known:  # the space before a name belongs to the name's token
                    yield Mention(f"says {what}/{state}", start, left - 1)
            known.add(state)
        start += len(line) + 1


# --- sums ----------------------------------------------------------------------------------------


def _sums(text: str) -> Iterator[Mention]:
    """Each digit, and what it is: of which number, at which place. At the equals sign, the digits that the result
    begins with and ends on."""
    for match in SUM.finditer(text):
        for name, group in (("first", 1), ("second", 2), ("result", 4)):
            for place, at in zip(
                PLACES_OF_DIGITS, range(match.end(group) - 1, match.start(group) - 1, -1), strict=False
            ):
                yield Mention(f"digit/{text[at]}", at, at + 1)
                yield Mention(f"{name} {place}/{text[at]}", at, at + 1)
        yield Mention(f"sum ends on/{match[4][-1]}", match.start(3), match.end(3))
        yield Mention(f"sum begins with/{match[4][0]}", match.start(3), match.end(3))


# --- couplets ------------------------------------------------------------------------------------


@cache
def _rhymes() -> dict[str, str]:
    """Last word of a line -> its family."""
    return {noun.noun: family for family, nouns in families().items() for noun in nouns} | {
        "grab it": "abbit"
    }


def _couplet(text: str) -> Iterator[Mention]:
    """`rhyme/F` at the last word of either line; `rhymes with/F` at the line's end, where the rhyme is planned."""
    first, _, second = text.partition("\n")
    for word, family in _rhymes().items():
        if first.endswith(f" {word},") and " was like a " in second:
            end = len(first) - 1
            yield Mention(f"rhyme/{family}", end - len(word), end)
            yield Mention(f"rhymes with/{family}", end + 1, end + 2)
            yield Mention(f"rhyme/{family}", len(text) - 1, len(text))


# --- words and languages -------------------------------------------------------------------------


@cache
def _meanings() -> dict[str, tuple[str, str]]:
    """A word of a table of opposites -> (its meaning, named by the English word; its language)."""
    return {
        side[language]: (side["en"], language)
        for pair in pairs()
        for side in (pair.first, pair.second)
        for language in LANGUAGES
    }


def _words(text: str) -> Iterator[Mention]:
    """`meaning/hot` at the word in any language; `word in/fr` at a French one; `asks for/fr` at the language's name."""
    quoted = [match for match in QUOTED.finditer(text) if match[1] in _meanings()]
    for match in quoted:
        meaning, language = _meanings()[match[1]]
        yield Mention(f"meaning/{meaning}", match.start(1), match.end(1))
        yield Mention(f"word in/{language}", match.start(1), match.end(1))
    if quoted:
        for names in LANGUAGE_NAMES.values():
            for language, name in names.items():
                for match in re.finditer(re.escape(name), text):
                    yield Mention(f"asks for/{language}", match.start(), match.end())


def _languages(text: str) -> Iterator[Mention]:
    """`language/fr` at every token of a sentence in French, whatever words it quotes."""
    start = 0
    for line in text.split("\n"):
        bare = QUOTED.sub('""', line)
        language = "zh" if HAN.search(bare) else "fr" if FRENCH.search(bare) else "en"
        if re.search(r"[^\W\d]{2}|[\u4e00-\u9fff]", bare):
            yield Mention(f"language/{language}", start, start + len(line), whole=True)
        start += len(line) + 1
