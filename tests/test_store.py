"""core.store: what is saved comes back to the bit, a killed or failed save changes nothing, corruption is named."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from thoughtscope.core import store
from thoughtscope.core.errors import CorruptArtefact, NotWritten, ThoughtscopeError
from thoughtscope.core.files import atomic_write_bytes, atomic_write_text, safetensors_chunks
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.provenance import commit, provenance
from thoughtscope.core.store import is_artefact, load_artefact, save_artefact
from thoughtscope.core.tensors import TensorFile, check_safetensors

TENSORS = {
    "w": {
        "floats": torch.arange(6.0).reshape(2, 3),
        "half": torch.tensor([1.5, -2.0]).bfloat16(),
        "scalar": torch.tensor(3, dtype=torch.int16),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
    },
    "v": {"ids": torch.tensor([7, 8, 9])},
}
META = {"name": "é字", "order": {"b": 1, "a": 2}, "rate": 0.1}


def saved(path: Path, **changes) -> Path:
    return save_artefact(path, **{"kind": "thing", "tensors": TENSORS, "meta": META} | changes)


def the_file(folder: Path, name: str) -> Path:
    return load_artefact(folder, kind="thing").file_path(name)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# --- round trips ---------------------------------------------------------------------------------------------------


def test_round_trip_to_the_bit(tmp_path):
    artefact = load_artefact(saved(tmp_path / "a"), kind="thing")
    assert artefact.meta == META and list(artefact.meta["order"]) == ["b", "a"]
    assert artefact.provenance["versions"]["torch"] == torch.__version__
    for file, tensors in TENSORS.items():
        opened = artefact.tensors(file)
        assert set(opened) == set(tensors) and len(opened) == len(tensors)
        for name, tensor in tensors.items():
            assert opened[name].dtype == tensor.dtype and torch.equal(opened[name], tensor)


def test_files_are_those_of_the_reference_library(tmp_path):
    plain = {name: tensor.contiguous() for name, tensor in TENSORS["w"].items()}
    assert b"".join(map(bytes, safetensors_chunks(TENSORS["w"]))) == save(plain)
    assert torch.equal(load_file(the_file(saved(tmp_path / "a"), "w"))["floats"], plain["floats"])


def test_numpy_arrays_and_row_slices(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    saved(tmp_path / "a", tensors={"x": {"rows": rows, "counts": np.arange(3, dtype=np.int32)}})
    opened = load_artefact(tmp_path / "a", kind="thing").tensors("x")
    assert torch.equal(opened.slice("rows")[1:3], torch.from_numpy(rows[1:3]))
    assert opened["counts"].dtype == torch.int32


def test_views_of_one_storage_are_saved_apart(tmp_path):
    whole = torch.arange(10.0)
    saved(tmp_path / "a", tensors={"x": {"head": whole[:4], "tail": whole[4:]}})
    path = the_file(tmp_path / "a", "x")
    assert torch.equal(load_file(path)["tail"], whole[4:]) and path.stat().st_size < 300


def test_same_content_same_bytes(tmp_path):
    saved(tmp_path / "a"), saved(tmp_path / "b")
    assert names(tmp_path / "a") == names(tmp_path / "b")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_again_replaces_and_leaves_no_strays(tmp_path):
    before = the_file(saved(tmp_path / "a"), "w")
    saved(tmp_path / "a", tensors={"w": {"x": torch.ones(2)}}, meta={"second": True})
    artefact = load_artefact(tmp_path / "a", kind="thing")
    assert artefact.meta == {"second": True} and list(artefact.files) == ["w"]
    assert not before.exists() and len(names(tmp_path / "a")) == 2


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_umask_is_honoured(tmp_path, mask):
    old = os.umask(mask)
    try:
        saved(tmp_path / "a")
        atomic_write_text(tmp_path / "note", "x")
    finally:
        os.umask(old)
    for path in [*(tmp_path / "a").iterdir(), tmp_path / "note"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


# --- failures ------------------------------------------------------------------------------------------------------


def test_failed_save_leaves_the_old_version(tmp_path, monkeypatch):
    saved(tmp_path / "a")
    before = {name: (tmp_path / "a" / name).read_bytes() for name in names(tmp_path / "a")}

    calls = []

    def disk_full(path, chunks):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write_new(path, chunks)

    write_new = store.write_new
    monkeypatch.setattr(store, "write_new", disk_full)
    with pytest.raises(NotWritten, match=r"a could not be written: No space.*Make room"):
        saved(tmp_path / "a", tensors={"w": {"x": torch.ones(9)}, "v": {"y": torch.ones(9)}})
    assert {name: (tmp_path / "a" / name).read_bytes() for name in names(tmp_path / "a")} == before


@pytest.mark.parametrize("meta", [{"bad": float("nan")}, {"bad": object()}])
def test_meta_that_json_cannot_hold_touches_nothing(tmp_path, meta):
    with pytest.raises((ValueError, TypeError)):
        saved(tmp_path / "a", meta=meta)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["../w", "a/b", "", ".hidden", "/etc/x", "a\0b", "é"])
def test_file_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(ThoughtscopeError, match="cannot name a file"):
        saved(tmp_path / "a", tensors={name: {"x": torch.ones(1)}})
    assert not (tmp_path / "a").exists()


def test_tensor_names_are_only_names(tmp_path):
    saved(tmp_path / "a", tensors={"w": {"../../x": torch.ones(1)}})
    assert list(load_artefact(tmp_path / "a", kind="thing").tensors("w")) == ["../../x"]
    assert names(tmp_path) == ["a"]


def test_a_foreign_folder_is_not_taken_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ThoughtscopeError, match="not an artefact"):
        saved(tmp_path)
    assert names(tmp_path) == ["thesis.tex"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(ThoughtscopeError, match="is a file"):
        saved(tmp_path / "a")


def test_type_a_file_cannot_hold(tmp_path):
    with pytest.raises(ThoughtscopeError, match=r'Tensor "z" has type torch\.complex64'):
        saved(tmp_path / "a", tensors={"w": {"z": torch.ones(1, dtype=torch.complex64)}})


# --- corruption ----------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_found_and_named(tmp_path):
    path = the_file(saved(tmp_path / "a"), "w")
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(CorruptArtefact, match=path.name):
            load_artefact(tmp_path / "a", kind="thing")


def test_a_flipped_byte_of_the_manifest_never_changes_what_is_read(tmp_path):
    path = saved(tmp_path / "a") / "manifest.json"
    content = path.read_bytes()
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            assert load_artefact(tmp_path / "a", kind="thing").meta == META
        except CorruptArtefact as error:
            assert "manifest.json" in str(error) or str(tmp_path) in str(error)


@pytest.mark.parametrize("verify", ["hash", "size"])
def test_truncated_padded_and_missing_files_are_named(tmp_path, verify):
    path = the_file(saved(tmp_path / "a"), "w")
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"\0", b""):
        path.write_bytes(wrong)
        with pytest.raises(CorruptArtefact, match=path.name):
            load_artefact(tmp_path / "a", kind="thing", verify=verify)
    path.unlink()
    with pytest.raises(CorruptArtefact, match=path.name):
        load_artefact(tmp_path / "a", kind="thing", verify=verify)


def test_verify_size_does_not_read_the_content(tmp_path):
    path = the_file(saved(tmp_path / "a"), "w")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_artefact(tmp_path / "a", kind="thing", verify="size")
    with pytest.raises(CorruptArtefact, match="was altered"):
        load_artefact(tmp_path / "a", kind="thing")


def test_missing_manifest_wrong_kind_and_wrong_version(tmp_path):
    with pytest.raises(CorruptArtefact, match=r"nowhere/manifest\.json cannot be read"):
        load_artefact(tmp_path / "nowhere", kind="thing")
    saved(tmp_path / "a")
    with pytest.raises(CorruptArtefact, match="holds a 'thing', not a 'graph'"):
        load_artefact(tmp_path / "a", kind="graph")
    assert is_artefact(tmp_path / "a", kind="thing") and not is_artefact(tmp_path / "a", kind="graph")
    assert not is_artefact(tmp_path / "nowhere", kind="thing")
    altered(tmp_path / "a", version=99)
    with pytest.raises(CorruptArtefact, match="version 99"):
        load_artefact(tmp_path / "a", kind="thing")


def altered(folder: Path, **changes) -> None:
    """Rewrites the manifest with a right hash, as somebody who means harm would."""
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    manifest["sha256"] = store._manifest_digest(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "path", ["../secret.safetensors", "/etc/passwd", "sub/x-0123456789ab.safetensors", 7, None]
)
def test_a_manifest_cannot_point_outside(tmp_path, path):
    saved(tmp_path / "a")
    altered(tmp_path / "a", files={"w": {"path": path, "size": 1, "sha256": "0" * 64}})
    with pytest.raises(CorruptArtefact, match=r"manifest\.json"):
        load_artefact(tmp_path / "a", kind="thing")


@pytest.mark.parametrize(
    "changes", [{"files": []}, {"files": {"w": {}}}, {"files": {"w": 1}}, {"meta": 1}, {"files": None}]
)
def test_a_manifest_of_another_shape(tmp_path, changes):
    saved(tmp_path / "a")
    altered(tmp_path / "a", **changes)
    with pytest.raises(CorruptArtefact, match=r"manifest\.json"):
        load_artefact(tmp_path / "a", kind="thing")


def header_file(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', b"xy", "'a' occurs twice"),
        (b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', b"x", "truncated or padded"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"xyz", "truncated or padded"),
        (b'{"a":{"dtype":"U8","shape":[1]}}', b"x", "malformed"),
        (b"[1]", b"", "malformed"),
        (b"{nonsense}", b"", "not valid JSON"),
        (b'{"a":{"dtype":"Q9","shape":[1],"data_offsets":[0,1]}}', b"x", "not a valid safetensors"),
    ],
)  # fmt: skip
def test_bad_headers_are_named(tmp_path, header, data, message):
    path = header_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(CorruptArtefact, match=message) as caught:
        TensorFile(path)
    assert "x.safetensors" in str(caught.value)


def test_a_header_longer_than_its_file(tmp_path):
    (tmp_path / "x").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(CorruptArtefact, match="truncated"):
        check_safetensors(tmp_path / "x")
    with pytest.raises(CorruptArtefact, match="cannot be read"):
        check_safetensors(tmp_path / "absent")


def test_unknown_names_suggest_a_near_one(tmp_path):
    artefact = load_artefact(saved(tmp_path / "a"), kind="thing")
    with pytest.raises(CorruptArtefact, match='Did you mean "floats"'):
        artefact.tensors("w")["float"]
    with pytest.raises(CorruptArtefact, match="Allowed: w, v"):
        artefact.tensors("zz")


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"a": NaN}', "{", "", b"\xff", "[" * 100_000])
def test_strict_json_refuses(text):
    with pytest.raises(CorruptArtefact, match=r"some\.json is not valid JSON"):
        strict_json(text, "some.json")


# --- kills and races -----------------------------------------------------------------------------------------------

SAVE_FOREVER = """
import sys, torch
from thoughtscope.core.files import atomic_write_bytes
from thoughtscope.core.store import save_artefact
folder, number = sys.argv[1], 0
print("ready", flush=True)
while True:
    number += 1
    tensors = {f: {"x": torch.full((20_000,), float(number))} for f in "abc"}
    save_artefact(folder, kind="thing", tensors=tensors, meta={"number": number}, provenance={})
    atomic_write_bytes(folder + ".note", b"%d " % number * 20_000)
