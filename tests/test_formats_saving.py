"""Published layouts saved over what is there: an older dictionary goes as a whole, and nothing else does."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.autograd_oracle import same_parts
from tests.test_formats import (
    same_folders,
    write_clt,
    write_plt,
    write_scope_one,
    write_scope_two,
    write_scope_two_clt,
)
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.dictionaries import Card, Dictionary, load_dictionary, save_dictionary
from thoughtscope.dictionaries.formats import FORMATS

LAYOUTS = {
    "circuit-tracer": lambda folder: write_plt(folder, threshold=True),
    "circuit-tracer, cross-layer": write_clt,
    "gemma-scope": write_scope_one,
    "gemma-scope-2": lambda folder: write_scope_two(folder, affine=False),
    "gemma-scope-2, cross-layer": lambda folder: write_scope_two_clt(folder, affine=False),
}


def fewer_layers(dictionary: Dictionary) -> Dictionary:
    """The first two layers of a per-layer one, as a dictionary of our own making."""
    first = [dictionary.parts[layer] for layer in range(2)]
    return replace(dictionary, parts=tuple(first), card=Card())


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_older_dictionary_is_replaced_as_a_whole_and_nothing_else(tmp_path, name):
    """Fewer layers, other names: no file of the old one stays. What is not of the layout does."""
    LAYOUTS[name](tmp_path / "a")
    LAYOUTS[name](tmp_path / "b")
    format = name.partition(",")[0]
    new = load_dictionary(tmp_path / "b")
    if "cross" not in name:
        new = fewer_layers(new)
    (tmp_path / "a" / "README.md").write_text("ours")
    (tmp_path / "a" / "features").mkdir()
    (tmp_path / "a" / "features" / "0.json").write_text("{}")
    save_dictionary(new, tmp_path / "a", format=format)
    save_dictionary(new, tmp_path / "c", format=format)
    shutil.move(tmp_path / "a" / "README.md", tmp_path / "README.md")
    shutil.rmtree(tmp_path / "a" / "features")
    same_folders(tmp_path / "a", tmp_path / "c")
    loaded = load_dictionary(tmp_path / "a")
    assert len(loaded.parts) == len(new.parts) and same_parts(loaded, new)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "a", "b", "c"]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_modes_are_those_of_the_umask(tmp_path, name, mask):
    LAYOUTS[name](tmp_path / "a")
    dictionary, old = load_dictionary(tmp_path / "a"), os.umask(mask)
    try:
        save_dictionary(dictionary, tmp_path / "b", format=name.partition(",")[0])
    finally:
        os.umask(old)
    for path in [tmp_path / "b", *(tmp_path / "b").rglob("*")]:
        wanted = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == wanted & ~mask, path


@pytest.mark.parametrize("format", ["gemma-scope", "gemma-scope-2"])
def test_a_download_with_several_widths_is_not_saved_over(tmp_path, format):
    LAYOUTS[format](tmp_path / "a")
    dictionary = load_dictionary(tmp_path / "a")
    some = next(tmp_path.glob("a/layer_1*"))
    other = some.with_name("layer_1_wider") if format == "gemma-scope-2" else some / "width_32k"
    shutil.copytree(some if format == "gemma-scope-2" else some / "width_16k", other)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(DictionaryMismatch, match="2 dictionaries for layer 1"):
        save_dictionary(dictionary, tmp_path / "a", format=format)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_lone_configuration_beside_layers_is_somebody_elses(tmp_path):
    write_scope_two(tmp_path / "a", affine=False)
    (tmp_path / "a" / "config.json").write_text('{"architectures": []}')
    save_dictionary(load_dictionary(tmp_path / "a"), tmp_path / "a", format="gemma-scope-2")
    assert (tmp_path / "a" / "config.json").read_text() == '{"architectures": []}'


def test_two_layouts_do_not_share_a_folder(tmp_path):
    write_plt(tmp_path / "a", threshold=True)
    dictionary = load_dictionary(tmp_path / "a")
    for format in ("gemma-scope", "native"):
        with pytest.raises(
            DictionaryMismatch, match=f"format circuit-tracer.*new or empty folder for {format}"
        ):
            save_dictionary(dictionary, tmp_path / "a", format=format)


def test_a_pipe_in_place_of_weights_is_refused_at_once(tmp_path):
    write_plt(tmp_path / "a", threshold=True)
    (tmp_path / "a" / "layer_1.safetensors").unlink()
    os.mkfifo(tmp_path / "a" / "layer_1.safetensors")
    with pytest.raises(CorruptArtefact, match=r"layer_1\.safetensors is a named pipe"):
        load_dictionary(tmp_path / "a")


def test_a_load_that_a_save_overtakes_gives_one_version(tmp_path, monkeypatch):
    """The first layer of the old one has been read when the new one comes."""
    write_plt(tmp_path / "a", threshold=True)
    write_plt(tmp_path / "b", threshold=True)
    new, layout, times = load_dictionary(tmp_path / "b"), FORMATS["circuit-tracer"], []

    def overtaken(folder: Path) -> Dictionary:
        old = layout.load(folder)
        times.append(folder)
        if len(times) == 1:
            layout.save(new, folder)
            return replace(old, parts=(*old.parts[:1], *layout.load(folder).parts[1:]))
        return old

    monkeypatch.setitem(FORMATS._entries, "circuit-tracer", replace(layout, load=overtaken))
    assert same_parts(load_dictionary(tmp_path / "a"), new) and len(times) == 2
    assert torch.equal(load_dictionary(tmp_path / "a").parts[0].b_enc, new.parts[0].b_enc)
