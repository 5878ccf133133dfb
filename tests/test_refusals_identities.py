"""Refusals that only odd files, foreign errors or wrong types reach: each names what is wrong."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.test_graph_files_identities import small_graph
from tests.test_interventions_identities import unchecked
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import (
    CorruptArtefact,
    DictionaryMismatch,
    InvalidPlan,
    ThoughtscopeError,
    UnknownModel,
    UnsupportedModel,
)
from thoughtscope.core.site import Site
from thoughtscope.core.store import save_artefact
from thoughtscope.dictionaries import Activation, evaluate_dictionary, load_dictionary, save_dictionary
from thoughtscope.dictionaries.formats.npz import read_npz
from thoughtscope.dictionaries.preflight import look
from thoughtscope.graphs import Graph
from thoughtscope.interventions import Outcome, Plan
from thoughtscope.models import Edit, checkpoints, loading, model_from, random_model, tokenize


def test_values_of_no_kind_that_there_is() -> None:
    for made, field, error in (
        (Plan(), "attention", InvalidPlan), (Activation(kind="relu"), "kind", DictionaryMismatch),
        (Edit(site=Site("resid_pre", 0), op="ablate"), "op", InvalidPlan),
    ):  # fmt: skip
        with pytest.raises(error, match="nonsense"):
            unchecked(made, **{field: "nonsense"})
    with pytest.raises(InvalidPlan, match="This outcome cannot be read"):
        Outcome.from_json("{}")
    with pytest.raises(UnsupportedModel, match="nobody"):
        random_model("nobody")


def test_artefacts_of_the_right_kind_that_hold_something_else(tmp_path: Path) -> None:
    graph = small_graph()
    nodes = {
        name: np.asarray(getattr(graph, name))
        for name in ("kind", "layer", "position", "index", "value", "bias", "absent")
    }
    edges = {name: getattr(graph.edges, name) for name in ("data", "indices", "indptr")}
    save_artefact(tmp_path / "g", kind="graph", tensors={"nodes": nodes, "edges": edges}, meta={})
    with pytest.raises(CorruptArtefact, match="does not hold a graph of this version"):
        Graph.load(tmp_path / "g")
    save_artefact(
        tmp_path / "d", kind="dictionary", tensors={"encoder_0": {"b_enc": torch.zeros(1)}}, meta={}
    )
    with pytest.raises(CorruptArtefact, match="unreadable manifest: KeyError"):
        load_dictionary(tmp_path / "d")
    part = {"name": "0", "activation": {"kind": "gelu"}, "reads": [], "writes": [], "biased": []}
    meta = {
        "name": "n",
        "scan": "s",
        "model_name": "m",
        "skip_first": True,
        "parts": [part],
        "declared": {},
        "self_test": None,
    }
    tensors = {name: {"b_enc": torch.zeros(1)} for name in ("encoder_0", "decoder_0")}
    save_artefact(
        tmp_path / "e",
        kind="dictionary",
        tensors=tensors,
        meta=meta | {"parts": [part | {"activation": {"kind": "topk"}}]},
    )
    with pytest.raises(DictionaryMismatch, match="need k ≥ 1"):
        load_dictionary(tmp_path / "e")


def scope_layer(
    folder: Path, layer: int, *, decoder: tuple[int, ...] = (3, 4), hook: str = "mlp.input"
) -> None:
    home = folder / f"layer_{layer}"
    home.mkdir(parents=True)
    shapes = {"w_enc": (4, 3), "w_dec": decoder, "b_enc": (3,), "b_dec": (4,), "threshold": (3,)}
    save_file({name: torch.rand(shape) for name, shape in shapes.items()}, home / "params.safetensors")
    where = f"model.layers.{layer}."
    config = {"hf_hook_point_in": where + hook, "hf_hook_point_out": where + "mlp.output", "model_name": "m"}
    (home / "config.json").write_text(json.dumps(config))


def test_layouts_of_gemma_scope_that_say_nothing_usable(tmp_path: Path) -> None:
    scope_layer(tmp_path / "good", 0)
    assert str(load_dictionary(tmp_path / "good").reads[0]) == "mlp_in.0"
    scope_layer(tmp_path / "shape", 0, decoder=(3, 1, 4))
    with pytest.raises(CorruptArtefact, match=r"w_dec has shape \(3, 1, 4\)"):
        load_dictionary(tmp_path / "shape")
    scope_layer(tmp_path / "hook", 0, hook="mlp.somewhere")
    with pytest.raises(CorruptArtefact, match="names no known site"):
        load_dictionary(tmp_path / "hook")
    for layer, hook in ((0, "mlp.input"), (1, "input")):
        scope_layer(tmp_path / "two", layer, hook=hook)
    with pytest.raises(
        CorruptArtefact, match=r"hf_hook_point_in differs between layers \(mlp_in, resid_pre\)"
    ):
        load_dictionary(tmp_path / "two")
    (tmp_path / "good" / "layer_0" / "config.json").unlink()
    with pytest.raises(CorruptArtefact, match=r"config\.json cannot be read"):
        load_dictionary(tmp_path / "good")


def test_lists_of_files_in_circuit_tracers_layout(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
    }
    write = lambda **more: (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | more))
    for listed, words in (
        ([], r"layer_0\.safetensors is missing"),
        (["gone.npz"], r"gone\.npz is missing; .* lists it"),
    ):
        write(transcoders=listed)
        with pytest.raises(CorruptArtefact, match=words):
            load_dictionary(tmp_path)
    scope_layer(tmp_path / "files", 0)
    write(transcoders=["files/layer_0/params.safetensors"])
    made = load_dictionary(tmp_path)
    assert made.parts[0].activation.kind == "jumprelu" and [str(site) for site in made.writes] == [
        "mlp_out.0"
    ]
    scope_layer(tmp_path / "crossed", 0, decoder=(3, 1, 4))
    write(transcoders=["crossed/layer_0/params.safetensors"], model_kind="cross_layer_transcoder")
    assert load_dictionary(tmp_path).parts[0].n_features == 3
    one = load_dictionary(tmp_path)
    from dataclasses import replace

    second = replace(one.parts[0], name="1", activation=Activation(kind="relu"), threshold=None,
                     W_enc={Site("mlp_in", 1): torch.rand(3, 4)}, W_dec={Site("mlp_out", 1): torch.rand(3, 4)},
                     b_dec={Site("mlp_out", 1): torch.rand(4)})  # fmt: skip
    with pytest.raises(DictionaryMismatch, match=r"one activation for all layers; .* has 2"):
        save_dictionary(replace(one, parts=(*one.parts, second)), tmp_path / "out", format="circuit-tracer")


def test_an_array_that_is_shorter_than_it_says(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(8.0))
    data = (tmp_path / "a.npy").read_bytes()
    for cut, words in ((data[:-8], "truncated"), (data + b"12345678", "truncated")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", cut)
        with pytest.raises(CorruptArtefact, match=words):
            read_npz(tmp_path / "a.npz")


def test_a_look_and_scores_without_text_of_ones_own() -> None:
    from tests.autograd_oracle import random_dictionary

    bare = tiny_model("llama", vocab_size=60)
    dictionary = random_dictionary(bare)
    found = look(bare, dictionary)
    assert found.n_tokens == 6 * 47 and found.l0 > 0
    assert look(bare, dictionary).fvu_by_site == found.fvu_by_site  # the same ids each time
    documents = torch.randint(3, 50, (40, 10)).tolist()
    told: list[tuple] = []
    scores = evaluate_dictionary(
        bare, dictionary, documents, max_tokens=30, batch_tokens=20, progress=lambda *one: told.append(one)
    )
    assert scores.n_tokens == 36 and [one[:3] for one in told] == [
        ("encode", 18, 30), ("encode", 36, 30), ("evaluate", 18, 36), ("evaluate", 36, 36)
    ]  # fmt: skip
    assert evaluate_dictionary(bare, dictionary, documents, max_tokens=36, batch_tokens=20).n_tokens == 36
    assert evaluate_dictionary(bare, dictionary, documents).n_tokens == 360


def test_what_the_hub_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    folder, calls = tmp_path / "abc", []
    folder.mkdir()

    def snapshot(name: str, **given: Any) -> str:
        calls.append((name, given["revision"], given["local_files_only"]))
        if given["local_files_only"]:
            raise OSError("not here")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(checkpoints, "unreachable", lambda: None)
    with pytest.raises(UnsupportedModel, match=r'"org/m" at revision v has no \.safetensors weights'):
        checkpoints.locate("org/m", revision="v")
    assert calls == [("org/m", "v", True), ("org/m", "v", False)]
    for name in ("a.safetensors", "b.safetensors"):
        (folder / name).touch()
    assert checkpoints.locate("org/m") == (folder, "abc")

    def refuse(name: str, **given: Any) -> str:
        raise OSError("no such repository.\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UnknownModel, match=r'does not give "org/m": no such repository\. Allowed'):
        checkpoints.locate("org/m")
    with pytest.raises(CorruptArtefact, match=r"config\.json cannot be read: No such file"):
        checkpoints.check_files(folder)


def test_models_that_are_not_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama", layers=1)

    class Other(type(model.module)):  # type: ignore[misc]
        pass

    model.module.__class__ = Other
    with pytest.raises(UnsupportedModel, match='says "LlamaForCausalLM", but the loaded module is a Other'):
        model_from(model.module, name="odd")
    model = tiny_model("llama", layers=1)
    model.module.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    class Slow:
        pass

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *given, **named: Slow())
    with pytest.raises(UnsupportedModel, match=r"has only a slow tokenizer \(Slow\)"):
        loading.load_model(str(tmp_path))
    held = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    held["model.norm.weight"] = torch.ones(3)
    save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptArtefact, match="cannot be loaded"):
        loading.load_model(str(tmp_path))


def test_a_text_without_any_token() -> None:
    from tokenizers import Regex, normalizers

    model = tiny_model("llama", layers=1)
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("x"), "")
    with pytest.raises(ThoughtscopeError, match="'xx' has no tokens"):
        tokenize(model, "xx", special_tokens=False, bos=False)
