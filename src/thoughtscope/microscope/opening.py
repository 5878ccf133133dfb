"""A model, the dictionary that fits it, and what is known of the dictionary's features: what every verb needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import DictionaryMismatch

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model

PROMPT_TOKENS = 512
"""Default limit of a prompt's length; a model's own limit may be lower."""


@dataclass(frozen=True, kw_only=True)
class Microscope:
    model: Model
    dictionary: Dictionary
    bank: Any | None
    max_tokens: int


def open_microscope(
    model: str = "specimen",
    dictionary: str | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_tokens: int | None = None,
) -> Microscope:
    """Loads a model and a dictionary by name or path; the specimen brings its own dictionary.

    Raises what `load_model` and `load_dictionary` raise, and `DictionaryMismatch` when none is named.
    """
    if dictionary is None and model != "specimen":
        raise DictionaryMismatch(
            f'No dictionary was named for the model "{model}". Give --dictionary PATH, or use the specimen.'
        )
    from thoughtscope.atlas import bank_of
    from thoughtscope.dictionaries import load_dictionary
    from thoughtscope.models import load_model

    loaded = load_model(model, device=device, dtype=dtype)
    fitting = load_dictionary(dictionary or "specimen/clt", loaded)
    limit = min(loaded.max_positions, max_tokens or PROMPT_TOKENS)
    return Microscope(model=loaded, dictionary=fitting, bank=bank_of(fitting), max_tokens=limit)
