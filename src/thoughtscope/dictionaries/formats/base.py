"""The registry of layouts, and what their loaders and savers share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import read_file, safetensors_chunks, write_new
from thoughtscope.core.registry import Registry
from thoughtscope.dictionaries.dictionary import Dictionary

T = TypeVar("T")

MAX_TEXT = 2**16
"""Bytes of a configuration: a list of files for 200 layers has 20,000, and YAML takes ten seconds for a million."""
YAML_DEPTH = 16
"""Lists and tables within one another; the layouts have three."""


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
    path: Path,
    tensors: Mapping[str, Tensor],
    required: Mapping[str, int | None],
    optional: Mapping[str, int | None] | None = None,
) -> None:
    """Raises `CorruptArtefact` for a file that lacks a tensor, or holds one of unknown meaning or of another rank.

    The tensors come with the number of their axes, None where any number will do, and for whole numbers.
    """
    known = {**required, **(optional or {})}
    missing = sorted(set(required) - set(tensors))
    if missing:
        raise CorruptArtefact(f"{path} lacks {', '.join(missing)}; it holds {_some(tensors) or 'nothing'}.")
    unknown = sorted(set(tensors) - set(known))
    if unknown:
        raise CorruptArtefact(f"{path} holds {_some(unknown)}, whose meaning this format does not define.")
    for name, tensor in tensors.items():
        rank = known[name]
        if rank is not None and not (tensor.ndim == rank and tensor.is_floating_point()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise CorruptArtefact(
                f"{path}: {name} has shape {tuple(tensor.shape)} and type {kind}; {rank} axes of floating-point "
                "numbers are meant."
            )


def _some(names: Iterable[str]) -> str:
    """The first few of many names, none of them long: they come from a file."""
    listed = sorted(names)
    return ", ".join(name[:80] for name in listed[:12]) + (", …" if len(listed) > 12 else "")


def read_text(path: Path, limit: int = MAX_TEXT) -> str:
    """A small text file. Raises `CorruptArtefact` and `LimitExceeded` naming it."""
    try:
        return read_file(path, limit=limit).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CorruptArtefact(f"{path} cannot be read: {error}.") from None


def strict_yaml(text: str, path: Path) -> Any:
    """The values of a YAML text without aliases, of bounded depth, each key once. Raises `CorruptArtefact`.

    An alias stands for what it names as often as it is written, so that a few lines can be gigabytes.
    """
    import yaml

    class Strict(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError(
                    f"line {self.peek_event().start_mark.line + 1} has an alias (*), write it out"
                )
            self.depth += 1
            if self.depth > YAML_DEPTH:
                raise yaml.YAMLError(f"it is nested more than {YAML_DEPTH} deep")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) != len(keys):
                raise yaml.YAMLError(f"a key occurs twice near line {node.start_mark.line + 1}")
            return super().construct_mapping(node, deep)

    try:
        found = Strict(text).get_single_data()
        json.dumps(
            found, ensure_ascii=False, default=str
        ).encode()  # an escape can stand for half of a surrogate pair
        return found
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError, LookupError) as error:
        told = " ".join(str(error).split())
        raise CorruptArtefact(f"{path} cannot be read: {told[:300]}.") from None


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
