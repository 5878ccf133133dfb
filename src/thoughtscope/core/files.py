"""Single files: writes that a crash leaves whole or undone, hashes, strict JSON, and checked safetensors."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from glob import escape as glob_escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError, describe_choices

if TYPE_CHECKING:
    from torch import Tensor

_TEMPORARY = re.compile(r"\..+\.(?P<pid>[0-9]+)\.[0-9]+\.tmp", flags=re.DOTALL)
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format itself
_counter = itertools.count()


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces the file at `path` by `data`, or leaves it as it was. Durable on return; honours the umask."""
    path = Path(path)
    _sweep_temporaries(path)
    temporary = temporary_name(path)
    try:
        write_new(temporary, [data])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """`atomic_write_bytes` for text, in UTF-8."""
    atomic_write_bytes(path, text.encode())


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Reads in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def strict_json(data: bytes | str, path: str | os.PathLike[str]) -> Any:
    """Parses JSON, refusing duplicate keys and NaN. Raises `CorruptArtefact` naming `path`."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
        return result

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(data, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CorruptArtefact(f"{os.fspath(path)} is not valid JSON: {error}.") from None


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process or thread uses, from which the writer's process can be read."""
    return path.parent / f".{path.name}.{os.getpid()}.{next(_counter)}.tmp"


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Creates `path` and brings its content to the disk. Mode 0666 lets the umask decide, where tempfile has 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a rename durable: the folder's own entry list has to reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep_temporaries(path: Path) -> None:
    """Removes what killed writers of `path` left beside it."""
    for entry in path.parent.glob(f".{glob_escape(path.name)}.*.tmp"):
        match = _TEMPORARY.fullmatch(entry.name)
        if match and not _alive(int(match["pid"])):
            entry.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file has a name that `temporary_name` gives."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


# --- safetensors files ---------------------------------------------------------------------------------------------


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
    """Checks a safetensors header against the file: size, unique names, and data that ends where the file ends.

    The library itself lets the last of two equal names win. Raises `CorruptArtefact` naming the file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little") if size >= 8 else -1
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise CorruptArtefact(f"{path} is not a safetensors file, or is truncated ({size:,} bytes).")
            header = strict_json(file.read(length), path)
    except OSError as error:
        raise CorruptArtefact(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (AttributeError, KeyError, IndexError, TypeError):
        raise CorruptArtefact(f"{path} has a malformed safetensors header.") from None
    if expected != size:
        raise CorruptArtefact(
            f"{path} has {size:,} bytes, but its header describes {expected:,}: truncated or padded."
        )


def safetensors_chunks(tensors: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, tensor by tensor (no second copy of all weights in memory).

    Same layout as the reference library: wide types first so that every tensor is aligned, then by name.
    """
    import torch

    dtypes = {
        torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
        torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
        torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
        torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    }  # fmt: skip
    given = {name: torch.as_tensor(value).detach() for name, value in tensors.items()}
    for name, tensor in given.items():
        if tensor.dtype not in dtypes:
            raise ThoughtscopeError(
                f'Tensor "{name}" has type {tensor.dtype}; a file can hold {", ".join(dtypes.values())}.'
            )
    order = sorted(given, key=lambda name: (-given[name].element_size(), name))
    header: dict[str, Any] = {}
    offset = 0
    for name in order:
        tensor = given[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": dtypes[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        if given[name].numel():
            yield given[name].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
