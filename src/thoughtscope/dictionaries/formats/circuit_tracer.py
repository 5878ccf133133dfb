"""circuit-tracer's layouts: `config.yaml` beside one file per layer (transcoders) or two (cross-layer transcoder).

    layer_{i}.safetensors    W_enc (F, d), W_dec (F, d), b_enc, b_dec; activation_function.threshold; W_skip (d, d); k
    W_enc_{i}.safetensors    W_enc_{i} (F, d), b_enc_{i}, b_dec_{i}; threshold_{i}
    W_dec_{i}.safetensors    W_dec_{i} (F, n_layers - i, d)

`config.yaml` may instead list files under `transcoders:`, also Gemma Scope's own. Hook names mean the sites of
`core.site`. Without thresholds the activation is ReLU, unless the configuration says `activation: topk`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.site import hook_of_site_kind, site_kind_of_hook
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
    strict_yaml,
    write_safetensors,
    write_text,
)
from thoughtscope.dictionaries.formats.gemma_scope import read_npz_layer, read_safetensors_layer
from thoughtscope.dictionaries.transcoders import LayerWeights, is_cross_layer, layer_weights, transcoders

NAME = "circuit-tracer"
_THRESHOLD = "activation_function.threshold"
_FILES = re.compile(r"config\.yaml|(layer|W_enc|W_dec)_\d+\.safetensors")
"""What a save replaces; everything else in the folder stays."""


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return (folder / "config.yaml").is_file()


def load(folder: Path) -> Dictionary:
    """Opens either layout; weights stay on disk. Raises `CorruptArtefact` naming the file."""
    text, config = read_config(folder)
    kind = config["model_kind"]
    if kind == "cross_layer_transcoder" and "transcoders" not in config:
        layers, metadata = _cross_layer(folder)
    elif kind in ("transcoder_set", "cross_layer_transcoder"):
        layers, metadata = _per_layer(folder, config)
    else:
        raise CorruptArtefact(
            f'{folder / "config.yaml"}: model_kind "{kind}" is not transcoder_set or cross_layer_transcoder.'
        )
    if len({weights.threshold is None for weights in layers}) > 1:
        raise CorruptArtefact(f"{folder}: some layers have thresholds and some have none.")
    name = str(config.get("scan") or folder.resolve().name)
    for key in ("scan", "model_name"):
        if not isinstance(config.get(key), str | None):
            raise CorruptArtefact(f"{folder / 'config.yaml'}: {key} is a text; got {config[key]!r:.60}.")
    return transcoders(
        name=name,
        model_name=config.get("model_name") or "",
        read=site_kind_of_hook(config["feature_input_hook"]),
        write=site_kind_of_hook(config["feature_output_hook"]),
        activation=_activation(folder, config, layers, metadata),
        layers=layers,
        card=Card(foreign={"format": NAME, "config": text, "files": metadata}),
    )


def read_config(folder: Path) -> tuple[str, dict[str, Any]]:
    """`config.yaml` as text and as a table. Raises `CorruptArtefact` when it is unreadable or lacks a key."""
    path = folder / "config.yaml"
    text = read_text(path)
    config = strict_yaml(text, path)
    needed = ("model_kind", "feature_input_hook", "feature_output_hook")
    missing = [key for key in needed if not isinstance(config, dict) or not isinstance(config.get(key), str)]
    if missing:
        raise CorruptArtefact(f"{path} lacks {', '.join(missing)}.")
    return text, config


def _per_layer(folder: Path, config: Mapping[str, Any]) -> tuple[list[LayerWeights], list[dict[str, Any]]]:
    if "transcoders" in config:
        entries = config["transcoders"]
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise CorruptArtefact(f"{folder / 'config.yaml'}: transcoders is a list of files.")
        paths = [_listed(folder, entry) for entry in entries]
    else:
        found = numbered(folder.glob("layer_*.safetensors"), r"layer_(\d+)\.safetensors")
        paths = [entry[0] for entry in every_layer(found, folder, "layer_{}.safetensors")]
    if not paths:
        raise CorruptArtefact(f"{folder / 'layer_0.safetensors'} is missing.")
    cross = config["model_kind"] == "cross_layer_transcoder"
    read = [_read_layer(path, layer if cross else None) for layer, path in enumerate(paths)]
    return [weights for weights, _ in read], [metadata for _, metadata in read]


def _listed(folder: Path, entry: str) -> Path:
    """A file of the `transcoders:` list: on the hub, or relative to the configuration."""
    if entry.startswith("hf://"):
        from thoughtscope.dictionaries.hub import download_file

        return download_file(entry)
    path = folder / entry
    if "\0" in entry or not os.path.isfile(path):
        raise CorruptArtefact(f"{path} is missing; {folder / 'config.yaml'} lists it.")
    return path


def _read_layer(path: Path, layer: int | None) -> tuple[LayerWeights, dict[str, Any]]:
    """One layer in circuit-tracer's keys, or in Gemma Scope's."""
    if path.suffix == ".npz":
        return read_npz_layer(path)[0], {}
    file = TensorFile(path)
    if "w_enc" in file:
        return read_safetensors_layer(file, layer)[0], {}
    ranks = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1}
    expect_tensors(path, file, ranks, {_THRESHOLD: 1, "W_skip": 2, "k": None})
    if "k" in file and file["k"].numel() != 1:
        raise CorruptArtefact(f"{path}: k has {file['k'].numel()} numbers; one is meant.")
    weights = LayerWeights(
        W_enc=file["W_enc"],
        b_enc=file["b_enc"],
        decoder=file["W_dec"].unsqueeze(1),
        b_dec=file["b_dec"],
        threshold=file[_THRESHOLD] if _THRESHOLD in file else None,
        W_skip=file["W_skip"] if "W_skip" in file else None,
    )
    k = {"k": int(file["k"]), "k_dtype": str(file["k"].dtype).removeprefix("torch.")} if "k" in file else {}
    return weights, {"metadata": file.metadata(), **k}


def _cross_layer(folder: Path) -> tuple[list[LayerWeights], list[dict[str, Any]]]:
    found = numbered(folder.glob("W_enc_*.safetensors"), r"W_enc_(\d+)\.safetensors")
    decoders = numbered(folder.glob("W_dec_*.safetensors"), r"W_dec_(\d+)\.safetensors")
    last = max([*found, *decoders], default=0)
    layers, files = [], []
    for layer in range(last + 1):
        for name in ("W_enc", "W_dec"):
            if layer not in (found if name == "W_enc" else decoders):
                raise CorruptArtefact(
                    f"{folder / f'{name}_{layer}.safetensors'} is missing: layers 0 to {last} each need one."
                )
        encoder, decoder = TensorFile(found[layer][0]), TensorFile(decoders[layer][0])
        names = [f"{name}_{layer}" for name in ("W_enc", "b_enc", "b_dec")]
        ranks = dict(zip(names, (2, 1, 1), strict=True))
        expect_tensors(encoder.path, encoder, ranks, {f"threshold_{layer}": 1})
        expect_tensors(decoder.path, decoder, {f"W_dec_{layer}": 3})
        W_enc, b_enc, b_dec = (encoder[name] for name in names)
        threshold = encoder[f"threshold_{layer}"] if f"threshold_{layer}" in encoder else None
        layers.append(
            LayerWeights(
                W_enc=W_enc, b_enc=b_enc, decoder=decoder[f"W_dec_{layer}"], b_dec=b_dec, threshold=threshold
            )
        )
        files.append({"encoder": encoder.metadata(), "decoder": decoder.metadata()})
    return layers, files


def _activation(
    folder: Path, config: Mapping[str, Any], layers: list[LayerWeights], files: list[dict[str, Any]]
) -> Activation:
    named, thresholds = config.get("activation"), layers[0].threshold is not None
    stored_k = {entry["k"] for entry in files if "k" in entry}
    if named == "topk" or (named is None and stored_k):
        k = config.get("k") or (stored_k.pop() if len(stored_k) == 1 else None)
        if type(k) is not int:
            raise CorruptArtefact(
                f"{folder / 'config.yaml'} says activation: topk and needs one k: <number>."
            )
        if thresholds:
            raise CorruptArtefact(f"{folder} has thresholds and says activation: topk.")
        return Activation(kind="topk", k=k)
    if named == "relu" and thresholds:
        raise CorruptArtefact(f"{folder} has thresholds and says activation: relu.")
    if named not in (None, "relu", "jump_relu", "jumprelu"):
        raise CorruptArtefact(
            f'{folder / "config.yaml"}: activation "{named}" is not relu, jump_relu or topk.'
        )
    return Activation(kind="jumprelu" if thresholds else "relu")


# --- saving --------------------------------------------------------------------------------------------------------


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the layout, in place of an older one as a whole.

    Raises `DictionaryMismatch` for a cross-layer dictionary with a skip or TopK, `NotWritten` for a full disk.
    """
    d, layers, cross = dictionary, layer_weights(dictionary), is_cross_layer(dictionary)
    if (_activation_of(d).kind == "topk" or d.has_skip) and cross:
        raise DictionaryMismatch(
            f"circuit-tracer's cross-layer layout has no skip connections and no TopK; {d.name} has. Use native."
        )
    foreign = d.card.foreign
    own = foreign if foreign.get("format") == NAME and "transcoders:" not in foreign["config"] else {}
    files = own.get("files", [{} for _ in layers])
    with replaced_folder(folder, belongs=_FILES.fullmatch) as fresh:
        for layer, weights in enumerate(layers):
            (_save_cross if cross else _save_layer)(fresh, layer, weights, files[layer])
        write_text(fresh / "config.yaml", own.get("config") or _config(d))


