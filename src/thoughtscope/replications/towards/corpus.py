"""The corpus: English-like text from a small grammar, with contexts planted in it, and the truth of every byte.

Tokens are bytes, but for the letters of Arabic and Hebrew, which are tokens of their own: a letter of Tamil or Chinese
is three tokens, as scripts that are rare are to most tokenizers. Contexts share tokens on purpose: `A` is a letter of
DNA, base64, constants, the licence and plain text, so that no table of tokens tells them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
from jaxtyping import Int16, Int64

from thoughtscope.replications.towards.words import ADJECTIVES, LICENCE, NAMES, NICKS, NOUNS, VERBS


def _letters(*ranges: tuple[int, int]) -> str:
    return "".join(chr(code) for first, last in ranges for code in range(first, last + 1))


ARABIC, HEBREW = _letters((0x627, 0x63A), (0x641, 0x64A)), _letters((0x5D0, 0x5EA))
TAMIL = _letters((0xB95, 0xB9A), (0xBA8, 0xBB9))
LETTERS = ARABIC + HEBREW
"""Characters that are tokens, behind the 256 bytes."""
BEGIN = 256 + len(LETTERS)
"""The token before every document."""
VOCAB = BEGIN + 3
"""Behind it come the tokenizer's end and padding."""
_LETTER = {letter: 256 + number for number, letter in enumerate(LETTERS)}
LENGTH = 128
"""Tokens of a document, with the first one."""
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TAGS = ("div", "b", "p", "li", "span", "td")
_CLASSES = ("note", "main", "row", "menu")
Make = Callable[[Random], str]


