"""Small random models of the real classes of every family, for tests, `doctor` and documentation.

Nothing is at its comfortable default: norm weights are far from 1, biases are not 0, soft caps bite, queries share
key/value heads. A mistake in a site table or in a linearisation that such defaults would hide shows at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from thoughtscope.core.errors import UnsupportedModel, describe_choices
from thoughtscope.models.loading import model_from
from thoughtscope.models.model import Model

FAMILIES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3")
_SPECIAL = ("<|begin|>", "<|end|>", "<|pad|>")


def random_model(
    family: str,
    *,
    layers: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    prove_sites: bool = True,
    **overrides: Any,
) -> Model:
    """A random-weight model of `family` with a byte-level tokenizer (each byte a token, a begin token first).

    `overrides` are fields of the family's transformers configuration, for example `use_parallel_residual=False` or
    `vocab_size=100` (below 259 the model comes without a tokenizer). `attention` is "sdpa" or "eager".
    Raises `UnsupportedModel` for an unknown family.
    """
    import transformers

    if family not in FAMILIES:
        raise UnsupportedModel(describe_choices(family, FAMILIES, what="model family"))
    config_class, module_class, fields = _settings(family, layers)
    config = getattr(transformers, config_class)(**{**fields, **overrides})
    config.architectures = [module_class]
    if attention is not None:
        config._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = getattr(transformers, module_class)(config)
        _randomise(module, gemma=family.startswith("gemma"))
    module.to(dtype).requires_grad_(False)
    tokenizer = byte_tokenizer() if config.vocab_size >= 256 + len(_SPECIAL) else None
    return model_from(
        module, tokenizer, name=f"random-{family}", revision=f"seed-{seed}", prove_sites=prove_sites
    )


def byte_tokenizer() -> Any:
    """A byte-level fast tokenizer without merges: ids 0 to 255 are bytes, then begin, end and padding."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    from thoughtscope.models.pieces import characters_of_bytes

    vocab = {character: byte for byte, character in enumerate(characters_of_bytes())}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    begin = (_SPECIAL[0], tokenizer.token_to_id(_SPECIAL[0]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_SPECIAL[0]} $A", special_tokens=[begin]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_SPECIAL[0], eos_token=_SPECIAL[1], pad_token=_SPECIAL[2]
    )


def _settings(family: str, layers: int) -> tuple[str, str, dict[str, Any]]:
    """Configuration class, module class and fields: d_model 16, 4 heads of 4 (grouped in two where possible)."""
    common: dict[str, Any] = {
        "vocab_size": 260, "bos_token_id": 256, "eos_token_id": None, "pad_token_id": None,
        "tie_word_embeddings": False, "max_position_embeddings": 256,
    }  # fmt: skip
    plain = {
        **common,
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 32,
    }
    grouped = {**plain, "num_key_value_heads": 2}
    gemma = {**grouped, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 6}
    return {
        "gpt2": ("GPT2Config", "GPT2LMHeadModel", {
            **common, "n_embd": 16, "n_layer": layers, "n_head": 4, "n_inner": 32, "n_positions": 256,
        }),
        "gpt_neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {**plain, "rotary_pct": 0.5}),
        "llama": ("LlamaConfig", "LlamaForCausalLM", grouped),
        "mistral": ("MistralConfig", "MistralForCausalLM", {**grouped, "sliding_window": 6}),
        "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", grouped),
        "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {**grouped, "head_dim": 8, "attention_bias": True}),
        "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {
            **gemma, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        }),
        "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {
            **gemma, "layer_types": ["sliding_attention" if n % 2 == 0 else "full_attention" for n in range(layers)],
        }),
    }[family]  # fmt: skip


@torch.no_grad()
def _randomise(module: nn.Module, *, gemma: bool) -> None:
    """Draws every parameter: norm weights in 0.4 to 2.2, biases of size 0.3, matrices that keep activations near 1."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            wide = "embed" in name or "wte" in name or "wpe" in name
            parameter.normal_(0, 1.0 if wide else parameter.shape[-1] ** -0.5)
        elif name.endswith("weight"):
            parameter.uniform_(0.4, 2.2)
            parameter.sub_(1.0 if gemma else 0.0)
        else:
            parameter.normal_(0, 0.3)
