"""OLMo 2: RMS norms after each sublayer and none before it, QK-norm over all heads together."""

from __future__ import annotations

from typing import Any

from thoughtscope.models.families.facts import BlockFacts, Family
from thoughtscope.models.families.llama import attention, decoder, gated_neurons, rms_norm
from thoughtscope.models.families.registry import FAMILIES, Architecture


def bind(module: Any) -> Family:
    """The facts of an `Olmo2ForCausalLM`."""

    def block(layer: Any) -> BlockFacts:
        return BlockFacts(
            module=layer,
            attn=layer.self_attn,
            mlp=layer.mlp,
            attn_norm=None,
            mlp_norm=None,
            attn_post_norm=rms_norm(layer.post_attention_layernorm),
            mlp_post_norm=rms_norm(layer.post_feedforward_layernorm),
            neurons=gated_neurons(layer.mlp),
            **attention(layer.self_attn, module.model.rotary_emb, rms_norm),
        )

    return decoder(module, block, rms_norm)


FAMILIES.register("Olmo2ForCausalLM")(
    Architecture(family="olmo2", bind=bind, tiny=lambda layers: {"num_key_value_heads": 2})
)
