"""crosslayer-coding's layout: a cross-layer transcoder as `cfg.json` and one safetensors file.

    encoder_module.encoders.{l}.weight (F, d), .bias_param (F)
    decoder_module.decoders.{s}->{t}.weight (d, F), .bias_param (d)      decoder_tying none: one for each pair
    decoder_module.decoders.{l}.weight, .bias_param                      per_source, per_target: one a layer
    decoder_module.skip_weights.{s}->{t} or .{l} (d, d)
    decoder_module.feature_offset.{t}, .feature_scale.{t} (F)            (a + offset) · scale is decoded, where a ≠ 0
    theta_manager.log_threshold (L, F)                                   jumprelu: passes from the threshold on

Weights are for normalised inputs and outputs: `norm_stats.json` beside them says how for `mean_std`. Sites are named
by module (`mlp_input_template`) or by hook (`tl_input_template`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.site import Site, hook_of_site_kind
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
from thoughtscope.dictionaries.formats.kept import Folder, files_of, write_files
from thoughtscope.dictionaries.formats.names import in_order, site_of_hook, site_of_module

NAME = "crosslayer-coding"
CONFIG, STATS, LATEST = "cfg.json", "norm_stats.json", "clt_checkpoint_latest.safetensors"
_WEIGHTS = re.compile(r"(clt|model|clt_checkpoint_(latest|\d+))\.safetensors")
_FILES = re.compile(rf"{CONFIG}|{STATS}|{_WEIGHTS.pattern}")
"""What a save replaces; everything else in the folder stays."""
MAX_LAYERS = 512
MAX_STATS = 2**26
"""Bytes of `norm_stats.json`: four numbers a layer and width, some twenty characters each."""
_EPS = 1e-6
"""What the library adds to standard deviations."""
_ENCODER, _DECODER, _SKIP, _LOG = (
    "encoder_module.encoders", "decoder_module.decoders", "decoder_module.skip_weights", "theta_manager.log_threshold",
)  # fmt: skip
_TYING = ("none", "per_source", "per_target")


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return (folder / CONFIG).is_file() and bool(_weights(folder))


def _weights(folder: Path) -> list[str]:
    return in_order(path.name for path in folder.glob("*.safetensors") if _WEIGHTS.fullmatch(path.name))


@dataclass(frozen=True)
class _Scale:
    """How a layer's inputs and outputs were normalised: `(x − mean) / size`; numbers, or one a width."""

    mean_in: Tensor
    size_in: Tensor
    mean_out: Tensor
    size_out: Tensor

    @property
    def plain(self) -> bool:
        return all(bool((mean == 0).all()) for mean in (self.mean_in, self.mean_out)) and all(
            bool((size == 1).all()) for size in (self.size_in, self.size_out)
        )


def load(folder: Path) -> Dictionary:
    """Opens the transcoder; of several checkpoints, the latest. Raises `CorruptArtefact` naming the file."""
    source, names = Folder(folder), _weights(folder)
    if not names:
        raise CorruptArtefact(f"{folder} has no {LATEST}.")
    config, path = source.json(CONFIG), folder / CONFIG
    file = source.tensors(LATEST if LATEST in names else names[-1])
    n_layers, tying = _whole(config, "num_layers", path), config.get("decoder_tying", "none")
    if tying not in _TYING:
        raise CorruptArtefact(f"{path}: decoder_tying {tying!r:.40} is not {', '.join(_TYING)}.")
    activation = _activation(config, path)
    _expect(file, config, n_layers, tying)
    reads, writes = (_sites(config, side, n_layers, path) for side in ("input", "output"))
    scales = _scales(source, config, n_layers, file)
    parts = tuple(_part(file, tying, layer, activation, reads, writes, scales) for layer in range(n_layers))
    model_name = config.get("model_name") or ""
    if not isinstance(model_name, str):
        raise CorruptArtefact(f"{path}: model_name is a text; got {model_name!r:.60}.")
    name = folder.resolve().name
    return Dictionary(
        name=name,
        scan=name,
        model_name=model_name,
        parts=parts,
        card=Card(foreign=source.kept(NAME, parts, model_name=model_name)),
    )


def _whole(config: Mapping[str, Any], key: str, path: Path) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= MAX_LAYERS:
        raise CorruptArtefact(f"{path}: {key} is a whole number from 1 to {MAX_LAYERS}; got {value!r:.40}.")
    return value


