"""The same for libraries that go from layer to layer: sparsify, clt-training and crosslayer-coding."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.foreign_files import CASES as CASES
from tests.foreign_files import Case, D, F, K, case, doubled, rand, topk
from tests.foreign_files import rows_for as rows_for

# --- sparsify and clt-training ---------------------------------------------------------------------------------------


def sparsify_acts(pre: Tensor, activation: str) -> Tensor:
    pre = pre.relu()
    if activation == "topk":
        return topk(pre, K)
    values, index = pre.unflatten(-1, (K, -1)).max(-1)
    index = index + torch.arange(0, F, F // K)
    return torch.zeros_like(pre).scatter(-1, index, values)


def sparsify_config(**more: Any) -> dict[str, Any]:
    return {
        "activation": "topk", "expansion_factor": F // D, "normalize_decoder": True, "num_latents": 0, "k": K,
        "multi_topk": False, "skip_connection": False, "transcode": False,
    } | more  # fmt: skip


@case("sparsify topk")
@case("sparsify groupmax", activation="groupmax")
@case("sparsify transcoder", transcode=True)
@case("sparsify skip transcoder", transcode=True, skip_connection=True)
def write_sparsify(
    folder: Path, dtype: torch.dtype, module: str = "layers.1.mlp", run: bool = True, **more: Any
) -> Case:
    inside = folder / module
    inside.mkdir(parents=True)
    config = sparsify_config(**more)
    tensors = {
        "encoder.weight": rand(F, D, dtype=dtype), "encoder.bias": rand(F, dtype=dtype, size=0.5),
        "W_dec": rand(F, D, dtype=dtype), "b_dec": rand(D, dtype=dtype),
    }  # fmt: skip
    if config["skip_connection"]:
        tensors["W_skip"] = rand(D, D, dtype=dtype)
    save_file(tensors, inside / "sae.safetensors", {"format": "pt"})
    (inside / "cfg.json").write_text(json.dumps(config | {"d_in": D}))
    if run:
        (folder / "config.json").write_text(json.dumps({"model": "org/tiny", "hookpoints": [module]}))
    t, layer = doubled(tensors), module.split(".")[1]
    written = f"mlp_raw.{layer}" if module.endswith("mlp") else f"resid_post.{layer}"
    read = (
        (f"mlp_in.{layer}" if module.endswith("mlp") else f"resid_pre.{layer}")
        if config["transcode"]
        else written
    )

    def forward(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = x[read] if config["transcode"] else x[read] - t["b_dec"]
        acts = sparsify_acts(given @ t["encoder.weight"].T + t["encoder.bias"], config["activation"])
        skip = x[read] @ t["W_skip"].T if "W_skip" in t else 0
        return {written: acts @ t["W_dec"] + t["b_dec"] + skip}

    return Case("sparsify", (read,), forward)


@case("sparsify, several")
def write_run(folder: Path, dtype: torch.dtype) -> Case:
    """One run with the residual stream of two blocks, of which the second has two digits."""
    cases = [write_sparsify(folder, dtype, module, run=False) for module in ("layers.2", "layers.10")]
    return Case(
        "sparsify", tuple(read for each in cases for read in each.reads),
        lambda x: {site: y for each in cases for site, y in each.forward(x).items()},
    )  # fmt: skip


@case("clt-training, a decoder each", coalesce="none")
@case("clt-training, a decoder each, divided", coalesce="none", divide=True)
@case("clt-training, tied to the source", coalesce="none", per_source=True)
@case("clt-training, tied to the target", coalesce="concat")
@case("clt-training, tied to the target, normalised", coalesce="concat", normalize=True)
@case("clt-training, a decoder each at the target", coalesce="per-layer")
@case("clt-training, two targets at most", coalesce="per-layer", n_cross=2)
def write_clt_training(
    folder: Path, dtype: torch.dtype, *, coalesce: str, divide: bool = False, per_source: bool = False,
    normalize: bool = False, n_cross: int = 3,
) -> Case:  # fmt: skip
    layers, states, configs = 3, [], []
    for layer in range(layers):
        n_targets = min(n_cross, layers - layer)
        sources = sum(min(n_cross, layers - each) + each > layer for each in range(layer + 1))
        config = sparsify_config(
            transcode=True, skip_connection=coalesce != "none", n_targets=n_targets, n_sources=sources,
            normalize_io=normalize, divide_cross_layer=divide, train_post_encoder=True, post_encoder_scale=True,
            per_source_tied=per_source, secondary_target_tied=False, coalesce_topk=coalesce, topk_coalesced=False,
            dtype="none", tp_output=True, use_fp8=False,
        )  # fmt: skip
        state = {"encoder.weight": rand(F, D, dtype=dtype), "encoder.bias": rand(F, dtype=dtype, size=0.5)}
        if coalesce == "none" and not per_source:
            state |= {f"W_decs.{i}": rand(F, D, dtype=dtype) for i in range(n_targets)}
            state["W_dec"] = state["W_decs.0"].clone()
        else:
            state["W_dec"] = rand(F * (sources if coalesce == "per-layer" else 1), D, dtype=dtype)
        if coalesce == "none":
            state |= {f"b_decs.{i}": rand(D, dtype=dtype) for i in range(n_targets)}
            state["b_dec"] = state["b_decs.0"].clone()
        else:
            state |= {"b_dec": rand(D, dtype=dtype), "W_skip": rand(D, D, dtype=dtype)}
        state |= {f"post_encs.{i}": rand(F, dtype=dtype, size=0.1) for i in range(n_targets)}
        state |= {f"post_enc_scales.{i}": 1 + rand(F, dtype=dtype, size=0.1) for i in range(n_targets)}
        if normalize:
            state |= {"in_norm": rand(1, dtype=dtype).abs() + 1, "out_norm": rand(1, dtype=dtype).abs() + 1}
        inside = folder / f"layers.{layer}.mlp"
        inside.mkdir(parents=True)
        save_file(state, inside / "sae.safetensors")
        (inside / "cfg.json").write_text(json.dumps(config | {"d_in": D}))
        states.append(doubled(state))
        configs.append(config)
    return Case(
        "sparsify",
        tuple(f"mlp_in.{layer}" for layer in range(layers)),
        lambda x: clt_forward(states, configs, x),
    )


def clt_forward(
    states: list[dict[str, Tensor]], configs: list[dict[str, Any]], x: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`CrossLayerRunner.decode`, target by target: each source's activations go through its post-encoder for that
    target, and are decoded by the source or by the target."""
    given, acts = [], []
    for layer, state in enumerate(states):
        into = D**0.5 / state["in_norm"] if "in_norm" in state else 1
        given.append(x[f"mlp_in.{layer}"] * into)
        acts.append(sparsify_acts(given[layer] @ state["encoder.weight"].T + state["encoder.bias"], "topk"))
    written = {}
    for target, goal in enumerate(states):
        sources = [each for each in range(target + 1) if configs[each]["n_targets"] + each > target]
        coalesce = configs[target]["coalesce_topk"]
        total: Any = 0
        for place, source in enumerate(sources):
            state, ahead = states[source], target - source
            value = acts[source] + state[f"post_encs.{ahead}"] * (acts[source] > 0)
            value = value * state[f"post_enc_scales.{ahead}"]
            if coalesce == "none":
                weight = state.get(f"W_decs.{ahead}", state["W_dec"])
                out = value @ weight + state[f"b_decs.{ahead}"]
                if source == target and configs[target]["divide_cross_layer"]:
                    total = total / max(1, len(sources) - 1)
            else:
                rows = goal["W_dec"] if coalesce == "concat" else goal["W_dec"][place * F : (place + 1) * F]
                out = value @ rows
            total = total + out
        if coalesce != "none":
            total = total + goal["b_dec"] + given[target] @ goal["W_skip"].T
        written[f"mlp_raw.{target}"] = total * (goal["out_norm"] / D**0.5 if "out_norm" in goal else 1)
    return written


