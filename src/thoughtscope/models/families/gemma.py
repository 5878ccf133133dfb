"""Gemma 2 and Gemma 3 (text): RMS norms with weight `1 + w` around both sides of each sublayer, soft caps."""

from __future__ import annotations

from typing import Any

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.models.families.facts import BlockFacts, Family, NormFacts
from thoughtscope.models.families.llama import projections
from thoughtscope.models.families.registry import FAMILIES

_NAMES = {"Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3"}


@FAMILIES.register(*_NAMES)
def bind(module: Any) -> Family:
    """The facts of a Gemma 2 or Gemma 3 text model."""
    architecture = type(module).__name__
    if getattr(module.config, "use_bidirectional_attention", None):
        raise UnsupportedModel(
            "This Gemma attends in both directions; only causal language models can be traced."
        )
    body = module.model
    return Family(
        name=_NAMES[architecture],
        architectures=(architecture,),
        blocks=tuple(_block(layer) for layer in body.layers),
        final_norm=_norm(body.norm),
        unembed=module.lm_head.weight,
        unembed_bias=module.lm_head.bias,
        logit_soft_cap=module.config.final_logit_softcapping,
        embed_module=body.embed_tokens,
        unembed_module=module.lm_head,
        config=module.config,
    )


@FAMILIES.register("Gemma3ForConditionalGeneration")
def refuse_multimodal(module: Any) -> Family:
    """Image-and-text Gemma 3: refused, with the way to its text part."""
    raise UnsupportedModel(
        "Gemma3ForConditionalGeneration takes images too, and its text part masks tokens by image blocks. "
        "Load the text part as Gemma3ForCausalLM (transformers' Gemma3ForCausalLM.from_pretrained on the same "
        "checkpoint), then pass it to model_from(module, tokenizer, name=...)."
    )


def _norm(norm: Any) -> NormFacts:
    weight = 1.0 + norm.weight.detach().float()  # the module adds the 1 in float32 too
    weight = weight if norm.weight.dtype.itemsize < 8 else 1.0 + norm.weight.detach()
    return NormFacts(kind="rms", weight=weight, bias=None, eps=norm.eps, module=norm)


def _block(layer: Any) -> BlockFacts:
    return BlockFacts(
        module=layer,
        attn=layer.self_attn,
        mlp=layer.mlp,
        attn_norm=_norm(layer.input_layernorm),
        mlp_norm=_norm(layer.pre_feedforward_layernorm),
        attn_post_norm=_norm(layer.post_attention_layernorm),
        mlp_post_norm=_norm(layer.post_feedforward_layernorm),
        **projections(layer.self_attn),
    )
