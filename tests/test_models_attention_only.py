"""A family of a third party, described in this file alone: blocks of attention without MLP and without any norm.

The toy models of Elhage et al. 2021 ("A Mathematical Framework for Transformer Circuits") are of this kind. Its facts
go in through the registry, and every layer above takes what is absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from tests.dictionary_oracle import random_coder
from thoughtscope.core.errors import DictionaryMismatch, UnknownSite, UnsupportedModel
from thoughtscope.core.site import GLOBAL_KINDS, LAYER_KINDS, Site
from thoughtscope.dictionaries import encode
from thoughtscope.graphs import attribute
from thoughtscope.graphs.linear import linearise
from thoughtscope.models import Edit, Model, capture, forward, generate, model_from, tokens_from_ids
from thoughtscope.models.families import FAMILIES, Architecture, BlockFacts, Family
from thoughtscope.models.families.gpt2 import attention
from thoughtscope.models.proofs import prove

IDS = [[3, 1, 4, 1, 5, 9, 2, 6], [8, 9, 7, 9]]


class AttentionOnly(nn.Module):
    """Token and position embeddings, residual blocks of attention, an unembedding."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.unembed = nn.Linear(config.n_embd, config.vocab_size, bias=True)

    def forward(
        self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None
    ):
        x = self.tokens(input_ids) + self.positions(position_ids)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=x,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        for block in self.blocks:
            x = block(x, mask, past_key_values)
        return CausalLMOutput(logits=self.unembed(x))


class Block(nn.Module):
    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.attn = GPT2Attention(config, layer_idx=layer)

    def forward(self, x, mask, cache):
        return x + self.attn(x, attention_mask=mask, past_key_values=cache)[0]


def bind(module: Any) -> Family:
    return Family(
        name="attention-only",
        blocks=tuple(
            BlockFacts(
                module=block,
                attn=block.attn,
                mlp=None,
                attn_norm=None,
                mlp_norm=None,
                **attention(block.attn),
            )
            for block in module.blocks
        ),
        final_norm=None,
        unembed=module.unembed.weight,
        unembed_bias=module.unembed.bias,
        embed_module=module.tokens,
        config=module.config,
    )


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    FAMILIES.register("AttentionOnly")(Architecture(family="attention-only", bind=bind))
    yield
    del FAMILIES._entries["AttentionOnly"]


def toy(*, layers: int = 3, attention: str = "sdpa") -> Model:
    config = GPT2Config(
        bos_token_id=None,
        eos_token_id=None,
        vocab_size=60,
        n_embd=16,
        n_head=4,
        n_layer=layers,
        n_positions=64,
    )
    config.architectures = ["AttentionOnly"]
    config._attn_implementation = attention
    module = AttentionOnly(config)
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if name.endswith("bias") else 0.25)
    return model_from(module.requires_grad_(False), name="toy")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_its_facts_are_proved_and_its_sites_captured_without_changing_a_bit(attention: str) -> None:
    model = toy(attention=attention)
    assert max(prove(model).values()) < 2e-6
    missing = {kind for kind in (*LAYER_KINDS, *GLOBAL_KINDS) if kind in model.family.missing}
    assert missing == {"attn_norm", "resid_mid", "final_norm"} | {
        k for k in LAYER_KINDS if k.startswith("mlp")
    }
    sites = [Site(kind, layer) for layer in range(3) for kind in LAYER_KINDS if kind not in missing]
    sites += [Site("embed"), Site("logits")]
    tokens = tokens_from_ids(model, IDS)
    plain = model.module(tokens.ids, tokens.mask, tokens.positions.clamp(min=0)).logits
    found = capture(model, tokens, sites)
    assert torch.equal(found["logits"], plain)
    copies = {site: lambda x, step: x.clone() for site in sites}
    with torch.no_grad():
        assert torch.equal(forward(model, tokens, writes=copies), plain)
    for layer in range(3):
        assert torch.equal(found[f"attn_in.{layer}"], found[f"resid_pre.{layer}"])
        total = found[f"resid_pre.{layer}"] + found[f"attn_out.{layer}"]
        assert torch.equal(total, found[f"resid_post.{layer}"])


def test_what_it_lacks_is_refused_with_the_reason() -> None:
    model = toy()
    for site, reason in (
        ("mlp_out.0", "attention only, no MLP"),
        ("mlp_act.1", "attention only, no MLP"),
        ("resid_mid.0", "nothing lies between"),
        ("attn_norm.2", "see attn_in"),
        ("final_norm", "reads resid_post"),
    ):
        with pytest.raises(UnknownSite, match=reason):
            model.site(site)
    coder = random_coder(model, ["resid_post.1"])
    assert len(encode(coder, capture(model, tokens_from_ids(model, IDS[0]), coder.sites)))
    with pytest.raises(DictionaryMismatch, match="features that stand in for MLPs"):
        attribute(model, coder, tokens_from_ids(model, IDS[0]))


def test_wrong_facts_are_refused() -> None:
    model = toy()
    family, block = model.family, model.family.blocks[1]
    values = replace(block.values, bias=None)
    for wrong in (
        replace(family, unembed_bias=None),
        replace(family, blocks=(family.blocks[0], replace(block, values=values), family.blocks[2])),
        replace(family, blocks=family.blocks[::-1]),
    ):
        with pytest.raises(UnsupportedModel, match="fails"):
            prove(replace(model, family=wrong))


def test_edits_mean_the_same_with_and_without_a_cache() -> None:
    model = toy()
    tokens = tokens_from_ids(model, IDS)
    edits = [
        Edit(site=Site("attn_in", 1), op="add", vector=torch.randn(16), start=5),
        Edit(site=Site("k", 2), op="scale", value=3.0, positions=(1, 6)),
    ]
    cached = generate(model, tokens, max_new_tokens=12, edits=edits)
    assert torch.equal(cached.ids, generate(model, tokens, max_new_tokens=12, edits=edits, cache=False).ids)
    assert not torch.equal(cached.ids, generate(model, tokens, max_new_tokens=12).ids)


def test_with_its_patterns_frozen_the_whole_model_is_one_linear_map() -> None:
    """Embedding through every block's attention and constant to the logits: nothing else is left."""
    model = toy()
    tokens = tokens_from_ids(model, IDS[0])
    frozen, _ = linearise(model, tokens)
    stream = frozen.embed
    for block in frozen.blocks:
        stream = stream + block.attend(stream) + block.constant
    torch.testing.assert_close(stream, frozen.final_hidden, atol=1e-5, rtol=1e-5)
    logits = model.family.to_logits(frozen.final.linear(stream))
    torch.testing.assert_close(logits, frozen.logits, atol=1e-5, rtol=1e-5)
    # and its transpose is the adjoint: <attend(x), g> = <x, attend_transpose(g)>
    x, g = torch.randn(2, *stream.shape)
    for block in frozen.blocks:
        back = block.attend_transpose(g[:, None])[:, 0]
        torch.testing.assert_close((block.attend(x) * g).sum(), (x * back).sum(), atol=1e-4, rtol=1e-4)