def _activation_of(dictionary: Dictionary) -> Activation:
    """The activation of all layers. Raises `DictionaryMismatch` when they differ: the layout names one."""
    kinds = {part.activation for part in dictionary.parts}
    if len(kinds) > 1:
        raise DictionaryMismatch(
            f"{NAME} has one activation for all layers; {dictionary.name} has {len(kinds)}."
        )
    activation = kinds.pop()
    if activation.kind not in ("relu", "jumprelu", "topk"):
        raise DictionaryMismatch(f"{NAME} has no {activation.kind}, which {dictionary.name} has. Use native.")
    return activation


def _save_layer(folder: Path, layer: int, weights: LayerWeights, file: Mapping[str, Any]) -> None:
    tensors: dict[str, Tensor] = {
        "W_enc": weights.W_enc,
        "W_dec": weights.decoder.squeeze(1),
        "b_enc": weights.b_enc,
        "b_dec": weights.b_dec,
    }
    if weights.threshold is not None:
        tensors[_THRESHOLD] = weights.threshold
    if weights.W_skip is not None:
        tensors["W_skip"] = weights.W_skip
    if "k" in file:
        import torch

        tensors["k"] = tensor(file["k"], dtype=getattr(torch, file["k_dtype"]))
    write_safetensors(folder / f"layer_{layer}.safetensors", tensors, file.get("metadata"))


def _save_cross(folder: Path, layer: int, weights: LayerWeights, file: Mapping[str, Any]) -> None:
    encoder = {
        f"W_enc_{layer}": weights.W_enc,
        f"b_enc_{layer}": weights.b_enc,
        f"b_dec_{layer}": weights.b_dec,
    }
    if weights.threshold is not None:
        encoder[f"threshold_{layer}"] = weights.threshold
    write_safetensors(folder / f"W_enc_{layer}.safetensors", encoder, file.get("encoder"))
    write_safetensors(
        folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": weights.decoder}, file.get("decoder")
    )


def _config(d: Dictionary) -> str:
    import yaml

    config: dict[str, Any] = {
        "model_name": d.model_name,
        "model_kind": "cross_layer_transcoder" if is_cross_layer(d) else "transcoder_set",
        "feature_input_hook": hook_of_site_kind(d.reads[0].kind),
        "feature_output_hook": hook_of_site_kind(d.writes[0].kind),
        "scan": d.scan,
    }
    activation = _activation_of(d)
    if activation.kind == "topk":
        config |= {"activation": "topk", "k": activation.k}
    return yaml.safe_dump(config, sort_keys=False)


FORMATS.register(NAME)(Format(matches=matches, load=load, save=save))
