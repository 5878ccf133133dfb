"""Artefacts: a folder of safetensors files under one `manifest.json`, saved so that a crash leaves the old or the new.

    folder/
      manifest.json                       kind, files (size, sha256), meta, provenance, its own sha256
      weights-1f2e3d4c5b6a.safetensors    the name carries the start of the content's hash

A save writes new content under new names, then renames the manifest into place: that rename is the moment of change.
A process killed before it leaves the old version whole, one killed after it the new one; the next save sweeps strays.
Several processes can save one artefact together, each some of its files; one of them writes the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError, describe_choices
from thoughtscope.core.files import (
    atomic_write_text,
    exclusive,
    file_sha256,
    is_temporary,
    read_file,
    safetensors_chunks,
    sync_folder,
    temporary_name,
    write_new,
    writing,
)
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.provenance import provenance as current_provenance
from thoughtscope.core.tensors import TensorFile

MANIFEST = "manifest.json"
FORMAT = "thoughtscope-artefact"
VERSION = 1

_FIELDS = frozenset({"format", "version", "kind", "meta", "provenance", "files", "sha256"})
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_STORED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}-[0-9a-f]{12}\.safetensors")

Verify = Literal["hash", "size"]
T = TypeVar("T")


@runtime_checkable
class Writers(Protocol):
    """Processes that save together: all of them call `save_artefact` with the same path, kind and meta."""

    @property
    def first(self) -> bool:
        """Whether this is the one that has the lock and writes the manifest."""

    def together(self, work: Callable[[], T]) -> T:
        """Does the work; raises in every process if it failed in any. None goes on before all are done."""

    def told(self, text: str) -> list[str]:
        """What each of them says."""


class _Alone:
    first = True

    def together(self, work: Callable[[], T]) -> T:
        return work()

    def told(self, text: str) -> list[str]:
        return [text]


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

    def checked(self, file: str) -> TensorFile:
        """The same after reading the file whole to compare its hash. Raises `CorruptArtefact` naming it."""
        _verify(self.path, {"files": {file: asdict(self.files[file])}}, "hash")
        return self.tensors(file)

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
    writers: Writers | None = None,
) -> Path:
    """Saves `{file: {name: tensor}}` and JSON-able `meta` as the folder `path`; replaces an older version as a whole.

    Tensors may be torch tensors or NumPy arrays. If anything fails, the older version is still there and complete.
    Raises `ThoughtscopeError` for a file name that is not plain letters, digits, `_`, `-` and `.`, and for a folder
    that holds something else. `provenance` defaults to `provenance.provenance()`. With `writers`, each of them gives
    tensors of its own files, and the artefact has them all.
    """
    folder = Path(path)
    saving: Writers = writers or _Alone()
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
        "provenance": dict(current_provenance() if provenance is None else provenance),
    }
    json.dumps(manifest, allow_nan=False)  # what cannot be written fails before anything is touched
    with ExitStack() as lock, writing(folder):
        saving.together(lambda: _prepare(folder, lock) if saving.first else None)
        written: list[Path] = []
        try:
            own = saving.together(lambda: _stored(folder, tensors, written))
            manifest["files"] = _merged(saving.told(json.dumps(own)))
            saving.together(lambda: _publish(folder, manifest) if saving.first else None)
        except BaseException:
            for file in written:
                file.unlink(missing_ok=True)
            raise
        if saving.first:
            _sweep(folder)
    return folder


def _prepare(folder: Path, lock: ExitStack) -> None:
    """Makes the folder, takes its lock, and removes what killed saves left."""
    if folder.exists() and not folder.is_dir():
        raise ThoughtscopeError(f"{folder} is a file; an artefact is a folder. Name a new or empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    lock.enter_context(exclusive(folder))
    if _foreign(folder):
        raise ThoughtscopeError(f"{folder} holds files that are not an artefact. Name a new or empty folder.")
    _sweep(folder)


def _stored(
    folder: Path, tensors: Mapping[str, Mapping[str, Any]], written: list[Path]
) -> dict[str, dict[str, Any]]:
    """Writes the files, and says what the manifest has to say of them."""
    files = {name: asdict(_store(folder, name, content, written)) for name, content in tensors.items()}
    sync_folder(folder)
    return files


def _merged(told: list[str]) -> dict[str, Any]:
    """The files of all writers."""
    every = [entry for text in told for entry in json.loads(text).items()]
    files = dict(every)
    if len(files) < len(every):
        raise ThoughtscopeError(f"Two writers gave files of the same name: {[name for name, _ in every]}.")
    return files


def _publish(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest: from now on, this is the version that is there."""
    manifest["sha256"] = _manifest_digest(manifest)
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    atomic_write_text(folder / MANIFEST, text + "\n")


