"""`Atlas`: everything that is known of a dictionary's features, brought together for a page and for exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from thoughtscope.atlas.bank import FeatureBank, bank_of
from thoughtscope.atlas.families import FamilyTree
from thoughtscope.atlas.made_labels import made_labels_of
from thoughtscope.atlas.mapping import FeatureMap, widths
from thoughtscope.atlas.neighbours import CoFiring, co_firing
from thoughtscope.atlas.specificity import on_peak_tokens, peak_tokens
from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.progress import Progress, silent

if TYPE_CHECKING:
    from thoughtscope.atlas.recording import Recording
    from thoughtscope.dictionaries import Dictionary


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """What a recording tells of features beyond their examples, by part."""

    n_tokens: int
    together: tuple[CoFiring, ...]
    "By part; features are numbered in their part."
    specific: tuple[Float[np.ndarray, "feature decile"], ...]
    "By part: `on_peak_tokens`."


@dataclass(frozen=True, kw_only=True, eq=False)
class Atlas:
    """A dictionary with its examples, and what was computed of it; None for what was not."""

    dictionary: Dictionary
    bank: FeatureBank
    map: FeatureMap | None = None
    recorded: Recorded | None = None
    families: FamilyTree | None = None
    generation: int = 0
    "Which of the family's dictionaries this one is."
    relatives: Sequence[Sequence[Sequence[str]]] = ()
    "Labels of the family's dictionaries, in their order: by part, by feature. Empty where nobody asked for them."

    def __post_init__(self) -> None:
        found = tuple(len(layer.count) for layer in self.bank.layers)
        if found != widths(self.dictionary):
            raise DictionaryMismatch(
                f"The examples are of a dictionary with {found} features; {self.dictionary.name} has "
                f"{widths(self.dictionary)}. Collect its own: thoughtscope features collect."
            )
        if self.map is not None and self.map.n_features != found:
            raise DictionaryMismatch(
                f"This is a map of {self.map.dictionary_name} with {self.map.n_features} features; "
                f"{self.dictionary.name} has {found}. Make its own."
            )

    @property
    def firsts(self) -> Int[np.ndarray, " part"]:
        """The number of each part's first feature, and behind the last part how many there are."""
        return np.cumsum([0, *widths(self.dictionary)])

    @property
    def count(self) -> Int[np.ndarray, " feature"]:
        """Tokens of the bank's text on which each feature is active."""
        return np.concatenate([layer.count.numpy() for layer in self.bank.layers])


def bank_required(dictionary: Dictionary) -> FeatureBank:
    """The bank that lies with a dictionary, with the labels that do. Raises `DictionaryMismatch` with the command that
    makes one."""
    bank = bank_of(dictionary)
    if bank is None:
        raise DictionaryMismatch(
            f"{dictionary.name} has no examples of its features yet. Collect some: thoughtscope features collect "
            f"{dictionary.card.folder or dictionary.name} --data text:FOLDER --model MODEL"
        )
    return bank.called(made_labels_of(dictionary))


def recorded_of(
    bank: FeatureBank, recording: Recording, *, k: int = 10, progress: Progress = silent
) -> Recorded:
    """Co-firing and specificity of all features, part by part. Raises `DictionaryMismatch` for another recording."""
    if recording.plan.scan != bank.scan or recording.plan.n_features != tuple(
        len(layer.count) for layer in bank.layers
    ):
        raise DictionaryMismatch(
            f"This is a recording of {recording.plan.dictionary} with {recording.plan.n_features} features, and the "
            f"examples are of {bank.dictionary_name}. Record the same dictionary."
        )
    ids = recording.ids
    together, specific = [], []
    for number, width in enumerate(recording.plan.n_features):
        columns = recording.columns(number, 0, width)
        together.append(co_firing(columns, n_tokens=len(ids), k=k))
        specific.append(on_peak_tokens(columns, ids, peak_tokens(bank, number)))
        progress("co-firing", number + 1, len(recording.plan.n_features))
    return Recorded(n_tokens=len(ids), together=tuple(together), specific=tuple(specific))