def _expect(file: TensorFile, config: Mapping[str, Any], n_layers: int, tying: str) -> None:
    """Raises for tensors that are missing, or of unknown meaning, for this configuration."""
    pairs = [f"{s}->{t}" for s in range(n_layers) for t in range(s, n_layers)]
    layers = [str(layer) for layer in range(n_layers)]
    decoders = pairs if tying == "none" else layers
    needed: dict[str, int | None] = {f"{_ENCODER}.{layer}.weight": 2 for layer in layers}
    needed |= {f"{_ENCODER}.{layer}.bias_param": 1 for layer in layers}
    needed |= {f"{_DECODER}.{each}.weight": 2 for each in decoders}
    needed |= {f"{_DECODER}.{each}.bias_param": 1 for each in decoders}
    if config.get("activation_fn", "jumprelu") == "jumprelu":
        needed[_LOG] = 2
    optional: dict[str, int | None] = {f"{_SKIP}.{each}": 2 for each in decoders}
    for kind in ("feature_offset", "feature_scale"):
        optional |= {f"decoder_module.{kind}.{layer}": 1 for layer in layers}
    expect_tensors(file.path, file, needed, optional)
    if _LOG in file and file[_LOG].shape[0] != n_layers:
        raise CorruptArtefact(f"{file.path}: {_LOG} has {file[_LOG].shape[0]} rows for {n_layers} layers.")


def _activation(config: Mapping[str, Any], path: Path) -> Activation:
    kind = config.get("activation_fn", "jumprelu")
    if kind in ("relu", "jumprelu"):
        return Activation(kind=kind)
    raise CorruptArtefact(
        f"{path}: activation_fn {kind!r:.40} cannot be read here: which features pass depends on the other tokens of a "
        "batch, or negative activations do. Convert it with the library's convert_batchtopk_to_jumprelu.py."
    )


def _sites(config: Mapping[str, Any], side: str, n_layers: int, path: Path) -> list[Site]:
    """The sites of all layers at one side, from the module's template or the hook's."""
    module, hook = config.get(f"mlp_{side}_template"), config.get(f"tl_{side}_template")
    for template in (module, hook):
        if template is not None and not (isinstance(template, str) and template.count("{}") == 1):
            raise CorruptArtefact(f"{path}: a template is a text with one {{}}; got {template!r:.60}.")
    if isinstance(module, str):
        base, _, end = module.rpartition(".")
        if end not in ("input", "output"):
            base, end = module, side
        return [
            site_of_module(base.replace("{}", str(layer)), output=end == "output", path=path)
            for layer in range(n_layers)
        ]
    if isinstance(hook, str):
        return [site_of_hook(hook.replace("{}", str(layer)), path) for layer in range(n_layers)]
    raise CorruptArtefact(
        f"{path} has no mlp_{side}_template. Write for example "
        f'"mlp_{side}_template": "model.layers.{{}}.mlp.{side}".'
    )


def _scales(source: Folder, config: Mapping[str, Any], n_layers: int, file: TensorFile) -> list[_Scale]:
    method = config.get("normalization_method", "none")
    if config.get("sqrt_d_model_normalize") or method in (
        "auto_sqrt_d_model",
        "estimated_mean_std_sqrt_d_model",
    ):
        method = "sqrt_d_model"
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    width = file[f"{_ENCODER}.0.weight"].shape[1]
    if method == "none":
        return [_Scale(zero, one, zero, one)] * n_layers
    if method == "sqrt_d_model":
        return [_Scale(zero, one / math.sqrt(width), zero, one / math.sqrt(width))] * n_layers
    if method not in ("mean_std", "auto", "estimated_mean_std"):
        raise CorruptArtefact(f"{source.path / CONFIG}: normalization_method {method!r:.40} is not known.")
    if not source.has(STATS):
        raise CorruptArtefact(
            f"{source.path / STATS} is missing: the weights are for normalised activations, and only that file says "
            "how they were normalised. It lies with the activations that the transcoder was trained on; copy it here."
        )
    stats = source.json(STATS, MAX_STATS)
    return [_scale(stats, layer, width, source.path / STATS) for layer in range(n_layers)]


