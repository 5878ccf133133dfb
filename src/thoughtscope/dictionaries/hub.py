"""Dictionaries on the Hugging Face hub: `hf://org/repo[/folder][@revision]`, from the local cache first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

from thoughtscope.core.errors import DictionaryMismatch

_WEIGHTS = ("*.safetensors", "*.npz", "*.yaml", "*.json", "ae.pt")


def parse(reference: str) -> tuple[str, str, str | None]:
    """`hf://org/repo/path@revision` or `…?revision=…` as repository, path and revision. Raises `DictionaryMismatch`."""
    text, _, query = reference.removeprefix("hf://").partition("?")
    text, _, revision = text.partition("@")
    match = re.fullmatch(r"([\w.-]+/[\w.-]+?)(?:/(.+))?", text.strip("/"))
    if match is None or ".." in text.split("/"):
        raise DictionaryMismatch(
            f'"{reference}" is neither a folder here nor a hub reference. Write hf://org/repo/folder.'
        )
    return match[1], match[2] or "", revision or next(iter(parse_qs(query).get("revision", [])), None)


def download(reference: str) -> Path:
    """The local folder of a reference, downloaded unless it is in the cache. Fails at once without a network."""
    from huggingface_hub import snapshot_download

    repo, path, revision = parse(reference)
    patterns = [f"{path}/**/{name}" if path else name for name in _WEIGHTS] + [
        f"{path}/{name}" for name in _WEIGHTS if path
    ]

    def get(local: bool) -> str:
        return snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=local)

    def whole(root: Path) -> bool:
        # A cache may hold another folder of the repository only, or the beginning of a download that was cut off.
        here = any(next((root / path).rglob(name), None) for name in _WEIGHTS)
        return here and not any(root.parents[1].glob("blobs/*.incomplete"))

    folder = _fetch(reference, get, whole)
    if not (folder / path).is_dir():
        raise DictionaryMismatch(f'"{reference}": {repo} has no folder {path or "with a dictionary"}.')
    return folder / path


def download_file(reference: str) -> Path:
    """The local copy of one file on the hub."""
    from huggingface_hub import hf_hub_download

    repo, path, revision = parse(reference)

    def get(local: bool) -> str:
        return hf_hub_download(repo, path, revision=revision, local_files_only=local)

    return _fetch(reference, get, Path.is_file)


def _fetch(reference: str, get: Callable[[bool], str], whole: Callable[[Path], bool]) -> Path:
    """`get(True)` looks in the cache only, and counts if it is `whole`; `get(False)` also asks the hub."""
    from huggingface_hub.errors import HfHubHTTPError

    from thoughtscope.models.checkpoints import silent, unreachable

    try:
        cached = Path(get(True))
        if whole(cached):
            return cached
    except (OSError, ValueError):
        pass  # not in the cache
    why_not = unreachable() or silent()
    if why_not is not None:
        raise DictionaryMismatch(
            f'"{reference}" is neither a folder here nor whole in the local cache, and the hub cannot be asked: '
            f"{why_not}. Connect once to download it, or give the path of a folder."
        )
    try:
        return Path(get(False))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise DictionaryMismatch(f'"{reference}" could not be downloaded: {error}') from None
