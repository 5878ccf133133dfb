"""The files that a dictionary was loaded from, kept so that the same can be written again.

A layout may hold what a `Part` has folded: biases that are taken off first, gates, decoders of any length. Saved in
the layout that it came from, an unchanged dictionary is its files as they were. Tensors stay memory-mapped, so keeping
them costs nothing. Once a part has changed, the files are no longer it, and the layout is written from the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.tensors import TensorFile
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.formats.base import MAX_TEXT, read_text, write_safetensors, write_text
from thoughtscope.dictionaries.formats.torch_files import read_torch, write_torch

KEY = "kept"


class Folder:
    """Reads the files of a layout, and remembers each. Raises `CorruptArtefact` naming the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, Callable[[Path], None]] = {}
        """By name within the folder: what writes the file again."""

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def text(self, name: str, limit: int = MAX_TEXT) -> str:
        text = read_text(self.path / name, limit)
        self.files[name] = partial(write_text, text=text)
        return text

    def json(self, name: str, limit: int = MAX_TEXT) -> dict[str, Any]:
        """A JSON object."""
        found = strict_json(self.text(name, limit), self.path / name)
        if not isinstance(found, dict):
            raise CorruptArtefact(f"{self.path / name} is not a JSON object.")
        return found

    def tensors(self, name: str) -> TensorFile:
        file = TensorFile(self.path / name)
        self.files[name] = partial(_write_tensors, file=file)
        return file

    def torch(self, name: str) -> dict[str, Any]:
        """What `torch.save` wrote of a dictionary with texts for keys."""
        found = read_torch(self.path / name)
        self.files[name] = partial(write_torch, value=found)
        return found

    def kept(self, format: str, parts: tuple[Part, ...], *, model_name: str) -> dict[str, Any]:
        """For `Card.foreign`: the files that were read, and what they stand for."""
        kept = _Kept(files=dict(self.files), parts=parts, model_name=model_name, versions=_versions(parts))
        return {"format": format, KEY: kept}


@dataclass(frozen=True, kw_only=True)
class _Kept:
    files: Mapping[str, Callable[[Path], None]]
    parts: tuple[Part, ...]
    model_name: str
    versions: tuple[int, ...]
    """How often each tensor had been changed in place when it was loaded."""


def files_of(dictionary: Dictionary, format: str) -> Mapping[str, Callable[[Path], None]] | None:
    """What writes each file that a dictionary was loaded from, by its name; None where it came from another layout or
    has changed since."""
    foreign = dictionary.card.foreign
    kept: _Kept | None = foreign.get(KEY) if foreign.get("format") == format else None
    if kept is None or kept.model_name != dictionary.model_name or kept.versions != _versions(kept.parts):
        return None
    if len(kept.parts) != len(dictionary.parts):
        return None
    same = all(_same_part(a, b) for a, b in zip(kept.parts, dictionary.parts, strict=True))
    return kept.files if same else None


def write_files(files: Mapping[str, Callable[[Path], None]], folder: Path) -> None:
    """Writes kept files into a folder that `replaced_folder` gave."""
    for name, write in files.items():
        write(folder / name)


def _write_tensors(path: Path, file: TensorFile) -> None:
    write_safetensors(path, file, file.metadata())


def _tensors(part: Part) -> list[Tensor]:
    values = [getattr(part, field.name) for field in fields(part)]
    values += [each for value in values if isinstance(value, Mapping) for each in value.values()]
    return [value for value in values if isinstance(value, Tensor)]


def _versions(parts: tuple[Part, ...]) -> tuple[int, ...]:
    return tuple(tensor._version for part in parts for tensor in _tensors(part))


def _same_part(a: Part, b: Part) -> bool:
    """Whether two parts are the same to the bit, in the same order of sites."""
    if a is b:
        return True
    plain = ("name", "activation", "normalise")
    if any(getattr(a, name) != getattr(b, name) for name in plain):
        return False
    for name in (field.name for field in fields(a) if field.name not in plain):
        one, other = getattr(a, name), getattr(b, name)
        if isinstance(one, Mapping):
            if list(one) != list(other) or not all(_same_bits(one[site], other[site]) for site in one):
                return False
        elif not _same_bits(one, other):
            return False
    return True


def _same_bits(a: Tensor | None, b: Tensor | None) -> bool:
    if a is b:
        return True
    return a is not None and b is not None and a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