def _scale(stats: Mapping[str, Any], layer: int, width: int, path: Path) -> _Scale:
    found = []
    for side in ("inputs", "targets"):
        try:
            given = stats[str(layer)][side]
            mean, std = (torch.tensor(given[key], dtype=torch.float32).double() for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):
            raise CorruptArtefact(f"{path} has no mean and std for the {side} of layer {layer}.") from None
        if mean.shape != (width,) or std.shape != (width,) or not bool((std >= 0).all()):
            raise CorruptArtefact(
                f"{path}: mean and std of the {side} of layer {layer} are {width} numbers, std ≥ 0."
            )
        found += [mean, std + _EPS]
    return _Scale(*found)


def _part(
    file: TensorFile, tying: str, source: int, activation: Activation, reads: list[Site], writes: list[Site],
    scales: list[_Scale],
) -> Part:  # fmt: skip
    """One layer's features, with what they write from there on, for activations as they are."""
    own = scales[source]
    W_enc, b_enc = file[f"{_ENCODER}.{source}.weight"], file[f"{_ENCODER}.{source}.bias_param"]
    if not own.plain:
        W = W_enc.double() / own.size_in
        b_enc = (b_enc.double() - W @ own.mean_in.expand(W.shape[1])).float()
        W_enc = W.float()
    W_dec, b_dec, offset = {}, {}, {}
    for target in range(source, len(writes)):
        site = writes[target]
        W_dec[site], bias = _decoder(file, tying, source, target, scales[target])
        if bias is not None:
            b_dec[site] = bias
        added = _maybe(file, f"decoder_module.feature_offset.{target}")
        if added is not None and bool(added.any()):
            offset[site] = added
    skip = _skip(file, tying, source, len(writes))
    if skip is not None and not own.plain:
        W = own.size_out.expand(skip.shape[0])[:, None] * skip.double() / own.size_in
        b_dec[writes[source]] = (b_dec[writes[source]].double() - W @ own.mean_in.expand(W.shape[1])).float()
        skip = W.float()
    return Part(
        name=str(source),
        activation=activation,
        W_enc={reads[source]: W_enc},
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        threshold=_threshold(file, source) if activation.kind == "jumprelu" else None,
        W_skip=skip,
        offset=offset,
    )


def _threshold(file: TensorFile, layer: int) -> Tensor:
    """What passes from the threshold on passes beyond the number before it."""
    theta = file[_LOG][layer].float().exp()
    return torch.nextafter(theta, torch.zeros_like(theta))


def _decoder(
    file: TensorFile, tying: str, source: int, target: int, scale: _Scale
) -> tuple[Tensor, Tensor | None]:
    """From a layer's features to what they write at another, and the constant that comes with it."""
    name = {"none": f"{source}->{target}", "per_source": str(source), "per_target": str(target)}[tying]
    weight = file[f"{_DECODER}.{name}.weight"].T
    # Tied to the target, all sources are decoded at once: the constant comes with the target's own.
    alone = tying == "per_target" and source != target
    bias = None if alone else file[f"{_DECODER}.{name}.bias_param"]
    factor = _maybe(file, f"decoder_module.feature_scale.{target}")
    if factor is not None and not bool((factor == 1).all()):
        weight = weight.float() * factor.float()[:, None]
    if scale.plain:
        return weight, bias
    weight = (weight.double() * scale.size_out).float()
    if bias is not None:
        mean = scale.mean_out if source == target else torch.zeros_like(scale.mean_out)
        bias = (bias.double() * scale.size_out + mean).float()
    return weight, bias


def _maybe(file: TensorFile, name: str) -> Tensor | None:
    return file[name] if name in file else None


def _skip(file: TensorFile, tying: str, source: int, n_layers: int) -> Tensor | None:
    if tying != "none":
        return _maybe(file, f"{_SKIP}.{source}")
    for target in range(source + 1, n_layers):
        other = _maybe(file, f"{_SKIP}.{source}->{target}")
        if other is not None and bool(other.any()):
            raise CorruptArtefact(
                f"{file.path} has a skip connection from layer {source} to {target}; a part has one to its own layer."
            )
    return _maybe(file, f"{_SKIP}.{source}->{source}")


