"""Where dictionaries come from and go to: hubs, layouts of other tools, archives, and what they say of themselves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.test_dictionaries_identities import dictionary, part
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import (
    CorruptArtefact,
    DictionaryMismatch,
    UnknownSite,
)
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Activation,
    Card,
    LayerWeights,
    hub,
    layer_weights,
    load_dictionary,
    loading,
    resident,
    save_dictionary,
    transcoders,
)
from thoughtscope.dictionaries.formats import base, circuit_tracer, gemma_scope, npz
from thoughtscope.dictionaries.transcoders import parse_sites, replace_mlps
from thoughtscope.models import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama", layers=2)


# --- hubs and layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "parsed"), [
    ("hf://a/b", ("a/b", "", None)), ("hf://a/b/c/d", ("a/b", "c/d", None)), ("a/b/c", ("a/b", "c", None)),
    ("hf://a/b@v1", ("a/b", "", "v1")), ("hf://a/b/c@v1", ("a/b", "c", "v1")), ("hf://a/b/", ("a/b", "", None)),
    ("hf://a/b/c?revision=v2", ("a/b", "c", "v2")), ("hf://a/b@v1?revision=v2", ("a/b", "", "v1")), ("hf://a/b?x=1", ("a/b", "", None)),
    ("hf://a", None), ("hf://a/b/../c", None), ("hf://", None), ("hf://a b/c", None),
])  # fmt: skip
def test_references_to_the_hub(reference: str, parsed: tuple | None) -> None:
    if parsed is None:
        with pytest.raises(DictionaryMismatch, match="neither a folder here nor a hub reference"):
            hub.parse(reference)
    else:
        assert hub.parse(reference) == parsed


def test_what_is_fetched_and_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache counts if it is whole; else the hub is asked, if it answers."""
    import huggingface_hub

    from thoughtscope.models import checkpoints

    snapshot = tmp_path / "repo" / "snapshots" / "1"
    (snapshot / "sub" / "deep").mkdir(parents=True)
    calls: list[dict] = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, **given: calls.append(given | {"repo": repo}) or str(snapshot),
    )
    monkeypatch.setattr(checkpoints, "unreachable", lambda: "no net")
    with pytest.raises(DictionaryMismatch, match=r"nor whole in the local cache.*no net"):
        hub.download("hf://o/r/sub@v1")
    assert [call["local_files_only"] for call in calls] == [True]
    assert calls[0]["repo"] == "o/r" and calls[0]["revision"] == "v1"
    names = {"*.safetensors", "*.npz", "*.yaml", "*.json", "ae.pt"}
    assert set(calls[0]["allow_patterns"]) == {f"sub/**/{name}" for name in names} | {
        f"sub/{name}" for name in names
    }
    (snapshot / "sub" / "deep" / "x.npz").touch()
    assert hub.download("hf://o/r/sub") == snapshot / "sub" and len(calls) == 2
    (tmp_path / "repo" / "blobs").mkdir()
    (tmp_path / "repo" / "blobs" / "a.incomplete").touch()
    with pytest.raises(DictionaryMismatch, match="no net"):
        hub.download("hf://o/r/sub")
    monkeypatch.setattr(checkpoints, "unreachable", lambda: None)
    calls.clear()
    assert hub.download("hf://o/r") == snapshot and [call["local_files_only"] for call in calls] == [
        True,
        False,
    ]
    assert set(calls[0]["allow_patterns"]) == names
    with pytest.raises(DictionaryMismatch, match="o/r has no folder gone"):
        hub.download("hf://o/r/gone")
    files: list[tuple] = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repo, path, **given: files.append((repo, path, given)) or str(snapshot / "sub/deep/x.npz"),
    )
    assert hub.download_file("hf://o/r/sub/x.npz@v") == snapshot / "sub/deep/x.npz"
    assert files == [("o/r", "sub/x.npz", {"revision": "v", "local_files_only": True})]

    def broken(local: bool) -> str:
        raise OSError("gone")

    with pytest.raises(DictionaryMismatch, match="could not be downloaded: gone"):
        hub._fetch("x", broken, Path.is_file)
    for name in ("./a/b", "/a/b", "~/a/b", "a"):
        with pytest.raises(DictionaryMismatch, match="There is no folder"):
            loading._find(name)
    with pytest.raises(DictionaryMismatch, match=r"There are: specimen/clt, specimen/plt\."):
        loading._find("specimen/x")
    monkeypatch.setattr(hub, "download", lambda name: Path(name))
    assert loading._find("a/b") == Path("a/b") and loading._find("hf://a/b") == Path("hf:/a/b")


