"""The layouts of Llama Scope and of the library that it was made with.

    hyperparams.json, checkpoints/final.safetensors
        encoder.weight (F, d), encoder.bias, decoder.weight (d, F), decoder.bias
    config.json, sae_weights.safetensors                    later versions
        W_E (d, F), b_E, W_D (F, d), b_D, activation_function.log_jumprelu_threshold,
        dataset_average_activation_norm.HOOK

Inputs were scaled to an average length of √d, and outputs back; with `sparsity_include_decoder_norm` a feature passes
by its pre-activation times the length of its decoder. The one threshold in `hyperparams.json` is for pre-activations of
unit decoders on inputs as they are; those in tensors are for scaled inputs.
"""

from __future__ import annotations

import json
import math
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
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.formats.base import (
    FORMATS,
    Format,
    expect_tensors,
    write_safetensors,
    write_text,
)
from thoughtscope.dictionaries.formats.folding import Coder, centred, jumping, unit_decoders
from thoughtscope.dictionaries.formats.kept import Folder, files_of, write_files
from thoughtscope.dictionaries.formats.names import hook_of_site, in_order, part_names, site_of_hook
from thoughtscope.dictionaries.formats.one_to_one import one_to_one

NAME = "llama-scope"
OLD, OLD_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
NEW, NEW_WEIGHTS = "config.json", "sae_weights.safetensors"
_FILES = re.compile(rf"([^/]+/){{0,2}}({OLD}|{OLD_WEIGHTS}|{NEW}|{NEW_WEIGHTS})")
"""What a save replaces; everything else in the folder stays."""
_LENGTH = "dataset_average_activation_norm"
_THRESHOLD = "activation_function.log_jumprelu_threshold"


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return bool(_folders(folder))


def _folders(folder: Path) -> list[tuple[str, bool]]:
    """The folders of single dictionaries, and whether each is in the first layout."""
    found: dict[str, bool] = {}
    for config, weights in ((OLD, OLD_WEIGHTS), (NEW, NEW_WEIGHTS)):
        for depth in range(2):
            for path in folder.glob("*/" * depth + config):
                if (path.parent / weights).is_file():
                    found.setdefault(path.parent.relative_to(folder).as_posix(), config == OLD)
    return [(name, found[name]) for name in in_order(found)]


def load(folder: Path) -> Dictionary:
    """Opens one dictionary, or those in the folders inside. Raises `CorruptArtefact` naming the file."""
    source = Folder(folder)
    found = _folders(folder)
    if not found:
        raise CorruptArtefact(f"{folder / OLD} or {folder / OLD_WEIGHTS} is missing.")
    coders, sites = [], []
    for name, old in found:
        at = "" if name == "." else f"{name}/"
        config, path = source.json(at + (OLD if old else NEW)), folder / at / (OLD if old else NEW)
        sites.append(_sites(config, path))
        file = source.tensors(at + (OLD_WEIGHTS if old else NEW_WEIGHTS))
        coders.append(_old(config, file, path) if old else _new(config, file, path))
        if coders[-1].normalise and sites[-1][0] != sites[-1][1]:
            raise CorruptArtefact(
                f"{path} scales each output by its own length, which is not known before it is there."
            )
    parts = tuple(
        coder.part(name, *pair) for name, coder, pair in zip(part_names(sites), coders, sites, strict=True)
    )
    name = folder.resolve().name
    model_name = (
        "meta-llama/Llama-3.1-8B" if re.match(r"Llama3_1-8B", found[0][0] if len(found) > 1 else name) else ""
    )
    return Dictionary(
        name=name,
        scan=name,
        model_name=model_name,
        parts=parts,
        card=Card(foreign=source.kept(NAME, parts, model_name=model_name)),
    )


def _sites(config: Mapping[str, Any], path: Path) -> tuple[Site, Site]:
    if config.get("sae_type", "sae") != "sae":
        raise CorruptArtefact(
            f'{path}: sae_type "{config["sae_type"]!s:.40}" cannot be read here; "sae" can.'
        )
    if config.get("use_glu_encoder"):
        raise CorruptArtefact(
            f"{path} has a gated linear unit (use_glu_encoder) for an encoder, which no part is."
        )
    read = site_of_hook(config.get("hook_point_in"), path)
    hook = config.get("hook_point_out")
    return read, read if hook is None else site_of_hook(hook, path)


