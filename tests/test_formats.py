"""Published dictionary layouts: files made exactly as published load with the right meaning and save bit-identically."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.autograd_oracle import activations_at, same_parts
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError, UnknownSite
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Dictionary,
    encode,
    layer_weights,
    load_dictionary,
    save_dictionary,
)

L, D, F, P = 3, 6, 10, 5

PLT_YAML = """# a comment that must survive
model_name: "org/some-model"
model_kind: "transcoder_set"
feature_input_hook: "ln2.hook_normalized"
feature_output_hook: "hook_mlp_out"
scan: "org/scan-name"
a_key_of_tomorrow: [1, 2]
"""


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape).to(dtype)


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    raw = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


def same_folders(a: Path, b: Path) -> None:
    """Every file of `a` is in `b` with the same tensors and texts, and `b` has no other."""
    names = {str(path.relative_to(a)) for path in a.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(b)) for path in b.rglob("*") if path.is_file()}
    for name in names:
        if name.endswith(".safetensors"):
            left, right = tensors_of(a / name), tensors_of(b / name)
            assert left.keys() == right.keys()
            assert all(same_bits(left[key], right[key]) for key in left), name
            with safe_open(a / name, "pt") as one, safe_open(b / name, "pt") as two:
                assert one.metadata() == two.metadata()
        elif name.endswith(".npz"):
            with np.load(a / name) as one, np.load(b / name) as two:
                assert one.files == two.files
                for key in one.files:
                    assert one[key].dtype == two[key].dtype and one[key].shape == two[key].shape
                    assert one[key].tobytes() == two[key].tobytes()
        else:
            assert (a / name).read_bytes() == (b / name).read_bytes()


def capture_of(dictionary: Dictionary) -> dict[Site, torch.Tensor]:
    return {site: torch.randn(1, P, D) for site in dictionary.sites}


# --- published files -------------------------------------------------------------------------------------------------


def write_plt(
    folder: Path, *, dtype=torch.float32, threshold=False, skip=False, text=PLT_YAML, metadata=None
) -> list[dict]:
    folder.mkdir(parents=True, exist_ok=True)
    layers = []
    for layer in range(L):
        tensors = {"W_enc": rand(F, D), "W_dec": rand(F, D), "b_enc": rand(F), "b_dec": rand(D)}
        if threshold:
            tensors["activation_function.threshold"] = rand(F).abs()
        if skip:
            tensors["W_skip"] = rand(D, D)
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        save_file(tensors, folder / f"layer_{layer}.safetensors", metadata)
        layers.append(tensors)
    (folder / "config.yaml").write_text(text)
    return layers


def write_clt(folder: Path, *, dtype=torch.float32, threshold=True) -> list[dict]:
    folder.mkdir(parents=True, exist_ok=True)
    layers = []
    for i in range(L):
        encoder = {f"W_enc_{i}": rand(F, D), f"b_enc_{i}": rand(F), f"b_dec_{i}": rand(D)}
        if threshold:
            encoder[f"threshold_{i}"] = rand(F).abs()
        decoder = {f"W_dec_{i}": rand(F, L - i, D)}
        encoder, decoder = ({k: v.to(dtype) for k, v in t.items()} for t in (encoder, decoder))
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        save_file(decoder, folder / f"W_dec_{i}.safetensors")
        layers.append(encoder | decoder)
    text = PLT_YAML.replace("transcoder_set", "cross_layer_transcoder").replace(
        "ln2.hook_normalized", "hook_resid_mid"
    )
    (folder / "config.yaml").write_text(text)
    return layers


def write_scope_one(folder: Path, *, compressed=False) -> list[dict]:
    layers = []
    for layer in range(L):
        arrays = {
            "b_dec": rand(D), "W_dec": rand(F, D), "W_enc": rand(D, F), "threshold": rand(F).abs(), "b_enc": rand(F),
        }  # fmt: skip
        path = folder / f"layer_{layer}" / "width_16k" / f"average_l0_{70 + layer}" / "params.npz"
        path.parent.mkdir(parents=True)
        (np.savez_compressed if compressed else np.savez)(path, **{k: v.numpy() for k, v in arrays.items()})
        layers.append(arrays)
    return layers


def scope_two_config(layer: int | None, *, affine: bool) -> dict:
    where = f"model.layers.{layer}." if layer is not None else None
    ins = [f"model.layers.{i}.pre_feedforward_layernorm.output" for i in range(L)]
    outs = [f"model.layers.{i}.post_feedforward_layernorm.output" for i in range(L)]
    return {
        "hf_hook_point_in": where + "pre_feedforward_layernorm.output" if where else ins,
        "hf_hook_point_out": where + "post_feedforward_layernorm.output" if where else outs,
        "width": F, "model_name": "google/gemma-3-1b-pt", "architecture": "jump_relu", "l0": 20,
        "affine_connection": affine, "type": "transcoder" if where else "clt", "a_key_of_tomorrow": None,
    }  # fmt: skip


def write_scope_two(folder: Path, *, affine: bool, dtype=torch.float32) -> list[dict]:
    layers = []
    for layer in range(L):
        tensors = {
            "w_enc": rand(D, F),
            "w_dec": rand(F, D),
            "b_enc": rand(F),
            "b_dec": rand(D),
            "threshold": rand(F).abs(),
        }
        if affine:
            tensors["affine_skip_connection"] = rand(D, D)
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        home = folder / f"layer_{layer}_width_16k_l0_small{'_affine' if affine else ''}"
        home.mkdir(parents=True)
        save_file(tensors, home / "params.safetensors")
        (home / "config.json").write_text(json.dumps(scope_two_config(layer, affine=affine), indent=2))
        layers.append(tensors)
    return layers


def write_scope_two_clt(folder: Path, *, affine: bool) -> list[dict]:
    folder.mkdir(parents=True)
    layers = []
    for layer in range(L):
        tensors = {
            "w_enc": rand(D, F),
            "w_dec": rand(F, L, D),
            "b_enc": rand(F),
            "b_dec": rand(D),
            "threshold": rand(F).abs(),
        }
        if affine:
            tensors["affine_skip_connection"] = rand(D, D)
        save_file(tensors, folder / f"params_layer_{layer}.safetensors")
        layers.append(tensors)
    (folder / "config.json").write_text(json.dumps(scope_two_config(None, affine=affine)))
    return layers


# --- circuit-tracer, per layer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("threshold", "skip"), [(False, False), (True, False), (False, True), (True, True)])
def test_circuit_tracer_per_layer(tmp_path, dtype, threshold, skip):
    layers = write_plt(
        tmp_path / "a", dtype=dtype, threshold=threshold, skip=skip, metadata={"format": "pt", "by": "x"}
    )
    dictionary = load_dictionary(tmp_path / "a")
    assert dictionary.reads[1] == Site("mlp_norm", 1) and dictionary.writes[2] == Site("mlp_out", 2)
    assert (dictionary.model_name, dictionary.scan) == ("org/some-model", "org/scan-name")
    assert dictionary.kind == ("skip transcoders" if skip else "per-layer transcoders")
    assert {part.activation.kind for part in dictionary.parts} == {"jumprelu" if threshold else "relu"}
    acts = capture_of(dictionary)
    features = encode(dictionary, acts)
    for layer, w in enumerate({k: v.float() for k, v in w.items()} for w in layers):
        x = acts[Site("mlp_norm", layer)][0]
        pre = torch.einsum("pd,fd->pf", x, w["W_enc"]) + w["b_enc"]
        a = pre * (pre > w["activation_function.threshold"]) if threshold else pre.clamp(min=0)
        a[0] = 0
        y = torch.einsum("pf,fd->pd", a, w["W_dec"]) + w["b_dec"] + (x @ w["W_skip"].T if skip else 0)
        torch.testing.assert_close(features.reconstruction[dictionary.writes[layer]], y, atol=1e-5, rtol=1e-5)
        here = features.part == layer
        assert (
            torch.stack([features.position[here], features.index[here]], dim=1).tolist()
            == a.nonzero().tolist()
        )
    save_dictionary(dictionary, tmp_path / "b", format="circuit-tracer")
    same_folders(tmp_path / "a", tmp_path / "b")


def test_the_threshold_is_strict(tmp_path):
    layers = write_plt(tmp_path / "a", threshold=True)
    dictionary = load_dictionary(tmp_path / "a")
    w = layers[0]
    x = torch.linalg.pinv(w["W_enc"]) @ (w["activation_function.threshold"] - w["b_enc"])
    part = dictionary.parts[0]
    pre = part.preactivations({part.reads[0]: x})
    exact = part.threshold.clone()
    on_threshold = part.activation.apply(exact[None], exact)
    above = part.activation.apply(torch.nextafter(exact, torch.tensor(9e9))[None], exact)
    assert pre.shape == (F,)
    assert not on_threshold.any() and (above > 0).all()


@pytest.mark.parametrize("stored", [False, True])
def test_circuit_tracer_topk(tmp_path, stored):
    text = PLT_YAML if stored else PLT_YAML + "activation: topk\nk: 3\n"
    layers = write_plt(tmp_path / "a", text=text)
    if stored:
        for layer, w in enumerate(layers):
            save_file({**w, "k": torch.tensor(3)}, tmp_path / "a" / f"layer_{layer}.safetensors")
    dictionary = load_dictionary(tmp_path / "a")
    x = torch.randn(40, D)
    values = activations_at(dictionary, 1, x)
    pre = x @ layers[1]["W_enc"].T + layers[1]["b_enc"]
    for row, value in zip(pre, values, strict=True):
        top = set(row.topk(3).indices.tolist())
        assert all((value[i] == row[i].relu()) if i in top else value[i] == 0 for i in range(F))
    save_dictionary(dictionary, tmp_path / "b", format="circuit-tracer")
    same_folders(tmp_path / "a", tmp_path / "b")


def test_a_listed_file_of_gemma_scope_loads(tmp_path):
    layers = write_scope_one(tmp_path / "scope")
    listed = "\n".join(f"- scope/layer_{i}/width_16k/average_l0_{70 + i}/params.npz" for i in range(L))
    (tmp_path / "config.yaml").write_text(PLT_YAML + "transcoders:\n" + listed + "\n")
    dictionary = load_dictionary(tmp_path)
    assert torch.equal(layer_weights(dictionary)[2].W_enc, layers[2]["W_enc"].T)
    save_dictionary(dictionary, tmp_path / "out", format="circuit-tracer")
    again = load_dictionary(tmp_path / "out")
    assert torch.equal(layer_weights(again)[2].W_enc, layers[2]["W_enc"].T)
    assert again.parts[2].activation.kind == "jumprelu"


# --- circuit-tracer, cross-layer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [False, True])
def test_circuit_tracer_cross_layer(tmp_path, dtype, threshold):
    layers = write_clt(tmp_path / "a", dtype=dtype, threshold=threshold)
    dictionary = load_dictionary(tmp_path / "a")
    assert dictionary.kind == "cross-layer transcoder" and dictionary.reads[1] == Site("resid_mid", 1)
    acts = capture_of(dictionary)
    features = encode(dictionary, acts)
    expected = torch.stack([layers[t][f"b_dec_{t}"].float().expand(P, D) for t in range(L)])
    for i, w in enumerate({k: v.float() for k, v in w.items()} for w in layers):
        pre = acts[Site("resid_mid", i)][0] @ w[f"W_enc_{i}"].T + w[f"b_enc_{i}"]
        a = pre * (pre > w[f"threshold_{i}"]) if threshold else pre.clamp(min=0)
        a[0] = 0
        for t in range(i, L):
            expected[t] += a @ w[f"W_dec_{i}"][:, t - i]
    torch.testing.assert_close(
        torch.stack([*features.reconstruction.values()]), expected, atol=1e-4, rtol=1e-5
    )
    save_dictionary(dictionary, tmp_path / "b", format="circuit-tracer")
    same_folders(tmp_path / "a", tmp_path / "b")


def test_the_cross_layer_layout_refuses_what_it_would_drop(tmp_path):
    write_scope_two_clt(tmp_path / "a", affine=True)
    with pytest.raises(DictionaryMismatch, match="skip"):
        save_dictionary(load_dictionary(tmp_path / "a"), tmp_path / "b", format="circuit-tracer")


# --- Gemma Scope ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_gemma_scope_one(tmp_path, compressed):
    home = tmp_path / "gemma-scope-2b-pt-transcoders"
    layers = write_scope_one(home, compressed=compressed)
    dictionary = load_dictionary(home)
    assert dictionary.reads[0] == Site("mlp_norm", 0) and dictionary.model_name == "google/gemma-2-2b"
    assert dictionary.card.declared["l0"] == 70 + 71 + 72
    acts = capture_of(dictionary)
    features = encode(dictionary, acts)
    for layer, w in enumerate(layers):
        pre = acts[Site("mlp_norm", layer)][0] @ w["W_enc"] + w["b_enc"]
        a = pre * (pre > w["threshold"])
        a[0] = 0
        torch.testing.assert_close(
            features.reconstruction[dictionary.writes[layer]],
            a @ w["W_dec"] + w["b_dec"],
            atol=1e-5,
            rtol=1e-5,
        )
    save_dictionary(dictionary, tmp_path / "b", format="gemma-scope")
    same_folders(home, tmp_path / "b")


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gemma_scope_two(tmp_path, affine, dtype):
    layers = write_scope_two(tmp_path / "a", affine=affine, dtype=dtype)
    dictionary = load_dictionary(tmp_path / "a")
    assert dictionary.reads[2] == Site("mlp_in", 2) and dictionary.writes[0] == Site("mlp_out", 0)
    assert dictionary.has_skip == affine and dictionary.card.declared["l0"] == 60
    acts = capture_of(dictionary)
    features = encode(dictionary, acts)
    for layer, w in enumerate({k: v.float() for k, v in w.items()} for w in layers):
        x = acts[Site("mlp_in", layer)][0]
        pre = x @ w["w_enc"] + w["b_enc"]
        a = pre * (pre > w["threshold"])
        a[0] = 0
        y = a @ w["w_dec"] + w["b_dec"] + (x @ w["affine_skip_connection"] if affine else 0)
        torch.testing.assert_close(features.reconstruction[dictionary.writes[layer]], y, atol=1e-5, rtol=1e-5)
    save_dictionary(dictionary, tmp_path / "b", format="gemma-scope-2")
    same_folders(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("affine", [False, True])
def test_gemma_scope_two_cross_layer(tmp_path, affine):
    layers = write_scope_two_clt(tmp_path / "a", affine=affine)
    dictionary = load_dictionary(tmp_path / "a")
    assert len(dictionary.parts) == L and dictionary.kind == "cross-layer transcoder"
    acts = capture_of(dictionary)
    features = encode(dictionary, acts)
    expected = torch.stack([w["b_dec"].expand(P, D) for w in layers])
    for i, w in enumerate(layers):
        x = acts[Site("mlp_in", i)][0]
        pre = x @ w["w_enc"] + w["b_enc"]
        a = pre * (pre > w["threshold"])
        a[0] = 0
        expected[i] += x @ w["affine_skip_connection"] if affine else 0
        for t in range(i, L):
            expected[t] += a @ w["w_dec"][:, t]
    torch.testing.assert_close(
        torch.stack([*features.reconstruction.values()]), expected, atol=1e-4, rtol=1e-5
    )
    save_dictionary(dictionary, tmp_path / "b", format="gemma-scope-2")
    same_folders(tmp_path / "a", tmp_path / "b")


def test_several_widths_side_by_side_are_refused(tmp_path):
    write_scope_two(tmp_path, affine=False)
    write_scope_two(tmp_path, affine=True)
    with pytest.raises(DictionaryMismatch, match="several dictionaries for one layer"):
        load_dictionary(tmp_path)


# --- from one format to another ---------------------------------------------------------------------------------------

WRITERS = {
    "circuit-tracer": lambda folder: write_plt(folder, threshold=True),
    "gemma-scope": write_scope_one,
    "gemma-scope-2": lambda folder: write_scope_two(folder, affine=False),
}


@pytest.mark.parametrize("source", WRITERS)
@pytest.mark.parametrize("target", ["native", "circuit-tracer", "gemma-scope", "gemma-scope-2"])
def test_converted_dictionaries_are_the_same(tmp_path, source, target):
    WRITERS[source](tmp_path / "a")
    one = load_dictionary(tmp_path / "a", format=source)
    reads = one.reads[0].kind
    possible = {"gemma-scope": reads == "mlp_norm", "gemma-scope-2": reads == "mlp_in"}
    if not possible.get(target, True):
        with pytest.raises(DictionaryMismatch):
            save_dictionary(one, tmp_path / "b", format=target)
        return
    save_dictionary(one, tmp_path / "b", format=target)
    two = load_dictionary(tmp_path / "b", format=target)
    assert same_parts(one, two)
    assert one.skip_first == two.skip_first


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_missing_shard_is_named(tmp_path):
    write_clt(tmp_path / "clt")
    (tmp_path / "clt" / "W_dec_1.safetensors").unlink()
    with pytest.raises(CorruptArtefact, match=r"W_dec_1\.safetensors is missing"):
        load_dictionary(tmp_path / "clt")
    write_plt(tmp_path / "plt")
    (tmp_path / "plt" / "layer_0.safetensors").unlink()
    with pytest.raises(CorruptArtefact, match=r"layer_0\.safetensors is missing"):
        load_dictionary(tmp_path / "plt")
    write_scope_one(tmp_path / "one")
    (tmp_path / "one/layer_1/width_16k/average_l0_71/params.npz").unlink()
    with pytest.raises(CorruptArtefact, match="params"):
        load_dictionary(tmp_path / "one")
    write_scope_two(tmp_path / "two", affine=False)
    (tmp_path / "two/layer_1_width_16k_l0_small/params.safetensors").unlink()
    with pytest.raises(CorruptArtefact, match="layer_1_width_16k_l0_small"):
        load_dictionary(tmp_path / "two")


def test_a_truncated_shard_is_named(tmp_path):
    write_plt(tmp_path / "a")
    path = tmp_path / "a" / "layer_2.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CorruptArtefact, match=r"layer_2\.safetensors"):
        load_dictionary(tmp_path / "a")
    write_scope_one(tmp_path / "b")
    path = tmp_path / "b/layer_1/width_16k/average_l0_71/params.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CorruptArtefact, match="average_l0_71"):
        load_dictionary(tmp_path / "b")


def test_pickled_arrays_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    write_scope_one(tmp_path)
    path = tmp_path / "layer_0/width_16k/average_l0_70/params.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **(arrays | {"b_dec": np.array([Bomb()], dtype=object)}), allow_pickle=True)
    with pytest.raises(CorruptArtefact, match="Python objects"):
        load_dictionary(tmp_path)


def test_layers_of_different_sizes_load_and_save(tmp_path):
    layers = write_plt(tmp_path / "a")
    wide = {**layers[1], "W_enc": rand(F + 1, D), "W_dec": rand(F + 1, D), "b_enc": rand(F + 1)}
    save_file(wide, tmp_path / "a" / "layer_1.safetensors")
    dictionary = load_dictionary(tmp_path / "a")
    assert [part.n_features for part in dictionary.parts] == [F, F + 1, F]
    save_dictionary(dictionary, tmp_path / "b", format="circuit-tracer")
    same_folders(tmp_path / "a", tmp_path / "b")


def test_layers_of_another_model_are_refused(tmp_path):
    write_plt(tmp_path)
    model = tiny_model("llama", layers=L)
    with pytest.raises(
        DictionaryMismatch, match=rf"mlp_norm.0 to be {D} wide, but in .* it is {model.d_model}"
    ):
        load_dictionary(tmp_path, model)


def test_thresholds_in_some_layers_only_are_refused(tmp_path):
    layers = write_plt(tmp_path)
    save_file({**layers[1], "activation_function.threshold": rand(F).abs()}, tmp_path / "layer_1.safetensors")
    with pytest.raises(CorruptArtefact, match="some layers have thresholds"):
        load_dictionary(tmp_path)


def test_a_tensor_of_unknown_meaning_is_refused(tmp_path):
    layers = write_plt(tmp_path)
    save_file({**layers[1], "log_thresholds": rand(F)}, tmp_path / "layer_1.safetensors")
    with pytest.raises(CorruptArtefact, match="log_thresholds"):
        load_dictionary(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ('model_kind: "transcoder_set"', 'model_kind: "autoencoder"', CorruptArtefact, "autoencoder"),
        ("feature_input_hook", "input_hook", CorruptArtefact, "feature_input_hook"),
        ('"ln2.hook_normalized"', '"ln3.hook"', UnknownSite, "ln3.hook"),
        ("scan:", "activation: gelu\nscan:", CorruptArtefact, "gelu"),
        ("scan:", "activation: topk\nscan:", CorruptArtefact, "k: <number>"),
        ("scan:", "[", CorruptArtefact, r"config\.yaml"),
    ],
)
def test_a_wrong_configuration_says_what_is_wrong(tmp_path, old, new, error, words):
    write_plt(tmp_path, text=PLT_YAML.replace(old, new))
    with pytest.raises(error, match=words):
        load_dictionary(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CorruptArtefact, match="no dictionary in a known layout"):
        load_dictionary(tmp_path)
    with pytest.raises(ThoughtscopeError, match="nativ"):
        load_dictionary(tmp_path, format="nativ")


@pytest.mark.parametrize(
    "reference", ["hf://org/repo/clt", "org/repo", "no-such-folder", "../no/such", "hf://org/../../etc"]
)
def test_what_is_not_here_is_refused_at_once(reference, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DictionaryMismatch):
        load_dictionary(reference)


def test_a_part_of_a_repository_in_the_cache_is_not_taken_for_the_whole(tmp_path, monkeypatch):
    """What was fetched before may be another folder of the same repository, or the start of a cut-off download."""
    home = tmp_path / "models--org--repo"
    snapshot = home / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    write_plt(snapshot / "small")
    (home / "blobs").mkdir()
    asked: list[bool] = []

    def snapshot_download(repo, *, local_files_only, **_):
        asked.append(not local_files_only)
        if not local_files_only:
            write_plt(snapshot / "large")
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.setattr("thoughtscope.models.checkpoints.unreachable", lambda: None)
    load_dictionary("hf://org/repo/small")
    assert not any(asked)
    load_dictionary("hf://org/repo/large")
    assert asked[-1]
    (home / "blobs" / "abc.incomplete").touch()
    load_dictionary("hf://org/repo/small")
    assert asked[-1]
    monkeypatch.setattr("thoughtscope.models.checkpoints.unreachable", lambda: "no network")
    with pytest.raises(DictionaryMismatch, match=r"no network\. Connect once"):
        load_dictionary("hf://org/repo/small")


def test_saving_over_a_mapped_dictionary_keeps_it_readable(tmp_path):
    write_plt(tmp_path, threshold=True)
    dictionary = load_dictionary(tmp_path)
    before = layer_weights(dictionary)[0].W_enc.clone()
    save_dictionary(dictionary, tmp_path, format="circuit-tracer")
    assert torch.equal(layer_weights(dictionary)[0].W_enc, before)
    assert torch.equal(layer_weights(load_dictionary(tmp_path))[0].W_enc, before)
