"""`load_dictionary` and `save_dictionary`: from a name, a folder or a hub reference to a `Dictionary`, and back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.files import exclusive
from thoughtscope.dictionaries.conversion import check_store, stored_as
from thoughtscope.dictionaries.dictionary import Dictionary, check_finite, check_fits
from thoughtscope.dictionaries.formats import FORMATS, detect, native
from thoughtscope.dictionaries.named import named

if TYPE_CHECKING:
    from thoughtscope.models import Model


def load_dictionary(
    path_or_name: str | os.PathLike[str],
    model: Model | None = None,
    *,
    format: str | None = None,
    preflight: bool = True,
) -> Dictionary:
    """Opens a dictionary: a folder, a short name (`specimen/clt`; see `named`), or `hf://org/repo[/folder][@revision]`.

    The layout is recognised, or named by `format`. With a `model`, sites and widths are checked against it and,
    unless `preflight=False`, a few hundred tokens are encoded to see that the reconstruction is plausible.
    What is odd about it without being proof stands in `card.warnings`, and on every graph that is traced with it.
    Raises `DictionaryMismatch`, and `CorruptArtefact` naming the file that is missing or damaged.
    """
    folder = _find(path_or_name)
    dictionary = _one_version(folder, format)
    check_finite(dictionary, encoders=model is not None)
    dictionary = replace(dictionary, card=replace(dictionary.card, folder=folder))
    if model is not None:
        if preflight:
            from thoughtscope.dictionaries.preflight import preflight as check

            found = check(model, dictionary)  # which begins with `check_fits`
            warnings = tuple(
                f"The dictionary {dictionary.name} may not have been made for what it reads here: {doubt} "
                f"(on {found.n_tokens} tokens of plain text)."
                for doubt in found.doubts
            )
            dictionary = replace(dictionary, card=replace(dictionary.card, warnings=warnings))
        else:
            check_fits(dictionary, model)
    return dictionary


def save_dictionary(
    dictionary: Dictionary, path: str | os.PathLike[str], *, format: str = "native", store: str | None = None
) -> None:
    """Writes a dictionary as the folder `path`, in place of an older one as a whole.

    `store` writes its matrices in another number type: float32, bfloat16, float16, or (native only) int8 with a scale
    a row; by default each tensor keeps its own.
    Raises `DictionaryMismatch` when the format cannot hold it, or when the folder holds one in another format, beside
    which neither could be told from the other; `NotWritten` for a full or read-only disk.
    """
    layout, folder = FORMATS[format], Path(path)
    others = [name for name, other in FORMATS.working() if name != format and other.matches(folder)]
    if others:
        raise DictionaryMismatch(
            f"{folder} holds a dictionary in the format {others[0]}. Name a new or empty folder for {format}."
        )
    if store == "int8" and format == "native":
        native.save(dictionary, folder, int8=True)
    else:
        layout.save(dictionary if store is None else _in_type(dictionary, store, format), folder)


def _in_type(dictionary: Dictionary, store: str, format: str) -> Dictionary:
    if store == "int8":
        raise DictionaryMismatch(
            f"{format} has no eight-bit weights; native has. Use float32, bfloat16 or float16."
        )
    return stored_as(dictionary, check_store(store))


def _one_version(folder: Path, format: str | None) -> Dictionary:
    """Loads; and where a save has changed the folder meanwhile, so that files may be of two versions, once more, while
    nobody can save."""
    before = _version(folder)
    error: Exception | None = None
    try:
        dictionary = FORMATS[format or detect(folder)].load(folder)
    except Exception as found:  # of files that change, anything can be wrong
        error = found
    if _version(folder) != before:
        with exclusive(folder.resolve().parent), exclusive(folder):
            return FORMATS[format or detect(folder)].load(folder)
    if error is not None:
        raise error
    return dictionary


def _version(folder: Path) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_ino, state.st_ctime_ns


def _find(path_or_name: str | os.PathLike[str]) -> Path:
    folder = Path(path_or_name)
    if os.path.isdir(folder):  # False also for a name too long to be a path, where `Path.is_dir` raises
        return folder
    name = os.fspath(path_or_name)
    known = named(name)
    if known is not None:
        return known
    if name.startswith("hf://") or (name.count("/") >= 1 and not name.startswith((".", "/", "~"))):
        from thoughtscope.dictionaries.hub import download

        return download(name)
    raise DictionaryMismatch(
        f'There is no folder "{name}". Give a folder, a short name such as specimen/clt, or hf://org/repo.'
    )
