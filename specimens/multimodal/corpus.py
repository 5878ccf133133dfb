"""Documents in which drawings and words meet: one and the same question may be asked of either.

Wherever a document names a digit or a shape, a drawing may stand in place of the word, or the word of another language.
So a model that has a notion of seven, however it is shown, has an easier time than one that learns every task for every
kind of seven. In `answering`, the answer follows at once, so that the notion must be there where the seven is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from specimens.multimodal.drawings import drawing
from specimens.multimodal.glyphs import DIGITS, SHAPES, THINGS
from specimens.multimodal.words import LANGUAGES, TRAINED, WORDS, filled, forms, noun

DRAWN = 0.5
"""The share of gaps that a drawing fills; two in a document at most."""
GLOSSED = 0.3
"""The share of things in plain sentences after which their word is said once more."""
FOREIGN = 0.15
"""The share of words that are those of another language than the sentence's."""

NAMED_IN = {
    "en": {"en": "in English", "fr": "in French", "de": "in German"},
    "fr": {"en": "en anglais", "fr": "en français", "de": "en allemand"},
    "de": {"en": "auf Englisch", "fr": "auf Französisch", "de": "auf Deutsch"},
}
STEPS = {
    "en": ("minus one, ", "", "plus one, "),
    "fr": ("moins un, ", "", "plus un, "),
    "de": ("minus eins, ", "", "plus eins, "),
}
"""What to do with what follows: one less, nothing, one more."""
NEXT = {
    "en": ("{x} plus one is {a}.", "After {x} comes {a}."),
    "fr": ("{x} plus un font {a}.", "Après {x} vient {a}."),
    "de": ("{x} plus eins ist {a}.", "Nach {x} kommt {a}."),
}
BEFORE = {"en": "Before {x} comes {a}.", "fr": "Avant {x} vient {a}.", "de": "Vor {x} kommt {a}."}
SUM = {"en": "{x} plus {y} is {a}.", "fr": "{x} plus {y} font {a}.", "de": "{x} plus {y} ist {a}."}
LARGER = {
    "en": "The larger of {x} and {y} is {a}.",
    "fr": "Le plus grand de {x} et {y} est {a}.",
    "de": "Die größere von {x} und {y} ist {a}.",
}
PARITY = {
    "en": ("{x}, even or odd: {a}.", "even", "odd"),
    "fr": ("{x}, pair ou impair : {a}.", "pair", "impair"),
    "de": ("{x}, gerade oder ungerade: {a}.", "gerade", "ungerade"),
}
SAME = {
    "en": ("{x} and {y}: {a}.", "the same", "different"),
    "fr": ("{x} et {y} : {a}.", "pareil", "différent"),
    "de": ("{x} und {y}: {a}.", "gleich", "verschieden"),
}
DRAW = {"en": "Draw {x}: {a}", "fr": "Dessine {x} : {a}", "de": "Zeichne {x}: {a}"}
RECALL = {
    "en": ("What was it? {a}.", "And plus one? {a}."),
    "fr": ("C'était quoi ? {a}.", "Et plus un ? {a}."),
    "de": ("Was war es? {a}.", "Und plus eins? {a}."),
}
CORNERS = {"circle": "0", "triangle": "3", "square": "4"}
HAS_CORNERS = {
    "en": "The corners of {x}: {a}.",
    "fr": "Les coins de {x} : {a}.",
    "de": "Die Ecken von {x}: {a}.",
}
KINDS = {
    "en": ("{x} is a {a}.", "digit", "shape"),
    "fr": ("{x}, c'est : {a}.", "chiffre", "forme"),
    "de": ("{x} gehört zu: {a}.", "Ziffer", "Form"),
}  # fmt: skip


def shown(thing: str, language: str, rng: Random, drawn: float) -> str:
    """A thing, as a drawing or as its word in some form, mostly of the sentence's own language."""
    if rng.random() < drawn:
        return drawing(thing, rng)
    other = rng.choice(LANGUAGES) if rng.random() < FOREIGN else language
    form = rng.choice(forms(thing, other)) if rng.random() < 0.4 else "{w}"
    return noun(thing, other, form)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def mention(rng: Random, drawn: float) -> str:
    """A thing in a plain sentence, often with a question about it after."""
    language, thing = rng.choice(LANGUAGES), rng.choice(THINGS)
    named = shown(thing, language, rng, drawn)
    if rng.random() < GLOSSED:
        named += f" {WORDS[language][thing]}"
    text = filled(rng.choice(TRAINED[language]), named, language, rng)
    asked = rng.random()
    if asked < 0.35:
        return f"{text} {RECALL[language][0].format(a=WORDS[language][thing])}"
    if asked < 0.6 and thing in DIGITS[:-1]:
        return f"{text} {RECALL[language][1].format(a=WORDS[language][DIGITS[int(thing) + 1]])}"
    return text


def naming(rng: Random, drawn: float) -> str:
    """A thing, and its word in a language that is asked for."""
    asked, wanted, thing = rng.choice(LANGUAGES), rng.choice(LANGUAGES), rng.choice(THINGS)
    colon = " : " if asked == "fr" else ": "
    return _sentence(
        f"{shown(thing, rng.choice(LANGUAGES), rng, drawn)} {NAMED_IN[asked][wanted]}{colon}{WORDS[wanted][thing]}."
    )


