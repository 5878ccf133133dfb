"""SAELens' layout: a folder with `cfg.json` and `sae_weights.safetensors` for each autoencoder or transcoder.

    W_enc (d, F), W_dec (F, d_out), b_enc, b_dec          standard, topk, abstopk, transcoder
    threshold (F)                                         jumprelu, jumprelu_transcoder; older: log_threshold
    b_gate, b_mag, r_mag (F) for b_enc                    gated
    W_skip (d_out, d)                                     skip_transcoder, jumprelu_skip_transcoder
    topk_threshold                                        batchtopk and matryoshka_batchtopk before their end

`cfg.json` has the architecture, what is done to the input, and `metadata` with the hook names; before version 6 it was
flat. Batch-wise kinds are saved as jumprelu once trained; their checkpoints are read as what they will be.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.site import Site
from thoughtscope.core.tensors import TensorFile
from thoughtscope.dictionaries.activation import Activation, Kind
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.formats.base import (
    FORMATS,
    Format,
    expect_tensors,
    write_safetensors,
    write_text,
)
from thoughtscope.dictionaries.formats.folding import Coder, centred, gated, jumping, rescaled, unit_decoders
from thoughtscope.dictionaries.formats.kept import Folder, files_of, write_files
from thoughtscope.dictionaries.formats.names import hook_of_site, in_order, part_names, site_of_hook
from thoughtscope.dictionaries.formats.one_to_one import one_to_one, widest
from thoughtscope.dictionaries.normalise import Normalise

NAME = "sae-lens"
CONFIG, WEIGHTS, SCALER = "cfg.json", "sae_weights.safetensors", "activation_scaler.json"
_EXTRA_TEXT, _EXTRA_TENSORS = ("runner_cfg.json",), ("sparsity.safetensors",)
_FILES = re.compile(rf"([^/]+/){{0,3}}({CONFIG}|{WEIGHTS}|{SCALER}|runner_cfg\.json|sparsity\.safetensors)")
"""What a save replaces; everything else in the folder stays."""
_PLAIN = {"W_enc": 2, "W_dec": 2, "b_enc": 1, "b_dec": 1}
_GATED = {"W_enc": 2, "W_dec": 2, "b_dec": 1, "b_gate": 1, "b_mag": 1, "r_mag": 1}
_NORMALISE: dict[str, Normalise] = {"layer_norm": "layer_norm", "constant_norm_rescale": "rms_norm"}
_BATCHWISE = ("batchtopk", "matryoshka_batchtopk")
_TOPK: dict[str, Kind] = {"topk": "topk", "abstopk": "abs_topk"}
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
_KNOWN = ("standard", "gated", "jumprelu", *_TOPK, *_BATCHWISE, *_TRANSCODERS)
_WHY_NOT = {
    "temporal": "it attends to earlier positions, so its features are no function of one position's vector",
    "matching_pursuit": "it encodes step by step with its decoder, which is no linear encoder with an activation",
}
_VERSION = "6.0.0"
"""The first one whose `cfg.json` is as written here."""


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return bool(_folders(folder))


def _folders(folder: Path) -> list[str]:
    """The folders of single dictionaries within one, itself included, in the order of their layers."""
    found = [path for depth in range(4) for path in folder.glob("*/" * depth + WEIGHTS)]
    inside = [
        path.parent.relative_to(folder).as_posix() for path in found if (path.parent / CONFIG).is_file()
    ]
    return in_order(inside)


def load(folder: Path) -> Dictionary:
    """Opens one dictionary, or every one in the folders inside. Raises `CorruptArtefact` naming the file."""
    source = Folder(folder)
    names = _folders(folder)
    if not names:
        raise CorruptArtefact(f"{folder / WEIGHTS} or {folder / CONFIG} is missing.")
    read = [_read(source, "" if name == "." else f"{name}/") for name in names]
    sites = [each[1] for each in read]
    parts = tuple(
        coder.part(name, *pair) for name, (coder, pair, _) in zip(part_names(sites), read, strict=True)
    )
    metadata = read[0][2]
    model_name = metadata.get("model_name") or ""
    if not isinstance(model_name, str):
        raise CorruptArtefact(f"{folder / CONFIG}: model_name is a text; got {model_name!r:.60}.")
    scan = metadata.get("neuronpedia_id")
    name = folder.resolve().name
    return Dictionary(
        name=name,
        scan=scan if isinstance(scan, str) and scan and len(parts) == 1 else name,
        model_name=model_name,
        parts=parts,
        card=Card(foreign=source.kept(NAME, parts, model_name=model_name)),
    )


def _read(source: Folder, at: str) -> tuple[Coder, tuple[Site, Site], dict[str, Any]]:
    """One dictionary, the sites that it reads and writes, and what is known about it."""
    path = source.path / f"{at}{CONFIG}"
    config = _upgraded(source.json(f"{at}{CONFIG}"), path)
    file = source.tensors(f"{at}{WEIGHTS}")
    for name in _EXTRA_TEXT:
        if source.has(at + name):
            source.text(at + name)
    for name in _EXTRA_TENSORS:
        if source.has(at + name):
            source.tensors(at + name)
    architecture, metadata = config.get("architecture"), config["metadata"]
    if architecture not in _KNOWN:
        why = _WHY_NOT.get(str(architecture), f"the architectures that can be are {', '.join(_KNOWN)}")
        raise CorruptArtefact(f'{path}: architecture "{architecture!s:.60}" cannot be read here: {why}.')
    for key in ("hook_head_index", "hook_head_index_out"):
        if metadata.get(key) is not None:
            raise CorruptArtefact(
                f"{path} is for one head ({key} {metadata[key]!r:.20}); a site holds all heads, so no part is it."
            )
    read = site_of_hook(metadata.get("hook_name"), path)
    write = site_of_hook(metadata.get("hook_name_out"), path) if architecture in _TRANSCODERS else read
    return _coder(source, at, file, architecture, config), (read, write), metadata


def _upgraded(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """A configuration of any version in the names of version 6. Raises `CorruptArtefact`."""
    metadata = config.get("metadata")
    if isinstance(metadata, dict):
        return config
    if metadata is not None:
        raise CorruptArtefact(f"{path}: metadata is no object.")
    renamed = {
        "hook_point": "hook_name",
        "hook_point_head_index": "hook_head_index",
        "activation_fn_str": "activation_fn",
    }
    flat = {renamed.get(key, key): value for key, value in config.items()}
    arguments = flat.get("activation_fn_kwargs") or {}
    activation = flat.get("activation_fn", "relu")
    if activation not in ("relu", "topk") or not isinstance(arguments, dict):
        raise CorruptArtefact(f'{path}: activation_fn "{activation!s:.40}" is not relu or topk.')
    if activation == "topk":
        flat |= {"architecture": "topk", "k": arguments.get("k")}
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = (
            "expected_average_only_in" if flat["normalize_activations"] else "none"
        )
    flat.setdefault("architecture", "standard")
    return flat | {"metadata": flat}


def _coder(source: Folder, at: str, file: TensorFile, architecture: str, config: Mapping[str, Any]) -> Coder:
    """What the tensors compute, as SAELens does it with this configuration."""
    path = source.path / f"{at}{CONFIG}"
    tensors = _checked(file, architecture)
    coder = Coder(
        activation=_activation(architecture, config, path),
        W_enc=tensors["W_enc"].T,
        b_enc=tensors["b_mag" if architecture == "gated" else "b_enc"],
        W_dec=tensors["W_dec"],
        b_dec=tensors["b_dec"],
        W_skip=tensors.get("W_skip"),
        normalise=_normalise(config, path),
    )
    if architecture == "gated":
        coder = gated(coder, tensors["r_mag"], tensors["b_gate"])
    if architecture not in _TRANSCODERS and _flag(config, "apply_b_dec_to_input", path, default=True):
        coder = centred(coder, tensors["b_dec"])
    rescaling = _flag(config, "rescale_acts_by_decoder_norm", path, default=architecture in _BATCHWISE)
    if architecture in (*_BATCHWISE, *_TOPK) and rescaling:
        coder = unit_decoders(coder)  # before the threshold, which is for what is scaled
    threshold = _threshold(tensors, architecture)
    if threshold is not None:
        coder = jumping(coder, threshold)
    return _scaled(source, at, _finetuned(coder, tensors, config, path), config)


def _activation(architecture: str, config: Mapping[str, Any], path: Path) -> Activation:
    if architecture not in _TOPK:
        return Activation(kind="relu")  # what thresholds make of it comes with them
    return Activation(kind=_TOPK[architecture], k=_number(config, "k", path))


def _finetuned(coder: Coder, tensors: Mapping[str, Tensor], config: Mapping[str, Any], path: Path) -> Coder:
    """With the factors by which older versions multiplied activations before they were decoded."""
    scale = tensors.get("scaling_factor")
    if scale is None or bool((scale == 1).all()):
        return coder
    if not config.get("finetuning_scaling_factor"):
        raise CorruptArtefact(
            f"There is a scaling_factor beside {path}, which says no finetuning_scaling_factor."
        )
    return replace(coder, W_dec=coder.W_dec.float() * scale.float()[:, None])


def _checked(file: TensorFile, architecture: str) -> dict[str, Tensor]:
    """The tensors of an architecture, all there and of the right rank."""
    needed = dict(_GATED if architecture == "gated" else _PLAIN)
    if "jumprelu" in architecture and "log_threshold" not in file:
        needed["threshold"] = 1
    elif "jumprelu" in architecture:
        needed["log_threshold"] = 1
    if "skip" in architecture:
        needed["W_skip"] = 2
    if architecture in _BATCHWISE:
        needed["topk_threshold"] = 0
    expect_tensors(file.path, file, needed, {"scaling_factor": 1})
    return dict(file)


def _threshold(tensors: Mapping[str, Tensor], architecture: str) -> Tensor | None:
    if "log_threshold" in tensors:
        return tensors["log_threshold"].exp()
    if architecture in _BATCHWISE:
        return torch.full_like(tensors["b_enc"], float(tensors["topk_threshold"]), dtype=torch.float32)
    return tensors.get("threshold")


def _normalise(config: Mapping[str, Any], path: Path) -> Normalise | None:
    found = config.get("normalize_activations") or "none"
    if found in ("none", "expected_average_only_in"):
        return None
    if found not in _NORMALISE:
        raise CorruptArtefact(
            f'{path}: normalize_activations "{found!s:.40}" cannot be read here. SAELens folds it into the '
            "weights when training ends; save the trained one (save_inference_model)."
        )
    return _NORMALISE[found]


def _scaled(source: Folder, at: str, coder: Coder, config: Mapping[str, Any]) -> Coder:
    """With the factor by which inputs were multiplied in training folded in, where it has not been."""
    if config.get("normalize_activations") != "expected_average_only_in":
        return coder
    path = source.path / f"{at}{SCALER}"
    factor = source.json(f"{at}{SCALER}").get("scaling_factor") if source.has(f"{at}{SCALER}") else None
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
        raise CorruptArtefact(
            f"{path} is missing or without a scaling_factor: {CONFIG} says that inputs are scaled to an average "
            f'length (expected_average_only_in), and only that file says by what. Write {{"scaling_factor": …}} there.'
        )
    return rescaled(coder, read=float(factor), write=1 / float(factor))


def _number(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
        raise CorruptArtefact(f"{path}: {key} is a whole number of 1 or more; got {value!r:.40}.")
    return int(value)


def _flag(config: Mapping[str, Any], key: str, path: Path, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CorruptArtefact(f"{path}: {key} is true or false; got {value!r:.40}.")
    return value


# --- saving ----------------------------------------------------------------------------------------------------------


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the layout: one part into the folder itself, several into folders named by the hook that they read.

    Raises `DictionaryMismatch` for a part that the layout cannot hold, `NotWritten` for a full disk.
    """
    files = files_of(dictionary, NAME)
    written = {} if files else _written(dictionary)
    with replaced_folder(folder, belongs=_FILES.fullmatch) as fresh:
        if files:
            write_files(files, fresh)
        for at, (config, tensors) in written.items():
            write_safetensors(fresh / at / WEIGHTS, tensors, {})
            write_text(fresh / at / CONFIG, json.dumps(config))


