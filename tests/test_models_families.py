"""The site table and the facts of every family, and that the probes notice when either is wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny_models import FAMILIES, VARIANTS, tiny_model, tiny_variant
from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.models import capture, model_from, tokens_from_ids
from thoughtscope.models.families import bind
from thoughtscope.models.proofs import prove

IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 35]]


@pytest.mark.parametrize("attention", ["default", "eager"])
@pytest.mark.parametrize("label", VARIANTS)
def test_every_identity_holds_on_the_real_module(label: str, attention: str) -> None:
    model = tiny_variant(
        label, layers=3, attention=None if attention == "default" else attention, prove_sites=False
    )
    errors = prove(model)
    assert len(errors) >= 14
    assert max(errors.values()) < 2e-6
    assert errors["chain: resid_post of a layer = resid_pre of the next"] == 0


@pytest.mark.parametrize("label", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_probes_accept_every_precision(label: str, dtype: torch.dtype) -> None:
    assert tiny_variant(label, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("label", VARIANTS)
def test_sites_are_what_transformers_reports(label: str) -> None:
    """An independent source: hidden states and attentions of the library itself."""
    model = tiny_variant(label, layers=3, attention="eager")
    tokens = tokens_from_ids(model, IDS)
    theirs = model.module(tokens.ids, output_hidden_states=True, output_attentions=True)
    sites = [f"{kind}.{layer}" for kind in ("resid_pre", "pattern") for layer in range(3)]
    ours = capture(model, tokens, [*sites, "final_norm", "logits"])
    for layer in range(3):
        assert torch.equal(ours[f"resid_pre.{layer}"], theirs.hidden_states[layer])
        assert torch.equal(ours[f"pattern.{layer}"], theirs.attentions[layer])
    assert torch.equal(ours["final_norm"], theirs.hidden_states[3])
    assert torch.equal(ours["logits"], theirs.logits)


def test_norm_weights_biases_and_groups_are_not_at_their_comfortable_defaults() -> None:
    for label in VARIANTS:
        model = tiny_variant(label)
        block = model.family.blocks[0]
        norms = [
            block.attn_norm,
            block.mlp_norm,
            model.family.final_norm,
            block.attn_post_norm,
            block.mlp_post_norm,
        ]
        norms += [block.q_norm, block.k_norm]
        for norm in filter(None, norms):
            assert (norm.weight - 1).abs().mean() > 0.2
            assert norm.bias is None or norm.bias.abs().mean() > 0.1
        grouped = not label.startswith("gpt")
        assert block.group == (2 if grouped else 1)
        assert (block.b_V is not None) == (
            label in ("gpt2", "gpt_neox", "gpt_neox_sequential", "qwen2", "qwen3")
        )


def _with_block(model, layer=1, **changes):
    blocks = list(model.family.blocks)
    blocks[layer] = replace(blocks[layer], **changes)
    return replace(model, family=replace(model.family, blocks=tuple(blocks)))


def _with_projection(model, which, **changes):
    return _with_block(model, **{which: replace(getattr(model.family.blocks[1], which), **changes)})


def _wrong_norms(model):
    family, block = model.family, model.family.blocks[1]
    if block.attn_norm is not None:
        norm = replace(block.attn_norm, weight=block.attn_norm.weight + 0.1)
        yield "norm before attn", _with_block(model, attn_norm=norm)
        yield (
            "norm before mlp",
            _with_block(model, mlp_norm=replace(block.mlp_norm, weight=block.mlp_norm.weight - 1)),
        )
        other = "rms" if block.mlp_norm.kind == "layer" else "layer"
        yield "norm before mlp", _with_block(model, mlp_norm=replace(block.mlp_norm, kind=other))
        yield "no norm before attn", _with_block(model, attn_norm=None)
    yield "final norm", replace(model, family=replace(family, final_norm=replace(family.final_norm, eps=0.5)))
    yield "unembedding", replace(model, family=replace(family, final_norm=None))
    if block.attn_post_norm is not None:
        yield "resid_pre", _with_block(model, attn_post_norm=None)
        yield "resid_pre", _with_block(model, mlp_post_norm=None)


def _wrong_heads(model):
    block = model.family.blocks[1]
    for letter, which in (("Q", "queries"), ("K", "keys"), ("V", "values")):
        projection = getattr(block, which)
        turned = projection.weight.flip(0) if len(projection.weight) > 1 else -projection.weight
        yield f"W_{letter} and b_{letter}", _with_projection(model, which, weight=turned)
        if projection.bias is not None:
            yield f"W_{letter} and b_{letter}", _with_projection(model, which, bias=None)
        if projection.norm is not None:
            yield "scores of q and k", _with_projection(model, which, norm=None)
            wrong = replace(projection.norm, weight=projection.norm.weight.flip(0))
            yield "scores of q and k", _with_projection(model, which, norm=wrong)
    yield "W_O and b_O", _with_block(model, W_O=block.W_O.flip(0))
    if block.b_O is not None:
        yield "W_O and b_O", _with_block(model, b_O=None)
    yield "scores of q and k", _with_block(model, scaling=block.scaling * 1.1)
    yield "scores of q and k", _with_block(model, soft_cap=None if block.soft_cap else 2.0)
    yield "window", _with_block(model, window=None if block.window else 5)
    yield "window", _with_block(model, window=(block.window or 5) - 1)
    if block.rotary is not None:
        angles = block.rotary.angles
        late = replace(block.rotary, angles=lambda x, positions: angles(x, 2 * positions))
        back = replace(block.rotary, angles=lambda x, positions: angles(x, -positions))
        for wrong in (None, late, back):
            yield "scores of q and k", _with_block(model, rotary=wrong)


def _wrong_neurons(model):
    neurons = model.family.blocks[1].neurons
    within = lambda **changes: _with_block(model, neurons=replace(neurons, **changes))
    yield "W_in, W_gate", within(W_in=neurons.W_in.flip(1))
    yield "W_in, W_gate", within(act=torch.tanh)
    yield "W_out and b_out", within(W_out=neurons.W_out.flip(0))
    if neurons.W_gate is not None:
        yield "W_in, W_gate", within(W_gate=None)
        yield "W_in, W_gate", within(W_gate=neurons.W_in, W_in=neurons.W_gate)
    for name, identity in (
        ("b_in", "W_in, W_gate"),
        ("b_gate", "W_in, W_gate"),
        ("b_out", "W_out and b_out"),
    ):
        if getattr(neurons, name) is not None:
            yield identity, within(**{name: None})


def _wrong_tables(model):
    """Facts with one mistake each, of the kinds that are easy to make: every fact is wrong once."""
    family = model.family
    yield from _wrong_norms(model)
    yield from _wrong_heads(model)
    yield from _wrong_neurons(model)
    yield "unembedding", replace(model, family=replace(family, unembed=family.unembed.flip(0)))
    cap = None if family.logit_soft_cap else 2.0
    yield "unembedding", replace(model, family=replace(family, logit_soft_cap=cap))
    yield "chain", replace(model, family=replace(family, blocks=family.blocks[::-1]))


@pytest.mark.parametrize("label", VARIANTS)
def test_probes_refuse_a_wrong_table_and_name_the_identity(label: str) -> None:
    model = tiny_variant(label)
    cases = list(_wrong_tables(model))
    assert len(cases) >= 20
    for expected, wrong in cases:
        with pytest.raises(UnsupportedModel, match=expected):
            prove(wrong)


def test_a_wrong_block_layout_is_refused() -> None:
    """Parallel NeoX declared sequential, and the other way round."""
    for parallel in (True, False):
        model = tiny_model("gpt_neox", use_parallel_residual=parallel)
        blocks = tuple(replace(block, parallel=not parallel) for block in model.family.blocks)
        with pytest.raises(UnsupportedModel, match=r"fails"):
            prove(replace(model, family=replace(model.family, blocks=blocks)))


def test_a_modified_module_is_refused() -> None:
    """A module that adds something to the residual behind the table's back."""
    model = tiny_model("llama")
    handle = model.module.model.layers[1].register_forward_hook(lambda module, args, output: output * 1.01)
    with pytest.raises(UnsupportedModel, match=r"resid_post.*layer 1"):
        model_from(model.module, name="altered")
    handle.remove()
    model_from(model.module, name="restored")


