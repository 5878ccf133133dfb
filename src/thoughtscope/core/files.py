"""Files and folders: read without blocking, replaced as a whole, written by one at a time; safetensors' bytes."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from thoughtscope.core.errors import (
    CorruptArtefact,
    FolderInUse,
    LimitExceeded,
    NotWritten,
    ThoughtscopeError,
)

PATIENCE = 60.0
"""Seconds that a writer waits for another one before it gives up."""

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>[0-9]+)\.[0-9]+\.tmp", flags=re.DOTALL)
_RACY = 50_000_000  # nanoseconds; the clocks of file systems tick every 1 to 10 ms
_counter = itertools.count()
_held = threading.local()


MAPS = "maps"
"""Where maps of features lie in a data folder."""


def default_folder() -> Path:
    """The per-user data folder of this platform: kept work, labels and models."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "thoughtscope"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "thoughtscope"


# --- one writer at a time ------------------------------------------------------------------------------------------


@contextmanager
def exclusive(folder: str | os.PathLike[str], *, patience: float = PATIENCE) -> Iterator[None]:
    """One writer of a folder at a time, among all threads and processes; whoever holds it may take it again.

    The lock lies on the folder itself and goes with the process, so a killed writer leaves none behind. Raises
    `FolderInUse` when others hold it for `patience` seconds.
    """
    folder = Path(folder)
    descriptor = _locked_descriptor(folder, time.monotonic() + patience)
    if descriptor is None:  # this thread holds it already
        yield
        return
    held = _folders_held()
    identity = _identity(os.fstat(descriptor))
    held.add(identity)
    try:
        yield
    finally:
        held.discard(identity)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a forked child shares the descriptor
        os.close(descriptor)


