"""A model, the dictionary that fits it, and what is known of the dictionary's features: what every verb needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, Problem
from thoughtscope.core.labels import LabelStore
from thoughtscope.core.progress import Progress, silent
from thoughtscope.microscope.folder import user_labels, warn_of

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model

T = TypeVar("T")
PROMPT_TOKENS = 512
"""Default limit of a prompt's length; a model's own limit may be lower."""


@dataclass(frozen=True, kw_only=True)
class Microscope:
    """What is looked at and what with. The verbs of this package take it first."""

    model: Model
    dictionary: Dictionary
    bank: Any | None
    """Examples and automatic labels of the dictionary's features; None where nobody collected any."""
    max_tokens: int
    concepts: tuple[Any, ...] = ()
    """What groups of the dictionary's features mean; none where nobody taught any."""
    labels: LabelStore = field(default_factory=LabelStore)
    """What people call features; a label in here has its place over an automatic one everywhere."""
    problems: tuple[Problem, ...] = ()
    """Files that it was opened without, as they are damaged: examples, concepts or labels."""


def open_microscope(
    model: str = "specimen",
    dictionary: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_tokens: int | None = None,
    labels: LabelStore | None = None,
    progress: Progress = silent,
) -> Microscope:
    """Loads a model and a dictionary by name or path; models with a short name have a usual dictionary.

    `labels` are the user's own unless given. A damaged file of examples, concepts or labels is left out, with an
    `UnusedFile` warning, and is among `problems`. Raises what `load_model` and `load_dictionary` raise, and
    `DictionaryMismatch` when no dictionary is named.
    """
    from thoughtscope.dictionaries.named import usual

    dictionary = usual(model) if dictionary is None else dictionary
    if dictionary is None:
        raise DictionaryMismatch(
            f'No dictionary was named for the model "{model}". Name one that was trained on it, for example '
            f"--model {model} --dictionary ./transcoders or --dictionary hf://org/transcoders-for-it; the specimen "
            "brings its own."
        )
    from thoughtscope.atlas import bank_of, concepts_of, made_labels_of
    from thoughtscope.dictionaries import load_dictionary
    from thoughtscope.models import load_model

    loaded = load_model(model, device=device, dtype=dtype, progress=progress)
    fitting = load_dictionary(dictionary, loaded)
    own = user_labels() if labels is None else labels
    nothing: tuple[Any, ...] = ()
    bank, no_bank = _unless_damaged(lambda: bank_of(fitting), None, f"{fitting.card.folder}/features")
    made, no_made = _unless_damaged(lambda: made_labels_of(fitting), None, f"{fitting.card.folder}/labels")
    concepts, no_concepts = _unless_damaged(
        lambda: concepts_of(fitting), nothing, f"{fitting.card.folder}/concepts"
    )
    problems = tuple(problem for problem in (no_bank, no_made, no_concepts, own.problem) if problem)
    for problem in problems:
        if problem != own.problem or labels is not None:  # `user_labels` has said so itself
            warn_of(problem)
    return Microscope(
        model=loaded,
        dictionary=fitting,
        bank=None if bank is None else bank.called(made),
        concepts=concepts,
        max_tokens=min(loaded.max_positions, max_tokens or PROMPT_TOKENS),
        labels=own,
        problems=problems,
    )


def _unless_damaged(load: Callable[[], T], instead: T, file: str) -> tuple[T, Problem | None]:
    try:
        return load(), None
    except CorruptArtefact as error:
        why = f"{error} Put a sound copy in its place, or move it away."
        return instead, Problem(file=file, why=why)
