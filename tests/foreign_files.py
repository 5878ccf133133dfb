"""Files of other libraries, tiny and random, written as those libraries write them, and what those compute with them.

Every case is the library's own save code and forward pass once more, in plain torch and float64. Nothing here uses the
package but the names of its sites.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

D, F, K = 8, 24, 4
Forward = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """A folder that was written: in which layout, which sites it reads, and what it writes for rows of them."""

    format: str
    reads: tuple[str, ...]
    forward: Forward


Writer = Callable[[Path, torch.dtype], Case]
CASES: dict[str, Writer] = {}


def case(label: str, /, **settings: Any) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    def register(write: Callable[..., Case]) -> Callable[..., Case]:
        CASES[label] = lambda folder, dtype: write(folder, dtype, **settings)
        return write

    return register


def rand(*shape: int, dtype: torch.dtype = torch.float32, size: float = 1.0) -> Tensor:
    return (torch.randn(*shape) * size).to(dtype)


def topk(pre: Tensor, k: int, *, by_size: bool = False) -> Tensor:
    index = (pre.abs() if by_size else pre).topk(k, dim=-1).indices
    return torch.zeros_like(pre).scatter(-1, index, pre.gather(-1, index))


def jump(pre: Tensor, threshold: Tensor) -> Tensor:
    return pre.relu() * (pre > threshold)


def layer_norm(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(-1, keepdim=True)
    x = x - mean
    std = x.std(-1, keepdim=True)
    return x / (std + 1e-5), mean, std


def doubled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


# --- SAELens ---------------------------------------------------------------------------------------------------------


def sae_lens_tensors(architecture: str, dtype: torch.dtype) -> dict[str, Tensor]:
    tensors = {
        "W_enc": rand(D, F, dtype=dtype),
        "W_dec": rand(F, D, dtype=dtype),
        "b_dec": rand(D, dtype=dtype),
    }
    if architecture == "gated":
        return tensors | {name: rand(F, dtype=dtype, size=0.5) for name in ("b_gate", "b_mag", "r_mag")}
    tensors["b_enc"] = rand(F, dtype=dtype, size=0.5)
    if "jumprelu" in architecture:
        tensors["threshold"] = rand(F, dtype=dtype).abs()
    if "batchtopk" in architecture:
        tensors["topk_threshold"] = torch.tensor(0.7, dtype=torch.double)
    if "skip" in architecture:
        tensors["W_skip"] = rand(D, D, dtype=dtype)
    return tensors


def sae_lens_forward(
    t: Mapping[str, Tensor], config: Mapping[str, Any], x: Tensor, scale: float = 1.0
) -> Tensor:
    """`SAE.forward`: normalise, take b_dec off, encode, decode, normalise back."""
    raw, architecture, norm = x, config["architecture"], config["normalize_activations"]
    x = x * scale
    mean, std = torch.zeros(1), torch.ones(1)
    if norm == "layer_norm":
        x, mean, std = layer_norm(x)
    elif norm == "constant_norm_rescale":
        std = x.norm(dim=-1, keepdim=True) / D**0.5
        x = x / std
    if config["apply_b_dec_to_input"]:
        x = x - t["b_dec"]
    rescale = (
        t["W_dec"].norm(dim=-1) if config.get("rescale_acts_by_decoder_norm") else torch.ones(F).double()
    )
    if architecture == "gated":
        gate = x @ t["W_enc"] + t["b_gate"] > 0
        acts = gate * (x @ (t["W_enc"] * t["r_mag"].exp()) + t["b_mag"]).relu()
    else:
        pre = (x @ t["W_enc"] + t["b_enc"]) * rescale
        if "threshold" in t:
            acts = jump(pre, t["threshold"])
        elif "topk_threshold" in t:
            acts = jump(pre, t["topk_threshold"])
        elif architecture == "topk":
            acts = topk(pre, K).relu()
        elif architecture == "abstopk":
            acts = topk(pre, K, by_size=True)
        else:
            acts = pre.relu()
    out = acts / rescale @ t["W_dec"] + t["b_dec"]
    if "transcoder" in architecture:
        return out + raw @ t["W_skip"].T if "W_skip" in t else out
    return (out * std + mean) / scale


@case("sae-lens standard", architecture="standard")
@case("sae-lens standard, not centred", architecture="standard", apply_b_dec_to_input=False)
@case("sae-lens topk", architecture="topk", k=K, rescale_acts_by_decoder_norm=False)
@case("sae-lens topk, rescaled", architecture="topk", k=K, rescale_acts_by_decoder_norm=True)
@case("sae-lens abstopk", architecture="abstopk", k=K, rescale_acts_by_decoder_norm=False)
@case("sae-lens jumprelu", architecture="jumprelu")
@case("sae-lens gated", architecture="gated")
@case("sae-lens batchtopk", architecture="batchtopk", k=4.5, rescale_acts_by_decoder_norm=True)
@case("sae-lens matryoshka", architecture="matryoshka_batchtopk", k=4.0, rescale_acts_by_decoder_norm=False,
      matryoshka_widths=[8, 24])  # fmt: skip
@case("sae-lens transcoder", architecture="transcoder")
@case("sae-lens skip_transcoder", architecture="skip_transcoder")
@case("sae-lens jumprelu_transcoder", architecture="jumprelu_transcoder")
@case("sae-lens jumprelu_skip_transcoder", architecture="jumprelu_skip_transcoder")
@case("sae-lens layer_norm", architecture="standard", normalize_activations="layer_norm")
@case("sae-lens layer_norm transcoder", architecture="skip_transcoder", normalize_activations="layer_norm")
@case("sae-lens constant_norm", architecture="jumprelu", normalize_activations="constant_norm_rescale")
@case("sae-lens scaled", architecture="jumprelu", normalize_activations="expected_average_only_in")
def write_sae_lens(folder: Path, dtype: torch.dtype, *, architecture: str, hook: str = "hook_resid_post", **more: Any) -> Case:  # fmt: skip
    folder.mkdir(parents=True)
    transcoder = "transcoder" in architecture
    tensors = sae_lens_tensors(architecture, dtype)
    config = {
        "d_in": D, "d_sae": F, "dtype": str(dtype).removeprefix("torch."), "device": "cpu",
        "apply_b_dec_to_input": not transcoder, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12", "sae_lens_training_version": "6.54.12", "model_name": "org/tiny",
            "hook_name": "blocks.1.mlp.hook_in" if transcoder else f"blocks.1.{hook}",
            "hook_head_index": None, "prepend_bos": True,
        },
        "architecture": architecture,
    } | more  # fmt: skip
    if transcoder:
        config["d_out"] = D
        config["metadata"]["hook_name_out"] = "blocks.1.hook_mlp_out"
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    scale = 1.0
    if config["normalize_activations"] == "expected_average_only_in":
        scale = 0.37
        (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": scale}))
    read = "mlp_in.1" if transcoder else f"{hook.removeprefix('hook_').removeprefix('attn.hook_')}.1"
    written = "mlp_out.1" if transcoder else read
    t = doubled(tensors)
    return Case("sae-lens", (read,), lambda x: {written: sae_lens_forward(t, config, x[read], scale)})


@case("sae-lens before 6", topk_activation=False)
@case("sae-lens before 6, topk", topk_activation=True)
@case("sae-lens before 6, log threshold", log=True)
@case("sae-lens before 6, scaling factor", finetuned=True)
def write_flat(
    folder: Path, dtype: torch.dtype, *, topk_activation: bool = False, log: bool = False, finetuned: bool = False
) -> Case:  # fmt: skip
    """The flat configuration of versions up to 5."""
    folder.mkdir(parents=True)
    tensors = sae_lens_tensors("jumprelu" if log else "standard", dtype)
    config: dict[str, Any] = {
        "model_name": "org/tiny", "hook_point": "blocks.0.attn.hook_z", "hook_point_layer": 0,
        "hook_point_head_index": None, "dataset_path": "some/text", "d_in": D, "d_sae": F, "dtype": "torch.float32",
        "activation_fn_str": "topk" if topk_activation else "relu",
        "activation_fn_kwargs": {"k": K} if topk_activation else {}, "normalize_activations": False,
        "finetuning_scaling_factor": finetuned,
    }  # fmt: skip
    if log:
        tensors["log_threshold"] = tensors.pop("threshold").log()
        config["architecture"] = "jumprelu"
    if finetuned:
        tensors["scaling_factor"] = rand(F, dtype=dtype).abs() + 0.5
    save_file(tensors, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    t = doubled(tensors)

    def forward(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        pre = (x["z.0"] - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
        acts = (
            topk(pre, K).relu()
            if topk_activation
            else jump(pre, t["log_threshold"].exp())
            if log
            else pre.relu()
        )
        return {"z.0": acts * t.get("scaling_factor", 1) @ t["W_dec"] + t["b_dec"]}

    return Case("sae-lens", ("z.0",), forward)


@case("sae-lens, several")
def write_several(folder: Path, dtype: torch.dtype) -> Case:
    """A repository of several, with what lies beside the weights."""
    names = {"blocks.1.hook_resid_pre": "hook_resid_pre", "blocks.1.hook_resid_post": "hook_resid_post"}
    cases = [
        write_sae_lens(folder / at, dtype, architecture="standard", hook=hook) for at, hook in names.items()
    ]
    for at in names:
        save_file({"sparsity": rand(F)}, folder / at / "sparsity.safetensors")
        (folder / at / "runner_cfg.json").write_text(json.dumps({"lr": 1e-4}))
    return Case(
        "sae-lens",
        tuple(read for each in cases for read in each.reads),
        lambda x: {site: y for each in cases for site, y in each.forward(x).items()},
    )


# --- dictionary_learning ---------------------------------------------------------------------------------------------


def dictionary_learning_state(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    encoder = {"encoder.weight": rand(F, D, dtype=dtype), "encoder.bias": rand(F, dtype=dtype, size=0.5)}
    decoder = {"decoder.weight": rand(D, F, dtype=dtype)}
    k = {"k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.6)}
    matrices = {"W_enc": rand(D, F, dtype=dtype), "b_enc": rand(F, dtype=dtype, size=0.5),
                "W_dec": rand(F, D, dtype=dtype), "b_dec": rand(D, dtype=dtype)}  # fmt: skip
    if name == "AutoEncoder":
        return {"bias": rand(D, dtype=dtype)} | encoder | decoder
    if name == "AutoEncoderNew":
        return encoder | decoder | {"decoder.bias": rand(D, dtype=dtype)}
    if name == "GatedAutoEncoder":
        gates = {key: rand(F, dtype=dtype, size=0.5) for key in ("r_mag", "gate_bias", "mag_bias")}
        return (
            {"decoder_bias": rand(D, dtype=dtype)}
            | gates
            | {"encoder.weight": encoder["encoder.weight"]}
            | decoder
        )
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        return {"b_dec": rand(D, dtype=dtype)} | k | decoder | encoder
    if name == "JumpReluAutoEncoder":
        return matrices | {"threshold": rand(F, dtype=dtype).abs()}
    return matrices | k | {"group_sizes": torch.tensor([8, 16])}


def dictionary_learning_forward(name: str, s: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if name == "AutoEncoder":
        return ((x - s["bias"]) @ s["encoder.weight"].T + s["encoder.bias"]).relu() @ s[
            "decoder.weight"
        ].T + s["bias"]
    if name == "AutoEncoderNew":
        acts = (x @ s["encoder.weight"].T + s["encoder.bias"]).relu()
        return acts @ s["decoder.weight"].T + s["decoder.bias"]
    if name == "GatedAutoEncoder":
        enc = (x - s["decoder_bias"]) @ s["encoder.weight"].T
        acts = (enc + s["gate_bias"] > 0) * (s["r_mag"].exp() * enc + s["mag_bias"]).relu()
        return acts @ s["decoder.weight"].T + s["decoder_bias"]
    if name in ("AutoEncoderTopK", "BatchTopKSAE"):
        acts = ((x - s["b_dec"]) @ s["encoder.weight"].T + s["encoder.bias"]).relu()
        acts = topk(acts, K) if name == "AutoEncoderTopK" else acts * (acts > s["threshold"])
        return acts @ s["decoder.weight"].T + s["b_dec"]
    centre = 0 if name == "JumpReluAutoEncoder" else s["b_dec"]
    return jump((x - centre) @ s["W_enc"] + s["b_enc"], s["threshold"]) @ s["W_dec"] + s["b_dec"]


@case("dictionary-learning AutoEncoder", name="AutoEncoder")
@case("dictionary-learning AutoEncoderNew", name="AutoEncoderNew")
@case("dictionary-learning GatedAutoEncoder", name="GatedAutoEncoder")
@case("dictionary-learning AutoEncoderTopK", name="AutoEncoderTopK")
@case("dictionary-learning BatchTopKSAE", name="BatchTopKSAE")
@case("dictionary-learning JumpReluAutoEncoder", name="JumpReluAutoEncoder")
@case("dictionary-learning MatryoshkaBatchTopKSAE", name="MatryoshkaBatchTopKSAE")
@case("dictionary-learning transcoder", name="AutoEncoderTopK", io="in_and_out")
def write_dictionary_learning(
    folder: Path, dtype: torch.dtype, *, name: str, io: str = "out", at: str = ""
) -> Case:
    inside = folder / at
    inside.mkdir(parents=True)
    state = dictionary_learning_state(name, dtype)
    torch.save(state, inside / "ae.pt")
    words = "mlp_out_layer_3" if io == "in_and_out" else "resid_post_layer_3"
    config = {
        "trainer": {"trainer_class": "StandardTrainer", "dict_class": name, "lr": 1e-3, "steps": 10, "seed": 0,
                    "activation_dim": D, "dict_size": F, "k": K, "device": "cpu", "layer": 3, "lm_name": "org/tiny",
                    "wandb_name": "x", "submodule_name": words},
        "buffer": {"d_submodule": D, "io": io, "n_ctxs": 10, "ctx_len": 8},
    }  # fmt: skip
    (inside / "config.json").write_text(json.dumps(config, indent=4))
    read = "mlp_in.3" if io == "in_and_out" else "resid_post.3"
    written = "mlp_out.3" if io == "in_and_out" else read
    s = doubled(state)
    return Case(
        "dictionary-learning", (read,), lambda x: {written: dictionary_learning_forward(name, s, x[read])}
    )


# --- OpenAI ----------------------------------------------------------------------------------------------------------


@case("openai TopK", activation="TopK")
@case("openai ReLU", activation="ReLU")
def write_openai(
    folder: Path, dtype: torch.dtype, *, activation: str, place: str = "resid_post_mlp_v5_32k/autoencoders/8.pt"
) -> Case:  # fmt: skip
    path = folder / place
    path.parent.mkdir(parents=True)
    state: dict[str, Any] = {
        "pre_bias": rand(D, dtype=dtype), "latent_bias": rand(F, dtype=dtype, size=0.5),
        "stats_last_nonzero": torch.zeros(F, dtype=torch.long), "latents_activation_frequency": torch.ones(F),
        "latents_mean_square": torch.zeros(F), "encoder.weight": rand(F, D, dtype=dtype),
        "decoder.weight": rand(D, F, dtype=dtype),
    }  # fmt: skip
    s = doubled(state)
    state["activation"] = activation
    state["activation_state_dict"] = {"k": K, "postact_fn": "ReLU"} if activation == "TopK" else {}
    torch.save(state, path)

    def forward(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = x["resid_post.8"]
        mean, std = torch.zeros(1), torch.ones(1)
        if activation == "TopK":
            given, mean, std = layer_norm(given)
        pre = (given - s["pre_bias"]) @ s["encoder.weight"].T + s["latent_bias"]
        acts = (topk(pre, K) if activation == "TopK" else pre).relu()
        return {"resid_post.8": (acts @ s["decoder.weight"].T + s["pre_bias"]) * std + mean}

    return Case("openai", ("resid_post.8",), forward)


# --- Llama Scope -----------------------------------------------------------------------------------------------------


@case("llama-scope", act_fn="jumprelu", jump_relu_threshold=0.5)
@case("llama-scope, topk with a threshold", act_fn="topk", jump_relu_threshold=0.4)
@case("llama-scope, topk by token", act_fn="topk", norm_activation="token-wise")
@case("llama-scope, relu, centred", act_fn="relu", apply_decoder_bias_to_pre_encoder=True)
@case("llama-scope, transcoder", act_fn="jumprelu", jump_relu_threshold=0.5, hook_point_out="blocks.2.hook_mlp_out",
      hook_point_in="blocks.2.hook_resid_mid")  # fmt: skip
def write_llama_scope(folder: Path, dtype: torch.dtype, **more: Any) -> Case:
    (folder / "checkpoints").mkdir(parents=True)
    state = {
        "encoder.weight": rand(F, D, dtype=dtype), "encoder.bias": rand(F, dtype=dtype, size=0.5),
        "decoder.weight": rand(D, F, dtype=dtype), "decoder.bias": rand(D, dtype=dtype),
    }  # fmt: skip
    save_file(state, folder / "checkpoints" / "final.safetensors", {"version": "1.0.0"})
    config = {
        "hook_point_in": "blocks.2.hook_resid_post", "hook_point_out": "blocks.2.hook_resid_post",
        "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False, "expansion_factor": F // D, "d_model": D,
        "d_sae": F, "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 2.2, "out": 3.1},
        "sparsity_include_decoder_norm": True, "use_glu_encoder": False, "top_k": K, "jump_relu_threshold": 0.0,
    } | more  # fmt: skip
    (folder / "hyperparams.json").write_text(json.dumps(config))
    s = doubled(state)
    sites = {"blocks.2.hook_resid_post": "resid_post.2", "blocks.2.hook_resid_mid": "resid_mid.2",
             "blocks.2.hook_mlp_out": "mlp_out.2"}  # fmt: skip
    read, written = sites[config["hook_point_in"]], sites[config["hook_point_out"]]
    return Case("llama-scope", (read,), lambda x: {written: llama_scope_forward(s, config, x[read])})


def llama_scope_forward(s: Mapping[str, Tensor], config: Mapping[str, Any], x: Tensor) -> Tensor:
    """`SparseAutoEncoder.from_config`: lengths into the weights, decoders to length 1; then `encode` and `decode`."""
    s, size = dict(s), torch.ones(1).double()
    if config["norm_activation"] == "dataset-wise":
        into, out = (D**0.5 / config["dataset_average_activation_norm"][key] for key in ("in", "out"))
        s["encoder.bias"] = s["encoder.bias"] / into
        s["decoder.bias"] = s["decoder.bias"] / out
        s["decoder.weight"] = s["decoder.weight"] * into / out
    else:
        size = D**0.5 / x.norm(dim=-1, keepdim=True)
    length = s["decoder.weight"].norm(dim=0)
    s["decoder.weight"] = s["decoder.weight"] / length
    s["encoder.weight"] = s["encoder.weight"] * length[:, None]
    s["encoder.bias"] = s["encoder.bias"] * length
    given = x * size
    if config["apply_decoder_bias_to_pre_encoder"]:
        given = given - s["decoder.bias"]
    pre = given @ s["encoder.weight"].T + s["encoder.bias"]
    threshold = config["jump_relu_threshold"]
    if config["act_fn"] == "jumprelu" or threshold > 0:
        acts = pre.where(pre > threshold, 0)
    else:
        acts = topk(pre.clamp(min=0), K) if config["act_fn"] == "topk" else pre.clamp(min=0)
    return (acts @ s["decoder.weight"].T + s["decoder.bias"]) / size


@case("llama-scope later", act_fn="jumprelu")
@case("llama-scope later, folded", act_fn="jumprelu", norm_activation="inference")
@case(
    "llama-scope later, topk",
    act_fn="topk",
    sparsity_include_decoder_norm=False,
    norm_activation="token-wise",
)
def write_llamascopium(folder: Path, dtype: torch.dtype, **more: Any) -> Case:
    folder.mkdir(parents=True)
    hook = "blocks.2.hook_resid_post"
    config = {
        "sae_type": "sae", "d_model": D, "expansion_factor": F / D, "use_decoder_bias": True, "act_fn": "jumprelu",
        "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "top_k": K, "hook_point_in": hook,
        "hook_point_out": hook, "use_glu_encoder": False, "dtype": "torch.float32",
    } | more  # fmt: skip
    state = {
        "W_E": rand(D, F, dtype=dtype), "b_E": rand(F, dtype=dtype, size=0.5), "W_D": rand(F, D, dtype=dtype),
        "b_D": rand(D, dtype=dtype), f"dataset_average_activation_norm.{hook}": torch.tensor(3.5),
    }  # fmt: skip
    if config["act_fn"] == "jumprelu":
        state["activation_function.log_jumprelu_threshold"] = rand(F, dtype=dtype, size=0.3)
    save_file(state, folder / "sae_weights.safetensors", {"version": "2.0.0"})
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    s = doubled(state)

    def forward(x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = x["resid_post.2"]
        sizes = {"dataset-wise": D**0.5 / 3.5, "inference": 1.0,
                 "token-wise": D**0.5 / given.norm(dim=-1, keepdim=True)}  # fmt: skip
        size = sizes[config["norm_activation"]]
        pre = given * size @ s["W_E"] + s["b_E"]
        length = s["W_D"].norm(dim=1) if config["sparsity_include_decoder_norm"] else torch.ones(F).double()
        if config["act_fn"] == "jumprelu":
            theta = state["activation_function.log_jumprelu_threshold"].float().exp().double()
            acts = (pre * length) * (pre * length > theta) / length
        else:
            acts = topk((pre * length).relu(), K) / length
        return {"resid_post.2": (acts @ s["W_D"] + s["b_D"]) / size}

    return Case("llama-scope", ("resid_post.2",), forward)


def rows_for(case: Case, n: int = 40) -> dict[str, Tensor]:
    return {site: torch.randn(n, D, dtype=torch.float64) for site in case.reads}
