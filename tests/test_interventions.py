"""Interventions as identities: what an edit adds up to, in every mode, on every family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.autograd_oracle import random_dictionary
from tests.tiny_models import VARIANTS, tiny_model, tiny_variant
from thoughtscope.core.errors import (
    DictionaryMismatch,
    InvalidPlan,
    LimitExceeded,
    ThoughtscopeError,
    UnknownFeature,
)
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, encode
from thoughtscope.graphs import Graph, attribute
from thoughtscope.graphs.graph import FEATURE
from thoughtscope.interventions import DirectionEdit, FeatureEdit, Plan, intervene, intervene_many, plan
from thoughtscope.interventions.clean import clean_run
from thoughtscope.interventions.outcome import confirms
from thoughtscope.interventions.patch import Patch
from thoughtscope.models import Model, Tokens, capture, forward, generate, hooked, tokenize, tokens_from_ids
from thoughtscope.models.hooks import run

IDS = [256, 84, 104, 101, 32, 99, 97, 116]


def logits_of(model: Model, dictionary: Dictionary, tokens: Tokens, *plans: Plan) -> tuple[Tensor, Patch]:
    """Logits (batch, pos, vocab) under the plans, a row each, and the patch that made them."""
    clean = clean_run(model, dictionary, tokens, plans)
    patch = Patch(model, dictionary, clean, plans, columns=tokens.ids.shape[1], watch=True)
    rows = len(plans)
    with (
        torch.no_grad(),
        hooked(model, reads=patch.reads, writes=patch.writes, norm_scales=patch.norm_scales),
    ):
        return run(model, tokens.ids.expand(rows, -1), tokens.mask.expand(rows, -1)), patch


def some_edits(dictionary: Dictionary, tokens: Tokens, model: Model) -> tuple[FeatureEdit, ...]:
    """Edits of every kind on active features of every layer."""
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    edits = []
    for layer in range(dictionary.n_layers):
        rows = (features.layer == layer).nonzero()[:, 0].tolist()
        for row, op in zip(rows[1::3], ("scale", "set", "add", "ablate"), strict=False):
            value = {"scale": -1.5, "set": 0.7, "add": 0.4, "ablate": 0.0}[op]
            at = (int(features.position[row]),)
            edits.append(
                FeatureEdit(layer=layer, index=int(features.index[row]), op=op, value=value, positions=at)
            )
    return tuple(edits)


@pytest.fixture(scope="module")
def llama() -> tuple[Model, Dictionary, Tokens]:
    model = tiny_model("llama", layers=3)
    return (
        model,
        random_dictionary(model, cross_layer=True, activation="jumprelu"),
        tokens_from_ids(model, IDS),
    )


# --- direct effects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "options"),
    [
        *((label, {"cross_layer": True}) for label in VARIANTS),
        ("gpt2", {"skip": True, "read": "mlp_norm"}),
        ("qwen3", {"skip": True, "activation": "jumprelu"}),
        ("gemma2", {"write": "mlp_raw", "cross_layer": True, "activation": "jumprelu"}),
        ("gpt_neox_sequential", {"read": "resid_mid", "cross_layer": True}),
    ],
)
def test_with_everything_held_the_effect_is_the_sum_of_the_graphs_edges(label: str, options: dict) -> None:
    """Frozen patterns and norms, all layers constrained: logits and pre-activations move by edge sums exactly."""
    model = tiny_variant(label, layers=3)
    dictionary = random_dictionary(model, **options)
    tokens = tokens_from_ids(model, IDS)
    graph = attribute(model, dictionary, tokens, targets=[3, 17, 99])
    held = Plan(edits=some_edits(dictionary, tokens, model), constrained=(0, 2)).predicted(graph)
    assert held.prediction is not None
    share = edited_share(graph, held)
    assert held.prediction.edited == (share != 0).sum() >= 6
    expected = graph.edges @ share
    assert abs(expected).max() > 0.01

    logits, patch = logits_of(model, dictionary, tokens, held)
    before = forward(model, tokens)
    assert before is not None
    cap = model.family.logit_soft_cap
    moved = uncapped(logits[0, -1], cap) - uncapped(before[0, -1], cap)
    for target, predicted in zip(graph.targets, held.prediction.changes, strict=True):
        assert float(moved[target.vocab_id]) == pytest.approx(expected[target.node], abs=2e-4)
        assert predicted.change == pytest.approx(expected[target.node], abs=1e-6)
    for row in (graph.kind == FEATURE).nonzero()[0]:
        layer, position, index = (int(x[row]) for x in (graph.layer, graph.position, graph.index))
        inputs = (patch.inputs[layer][0, position], patch.clean.inputs[layer][0, position])
        after, clean = (dictionary.preactivations(layer, x)[index] for x in inputs)
        assert float(after - clean) == pytest.approx(expected[row], abs=1e-4)


def edited_share(graph: Graph, held: Plan) -> torch.Tensor:
    """By node, the wanted activation over the clean one, less 1; written without `fold`.

    Features that reach no target are no nodes: they add nothing to any row.
    """
    share = torch.zeros(len(graph), dtype=torch.float64)
    rows = {str(node_id): row for row, node_id in enumerate(graph.node_ids())}
    for edit in held.feature_edits:
        assert edit.positions is not None
        node = rows.get(f"feature:{edit.layer}:{edit.positions[0]}:{edit.index}")
        if node is None:
            assert edit.layer == graph.n_layers - 1, "only the last layer's features can be without a way on"
            continue
        value = float(graph.value[node])
        wanted = {"scale": edit.value * value, "set": edit.value, "add": value + edit.value, "ablate": 0.0}[
            edit.op
        ]
        share[node] = wanted / value - 1
    return share.numpy()


def uncapped(logits: Tensor, cap: float | None) -> Tensor:
    logits = logits.double() if cap is None else cap * torch.atanh(logits.double() / cap)
    return logits - logits.mean()


def test_direct_effects_of_single_ablations_confirm_every_prediction(llama) -> None:
    model, dictionary, tokens = llama
    graph = attribute(model, dictionary, tokens)
    nodes = [graph.node_id(row) for row in range(0, len(graph), 9) if graph.kind[row] == FEATURE]
    plans = [plan(graph, node, ablate=True, constrained=(0, 2)) for node in nodes]
    for outcome in intervene_many(model, dictionary, tokens, plans, changes=0):
        prediction = outcome.plan.prediction
        assert prediction is not None and prediction.edited == 1
        assert outcome.logit_change == pytest.approx(prediction.of(outcome.answer_id), abs=5e-5)
        assert outcome.prediction_confirmed in (True, None)
        wrong = replace(prediction, changes=tuple(replace(c, change=-c.change) for c in prediction.changes))
        again = confirms(replace(outcome.plan, prediction=wrong), outcome.answer_id, outcome.logit_change)
        assert again is (None if outcome.prediction_confirmed is None else False)


def test_additions_add_up_where_everything_is_held(llama) -> None:
    model, dictionary, tokens = llama
    a, b = (
        Plan(
            edits=(FeatureEdit(layer=layer, index=3, op="add", value=0.8, positions=(5, 7)),),
            constrained=(0, 2),
        )
        for layer in (0, 2)
    )
    logits, _ = logits_of(model, dictionary, tokens, a, b, a | b, a | a)
    before = forward(model, tokens)
    change = logits - before
    assert float(change[:2].abs().amax((1, 2)).min()) > 0.01
    torch.testing.assert_close(change[2], change[0] + change[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(change[3], 2 * change[0], atol=1e-5, rtol=0)


# --- the operations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["frozen", "free"])
@pytest.mark.parametrize("constrained", [None, (1, 1), (0, 2)])
def test_ablate_is_set_0_is_scale_0(llama, attention, constrained) -> None:
    model, dictionary, tokens = llama
    edits = [replace(edit, op="ablate", value=0.0) for edit in some_edits(dictionary, tokens, model)]
    plans = [
        Plan(
            edits=tuple(replace(edit, op=op) for edit in edits), attention=attention, constrained=constrained
        )
        for op in ("ablate", "set", "scale")
    ]
    first, *others = (logits_of(model, dictionary, tokens, each)[0] for each in plans)
    assert not torch.equal(first, forward(model, tokens))
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("attention", ["frozen", "free"])
def test_a_set_feature_ends_at_its_value_whatever_happens_below(llama, attention) -> None:
    """Its live activation moves with the edits of lower layers; what is added makes up for exactly that."""
    model, dictionary, tokens = llama
    low = [
        replace(edit, op="set", value=3.0)
        for edit in some_edits(dictionary, tokens, model)
        if edit.layer == 0
    ]
    high = FeatureEdit(layer=2, index=4, op="set", value=1.25)
    _, patch = logits_of(model, dictionary, tokens, Plan(edits=(*low, high), attention=attention))
    live, clean = (dictionary.activations(2, x[0])[1:, 4] for x in (patch.inputs[2], patch.clean.inputs[2]))
    assert float((live - clean).abs().max()) > 0.01
    torch.testing.assert_close(live + patch.deltas[2][0, 1:, 0], torch.full_like(live, 1.25))


def test_scale_refers_to_the_clean_run_when_attention_is_frozen_and_to_the_live_one_when_free(llama) -> None:
    model, dictionary, tokens = llama
    low = tuple(
        replace(edit, op="set", value=3.0)
        for edit in some_edits(dictionary, tokens, model)
        if edit.layer == 0
    )
    high = FeatureEdit(layer=2, index=4, op="scale", value=-2.0)
    for attention in ("frozen", "free"):
        _, patch = logits_of(model, dictionary, tokens, Plan(edits=(*low, high), attention=attention))
        live, clean = (
            dictionary.activations(2, x[0])[1:, 4] for x in (patch.inputs[2], patch.clean.inputs[2])
        )
        reference = clean if attention == "frozen" else live
        torch.testing.assert_close(live + patch.deltas[2][0, 1:, 0], -2 * reference)


def test_edits_of_one_feature_apply_in_order(llama) -> None:
    model, dictionary, tokens = llama
    add = Plan(edits=(FeatureEdit(layer=1, index=2, op="add", value=0.5, positions=(7,)),))
    double = Plan(edits=(FeatureEdit(layer=1, index=2, op="scale", value=2.0, positions=(7,)),))
    put = Plan(edits=(FeatureEdit(layer=1, index=2, op="set", value=0.3, positions=(7,)),))
    wanted = {  # by hand, from the clean activation a
        add | double: lambda a: 2 * (a + 0.5),
        double | add: lambda a: 2 * a + 0.5,
        add | put: lambda a: 0.3,
        put | add | double: lambda a: 1.6,
    }
    a = dictionary.activations(1, capture(model, tokens, [dictionary.reads[1]])[dictionary.reads[1]])[0, 7, 2]
    for several, expected in wanted.items():
        single = Plan(
            edits=(FeatureEdit(layer=1, index=2, op="set", value=float(expected(a)), positions=(7,)),)
        )
        torch.testing.assert_close(
            logits_of(model, dictionary, tokens, several)[0], logits_of(model, dictionary, tokens, single)[0]
        )
    back = double | Plan(edits=(FeatureEdit(layer=1, index=2, op="scale", value=0.5, positions=(7,)),))
    assert torch.equal(logits_of(model, dictionary, tokens, back)[0], forward(model, tokens))


def test_free_running_reproduces_a_hand_written_hook(llama) -> None:
    """Flip one layer-0 feature at all positions: plain PyTorch hooks on the MLP modules, nothing of ours."""
    model, dictionary, tokens = llama
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    index, seen = int(features.index[(features.layer == 0) & (features.position == 7)][0]), {}
    weights = dictionary.layers[0]
    handles = []
    for layer, block in enumerate(model.module.model.layers):

        def hook(module, args, output, layer=layer):
            if layer == 0:
                pre = args[0] @ weights.W_enc[index] + weights.b_enc[index]
                seen["a"] = torch.where(pre > weights.threshold[index], pre, torch.zeros(()))
                seen["a"][:, 0] = 0  # no feature counts as active at the first token
            return output - 2 * seen["a"][..., None] * weights.decoder[index, layer]

        handles.append(block.mlp.register_forward_hook(hook))
    with torch.no_grad():
        expected = model.module(tokens.ids).logits
    for handle in handles:
        handle.remove()
    assert float(seen["a"].max()) > 0
    flip = Plan(edits=(FeatureEdit(layer=0, index=index, op="scale", value=-1.0),), attention="free")
    torch.testing.assert_close(logits_of(model, dictionary, tokens, flip)[0], expected, atol=1e-5, rtol=1e-5)


def test_frozen_attention_keeps_the_patterns_and_free_attention_does_not(llama) -> None:
    model, dictionary, tokens = llama
    edits = tuple(replace(edit, op="set", value=4.0) for edit in some_edits(dictionary, tokens, model))
    clean = capture(model, tokens, ["pattern.2"])["pattern.2"]
    for attention, kept in (("frozen", True), ("free", False)):
        acts: dict[str, Tensor] = {}
        prepared = Plan(edits=edits, attention=attention)
        clean_pass = clean_run(model, dictionary, tokens, [prepared])
        patch = Patch(model, dictionary, clean_pass, [prepared], columns=len(IDS), watch=False)
        with torch.no_grad(), hooked(model, reads=patch.reads, writes=patch.writes):
            read = {Site("pattern", 2): lambda x, step, acts=acts: acts.update(pattern=x)}
            forward(model, tokens, reads=read)
        assert torch.equal(acts["pattern"], clean) is kept


def test_a_constrained_range_holds_its_mlps_and_leaves_the_others_running(llama) -> None:
    model, dictionary, tokens = llama
    edits = tuple(edit for edit in some_edits(dictionary, tokens, model) if edit.layer == 0)
    clean = capture(model, tokens, ["mlp_out.1", "mlp_out.2"])
    seen: dict[Site, Tensor] = {}
    held = Plan(edits=edits, constrained=(0, 1))
    clean_pass = clean_run(model, dictionary, tokens, [held])
    patch = Patch(model, dictionary, clean_pass, [held], columns=len(IDS), watch=False)
    assert patch.norm_scales == {}
    with torch.no_grad(), hooked(model, reads=patch.reads, writes=patch.writes):
        sites = (Site("mlp_out", 1), Site("mlp_out", 2))
        forward(
            model, tokens, reads={site: lambda x, step, site=site: seen.update({site: x}) for site in sites}
        )
    index = patch.edits[0].index
    for layer, running in ((1, False), (2, True)):
        written = patch.deltas[0] @ dictionary.decoder_rows(0, index)[:, layer]
        rest = seen[Site("mlp_out", layer)] - written - clean[f"mlp_out.{layer}"]
        assert (float(rest.abs().max()) > 1e-3) is running


# --- the same everywhere --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "attention", "constrained"),
    [
        ("gpt2", "free", None),
        ("llama", "frozen", (0, 1)),
        ("gemma2", "frozen", None),
        ("gemma2", "frozen", (0, 1)),
        ("gpt_neox", "frozen", None),
    ],
)
def test_generation_with_a_cache_equals_generation_without(label, attention, constrained) -> None:
    model = tiny_variant(label)
    dictionary = random_dictionary(model, cross_layer=True, activation="jumprelu")
    tokens = tokens_from_ids(model, IDS)
    steered = Plan(
        edits=(
            *some_edits(dictionary, tokens, model),
            FeatureEdit(layer=0, index=1, op="add", value=1.5, start=4),
            FeatureEdit(layer=1, index=2, op="scale", value=-3.0),
            DirectionEdit(
                site=Site("resid_post", 0), op="add", vector=torch.ones(model.d_model), start=6, value=0.3
            ),
        ),
        attention=attention,
        constrained=constrained,
    )
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    told = {}
    for cache in (True, False):
        clean_pass = clean_run(model, dictionary, tokens, [steered])
        patch = Patch(model, dictionary, clean_pass, [steered], columns=len(IDS) + 5, watch=True)
        read = {Site("logits"): lambda x, step, cache=cache: seen[cache].append(x[0, -1])}
        with hooked(model, reads=patch.reads | read, writes=patch.writes, norm_scales=patch.norm_scales):
            generate(model, tokens, max_new_tokens=5, cache=cache)
        outcome = intervene(model, dictionary, tokens, steered, max_new_tokens=5, cache=cache)
        told[cache] = (outcome.generation_before, outcome.generation_after)
    torch.testing.assert_close(torch.stack(seen[True]), torch.stack(seen[False]), atol=1e-4, rtol=1e-4)
    assert told[True] == told[False]
    assert told[True][0] != told[True][1]


@pytest.mark.parametrize(
    ("label", "attention", "constrained"),
    [
        ("gpt2", "free", None),
        ("llama", "frozen", (0, 1)),
        ("gemma3", "frozen", None),
        ("gemma3", "frozen", (0, 1)),
        ("gpt_neox", "frozen", None),
    ],
)
def test_padding_on_the_left_changes_nothing(label, attention, constrained) -> None:
    model = tiny_variant(label)
    dictionary = random_dictionary(model, cross_layer=True)
    alone = tokens_from_ids(model, IDS)
    both = tokens_from_ids(model, [IDS, [*IDS, 1, 2, 3]])
    padded = Tokens(
        ids=both.ids[:1],
        mask=both.mask[:1],
        texts=both.texts[:1],
        pieces=both.pieces[:1],
        offsets=both.offsets[:1],
    )
    edits = (
        *some_edits(dictionary, alone, model),
        FeatureEdit(layer=1, index=2, op="set", value=0.8),
        DirectionEdit(site=Site("resid_post", 0), op="scale", value=0.5, positions=(3,)),
    )
    steered = Plan(edits=edits, attention=attention, constrained=constrained)
    first, second = (
        intervene(model, dictionary, each, steered, max_new_tokens=3) for each in (alone, padded)
    )
    assert first.kl > 1e-4
    assert second.kl == pytest.approx(first.kl, rel=1e-3)
    assert second.after.probabilities == pytest.approx(first.after.probabilities, abs=1e-5)
    assert second.generation_after == first.generation_after
    assert [(c.layer, c.position) for c in second.feature_changes[:5]] == [
        (c.layer, c.position) for c in first.feature_changes[:5]
    ]


def test_many_plans_in_one_pass_equal_one_at_a_time(llama) -> None:
    model, dictionary, tokens = llama
    edits = some_edits(dictionary, tokens, model)
    direction = DirectionEdit(
        site=dictionary.writes[1], op="add", vector=torch.ones(model.d_model), value=0.5
    )
    plans = [
        Plan(),
        *(Plan(edits=(edit,)) for edit in edits[::3]),
        Plan(edits=edits, attention="free"),
        Plan(edits=(edits[0], direction)),
        Plan(edits=(direction,)),
        Plan(edits=edits[:3], constrained=(0, 2)),
        Plan(edits=edits[:2], constrained=(0, 2)),
    ]
    done: list[tuple[int, int]] = []
    outcomes = intervene_many(
        model, dictionary, tokens, plans, answer=[None, *range(len(plans) - 1)], max_new_tokens=1, batch=4,
        progress=lambda n, total: done.append((n, total)),
    )  # fmt: skip
    assert done[-1] == (len(plans), len(plans))
    for number, (each, outcome) in enumerate(zip(plans, outcomes, strict=True)):
        alone = intervene(
            model, dictionary, tokens, each, answer=number - 1 if number else None, max_new_tokens=1
        )
        assert outcome.plan is each
        assert outcome.answer_id == alone.answer_id
        assert outcome.kl == pytest.approx(alone.kl, rel=1e-3, abs=1e-9)
        assert outcome.logit_change == pytest.approx(alone.logit_change, abs=1e-5)
        assert outcome.generation_after == alone.generation_after
        assert [c.index for c in outcome.feature_changes[:3]] == [c.index for c in alone.feature_changes[:3]]


@pytest.mark.parametrize("label", list(VARIANTS))
def test_an_empty_plan_changes_no_logit_and_no_feature(label: str) -> None:
    model = tiny_variant(label)
    dictionary = random_dictionary(model)
    tokens = tokens_from_ids(model, IDS)
    before = forward(model, tokens)
    for empty in (Plan(), Plan(constrained=(0, 1)), Plan() | Plan(attention="free")):
        logits, _ = logits_of(model, dictionary, tokens, empty)
        assert torch.equal(logits, before)
    outcome = intervene(model, dictionary, tokens, Plan(), max_new_tokens=1)
    assert outcome.before == outcome.after and outcome.kl == 0 and outcome.feature_changes == ()
    assert outcome.generation_before == outcome.generation_after
    same = FeatureEdit(layer=0, index=1, op="scale", value=1.0)
    neutral = Plan(edits=(same, FeatureEdit(layer=1, index=1, op="add", value=0.0)))
    assert torch.equal(logits_of(model, dictionary, tokens, neutral)[0], before)


def test_half_precision_and_the_sdpa_and_eager_paths() -> None:
    for family, attention in (("gemma2", "eager"), ("gemma3", "sdpa")):
        model = tiny_model(family, layers=2, dtype=torch.bfloat16, attention=attention)
        dictionary = random_dictionary(model, cross_layer=True)
        tokens = tokens_from_ids(model, IDS)
        edits = some_edits(dictionary, tokens, model)
        for constrained in (None, (0, 1)):
            outcome = intervene(
                model, dictionary, tokens, Plan(edits=edits, constrained=constrained), max_new_tokens=2
            )
            assert outcome.kl > 0
        assert torch.equal(logits_of(model, dictionary, tokens, Plan())[0], forward(model, tokens))


# --- what is reported -----------------------------------------------------------------------------------------


def test_outcome_figures_are_those_of_the_logits(llama) -> None:
    model, dictionary, tokens = llama
    changed = Plan(edits=some_edits(dictionary, tokens, model))
    outcome = intervene(model, dictionary, tokens, changed, answer=65, top=4)
    logits, patch = logits_of(model, dictionary, tokens, changed)
    p, q = (x[0, -1].double().softmax(-1) for x in (forward(model, tokens), logits))
    assert outcome.kl == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-6)
    assert outcome.answer == "A" and outcome.answer_id == 65
    assert outcome.rank_before == 1 + int((p > p[65]).sum()) and outcome.rank_after == 1 + int(
        (q > q[65]).sum()
    )
    assert outcome.probability_after == pytest.approx(float(q[65]))
    union = set(p.topk(4).indices.tolist()) | set(q.topk(4).indices.tolist())
    assert set(outcome.before.ids) == set(outcome.after.ids) == union
    assert outcome.after.probabilities == tuple(sorted(outcome.after.probabilities, reverse=True))
    assert outcome.after.ids[0] == int(q.argmax())
    edited = {(e.layer, e.positions[0], e.index) for e in changed.feature_edits}
    sizes = []
    for change in outcome.feature_changes:
        assert (change.layer, change.position, change.index) not in edited
        live, clean = (
            dictionary.activations(change.layer, x[0])[change.position, change.index]
            for x in (patch.inputs[change.layer], patch.clean.inputs[change.layer])
        )
        assert (change.before, change.after) == pytest.approx((float(clean), float(live)), abs=1e-6)
        sizes.append(abs(change.after - change.before))
    assert sizes and sizes == sorted(sizes, reverse=True)
    assert intervene(model, dictionary, tokens, changed, answer="A").answer_id == 65


def test_edits_with_start_continue_on_generated_tokens(llama) -> None:
    model, dictionary, tokens = llama
    late = Plan(edits=(FeatureEdit(layer=0, index=3, op="add", value=8.0, start=len(IDS)),))
    outcome = intervene(model, dictionary, tokens, late, max_new_tokens=6)
    assert outcome.kl == 0, "no token of the prompt is edited"
    assert outcome.generation_before != outcome.generation_after
    once = Plan(edits=(FeatureEdit(layer=0, index=3, op="add", value=8.0, positions=(len(IDS),)),))
    assert intervene(model, dictionary, tokens, once, max_new_tokens=6).kl == 0


def test_a_continuation_stops_at_its_own_end_token_also_in_a_batch() -> None:
    model = tiny_model("llama", layers=2)
    dictionary = random_dictionary(model)
    tokens = tokens_from_ids(model, IDS)
    unembed = model.family.unembed
    one, two, *_ = [token for token in range(33, 127) if int((unembed @ unembed[token]).argmax()) == token]
    plans = []
    for token, start in ((one, len(IDS) - 1), (two, len(IDS))):
        toward = {"vector": unembed[token], "value": 99.0, "start": start}
        plans.append(Plan(edits=(DirectionEdit(site=Site("final_norm"), op="add", **toward),)))
    first, second = (
        each.generation_after for each in intervene_many(model, dictionary, tokens, plans, max_new_tokens=4)
    )
    assert first == chr(one) * 4 and second is not None and second.endswith(chr(two) * 3)
    model.module.generation_config.eos_token_id = one
    ended = intervene_many(model, dictionary, tokens, plans, max_new_tokens=4)
    assert [outcome.generation_after for outcome in ended] == ["", second]
    assert intervene(model, dictionary, tokens, plans[0], max_new_tokens=4).generation_after == ""


# --- refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "error", "word"),
    [
        ({"layer": 3}, UnknownFeature, "layers 0 to 2"),
        ({"index": 20}, UnknownFeature, "features 0 to 19"),
        ({"positions": (8,)}, InvalidPlan, "positions 0 to 7"),
        ({"start": 8}, InvalidPlan, "positions 0 to 7"),
    ],
)
def test_what_does_not_exist_is_refused(llama, edit, error, word) -> None:
    model, dictionary, tokens = llama
    edit = FeatureEdit(**{"layer": 0, "index": 0, "op": "ablate", **edit})
    with pytest.raises(error, match=word):
        intervene(model, dictionary, tokens, Plan(edits=(edit,)))


def test_refusals_name_the_fault(llama) -> None:
    model, dictionary, tokens = llama
    fine = Plan(edits=(FeatureEdit(layer=0, index=0, op="set", value=1.0),))
    with pytest.raises(InvalidPlan, match="past the last layer"):
        intervene(model, dictionary, tokens, replace(fine, constrained=(0, 3)))
    with pytest.raises(InvalidPlan, match="one prompt"):
        intervene(model, dictionary, tokens_from_ids(model, [IDS, IDS]), fine)
    with pytest.raises(InvalidPlan, match="smaller values"):
        infinite = DirectionEdit(site=Site("resid_post", 2), op="scale", value=1e38)
        intervene(model, dictionary, tokens, Plan(edits=(infinite, infinite)))
    with pytest.raises(LimitExceeded):
        intervene(model, dictionary, tokens, fine, max_new_tokens=1000)
    with pytest.raises(DictionaryMismatch):
        intervene(tiny_model("llama", layers=2), dictionary, tokens, fine)
    with pytest.raises(InvalidPlan, match="list of 1"):
        intervene_many(model, dictionary, tokens, [fine], answer=[1, 2])
    with pytest.raises(ThoughtscopeError, match="2 tokens"):
        intervene(model, dictionary, tokens, fine, answer="AB")
    with pytest.raises(ThoughtscopeError, match="vocabulary id"):
        intervene(model, dictionary, tokens, fine, answer=260)
    for option in ({"max_new_tokens": -1}, {"top": 0}, {"changes": -1}):
        with pytest.raises(InvalidPlan, match="or more"):
            intervene(model, dictionary, tokens, fine, **option)
    with pytest.raises(InvalidPlan, match="16 wide"):
        wide = DirectionEdit(site=Site("resid_post", 0), op="add", vector=torch.ones(7))
        intervene(model, dictionary, tokens, Plan(edits=(wide,)))


def test_a_failing_run_leaves_no_hook(llama, monkeypatch) -> None:
    model, dictionary, tokens = llama
    before = forward(model, tokens)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()]

    def broken(self, x, step):
        raise RuntimeError("broken")

    for name in ("_held", "_delta"):
        with monkeypatch.context() as patched:
            patched.setattr(Patch, name.strip(), lambda *a, **k: broken(*a[:3]))
            with pytest.raises(RuntimeError, match="broken"):
                edit = FeatureEdit(layer=1, index=0, op="set", value=1.0)
                intervene(model, dictionary, tokens, Plan(edits=(edit,), constrained=(0, 2)))
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()] == hooks
    assert torch.equal(forward(model, tokens), before)


def test_text_prompts_show_readable_tokens() -> None:
    model = tiny_model("qwen2")
    dictionary = random_dictionary(model)
    tokens = tokenize(model, "né 中")
    outcome = intervene(
        model, dictionary, tokens, Plan(edits=some_edits(dictionary, tokens, model)), max_new_tokens=2
    )
    assert outcome.prompt == "né 中"
    assert all(isinstance(token, str) and token for token in outcome.after.tokens)