def _locked_descriptor(folder: Path, deadline: float) -> int | None:
    """A descriptor of the folder with its lock; None where this thread has it."""
    while True:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _identity(os.fstat(descriptor)) in _folders_held():
                os.close(descriptor)
                return None
            _wait_for_lock(descriptor, folder, deadline)
            # While this one waited, another folder may have been put in its place.
            if _identity(os.fstat(descriptor)) == _identity(os.stat(folder)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait_for_lock(descriptor: int, folder: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise FolderInUse(
                    f"Another process is writing in {folder}. Wait until it is done, or end it, and try again."
                ) from None
            time.sleep(0.002)


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _folders_held() -> set[tuple[int, int]]:
    if not hasattr(_held, "folders"):
        _held.folders = set()
    return _held.folders


# --- single files --------------------------------------------------------------------------------------------------


def read_file(path: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """The content of a regular file. Never waits: a pipe, a device or a folder is refused, and so is a loop of links.

    Raises `FileNotFoundError`, `CorruptArtefact` naming the file and the reason, and `LimitExceeded` for a file of more
    than `limit` bytes, before any is read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise LimitExceeded(f"{os.fspath(path)} has {size:,} bytes; the limit is {limit:,}.")
        try:
            return file.read()
        except OSError as error:
            raise CorruptArtefact(f"{os.fspath(path)} cannot be read: {error.strerror or error}.") from None


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for reading. Raises `FileNotFoundError`, and `CorruptArtefact` for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorruptArtefact(f"{os.fspath(path)} cannot be read: {reason}.") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise CorruptArtefact(f"{os.fspath(path)} is {_what_it_is(mode)}, not a regular file.")
    return open(descriptor, "rb")


def version_of(path: str | os.PathLike[str]) -> tuple[int, int, int] | None:
    """What tells two versions of a file apart: when it changed, its size and its inode. None where that is not sure.

    That is: where there is no file, and for a moment after a change, in which the clock of a file system may give the
    next change the same time. Ask before you read: then what you remember under it is never older than it says. The
    time is that of the inode, which nobody can set, unlike that of the content.
    """
    try:
        state = os.stat(path)
    except OSError:
        return None
    if abs(time.time_ns() - state.st_ctime_ns) < _RACY:
        return None
    return state.st_ctime_ns, state.st_size, state.st_ino


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces the file at `path` by `data`, or leaves it as it was. Durable on return; honours the umask.

    A link stays a link: what it names is replaced. Raises `NotWritten` where the disk is full or read-only, and
    `ThoughtscopeError` for what is no regular file.
    """
    path = _regular(Path(path))
    temporary = temporary_name(path)
    with writing(path):
        _sweep_temporaries(path)
        try:
            write_new(temporary, [data])
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """`atomic_write_bytes` for text, in UTF-8."""
    atomic_write_bytes(path, text.encode())


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an operating system's refusal (a full or read-only disk, no permission) into `NotWritten`."""
    try:
        yield
    except OSError as error:
        raise NotWritten(
            f"{os.fspath(path)} could not be written: {error.strerror or error}. What was there is as it was. "
            "Make room, or name a folder that you may write to."
        ) from error


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Reads in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def sweep_folder(folder: Path) -> None:
    """Removes what killed writers left in a folder, whatever they were writing."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        _remove_if_left(entry)


def _sweep_temporaries(path: Path) -> None:
    """Removes what killed writers of `path` left beside it."""
    start = f".{path.name}."
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(start):
                _remove_if_left(Path(entry.path), stem=path.name)


def _remove_if_left(entry: Path, stem: str | None = None) -> None:
    match = _TEMPORARY.fullmatch(entry.name)
    if match and stem in (None, match["name"]) and not _alive(int(match["pid"])):
        remove(entry)


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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


def _regular(path: Path) -> Path:
    """The regular file that a path names, or would name, links followed. Raises `ThoughtscopeError`."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return Path(os.path.realpath(path))
    except OSError as error:
        raise ThoughtscopeError(
            f"{path} cannot be written: {error.strerror or error}. Name another file."
        ) from None
    if not stat.S_ISREG(mode):
        raise ThoughtscopeError(
            f"{path} is {_what_it_is(mode)}, which no file may replace. Name another file."
        )
    return Path(os.path.realpath(path))


def _what_it_is(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


# --- folders of several files --------------------------------------------------------------------------------------


@contextmanager
def replaced_folder(path: str | os.PathLike[str], *, belongs: Callable[[str], object]) -> Iterator[Path]:
    """A fresh folder that takes the place of `path` as a whole when the block ends well; else nothing has changed.

    A process killed at any moment leaves the old folder or the new one. What the old one holds beyond the layout
    (`belongs` is false for its relative name) is carried over; strays of killed saves are swept. A link stays a link.
    Raises `NotWritten`, and `ThoughtscopeError` where `path` is a file.
    """
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not target.is_dir():
        raise ThoughtscopeError(f"{path} is no folder. Name a new or empty folder.")
    fresh = temporary_name(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.mkdir()
            yield fresh
            with exclusive(target.parent):
                _sweep_temporaries(target)
                _put_in_place(fresh, target, belongs)
            sync_folder(target.parent)
        finally:
            remove(fresh)


def _put_in_place(fresh: Path, target: Path, belongs: Callable[[str], object]) -> None:
    aside = target.with_name(f".{target.name}.replaced")
    if aside.is_dir() and not target.exists():
        os.rename(aside, target)  # somebody was killed between the two renames below
    if target.exists():
        _carry_over(target, fresh, belongs)
        shutil.copymode(target, fresh)
    for folder, _, _ in os.walk(fresh):
        sync_folder(Path(folder))
    if not target.exists():
        os.rename(fresh, target)
    elif not _exchanged(fresh, target):
        remove(aside)
        os.rename(target, aside)
        os.rename(fresh, target)
        remove(aside)


def _carry_over(old: Path, fresh: Path, belongs: Callable[[str], object]) -> None:
    """Gives the fresh folder what the old one holds beside the layout, without a copy where links can be made."""
    for root, folders, files in os.walk(old):
        links = [name for name in folders if Path(root, name).is_symlink()]
        for path in (Path(root, name) for name in [*files, *links]):
            relative = path.relative_to(old)
            here = fresh / relative
            if belongs(relative.as_posix()) or is_temporary(path) or os.path.lexists(here):
                continue
            here.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, here, follow_symlinks=False)
            except OSError:
                shutil.copy2(path, here, follow_symlinks=False)


def _exchanged(one: Path, other: Path) -> bool:
    """Gives two folders each other's name in one step; False where the system or its disk has no such step."""
    libc = ctypes.CDLL(None, use_errno=True)
    first, second, swap = os.fsencode(one), os.fsencode(other), 2
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(first, second, swap)
        else:
            here = -100  # AT_FDCWD
            failed = libc.renameat2(here, first, here, second, swap)
    except AttributeError:
        return False
    number = ctypes.get_errno()
    if failed and number not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(other))
    return not failed


# --- safetensors files ---------------------------------------------------------------------------------------------


def safetensors_chunks(
    tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, tensor by tensor (no second copy of all weights in memory).

    Same layout as the reference library: wide types first so that every tensor is aligned, then by name. `metadata` is
    the file's own string table.
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
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
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