def _written(dictionary: Dictionary) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    """By folder: the configuration and the tensors of each part."""
    found: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {}
    for part in dictionary.parts:
        coder, read, write = one_to_one(part, NAME)
        at = "" if len(dictionary.parts) == 1 else hook_of_site(read)
        if at in found:
            raise DictionaryMismatch(
                f"{NAME} has one folder a hook, and two parts of {dictionary.name} read {read}. Save them one by one."
            )
        found[at] = (_config(dictionary, coder, read, write), _tensors(coder, part))
    return found


def _architecture(coder: Coder, transcoder: bool, part: str) -> str:
    """What SAELens calls it. Raises `DictionaryMismatch`."""
    kind, skip = coder.activation.kind, coder.W_skip is not None
    if transcoder and kind in ("relu", "jumprelu"):
        jump, skips = ("jumprelu_" if kind == "jumprelu" else ""), ("skip_" if skip else "")
        return f"{jump}{skips}transcoder"
    names = {"relu": "standard", "jumprelu": "jumprelu", "topk": "topk", "abs_topk": "abstopk"}
    if transcoder or skip or kind not in names:
        what = f"{'transcoder' if transcoder else 'autoencoder'}{' with a skip connection' if skip else ''}"
        raise DictionaryMismatch(f"{NAME} has no {kind} {what}, which part {part} is. Use the native format.")
    return names[kind]


