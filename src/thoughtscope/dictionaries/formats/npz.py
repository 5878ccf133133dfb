"""`.npz` files without pickle, memory-mapped where the archive stores its members uncompressed.

What an archive declares is checked before anything is decompressed: a few kilobytes of zeros could claim terabytes.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, LimitExceeded

MAX_MEMBERS = 64
"""Arrays in one archive; the published ones have five."""
RATIO, FREE = 20, 2**24
"""Bytes after decompression for each byte of the archive, beyond the first 16 MiB: weights compress by less than two,
so that only an archive of nothing but equal numbers has more."""


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive as tensors, in the archive's order.

    Raises `CorruptArtefact` naming the file, `LimitExceeded` for one that would be very much larger in memory.
    """
    if not path.is_file():
        raise CorruptArtefact(f"{path} is missing.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            return {entry.filename.removesuffix(".npy"): _member(path, archive, entry) for entry in members}
    except (CorruptArtefact, LimitExceeded):
        raise
    except Exception as error:  # damage makes the two libraries raise twenty kinds
        told = str(error) or type(error).__name__
        raise CorruptArtefact(f"{path} is not a readable .npz file: {told.rstrip('.')}.") from None


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raises for what the table of contents alone gives away."""
    names = [entry.filename for entry in members]
    if len(members) > MAX_MEMBERS or len(set(names)) != len(names):
        raise ValueError(f"it has {len(members)} members, of which {len(set(names))} have names of their own")
    for entry in members:
        if entry.flag_bits & 1:
            raise ValueError(f"{entry.filename!r:.80} is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename!r:.80} is compressed in a way that NumPy does not write")
    packed, unpacked = path.stat().st_size, sum(entry.file_size for entry in members)
    if unpacked > FREE + RATIO * packed:
        raise LimitExceeded(
            f"{path} has {packed:,} bytes and would have {unpacked:,} in memory; weights do not compress so well."
        )


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    with archive.open(entry) as file:
        shape, fortran, dtype = _header(file)
        start = file.tell()
    if dtype.kind not in "fiu":
        raise ValueError(
            f"{entry.filename!r:.80} holds {dtype}; only numbers are read, and never Python objects"
        )
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"{entry.filename!r:.80} has the shape {shape}")
    if entry.file_size - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{entry.filename!r:.80} is truncated, or not of the shape that it declares")
    order: Literal["F", "C"] = "F" if fortran else "C"
    if entry.compress_type != zipfile.ZIP_STORED or not math.prod(shape):
        with archive.open(entry) as file:
            data = file.read(entry.file_size + 1)[start:]
        return torch.from_numpy(np.frombuffer(bytearray(data), dtype).reshape(shape, order=order))
    # Copy-on-write: the file never changes, and torch gets the writable array that it asks for.
    mapped = np.memmap(path, dtype, "c", data_offset(path, entry) + start, shape, order)
    return torch.from_numpy(mapped)


def data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin in the archive: after its local header, whose length is in its last
    four bytes. Raises `ValueError` where there is no such header."""
    with path.open("rb") as raw:
        raw.seek(entry.header_offset)
        header = raw.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{entry.filename!r:.80} has no local header")
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + names


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)
