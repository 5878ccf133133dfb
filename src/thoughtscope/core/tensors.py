"""Safetensors files, checked before they are mapped, and whether weights are numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import CorruptArtefact, describe_choices
from thoughtscope.core.files import open_regular
from thoughtscope.core.parsing import JsonLimits, strict_json

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 100_000_000
"""Bytes of a header; the limit of the safetensors format itself."""
_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


class TensorFile(Mapping[str, "Tensor"]):
    """The tensors of one safetensors file, memory-mapped: each is read from disk when it is first touched.

    Raises `CorruptArtefact` for a missing, truncated, padded or malformed file, and for a name it does not hold.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path)
        check_safetensors(self.path)
        try:
            self._file = safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CorruptArtefact(f"{self.path} is not a valid safetensors file: {error}.") from None
        self._names = tuple(sorted(self._file.keys()))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise CorruptArtefact(
                f"{self.path}: " + describe_choices(name, self._names, what="tensor in this file")
            )
        return self._file.get_tensor(name)

    def slice(self, name: str) -> Any:
        """The tensor as a lazy slice: `slice(name)[3:5]` reads those rows only; `.get_shape()` reads none."""
        if name not in self._names:
            raise CorruptArtefact(
                f"{self.path}: " + describe_choices(name, self._names, what="tensor in this file")
            )
        return self._file.get_slice(name)

    def metadata(self) -> dict[str, str]:
        """The file's own string table (`__metadata__`); empty when it has none."""
        return dict(self._file.metadata() or {})

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)


def check_safetensors(path: str | os.PathLike[str]) -> None:
    """Checks a safetensors header against the file: unique names, and data of the shapes' sizes, one after the
    other, that ends where the file ends.

    The library itself lets the last of two equal names win. Names are only names: none is ever a path.
    Raises `CorruptArtefact` naming the file.
    """
    path = Path(path)
    header, size = _read_header(path)
    try:
        spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise CorruptArtefact(f"{path} has a malformed safetensors header.") from None
    if spans and spans[-1][1] != size:
        raise CorruptArtefact(
            f"{path} has {size:,} bytes of data, but its header describes {spans[-1][1]:,}: truncated or padded."
        )
    if not spans and size:
        raise CorruptArtefact(f"{path} has {size:,} bytes of data and names no tensor: truncated or padded.")
    for (_, end, name), (start, _, other) in pairwise([(0, 0, "the header"), *spans]):
        if start != end:
            raise CorruptArtefact(
                f"{path} has a malformed safetensors header: {other!r} does not begin where {name!r} ends."
            )


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header as a table, and the bytes of data behind it."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little") if size >= 8 else -1
            if not 2 <= length <= min(size - 8, MAX_HEADER):
                raise CorruptArtefact(f"{path} is not a safetensors file, or is truncated ({size:,} bytes).")
            header = strict_json(file.read(length), path, limits=JsonLimits(size=MAX_HEADER, depth=8))
    except OSError as error:
        raise CorruptArtefact(f"{path} cannot be read: {error.strerror or error}.") from None
    if not isinstance(header, dict):
        raise CorruptArtefact(f"{path} has a malformed safetensors header.")
    return header, size - 8 - length


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int, str]:
    """Where a tensor's data lies behind the header. Raises `ValueError` for one whose shape is of another size."""
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    numbers = [*shape, start, end]
    if not all(type(number) is int and number >= 0 for number in numbers) or start > end:
        raise ValueError(name)
    # A type that is not known here is left to the library.
    bytes_each = _BYTES.get(entry["dtype"])
    if bytes_each is not None and math.prod(shape) * bytes_each != end - start:
        raise ValueError(name)
    return start, end, name


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity. Reads it once: 0.05 s for a GB, in any floating type.

    Its least and its largest number are finite only if all are, and a NaN is both.
    """
    import torch

    if not tensor.numel() or not tensor.is_floating_point():
        return True
    if tensor.element_size() == 1:
        tensor = tensor.float()  # eight bits have no comparison of their own
    return bool(torch.stack(tensor.detach().aminmax()).isfinite().all())
