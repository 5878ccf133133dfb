"""core.files: only regular files are read and replaced, folders change as a whole, and a lock is for one."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from thoughtscope.core import files
from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, NotWritten, ThoughtscopeError
from thoughtscope.core.files import atomic_write_bytes, read_file, replaced_folder


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- regular files, and nothing else ---------------------------------------------------------------------------------


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    """One of our own, so that a failure here spoils no machine; a socket where only root may make one."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))


SPECIAL = {
    "a folder": (lambda path: path.mkdir(), "is a folder"),
    "a pipe": (os.mkfifo, "is a named pipe"),
    "a device": (device, "is a device|is a socket|No such device"),
    "a loop": (loop, "symbolic links"),
}


@pytest.mark.parametrize("name", SPECIAL)
def test_only_regular_files_are_read_and_replaced(tmp_path, name):
    make, why = SPECIAL[name]
    make(tmp_path / "x")
    before = os.lstat(tmp_path / "x")
    with pytest.raises(CorruptArtefact, match=rf"/x .*({why})"):
        read_file(tmp_path / "x")
    with pytest.raises(ThoughtscopeError, match=rf"/x .*({why}).*Name another file"):
        atomic_write_bytes(tmp_path / "x", b"new")
    after = os.lstat(tmp_path / "x")
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode) and names(tmp_path) == ["x"]


def test_what_a_pipe_is_said_of_standard_output(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from thoughtscope.core.files import *; atomic_write_text('/dev/stdout', 'x')"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "src"},
    )  # fmt: skip
    assert "/dev/stdout is a named pipe, which no file may replace" in done.stderr


def test_a_link_stays_a_link_and_what_it_names_is_replaced(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "note").write_bytes(b"old")
    (tmp_path / "link").symlink_to("deep/note")
    atomic_write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "deep" / "note").read_bytes() == b"new"


def test_reading_has_a_limit_and_knows_what_is_not_there(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_file(tmp_path / "x", limit=5) == read_file(tmp_path / "x") == b"12345"
    with pytest.raises(LimitExceeded, match="x has 5 bytes; the limit is 4"):
        read_file(tmp_path / "x", limit=4)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "y")
    for odd in ("a\0b", "x" * 300, tmp_path / "x" / "y"):
        with pytest.raises(CorruptArtefact, match="cannot be read"):
            read_file(odd)
    descriptors = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(CorruptArtefact):
            read_file(tmp_path)
    assert len(os.listdir("/dev/fd")) == descriptors


# --- folders of several files ----------------------------------------------------------------------------------------


def replaced(folder: Path, *files: str, content: bytes = b"new") -> None:
    with replaced_folder(folder, belongs=lambda name: name.startswith("layer_")) as fresh:
        for name in files:
            (fresh / name).write_bytes(content)


@pytest.mark.parametrize("swap", [True, False], ids=["exchanged", "renamed twice"])
def test_a_folder_is_replaced_as_a_whole_with_what_is_not_of_the_layout(tmp_path, monkeypatch, swap):
    if not swap:
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    target = tmp_path / "real"
    replaced(target, "layer_0", "layer_1", "layer_2", content=b"old")
    (target / "README").write_bytes(b"mine")
    (target / "deep" / "er").mkdir(parents=True)
    (target / "deep" / "er" / "x").write_bytes(b"mine too")
    (target / "loop").symlink_to("loop")
    (target / f".layer_1.{2**30}.1.tmp").write_bytes(b"stray")
    target.chmod(0o750)
    inode = (target / "README").stat().st_ino
    (tmp_path / "link").symlink_to("real")
    replaced(tmp_path / "link", "layer_0")
    assert names(target) == ["README", "deep", "layer_0", "loop"] and names(tmp_path) == ["link", "real"]
    assert (target / "layer_0").read_bytes() == b"new" and (target / "README").stat().st_ino == inode
    assert (target / "deep" / "er" / "x").read_bytes() == b"mine too" and (target / "loop").is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o750


def test_a_replacement_that_fails_changes_nothing(tmp_path):
    replaced(tmp_path / "a", "layer_0", content=b"old")
    with pytest.raises(NotWritten, match="a could not be written: No space"):
        with replaced_folder(tmp_path / "a", belongs=bool) as fresh:
            (fresh / "layer_0").write_bytes(b"new")
            raise OSError(28, "No space left on device")
    with pytest.raises(KeyError), replaced_folder(tmp_path / "a", belongs=bool):
        raise KeyError
    assert names(tmp_path) == ["a"] and (tmp_path / "a" / "layer_0").read_bytes() == b"old"
    with pytest.raises(ThoughtscopeError, match="layer_0 is no folder"):
        replaced(tmp_path / "a" / "layer_0", "x")


def test_whoever_is_killed_between_two_renames_loses_nothing(tmp_path):
    (tmp_path / ".a.replaced").mkdir()
    (tmp_path / ".a.replaced" / "README").write_bytes(b"mine")
    (tmp_path / f".a.{2**30}.1.tmp").mkdir()
    replaced(tmp_path / "a", "layer_0")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["README", "layer_0"]
