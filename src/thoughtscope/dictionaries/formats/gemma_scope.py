"""Gemma Scope's layouts.

    1   layer_{i}/…/params.npz         W_enc (d, F), W_dec (F, d), b_enc, b_dec, threshold
    2   layer_{i}_…/config.json        hf_hook_point_in, hf_hook_point_out, model_name, l0, width, …
        layer_{i}_…/params.safetensors w_enc (d, F), w_dec (F, d), b_enc, b_dec, threshold,
                                       sometimes affine_skip_connection (d, d)
    2   config.json, params_layer_{i}.safetensors   the cross-layer transcoder: likewise; w_dec (F, layers, d)

All are JumpReLU. `affine_skip_connection` maps rows: `y += x @ A`. Version 1 reads the normalised residual before the
norm's weight (`ln2.hook_normalized`) and writes the contribution to the residual; version 2 says its hooks itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, cat, zeros

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import replaced_folder, write_new
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.tensors import TensorFile
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.formats.base import (
    FORMATS,
    Format,
    every_layer,
    expect_tensors,
    numbered,
    read_text,
    write_safetensors,
    write_text,
)
from thoughtscope.dictionaries.formats.npz import read_npz
from thoughtscope.dictionaries.transcoders import LayerWeights, is_cross_layer, layer_weights, transcoders

ONE, TWO = "gemma-scope", "gemma-scope-2"
_NPZ = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1, "threshold": 1}
_LOWER = {"w_enc": 2, "b_enc": 1, "b_dec": 1, "threshold": 1}
_SKIP = "affine_skip_connection"
_FILES_ONE = re.compile(r"layer_\d+[^/]*/(.+/)?params\.npz")
_FILES_TWO_LAYERS = re.compile(r"layer_\d+[^/]*/(config\.json|params\.safetensors)")
_FILES_TWO = re.compile(rf"config\.json|params_layer_\d+\.safetensors|{_FILES_TWO_LAYERS.pattern}")
"""What a save replaces; everything else in the folder stays."""
_HOOKS = {
    "pre_feedforward_layernorm.output": "mlp_in",
    "mlp.input": "mlp_in",
    "mlp.output": "mlp_raw",
    "post_feedforward_layernorm.output": "mlp_out",
    "pre_feedforward_layernorm.input": "resid_mid",
    "output": "resid_post",
    "input": "resid_pre",
}
"""Module paths inside `model.layers.{i}.` as the sites that they mean."""


# --- version 1 -----------------------------------------------------------------------------------------------------


def matches_one(folder: Path) -> bool:
    """Whether `folder` looks like version 1; reads no weights."""
    return next(folder.glob("layer_*/**/params.npz"), None) is not None


def load_one(folder: Path) -> Dictionary:
    """Opens a folder with one `params.npz` per layer. Raises `CorruptArtefact` naming the file."""
    found = {
        layer: _only([npz for path in paths for npz in sorted(path.glob("**/params.npz"))], folder)
        for layer, paths in numbered(folder.glob("layer_*"), r"layer_(\d+)").items()
    }
    paths = every_layer(found, folder, "layer_{}/params.npz")
    read = [read_npz_layer(path) for path in paths]
    size = re.search(r"gemma-scope-(\d+b)", str(folder.resolve()))
    l0 = [re.search(r"average_l0_(\d+)", str(path)) for path in paths]
    name = folder.resolve().name
    card = Card(
        declared={"l0": float(sum(int(match[1]) for match in l0 if match))} if all(l0) else {},
        foreign={
            "format": ONE,
            "paths": [str(path.relative_to(folder)) for path in paths],
            "orders": [order for _, order in read],
        },
    )
    return transcoders(
        name=name,
        model_name=f"google/gemma-2-{size[1]}" if size else "",
        read="mlp_norm",
        write="mlp_out",
        activation=Activation(kind="jumprelu"),
        layers=[weights for weights, _ in read],
        card=card,
    )


def read_npz_layer(path: Path) -> tuple[LayerWeights, list[str]]:
    """One layer of version 1, and the order of its arrays."""
    arrays = read_npz(path)
    expect_tensors(path, arrays, _NPZ)
    weights = LayerWeights(
        W_enc=arrays["W_enc"].T,
        b_enc=arrays["b_enc"],
        decoder=arrays["W_dec"].unsqueeze(1),
        b_dec=arrays["b_dec"],
        threshold=arrays["threshold"],
    )
    return weights, list(arrays)


def save_one(dictionary: Dictionary, folder: Path) -> None:
    """Writes one `params.npz` per layer, in place of an older dictionary as a whole.

    Raises `DictionaryMismatch` for what version 1 cannot hold, and for a folder that holds several dictionaries.
    """
    d = dictionary
    _require(d, ONE, per_layer=True, skip=False)
    if (d.reads[0].kind, d.writes[0].kind) != ("mlp_norm", "mlp_out"):
        raise DictionaryMismatch(
            f"{ONE} reads mlp_norm and writes mlp_out; {d.name} has {d.reads[0]} and {d.writes[0]}."
        )
    own = d.card.foreign if d.card.foreign.get("format") == ONE else {}
    _refuse_several(folder, "layer_*/**/params.npz")
    with replaced_folder(folder, belongs=_FILES_ONE.fullmatch) as fresh:
        for layer, weights in enumerate(layer_weights(d)):
            path = fresh / (own["paths"][layer] if own else f"layer_{layer}/params.npz")
            arrays = {
                "W_enc": weights.W_enc.T,
                "W_dec": weights.decoder.squeeze(1),
                "b_enc": weights.b_enc,
                "b_dec": weights.b_dec,
                "threshold": weights.threshold,
            }
            order = own["orders"][layer] if own else _NPZ
            _write_npz(path, {name: arrays[name] for name in order})


def _write_npz(path: Path, arrays: Mapping[str, Tensor | None]) -> None:
    import io

    buffer = io.BytesIO()
    given: Any = {
        name: np.ascontiguousarray(tensor.numpy()) for name, tensor in arrays.items() if tensor is not None
    }
    np.savez(buffer, **given)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_new(path, [buffer.getvalue()])


def _refuse_several(folder: Path, pattern: str) -> None:
    """A download with several widths of a layer is more than one dictionary: saving over it would lose the others."""
    names = (path.relative_to(folder).as_posix() for path in folder.glob(pattern))
    layers = Counter(match[1] for match in (re.match(r"layer_(\d+)", name) for name in names) if match)
    for layer, n in sorted(layers.items()):
        if n > 1:
            raise DictionaryMismatch(
                f"{folder} holds {n} dictionaries for layer {layer}. Name a new or empty folder."
            )


# --- version 2 -----------------------------------------------------------------------------------------------------


def matches_two(folder: Path) -> bool:
    """Whether `folder` looks like version 2; reads no weights."""
    cross = (folder / "config.json").is_file() and any(folder.glob("params_layer_*.safetensors"))
    return cross or next(folder.glob("layer_*/params.safetensors"), None) is not None


def load_two(folder: Path) -> Dictionary:
    """Opens a folder of per-layer folders, or a cross-layer transcoder. Raises `CorruptArtefact` naming the file."""
    cross = any(folder.glob("params_layer_*.safetensors"))
    if cross:
        found = numbered(folder.glob("params_layer_*.safetensors"), r"params_layer_(\d+)\.safetensors")
        paths = [entry[0] for entry in every_layer(found, folder, "params_layer_{}.safetensors")]
        configs = [folder / "config.json"]
    else:
        groups = numbered(folder.glob("layer_*"), r"layer_(\d+)(?:_.*)?")
        folders = every_layer(
            {layer: _only(paths, folder) for layer, paths in groups.items()}, folder, "layer_{}"
        )
        paths = [entry / "params.safetensors" for entry in folders]
        configs = [entry / "config.json" for entry in folders]
    read = [
        read_safetensors_layer(TensorFile(path), layer if cross else None) for layer, path in enumerate(paths)
    ]
    texts = [read_text(path) for path in configs]
    parsed = [_config_of(text, path) for text, path in zip(texts, configs, strict=True)]
    name = folder.resolve().name
    l0 = [config.get("l0") for config in parsed]
    plain = all(type(value) in (int, float) for value in l0) and not cross
    card = Card(
        declared={"l0": float(sum(value or 0 for value in l0))} if plain else {},
        foreign={
            "format": TWO,
            "configs": texts,
            "paths": [str(path.relative_to(folder)) for path in configs],
            "metadata": [metadata for _, (metadata, _) in read],
            "earlier": [earlier for _, (_, earlier) in read],
        },
    )
    return transcoders(
        name=name,
        model_name=parsed[0].get("model_name", ""),
        read=_site_kind(parsed, "hf_hook_point_in", configs),
        write=_site_kind(parsed, "hf_hook_point_out", configs),
        activation=Activation(kind="jumprelu"),
        layers=[weights for weights, _ in read],
        card=card,
    )


def read_safetensors_layer(
    file: TensorFile, layer: int | None
) -> tuple[LayerWeights, tuple[dict[str, str], Tensor | None]]:
    """One layer of version 2 (of a cross-layer transcoder if `layer` is given), its metadata, and what its `w_dec`
    holds for earlier layers, which means nothing."""
    expect_tensors(file.path, file, {**_LOWER, "w_dec": 2 if layer is None else 3}, {_SKIP: 2})
    decoder = file["w_dec"]
    weights = LayerWeights(
        W_enc=file["w_enc"].T,
        b_enc=file["b_enc"],
        decoder=decoder.unsqueeze(1) if layer is None else decoder[:, layer:],
        b_dec=file["b_dec"],
        threshold=file["threshold"],
        W_skip=file[_SKIP].T if _SKIP in file else None,
    )
    return weights, (file.metadata(), None if layer is None else decoder[:, :layer])


def save_two(dictionary: Dictionary, folder: Path) -> None:
    """Writes version 2's layout, with its own configuration where the dictionary came from it.

    Takes the place of an older dictionary as a whole; refuses a folder that holds several.
    """
    import json

    d, cross = dictionary, is_cross_layer(dictionary)
    _require(d, TWO, per_layer=False, skip=True)
    layers = layer_weights(d)
    own = d.card.foreign if d.card.foreign.get("format") == TWO else {}
    texts = own.get("configs") or [
        json.dumps(_config(d, layer)) for layer in range(1 if cross else len(layers))
    ]
    paths = own.get("paths") or (
        ["config.json"] if cross else [f"layer_{layer}/config.json" for layer in range(len(layers))]
    )
    _refuse_several(folder, "layer_*/params.safetensors")
    # A lone config.json beside folders of layers is somebody else's.
    whole = cross or any(folder.glob("params_layer_*"))
    files = _FILES_TWO if whole else _FILES_TWO_LAYERS
    with replaced_folder(folder, belongs=files.fullmatch) as fresh:
        for layer, weights in enumerate(layers):
            earlier = own["earlier"][layer] if own else None
            target = Path(paths[layer]).with_name("params.safetensors") if not cross else None
            path = fresh / (target or f"params_layer_{layer}.safetensors")
            write_safetensors(
                path, _tensors_two(weights, layer, cross, earlier), own["metadata"][layer] if own else None
            )
        for name, text in zip(paths, texts, strict=True):
            write_text(fresh / name, text)


def _tensors_two(weights: LayerWeights, layer: int, cross: bool, earlier: Tensor | None) -> dict[str, Tensor]:
    """One layer under version 2's names."""
    decoder = _all_writes(weights.decoder, layer, earlier) if cross else weights.decoder.squeeze(1)
    tensors = {"w_enc": weights.W_enc.T, "w_dec": decoder, "b_enc": weights.b_enc, "b_dec": weights.b_dec}
    if weights.threshold is not None:
        tensors["threshold"] = weights.threshold
    if weights.W_skip is not None:
        tensors[_SKIP] = weights.W_skip.T
    return tensors


