"""Llama, Mistral, Qwen2 and Qwen3: RMS norms, grouped queries, rotary positions, sequential blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from thoughtscope.models.families.facts import BlockFacts, Family, NormFacts
from thoughtscope.models.families.registry import FAMILIES

_NAMES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}


@FAMILIES.register(*_NAMES)
def bind(module: Any) -> Family:
    """The facts of a Llama-shaped causal language model."""
    architecture = type(module).__name__
    body = module.model
    return Family(
        name=_NAMES[architecture],
        architectures=(architecture,),
        blocks=tuple(_block(layer) for layer in body.layers),
        final_norm=_norm(body.norm),
        unembed=module.lm_head.weight,
        unembed_bias=module.lm_head.bias,
        logit_soft_cap=None,
        embed_module=body.embed_tokens,
        unembed_module=module.lm_head,
        config=module.config,
    )


def _norm(norm: Any) -> NormFacts:
    return NormFacts(kind="rms", weight=norm.weight, bias=None, eps=norm.variance_epsilon, module=norm)


def _block(layer: Any) -> BlockFacts:
    return BlockFacts(
        module=layer,
        attn=layer.self_attn,
        mlp=layer.mlp,
        attn_norm=_norm(layer.input_layernorm),
        mlp_norm=_norm(layer.post_attention_layernorm),
        **projections(layer.self_attn),
    )


def projections(attn: Any) -> dict[str, Any]:
    """Value and output matrices per head, for attention with separate `v_proj` and `o_proj`."""
    d_head = attn.head_dim
    v_proj: nn.Linear = attn.v_proj
    o_proj: nn.Linear = attn.o_proj
    kv_heads = v_proj.weight.shape[0] // d_head
    heads = o_proj.weight.shape[1] // d_head
    v_view: Callable[[Tensor], Tensor] = lambda output: output.unflatten(-1, (kv_heads, d_head))  # noqa: E731
    return {
        "W_V": v_proj.weight.view(kv_heads, d_head, -1).transpose(1, 2),
        "b_V": None if v_proj.bias is None else v_proj.bias.view(kv_heads, d_head),
        "W_O": o_proj.weight.view(-1, heads, d_head).permute(1, 2, 0),
        "b_O": o_proj.bias,
        "v_module": v_proj,
        "v_view": v_view,
        "o_module": o_proj,
    }
