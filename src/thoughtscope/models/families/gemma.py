"""Gemma 2 and Gemma 3 (text): RMS norms with weight `1 + w` around both sides of each sublayer, soft caps."""

from __future__ import annotations

from functools import partial
from typing import Any

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.models.families.facts import BlockFacts, Family, NormFacts
from thoughtscope.models.families.llama import attention, decoder, gated_neurons
from thoughtscope.models.families.registry import FAMILIES, Architecture


def bind_gemma2(module: Any) -> Family:
    """The facts of a Gemma 2 model: scores and logits are capped, every other layer sees a window."""
    _require_causal(module)

    def block(layer: Any) -> BlockFacts:
        return _block(layer, module.model.rotary_emb, soft_cap=layer.self_attn.attn_logit_softcapping)

    return decoder(module, block, _norm, logit_soft_cap=module.config.final_logit_softcapping)


def bind_gemma3(module: Any) -> Family:
    """The facts of a Gemma 3 text model: QK-norm, and other rotary angles in layers that see a window."""
    _require_causal(module)

    def block(layer: Any) -> BlockFacts:
        # the module keeps a cap of the scores in its configuration, but does not apply it
        angles = partial(module.model.rotary_emb, layer_type=layer.self_attn.layer_type)
        return _block(layer, angles, soft_cap=None)

    return decoder(module, block, _norm, logit_soft_cap=module.config.final_logit_softcapping)


def refuse_multimodal(module: Any) -> Family:
    """Image-and-text Gemma 3: refused, with the way to its text part."""
    raise UnsupportedModel(
        "Gemma3ForConditionalGeneration takes images too, and its text part masks tokens by image blocks. "
        "Load the text part as Gemma3ForCausalLM (transformers' Gemma3ForCausalLM.from_pretrained on the same "
        "checkpoint), then pass it to model_from(module, tokenizer, name=...)."
    )


def _require_causal(module: Any) -> None:
    if getattr(module.config, "use_bidirectional_attention", None):
        raise UnsupportedModel(
            "This Gemma attends in both directions; only causal language models can be traced."
        )


def _norm(norm: Any) -> NormFacts:
    weight = 1.0 + norm.weight.detach().float()  # the module adds the 1 in float32 too
    weight = weight if norm.weight.dtype.itemsize < 8 else 1.0 + norm.weight.detach()
    return NormFacts(kind="rms", weight=weight, bias=None, eps=norm.eps, module=norm)


def _block(layer: Any, angles: Any, *, soft_cap: float | None) -> BlockFacts:
    return BlockFacts(
        module=layer,
        attn=layer.self_attn,
        mlp=layer.mlp,
        attn_norm=_norm(layer.input_layernorm),
        mlp_norm=_norm(layer.pre_feedforward_layernorm),
        attn_post_norm=_norm(layer.post_attention_layernorm),
        mlp_post_norm=_norm(layer.post_feedforward_layernorm),
        neurons=gated_neurons(layer.mlp),
        soft_cap=soft_cap,
        **attention(layer.self_attn, angles, _norm),
    )


_TINY = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 6}


def _tiny_gemma2(layers: int) -> dict[str, Any]:
    return {**_TINY, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}


def _tiny_gemma3(layers: int) -> dict[str, Any]:
    kinds = ("sliding_attention", "full_attention")
    return {**_TINY, "layer_types": [kinds[layer % 2] for layer in range(layers)]}


FAMILIES.register("Gemma2ForCausalLM")(Architecture(family="gemma2", bind=bind_gemma2, tiny=_tiny_gemma2))
FAMILIES.register("Gemma3ForCausalLM")(Architecture(family="gemma3", bind=bind_gemma3, tiny=_tiny_gemma3))
FAMILIES.register("Gemma3ForConditionalGeneration")(Architecture(family="gemma3", bind=refuse_multimodal))
