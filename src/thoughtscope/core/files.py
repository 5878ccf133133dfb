"""Single files: writes that a crash leaves whole or undone, hashes, and the bytes of safetensors files."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from glob import escape as glob_escape
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, ThoughtscopeError

_TEMPORARY = re.compile(r"\..+\.(?P<pid>[0-9]+)\.[0-9]+\.tmp", flags=re.DOTALL)
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


def read_file(path: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """The content of a regular file; never waits for a pipe or a device.

    Raises `CorruptArtefact` for anything else and for what cannot be read, naming it, `LimitExceeded` for a file of
    more than `limit` bytes, and `FileNotFoundError` as it is.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise CorruptArtefact(f"{name} is not a regular file.")
            if limit is not None and about.st_size > limit:
                raise LimitExceeded(f"{name} has {about.st_size:,} bytes; {limit:,} are the limit.")
            return file.read(-1 if limit is None else limit + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, ThoughtscopeError):
            raise
        raise CorruptArtefact(
            f"{name} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None


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
