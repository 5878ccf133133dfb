"""Llama, Mistral, Qwen2 and Qwen3: RMS norms, grouped queries, rotary positions, sequential blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from thoughtscope.models.families.facts import (
    BlockFacts,
    Family,
    HeadProjection,
    Neurons,
    NormFacts,
    Rotary,
)
from thoughtscope.models.families.registry import FAMILIES, Architecture

Norm = Callable[[Any], NormFacts]


def bind(module: Any) -> Family:
    """The facts of a Llama-shaped causal language model."""

    def block(layer: Any) -> BlockFacts:
        return BlockFacts(
            module=layer,
            attn=layer.self_attn,
            mlp=layer.mlp,
            attn_norm=rms_norm(layer.input_layernorm),
            mlp_norm=rms_norm(layer.post_attention_layernorm),
            neurons=gated_neurons(layer.mlp),
            **attention(layer.self_attn, module.model.rotary_emb, rms_norm),
        )

    return decoder(module, block, rms_norm)


def decoder(module: Any, block: Callable[[Any], BlockFacts], norm: Norm, **more: Any) -> Family:
    """The facts around the blocks, for every class that keeps them where Llama does."""
    body = module.model
    return Family(
        name=FAMILIES[type(module).__name__].family,
        blocks=tuple(block(layer) for layer in body.layers),
        final_norm=norm(body.norm),
        unembed=module.lm_head.weight,
        unembed_bias=module.lm_head.bias,
        embed_module=body.embed_tokens,
        config=module.config,
        **more,
    )


def rms_norm(norm: Any) -> NormFacts:
    """An RMS norm as Llama has it: divide by the root mean square, multiply by the weight."""
    return NormFacts(kind="rms", weight=norm.weight, bias=None, eps=norm.variance_epsilon, module=norm)


def attention(attn: Any, angles: Callable[..., Any], norm: Norm) -> dict[str, Any]:
    """The facts of attention with separate `q_proj`, `k_proj`, `v_proj` and `o_proj`.

    `angles(x, positions)` is the model's own rotary module; `norm` reads the QK-norms, where there are any.
    """
    d_head, o_proj = attn.head_dim, attn.o_proj
    heads = o_proj.weight.shape[1] // d_head

    def projection(part: Any, qk_norm: Any = None) -> HeadProjection:
        return HeadProjection(
            weight=part.weight.unflatten(0, (-1, d_head)).transpose(1, 2),  # rows are head by head
            bias=None if part.bias is None else part.bias.unflatten(0, (-1, d_head)),
            module=part,
            view=lambda output: output.unflatten(-1, (-1, d_head)),
            norm=None if qk_norm is None else norm(qk_norm),
        )

    def cos_sin(x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return angles(x, positions)

    # Mistral reads the window from its configuration, the others keep it where a layer has one
    window = attn.sliding_window if hasattr(attn, "sliding_window") else _window(attn.config)
    return {
        "queries": projection(attn.q_proj, getattr(attn, "q_norm", None)),
        "keys": projection(attn.k_proj, getattr(attn, "k_norm", None)),
        "values": projection(attn.v_proj),
        "rotary": Rotary(angles=cos_sin),
        "scaling": attn.scaling,
        "window": window,
        "W_O": o_proj.weight.view(-1, heads, d_head).permute(1, 2, 0),
        "b_O": o_proj.bias,
        "o_module": o_proj,
    }


def _window(config: Any) -> int | None:
    return getattr(config, "sliding_window", None)


def gated_neurons(mlp: Any) -> Neurons:
    """The neurons of an MLP with `gate_proj`, `up_proj` and `down_proj`: `act(gate) * up`."""
    return Neurons(
        act=mlp.act_fn,
        W_in=mlp.up_proj.weight.T,
        b_in=mlp.up_proj.bias,
        W_gate=mlp.gate_proj.weight.T,
        b_gate=mlp.gate_proj.bias,
        W_out=mlp.down_proj.weight.T,
        b_out=mlp.down_proj.bias,
        out_module=mlp.down_proj,
    )


def _tiny(**fields: Any) -> Callable[[int], Mapping[str, Any]]:
    return lambda layers: {"num_key_value_heads": 2, **fields}


FAMILIES.register("LlamaForCausalLM")(Architecture(family="llama", bind=bind, tiny=_tiny()))
FAMILIES.register("MistralForCausalLM")(
    Architecture(family="mistral", bind=bind, tiny=_tiny(sliding_window=6))
)
FAMILIES.register("Qwen2ForCausalLM")(Architecture(family="qwen2", bind=bind, tiny=_tiny()))
FAMILIES.register("Qwen3ForCausalLM")(
    Architecture(family="qwen3", bind=bind, tiny=_tiny(head_dim=8, attention_bias=True))
)
