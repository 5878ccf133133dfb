"""Dictionaries by a short name: shipped ones, and those made for a model with a short name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_microscope import random_dictionary
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.dictionaries import load_dictionary, save_dictionary
from thoughtscope.dictionaries.named import made_at, named, usual
from thoughtscope.microscope import open_microscope


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr("thoughtscope.dictionaries.named.default_folder", lambda: tmp_path / "thoughtscope")
    return tmp_path


def test_what_is_made_for_a_model_is_found_and_becomes_its_usual_one(data_folder: Path) -> None:
    assert usual("smollm2") is None and usual("specimen") == "specimen/clt" and usual("./gpt2") is None
    assert usual("smollm2", talking=True) == "smollm2/sae"
    with pytest.raises(DictionaryMismatch, match=r"There are: smollm2/sae. Put one .*smollm2/transcoders"):
        load_dictionary("smollm2/transcoders")
    with pytest.raises(DictionaryMismatch, match="No dictionary was named for the model"):
        open_microscope("smollm2")
    made = random_dictionary(tiny_model("llama"))
    save_dictionary(made, made_at("smollm2/transcoders"))
    assert (usual("smollm2"), usual("smollm2", talking=True)) == ("smollm2/transcoders", "smollm2/sae")
    assert load_dictionary("smollm2/transcoders").n_features == made.n_features
    assert (
        named("smollm2/transcoders")
        == data_folder / "thoughtscope" / "dictionaries" / "smollm2" / "transcoders"
    )
    with pytest.raises(DictionaryMismatch, match=r"There are: smollm2/sae, smollm2/transcoders\."):
        named("smollm2/../specimen/clt")
    shipped = named("smollm2/sae")
    save_dictionary(made, made_at("smollm2/sae"))
    assert named("smollm2/sae") == made_at("smollm2/sae") != shipped
    assert usual("specimen", talking=True) == "specimen/clt" and usual("./gpt2", talking=True) is None


def test_other_names_are_left_to_others(data_folder: Path) -> None:
    assert named("org/repo") is None and named("specimen") is None and named("./specimen/clt") is None
    assert named("specimen/clt") is not None
