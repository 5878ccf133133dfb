"""Edits mean the same in a prefill, in a cached decode step and in a padded batch; they are stored as data."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from tests.tiny_models import VARIANTS, tiny_variant
from thoughtscope.core.errors import InvalidPlan, LimitExceeded, UnknownSite
from thoughtscope.core.site import SITE_KINDS, Site
from thoughtscope.models import Edit, capture, forward, generate, hold, hold_pattern, hooked, tokens_from_ids
from thoughtscope.models.edits import writes_of

IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 35], [8, 9, 7, 9, 3, 2, 3]]
LONG = 64


def vector(seed: int = 0, size: float = 2.0) -> torch.Tensor:
    return size * torch.randn(16, generator=torch.Generator().manual_seed(seed))


def mixed_edits(label: str) -> list[Edit]:
    """One of each operation, at several sites: everywhere, at prompt positions, and from a position on."""
    mid = "resid_post.0" if label == "gpt_neox" else "resid_mid.0"
    return [
        Edit(site=Site.parse(mid), op="add", vector=vector(1), value=0.7),
        Edit(site=Site("mlp_out", 1), op="scale", value=-1.5, start=4),
        Edit(
            site=Site("attn_in" if label == "olmo2" else "attn_norm", 1),
            op="set",
            vector=vector(2),
            positions=(2, 5, 12),
        ),
        Edit(site=Site("attn_raw", 0), op="ablate", start=12),
        Edit(site=Site("resid_post", 1), op="add", vector=vector(3), start=9),
    ]


@pytest.mark.parametrize("label", VARIANTS)
def test_cached_and_uncached_generation_agree_under_edits(label: str) -> None:
    model = tiny_variant(label)
    tokens = tokens_from_ids(model, IDS[:1])
    edits = mixed_edits(label)
    cached = generate(model, tokens, max_new_tokens=LONG, edits=edits)
    whole = generate(model, tokens, max_new_tokens=LONG, edits=edits, cache=False)
    assert torch.equal(cached.ids, whole.ids) and cached.ids.shape == (1, 10 + LONG)
    free = generate(model, tokens, max_new_tokens=LONG)
    assert not torch.equal(free.ids, cached.ids)
    # an edit that only touches generated positions must leave the first generated token alone
    late = [Edit(site=Site("resid_post", 1), op="set", vector=vector(4, 9.0), start=len(IDS[0]))]
    later = generate(model, tokens, max_new_tokens=6, edits=late)
    assert later.ids[0, 10] == free.ids[0, 10] and not torch.equal(later.ids[0, 10:], free.ids[0, 10:16])


@pytest.mark.parametrize("label", VARIANTS)
def test_edits_address_each_rows_own_positions_in_a_padded_batch(label: str) -> None:
    model = tiny_variant(label)
    edits = mixed_edits(label)
    together = generate(model, tokens_from_ids(model, IDS), max_new_tokens=12, edits=edits)
    for row, ids in enumerate(IDS):
        alone = generate(model, tokens_from_ids(model, [ids]), max_new_tokens=12, edits=edits)
        assert torch.equal(together.row(row).ids, alone.ids)
        assert together.row(row).positions.tolist() == [list(range(len(ids) + 12))]


@pytest.mark.parametrize("label", VARIANTS)
def test_values_patterns_and_scales_hold_their_meaning_under_the_cache(label: str) -> None:
    """Writes to values stay in the cache; frozen patterns and norm scales cover the prompt's columns only."""
    model = tiny_variant(label)
    block = model.family.blocks[1]
    tokens = tokens_from_ids(model, IDS[:1])
    other = capture(
        model, tokens_from_ids(model, [IDS[0][::-1]]), ["pattern.1", "v.0", "resid_pre.1", "attn_raw.1"]
    )
    made, read = ("attn_norm", "resid_pre.1") if block.attn_norm is not None else ("attn_out", "attn_raw.1")
    arguments = {
        "writes": {Site("v", 0): hold(other["v.0"]), Site("pattern", 1): hold_pattern(other["pattern.1"])},
        "norm_scales": {Site(made, 1): model.family.norms[Site(made, 1)][1].scale(other[read]) * 3},
    }
    cached = generate(model, tokens, max_new_tokens=LONG, **arguments)
    whole = generate(model, tokens, max_new_tokens=LONG, cache=False, **arguments)
    assert torch.equal(cached.ids, whole.ids)
    for name in arguments:
        one = forward(model, tokens, **{name: arguments[name]})
        assert not torch.allclose(one, forward(model, tokens), atol=1e-3)