# --- crosslayer-coding -----------------------------------------------------------------------------------------------


@case("crosslayer-coding jumprelu", tying="none", activation="jumprelu")
@case("crosslayer-coding relu, skip", tying="none", activation="relu", skip=True)
@case("crosslayer-coding per_source", tying="per_source", activation="jumprelu", affine=True)
@case("crosslayer-coding per_target", tying="per_target", activation="jumprelu", affine=True, skip=True)
@case("crosslayer-coding mean_std", tying="none", activation="jumprelu", norm="mean_std")
@case(
    "crosslayer-coding per_source mean_std", tying="per_source", activation="relu", norm="mean_std", skip=True
)
@case("crosslayer-coding sqrt_d_model", tying="per_target", activation="relu", norm="sqrt_d_model", skip=True)
def write_crosslayer(
    folder: Path, dtype: torch.dtype, *, tying: str, activation: str, norm: str = "none", skip: bool = False,
    affine: bool = False,
) -> Case:  # fmt: skip
    folder.mkdir(parents=True)
    layers = 3
    pairs = [f"{s}->{t}" for s in range(layers) for t in range(s, layers)]
    names = pairs if tying == "none" else [str(layer) for layer in range(layers)]
    state = {}
    for layer in range(layers):
        state[f"encoder_module.encoders.{layer}.weight"] = rand(F, D, dtype=dtype)
        state[f"encoder_module.encoders.{layer}.bias_param"] = rand(F, dtype=dtype, size=0.5)
    for name in names:
        state[f"decoder_module.decoders.{name}.weight"] = rand(D, F, dtype=dtype)
        state[f"decoder_module.decoders.{name}.bias_param"] = rand(D, dtype=dtype)
        if skip:
            own = tying != "none" or name.split("->")[0] == name.split("->")[1]
            state[f"decoder_module.skip_weights.{name}"] = rand(D, D, dtype=dtype, size=float(own))
    if affine:
        for layer in range(layers):
            state[f"decoder_module.feature_offset.{layer}"] = rand(F, dtype=dtype, size=0.1)
            state[f"decoder_module.feature_scale.{layer}"] = 1 + rand(F, dtype=dtype, size=0.1)
    if activation == "jumprelu":
        state["theta_manager.log_threshold"] = rand(layers, F, dtype=dtype, size=0.3) - 0.5
    save_file(state, folder / "clt_checkpoint_latest.safetensors")
    config = {
        "num_features": F, "num_layers": layers, "d_model": D, "model_name": "gpt2", "normalization_method": norm,
        "activation_fn": activation, "jumprelu_threshold": 0.03, "batchtopk_k": None, "topk_k": None,
        "clt_dtype": str(dtype).removeprefix("torch."), "mlp_input_template": "transformer.h.{}.ln_2.input",
        "mlp_output_template": "transformer.h.{}.mlp.output", "tl_input_template": None, "tl_output_template": None,
        "decoder_tying": tying, "enable_feature_offset": affine, "enable_feature_scale": affine,
        "skip_connection": skip,
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config, indent=4))
    stats = {
        str(layer): {
            side: {"mean": torch.randn(D).tolist(), "std": (torch.rand(D) + 0.5).tolist()}
            for side in ("inputs", "targets")
        }
        for layer in range(layers)
    }
    if norm == "mean_std":
        (folder / "norm_stats.json").write_text(json.dumps(stats))
    t = doubled(state)
    return Case(
        "crosslayer-coding", tuple(f"resid_mid.{layer}" for layer in range(layers)),
        lambda x: crosslayer_forward(t, config, stats, x),
    )  # fmt: skip