def load_artefact(path: str | os.PathLike[str], *, kind: str, verify: Verify = "hash") -> Artefact:
    """Opens the artefact at `path` after checking that every file is present, of its size, and (`"hash"`) unaltered.

    `verify="size"` skips reading the content, for shards of many gigabytes. Raises `CorruptArtefact` naming the file.
    """
    folder = Path(path)
    manifest = _read_manifest(folder, kind)
    while True:
        try:
            _verify(folder, manifest, verify)
            break
        except CorruptArtefact:
            # A save that finished since the manifest was read swept the files it names: look once more.
            latest = _read_manifest(folder, kind)
            if latest["sha256"] == manifest["sha256"]:
                raise
            manifest = latest
    return Artefact(
        path=folder,
        kind=kind,
        meta=manifest["meta"],
        provenance=manifest["provenance"],
        files={name: StoredFile(**entry) for name, entry in manifest["files"].items()},
    )


def is_artefact(path: str | os.PathLike[str], *, kind: str) -> bool:
    """Whether `path` is a folder with an artefact of this `kind`, sound or damaged: `load_artefact` tells which.

    Never raises. A manifest that cannot be read, or whose hash is wrong, is one that was damaged, not one that is not
    there.
    """
    manifest = _manifest_found(Path(path))
    if not manifest:
        return manifest is not None
    return manifest.get("kind") == kind or manifest.get("sha256") != _manifest_digest(manifest)


def _store(folder: Path, name: str, tensors: Mapping[str, Any], written: list[Path]) -> StoredFile:
    """Writes one safetensors file under a name that carries its hash, hashing on the way."""
    digest = hashlib.sha256()
    size = 0

    def counted() -> Iterator[bytes | memoryview]:
        nonlocal size
        for chunk in safetensors_chunks(tensors):
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    temporary = temporary_name(folder / name)
    try:
        write_new(temporary, counted())
        final = folder / f"{name}-{digest.hexdigest()[:12]}.safetensors"
        if not final.exists():
            written.append(final)
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)
    return StoredFile(path=final.name, size=size, sha256=digest.hexdigest())


def _manifest_found(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artefact, sound or not; empty where it cannot be read, None where there is none of ours."""
    path = folder / MANIFEST
    try:
        manifest = strict_json(read_file(path), path)
    except FileNotFoundError:
        return None
    except CorruptArtefact:
        return {} if os.path.lexists(path) else None  # the folder may itself be a file
    # Damage seldom takes more than one field; another tool's manifest has few of ours.
    if not isinstance(manifest, dict) or len(_FIELDS & manifest.keys()) < len(_FIELDS) - 2:
        return None
    return manifest


def _foreign(folder: Path) -> bool:
    """Whether a folder holds files, and they are not an artefact."""
    if os.path.lexists(folder / MANIFEST):
        return _manifest_found(folder) is None
    return any(not _ours(entry) for entry in folder.iterdir())


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = strict_json(read_file(path), path)
    except FileNotFoundError as error:
        raise CorruptArtefact(
            f"{path} cannot be read ({error.strerror}), so {folder} is no artefact."
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


def _ours(entry: Path) -> bool:
    return is_temporary(entry) or _STORED.fullmatch(entry.name) is not None


def _sweep(folder: Path) -> None:
    """Removes what killed saves left. Only under the lock: no other writer's files can be among them."""
    try:
        manifest = strict_json(read_file(folder / MANIFEST), folder / MANIFEST)
        kept = {entry["path"] for entry in manifest["files"].values()}
    except FileNotFoundError:
        kept = set()
    except (CorruptArtefact, KeyError, TypeError, AttributeError):
        return  # an unreadable manifest is no reason to delete anything
    for entry in folder.iterdir():
        if _ours(entry) and entry.name not in kept:
            entry.unlink(missing_ok=True)
