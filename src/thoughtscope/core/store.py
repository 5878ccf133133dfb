"""Files that survive a crash, and artefacts: a folder of safetensors files under one `manifest.json`.

    folder/
      manifest.json                       kind, files (size, sha256), meta, provenance, its own sha256
      weights-1f2e3d4c5b6a.safetensors    the name carries the start of the content's hash

A save writes new content under new names, then renames the manifest into place: that rename is the moment of change.
A process killed before it leaves the old version whole, one killed after it the new one; the next save sweeps strays.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from glob import escape as glob_escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError, describe_choices

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
FORMAT = "thoughtscope-artefact"
VERSION = 1

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_STORED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}-[0-9a-f]{12}\.safetensors")
_TEMPORARY = re.compile(r"\..+\.(?P<pid>[0-9]+)\.[0-9]+\.tmp", flags=re.DOTALL)
_MAX_HEADER = 100_000_000  # bytes; the limit of the safetensors format itself
_counter = itertools.count()

Verify = Literal["hash", "size"]


# --- single files --------------------------------------------------------------------------------------------------


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replaces the file at `path` by `data`, or leaves it as it was. Durable on return; honours the umask."""
    path = Path(path)
    _sweep_temporaries(path)
    temporary = _temporary(path)
    try:
        _write_new(temporary, [data])
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


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


def _temporary(path: Path) -> Path:
    """A name beside `path` that no other process or thread uses, from which the writer's process can be read."""
    return path.parent / f".{path.name}.{os.getpid()}.{next(_counter)}.tmp"


def _write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Creates `path` and brings its content to the disk. Mode 0666 lets the umask decide, where tempfile has 0600."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
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


def _safetensors_chunks(tensors: Mapping[str, Any]) -> Iterator[bytes | memoryview]:
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


# --- artefacts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One line of the manifest: where a file's content lies, and what it must be."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A loaded artefact. `meta` is at hand; tensors stay on disk until they are asked for."""

    path: Path
    kind: str
    meta: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: Mapping[str, StoredFile]

    def tensors(self, file: str) -> TensorFile:
        """The tensors of one file, memory-mapped. Raises `CorruptArtefact` for a name that the manifest lacks."""
        return TensorFile(self.file_path(file))

    def file_path(self, file: str) -> Path:
        """Where the content of `file` lies on disk."""
        if file not in self.files:
            raise CorruptArtefact(
                f"{self.path}: " + describe_choices(file, self.files, what="file of this artefact")
            )
        return self.path / self.files[file].path


