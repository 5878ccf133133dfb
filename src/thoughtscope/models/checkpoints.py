"""Where a model's files are, and whether they are whole: everything that is checked before any weight is read."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from thoughtscope.core.errors import CorruptArtefact, UnknownModel, UnsupportedModel
from thoughtscope.core.files import file_sha256, read_file
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.tensors import check_safetensors

SPECIMEN = "specimen"
SPECIMENS = (SPECIMEN, "specimen-multimodal")
"""The models that come with the package."""
REACH_SECONDS = 1.5
"""How long the model hub may take to answer a connection before it counts as unreachable."""

ANSWER_SECONDS = 5.0
"""How long the model hub may take to answer a request before it counts as silent."""

MAX_CONFIG = 64 * 2**20
"""Bytes of config.json or of the index of a sharded checkpoint."""
MAX_SUMS = 2**20
MAX_LAYERS, MAX_SIZE = 1_000, 2**31
"""The deepest published models have some 130 blocks; no width, vocabulary or context has more than 2^31."""
_SIZE = re.compile(
    r"^(n|num)_|_size$|_dim$|_positions?$|max_position_embeddings$|_length$|_heads$|_layers?$|_window$"
)
_LAYERS = re.compile(r"(n|num)_(hidden_)?layers?")
_SUM = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(\S.*)")
_HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_ALLOWED = (
    'Allowed: "specimen", "specimen-multimodal", "smollm2", the path of a folder with config.json, model.safetensors '
    "and tokenizer.json, the path of a GGUF file, or the name of a model on the Hugging Face hub (org/name)."
)


def locate(name_or_path: str, *, revision: str | None = None) -> tuple[Path, str]:
    """The folder that holds a model, and the revision to record.

    Order: the shipped specimens, a local folder, the hub's local cache, the hub itself if it answers.
    Raises `UnknownModel` naming the value, what is allowed and the fix; at once when there is no network.
    """
    if name_or_path in SPECIMENS:
        folder = specimen_folder(name_or_path)
        if not (folder / "config.json").is_file():
            raise UnknownModel(f"The specimen's files are missing from {folder}. Reinstall the package.")
        return folder, fingerprint(folder)
    local = Path(name_or_path).expanduser()
    if os.path.isdir(local):  # False also for a name too long to be a path, where `Path.is_dir` raises
        if not (local / "config.json").is_file():
            raise UnknownModel(
                f'The folder "{name_or_path}" has no config.json, so it is not a model. {_ALLOWED}'
            )
        return local, fingerprint(local)
    if os.path.isfile(local):
        raise UnknownModel(
            f'"{name_or_path}" is a file, and not a GGUF one. Give the folder that holds it. {_ALLOWED}'
        )
    if name_or_path.lower().endswith(".gguf") or _HUB_NAME.fullmatch(name_or_path) is None:
        raise UnknownModel(f'There is no folder or file "{name_or_path}". {_ALLOWED}')
    return _from_hub(name_or_path, revision)


def specimen_folder(name: str = SPECIMEN) -> Path:
    """Where a shipped model lies in the installed package."""
    return Path(str(resources.files("thoughtscope"))) / "assets" / name


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    """The snapshot in the local cache; downloaded first when it is not there whole and the hub answers."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    def snapshot(*, local_files_only: bool) -> Path:
        found = snapshot_download(
            name, revision=revision, allow_patterns=list(_WANTED), local_files_only=local_files_only
        )
        return Path(found)

    try:
        folder = snapshot(local_files_only=True)
        if _looks_whole(folder):
            return folder, folder.name
    except HFValidationError as error:
        raise UnknownModel(f'"{name}" is not a valid model name: {error} {_ALLOWED}') from None
    except OSError:
        pass  # not in the cache; whether that is final depends on the network
    why_not = unreachable() or silent()
    if why_not is not None:
        raise UnknownModel(
            f'"{name}"{_at(revision)} is not on this machine, and the model hub cannot be asked: {why_not}. '
            f"{_ALLOWED} Fix: connect once to download it, or give the path of a folder."
        )
    try:
        folder = snapshot(local_files_only=False)
    except (OSError, ValueError) as error:  # every error of the hub client is one of these
        raise UnknownModel(
            f'The model hub does not give "{name}"{_at(revision)}: {first_line(error)}. {_ALLOWED}'
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise UnsupportedModel(
            f'"{name}"{_at(revision)} has no .safetensors weights on the hub, and pickled ones, which run code when '
            f"they are opened, are not read. Use another revision, or convert it with transformers' save_pretrained."
        )
    return folder, folder.name


def offline() -> bool:
    """Whether the environment says that no network is to be asked (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants

    return bool(constants.is_offline_mode())


def unreachable() -> str | None:
    """Why the model hub cannot be reached, or None if it answers a connection."""
    from huggingface_hub import constants

    if offline():
        return "HF_HUB_OFFLINE is set"
    proxy = next(
        (os.environ[key] for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if os.environ.get(key)), None
    )
    target = urlsplit(proxy or constants.ENDPOINT)
    address = (target.hostname or "", target.port or (443 if target.scheme == "https" else 80))
    return _in_time(lambda: socket.create_connection(address, timeout=REACH_SECONDS).close(), f"{address[0]}")


def silent() -> str | None:
    """Why a hub that takes connections cannot be asked all the same, or None if it answers a request with anything."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if offline():
        return None
    heard = threading.Event()

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=2 * ANSWER_SECONDS)
        except Exception:
            pass  # whatever is wrong, the download will say it
        heard.set()

    threading.Thread(target=ask, daemon=True).start()
    if heard.wait(ANSWER_SECONDS):
        return None
    return f"{constants.ENDPOINT} takes connections and says nothing for {ANSWER_SECONDS:.0f} s"