def crosslayer_forward(
    t: Mapping[str, Tensor], config: Mapping[str, Any], stats: Mapping[str, Any], x: Mapping[str, Tensor]
) -> dict[str, Tensor]:  # fmt: skip
    """The store's normalisation, the model's forward, and the evaluator's way back."""
    layers, tying, norm = config["num_layers"], config["decoder_tying"], config["normalization_method"]

    def numbers(layer: int, side: str) -> tuple[Any, Any]:
        if norm == "mean_std":
            found = stats[str(layer)][side]
            mean, std = (torch.tensor(found[key], dtype=torch.float32) for key in ("mean", "std"))
            return mean.double(), (std + 1e-6).double()
        return 0, 1 / math.sqrt(D) if norm == "sqrt_d_model" else 1

    given, acts = {}, {}
    for layer in range(layers):
        mean, std = numbers(layer, "inputs")
        given[layer] = (x[f"resid_mid.{layer}"] - mean) / std
        name = f"encoder_module.encoders.{layer}"
        pre = given[layer] @ t[f"{name}.weight"].T + t[f"{name}.bias_param"]
        if config["activation_fn"] == "relu":
            acts[layer] = pre.relu()
        else:
            acts[layer] = (pre >= t["theta_manager.log_threshold"][layer].exp()) * pre
    written = {}
    for target in range(layers):
        total: Any = 0
        summed: Any = 0
        for source in range(target + 1):
            value = acts[source]
            if f"decoder_module.feature_offset.{target}" in t:
                value = value + (value != 0) * t[f"decoder_module.feature_offset.{target}"]
                value = value * t[f"decoder_module.feature_scale.{target}"]
            if tying == "per_target":
                summed = summed + value
                continue
            name = str(source) if tying == "per_source" else f"{source}->{target}"
            total = total + value @ t[f"decoder_module.decoders.{name}.weight"].T
            total = total + t[f"decoder_module.decoders.{name}.bias_param"]
            if tying == "none" and config["skip_connection"]:
                total = total + given[source] @ t[f"decoder_module.skip_weights.{name}"].T
        if tying == "per_target":
            name = f"decoder_module.decoders.{target}"
            total = summed @ t[f"{name}.weight"].T + t[f"{name}.bias_param"]
        if tying != "none" and config["skip_connection"]:
            total = total + given[target] @ t[f"decoder_module.skip_weights.{target}"].T
        mean, std = numbers(target, "targets")
        written[f"mlp_raw.{target}"] = total * std + mean
    return written
