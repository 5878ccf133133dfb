"""What no checksum tells: dictionaries that do not belong, numbers that are none, a specimen that is not as shipped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_microscope import random_dictionary, shared_model
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Card, load_dictionary, save_dictionary
from thoughtscope.dictionaries.preflight import look


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model on disk."""
    root = tmp_path_factory.mktemp("files")
    model = tiny_model("llama", layers=1, max_position_embeddings=64, eos_token_id=257, pad_token_id=258)
    model.module.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    return root


@pytest.fixture(scope="module")
def specimen() -> tuple[Any, Any]:
    from thoughtscope import load_model

    return load_model("specimen"), load_dictionary("specimen/clt")


def bare(dictionary: Any, change: Callable[[Any], dict[str, Any]] = lambda part: {}) -> Any:
    """The dictionary without its self-test and scores, as most are published; each part changed."""
    parts = tuple(replace(part, **change(part)) for part in dictionary.parts)
    return replace(dictionary, parts=parts, card=Card())


WRONG: dict[str, Callable[[Any], dict[str, Any]]] = {
    **{f"reads {kind}": lambda part, kind=kind: {"W_enc": {Site(kind, s.layer): w for s, w in part.W_enc.items()}}
       for kind in ("resid_pre", "resid_mid", "mlp_norm", "attn_out")},
    **{f"encoders {by} times as long": lambda part, by=by: {"W_enc": {s: w * by for s, w in part.W_enc.items()}}
       for by in (0.25, 0.5, 0.7, 1.25, 1.5, 2)},
    **{f"decoders {by} times as long": lambda part, by=by: {"W_dec": {s: w * by for s, w in part.W_dec.items()}}
       for by in (0.5, 2)},
    "other features' decoders": lambda part: {"W_dec": {s: w.roll(7, 0) for s, w in part.W_dec.items()}},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_hook_or_scale_is_refused_or_doubted(specimen: Any, name: str) -> None:
    found = look(specimen[0], bare(specimen[1], WRONG[name]))
    assert found.problems or found.doubts


def test_a_right_dictionary_is_not_doubted(specimen: Any) -> None:
    found = look(specimen[0], bare(specimen[1]))
    assert not found.problems and not found.doubts
    found = look(*specimen)
    assert not found.problems and not found.doubts, "with its self-test"


def test_a_doubt_stands_on_every_graph(specimen: Any, tmp_path: Path) -> None:
    from thoughtscope import attribute, prune, tokenize
    from thoughtscope.cli.summary import summary_data, summary_text
    from thoughtscope.graphs import graph_to_json, read_json, write_json
    from thoughtscope.reports import build_report

    wrong = bare(specimen[1], WRONG["decoders 0.5 times as long"])
    save_dictionary(wrong, tmp_path / "doubtful")
    loaded = load_dictionary(tmp_path / "doubtful", specimen[0])
    warnings = list(loaded.card.warnings)
    assert any("multiplied by" in warning for warning in warnings)
    graph = prune(attribute(specimen[0], loaded, tokenize(specimen[0], "Hi you"), max_nodes=50))
    again = read_json(write_json(graph, tmp_path / "graph.json"))
    assert again.provenance["warnings"] == warnings == summary_data(again)["dictionary_warnings"]
    told, page = summary_text(again), build_report(graph_to_json(again)).html
    assert all(f"Warning: {warning}" in told and warning in page for warning in warnings)
    assert load_dictionary("specimen/clt", specimen[0]).card.warnings == ()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, name: str, value: float) -> None:
    """Also in a feature that no text wakes: every weight is looked at."""
    from safetensors.torch import load_file, save_file

    save_dictionary(random_dictionary(shared_model()), tmp_path / "clt", format="circuit-tracer")
    path = next(
        path for path in sorted((tmp_path / "clt").glob("*_1.safetensors")) if f"{name}_1" in load_file(path)
    )
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    tensors[f"{name}_1"].view(-1)[-1] = value
    save_file(tensors, path)
    with pytest.raises(CorruptArtefact, match=rf"{name}.*part 1.*NaN or infinity"):
        load_dictionary(tmp_path / "clt")


def test_rows_of_large_dictionaries_are_looked_at_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from thoughtscope.dictionaries import dictionary as module

    monkeypatch.setattr(module, "SCANNED", 0)
    found = random_dictionary(shared_model())
    next(iter(found.parts[1].W_dec.values()))[5, 3] = float("nan")
    module.check_finite(found, encoders=True)
    assert found.parts[1].decoder_rows(torch.tensor([4, 6]))
    with pytest.raises(CorruptArtefact, match="feature 5 of part 1"):
        found.parts[1].decoder_rows(torch.tensor([4, 5]))


def test_a_model_with_a_nan_in_one_row_is_refused(files: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from thoughtscope.models import load_model

    shutil.copytree(files / "model", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(path).items()}
    tensors["model.embed_tokens.weight"][200, 3] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CorruptArtefact, match=r"embed_tokens.*NaN or infinity"):
        load_model(str(tmp_path / "model"))


@pytest.mark.parametrize("damage", ["no sums", "not listed", "altered", "a line too short"])
def test_the_specimen_must_be_as_it_was_shipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    from thoughtscope.models import checkpoints, load_model

    shutil.copytree(
        checkpoints.specimen_folder(), tmp_path / "s", ignore=shutil.ignore_patterns("clt", "plt")
    )
    monkeypatch.setattr(checkpoints, "specimen_folder", lambda name="specimen": tmp_path / "s")
    sums = tmp_path / "s" / "SHA256SUMS"
    if damage == "no sums":
        sums.unlink()
    elif damage == "not listed":
        (tmp_path / "s" / "special_tokens_map.json").write_text("{}")
    elif damage == "altered":
        content = bytearray((tmp_path / "s" / "model.safetensors").read_bytes())
        content[-5] ^= 1
        (tmp_path / "s" / "model.safetensors").write_bytes(content)
    else:
        sums.write_text("abc  model.safetensors\n")
    with pytest.raises(CorruptArtefact):
        load_model("specimen")


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_hidden_layers", 10**9), ("hidden_size", "16"), ("hidden_size", -4), ("vocab_size", 10**30),
     ("num_attention_heads", 0), ("num_attention_heads", 3), ("max_position_embeddings", 1.5), ("architectures", "LlamaForCausalLM"),
     ("architectures", [3]), ("hidden_act", "none"), ("rms_norm_eps", "x"), ("model_type", 7)],
)  # fmt: skip
def test_fields_of_a_configuration_that_are_of_another_type(
    files: Path, tmp_path: Path, field: str, value: Any
) -> None:
    from thoughtscope.models import load_model

    shutil.copytree(files / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ThoughtscopeError):
        load_model(str(tmp_path / "model"))