def save_artefact(
    path: str | os.PathLike[str],
    *,
    kind: str,
    tensors: Mapping[str, Mapping[str, Any]],
    meta: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Saves `{file: {name: tensor}}` and JSON-able `meta` as the folder `path`; replaces an older version as a whole.

    Tensors may be torch tensors or NumPy arrays. If anything fails, the older version is still there and complete.
    Raises `ThoughtscopeError` for a file name that is not plain letters, digits, `_`, `-` and `.`, and for a folder
    that holds something else. `provenance` defaults to `provenance.provenance()`.
    """
    from thoughtscope.core.provenance import provenance as current

    folder = Path(path)
    for name in tensors:
        if not _NAME.fullmatch(name):
            raise ThoughtscopeError(
                f"{name!r} cannot name a file of an artefact: use letters, digits, _, - and . only."
            )
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "meta": dict(meta),
        "provenance": dict(current() if provenance is None else provenance),
    }
    json.dumps(manifest, allow_nan=False)  # what cannot be written fails before anything is touched
    if folder.exists() and not folder.is_dir():
        raise ThoughtscopeError(f"{folder} is a file; an artefact is a folder. Name a new or empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        foreign = not (folder / MANIFEST).exists() and any(not _ours(entry) for entry in folder.iterdir())
        if foreign:
            raise ThoughtscopeError(
                f"{folder} holds files that are not an artefact. Name a new or empty folder."
            )
        _sweep(folder)
        written: list[Path] = []
        try:
            files = {name: _store(folder, name, content, written) for name, content in tensors.items()}
            _sync_folder(folder)
            manifest["files"] = {name: asdict(file) for name, file in files.items()}
            manifest["sha256"] = _manifest_digest(manifest)
            text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
            atomic_write_text(folder / MANIFEST, text + "\n")
        except BaseException:
            for file in written:
                file.unlink(missing_ok=True)
            raise
        _sweep(folder)
    return folder


def load_artefact(path: str | os.PathLike[str], *, kind: str, verify: Verify = "hash") -> Artefact:
    """Opens the artefact at `path` after checking that every file is present, of its size, and (`"hash"`) unaltered.

    `verify="size"` skips reading the content, for shards of many gigabytes. Raises `CorruptArtefact` naming the file.
    """
    folder = Path(path)
    manifest = _read_manifest(folder, kind)
    try:
        _verify(folder, manifest, verify)
    except CorruptArtefact:
        # A save that finished since the manifest was read swept the files it names: look once more.
        latest = _read_manifest(folder, kind)
        if latest["sha256"] == manifest["sha256"]:
            raise
        manifest = latest
        _verify(folder, manifest, verify)
    return Artefact(
        path=folder,
        kind=kind,
        meta=manifest["meta"],
        provenance=manifest["provenance"],
        files={name: StoredFile(**entry) for name, entry in manifest["files"].items()},
    )


def is_artefact(path: str | os.PathLike[str], *, kind: str) -> bool:
    """True when `path` is a folder whose manifest says `kind`. Never raises; says nothing about the content."""
    try:
        return bool(_read_manifest(Path(path), kind))
    except CorruptArtefact:
        return False


def _store(folder: Path, name: str, tensors: Mapping[str, Any], written: list[Path]) -> StoredFile:
    """Writes one safetensors file under a name that carries its hash, hashing on the way."""
    digest = hashlib.sha256()
    size = 0

    def counted() -> Iterator[bytes | memoryview]:
        nonlocal size
        for chunk in _safetensors_chunks(tensors):
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    temporary = _temporary(folder / name)
    try:
        _write_new(temporary, counted())
        final = folder / f"{name}-{digest.hexdigest()[:12]}.safetensors"
        if not final.exists():
            written.append(final)
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    return StoredFile(path=final.name, size=size, sha256=digest.hexdigest())


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = strict_json(path.read_bytes(), path)
    except OSError as error:
        raise CorruptArtefact(
            f"{path} cannot be read ({error.strerror or error}), so {folder} is no artefact."
        ) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CorruptArtefact(f'{path} does not say "format": "{FORMAT}".')
    if manifest.get("version") != VERSION:
        raise CorruptArtefact(
            f"{path} has version {manifest.get('version')!r}; this thoughtscope reads version {VERSION}. "
            "Upgrade it, or save the artefact again."
        )
    if manifest.get("sha256") != _manifest_digest(manifest):
        raise CorruptArtefact(f"{path} was altered: its content does not have the hash that it states.")
    if not _well_formed(manifest):
        raise CorruptArtefact(
            f"{path} does not have the fields of an artefact, or names a file outside its folder."
        )
    if manifest.get("kind") != kind:
        raise CorruptArtefact(f"{folder} holds a {manifest.get('kind')!r}, not a {kind!r}.")
    return manifest


def _well_formed(manifest: Mapping[str, Any]) -> bool:
    if not all(isinstance(manifest.get(field), dict) for field in ("meta", "provenance", "files")):
        return False
    return all(
        isinstance(entry, dict)
        and entry.keys() == {"path", "size", "sha256"}
        and isinstance(entry["path"], str)
        and isinstance(entry["size"], int)
        and isinstance(entry["sha256"], str)
        and _STORED.fullmatch(entry["path"])
        for entry in manifest["files"].values()
    )


def _verify(folder: Path, manifest: Mapping[str, Any], verify: Verify) -> None:
    if verify not in ("hash", "size"):
        raise ThoughtscopeError(describe_choices(verify, ["hash", "size"], what="way to verify"))
    for entry in manifest["files"].values():
        path = folder / entry["path"]
        try:
            size = path.stat().st_size
            actual = file_sha256(path) if verify == "hash" and size == entry["size"] else None
        except OSError as error:
            raise CorruptArtefact(f"{path} cannot be read: {error.strerror or error}.") from None
        if size != entry["size"]:
            raise CorruptArtefact(f"{path} has {size:,} bytes; the manifest says {entry['size']:,}.")
        if actual is not None and actual != entry["sha256"]:
            raise CorruptArtefact(
                f"{path} was altered: its SHA-256 is {actual[:12]}…, the manifest says {entry['sha256'][:12]}…."
            )


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time: the lock goes with the process, so a killed writer leaves none behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _ours(entry: Path) -> bool:
    return bool(_STORED.fullmatch(entry.name) or _TEMPORARY.fullmatch(entry.name))


def _sweep(folder: Path) -> None:
    """Removes what killed saves left. Only under the lock: no other writer's files can be among them."""
    try:
        manifest = strict_json((folder / MANIFEST).read_bytes(), folder / MANIFEST)
        kept = {entry["path"] for entry in manifest["files"].values()}
    except FileNotFoundError:
        kept = set()
    except (OSError, CorruptArtefact, KeyError, TypeError, AttributeError):
        return  # an unreadable manifest is no reason to delete anything
    for entry in folder.iterdir():
        if _ours(entry) and entry.name not in kept:
            entry.unlink(missing_ok=True)