def _all_writes(decoder: Tensor, layer: int, earlier: Tensor | None) -> Tensor:
    """`w_dec` with entries for earlier layers too, which mean nothing: zeros, or what the file held."""
    if earlier is None:
        earlier = zeros(decoder.shape[0], layer, decoder.shape[2], dtype=decoder.dtype)
    return cat([earlier, decoder], dim=1)


def _config(d: Dictionary, layer: int) -> dict[str, Any]:
    modules = {site: module for module, site in reversed(_HOOKS.items())}
    for site in (d.reads[layer], d.writes[layer]):
        if site.kind not in modules:
            raise DictionaryMismatch(f"{TWO} has no name for the site {site}; {d.name} uses it.")
    return {
        "hf_hook_point_in": f"model.layers.{layer}.{modules[d.reads[layer].kind]}",
        "hf_hook_point_out": f"model.layers.{layer}.{modules[d.writes[layer].kind]}",
        "width": d.parts[layer].n_features,
        "model_name": d.model_name,
        "architecture": "jump_relu",
        "affine_connection": d.parts[layer].W_skip is not None,
        "type": "cross_layer_transcoder" if is_cross_layer(d) else "transcoder",
    }


def _site_kind(configs: list[dict[str, Any]], key: str, paths: list[Path]) -> str:
    """The site kind that a hook point of every configuration names; a list of hook points has one per layer."""
    kinds = set()
    for config, path in zip(configs, paths, strict=True):
        value = config.get(key)
        for hook in value if isinstance(value, list) and value else [value]:
            match = re.fullmatch(
                r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(?:\d+|\{\w*\})\.(.+)", str(hook)
            )
            if match is None or match[1] not in _HOOKS:
                raise CorruptArtefact(f"{path}: {key} is {hook!r}, which names no known site.")
            kinds.add(_HOOKS[match[1]])
    if len(kinds) != 1:
        raise CorruptArtefact(
            f"{paths[0].parent}: {key} differs between layers ({', '.join(sorted(kinds))})."
        )
    return kinds.pop()


