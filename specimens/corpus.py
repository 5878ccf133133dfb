"""The specimen's corpus: five kinds of documents in fixed shares, and what is held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from specimens import facts, texts
from specimens.facts import (
    CoupletPrompt,
    OppositePrompt,
    SumPrompt,
    TwoHop,
    held_out_two_hop,
    train_two_hop,
)

__all__ = [
    "SHARES",
    "HeldOut",
    "Mixture",
    "evaluation_text",
    "held_out",
    "held_out_two_hop",
    "sample_documents",
    "train_two_hop",
]

SHARES = {"text": 0.24, "geography": 0.10, "opposites": 0.40, "sums": 0.20, "couplets": 0.06}
"""Share of each kind of document in the corpus, by tokens."""

MEAN_TOKENS = {
    "text": 61.0, "geography": 20.5, "opposites": 17.0, "sums": 38.0, "couplets": 17.0,
}  # fmt: skip
"""Mean tokens of a document of each kind once packed to 128, beginning token included."""


@dataclass(frozen=True)
class HeldOut:
    """Every prompt kept out of training, by task."""

    two_hop: tuple[TwoHop, ...]
    opposites: tuple[OppositePrompt, ...]
    sums: tuple[SumPrompt, ...]
    couplets: tuple[CoupletPrompt, ...]


def held_out() -> HeldOut:
    """The held-out prompts with their answers; they depend on the tables alone."""
    return HeldOut(
        tuple(held_out_two_hop()),
        tuple(facts.held_out_opposites()),
        tuple(facts.held_out_sums()),
        tuple(facts.held_out_couplets()),
    )


class Mixture:
    """Draws documents of all kinds in their shares.

    ``folder`` is the text folder (see ``specimens.texts``) or ``None`` for the grammars;
    ``shares`` replaces ``SHARES``.
    """

    def __init__(self, folder: Path | None = None, shares: dict[str, float] | None = None):
        shares = SHARES if shares is None else shares
        if set(shares) != set(SHARES) or min(shares.values()) < 0 or not sum(shares.values()):
            raise ValueError(f"shares {shares} must give a weight >= 0 for each of {list(SHARES)}")
        self._make: dict[str, Callable[[Random], str]] = {
            "text": lambda rng: texts.text(rng, folder),
            "geography": facts.geography,
            "opposites": facts.opposites,
            "sums": facts.sums,
            "couplets": facts.couplets,
        }
        self._kinds = list(SHARES)
        self._weights = [shares[kind] / MEAN_TOKENS[kind] for kind in self._kinds]

    def draw(self, rng: Random) -> tuple[str, str]:
        """One document: its kind and its text."""
        kind = rng.choices(self._kinds, self._weights)[0]
        return kind, self._make[kind](rng)


def sample_documents(seed: int, n: int, folder: Path | None = None) -> Iterator[str]:
    """``n`` documents of the training mixture; the same ones for the same seed and folder."""
    mixture, rng = Mixture(folder), Random(f"documents:{seed}")
    for _ in range(n):
        yield mixture.draw(rng)[1]


def evaluation_text(folder: Path | None = None) -> list[str]:
    """Stories and sentences that were kept out of training, one string each."""
    return list(texts.library(folder).evaluation)
