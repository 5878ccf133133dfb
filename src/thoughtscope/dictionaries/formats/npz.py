"""`.npz` files without pickle, memory-mapped where the archive stores its members uncompressed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact


def read_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive as tensors, in the archive's order. Raises `CorruptArtefact` naming the file."""
    if not path.is_file():
        raise CorruptArtefact(f"{path} is missing.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            return {entry.filename.removesuffix(".npy"): _member(path, archive, entry) for entry in members}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError, TypeError) as error:
        raise CorruptArtefact(f"{path} is not a readable .npz file: {error}.") from None


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(file)
        start = file.tell()
        if dtype.hasobject:
            raise ValueError(f"{entry.filename} holds Python objects, which are never loaded")
    if entry.compress_type != zipfile.ZIP_STORED:
        with archive.open(entry) as file:
            return torch.from_numpy(np.lib.format.read_array(file, allow_pickle=False))
    # A stored member lies in the file as it is: after its local header, whose length is in its last four bytes.
    with path.open("rb") as raw:
        raw.seek(entry.header_offset)
        header = raw.read(30)
        if header[:4] != b"PK\x03\x04":
            raise ValueError(f"{entry.filename} has no local header")
        offset = (
            entry.header_offset
            + 30
            + int.from_bytes(header[26:28], "little")
            + int.from_bytes(header[28:30], "little")
        )
    if entry.file_size - start != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise ValueError(f"{entry.filename} is truncated")
    # Copy-on-write: the file never changes, and torch gets the writable array that it asks for.
    mapped = np.memmap(path, dtype, "c", offset + start, shape, "F" if fortran else "C")
    return torch.from_numpy(mapped)
