"""Plans at their boundaries: what is just allowed, what is just not, and the figures of an outcome from plain algebra."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.autograd_oracle import random_dictionary
from tests.random_graphs import random_graph
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import InvalidPlan, UnknownFeature
from thoughtscope.core.ids import FeatureId
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, encode
from thoughtscope.graphs import Graph
from thoughtscope.graphs.graph import FEATURE, LOGIT, TOKEN
from thoughtscope.interventions import (
    FeatureEdit,
    Plan,
    intervene,
    intervene_many,
    measuring,
    plan,
    predict,
    random_control,
)
from thoughtscope.interventions.clean import clean_run, mlp_site
from thoughtscope.interventions.edits import fold, read_edit
from thoughtscope.interventions.outcome import confirms
from thoughtscope.interventions.prediction import Prediction, TargetChange
from thoughtscope.interventions.running import check_plan
from thoughtscope.models import Edit, Model, Tokens, capture, forward, tokens_from_ids

IDS = [256, 84, 104, 101, 32, 99]
World = tuple[Model, Dictionary, Tokens]


@pytest.fixture(scope="module")
def world() -> World:
    model = tiny_model("llama", layers=3)
    return model, random_dictionary(model, cross_layer=True), tokens_from_ids(model, IDS)


def edit(**fields: Any) -> FeatureEdit:
    return FeatureEdit(**{"part": "0", "index": 0, "op": "set", "value": 1.0, **fields})


def unchecked(like: Any, **fields: Any) -> Any:
    """A copy with other fields, made without the checks of types that only these tests have: callers have none."""
    made = object.__new__(type(like))
    for name in type(like).__dataclass_fields__:
        object.__setattr__(made, name, fields.get(name, getattr(like, name)))
    made.__post_init__()
    return made


# --- edits and plans -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [
    {"value": 1e9}, {"value": -1e9}, {"value": 3}, {"index": 0}, {"positions": (0,)}, {"positions": (0, 5, 0)},
    {"start": 0}, {"op": "ablate", "value": 0.0}, {"op": "scale", "value": 0}, {"op": "add", "value": -2},
])  # fmt: skip
def test_an_edit_that_is_just_allowed(fields: dict) -> None:
    made = edit(**fields)
    assert type(made.value) is float and made.value == float(fields.get("value", 1.0))
    assert read_edit(made.to_json()) == made


@pytest.mark.parametrize(("fields", "words"), [
    ({"value": 1.0001e9}, "values up to 1e"), ({"value": -1.0001e9}, "values up to 1e"),
    ({"value": math.inf}, "finite"), ({"value": math.nan}, "finite"), ({"value": True}, "finite"), ({"value": "1"}, "finite"),
    ({"part": ""}, "the part is a name"), ({"part": 0}, "the part is a name"),
    ({"index": -1}, "the index must be"), ({"index": True}, "the index must be"), ({"index": 1.0}, "the index must be"),
    ({"positions": ()}, "a tuple of one or more"), ({"positions": [1]}, "a tuple of one or more"),
    ({"positions": (1, -1)}, "the position must be"), ({"positions": (1, True)}, "the position must be"),
    ({"start": -1}, "the start must be"), ({"start": True}, "the start must be"),
    ({"positions": (1,), "start": 0}, "not both"), ({"op": "ablate"}, "takes no value"), ({"op": "melt"}, "melt"),
])  # fmt: skip
def test_an_edit_that_is_just_refused(fields: dict, words: str) -> None:
    with pytest.raises(InvalidPlan, match=words):
        unchecked(edit(), **fields)


def test_where_an_edit_acts() -> None:
    acts = lambda **where: [position for position in range(5) if edit(**where).covers(position)]
    assert acts() == [0, 1, 2, 3, 4] and acts(start=2) == [2, 3, 4] and acts(start=0) == acts()
    assert acts(positions=(3, 1)) == [1, 3] and acts(positions=(0,)) == [0]


def test_edits_of_one_feature_fold_in_order() -> None:
    """By plain arithmetic on a few activations."""
    steps = [
        edit(op="add", value=2),
        edit(op="scale", value=-3),
        edit(op="add", value=0.5),
        edit(op="scale", value=0.5),
    ]
    for start in (0.0, 1.0, -2.5):
        a = ((start + 2) * -3 + 0.5) * 0.5
        factor, offset = fold(steps)
        assert factor * start + offset == a
        factor, offset = fold([*steps, edit(value=7.0), edit(op="add", value=1)])
        assert factor * start + offset == 8.0 and factor == 0
        assert fold([*steps, edit(op="ablate", value=0)]) == (0.0, 0.0)
    assert fold([]) == (1.0, 0.0)


@pytest.mark.parametrize(("data", "words"), [
    ([], "an object with named fields; got list"), ({"part": "0"}, "cannot be read"), ({"colour": 1}, "colour"),
    ({"part": "0", "index": 0, "op": "set", "positions": 3}, "cannot be read"),
])  # fmt: skip
def test_what_is_no_edit(data: Any, words: str) -> None:
    with pytest.raises(InvalidPlan, match=words):
        inspect.unwrap(read_edit)(data)


@pytest.mark.parametrize(("constrained", "fits"), [
    ((0, 0), True), ((1, 1), True), ((0, 7), True), ((2, 1), False), ((-1, 1), False), ((0, 1, 2), False), ((0,), False),
    ((True, 1), False), ((0, True), False), ((0.0, 1), False), ((), False),
])  # fmt: skip
def test_the_layers_that_a_plan_may_constrain(constrained: tuple, fits: bool) -> None:
    if not fits:
        with pytest.raises(InvalidPlan, match="constrained must be"):
            unchecked(Plan(), constrained=constrained)
    else:
        held = [layer for layer in range(9) if Plan(constrained=constrained).constrains(layer)]
        assert held == list(range(constrained[0], constrained[1] + 1))
    assert not Plan().constrains(0)


def test_plans_that_are_joined() -> None:
    one, two = Plan(edits=(edit(),), label="a"), Plan(edits=(edit(index=1),), label="b")
    assert (one | two).edits == (*one.edits, *two.edits) and (one | two).label == "a + b"
    assert (one | replace(two, label="a")).label == "a" and (one | replace(two, label="")).label == "a"
    free = replace(two, attention="free", constrained=(0, 1))
    for first, second in ((one, free), (free, one)):
        with pytest.raises(InvalidPlan, match=r"attention 'fr.*Make them equal"):
            first | second
    with pytest.raises(InvalidPlan, match="constrained None and"):
        one | replace(two, constrained=(0, 1))
    # A plan without edits has no say in how the others run.
    assert (Plan() | free).attention == (free | Plan()).attention == "free"
    assert (Plan() | free).constrained == (free | Plan()).constrained == (0, 1)
    change = TargetChange(text="a", vocab_id=1, change=1.0)
    predicted = replace(one, prediction=Prediction(changes=(change,), edited=1, outside=0))
    assert (predicted | two).prediction is None and Plan.from_json(predicted.to_json()) == predicted
    with pytest.raises(InvalidPlan, match="got str"):
        unchecked(Plan(), edits=("x",))
    with pytest.raises(InvalidPlan, match="A plan is a JSON object; got list"):
        Plan.from_json("[]")
    with pytest.raises(InvalidPlan, match="not valid JSON"):
        Plan.from_json("{")


def test_what_a_call_of_plan_makes() -> None:
    graph = random_graph(seed=1)
    node = graph.node_id(0)
    feature = FeatureId("a/dictionary", "2", 49)
    one = plan(graph, node, scale=-1)
    (made,) = one.feature_edits
    assert (made.part, made.index, made.op, made.value) == (str(node.layer), node.index, "scale", -1.0)
    assert made.positions == (node.position,) and made.start is None and one.label == str(node)
    (everywhere,) = plan(graph, feature, ablate=True, label="own").feature_edits
    assert (everywhere.part, everywhere.index, everywhere.op, everywhere.positions) == (
        "2",
        49,
        "ablate",
        None,
    )
    assert plan(graph, feature, ablate=True, label="").label == ""
    (late,) = plan(graph, node, add=2, start=3).feature_edits
    assert (late.op, late.value, late.positions, late.start) == ("add", 2.0, None, 3)
    assert plan(graph, node, set=0, positions=2).feature_edits[0].positions == (2,)
    assert plan(graph, [node, feature], set=0, positions=[3, 1]).feature_edits[1].positions == (3, 1)
    assert len(plan(graph, [node, node], ablate=True).edits) == 1
    assert plan(graph, [node, feature], ablate=True).label == f"{node}, {feature}"
    direction = Edit(site=Site("resid_post", 0), op="scale", value=2.0)
    assert plan(graph, direction).edits == (direction,) and plan(graph, direction).label == ""
    assert plan(graph, [direction, node], scale=2, constrained=(0, 1), attention="free").edits[1:] == (
        direction,
    )
    for given, words in (
        ({}, "exactly one of .*; got none"), ({"scale": 2, "add": 1}, "exactly one .*; got scale=2, add=1"),
        ({"ablate": True, "set": 0}, "got set=0, ablate=0"),
    ):  # fmt: skip
        with pytest.raises(InvalidPlan, match=words):
            plan(graph, node, **given)
    with pytest.raises(InvalidPlan, match="A plan for an Edit takes no operation"):
        plan(graph, direction, scale=1)
    with pytest.raises(InvalidPlan, match="The list of targets is empty"):
        plan(graph, [], scale=1)
    for wrong in (FeatureId("a/dictionary", "3", 1), FeatureId("other", "2", 1), "a/dictionary/3/1"):
        with pytest.raises(UnknownFeature):
            plan(graph, wrong, scale=1)
    with pytest.raises(InvalidPlan, match="is a token node"):
        plan(graph, "token:0", scale=1)


# --- predictions ---------------------------------------------------------------------------------------------------


def chain() -> Graph:
    """token → a (layer 0) → b (layer 1) → logit, and a → logit; activations 2 and 4."""
    graph = random_graph(n_layers=2, length=1, per_place=1, logits=1, density=0.0)
    edges = np.zeros((len(graph), len(graph)), dtype=np.float32)
    a, b, token, logit = 0, 1, 4, 5
    edges[a, token], edges[b, a], edges[logit, b], edges[logit, a] = 2.0, 3.0, 8.0, 5.0
    value = np.array([2, 4, 0, 0, 0, 0], dtype=np.float32)
    assert [int(graph.kind[row]) for row in (a, b, token, logit)] == [FEATURE, FEATURE, TOKEN, LOGIT]
    return replace(graph, edges=sp.csr_array(edges), value=value, bias=np.zeros(6, dtype=np.float32))


@pytest.mark.parametrize(("first", "second", "attention", "constrained", "expected"), [
    # a changes by the share r, b by r · 3/4 of its own; the logit by 5 r + 8 r_b
    (("scale", 0.0), None, "frozen", None, -5 - 8 * 0.75),
    (("set", 3.0), None, "frozen", None, 0.5 * (5 + 8 * 0.75)),
    (("add", 1.0), None, "free", None, 0.5 * (5 + 8 * 0.75)),
    (("scale", 0.0), None, "frozen", (1, 1), -5.0),
    (("scale", 0.0), None, "frozen", (0, 0), -5 - 8 * 0.75),
    # frozen: b ends at twice its unedited activation; free: at twice what a leaves of it (a quarter)
    (("scale", 0.0), ("scale", 2.0), "frozen", None, -5 + 8 * 1.0),
    (("scale", 0.0), ("scale", 2.0), "free", None, -5 + 8 * (2 * 0.25 - 1)),
    (("scale", 0.0), ("add", 2.0), "frozen", None, -5 + 8 * (0.25 + 0.5 - 1)),
    (("scale", 0.0), ("set", 6.0), "free", None, -5 + 8 * 0.5),
])  # fmt: skip
def test_predictions_on_a_chain(first: tuple, second: tuple | None, attention: Any, constrained: Any,
                                expected: float) -> None:  # fmt: skip
    graph = chain()
    edits = [edit(part="0", index=int(graph.index[0]), op=first[0], value=first[1], positions=(0,))]
    if second:
        edits.append(edit(part="1", index=int(graph.index[1]), op=second[0], value=second[1]))
    found = predict(graph, Plan(edits=tuple(edits), attention=attention, constrained=constrained))
    assert found.changes[0].change == pytest.approx(expected)
    assert (found.edited, found.outside) == (len(edits), 0)
    away = [
        edit(part="0", index=int(graph.index[0]), positions=(1,)),
        edit(part="x", index=3),
        edit(part="1", index=99),
    ]
    found = predict(graph, Plan(edits=(*edits, *away)))
    assert (found.edited, found.outside) == (len(edits), 3)


@pytest.mark.parametrize(("predicted", "measured", "verdict"), [
    (1e-3, 1e-3, True), (0.99e-3, 1.0, None), (1.0, 0.99e-3, False), (-1e-3, -1e-3, True), (-1e-3, 1e-3, False),
])  # fmt: skip
def test_the_least_change_that_counts(predicted: float, measured: float, verdict: bool | None) -> None:
    change = TargetChange(text=" a", vocab_id=7, change=predicted)
    made = Plan(prediction=Prediction(changes=(change,), edited=1, outside=0))
    assert confirms(made, 7, measured) is verdict and confirms(made, 8, 1.0) is None
    assert confirms(Plan(), 7, 1.0) is None


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "constrained", "edited", "patterns", "held", "scales"), [
    ("frozen", None, True, True, [], False), ("free", None, True, False, [], False),
    ("frozen", (0, 1), True, True, [0, 1], False), ("free", (1, 2), True, False, [1, 2], False),
    ("free", (0, 2), True, False, [0, 1, 2], True), ("frozen", (0, 2), False, False, [], False),
])  # fmt: skip
def test_what_the_unedited_run_keeps(world: World, attention: Any, constrained: Any, edited: bool, patterns: bool,
                                     held: list, scales: bool) -> None:  # fmt: skip
    model, dictionary, tokens = world
    made = Plan(edits=(edit(),) * edited, attention=attention, constrained=constrained)
    clean = clean_run(model, dictionary, tokens, [Plan(), made])
    assert set(clean.patterns) == {Site("pattern", layer) for layer in range(3) if patterns}
    assert set(clean.written) == {Site("mlp_out", layer) for layer in held}
    assert set(clean.norm_scales) == (set(model.family.norms) if scales else set())
    assert set(clean.inputs) == set(dictionary.reads)
    logits = forward(model, tokens)
    assert logits is not None and torch.equal(clean.logits, logits[0, -1]) and clean.padding == 0
    acts = capture(model, tokens, [*clean.written, *clean.patterns, *clean.inputs])
    for kept in (clean.written, clean.patterns, clean.inputs):
        assert all(torch.equal(x, acts[site]) for site, x in kept.items())
    assert mlp_site(dictionary, 1) == Site("mlp_out", 1)
    with pytest.raises(InvalidPlan, match="one prompt; got 2"):
        clean_run(model, dictionary, tokens_from_ids(model, [IDS, IDS]), [made])


@pytest.mark.parametrize(("family", "answer"), [("llama", None), ("llama", 65), ("gemma2", 65)])
def test_the_figures_of_an_outcome(family: str, answer: int | None) -> None:
    """From two sets of logits and nothing else; Gemma's are taken back through the soft cap."""
    model = tiny_model(family, layers=2)
    dictionary, tokens = random_dictionary(model), tokens_from_ids(model, IDS)
    direction = Edit(site=Site("resid_post", 1), op="add", vector=torch.linspace(-2, 3, model.d_model))
    outcome = intervene(
        model, dictionary, tokens, Plan(edits=(direction,), attention="free"), answer=answer, top=3
    )
    with torch.no_grad():
        before = forward(model, tokens)[0, -1].double()
        held = capture(model, tokens, ["final_norm"], edits=[direction])["final_norm"]
        after = model.family.to_logits(held)[0, -1].double()
    chosen = int(before.argmax()) if answer is None else answer
    cap = model.family.logit_soft_cap
    open_up = (lambda x: x) if cap is None else (lambda x: cap * torch.atanh(x / cap))
    centred = [open_up(x) - open_up(x).mean() for x in (before, after)]
    assert (family == "gemma2") == (cap is not None)
    assert outcome.logit_change == pytest.approx(float(centred[1][chosen] - centred[0][chosen]), abs=1e-4)
    assert outcome.answer_id == chosen and outcome.prompt == tokens.texts[0]
    assert outcome.rank_before == 1 + int((before > before[chosen]).sum())
    assert outcome.rank_after == 1 + int((after > after[chosen]).sum())
    p, q = before.softmax(-1), after.softmax(-1)
    assert outcome.probability_before == pytest.approx(float(p[chosen]))
    assert outcome.probability_after == pytest.approx(float(q[chosen]), rel=1e-4)
    assert outcome.kl == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-3)
    for found, share in ((outcome.before, p), (outcome.after, q)):
        assert found.probabilities == pytest.approx(share[list(found.ids)].tolist(), rel=1e-4)
        assert list(found.ids) == sorted(found.ids, key=lambda token: -float(share[token]))
        assert set(found.ids) == set(p.topk(3).indices.tolist()) | set(q.topk(3).indices.tolist())


