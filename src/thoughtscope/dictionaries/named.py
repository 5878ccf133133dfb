"""Dictionaries by a short name, `MODEL/DICTIONARY`: those in the package, and those made for a model with a short name.

specimen/clt              shipped
specimen-multimodal/sae   shipped; autoencoders, with which nothing is traced
smollm2/sae               shipped, for talking
smollm2/transcoders       in the user's data folder, dictionaries/smollm2/transcoders, once it is made there
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.files import default_folder
from thoughtscope.dictionaries.formats import FORMATS

USUAL = {
    "specimen": "specimen/clt",
    "specimen-multimodal": "specimen-multimodal/sae",
    "smollm2": "smollm2/transcoders",
}
"""By model, the dictionary that is opened where none is named."""
TALKING = {"smollm2": "smollm2/sae"}
"""The same for talking, where features are turned and nothing is traced: one on the residual stream."""


def named(name: str) -> Path | None:
    """The folder of a dictionary with a short name; None for a name of another kind.

    Raises `DictionaryMismatch` for one that is not there, with those that are.
    """
    model, _, own = name.partition("/")
    if model not in USUAL or not own:
        return None
    found = _those_of(model)
    if name not in found:
        own_one = f" Put one that was trained on it at {made_at(name)}, or name its folder."
        fix = "" if model.startswith("specimen") else own_one
        raise DictionaryMismatch(
            f'There is no dictionary "{name}". There are: {", ".join(sorted(found))}.{fix}'
        )
    return found[name]


def made_at(name: str) -> Path:
    """Where a dictionary with a short name lies once it is made."""
    return default_folder() / "dictionaries" / name


def usual(model: str, *, talking: bool = False) -> str | None:
    """The dictionary that a model with a short name is opened with, to trace or to talk, if it is there."""
    there = _those_of(model) if model in USUAL else {}
    wanted = (TALKING.get(model) if talking else None, USUAL.get(model))
    return next((name for name in wanted if name in there), None)


def _those_of(model: str) -> dict[str, Path]:
    """By name; one that was made takes the place of a shipped one."""
    shipped = Path(str(resources.files("thoughtscope"))) / "assets" / model
    return {
        f"{model}/{entry.name}": entry
        for place in (shipped, made_at(model))
        for entry in sorted(place.glob("*"))
        if FORMATS["native"].matches(entry)
    }
