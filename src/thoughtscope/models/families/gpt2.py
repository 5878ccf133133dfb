"""GPT-2: layer norms, fused `c_attn` stored as (d_in, d_out), learned positions, sequential blocks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.models.families.facts import BlockFacts, Family, NormFacts
from thoughtscope.models.families.registry import FAMILIES


@FAMILIES.register("GPT2LMHeadModel")
def bind(module: Any) -> Family:
    """The facts of a `GPT2LMHeadModel`."""
    config, body = module.config, module.transformer
    if config.add_cross_attention:
        raise UnsupportedModel("This GPT-2 has cross-attention, which is not a language model's site table.")
    return Family(
        name="gpt2",
        architectures=("GPT2LMHeadModel",),
        blocks=tuple(_block(block) for block in body.h),
        final_norm=_norm(body.ln_f),
        unembed=module.lm_head.weight,
        unembed_bias=module.lm_head.bias,
        logit_soft_cap=None,
        embed_module=body.wte,
        unembed_module=module.lm_head,
        config=config,
    )


def _norm(norm: Any) -> NormFacts:
    return NormFacts(kind="layer", weight=norm.weight, bias=norm.bias, eps=norm.eps, module=norm)


def _block(block: Any) -> BlockFacts:
    attn = block.attn
    d_model, heads, d_head = attn.embed_dim, attn.num_heads, attn.head_dim
    values = slice(2 * d_model, 3 * d_model)  # c_attn's columns are query | key | value

    def v_view(fused: Tensor) -> Tensor:
        return fused[..., values].unflatten(-1, (heads, d_head))

    return BlockFacts(
        module=block,
        attn=attn,
        mlp=block.mlp,
        attn_norm=_norm(block.ln_1),
        mlp_norm=_norm(block.ln_2),
        W_V=attn.c_attn.weight[:, values].unflatten(-1, (heads, d_head)).transpose(0, 1),
        b_V=attn.c_attn.bias[values].view(heads, d_head),
        W_O=attn.c_proj.weight.view(heads, d_head, d_model),
        b_O=attn.c_proj.bias,
        v_module=attn.c_attn,
        v_view=v_view,
        o_module=attn.c_proj,
    )
