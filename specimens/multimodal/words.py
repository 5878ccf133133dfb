"""The words of ten digits and five shapes in English, French and German, and the sentences that they stand in.

A frame is a sentence with a gap, `{n}`, for what is named or drawn. In training a drawing may fill any gap in place of
the word. The frames under `HELD_OUT` are in no training document; most of their other words are, in other frames. No
frame has "un" or "une", "ein" or "one" but as the number.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from specimens.multimodal.glyphs import DIGITS, SHAPES, THINGS

LANGUAGES = ("en", "fr", "de")

_WORDS = {
    "en": "zero one two three four five six seven eight nine circle square triangle cross star",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf cercle carré triangle croix étoile",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun Kreis Quadrat Dreieck Kreuz Stern",
}
WORDS = {language: dict(zip(THINGS, text.split(), strict=True)) for language, text in _WORDS.items()}
"""By language and thing."""

FORMS = {
    "en": {"digit": ("{w}", "the number {w}", "the digit {w}"), "shape": ("{w}", "the shape {w}")},
    "fr": {"digit": ("{w}", "numéro {w}", "nombre {w}"), "shape": ("{w}", "forme {w}")},
    "de": {"digit": ("{w}", "Zahl {w}", "Nummer {w}"), "shape": ("{w}", "Form {w}")},
}
"""Without an article where a language would bend it after some prepositions, so that each form fits each frame."""

TRAINED = {
    "en": (
        "{who} sees {n} on the {place}.", "On the {place} stands {n}.", "The {place} shows {n} today.",
        "{who} has written {n} in the sand.", "Yesterday {who} painted {n} in red.",
        "Look at the {place}: {n}.", "{who} says that it was {n}.", "There is {n} above the {place}.",
        "{who} dreams of {n} at night.", "Under {n} hangs the {place}.", "{who} asks for {n} again.",
        "We found {n} near the {place}.", "{n} is what {who} likes.", "{n}, says {who}.",
    ),
    "fr": (
        "{who} voit {n} sur {place}.", "Sur {place} se trouve {n}.", "Aujourd'hui {place} montre {n}.",
        "{who} a écrit {n} dans le sable.", "Hier {who} a peint {n} en rouge.",
        "Regarde {place} : {n}.", "{who} dit que c'était {n}.", "Il y a {n} au-dessus, près de {place}.",
        "{who} rêve de {n} la nuit.", "Sous {n} est {place}.", "{who} demande encore {n}.",
        "Nous avons trouvé {n} devant {place}.", "{n}, voilà ce que {who} aime.", "{n}, dit {who}.",
    ),
    "de": (
        "{who} sieht {n} auf dem {place}.", "Auf dem {place} steht {n}.", "Der {place} zeigt heute {n}.",
        "{who} hat {n} in den Sand geschrieben.", "Gestern hat {who} {n} in Rot gemalt.",
        "Sieh auf den {place}: {n}.", "{who} sagt, dass es {n} war.", "Es gibt {n} über dem {place}.",
        "{who} träumt nachts von {n}.", "Unter {n} hängt der {place}.", "{who} fragt wieder nach {n}.",
        "Wir fanden {n} bei dem {place}.", "{n} ist, was {who} mag.", "{n}, sagt {who}.",
    ),
}  # fmt: skip
HELD_OUT = {
    "en": (
        "{who} found {n} under the {place}.", "Today {who} asks what {n} is.", "{who} likes {n} in red.",
        "Near the {place} we see {n} again.", "Above {n} stands {who}.", "At night the {place} shows {n} in the sand.",
    ),
    "fr": (
        "{who} a trouvé {n} sous {place}.", "Aujourd'hui {who} demande ce que dit {n}.", "{who} aime {n} en rouge.",
        "Devant {place} il y a encore {n}.", "Près de {n} se trouve {who}.",
        "La nuit {place} montre {n} sur le sable.",
    ),
    "de": (
        "{who} fand {n} unter dem {place}.", "Heute fragt {who}, was {n} ist.", "{who} mag {n} in Rot.",
        "Bei dem {place} steht wieder {n}.", "Über {n} hängt {who}.", "Nachts zeigt der {place} {n} in den Sand.",
    ),
}  # fmt: skip
PEOPLE = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Nora", "Paul")
PLACES = {
    "en": ("door", "wall", "table", "sign", "card", "bus", "house", "tree"),
    "fr": ("la porte", "le mur", "la table", "le panneau", "la carte", "le bus", "la maison", "le jardin"),
    "de": ("Tisch", "Turm", "Zettel", "Schrank", "Bus", "Baum", "Stein", "Wagen"),
}


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence, what it names, and where the naming word stands, in characters."""

    text: str
    thing: str
    language: str
    start: int
    end: int


def noun(thing: str, language: str, form: str = "{w}") -> str:
    """A thing's word in a form, such as "the number seven"."""
    return form.format(w=WORDS[language][thing])


def forms(thing: str, language: str) -> tuple[str, ...]:
    """The forms in which a language names a thing."""
    return FORMS[language]["digit" if thing in DIGITS else "shape"]


def filled(frame: str, what: str, language: str, rng: Random) -> str:
    """A frame with its gap filled, people and places drawn at random; capitalised as a sentence."""
    text = frame.format(n=what, who=rng.choice(PEOPLE), place=rng.choice(PLACES[language]))
    return text[0].upper() + text[1:]


def sentence(thing: str, language: str, rng: Random, *, held_out: bool) -> Sentence:
    """A sentence that names a thing, in a trained frame or in a held-out one."""
    frame = rng.choice((HELD_OUT if held_out else TRAINED)[language])
    named = noun(thing, language, rng.choice(forms(thing, language)))
    text = filled(frame, "\0" + named + "\1", language, rng).replace("\0", "", 1)
    if frame.startswith("{n}"):  # the mark came first and took the capital's place
        text = text[0].upper() + text[1:]
    end = text.index("\1")
    return Sentence(
        text=text.replace("\1", ""),
        thing=thing,
        language=language,
        start=end - len(WORDS[language][thing]),
        end=end,
    )


__all__ = [
    "DIGITS", "FORMS", "HELD_OUT", "LANGUAGES", "PEOPLE", "PLACES", "SHAPES", "TRAINED", "WORDS",
    "Sentence", "filled", "forms", "noun", "sentence",
]  # fmt: skip