def test_the_largest_changes_of_features(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them without a limit; fewer are the first of them, whatever is held at once; edited ones are not listed."""
    model, dictionary, tokens = world
    plans = [
        Plan(edits=(edit(part="0", index=index, op="add", value=3.0, positions=(2, 4)),))
        for index in (1, 2, 3)
    ]
    whole = [one.feature_changes for one in intervene_many(model, dictionary, tokens, plans, changes=10_000)]
    clean = encode(dictionary, capture(model, tokens, dictionary.sites))
    before = {(str(p), t, i): v for p, t, i, v in zip(clean.part.tolist(), clean.position.tolist(),
                                                      clean.index.tolist(), clean.value.tolist(), strict=True)}  # fmt: skip
    for made, several in zip(plans, whole, strict=True):
        sizes = [abs(one.after - one.before) for one in several]
        assert len(sizes) > 20 and sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
        for one in several:
            assert one.before == pytest.approx(before.get((one.part, one.position, one.index), 0.0), abs=1e-5)
            assert one.position >= 1  # nothing counts at the first position
            assert not any((one.part, one.index) == (e.part, e.index) and e.covers(one.position)
                           for e in made.feature_edits)  # fmt: skip
    monkeypatch.setattr(measuring, "_CELLS", 1)
    for limit in (1, 7):
        fewer = intervene_many(model, dictionary, tokens, plans, changes=limit)
        assert [one.feature_changes for one in fewer] == [several[:limit] for several in whole]
    assert intervene(model, dictionary, tokens, plans[0], changes=0).feature_changes == ()


def test_counts_at_their_least(world: World) -> None:
    model, dictionary, tokens = world
    made = Plan(edits=(edit(),))
    least = {"max_new_tokens": 0, "top": 1, "changes": 0, "batch": 1}
    (outcome,) = intervene_many(model, dictionary, tokens, [made], **least)
    assert len(outcome.before.ids) in (1, 2) and outcome.generation_before is outcome.generation_after is None
    for name, value in least.items():
        with pytest.raises(InvalidPlan, match=f"{name} must be {value} or more; got {value - 1}"):
            intervene_many(model, dictionary, tokens, [made], **{name: value - 1})
    assert len(intervene(model, dictionary, tokens, made, top=10_000).before.ids) == model.vocab_size
    with pytest.raises(InvalidPlan, match="2 plans need one answer, or a list of 2; got 1"):
        intervene_many(model, dictionary, tokens, [made, made], answer=[65])
    given = intervene_many(model, dictionary, tokens, [made, made], answer=[65, None])
    assert given[0].answer_id == 65 and given[1].answer_id == int(forward(model, tokens)[0, -1].argmax())


def test_plans_of_all_kinds_in_one_call(world: World) -> None:
    """In the order given, whatever shares a pass; progress counts plans."""
    model, dictionary, tokens = world
    edits = [edit(index=index, value=4.0, part=str(index % 3)) for index in range(4)]
    kinds: list[dict[str, Any]] = [{}, {"attention": "free"}, {"constrained": (0, 1)}]
    plans = [Plan(edits=(each,), **kind) for each in edits for kind in kinds] + [
        Plan(),
        Plan(attention="free"),
    ]
    seen: list[tuple] = []
    found = intervene_many(
        model, dictionary, tokens, plans, batch=2, changes=3, progress=lambda *told: seen.append(told)
    )
    assert [one.plan for one in found] == plans
    assert seen[-1] == ("intervene", 14, 14) and [done for _, done, _ in seen] == sorted(
        done for _, done, _ in seen
    )
    for made, outcome in zip(plans, found, strict=True):
        assert outcome.kl == pytest.approx(
            intervene(model, dictionary, tokens, made, changes=3).kl, rel=1e-3, abs=1e-7
        )
    assert found[-1].kl == found[-2].kl == 0


@pytest.mark.parametrize(("where", "new", "fits"), [
    ({"positions": (5,)}, 0, True), ({"positions": (6,)}, 0, False), ({"positions": (0, 6)}, 1, True),
    ({"positions": (7,)}, 1, False), ({"start": 5}, 0, True), ({"start": 6}, 0, False), ({"start": 6}, 1, True), ({}, 0, True),
])  # fmt: skip
def test_the_last_position_that_a_plan_may_name(world: World, where: dict, new: int, fits: bool) -> None:
    plans = [Plan(edits=(edit(**where),)), Plan(edits=(Edit(site=Site("mlp_out", 0), op="ablate", **where),))]
    for made in plans:
        if fits:
            check_plan(made, world[1], 6, new, n_layers=3)
        else:
            last = f"Position {max(where.get('positions', (where.get('start'),)))} is outside.*0 to 5"
            with pytest.raises(
                InvalidPlan, match=last + (f", with {new} new tokens up to {5 + new}" if new else r"\.")
            ):
                check_plan(made, world[1], 6, new, n_layers=3)
    for last in (1, 2):
        check_plan(Plan(constrained=(0, last)), world[1], 6, n_layers=3)
    with pytest.raises(InvalidPlan, match="allowed are layers 0 to 2"):
        check_plan(Plan(constrained=(0, 3)), world[1], 6, n_layers=3)


def test_a_control_at_the_edge_of_the_prompt(world: World) -> None:
    model, dictionary, tokens = world
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    with pytest.raises(InvalidPlan, match="generated tokens only"):
        random_control(dictionary, Plan(edits=(edit(start=6),)), features, seed=0)
    control = random_control(
        dictionary, Plan(edits=(edit(start=5, op="add", value=2.0),), label="x"), features, seed=0
    )
    (only,) = control.feature_edits
    assert only.positions == (5,) and only.op == "add" and (only.part, only.index) != ("0", 0)
    rows = dictionary.part("0").decoder_rows(torch.tensor([0, only.index]))
    mine, other = torch.cat(list(rows.values()), dim=1).norm(dim=1).tolist()
    assert only.value * other == pytest.approx(2.0 * mine, rel=1e-5)
    assert (
        control.label == "random control of x"
        and random_control(dictionary, Plan(), features, seed=0).edits == ()
    )
    assert random_control(dictionary, Plan(), features, seed=0).label == "random control"
    draw = lambda seed: random_control(dictionary, Plan(edits=(edit(start=5),)), features, seed=seed)
    assert draw(1) == draw(1) and len({draw(seed).feature_edits[0].index for seed in range(8)}) > 3


@pytest.mark.parametrize("skip_first", [True, False])
def test_changes_at_the_first_position_are_those_of_dictionaries_that_have_features_there(
    world: World, skip_first: bool
) -> None:
    model, dictionary, tokens = world
    direction = Edit(site=Site("resid_pre", 0), op="add", vector=torch.linspace(-1, 2, 16), positions=(0,))
    outcome = intervene(
        model, replace(dictionary, skip_first=skip_first), tokens, Plan(edits=(direction,)), changes=999
    )
    assert any(one.position == 0 for one in outcome.feature_changes) is not skip_first


@pytest.mark.parametrize("write", ["mlp_out", "mlp_raw"])
def test_held_mlps_of_skip_transcoders_whether_changes_are_listed_or_not(write: str) -> None:
    """What is watched changes no figure, also where only the skip path of a held block needs its input."""
    model = tiny_model("gemma2", layers=3)
    dictionary, tokens = random_dictionary(model, skip=True, write=write), tokens_from_ids(model, IDS)
    low = edit(part="0", index=1, op="add", value=3.0)
    for constrained in (None, (0, 0), (1, 1), (1, 2), (0, 2)):
        made = Plan(edits=(low,), constrained=constrained)
        watched, bare = (intervene(model, dictionary, tokens, made, changes=n) for n in (5, 0))
        assert watched.kl == bare.kl > 0 and watched.logit_change == bare.logit_change


def test_stand_ins_are_drawn_from_where_they_may_be(world: World) -> None:
    """Another feature of the part that writes something; among the active ones if asked; each once."""
    model, dictionary, tokens = world
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    active = set(features.index[features.part == 1].tolist())
    edits = tuple(
        edit(part="1", index=index, op="add", value=1.0, positions=(2,)) for index in sorted(active)[:3]
    )
    for seed in range(6):
        made = random_control(dictionary, Plan(edits=edits), features, seed=seed, among="active")
        chosen = [one.index for one in made.feature_edits]
        assert len(set(chosen)) == 3 and set(chosen) <= active - {one.index for one in edits}
        assert {one.part for one in made.feature_edits} == {"1"}
    few = tuple(edit(part="1", index=index) for index in sorted(active)[1:])
    only = random_control(dictionary, Plan(edits=few[:1]), features, seed=0, among="active")
    assert only.feature_edits[0].index in active
    with pytest.raises(InvalidPlan, match="no other feature left"):
        random_control(dictionary, Plan(edits=few), features, seed=0, among="active")
    # Features that write nothing cannot stand in.
    part = dictionary.part("1")
    silent = {
        site: torch.where(torch.arange(len(rows))[:, None] == 7, rows, 0 * rows)
        for site, rows in part.W_dec.items()
    }
    silent = {
        site: rows + part.W_dec[site] * (torch.arange(len(rows)) == 2)[:, None]
        for site, rows in silent.items()
    }
    quiet = replace(
        dictionary,
        parts=tuple(replace(one, W_dec=silent) if one.name == "1" else one for one in dictionary.parts),
    )
    for seed in range(4):
        (stand_in,) = random_control(
            quiet,
            Plan(edits=(edit(part="1", index=2, op="add", value=1.0, positions=(3,)),)),
            features,
            seed=seed,
        ).edits
        assert stand_in.index == 7
    nothing = Plan(
        edits=(edit(part="1", index=2, op="scale", value=1.0), edit(part="1", index=3, op="add", value=0.0))
    )
    assert random_control(dictionary, nothing, features, seed=0).edits == ()
    scaled = Plan(
        edits=(edit(part="1", index=int(features.index[features.part == 1][0]), op="scale", value=3.0),)
    )
    row = int((features.part == 1).nonzero()[0])
    (first, *_) = random_control(dictionary, scaled, features, seed=0).feature_edits
    rows = part.decoder_rows(torch.tensor([int(features.index[row]), first.index]))
    mine, other = torch.cat(list(rows.values()), dim=1).norm(dim=1).tolist()
    assert first.positions == (int(features.position[row]),) and first.value * other == pytest.approx(
        2 * float(features.value[row]) * mine, rel=1e-4
    )
    way = Edit(site=Site("resid_post", 1), op="add", vector=torch.full((16,), 2.0), start=1)
    turned = [
        random_control(dictionary, Plan(edits=(way,)), features, seed=seed).direction_edits[0]
        for seed in (0, 1)
    ]
    assert all(float(one.vector.norm()) == pytest.approx(8.0, rel=1e-5) and one.start == 1 for one in turned)
    assert not torch.allclose(turned[0].vector, turned[1].vector)
    plain = Edit(site=Site("resid_post", 1), op="ablate")
    assert random_control(dictionary, Plan(edits=(plain,)), features, seed=0).edits == (plain,)
