"""`Text`: a tokenised text as rules read it: what stands where, and which tokens lie in which passages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int

from thoughtscope.atlas.patterns import PASSAGES, TOKENS

if TYPE_CHECKING:
    from thoughtscope.atlas.bank import FeatureBank

_CONTINUES = re.compile(r"(?![぀-鿿가-힣])[\w'’-]*\w")
"""Tokens that go on with the word before them: of scripts that part words by blanks."""
REACH = 64
"""How far from a token rules look."""
_BETWEEN = "\n\n\0\n\n"
"""Between documents: no passage reaches over it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """Documents one after the other. `ids` count from 0 to `n_kinds`, which stands for "no token there"."""

    ids: Int[np.ndarray, " pos"]
    starts: Int[np.ndarray, " start"]
    """Where each document starts; the last entry is the number of tokens."""
    pieces: Sequence[str]
    """What each id looks like."""
    _known: dict[str, Bool[np.ndarray, " pos"]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_bank(cls, bank: FeatureBank) -> Text:
        """The text that a bank was made from."""
        pieces = [""] * (max(bank.pieces, default=0) + 1)
        for token, piece in bank.pieces.items():
            pieces[token] = piece
        return cls(ids=bank.ids.numpy().astype(np.int64), starts=bank.starts.numpy(), pieces=pieces)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_kinds(self) -> int:
        return len(self.pieces)

    @cached_property
    def document(self) -> Int[np.ndarray, " pos"]:
        """The number of each token's document."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @cached_property
    def place(self) -> Int[np.ndarray, " pos"]:
        """How many tokens of its document stand before each token."""
        return np.arange(len(self)) - np.repeat(self.starts[:-1], np.diff(self.starts))

    def beside(self, position: Int[np.ndarray, " n"], offset: int) -> Int[np.ndarray, " n"]:
        """The id `offset` tokens (up to `REACH`) after each position, before it if negative; `n_kinds` outside of its
        document."""
        assert abs(offset) <= REACH
        apart, where = self._apart
        return apart[where[position] + offset]

    @cached_property
    def _apart(self) -> tuple[Int[np.ndarray, " _"], Int[np.ndarray, " pos"]]:
        """The ids with `REACH` times "no token" around each document, and where each position went."""
        where = np.arange(len(self)) + REACH * (1 + self.document)
        apart = np.full(len(self) + REACH * len(self.starts), self.n_kinds, np.int32)
        apart[where] = self.ids
        return apart, where

    def word(self, position: Int[np.ndarray, " n"], back: int) -> Int[np.ndarray, " n"]:
        """The number, in `words`, of the word at each position as far as it is spelt there (`back` 0), or of the word
        `back` before; `len(words)` outside of its document."""
        numbers, _, before = self._worded
        at = position
        for _ in range(back):
            at = before[at]  # -1, the last entry, leads to itself
        return numbers[at]

    @property
    def words(self) -> dict[str, int]:
        """Every word, and every beginning of one, and its number."""
        return self._worded[1]

    @cached_property
    def _worded(self) -> tuple[Int[np.ndarray, " _"], dict[str, int], Int[np.ndarray, " _"]]:
        """By position: the word so far, by number; where the word before ended. One entry more, for "nowhere".

        A word is a run of letters and digits over tokens; whatever else is a token is a word of its own.
        """
        goes_on = [_CONTINUES.fullmatch(piece) is not None for piece in self.pieces]
        spelt = [piece.strip() for piece in self.pieces]
        numbers, before, known = (
            np.empty(len(self) + 1, np.int32),
            np.full(len(self) + 1, -1),
            dict[str, int](),
        )
        firsts, word, last = set(self.starts.tolist()), "", -1
        for at, token in enumerate(self.ids.tolist()):
            first = at in firsts
            if not first and goes_on[token] and word[-1:].isalnum():
                word += spelt[token]
            else:
                word, last = spelt[token], -1 if first else at - 1
            numbers[at], before[at] = known.setdefault(word, len(known)), last
        numbers[-1] = len(known)
        return numbers, known, before

    def alike(self, pattern: str) -> Bool[np.ndarray, " pos"]:
        """At which tokens a pattern of `TOKENS` or `PASSAGES` holds. Raises `KeyError` for another name."""
        if pattern not in self._known:
            found = self._kinds(pattern)[self.ids] if pattern in TOKENS else self._passages(pattern)
            self._known[pattern] = found
        return self._known[pattern]

    def _kinds(self, pattern: str) -> Bool[np.ndarray, " kind"]:
        return np.array([TOKENS[pattern].fullmatch(piece) is not None for piece in self.pieces])

    def _passages(self, pattern: str) -> Bool[np.ndarray, " pos"]:
        text, ends = self._spelt
        spans = np.array([match.span() for match in PASSAGES[pattern].finditer(text)]).reshape(-1, 2)
        spans = spans[spans[:, 1] > spans[:, 0]]
        lengths = np.array([len(piece) for piece in self.pieces])[self.ids]
        first = np.searchsorted(
            ends, spans[:, 0], side="right"
        )  # the first token that ends after the passage begins
        last = np.searchsorted(
            ends - lengths, spans[:, 1], side="left"
        )  # the first that begins where it has ended
        change = np.zeros(len(self) + 1, np.int64)
        np.add.at(change, first, 1)
        np.add.at(change, last, -1)
        return np.cumsum(change[:-1]) > 0

    @cached_property
    def _spelt(self) -> tuple[str, Int[np.ndarray, " pos"]]:
        """The whole text, and where each token ends in it."""
        documents, ends, at = [], [], 0
        for first, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            pieces = [self.pieces[token] for token in self.ids[first:end].tolist()]
            documents.append("".join(pieces))
            ends.append(at + np.cumsum([len(piece) for piece in pieces]))
            at += len(documents[-1]) + len(_BETWEEN)
        return _BETWEEN.join(documents), np.concatenate(ends)