def test_files_of_every_layer(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("l_1.x", "l_0.x", "l_10.x", "m_2.x", "l_1.y", "l_.x")]
    assert base.numbered(paths, r"l_(\d+)\.x") == {0: [paths[1]], 1: [paths[0]], 10: [paths[2]]}
    assert base.every_layer({1: "b", 0: "a"}, tmp_path, "l_{}") == ["a", "b"]
    with pytest.raises(CorruptArtefact, match="l_1 is missing"):
        base.every_layer({0: "a", 2: "c"}, tmp_path, "l_{}")
    with pytest.raises(CorruptArtefact, match="l_0 is missing"):
        base.every_layer({}, tmp_path, "l_{}")
    some = lambda *names: dict.fromkeys(names, torch.zeros(2))
    base.expect_tensors(tmp_path, some("a", "b"), dict.fromkeys(["a"], 1), dict.fromkeys(["b", "c"], 1))
    with pytest.raises(CorruptArtefact, match="lacks c; it holds a, b"):
        base.expect_tensors(tmp_path, some("b", "a"), dict.fromkeys(["a", "c"], 1), dict.fromkeys(["b"], 1))
    with pytest.raises(CorruptArtefact, match="lacks a; it holds nothing"):
        base.expect_tensors(tmp_path, some(), dict.fromkeys(["a"], 1))
    with pytest.raises(CorruptArtefact, match="holds b, d, whose meaning"):
        base.expect_tensors(tmp_path, some("a", "d", "b"), dict.fromkeys(["a"], 1))
    assert gemma_scope._only([paths[0]], tmp_path) == paths[0]
    with pytest.raises(CorruptArtefact, match="without a params file"):
        gemma_scope._only([], tmp_path)
    for count, dots in ((2, False), (4, False), (5, True)):
        with pytest.raises(DictionaryMismatch, match="several dictionaries") as refused:
            gemma_scope._only(paths[:count], tmp_path)
        assert ("…" in str(refused.value)) is dots and ("m_2.x" in str(refused.value)) is (count >= 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
@pytest.mark.parametrize("compressed", [False, True])
def test_archives_of_arrays(tmp_path: Path, dtype: Any, compressed: bool) -> None:
    arrays = {"a": np.arange(12, dtype=dtype).reshape(3, 4), "b": np.asfortranarray(np.arange(6, dtype=dtype).reshape(2, 3)),
              "c": np.array(5, dtype=dtype), "d": np.zeros((0, 3), dtype=dtype)}  # fmt: skip
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    if not compressed:
        del arrays["d"]
        np.savez(path, **arrays)
    found = npz.read_npz(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape and np.array_equal(found[name].numpy(), array)
    with pytest.raises(CorruptArtefact, match="is missing"):
        npz.read_npz(tmp_path / "y.npz")
    np.savez(path, o=np.array([{}], dtype=object))
    with pytest.raises(CorruptArtefact, match="Python objects"):
        npz.read_npz(path)
    for tensor in (torch.zeros(2, 2), torch.zeros(2, dtype=torch.int32)):
        with pytest.raises(CorruptArtefact, match=r"a has shape .* 1 axes of floating-point"):
            base.expect_tensors(tmp_path, {"a": tensor}, {"a": 1})
        base.expect_tensors(tmp_path, {"a": tensor}, {"a": None})


def layers_of(n_layers: int, *, cross: bool = False, **more: Any) -> list[LayerWeights]:
    return [
        LayerWeights(W_enc=torch.randn(5, 16), b_enc=torch.randn(5), b_dec=torch.randn(16),
                     decoder=torch.randn(5, n_layers - layer if cross else 1, 16),
                     **{name: make() for name, make in more.items()})
        for layer in range(n_layers)
    ]  # fmt: skip


def test_transcoders_and_back(model: Model) -> None:
    for cross in (False, True):
        layers = layers_of(3, cross=cross, W_skip=lambda: torch.randn(16, 16))
        made = transcoders(name="n", layers=layers, activation=Activation(kind="relu"))
        assert (made.name, made.scan, made.model_name, made.skip_first) == ("n", "n", "", True)
        assert transcoders(name="n", scan="s", layers=layers, activation=Activation(kind="relu")).scan == "s"
        assert [len(one.writes) for one in made.parts] == ([3, 2, 1] if cross else [1, 1, 1])
        for before, after in zip(layers, layer_weights(made), strict=True):
            assert all(torch.equal(getattr(before, name), getattr(after, name))
                       for name in ("W_enc", "b_enc", "decoder", "b_dec", "W_skip"))  # fmt: skip
        assert made.parts[1].writes[0] == Site("mlp_out", 1) and made.parts[1].reads == (Site("mlp_in", 1),)
    with pytest.raises(
        DictionaryMismatch, match=r"layer 0 .* has 2 writes; of 3 layers it has 1 \(per-layer\) or 3"
    ):
        transcoders(
            name="n",
            layers=[replace(layers[0], decoder=torch.ones(5, 2, 16)), *layers[1:]],
            activation=Activation(kind="relu"),
        )
    for odd in (dictionary(part("1")), dictionary(part(writes=("mlp_out.1",))), dictionary(part(writes=("mlp_out.0", "mlp_out.2"))),
                dictionary(part("x")), dictionary(part(b_dec={})), dictionary(part(reads=("mlp_in.1",)))):  # fmt: skip
        with pytest.raises(DictionaryMismatch, match="not one transcoder for each layer"):
            layer_weights(odd)
    assert parse_sites("mlp_in", 2) == (Site("mlp_in", 0), Site("mlp_in", 1))
    with pytest.raises(UnknownSite):
        parse_sites("embed", 2)


def test_what_stands_in_for_mlps(model: Model) -> None:
    found = replace_mlps(dictionary(part("b", ("mlp_in.1",), ("mlp_out.1",))), model)
    assert (
        found.part_of == (None, 0)
        and found.writes == (Site("mlp_out", 0), Site("mlp_out", 1))
        and found.n_layers == 2
    )
    assert found.layer_of == (1,) and found.read(0) is None and found.read(1) == Site("mlp_in", 1)
    assert found.sites == (Site("mlp_in", 1), Site("mlp_out", 1), Site("mlp_out", 0))
    wide = part("w", writes=("mlp_out.0", "mlp_out.1"))
    assert replace_mlps(dictionary(wide), model).part_of == (0, None)
    good = part("late", W_skip=torch.ones(16, 16))
    assert replace_mlps(dictionary(good), model).part_of == (0, None)
    for parts, words in (
        ((part(reads=("mlp_in.0", "resid_mid.0")),), "stand in for MLPs"), ((part(reads=("mlp_out.0",)),), "stand in for MLPs"),
        ((part(writes=("resid_post.0",)),), "stand in for MLPs"), ((part(reads=("mlp_in.1",)),), "stand in for MLPs"),
        ((part(writes=("mlp_out.1",), W_skip=torch.ones(16, 16)),), "stand in for MLPs"),
        ((part("1", ("mlp_in.1",), ("mlp_out.1",)), part()), "another order"), ((part(), part("b")), "another order"),
        ((wide, part("1", ("mlp_in.1",), ("mlp_raw.1",))), r"writes both mlp_out\.1 and mlp_raw\.1"),
    ):  # fmt: skip
        with pytest.raises(DictionaryMismatch, match=words):
            replace_mlps(dictionary(*parts), model)


def test_a_dictionary_where_it_is_wanted(model: Model) -> None:
    made = dictionary(part(W_enc={Site("mlp_in", 0): torch.ones(6, 16, dtype=torch.float16)},
                           W_dec={Site("mlp_out", 0): torch.ones(6, 16, dtype=torch.float16)}))  # fmt: skip
    moved = resident(made).parts[0]
    assert (
        moved.W_enc[Site("mlp_in", 0)].dtype == torch.float32
        and moved.W_dec[Site("mlp_out", 0)].dtype == torch.float16
    )
    assert (
        resident(made, decoders=True, dtype=torch.float64).parts[0].W_dec[Site("mlp_out", 0)].dtype
        == torch.float64
    )
    assert moved.name == "0" and moved.activation == made.parts[0].activation


@pytest.mark.parametrize("cross", [False, True])
def test_files_for_other_tools_say_what_they_hold(tmp_path: Path, cross: bool) -> None:
    import json

    import yaml

    jump = {"activation": Activation(kind="jumprelu"), "read": "mlp_in", "write": "mlp_out"}
    made = transcoders(
        name="n",
        scan="s",
        model_name="m",
        layers=layers_of(2, cross=cross, threshold=lambda: torch.rand(5)),
        **jump,
    )
    save_dictionary(made, tmp_path / "scope", format="gemma-scope-2")
    home = tmp_path / "scope"
    paths = [home / "config.json"] if cross else [home / f"layer_{n}" / "config.json" for n in range(2)]
    for layer, path in enumerate(paths):
        assert json.loads(path.read_text()) == {
            "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
            "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output", "width": 5, "model_name": "m",
            "architecture": "jump_relu", "affine_connection": False,
            "type": "cross_layer_transcoder" if cross else "transcoder",
        }  # fmt: skip
    save_dictionary(made, tmp_path / "ct", format="circuit-tracer")
    config = yaml.safe_load((tmp_path / "ct" / "config.yaml").read_text())
    assert list(config.items()) == [
        ("model_name", "m"), ("model_kind", "cross_layer_transcoder" if cross else "transcoder_set"),
        ("feature_input_hook", "mlp.hook_in"), ("feature_output_hook", "hook_mlp_out"), ("scan", "s"),
    ]  # fmt: skip
    for home in ("scope", "ct"):
        back = load_dictionary(tmp_path / home)
        assert (
            back.kind == made.kind
            and back.card.folder == tmp_path / home
            and back.reads == made.reads
            and back.writes == made.writes
        )
        assert all(torch.equal(a.threshold, b.threshold) for a, b in zip(back.parts, made.parts, strict=True))
    topk = transcoders(name="n", layers=layers_of(2), activation=Activation(kind="topk", k=3))
    save_dictionary(topk, tmp_path / "topk", format="circuit-tracer")
    assert load_dictionary(tmp_path / "topk").parts[0].activation == Activation(kind="topk", k=3)
    relu = transcoders(name="n", layers=layers_of(2, cross=cross), activation=Activation(kind="relu"))
    skip = transcoders(
        name="n",
        layers=layers_of(2, cross=cross, threshold=lambda: torch.rand(5), W_skip=lambda: torch.rand(16, 16)),
        **jump,
    )
    for one, format, words in (
        (relu, "gemma-scope", "other activations than jumprelu"), (relu, "gemma-scope-2", "other activations than jumprelu"),
        (skip, "gemma-scope", "has skip connections"), (made, "gemma-scope", "is cross-layer" if cross else "reads mlp_norm and writes mlp_out"),
    ):  # fmt: skip
        with pytest.raises(DictionaryMismatch, match=words):
            save_dictionary(one, tmp_path / "no", format=format)
    if cross:
        with pytest.raises(DictionaryMismatch, match="no skip connections and no TopK"):
            save_dictionary(skip, tmp_path / "no", format="circuit-tracer")
    else:
        save_dictionary(skip, tmp_path / "skip", format="circuit-tracer")
        assert load_dictionary(tmp_path / "skip").has_skip
    save_dictionary(replace(made, card=Card(declared={"fvu": 0.5})), tmp_path / "native")
    assert load_dictionary(tmp_path / "native").card.declared == {"fvu": 0.5}
    assert load_dictionary(tmp_path / "native", format="native").name == "n"


@pytest.mark.parametrize(("config", "threshold", "stored", "found"), [
    ({}, False, [], "relu"), ({}, True, [], "jumprelu"), ({"activation": "relu"}, False, [], "relu"),
    ({"activation": "jump_relu"}, True, [], "jumprelu"), ({"activation": "jumprelu"}, True, [], "jumprelu"),
    ({"activation": "topk", "k": 4}, False, [], 4), ({}, False, [2, 2], 2), ({"activation": "topk"}, False, [3, 3], 3),
    ({"activation": "topk", "k": 4}, False, [3], 4), ({"activation": "topk"}, False, [], "needs one k"), ({}, False, [2, 3], "needs one k"),
    ({"activation": "topk", "k": "x"}, False, [], "needs one k"), ({"activation": "topk", "k": 2}, True, [], "says activation: topk"),
    ({"activation": "relu"}, True, [], "says activation: relu"), ({"activation": "gelu"}, False, [], "is not relu, jump_relu or topk"),
    ({"activation": "relu"}, False, [2], "relu"),
])  # fmt: skip
def test_the_activation_that_a_configuration_means(
    config: dict, threshold: bool, stored: list, found: Any
) -> None:
    layers = layers_of(2, **({"threshold": lambda: torch.rand(5)} if threshold else {}))
    files = [{"k": k} for k in stored] or [{}]
    call = lambda: circuit_tracer._activation(Path("x"), config, layers, files)
    if found in ("relu", "jumprelu"):
        assert call() == Activation(kind=found)
    elif isinstance(found, int):
        assert call() == Activation(kind="topk", k=found)
    else:
        with pytest.raises(CorruptArtefact, match=re.escape(found)):
            call()