def _in_time(connect: Callable[[], None], host: str) -> str | None:
    """Runs `connect` with a deadline: name resolution has none of its own."""
    outcome: list[str | None] = []

    def attempt() -> None:
        try:
            connect()
            outcome.append(None)
        except OSError as error:
            outcome.append(f"no connection to {host} ({error.strerror or error})")

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return outcome[0] if outcome else f"{host} did not answer within {REACH_SECONDS} s"


def check_files(folder: Path) -> None:
    """Refuses a checkpoint whose weights are missing, damaged, or only available as pickle.

    A shipped specimen's must be those that its list of checksums states. Raises `CorruptArtefact` naming the file,
    `UnsupportedModel` for a pickle-only checkpoint.
    """
    config = read_json(folder / "config.json")
    for path in weight_files(folder):
        check_safetensors(path)
    check_sizes(config, folder / "config.json")
    _check_sums(folder, shipped=folder in map(specimen_folder, SPECIMENS))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, single or sharded; each is checked to be there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_json(index).get("weight_map")
        if (
            not isinstance(shards, dict)
            or not shards
            or not all(isinstance(each, str) for each in shards.values())
        ):
            raise CorruptArtefact(f'{index} has no "weight_map" from tensor names to files.')
        names = sorted(set(shards.values()))
    else:
        names = ["model.safetensors"]
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickled and not (folder / names[0]).is_file():
            raise UnsupportedModel(
                f"{folder} has its weights only as pickle ({pickled[0]}), which can run code when it is opened. "
                f"Use a revision with .safetensors files, or convert it once with transformers' save_pretrained."
            )
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise CorruptArtefact(f"{folder / name} is missing. Download or copy the whole checkpoint again.")
    return [folder / name for name in names]


def fingerprint(folder: Path) -> str:
    """A short name for the content of a local checkpoint: `local-` and a hash of its configuration and weights.

    Of a weight file only the size and both ends are read, so that large models open at once.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 16)))
            digest.update(file.read(1 << 16))
    return f"local-{digest.hexdigest()[:16]}"


def _looks_whole(folder: Path) -> bool:
    try:
        weight_files(folder)
    except CorruptArtefact:
        return False
    except UnsupportedModel:
        return True  # a cached pickle-only checkpoint is refused later, with its own reason
    return (folder / "config.json").is_file()


def check_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Raises `CorruptArtefact` for sizes that no model has, before anything of that size is made.

    What reads a configuration makes modules by the number of layers, and tables by the number of positions.
    """
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value, path)
        if _SIZE.search(key) is None or value is None or isinstance(value, bool | str | list | dict):
            continue
        limit = MAX_LAYERS if _LAYERS.fullmatch(key) else MAX_SIZE
        if type(value) is not int or not -1 <= value <= limit:
            raise CorruptArtefact(f"{path}: {key} is {value!r:.60}; a whole number up to {limit:,} is meant.")


def _check_sums(folder: Path, *, shipped: bool) -> None:
    """Compares the files with `SHA256SUMS` where a checkpoint carries one; the shipped one must, for each file read."""
    sums = folder / "SHA256SUMS"
    if not shipped and not os.path.lexists(sums):
        return
    try:
        lines = read_file(sums, limit=MAX_SUMS).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fix = " Reinstall the package." if shipped else ""
        raise CorruptArtefact(f"{sums} cannot be read: {error}.{fix}") from None
    stated = {}
    for number, line in enumerate(filter(str.strip, lines), start=1):
        match = _SUM.fullmatch(line.strip())
        if match is None or Path(match[2]).name != match[2] or match[2] in stated:
            raise CorruptArtefact(f"{sums}: line {number} is not a hash, two spaces and the name of a file.")
        stated[match[2]] = match[1].lower()
    read = {path.name for pattern in _WANTED for path in folder.glob(pattern)} if shipped else set()
    for name in sorted(read | set(stated)):
        path = folder / name
        if name not in stated:
            raise CorruptArtefact(
                f"{sums} does not list {name}, which lies beside it. Reinstall the package."
            )
        if not path.is_file():
            raise CorruptArtefact(f"{path} is missing, but {sums} lists it.")
        if file_sha256(path) != stated[name]:
            raise CorruptArtefact(
                f"{path} was altered: its content does not have the hash that {sums.name} states."
            )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of a checkpoint. Raises `CorruptArtefact` and `LimitExceeded` naming it."""
    try:
        data = strict_json(read_file(path, limit=MAX_CONFIG), path)
    except OSError as error:
        raise CorruptArtefact(f"{path} cannot be read: {error.strerror or error}.") from None
    if not isinstance(data, dict):
        raise CorruptArtefact(f"{path} is not a JSON object.")
    return data


def _at(revision: str | None) -> str:
    return "" if revision is None else f" at revision {revision}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its name where it has none: foreign errors can run over pages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