@pytest.mark.parametrize("label", ["gpt2", "llama", "gemma3"])
def test_edits_hold_inside_the_modules_own_generate(label: str) -> None:
    model = tiny_variant(label)
    tokens = tokens_from_ids(model, IDS)
    edits = mixed_edits(label)
    ours = generate(model, tokens, max_new_tokens=12, edits=edits)
    with hooked(model, writes=writes_of(model, edits)):
        theirs = model.module.generate(
            tokens.ids, attention_mask=tokens.mask, max_new_tokens=12, do_sample=False, pad_token_id=0
        )
    assert torch.equal(ours.ids, theirs)


def test_each_operation_does_what_it_says_where_it_says() -> None:
    model = tiny_variant("llama")
    tokens = tokens_from_ids(model, IDS)
    clean = capture(model, tokens, ["resid_pre.1"])["resid_pre.1"]
    at = tokens.positions
    everywhere, chosen, from_five = at >= 0, (at == 0) | (at == 6), at >= 5
    cases = [
        (Edit(site=Site("resid_pre", 1), op="add", vector=vector()), clean + vector(), everywhere),
        (
            Edit(site=Site("resid_pre", 1), op="add", vector=vector(), value=-2.0),
            clean - 2 * vector(),
            everywhere,
        ),
        (Edit(site=Site("resid_pre", 1), op="scale", value=0.5, positions=(0, 6)), clean * 0.5, chosen),
        (
            Edit(site=Site("resid_pre", 1), op="set", vector=vector(), start=5),
            vector().expand_as(clean),
            from_five,
        ),
        (Edit(site=Site("resid_pre", 1), op="ablate", positions=(0, 6)), torch.zeros_like(clean), chosen),
    ]
    for edit, changed, where in cases:
        got = capture(model, tokens, ["resid_pre.1"], edits=[edit])["resid_pre.1"]
        assert torch.equal(got, torch.where(where[..., None], changed, clean)), edit
    several = capture(model, tokens, ["resid_pre.1"], edits=[cases[0][0], cases[2][0]])["resid_pre.1"]
    want = torch.where(chosen[..., None], (clean + vector()) * 0.5, clean + vector())
    assert torch.equal(several, torch.where(everywhere[..., None], want, clean))


def test_an_edit_of_strength_zero_and_an_empty_plan_change_no_bit() -> None:
    for label in VARIANTS:
        model = tiny_variant(label)
        tokens = tokens_from_ids(model, IDS)
        with torch.no_grad():
            before = forward(model, tokens)
            vectors = [kind for kind, row in SITE_KINDS.items() if row.is_vector]
            sites = [
                Site(kind, 1 if SITE_KINDS[kind].per_layer else None)
                for kind in vectors
                if kind not in model.family.missing
            ]
            idle = [
                Edit(site=site, op="add", vector=torch.randn(model.width(site)), value=0.0) for site in sites
            ]
            idle += [Edit(site=site, op="scale", value=1.0) for site in sites]
            idle += [Edit(site=site, op="ablate", positions=(99,)) for site in sites]
            assert torch.equal(before, forward(model, tokens, writes=writes_of(model, idle)))
            assert torch.equal(before, forward(model, tokens, writes={}))
        plain = generate(model, tokens, max_new_tokens=4)
        assert torch.equal(plain.ids, generate(model, tokens, max_new_tokens=4, edits=idle).ids)


