"""Small GGUF files of random models of the real classes, written with the `gguf` package as llama.cpp writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from thoughtscope.models import Model
from thoughtscope.models.random_models import byte_tokenizer

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3")
"""Those of ours that transformers' reader of GGUF files knows."""
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": 288, "tie_word_embeddings": False, "max_position_embeddings": 64,
}  # fmt: skip
"""A tiny model whose rows are whole blocks of 32."""
_OWN: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "gpt2": {"num_key_value_heads": 2},
    "qwen3": {"head_dim": 32, "attention_bias": False},
    "gemma2": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 6, "tie_word_embeddings": True,
               "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3": {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 6, "tie_word_embeddings": True,
               "layer_types": None},
}  # fmt: skip
_ADDS_ONE = ("gemma2", "gemma3")


def tiny(family: str, *, seed: int = 0, **overrides: Any) -> Model:
    """A random model that a GGUF file can hold."""
    from tests.tiny_models import tiny_model

    fields = {**SIZES, **_OWN.get(family, {}), **overrides}
    return tiny_model(family, seed=seed, prove_sites=False, **fields)


def write_gguf(model: Model, path: Path, kind: str = "F32", *, tokenizer: bool = True, **facts: Any) -> Path:
    """Writes a model as llama.cpp's converter does: names, permuted heads, Gemma's norms plus one.

    `facts` replace values of the header, by their names without the architecture; None leaves one out.
    """
    import gguf

    family = model.family.name
    writer = gguf.GGUFWriter(path, family)
    pre = facts.pop("tokenizer.ggml.pre", "gpt-2")
    if tokenizer:
        write = _write_pieces if family in _ADDS_ONE else _write_bytes
        write(writer, model.vocab_size, pre)
    for name, value in {**_facts(model, family), **facts}.items():
        if value is not None:
            key = name if name.startswith(("general.", "tokenizer.")) else f"{family}.{name}"
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
            add(key, value)
    names = gguf.get_tensor_name_map(
        next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == family), model.n_layers
    )
    tied = model.module.config.tie_word_embeddings
    for name, tensor in model.module.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        values = _as_stored(family, name, tensor, model).float().numpy()
        quantised = kind if tensor.ndim > 1 else "F32"
        number = gguf.GGMLQuantizationType[quantised]
        data = np.ascontiguousarray(values) if quantised == "F32" else gguf.quants.quantize(values, number)
        writer.add_tensor(stored, data, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _as_stored(family: str, name: str, tensor: torch.Tensor, model: Model) -> torch.Tensor:
    if family == "gpt2" and tensor.ndim == 2 and any(part in name for part in ("c_attn", "c_proj", "c_fc")):
        return tensor.T
    if family in _ADDS_ONE and name.endswith("norm.weight"):
        return tensor + 1
    if family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = model.n_heads if "q_proj" in name else model.n_kv_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    return tensor


def _facts(model: Model, family: str) -> dict[str, Any]:
    config = model.module.config
    facts: dict[str, Any] = {
        "general.name": "tiny", "context_length": model.max_positions, "embedding_length": model.d_model,
        "feed_forward_length": int(model.width("mlp_act.0")), "block_count": model.n_layers,
        "attention.head_count": model.n_heads,
    }  # fmt: skip
    if family == "gpt2":
        return {**facts, "attention.layer_norm_epsilon": config.layer_norm_epsilon}
    angles = config.rope_parameters
    facts |= {
        "attention.head_count_kv": model.n_kv_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(angles.get("full_attention", angles)["rope_theta"]),
        "attention.key_length": model.d_head,
        "attention.value_length": model.d_head,
    }
    if family in ("llama", "qwen2"):
        facts["rope.dimension_count"] = model.d_head
    if family in _ADDS_ONE:
        facts["attention.sliding_window"] = config.sliding_window
    if family == "gemma2":
        facts["attn_logit_softcapping"] = config.attn_logit_softcapping
        facts["final_logit_softcapping"] = config.final_logit_softcapping
    return facts


def _write_bytes(writer: Any, vocab: int, pre: str) -> None:
    """The byte-level tokenizer of the tiny models, in the words of the format."""
    made = byte_tokenizer()
    words = [made.convert_ids_to_tokens(number) for number in range(len(made))]
    words += ["hi", *(f"<unused{number}>" for number in range(vocab - len(words) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([1] * 256 + [3] * 3 + [1] + [5] * (vocab - 260))
    writer.add_token_merges(["h i"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")


def _write_pieces(writer: Any, vocab: int, pre: str) -> None:
    """A tokenizer of pieces with bytes to fall back on, as Gemma's is."""
    words = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "h",
        "i",
        "hi",
    ]
    words += [f"<unused{number}>" for number in range(vocab - len(words))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([-float(number) for number in range(vocab)])
    writer.add_token_types([3] * 3 + [2] + [6] * 256 + [1] * (vocab - 260))
    for add, number in (
        (writer.add_bos_token_id, 2), (writer.add_eos_token_id, 1), (writer.add_unk_token_id, 3),
        (writer.add_pad_token_id, 0),
    ):  # fmt: skip
        add(number)
    writer.add_add_bos_token(True)