def _config(dictionary: Dictionary, coder: Coder, read: Site, write: Site) -> dict[str, Any]:
    transcoder = read != write
    architecture = _architecture(coder, transcoder, str(read))
    normalise = {value: key for key, value in _NORMALISE.items()}
    config: dict[str, Any] = {
        "d_in": coder.W_enc.shape[1],
        "d_sae": coder.W_enc.shape[0],
        "dtype": str(widest(coder)).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": normalise[coder.normalise] if coder.normalise else "none",
        "reshape_activations": "hook_z" if read.kind == "z" else "none",
        "metadata": {
            "sae_lens_version": _VERSION,
            "sae_lens_training_version": None,
            "model_name": dictionary.model_name,
            "hook_name": hook_of_site(read),
            "hook_head_index": None,
            "prepend_bos": True,
            **({"hook_name_out": hook_of_site(write)} if transcoder else {}),
        },
        "architecture": architecture,
    }
    if transcoder:
        config["d_out"] = coder.W_dec.shape[1]
    if coder.activation.k is not None:
        config |= {"k": coder.activation.k, "rescale_acts_by_decoder_norm": False}
    return config


def _tensors(coder: Coder, part: Part) -> dict[str, Tensor]:
    tensors = {"W_enc": coder.W_enc.T, "b_enc": coder.b_enc, "W_dec": coder.W_dec, "b_dec": coder.b_dec}
    if coder.threshold is not None:
        tensors["threshold"] = coder.threshold
    if coder.W_skip is not None:
        tensors["W_skip"] = coder.W_skip
    return tensors


FORMATS.register(NAME)(Format(matches=matches, load=load, save=save))
