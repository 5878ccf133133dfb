"""GPT-NeoX and Pythia: layer norms, a fused projection interleaved by head, parallel or sequential blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thoughtscope.models.families.facts import BlockFacts, Family, NormFacts
from thoughtscope.models.families.registry import FAMILIES


@FAMILIES.register("GPTNeoXForCausalLM")
def bind(module: Any) -> Family:
    """The facts of a `GPTNeoXForCausalLM`."""
    config, body = module.config, module.gpt_neox
    missing = {}
    if config.use_parallel_residual:
        missing["resid_mid"] = (
            "attention and MLP both read resid_pre (parallel residual), so nothing lies between them"
        )
    return Family(
        name="gpt_neox",
        architectures=("GPTNeoXForCausalLM",),
        blocks=tuple(_block(layer, config) for layer in body.layers),
        final_norm=_norm(body.final_layer_norm),
        unembed=module.lm_head.weight,
        unembed_bias=module.lm_head.bias,
        logit_soft_cap=None,
        embed_module=body.embed_in,
        unembed_module=module.lm_head,
        config=config,
        missing=missing,
    )


def _norm(norm: Any) -> NormFacts:
    return NormFacts(kind="layer", weight=norm.weight, bias=norm.bias, eps=norm.eps, module=norm)


def _block(layer: Any, config: Any) -> BlockFacts:
    attn = layer.attention
    d_model, heads, d_head = config.hidden_size, config.num_attention_heads, attn.head_size

    def v_view(fused: Tensor) -> Tensor:
        return fused.unflatten(-1, (heads, 3, d_head))[..., 2, :]  # each head: query | key | value

    weight = attn.query_key_value.weight.view(heads, 3, d_head, d_model)[:, 2]
    bias = attn.query_key_value.bias
    return BlockFacts(
        module=layer,
        attn=attn,
        mlp=layer.mlp,
        attn_norm=_norm(layer.input_layernorm),
        mlp_norm=_norm(layer.post_attention_layernorm),
        parallel=bool(layer.use_parallel_residual),
        W_V=weight.transpose(1, 2),
        b_V=None if bias is None else bias.view(heads, 3, d_head)[:, 2],
        W_O=attn.dense.weight.view(d_model, heads, d_head).permute(1, 2, 0),
        b_O=attn.dense.bias,
        v_module=attn.query_key_value,
        v_view=v_view,
        o_module=attn.dense,
    )
