"""GPT-NeoX and Pythia: layer norms, a fused projection interleaved by head, parallel or sequential blocks."""

from __future__ import annotations

from typing import Any

from thoughtscope.models.families.facts import BlockFacts, Family, HeadProjection, Neurons, Rotary
from thoughtscope.models.families.gpt2 import layer_norm
from thoughtscope.models.families.registry import FAMILIES, Architecture


def bind(module: Any) -> Family:
    """The facts of a `GPTNeoXForCausalLM`."""
    body, head = (
        module.gpt_neox,
        module.get_output_embeddings(),
    )  # whose name differs between versions of transformers
    rotary = Rotary(angles=lambda x, positions: body.rotary_emb(x, positions))
    return Family(
        name="gpt_neox",
        blocks=tuple(_block(layer, rotary) for layer in body.layers),
        final_norm=layer_norm(body.final_layer_norm),
        unembed=head.weight,
        unembed_bias=head.bias,
        embed_module=body.embed_in,
        config=module.config,
    )


def _block(layer: Any, rotary: Rotary) -> BlockFacts:
    attn, mlp = layer.attention, layer.mlp
    d_head, d_model = attn.head_size, attn.dense.weight.shape[0]
    fused = attn.query_key_value

    def part(number: int) -> HeadProjection:
        # Rows of the fused matrix go head by head, each head query | key | value.
        shape = (-1, 3, d_head)
        return HeadProjection(
            weight=fused.weight.view(*shape, d_model)[:, number].transpose(1, 2),
            bias=None if fused.bias is None else fused.bias.view(shape)[:, number],
            module=fused,
            view=lambda output: output.unflatten(-1, shape)[..., number, :],
        )

    return BlockFacts(
        module=layer,
        attn=attn,
        mlp=mlp,
        attn_norm=layer_norm(layer.input_layernorm),
        mlp_norm=layer_norm(layer.post_attention_layernorm),
        parallel=bool(layer.use_parallel_residual),
        queries=part(0),
        keys=part(1),
        values=part(2),
        rotary=rotary,
        scaling=attn.scaling,
        W_O=attn.dense.weight.view(d_model, -1, d_head).permute(1, 2, 0),
        b_O=attn.dense.bias,
        o_module=attn.dense,
        neurons=Neurons(
            act=mlp.act,
            W_in=mlp.dense_h_to_4h.weight.T,
            b_in=mlp.dense_h_to_4h.bias,
            W_out=mlp.dense_4h_to_h.weight.T,
            b_out=mlp.dense_4h_to_h.bias,
            out_module=mlp.dense_4h_to_h,
        ),
    )


FAMILIES.register("GPTNeoXForCausalLM")(
    Architecture(family="gpt_neox", bind=bind, tiny=lambda layers: {"rotary_pct": 0.5})
)
