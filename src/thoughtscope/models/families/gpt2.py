"""GPT-2: layer norms, fused `c_attn` stored as (d_in, d_out), learned positions, sequential blocks."""

from __future__ import annotations

from typing import Any

from torch import nn

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.models.families.facts import BlockFacts, Family, HeadProjection, Neurons, NormFacts
from thoughtscope.models.families.registry import FAMILIES, Architecture


def bind(module: Any) -> Family:
    """The facts of a `GPT2LMHeadModel`."""
    config, body = module.config, module.transformer
    if config.add_cross_attention:
        raise UnsupportedModel("This GPT-2 has cross-attention, which is not a language model's site table.")
    return Family(
        name="gpt2",
        blocks=tuple(_block(block) for block in body.h),
        final_norm=layer_norm(body.ln_f),
        unembed=module.lm_head.weight,
        unembed_bias=module.lm_head.bias,
        embed_module=body.wte,
        config=config,
    )


def layer_norm(norm: nn.LayerNorm) -> NormFacts:
    """A layer norm: centre, divide by the deviation, weight and bias."""
    return NormFacts(kind="layer", weight=norm.weight, bias=norm.bias, eps=norm.eps, module=norm)


def _block(block: Any) -> BlockFacts:
    return BlockFacts(
        module=block,
        attn=block.attn,
        mlp=block.mlp,
        attn_norm=layer_norm(block.ln_1),
        mlp_norm=layer_norm(block.ln_2),
        neurons=Neurons(
            act=block.mlp.act,
            W_in=block.mlp.c_fc.weight,
            b_in=block.mlp.c_fc.bias,
            W_out=block.mlp.c_proj.weight,
            b_out=block.mlp.c_proj.bias,
            out_module=block.mlp.c_proj,
        ),
        **attention(block.attn),
    )


def attention(attn: Any) -> dict[str, Any]:
    """The facts of a `GPT2Attention`: positions are learned and added to the embedding, so nothing rotates."""
    d_model, heads, d_head = attn.embed_dim, attn.num_heads, attn.head_dim

    def part(number: int) -> HeadProjection:
        columns = slice(number * d_model, (number + 1) * d_model)  # c_attn's columns are query | key | value
        return HeadProjection(
            weight=attn.c_attn.weight[:, columns].unflatten(-1, (heads, d_head)).transpose(0, 1),
            bias=attn.c_attn.bias[columns].view(heads, d_head),
            module=attn.c_attn,
            view=lambda fused: fused[..., columns].unflatten(-1, (heads, d_head)),
        )

    return {
        "queries": part(0),
        "keys": part(1),
        "values": part(2),
        "rotary": None,
        "scaling": attn.scaling,
        "W_O": attn.c_proj.weight.view(heads, d_head, d_model),
        "b_O": attn.c_proj.bias,
        "o_module": attn.c_proj,
    }


FAMILIES.register("GPT2LMHeadModel")(
    Architecture(family="gpt2", bind=bind, tiny=lambda layers: {"n_inner": 32, "n_positions": 256})
)
