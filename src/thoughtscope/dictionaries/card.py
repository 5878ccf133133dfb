"""`Card`: what is known of a dictionary beside its weights: published scores, a self-test, where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """A few documents, and what the dictionary does on them when all is right: every load is checked against it."""

    documents: tuple[str, ...] | tuple[tuple[int, ...], ...]
    """Texts, or token ids for a model without a tokenizer."""
    context: int
    fvu: tuple[float, ...]
    """By write site."""
    l0: tuple[float, ...]
    """By part."""

    def to_json(self) -> dict[str, Any]:
        """The self-test as plain JSON values; `from_json` is the exact inverse."""
        documents = [each if isinstance(each, str) else list(each) for each in self.documents]
        return asdict(self) | {"documents": documents, "fvu": list(self.fvu), "l0": list(self.l0)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SelfTest:
        documents: Any = tuple(each if isinstance(each, str) else tuple(each) for each in data["documents"])
        return cls(documents=documents, context=data["context"], fvu=tuple(data["fvu"]), l0=tuple(data["l0"]))


@dataclass(frozen=True, kw_only=True)
class Card:
    """The record that travels with a dictionary. Nothing here changes what it computes."""

    declared: Mapping[str, float] = field(default_factory=dict)
    """Scores as published, or as measured at training: "fvu", "l0", …"""
    self_test: SelfTest | None = None
    foreign: Mapping[str, Any] = field(default_factory=dict)
    """What a published format carries beyond the dictionary; kept so that it can be written back unchanged."""
    warnings: tuple[str, ...] = ()
    """What spoke against it when it was loaded, without proving it wrong; stands on every graph traced with it."""
    folder: Path | None = None
    """Where it was loaded from, if it was."""