# --- saving ----------------------------------------------------------------------------------------------------------


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the layout: a decoder for each pair of layers, for activations as they are.

    Raises `DictionaryMismatch` for what is no cross-layer transcoder of ReLU or JumpReLU, `NotWritten` for a full disk.
    """
    files = files_of(dictionary, NAME)
    written = None if files else _written(dictionary)
    with replaced_folder(folder, belongs=_FILES.fullmatch) as fresh:
        if files:
            write_files(files, fresh)
        if written:
            config, tensors = written
            write_safetensors(fresh / LATEST, tensors, {})
            write_text(fresh / CONFIG, json.dumps(config, indent=4))


def _written(d: Dictionary) -> tuple[dict[str, Any], dict[str, Tensor]]:
    n_layers = len(d.parts)
    kinds = {part.activation.kind for part in d.parts}
    shapes = {
        (part.n_features, *(W.shape[1] for W in (*part.W_enc.values(), *part.W_dec.values())))
        for part in d.parts
    }
    widths = {width for shape in shapes for width in shape[1:]}
    complete = all(
        [site.layer for site in part.writes] == [*range(number, n_layers)]
        and len(part.reads) == 1 and part.reads[0].layer == number and part.name == str(number)
        for number, part in enumerate(d.parts)
    )  # fmt: skip
    reasons = [
        ""
        if complete
        else "is not one transcoder for each layer from 0 on that writes to all layers from there on",
        "" if kinds in ({"relu"}, {"jumprelu"}) else f"has the activations {', '.join(sorted(kinds))}",
        ""
        if len(widths) == 1 and len({shape[0] for shape in shapes}) == 1
        else "has layers of different sizes",
        "has offsets" if any(part.offset for part in d.parts) else "",
        "normalises" if any(part.normalise for part in d.parts) else "",
    ]
    found = [reason for reason in reasons if reason]
    if found:
        raise DictionaryMismatch(
            f"{NAME} cannot hold {d.name}: it {' and '.join(found)}. Use the native format."
        )
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(d.parts):
        tensors |= _tensors(part, number, n_layers)
    if kinds == {"jumprelu"}:
        tensors[_LOG] = _log_thresholds(d)
    return _config(d, next(iter(shapes))[0], widths.pop(), kinds.pop()), tensors


def _tensors(part: Part, source: int, n_layers: int) -> dict[str, Tensor]:
    (W_enc,) = part.W_enc.values()
    tensors = {f"{_ENCODER}.{source}.weight": W_enc, f"{_ENCODER}.{source}.bias_param": part.b_enc}
    for site, W_dec in part.W_dec.items():
        at = f"{_DECODER}.{source}->{site.layer}"
        bias = part.b_dec.get(site)
        tensors[f"{at}.weight"] = W_dec.T
        tensors[f"{at}.bias_param"] = W_dec.new_zeros(W_dec.shape[1]) if bias is None else bias
        if part.W_skip is not None:
            own = site.layer == source
            tensors[f"{_SKIP}.{source}->{site.layer}"] = part.W_skip if own else torch.zeros_like(part.W_skip)
    return tensors


def _log_thresholds(d: Dictionary) -> Tensor:
    thresholds = torch.stack([part.threshold.float() for part in d.parts if part.threshold is not None])
    if not bool((thresholds > 0).all()):
        raise DictionaryMismatch(f"{NAME} keeps thresholds as logarithms; {d.name} has some that are 0.")
    return torch.nextafter(thresholds, torch.full_like(thresholds, torch.inf)).log()


def _config(d: Dictionary, n_features: int, width: int, activation: str) -> dict[str, Any]:
    return {
        "num_features": n_features,
        "num_layers": len(d.parts),
        "d_model": width,
        "model_name": d.model_name,
        "normalization_method": "none",
        "activation_fn": activation,
        "jumprelu_threshold": 0.03,
        "clt_dtype": str(d.parts[0].b_enc.dtype).removeprefix("torch."),
        "tl_input_template": "blocks.{}." + hook_of_site_kind(d.parts[0].reads[0].kind),
        "tl_output_template": "blocks.{}." + hook_of_site_kind(d.parts[0].writes[0].kind),
        "decoder_tying": "none",
        "enable_feature_offset": False,
        "enable_feature_scale": False,
        "skip_connection": any(part.W_skip is not None for part in d.parts),
    }


FORMATS.register(NAME)(Format(matches=matches, load=load, save=save))