def _config_of(text: str, path: Path) -> dict[str, Any]:
    config = strict_json(text, path)
    if not isinstance(config, dict) or not isinstance(config.get("model_name", ""), str):
        raise CorruptArtefact(f"{path} is not an object with a text as its model_name.")
    return config


def _only(paths: list[Path], folder: Path) -> Path:
    """The one candidate of a layer. Raises `DictionaryMismatch` when a release's several widths lie side by side."""
    if len(paths) > 1:
        some = ", ".join(str(path.relative_to(folder)) for path in paths[:4])
        raise DictionaryMismatch(
            f"{folder} holds several dictionaries for one layer ({some}{', …' if len(paths) > 4 else ''}). "
            "Keep one per layer, or list the files you want under transcoders: in a config.yaml."
        )
    if not paths:
        raise CorruptArtefact(f"{folder} has a layer without a params file.")
    return paths[0]


def _require(d: Dictionary, name: str, *, per_layer: bool, skip: bool) -> None:
    reasons = [
        "is cross-layer" if per_layer and is_cross_layer(d) else "",
        "has skip connections" if not skip and d.has_skip else "",
        "has other activations than jumprelu" if {p.activation.kind for p in d.parts} != {"jumprelu"} else "",
    ]
    found = [reason for reason in reasons if reason]
    if found:
        raise DictionaryMismatch(
            f"{name} cannot hold {d.name}: it {' and '.join(found)}. Use the native format."
        )


FORMATS.register(ONE)(Format(matches=matches_one, load=load_one, save=save_one))
FORMATS.register(TWO)(Format(matches=matches_two, load=load_two, save=save_two))
