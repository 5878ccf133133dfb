"""`MadeLabels`: what was made of a dictionary's features without a person, and how far each label held when tried.

They lie with the dictionary, in `labels/`; what people call a feature has its place over them everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from thoughtscope.atlas.rules import Rule
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.store import is_artefact, load_artefact, save_artefact

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary

KIND = "labels"
FOLDER = "labels"
"""Where they lie inside their dictionary's folder."""
Side = Literal["input", "output"]


@dataclass(frozen=True, kw_only=True)
class MadeLabel:
    """What one feature is called, by whom, and what that was worth on text that it was not made from."""

    text: str
    author: str
    """`rules`, or the language model that wrote it."""
    side: Side
    """Whether it says on what the feature fires, or what the model is led to say."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """By name; of rules: f1, precision, recall, n (active tokens that it was tried on), unigram_f1, lift."""
    whole: str = ""
    """All that it says, where `text` is shortened."""
    rule: Rule | None = None
    """What can be run; of a written label nothing can."""

    def to_json(self) -> dict[str, Any]:
        """The label as plain JSON values; `from_json` is the exact inverse."""
        rule = None if self.rule is None else self.rule.to_json()
        return {"text": self.text, "author": self.author, "side": self.side, "figures": dict(self.figures),
                "whole": self.whole, "rule": rule}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MadeLabel:
        """Raises `ThoughtscopeError` for what is no label."""
        match dict(data):
            case {"text": str(), "author": str(), "side": "input" | "output", "whole": str(), "rule": rule,
                  "figures": dict(figures), **rest} if not rest and _numbers(figures.values()):  # fmt: skip
                return cls(**{**data, "rule": None if rule is None else Rule.from_json(rule)})
        raise ThoughtscopeError(f"Not a label: {data!r:.200}.")


def _numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeLabels:
    """Labels of one dictionary's features, by number of the part and index."""

    dictionary: str
    scan: str
    labels: Mapping[tuple[int, int], MadeLabel]
    made_of: Mapping[str, Any] = field(default_factory=dict)
    """By author, what decides the labels beside the dictionary: the text, the seed, …"""

    def get(self, part: int, index: int) -> MadeLabel | None:
        return self.labels.get((part, index))

    def __or__(self, other: MadeLabels) -> MadeLabels:
        """Both; where both know a feature, the other's. Raises `DictionaryMismatch` for those of another dictionary."""
        if self.scan != other.scan:
            raise DictionaryMismatch(
                f"Labels of {self.dictionary} and of {other.dictionary} do not go together."
            )
        made_of = {**self.made_of, **other.made_of}
        return replace(self, labels={**self.labels, **other.labels}, made_of=made_of)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the labels as an artefact."""
        rows = [[part, index, label.to_json()] for (part, index), label in sorted(self.labels.items())]
        meta = {
            "dictionary": self.dictionary,
            "scan": self.scan,
            "labels": rows,
            "made_of": dict(self.made_of),
        }
        return save_artefact(path, kind=KIND, tensors={}, meta=meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> MadeLabels:
        """Raises `CorruptArtefact` naming the file."""
        meta = load_artefact(path, kind=KIND).meta
        try:
            labels = {
                (int(part), int(index)): MadeLabel.from_json(row) for part, index, row in meta["labels"]
            }
            return cls(dictionary=str(meta["dictionary"]), scan=str(meta["scan"]), labels=labels,
                       made_of=dict(meta["made_of"]))  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtefact(f"{path} holds labels that cannot be read: {error!r:.300}.") from None


def made_labels_of(dictionary: Dictionary) -> MadeLabels | None:
    """The labels that lie with a loaded dictionary (its folder's `labels/`), or None if there are none.

    Raises `CorruptArtefact` for damaged ones.
    """
    folder = dictionary.card.folder
    if folder is None or not is_artefact(folder / FOLDER, kind=KIND):
        return None
    return MadeLabels.load(folder / FOLDER)