def test_family_comes_from_the_architecture_not_from_a_name() -> None:
    model = tiny_model("llama")
    model.module.config._name_or_path = "someone/gpt2-llama-gemma"
    assert bind(model.module).name == "llama"
    with pytest.raises(
        UnsupportedModel, match=r'"Linear" is not a supported model architecture.*GPT2LMHeadModel'
    ):
        module = torch.nn.Linear(2, 2)
        module.config = type("Config", (), {"architectures": None})()
        bind(module)


def test_the_matrices_of_heads_and_neurons_are_views_of_the_weights() -> None:
    """A trained step is seen at once, and no memory is copied."""
    for family in FAMILIES:
        model = tiny_model(family)
        block = model.family.blocks[0]
        assert block.W_O.untyped_storage().data_ptr() == block.o_module.weight.untyped_storage().data_ptr()
        for projection in (block.queries, block.keys, block.values):
            owned = projection.module.weight.untyped_storage().data_ptr()
            assert projection.weight.untyped_storage().data_ptr() == owned
        out = block.neurons.out_module.weight
        assert block.neurons.W_out.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()


def test_multimodal_gemma_is_refused_with_the_way_out() -> None:
    module = torch.nn.Module()
    module.config = type("Config", (), {"architectures": ["Gemma3ForConditionalGeneration"]})()
    module.__class__ = type("Gemma3ForConditionalGeneration", (torch.nn.Module,), {})
    with pytest.raises(UnsupportedModel, match=r"Gemma3ForCausalLM"):
        bind(module)


@pytest.mark.parametrize("label", VARIANTS)
def test_frozen_norms_are_linear_in_their_input(label: str) -> None:
    model = tiny_variant(label, dtype=torch.float64)
    block = model.family.blocks[0]
    for norm in filter(None, (block.attn_norm, block.mlp_norm, block.attn_post_norm, block.mlp_post_norm)):
        x, y = torch.randn(2, 1, 5, 16, dtype=torch.float64)
        scale = norm.scale(x)
        assert torch.allclose(norm.apply(x, scale), norm.module(x), atol=1e-12)
        constant = norm.apply(torch.zeros_like(x), scale)
        both = norm.apply(x + 3 * y, scale) - constant
        parts = (norm.apply(x, scale) - constant) + 3 * (norm.apply(y, scale) - constant)
        assert torch.allclose(both, parts, atol=1e-12)
        assert not torch.allclose(norm.apply(x + 3 * y), norm.apply(x + 3 * y, scale), atol=1e-3)


def test_a_field_may_be_named_as_the_family_or_as_everyone_names_it() -> None:
    for sizes in ({"n_embd": 24, "n_head": 3}, {"hidden_size": 24, "num_attention_heads": 3}):
        model = tiny_model("gpt2", **sizes)
        assert (model.d_model, model.n_heads) == (24, 3)