def _flag(config: Mapping[str, Any], key: str, path: Path, *, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CorruptArtefact(f"{path}: {key} is true or false; got {value!r:.40}.")
    return value


def _positive(value: object, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CorruptArtefact(f"{path}: {key} is a number over 0; got {value!r:.40}.")
    return float(value)


def _activation(config: Mapping[str, Any], path: Path) -> Activation:
    kind = str(config.get("act_fn", "relu")).lower()
    if kind == "topk":
        return Activation(kind="topk", k=int(_positive(config.get("top_k", 50), "top_k", path)))
    if kind not in ("relu", "jumprelu"):
        raise CorruptArtefact(
            f'{path}: act_fn "{kind:.40}" cannot be read here; relu, jumprelu and topk can.'
        )
    return Activation(kind="relu")  # thresholds come with what they are for


def _old(config: Mapping[str, Any], file: TensorFile, path: Path) -> Coder:
    """The first layout: lengths folded in, then decoders of length 1, then the one threshold."""
    expect_tensors(
        file.path, file, {"encoder.weight": 2, "encoder.bias": 1, "decoder.weight": 2}, {"decoder.bias": 1}
    )
    activation = _activation(config, path)
    threshold = config.get("jump_relu_threshold", 0.0)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or threshold < 0:
        raise CorruptArtefact(f"{path}: jump_relu_threshold is a number of 0 or more; got {threshold!r:.40}.")
    jumps = str(config.get("act_fn", "relu")).lower() == "jumprelu" or (activation.competes and threshold > 0)
    W_dec = file["decoder.weight"].T
    coder = Coder(
        activation=Activation(kind="relu") if jumps else activation,
        W_enc=file["encoder.weight"],
        b_enc=file["encoder.bias"],
        W_dec=W_dec,
        b_dec=file["decoder.bias"] if "decoder.bias" in file else W_dec.new_zeros(W_dec.shape[1]),
    )
    normed = config.get("norm_activation", "token-wise")
    if normed == "dataset-wise":
        lengths = config.get(_LENGTH)
        lengths = lengths if isinstance(lengths, dict) else {}
        factor = {key: _positive(lengths.get(key), f"{_LENGTH}.{key}", path) for key in ("in", "out")}
        coder = _standardised(coder, factor["in"], factor["out"])
    else:
        coder = _tokenwise(coder, normed, path)
    if _flag(config, "apply_decoder_bias_to_pre_encoder", path, default=True) and "decoder.bias" in file:
        coder = centred(coder, coder.b_dec)
    if _flag(config, "sparsity_include_decoder_norm", path, default=True):
        coder = unit_decoders(coder)
    if not jumps:
        return coder
    return jumping(coder, torch.full((coder.W_enc.shape[0],), float(threshold)))


def _standardised(coder: Coder, length_in: float, length_out: float) -> Coder:
    """The same on inputs and outputs as they are, where it was for such of average length √d. Features are as large as
    the input makes them, as the library has them."""
    into = math.sqrt(coder.W_enc.shape[1]) / length_in
    out = math.sqrt(coder.W_dec.shape[1]) / length_out
    wide = torch.float64
    return replace(
        coder,
        b_dec=(coder.b_dec.to(wide) / out).float(),
        b_enc=(coder.b_enc.to(wide) / into).float(),
        W_dec=(coder.W_dec.to(wide) * (into / out)).float(),
        threshold=None if coder.threshold is None else (coder.threshold.to(wide) / into).float(),
    )


def _tokenwise(coder: Coder, normed: object, path: Path) -> Coder:
    if normed == "token-wise":
        return replace(coder, normalise="rms_norm")
    if normed in ("none", "inference", None):
        return coder
    raise CorruptArtefact(f'{path}: norm_activation "{normed!s:.40}" depends on the batch; no part does.')


def _new(config: Mapping[str, Any], file: TensorFile, path: Path) -> Coder:
    """The later layout."""
    activation = _activation(config, path)
    jumps = str(config.get("act_fn", "relu")).lower() == "jumprelu"
    hooks = [config.get("hook_point_in"), config.get("hook_point_out")]
    needed: dict[str, int | None] = {"W_E": 2, "b_E": 1, "W_D": 2}
    if jumps:
        needed[_THRESHOLD] = 1
    lengths: dict[str, int | None] = {f"{_LENGTH}.{hook}": None for hook in hooks}
    expect_tensors(file.path, file, needed, {"b_D": 1, **lengths})
    W_dec = file["W_D"]
    coder = Coder(
        activation=activation,
        W_enc=file["W_E"].T,
        b_enc=file["b_E"],
        W_dec=W_dec,
        b_dec=file["b_D"] if "b_D" in file else W_dec.new_zeros(W_dec.shape[1]),
    )
    if _flag(config, "sparsity_include_decoder_norm", path, default=True):
        coder = unit_decoders(coder)
    if jumps:
        coder = jumping(coder, file[_THRESHOLD].float().exp())
    normed = config.get("norm_activation", "dataset-wise")
    if normed != "dataset-wise":
        return _tokenwise(coder, normed, path)
    stored = [file[f"{_LENGTH}.{hook}"] if f"{_LENGTH}.{hook}" in file else None for hook in hooks]
    into, out = (_positive(None if each is None else float(each), _LENGTH, file.path) for each in stored)
    return _standardised(coder, into, out)


# --- saving ----------------------------------------------------------------------------------------------------------


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the later layout, a dictionary from another one; one from here as it was.

    Raises `DictionaryMismatch` for a part that the layout cannot hold, `NotWritten` for a full disk.
    """
    files = files_of(dictionary, NAME)
    written = [] if files else [(_at(dictionary, part), *_written(part)) for part in dictionary.parts]
    with replaced_folder(folder, belongs=_FILES.fullmatch) as fresh:
        if files:
            write_files(files, fresh)
        for at, config, tensors in written:
            write_safetensors(fresh / at / NEW_WEIGHTS, tensors)
            write_text(fresh / at / NEW, json.dumps(config, indent=4))


def _at(dictionary: Dictionary, part: Part) -> str:
    return "" if len(dictionary.parts) == 1 else part.name


def _written(part: Part) -> tuple[dict[str, Any], dict[str, Tensor]]:
    coder, read, write = one_to_one(part, NAME)
    kind = coder.activation.kind
    reasons = [
        f"is {kind}" if kind not in ("relu", "jumprelu", "topk") else "",
        "has a skip connection" if coder.W_skip is not None else "",
        f"normalises ({coder.normalise})"
        if coder.normalise == "layer_norm" or (coder.normalise and read != write)
        else "",
        f"is {coder.W_enc.shape[1]} wide in and {coder.W_dec.shape[1]} out"
        if coder.W_enc.shape[1] != coder.W_dec.shape[1]
        else "",
    ]
    for reason in filter(None, reasons):
        raise DictionaryMismatch(
            f"{NAME} cannot hold part {part.name}, which {reason}. Use the native format."
        )
    hooks = hook_of_site(read), hook_of_site(write)
    config: dict[str, Any] = {
        "sae_type": "sae",
        "d_model": coder.W_enc.shape[1],
        "expansion_factor": coder.W_enc.shape[0] / coder.W_enc.shape[1],
        "use_decoder_bias": True,
        "act_fn": kind,
        "norm_activation": "token-wise" if coder.normalise else "inference",
        "sparsity_include_decoder_norm": False,
        "top_k": coder.activation.k or 50,
        "hook_point_in": hooks[0],
        "hook_point_out": hooks[1],
        "use_glu_encoder": False,
    }
    tensors = {"W_E": coder.W_enc.T, "b_E": coder.b_enc, "W_D": coder.W_dec, "b_D": coder.b_dec}
    tensors |= {f"{_LENGTH}.{hook}": torch.tensor(math.sqrt(coder.W_enc.shape[1])) for hook in hooks}
    if coder.threshold is not None:
        if not bool((coder.threshold > 0).all()):
            raise DictionaryMismatch(
                f"{NAME} keeps thresholds as logarithms; part {part.name} has some that are 0."
            )
        tensors[_THRESHOLD] = coder.threshold.float().log()
    return config, tensors


FORMATS.register(NAME)(Format(matches=matches, load=load, save=save))
