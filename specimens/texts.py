"""Running text: stories and everyday sentences from a folder, or from small grammars.

With a folder, three files are read below it: ``tinystories_lc/tinystories.txt`` (stories, one
after another, paragraphs separated by blank lines), ``tatoeba/fra-eng.txt`` and
``tatoeba/cmn-eng.txt`` (English, tab, translation). A fiftieth of the stories and sentences,
chosen by checksum, is kept for evaluation and never trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from zlib import crc32

from specimens.tables import pairs

STORIES = "tinystories_lc/tinystories.txt"
SENTENCES = {"fr": "tatoeba/fra-eng.txt", "zh": "tatoeba/cmn-eng.txt"}
LABELS = {"en": "English", "fr": "Français", "zh": "中文"}
SPACE = {"en": " ", "fr": " ", "zh": ""}
OPPOSITE_WORDS = ("opposite", "contraire", "反义")
STORY_SHARE = 0.22
"""Share of stories among text documents, by number; they are longer than sentences."""


class TextError(ValueError):
    """The text folder lacks a file that the corpus needs."""


@dataclass(frozen=True)
class Library:
    """Text split for use: stories as paragraph tuples, sentence pairs as (language, en, other)."""

    stories: tuple[tuple[str, ...], ...]
    sentences: tuple[tuple[str, str, str], ...]
    evaluation: tuple[str, ...]


def is_evaluation(text: str) -> bool:
    """Whether a story or an English sentence belongs to the evaluation text (a fiftieth)."""
    return crc32(f"evaluation:{text}".encode()) % 50 == 0


@cache
def _held_words() -> dict[str, dict[str, str]]:
    """Per language, each held-out word -> its opposite."""
    out: dict[str, dict[str, str]] = {"en": {}, "fr": {}, "zh": {}}
    for pair in pairs():
        if pair.held:
            a, b = pair.first[pair.held], pair.second[pair.held]
            out[pair.held].update({a: b, b: a})
    return out


def opposes_held(sentence: str, lang: str) -> bool:
    """Whether a sentence holds both words of a pair held out in its language, or the word
    "opposite" itself: such text is left out of training."""
    if any(word in sentence for word in OPPOSITE_WORDS):
        return True
    held = _held_words()[lang]
    if lang == "zh":
        return any(a in sentence and b in sentence for a, b in held.items())
    words = set(re.findall(r"\w+", sentence.lower()))
    return any(held.get(word) in words for word in words)


def _read(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise TextError(f"text folder {folder} has no {name}; give a folder that has, or none")
    return path.read_text(encoding="utf-8")


def _stories(text: str) -> Iterator[tuple[str, ...]]:
    """Stories as paragraphs: a single newline ends a story, a blank line a paragraph."""
    for story in re.split(r"(?<!\n)\n(?!\n)", text):
        paragraphs = tuple(p.strip() for p in story.split("\n\n") if p.strip())
        if paragraphs:
            yield paragraphs


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        columns = line.split("\t")
        if len(columns) >= 2 and len(columns[0]) + len(columns[1]) < 200:
            yield columns[0], columns[1].replace("\u202f", " ").replace("\xa0", " ")


@cache
def library(folder: Path | None = None) -> Library:
    """All text of ``folder``, split into training and evaluation; ``None`` uses the grammars."""
    raw_stories = _stories(_read(folder, STORIES)) if folder else _grammar_stories()
    stories, evaluation = [], []
    for story in raw_stories:
        if is_evaluation(story[0]):
            evaluation.append("\n\n".join(story))
        elif not any(opposes_held(s, "en") for p in story for s in re.split(r"[.!?]", p)):
            stories.append(story)
    sentences = []
    for lang, name in SENTENCES.items():
        rows = _sentences(_read(folder, name)) if folder else _grammar_sentences(lang)
        for english, other in rows:
            if is_evaluation(english):
                evaluation.append(f"{LABELS['en']}: {english}\n{LABELS[lang]}: {other}")
            elif not (opposes_held(english, "en") or opposes_held(other, lang)):
                sentences.append((lang, english, other))
    return Library(tuple(stories), tuple(sentences), tuple(dict.fromkeys(evaluation)))


@cache
def _by_language(folder: Path | None) -> dict[str, tuple[tuple[str, str, str], ...]]:
    rows = library(folder).sentences
    return {lang: tuple(row for row in rows if row[0] == lang) for lang in SENTENCES}


def text(rng: Random, folder: Path | None = None) -> str:
    """A story from one of its paragraphs on, a few sentences, or sentences with translations."""
    if rng.random() < STORY_SHARE:
        story = rng.choice(library(folder).stories)
        start = 0 if rng.random() < 0.5 else rng.randrange(len(story))
        return "\n\n".join(story[start:])
    lang = rng.choice(("fr", "fr", "zh"))
    rows = rng.choices(_by_language(folder)[lang], k=rng.choice((1, 2, 3)))
    if rng.random() < 0.5:
        turn = rng.random() < 0.5
        lines = [(f"{LABELS['en']}: {a}", f"{LABELS[lang]}: {b}") for _, a, b in rows]
        return "\n".join(line for pair in lines for line in (pair if turn else pair[::-1]))
    shown = rng.choice(("en", lang, lang))
    return SPACE[shown].join(row[1] if shown == "en" else row[2] for row in rows)


# --- grammars, for when there is no folder -------------------------------------------------------

_NAMES = ("lily", "tom", "ben", "mia", "sam", "anna", "max", "lucy")
_ANIMALS = {
    "cat": ("le chat", "猫"),
    "dog": ("le chien", "狗"),
    "bird": ("l'oiseau", "鸟"),
    "fish": ("le poisson", "鱼"),
    "horse": ("le cheval", "马"),
}
_PLACES = {
    "the garden": ("dans le jardin", "在花园里"),
    "the park": ("dans le parc", "在公园里"),
    "the house": ("dans la maison", "在家里"),
    "the school": ("à l'école", "在学校"),
}
_ACTS = {
    "plays": ("joue", "玩"),
    "eats": ("mange", "吃东西"),
    "runs": ("court", "跑步"),
    "waits": ("attend", "等着"),
    "sings": ("chante", "唱歌"),
}
_FINDS = ("ball", "shell", "box", "flower", "stone", "hat", "toy", "leaf")
_FEELS = ("excited", "curious", "surprised", "worried", "glad")


def _grammar_stories(count: int = 4000) -> Iterator[tuple[str, ...]]:
    rng = Random("stories")
    for _ in range(count):
        name, friend = rng.sample(_NAMES, 2)
        thing, animal = rng.choice(_FINDS), rng.choice(tuple(_ANIMALS))
        place, feel = rng.choice(tuple(_PLACES)), rng.choice(_FEELS)
        yield (
            f"once upon a time, {name} went to {place} with a {animal}. {name} was {feel}.",
            f'there was a {thing} under a tree. "look, a {thing}!" said {name}. {friend} came'
            f" to {place} too, and {friend} wanted to hold the {thing}.",
            f"they shared the {thing}. the {animal} was {rng.choice(_FEELS)}. {name} and"
            f" {friend} thanked each other and went home.",
        )


def _grammar_sentences(lang: str) -> Iterator[tuple[str, str]]:
    side = 0 if lang == "fr" else 1
    for animal, animals in _ANIMALS.items():
        for place, places in _PLACES.items():
            for act, acts in _ACTS.items():
                english = f"The {animal} {act} in {place}."
                if side == 0:
                    french = f"{animals[0]} {acts[0]} {places[0]}."
                    yield english, french[0].upper() + french[1:]
                else:
                    yield english, f"{animals[1]}{places[1]}{acts[1]}。"