"""


@pytest.mark.slow
def test_killed_at_any_moment_one_whole_version_is_there(tmp_path):
    """Eight saves killed at random moments: each time some complete version loads, and strays do not pile up."""
    folder, note = tmp_path / "a", tmp_path / "a.note"
    save_artefact(folder, kind="thing", tensors={f: {"x": torch.zeros(2)} for f in "abc"}, meta={"number": 0})
    clock = random.Random(1)
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(folder)], stdout=subprocess.PIPE,
                                  env=os.environ | {"PYTHONPATH": "src"})  # fmt: skip
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(clock.uniform(0.02, 0.2))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        artefact = load_artefact(folder, kind="thing")
        for file in "abc":
            assert artefact.tensors(file)["x"].unique().tolist() == [artefact.meta["number"]]
        if note.exists():
            assert len(set(note.read_bytes().split())) == 1
    save_artefact(folder, kind="thing", tensors={}, meta={})
    atomic_write_bytes(note, b"")
    assert names(folder) == ["manifest.json"] and names(tmp_path) == ["a", "a.note"]


def test_a_reader_overtaken_by_a_writer_reads_the_new_version(tmp_path, monkeypatch):
    saved(tmp_path / "a")
    verify = store._verify

    def overtaken(*arguments):
        monkeypatch.setattr(store, "_verify", verify)
        saved(tmp_path / "a", tensors={"w": {"x": torch.ones(1)}}, meta={"second": True})
        return verify(*arguments)

    monkeypatch.setattr(store, "_verify", overtaken)
    assert load_artefact(tmp_path / "a", kind="thing").meta == {"second": True}


def test_temporaries_of_the_living_are_left_alone(tmp_path):
    mine, dead = tmp_path / f".note.{os.getpid()}.5.tmp", tmp_path / f".note.{2**30}.5.tmp"
    other = tmp_path / f".notes.{2**30}.5.tmp"
    for path in (mine, dead, other):
        path.write_bytes(b"")
    atomic_write_bytes(tmp_path / "note", b"x")
    assert mine.exists() and other.exists() and not dead.exists()


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    atomic_write_bytes(tmp_path / "note", b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "disk gone")))
    with pytest.raises(NotWritten, match="disk gone"):
        atomic_write_bytes(tmp_path / "note", b"new")
    assert (tmp_path / "note").read_bytes() == b"old" and names(tmp_path) == ["note"]


def test_a_damaged_manifest_is_not_one_that_is_not_there(tmp_path):
    path = saved(tmp_path / "a") / "manifest.json"
    content = path.read_bytes()
    assert is_artefact(tmp_path / "a", kind="thing") and not is_artefact(tmp_path / "a", kind="other")
    for bit in (1, 4):
        for place in range(0, len(content), 3):
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            assert is_artefact(tmp_path / "a", kind="thing"), content[max(0, place - 9) : place + 9]
    for damaged in (b"", content[:50], b"\0" * len(content)):
        path.write_bytes(damaged)
        assert is_artefact(tmp_path / "a", kind="thing")
        with pytest.raises(CorruptArtefact, match=r"manifest\.json"):
            load_artefact(tmp_path / "a", kind="thing")
    for another in (b"{}", b"[1]", b'{"version": 1, "files": []}'):
        path.write_bytes(another)
        assert not is_artefact(tmp_path / "a", kind="thing")
        with pytest.raises(ThoughtscopeError, match="not an artefact"):
            saved(tmp_path / "a")
        assert path.read_bytes() == another
    assert not is_artefact(path, kind="thing")


# --- provenance ----------------------------------------------------------------------------------------------------


def test_provenance_is_data_without_a_clock(tmp_path):
    (tmp_path / "in").write_bytes(b"abc")
    record = provenance(seed=3, inputs={"corpus": tmp_path / "in"}, steps=7)
    assert (
        record
        == provenance(seed=3, inputs={"corpus": tmp_path / "in"}, steps=7)
        == json.loads(json.dumps(record))
    )
    assert record["inputs"]["corpus"].startswith("ba7816bf") and record["seed"] == 3 and record["steps"] == 7
    assert "thoughtscope" in record["versions"] or "torch" in record["versions"]


def test_commit_is_that_of_the_checkout_or_none():
    head = commit()
    assert head is None or len(head.removesuffix("+changes")) == 40