@dataclass(frozen=True, kw_only=True)
class Context:
    """A kind of text that is planted: how often, and how a stretch of it is written."""

    share: float
    """Of all stretches of text."""
    make: Make


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents of one length with the context of every token."""

    ids: Int16[np.ndarray, "document pos"]
    truth: Int16[np.ndarray, "document pos"]
    """0 for plain text, else 1 + the number of the context in `CONTEXTS`."""

    def documents(self) -> Iterator[list[int]]:
        """Token ids, a list a document."""
        return iter(self.ids.tolist())

    def truth_of(
        self, ids: Int64[np.ndarray, " token"], starts: Int64[np.ndarray, " start"]
    ) -> Int16[np.ndarray, " token"]:
        """The truth of documents that come in another order, as a `Recording` holds them."""
        of = {row.tobytes(): truth for row, truth in zip(self.ids, self.truth, strict=True)}
        documents = np.split(ids.astype(np.int16), starts[1:-1])
        return np.concatenate([of[document.tobytes()] for document in documents])


def english(random: Random) -> str:
    """One to three sentences, now and then with a number, a name or capitals."""
    return " ".join(_sentence(random) for _ in range(random.randint(1, 3)))


def _sentence(random: Random) -> str:
    subject = random.choice(NAMES) if random.random() < 0.3 else f"the {_thing(random)}"
    said = f"{subject} {random.choice(VERBS)} the {_thing(random)}"
    chance = random.random()
    if chance < 0.15:
        said += f" in {random.randint(1700, 2030)}"
    elif chance < 0.25:
        said += f" of the {''.join(random.choices('ABCDEFGIMNOPRSTU', k=3))}"
    elif chance < 0.5:
        said += f" and {random.choice(VERBS)} a {_thing(random)}"
    return said[0].upper() + said[1:] + random.choice((".", ".", ".", "?"))


def _thing(random: Random) -> str:
    noun = random.choice(NOUNS)
    return f"{random.choice(ADJECTIVES)} {noun}" if random.random() < 0.4 else noun


def _script(letters: str, n_words: int, seed: int, longest: int) -> Make:
    """Words of a script: `n_words` fixed ones, frequent ones first."""
    drawn = Random(seed)
    words = ["".join(drawn.choices(letters, k=drawn.randint(2, longest))) for _ in range(n_words)]
    weights = [1 / (rank + 3) for rank in range(n_words)]
    return lambda random: " ".join(random.choices(words, weights, k=random.randint(3, 8)))


def _of(characters: str, shortest: int, longest: int) -> Make:
    return lambda random: "".join(random.choices(characters, k=random.randint(shortest, longest)))


def _snake(random: Random) -> str:
    names = ["_".join(random.choice(NOUNS).upper() for _ in range(random.randint(2, 4))) for _ in range(2)]
    return " = ".join(names)


def _html(random: Random) -> str:
    said = []
    for _ in range(random.randint(2, 4)):
        tag = random.choice(_TAGS)
        name = f' class="{random.choice(_CLASSES)}"' if random.random() < 0.4 else ""
        said.append(f"<{tag}{name}>{_thing(random)}</{tag}>")
    return "".join(said)


def _irc(random: Random) -> str:
    lines = []
    for _ in range(random.randint(2, 3)):
        time = f"[{random.randint(0, 23):02}:{random.randint(0, 59):02}]"
        lines.append(f"{time} <{random.choice(NICKS)}> {random.choice(VERBS)} {_thing(random)}")
    return "\n".join(lines)


def _licence(random: Random) -> str:
    start = random.randrange(len(LICENCE))
    return " ".join(LICENCE[start : start + random.randint(1, 3)])


def _phones(random: Random) -> str:
    def one() -> str:
        return f"({random.randint(200, 999)}) {random.randint(200, 999)}-{random.randint(0, 9999):04}"

    return ", ".join(one() for _ in range(random.randint(2, 4)))


def tokens_of(text: str) -> list[int]:
    """The ids of a text: letters that are tokens, and the bytes of everything else."""
    if text.isascii():
        return [*text.encode()]
    return [
        token for letter in text for token in ((_LETTER[letter],) if letter in _LETTER else letter.encode())
    ]


CONTEXTS: Mapping[str, Context] = {
    "arabic": Context(share=0.02, make=_script(ARABIC, 120, 1, 6)),
    "hebrew": Context(share=0.02, make=_script(HEBREW, 120, 2, 6)),
    "tamil": Context(share=0.015, make=_script(TAMIL, 80, 3, 4)),
    "chinese": Context(
        share=0.015, make=_script("".join(map(chr, Random(4).sample(range(0x4E00, 0x9FA5), 60))), 80, 4, 4)
    ),
    "dna": Context(share=0.02, make=_of("ACGT", 24, 72)),
    "base64": Context(share=0.025, make=_of(_BASE64, 24, 72)),
    "hex": Context(share=0.02, make=_of("0123456789abcdef", 24, 64)),
    "snake": Context(share=0.03, make=_snake),
    "html": Context(share=0.04, make=_html),
    "irc": Context(share=0.03, make=_irc),
    "licence": Context(share=0.02, make=_licence),
    "phone": Context(share=0.02, make=_phones),
}


def make_corpus(n_documents: int, *, seed: int) -> Corpus:
    """`n_documents` documents of `LENGTH` tokens: stretches of text and of contexts, cut where they are full."""
    random = Random(seed)
    names = ("", *CONTEXTS)
    weights = [1 - sum(each.share for each in CONTEXTS.values()), *(one.share for one in CONTEXTS.values())]
    makers = (english, *(each.make for each in CONTEXTS.values()))
    ids = np.full((n_documents, LENGTH), BEGIN, np.int16)
    truth = np.zeros((n_documents, LENGTH), np.int16)
    for row in range(n_documents):
        at = 1
        while at < LENGTH:
            kind = random.choices(range(len(names)), weights)[0]
            written = tokens_of(makers[kind](random))
            if at == 1 and random.random() < 0.5:  # half of the documents begin in the midst of something
                written = written[random.randrange(len(written)) :]
            end = min(at + len(written), LENGTH)
            ids[row, at:end] = written[: end - at]
            truth[row, at:end] = kind
            if end < LENGTH:
                ids[row, end] = ord(random.choice(" \n"))
            at = end + 1
    return Corpus(ids=ids, truth=truth)