def test_generation_stops_at_the_end_token_and_at_the_models_positions() -> None:
    model = tiny_variant("gpt2")
    tokens = tokens_from_ids(model, IDS[:1])
    free = generate(model, tokens, max_new_tokens=12)
    model.module.generation_config.eos_token_id = int(free.ids[0, 12])
    stopped = generate(model, tokens, max_new_tokens=12)
    assert stopped.ids.shape[1] <= 13 and stopped.ids[0, -1] == free.ids[0, 12]
    assert torch.equal(generate(model, tokens, max_new_tokens=12, stop_at_end=False).ids, free.ids)
    assert generate(model, tokens, max_new_tokens=0) is tokens
    with pytest.raises(LimitExceeded, match=r"need 257 positions.*has 256"):
        generate(model, tokens, max_new_tokens=247)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_edits_come_back_from_json_bit_for_bit(dtype: torch.dtype) -> None:
    for edit in mixed_edits("llama"):
        edit = edit if edit.vector is None else replace(edit, vector=edit.vector.to(dtype) / 3)
        back = Edit.from_json(json.loads(json.dumps(edit.to_json(), allow_nan=False)))
        assert back.to_json() == edit.to_json()
        assert {name: getattr(back, name) for name in ("site", "op", "value", "positions", "start")} == {
            name: getattr(edit, name) for name in ("site", "op", "value", "positions", "start")
        }
        if edit.vector is not None:
            assert back.vector.dtype == dtype and torch.equal(back.vector, edit.vector)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"site": "resid_pre.0", "op": "ablate", "strength": 2}, '"strength" is not a field of an edit'),
        ({"site": "resid_pre.0", "op": "remove"}, '"remove" is not a kind of edit'),
        ({"site": "resid_pre.0"}, '"None" is not a kind of edit'),
        ({"site": "resid_pre.0", "op": "set", "vector": {"dtype": "int4", "values": [1]}}, "int4"),
        ({"site": "resid_pre.0", "op": "set", "vector": {"values": [1]}}, "cannot be read"),
        ({"site": "resid_pre.0", "op": "set", "vector": [1.0]}, "cannot be read"),
        ({"site": "resid_pre.0", "op": "ablate", "positions": 3}, "cannot be read"),
    ],
)
def test_json_that_is_no_edit_is_refused(data: object, message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        Edit.from_json(data)


@pytest.mark.parametrize("kind", ["z", "q", "k", "v", "mlp_act"])
@pytest.mark.parametrize("label", ["gpt2", "gpt_neox", "llama", "qwen3", "olmo2"])
def test_a_direction_of_heads_or_neurons_is_added_where_it_lies(label: str, kind: str) -> None:
    """The vector is that of all heads one after another; one head's part moves that head alone."""
    model = tiny_variant(label)
    tokens = tokens_from_ids(model, IDS)
    site = Site(kind, 1)
    shape = model.shape(site)
    part = torch.zeros(shape)
    part[-1] = torch.randn(shape[1:])  # the last head, or the last neuron
    clean = capture(model, tokens, [site, "logits"])
    for op in ("add", "set"):
        edit = Edit(site=site, op=op, vector=part.flatten(), positions=(2, 4))
        found = capture(model, tokens, [site, "logits"], edits=[edit])
        where = (tokens.positions == 2) | (tokens.positions == 4)
        assert torch.equal(found[site][~where], clean[site][~where])
        want = clean[site][where] + part if op == "add" else part.expand_as(clean[site][where])
        assert torch.equal(found[site][where], want)
        assert not torch.allclose(found["logits"], clean["logits"], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"op": "add"}, "needs a vector"),
        ({"op": "scale"}, "needs a value"),
        ({"op": "ablate", "value": 2.0}, "takes no value"),
        ({"op": "scale", "value": 2.0, "vector": torch.zeros(16)}, "takes no vector"),
        ({"op": "ablate", "positions": (1,), "start": 1}, "not both"),
        ({"op": "ablate", "positions": (0, -1)}, "count from 0"),
        ({"op": "ablate", "start": -1}, "count from 0"),
        ({"op": "ablate", "site": Site("pattern", 0)}, '"pattern" is not a site that an edit can change'),
        ({"op": "ablate", "site": Site("logits")}, '"logits" is not a site'),
    ],
)
def test_an_edit_that_means_nothing_is_refused(fields: dict, message: str) -> None:
    with pytest.raises(InvalidPlan, match=message):
        Edit(**{"site": Site("resid_pre", 0), **fields})


def test_an_edit_that_does_not_fit_the_model_is_refused() -> None:
    model = tiny_variant("gpt_neox")
    tokens = tokens_from_ids(model, IDS)
    with pytest.raises(InvalidPlan, match=r"shape \(8,\), but there random-gpt_neox is 16 wide"):
        capture(model, tokens, ["logits"], edits=[Edit(site=Site("embed"), op="add", vector=torch.zeros(8))])
    with pytest.raises(UnknownSite, match=r"parallel residual"):
        generate(model, tokens, max_new_tokens=1, edits=[Edit(site=Site("resid_mid", 0), op="ablate")])
