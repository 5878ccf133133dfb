"""What a GGUF file says of itself, read with a limit on everything: counts, lengths, types, places and sizes.

The layout is that of the specification of GGUF, versions 2 and 3 (ggml, docs/gguf.md). The readers that take a file
apart later believe its header, map the file and make as much as it asks for; so nothing reaches them that does not add
up here.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from thoughtscope.core.errors import CorruptArtefact, UnsupportedModel
from thoughtscope.core.files import open_regular
from thoughtscope.models.checkpoints import MAX_LAYERS, MAX_SIZE

MAGIC = b"GGUF"
MAX_KEYS, MAX_KEY = 10_000, 1_000
MAX_TENSORS, MAX_NAME, MAX_DIMS = 100_000, 200, 4
MAX_TEXT = 2**24
"""Bytes of one text; the longest in use are chat templates."""
MAX_ELEMENTS = 4_000_000
"""Elements of all arrays together: tokens, scores, kinds and merges of a vocabulary of 500,000 fit."""
_ALIGNMENT = 32

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_TEXT, _ARRAY = 8, 9

BLOCKS: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""What tensors can be stored as: number → name, elements of a block, bytes of a block."""
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", flags=re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """An array of the header, of which only the length is kept."""

    count: int


@dataclass(frozen=True, kw_only=True)
class TensorPlace:
    """One tensor of the file: its axes as PyTorch has them, how it is stored, and where."""

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Header:
    """A header that adds up. `facts` holds numbers and texts as they are, and a `Listing` for an array."""

    path: Path
    version: int
    facts: Mapping[str, Any]
    tensors: tuple[TensorPlace, ...]

    @property
    def architecture(self) -> str:
        return str(self.facts["general.architecture"])

    @property
    def elements(self) -> int:
        """Numbers in all tensors together."""
        return sum(tensor.elements for tensor in self.tensors)

    def fact(self, name: str, default: Any = None) -> Any:
        """A value of the architecture's own: `fact("block_count")` is `llama.block_count` in a Llama's file."""
        return self.facts.get(f"{self.architecture}.{name}", default)


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a regular file that is called `.gguf` or begins as such a file does. Never raises."""
    try:
        with open_regular(path) as file:
            return os.fspath(path).lower().endswith(".gguf") or file.read(4) == MAGIC
    except (OSError, ValueError):
        return False


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a GGUF file.

    Raises `CorruptArtefact` for one that is cut off, damaged or made up, and `UnsupportedModel` for parts of a split
    file, versions and kinds of numbers that nothing here reads. Reads no tensor, and makes nothing of a size that the
    file itself does not have.
    """
    place = Path(path)
    _refuse_part(place)
    with open_regular(place) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 24:
            raise CorruptArtefact(f"{place} has {size} bytes, too few for a GGUF file. Download it again.")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(place, content).header()


def _refuse_part(path: Path) -> None:
    match = _SPLIT.search(path.name)
    if match and int(match[2]) > 1:
        whole = _SPLIT.sub(".gguf", path.name)
        raise UnsupportedModel(
            f"{path} is part {int(match[1])} of a file in {int(match[2])} parts, and a model needs all of them. Put "
            f"them together first: llama-gguf-split --merge {path.name} {whole}"
        )


class _Reader:
    """Walks through a header from its start; every read says where it would pass the end of the file."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content, self.size = path, content, len(content)
        self.at = 0
        self.elements = 0

    def header(self) -> Header:
        version, n_tensors, n_keys = self._opening()
        facts = self._facts(n_keys)
        entries = [self._tensor() for _ in range(n_tensors)]
        tensors = self._placed(entries, facts.get("general.alignment", _ALIGNMENT))
        _check_facts(self.path, facts, tensors)
        return Header(path=self.path, version=version, facts=facts, tensors=tensors)

    def _opening(self) -> tuple[int, int, int]:
        if self.content[:4] != MAGIC:
            raise CorruptArtefact(
                f"{self.path} does not begin as a GGUF file does. Is it another kind of file?"
            )
        self.at = 4
        version = self._number("<I", "the version")
        if version not in (2, 3):
            swapped = version & 0xFFFF == 0
            what = "is stored big-endian" if swapped else f"has version {version} of the format"
            raise UnsupportedModel(
                f"{self.path} {what}; read are versions 2 and 3, little-endian. Convert it anew."
            )
        n_tensors, n_keys = self._number("<Q", "a count"), self._number("<Q", "a count")
        if not (1 <= n_tensors <= MAX_TENSORS and 1 <= n_keys <= MAX_KEYS):
            self._damaged(
                f"its header states {n_tensors:,} tensors and {n_keys:,} values; up to {MAX_TENSORS:,} and "
                f"{MAX_KEYS:,} are read"
            )
        return version, n_tensors, n_keys

    def _facts(self, count: int) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        for _ in range(count):
            key = self._text(MAX_KEY, "a key")
            if key in facts:
                self._damaged(f'its header states "{key[:60]}" twice')
            facts[key] = self._value(self._number("<I", "a type"), key)
        return facts

    def _value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], key)
        if kind == _TEXT:
            return self._text(MAX_TEXT, key)
        if kind != _ARRAY:
            self._damaged(f'"{key[:60]}" has type {kind}, which the format does not know')
        return self._array(key)

    def _array(self, key: str) -> Listing:
        """An array's length; goes past it."""
        kind, count = self._number("<I", key), self._number("<Q", key)
        if kind not in _SCALARS and kind != _TEXT:
            self._damaged(f'"{key[:60]}" is an array of type {kind}; arrays hold numbers or texts')
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            self._damaged(
                f'with "{key[:60]}" its arrays have {self.elements:,} elements, over {MAX_ELEMENTS:,}'
            )
        if kind == _TEXT:
            self._skip_texts(count, key)
        else:
            self._skip(count * struct.calcsize(_SCALARS[kind]), key)
        return Listing(count=count)

    def _skip_texts(self, count: int, key: str) -> None:
        """Past a vocabulary: what `_number` and `_skip` do, a hundred thousand times."""
        at, last, length_at = self.at, self.size - 8, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > last:
                self._damaged(f"it ends within {key[:60]} (byte {self.size:,})")
            at += 8 + length_at(self.content, at)[0]
        self.at = at
        self._skip(0, key)

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, axes, type and offset."""
        name = self._text(MAX_NAME, "a tensor's name")
        axes = self._number("<I", name)
        if not 1 <= axes <= MAX_DIMS:
            self._damaged(f'tensor "{name[:60]}" states {axes:,} axes; 1 to {MAX_DIMS} are known')
        shape = tuple(self._number("<Q", name) for _ in range(axes))[::-1]
        return name, shape, self._number("<I", name), self._number("<Q", name)

    def _placed(self, entries: list[Any], alignment: Any) -> tuple[TensorPlace, ...]:
        """The tensors where they lie: inside of the file, aligned, none over another, none twice."""
        if type(alignment) is not int or not 1 <= alignment <= 2**16 or alignment & (alignment - 1):
            self._damaged(f"its alignment is {alignment!r:.40}; a power of two up to 65,536 is meant")
        data = -(-self.at // alignment) * alignment
        placed = []
        for name, shape, number, offset in entries:
            if number not in BLOCKS:
                raise UnsupportedModel(
                    f'{self.path}: tensor "{name[:60]}" is stored as type {number}; read are '
                    f"{', '.join(kind for kind, _, _ in BLOCKS.values())}."
                )
            kind, block, width = BLOCKS[number]
            elements = math.prod(shape)
            if not all(1 <= axis <= MAX_SIZE for axis in shape) or shape[-1] % block:
                self._damaged(f'tensor "{name[:60]}" of type {kind} states the axes {list(shape)}')
            size = elements // block * width
            if offset % alignment or data + offset + size > self.size:
                self._damaged(
                    f'tensor "{name[:60]}" would lie from byte {data + offset:,} to {data + offset + size:,} of '
                    f"{self.size:,}"
                )
            placed.append(TensorPlace(name=name, shape=shape, kind=kind, start=data + offset, size=size))
        self._refuse_overlaps(placed)
        return tuple(placed)

    def _refuse_overlaps(self, placed: list[TensorPlace]) -> None:
        if len({tensor.name for tensor in placed}) < len(placed):
            self._damaged("two of its tensors have the same name")
        end, before = 0, ""
        for tensor in sorted(placed, key=lambda tensor: tensor.start):
            if tensor.start < end:
                self._damaged(f'tensor "{tensor.name[:60]}" lies over "{before[:60]}"')
            end, before = tensor.start + tensor.size, tensor.name

    def _number(self, form: str, what: str) -> Any:
        width = struct.calcsize(form)
        self._require(width, what)
        (value,) = struct.unpack_from(form, self.content, self.at)
        self.at += width
        return value

    def _text(self, limit: int, what: str) -> str:
        length = self._number("<Q", what)
        if length > limit:
            self._damaged(f"{what[:60]} states a length of {length:,} bytes; the limit is {limit:,}")
        self._require(length, what)
        raw = self.content[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self._damaged(f"{what[:60]} is no text")

    def _skip(self, width: int, what: str) -> None:
        self._require(width, what)
        self.at += width

    def _require(self, width: int, what: str) -> None:
        if self.at + width > self.size:
            self._damaged(f"it ends within {what[:60]} (byte {self.size:,})")

    def _damaged(self, why: str) -> NoReturn:
        raise CorruptArtefact(f"{self.path} is damaged or incomplete: {why}. Download or copy it again.")


def _check_facts(path: Path, facts: Mapping[str, Any], tensors: tuple[TensorPlace, ...]) -> None:
    """The values that sizes are made of are sizes, and numbers are numbers."""
    architecture = facts.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise CorruptArtefact(f'{path} does not say which architecture it is ("general.architecture").')
    for key, value in facts.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise CorruptArtefact(f"{path}: {key[:60]} is {value}; a number is meant.")
        if key.startswith(f"{architecture}.") and type(value) is int and not 0 <= value <= MAX_SIZE:
            raise CorruptArtefact(f"{path}: {key[:60]} is {value:,}; up to {MAX_SIZE:,} is meant.")
    layers = facts.get(f"{architecture}.block_count")
    if type(layers) is not int or not 1 <= layers <= min(MAX_LAYERS, len(tensors)):
        raise CorruptArtefact(
            f"{path}: {architecture}.block_count is {layers!r:.40}; a number of layers is meant, with tensors for each."
        )
    parts = facts.get("split.count", 1)
    if type(parts) is int and parts > 1:
        raise UnsupportedModel(
            f"{path} is one of {parts} parts of a model, which needs all of them. Put them together first: "
            "llama-gguf-split --merge FIRST-PART WHOLE.gguf"
        )
