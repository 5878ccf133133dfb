"""`Rule`: a label that can be run: it says at which tokens of any text a feature is active, and so can be wrong.

A rule is a small tree: it holds where one of its clauses does, and a clause where all of its conditions do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from thoughtscope.atlas.patterns import PASSAGES, TOKENS
from thoughtscope.atlas.text import Text
from thoughtscope.core.errors import ThoughtscopeError

SHOWN = 4
"""Tokens of a set that a label names."""
_PLACES = {0: "", -1: "after ", -2: "two tokens after ", -3: "three tokens after ", 1: "before "}


@runtime_checkable
class Condition(Protocol):
    """One thing that a rule asks of a token."""

    def holds(self, text: Text, at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """At which of these positions it does."""
        ...

    def say(self, pieces: Sequence[str]) -> str: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Among:
    """The token `at` places after (before, if negative) is one of some tokens."""

    tokens: tuple[int, ...]
    at: int = 0

    def holds(self, text: Text, at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        return _table(self.tokens, text)[text.beside(at, self.at)]

    def say(self, pieces: Sequence[str]) -> str:
        return _PLACES.get(self.at, f"{abs(self.at)} tokens after ") + _listed(self.tokens, pieces)

    def to_json(self) -> dict[str, Any]:
        return {"among": list(self.tokens), "at": self.at}


@dataclass(frozen=True, kw_only=True)
class Spelt:
    """The word at the token, as far as it is spelt there (`back` 0), or the one `back` words before, is one of some."""

    words: tuple[str, ...]
    back: int = 0

    def holds(self, text: Text, at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        table = np.zeros(len(text.words) + 1, dtype=bool)
        table[[text.words[word] for word in self.words if word in text.words]] = True
        return table[text.word(at, self.back)]

    def say(self, pieces: Sequence[str]) -> str:
        before = ("the word ", "the word after ", "the second word after ", "the third word after ")
        return (before[self.back] if self.back < len(before) else f"{self.back} words after ") + _quoted(
            self.words
        )

    def to_json(self) -> dict[str, Any]:
        return {"spelt": list(self.words), "back": self.back}


@dataclass(frozen=True, kw_only=True)
class Within:
    """One of some tokens is among the `last` before this one."""

    tokens: tuple[int, ...]
    last: int

    def holds(self, text: Text, at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        table, found = _table(self.tokens, text), np.zeros(len(at), dtype=bool)
        for back in range(1, self.last + 1):
            found |= table[text.beside(at, -back)]
        return found

    def say(self, pieces: Sequence[str]) -> str:
        return f"up to {self.last} tokens after {_listed(self.tokens, pieces)}"

    def to_json(self) -> dict[str, Any]:
        return {"within": list(self.tokens), "last": self.last}


@dataclass(frozen=True, kw_only=True)
class Like:
    """The token `at` places before or after is of a kind (`TOKENS`), or lies in a passage (`PASSAGES`)."""

    pattern: str
    at: int = 0

    def __post_init__(self) -> None:
        if self.pattern not in TOKENS and self.pattern not in PASSAGES:
            known = ", ".join(sorted({*TOKENS, *PASSAGES}))
            raise ThoughtscopeError(f"A rule's pattern is one of {known}; got {self.pattern!r}.")

    def holds(self, text: Text, at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        inside = text.beside(at, self.at) < text.n_kinds
        return inside & text.alike(self.pattern)[np.clip(at + self.at, 0, len(text) - 1)]

    def say(self, pieces: Sequence[str]) -> str:
        of_passage = self.pattern in PASSAGES
        return (
            _PLACES.get(self.at, f"{abs(self.at)} tokens after ")
            + ("in " if of_passage else "")
            + self.pattern
        )

    def to_json(self) -> dict[str, Any]:
        return {"like": self.pattern, "at": self.at}


@dataclass(frozen=True, kw_only=True)
class Early:
    """The token is one of the first `n` of its document."""

    n: int

    def holds(self, text: Text, at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        return text.place[at] < self.n

    def say(self, pieces: Sequence[str]) -> str:
        return "the first token" if self.n == 1 else f"the first {self.n} tokens"

    def to_json(self) -> dict[str, Any]:
        return {"early": self.n}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Where a feature is said to be active: where one of the clauses holds. Without any, nowhere."""

    clauses: tuple[tuple[Condition, ...], ...] = ()

    def holds(self, text: Text, at: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """At which of these positions of a text the rule says that the feature is active."""
        found = np.zeros(len(at), dtype=bool)
        for clause in self.clauses:
            here = np.flatnonzero(~found)
            for condition in clause:
                here = here[condition.holds(text, at[here])]
            found[here] = True
        return found

    def say(self, pieces: Sequence[str]) -> str:
        """The rule in words: `“is”, after “capital”; or in a quotation`."""
        return "; or ".join(
            ", ".join(condition.say(pieces) for condition in _in_order(clause)) for clause in self.clauses
        )

    def to_json(self) -> dict[str, Any]:
        """The rule as plain JSON values; `from_json` is the exact inverse."""
        return {"any": [[condition.to_json() for condition in clause] for clause in self.clauses]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rule:
        """Raises `ThoughtscopeError` for what is no rule."""
        try:
            clauses = data["any"]
            return cls(clauses=tuple(tuple(map(_condition, clause)) for clause in clauses))
        except (KeyError, TypeError, ValueError) as error:
            raise ThoughtscopeError(f"Not a rule: {error!r:.100}. Got {data!r:.200}.") from None


def _condition(data: Mapping[str, Any]) -> Condition:
    match dict(data):
        case {"among": tokens, "at": int(at), **rest} if not rest:
            return Among(tokens=tuple(int(token) for token in tokens), at=at)
        case {"spelt": words, "back": int(back), **rest} if not rest:
            return Spelt(words=tuple(str(word) for word in words), back=back)
        case {"within": tokens, "last": int(last), **rest} if not rest:
            return Within(tokens=tuple(int(token) for token in tokens), last=last)
        case {"like": str(pattern), "at": int(at), **rest} if not rest:
            return Like(pattern=pattern, at=at)
        case {"early": int(n), **rest} if not rest:
            return Early(n=n)
    raise ValueError(f"{data!r:.100} is no condition")


def _in_order(clause: Sequence[Condition]) -> list[Condition]:
    """What is asked of the token itself first: `“the” after “in”`."""
    return sorted(clause, key=lambda condition: getattr(condition, "at", getattr(condition, "back", 1)) != 0)


def _table(tokens: Sequence[int], text: Text) -> Bool[np.ndarray, " kind"]:
    """By id, whether it is one of the tokens; False for "no token there"."""
    table = np.zeros(text.n_kinds + 1, dtype=bool)
    known = [token for token in tokens if 0 <= token < text.n_kinds]
    table[known] = True
    return table


def _listed(tokens: Sequence[int], pieces: Sequence[str]) -> str:
    return _quoted([pieces[token] if 0 <= token < len(pieces) else "?" for token in tokens])


def _quoted(texts: Sequence[str]) -> str:
    names = list(dict.fromkeys(text.replace("\n", "↵").strip() or "␣" for text in texts))
    listed = ", ".join(f"“{name}”" for name in names[:SHOWN])
    return listed if len(names) <= SHOWN else f"{listed} … ({len(names)})"
