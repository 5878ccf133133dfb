"""The registry of layouts, and what their loaders and savers share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import safetensors_chunks, write_new
from thoughtscope.core.registry import Registry
from thoughtscope.dictionaries.dictionary import Dictionary

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout: whether a folder has it, and how to read and write it."""

    matches: Callable[[Path], bool]
    load: Callable[[Path], Dictionary]
    save: Callable[[Dictionary, Path], None]


FORMATS: Registry[Format] = Registry(
    "dictionary format", DictionaryMismatch, group="thoughtscope.dictionary_formats"
)


def detect(folder: Path) -> str:
    """The name of the layout that `folder` has, whatever the order in which layouts were registered.

    Raises `CorruptArtefact` when it has none, `DictionaryMismatch` when several claim it.
    """
    found = sorted(name for name, layout in FORMATS.working() if layout.matches(folder))
    if not found:
        known = " ".join([f"Known: {', '.join(FORMATS)}.", *FORMATS.broken()])
        raise CorruptArtefact(f"{folder} holds no dictionary in a known layout. {known}")
    if len(found) > 1:
        raise DictionaryMismatch(f"{folder} can be read as {' and as '.join(found)}. Name one with format=.")
    return found[0]


def numbered(paths: Iterable[Path], pattern: str) -> dict[int, list[Path]]:
    """The paths whose name matches `pattern`, by the number in its first group."""
    found: dict[int, list[Path]] = {}
    for path in sorted(paths):
        match = re.fullmatch(pattern, path.name)
        if match:
            found.setdefault(int(match[1]), []).append(path)
    return found


def every_layer(found: Mapping[int, T], folder: Path, shape: str) -> list[T]:
    """The entries of layers 0, 1, … in order. Raises `CorruptArtefact` naming the first one that is missing."""
    for layer in range(max(found, default=0) + 1):
        if layer not in found:
            raise CorruptArtefact(
                f"{folder / shape.format(layer)} is missing: every layer from 0 on needs its file."
            )
    return [found[layer] for layer in sorted(found)]


def expect_tensors(
    path: Path, names: Iterable[str], required: Iterable[str], optional: Iterable[str] = ()
) -> None:
    """Raises `CorruptArtefact` for a file that lacks a tensor, or holds one whose meaning is not known."""
    names, required, optional = set(names), list(required), list(optional)
    missing = sorted(set(required) - names)
    if missing:
        raise CorruptArtefact(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(names)) or 'nothing'}."
        )
    unknown = sorted(names - set(required) - set(optional))
    if unknown:
        raise CorruptArtefact(
            f"{path} holds {', '.join(unknown)}, whose meaning this format does not define."
        )


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a new safetensors file that other tools read, into a folder that `replaced_folder` gave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, safetensors_chunks(tensors, {"format": "pt"} if metadata is None else metadata))


def write_text(path: Path, text: str) -> None:
    """Writes a new text file in UTF-8, into a folder that `replaced_folder` gave."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, [text.encode()])
