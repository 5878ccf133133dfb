"""The de-quantised weights of a GGUF file, kept beside it as an ordinary Hugging Face folder.

    SmolLM2-135M-Instruct.Q4_1.gguf
    SmolLM2-135M-Instruct.Q4_1.float32/     config.json, model.safetensors, tokenizer.json, …, gguf-copy.json

`gguf-copy.json` says which file the folder was made of (size and SHA-256), by which versions, and what was made. A file
that has neither changed nor moved since is told by its stamp, and hashed otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import NotWritten, ThoughtscopeError
from thoughtscope.core.files import (
    atomic_write_text,
    default_folder,
    file_sha256,
    read_file,
    replaced_folder,
    safetensors_chunks,
    write_new,
)
from thoughtscope.core.parsing import strict_json
from thoughtscope.models.gguf.conversion import Dequantised

MANIFEST = "gguf-copy.json"
FORMAT, VERSION = "thoughtscope-gguf-copy", 1
WEIGHTS = "model.safetensors"
_LIMIT = 2**20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

Stamp = list[int]
"""When a file last changed (the time of its inode, which nobody can set), its size, and its inode."""


@dataclass(frozen=True, kw_only=True)
class KeptCopy:
    """A folder that holds the whole of what a GGUF file's weights and words are, and the hash of that file."""

    folder: Path
    source_sha256: str


def find_copy(path: Path) -> KeptCopy | None:
    """The copy of a file, if there is one that was made of it as it is, and is whole; None otherwise."""
    for folder in _places(path):
        copy = _checked(folder, path)
        if copy is not None:
            return copy
    return None


def keep(made: Dequantised, path: Path, source: Mapping[str, Any]) -> KeptCopy:
    """Writes a copy beside the file, or in the user's data folder where that cannot be; whole, or not at all.

    `source` is what `described` said of the file before it was read. Raises `NotWritten` where neither can be written.
    """
    refused = []
    for folder in _places(path):
        try:
            _refuse_foreign(folder)
            with replaced_folder(folder, belongs=lambda name: True) as fresh:
                _write(made, fresh, {"name": path.name, **source})
            return KeptCopy(folder=folder, source_sha256=source["sha256"])
        except ThoughtscopeError as error:
            refused.append(str(error))
    raise NotWritten(" ".join(refused))


def described(path: Path) -> dict[str, Any]:
    """Size, SHA-256 and stamp of a file. The stamp is taken first: what changes meanwhile has another one."""
    stamp = _stamp(path)
    return {"size": stamp[1], "sha256": file_sha256(path), "stamp": stamp}


def _refuse_foreign(folder: Path) -> None:
    """What somebody else has under this name stays."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise NotWritten(f"{folder} holds something else. Move it away, to keep the weights there.")


def _places(path: Path) -> tuple[Path, Path]:
    """Where the copy of a file may be: beside it, or in the user's data folder under its name and its place."""
    path = Path(os.path.realpath(path))
    stem = path.name[: -len(".gguf")] if path.name.lower().endswith(".gguf") else path.name
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    own = default_folder() / "models" / f"{stem}-{place}.float32"
    return path.parent / f"{stem}.float32", own


def _write(made: Dequantised, folder: Path, source: Mapping[str, Any]) -> None:
    """The folder as transformers writes one, with the manifest as its last file."""
    made.module.config.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    if getattr(made.module, "generation_config", None) is not None:
        made.module.generation_config.save_pretrained(folder)
    others = sorted(path for path in folder.iterdir() if path.is_file())
    for path in others:
        _sync(path)
    files = {path.name: described(path) for path in others}
    files[WEIGHTS] = _write_weights(made.module, folder / WEIGHTS)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "source": dict(source),
        "made": {"dtype": "float32", "architecture": made.module.config.architectures[0]},
        "versions": {
            package: _version(package) for package in ("thoughtscope", "transformers", "gguf", "torch")
        },
        "files": files,
    }
    write_new(folder / MANIFEST, [_text(manifest).encode()])


def _write_weights(module: Any, path: Path) -> dict[str, Any]:
    """The state of the module, tied tensors once, hashed on the way."""
    tied = set(getattr(module, "all_tied_weights_keys", None) or ())
    state = {name: tensor for name, tensor in module.state_dict().items() if name not in tied}
    digest = hashlib.sha256()

    def hashed() -> Iterator[bytes | memoryview]:
        for chunk in safetensors_chunks(state, {"format": "pt"}):
            digest.update(chunk)
            yield chunk

    write_new(path, hashed())
    return {"size": path.stat().st_size, "sha256": digest.hexdigest(), "stamp": _stamp(path)}


def _checked(folder: Path, path: Path) -> KeptCopy | None:
    """The copy in a folder if its manifest belongs to the file, and its files are those of the manifest."""
    manifest = _read(folder)
    if manifest is None:
        return None
    source, files = manifest["source"], manifest["files"]
    entries = [(source, path), *((entry, folder / name) for name, entry in files.items())]
    try:
        same = [_same(entry, place) for entry, place in entries]
    except OSError:
        return None
    if not all(same):
        return None
    if any(entry["stamp"] != _stamp(place) for entry, place in entries):
        for entry, place in entries:
            entry["stamp"] = _stamp(place)
        with suppress(NotWritten, OSError):  # then they are hashed again next time
            atomic_write_text(folder / MANIFEST, _text(manifest))
    return KeptCopy(folder=folder, source_sha256=source["sha256"])


def _same(entry: Mapping[str, Any], path: Path) -> bool:
    """Whether a file is the one of an entry: by its stamp, or else by its size and hash."""
    stamp = _stamp(path)
    if stamp == entry["stamp"]:
        return True
    return stamp[1] == entry["size"] and file_sha256(path) == entry["sha256"]


def _read(folder: Path) -> dict[str, Any] | None:
    """A manifest of this version whose hash is right; None where there is none, or a damaged one."""
    try:
        manifest = strict_json(read_file(folder / MANIFEST, limit=_LIMIT), folder / MANIFEST)
    except (OSError, ThoughtscopeError):
        return None
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (
        FORMAT,
        VERSION,
    ):
        return None
    if manifest.get("sha256") != _digest(manifest):
        return None
    names = manifest["files"]
    return manifest if WEIGHTS in names and all(map(_NAME.fullmatch, names)) else None


def _text(manifest: Mapping[str, Any]) -> str:
    """The manifest with the hash of the rest of it."""
    return json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1, ensure_ascii=False) + "\n"


def _digest(manifest: Mapping[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> Stamp:
    state = os.stat(path)
    return [state.st_ctime_ns, state.st_size, state.st_ino]


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