def heading(asked: str, wanted: str, step: int) -> str:
    """What is to be answered to each thing that follows: its name in a language, or that of the digit beside it."""
    return _sentence(f"{STEPS[asked][step + 1]}{NAMED_IN[asked][wanted]}{' :' if asked == 'fr' else ':'}")


def answering(rng: Random, drawn: float) -> str:
    """A heading, and things in all guises, each with its answer right after it."""
    wanted, step = rng.choice(LANGUAGES), rng.choice((-1, 0, 0, 1))
    can = THINGS if step == 0 else DIGITS[:-1] if step == 1 else DIGITS[1:]
    guises = [drawn > 0] * rng.choice((1, 2)) + [False] * rng.choice((2, 3, 4))
    rng.shuffle(guises)
    pairs = []
    for as_drawing in guises:
        thing = rng.choice(can)
        answer = thing if step == 0 else DIGITS[int(thing) + step]
        pairs.append(f"{shown(thing, rng.choice(LANGUAGES), rng, float(as_drawing))} {WORDS[wanted][answer]}")
    return f"{heading(rng.choice(LANGUAGES), wanted, step)} {', '.join(pairs)}."


def counting(rng: Random, drawn: float) -> str:
    """What comes after or before, small sums, the larger of two."""
    language = rng.choice(LANGUAGES)
    kind = rng.choice(("next", "next", "before", "sum", "larger"))
    if kind in ("next", "before"):
        x = rng.randrange(9) + (kind == "before")
        frame = rng.choice(NEXT[language]) if kind == "next" else BEFORE[language]
        given, answer = {"x": x}, x + (1 if kind == "next" else -1)
    else:
        x = rng.randrange(10)
        y = rng.randrange(10 - x) if kind == "sum" else rng.randrange(10)
        frame = (SUM if kind == "sum" else LARGER)[language]
        given, answer = {"x": x, "y": y}, x + y if kind == "sum" else max(x, y)
    gaps = {name: shown(str(value), language, rng, drawn) for name, value in given.items()}
    return _sentence(frame.format(**gaps, a=WORDS[language][str(answer)]))


def judging(rng: Random, drawn: float) -> str:
    """Even or odd, digit or shape, the same or not, how many corners."""
    language = rng.choice(LANGUAGES)
    kind = rng.choice(("parity", "same", "same", "kind", "corners"))
    if kind == "parity":
        thing = rng.choice(DIGITS)
        frame, *answers = PARITY[language]
        gaps = {"x": shown(thing, language, rng, drawn), "a": answers[int(thing) % 2]}
    elif kind == "kind":
        thing = rng.choice(THINGS)
        frame, *answers = KINDS[language]
        gaps = {"x": shown(thing, language, rng, drawn), "a": answers[thing in SHAPES]}
    elif kind == "corners":
        thing = rng.choice(tuple(CORNERS))
        frame = HAS_CORNERS[language]
        gaps = {"x": shown(thing, language, rng, drawn), "a": WORDS[language][CORNERS[thing]]}
    else:
        first = rng.choice(THINGS)
        second = first if rng.random() < 0.5 else rng.choice(THINGS)
        frame, *answers = SAME[language]
        gaps = {
            "x": shown(first, language, rng, drawn),
            "y": shown(second, language, rng, drawn),
            "a": answers[first != second],
        }
    return _sentence(frame.format(**gaps))


def sketching(rng: Random, drawn: float) -> str:
    """A word, and a drawing of what it names."""
    language, thing = rng.choice(LANGUAGES), rng.choice(THINGS)
    if not drawn:
        return naming(rng, drawn)
    return DRAW[language].format(x=shown(thing, language, rng, drawn / 5), a=drawing(thing, rng))


DOCUMENTS: dict[str, tuple[float, Callable[[Random, float], str]]] = {
    "answering": (0.45, answering),
    "mention": (0.2, mention),
    "naming": (0.05, naming),
    "counting": (0.15, counting),
    "judging": (0.1, judging),
    "sketching": (0.05, sketching),
}
"""Kinds of documents: the share of each among them, and what makes one."""


class Mixture:
    """Draws documents of all kinds in their shares, as `specimens.packing.chunk` asks for them.

    `drawn` is the share of gaps that a drawing fills; with 0 there is none at all.
    """

    def __init__(self, drawn: float = DRAWN):
        self.drawn = drawn

    def draw(self, rng: Random) -> tuple[str, str]:
        """One document: its kind and its text."""
        kind = rng.choices(list(DOCUMENTS), [share for share, _ in DOCUMENTS.values()])[0]
        return kind, DOCUMENTS[kind][1](rng, self.drawn)


def sample_documents(seed: int, n: int, *, wordy: float = 0.0) -> Iterator[str]:
    """`n` documents of the training mixture; the same ones for the same seed.

    With `wordy`, that share of them has no drawing, so that words are not lost among the many tokens of drawings.
    """
    mixtures, rng = (Mixture(), Mixture(0.0)), Random(f"documents:{seed}")
    for _ in range(n):
        yield mixtures[wordy > 0 and rng.random() < wordy].draw(rng)[1]
