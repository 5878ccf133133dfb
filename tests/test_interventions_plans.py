"""Plans as data: what names mean, exact round trips, the graph's predictions, and controls of equal strength."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.autograd_oracle import random_dictionary
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import InvalidPlan, ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import FeatureId, NodeId
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, Features, encode
from thoughtscope.graphs import Graph, attribute, group, prune
from thoughtscope.graphs.graph import FEATURE
from thoughtscope.interventions import (
    DirectionEdit,
    FeatureEdit,
    Outcome,
    Plan,
    Prediction,
    intervene,
    plan,
    predict,
    random_control,
)
from thoughtscope.interventions.edits import fold
from thoughtscope.models import Model, Tokens, capture, tokens_from_ids

IDS = [256, 84, 104, 101, 32, 99]
World = tuple[Model, Dictionary, Tokens, Graph]


@pytest.fixture(scope="module")
def world() -> World:
    model = tiny_model("qwen2", layers=3)
    dictionary = random_dictionary(model, cross_layer=True, activation="jumprelu")
    tokens = tokens_from_ids(model, IDS)
    return model, dictionary, tokens, attribute(model, dictionary, tokens)


def feature_nodes(graph: Graph) -> list[NodeId]:
    return [graph.node_id(int(row)) for row in np.flatnonzero(graph.kind == FEATURE)]


# --- names ----------------------------------------------------------------------------------------------------


def test_a_target_is_a_supernode_a_node_a_feature_a_label_or_a_list(world) -> None:
    graph = world[3]
    a, b, *_ = feature_nodes(graph)[::7]
    graph = replace(group(graph, {"Texas": [a, b]}), labels={str(b): "say Austin"})
    assert b.layer is not None and b.index is not None
    at_a, at_b = (
        FeatureEdit(layer=n.layer, index=n.index, op="scale", value=-1, positions=(n.position,))
        for n in (a, b)
    )
    everywhere = replace(at_b, positions=None)
    feature = FeatureId(graph.dictionary_name, b.layer, b.index)
    for target, expected in [
        ("Texas", (at_a, at_b)),
        (a, (at_a,)),
        (str(a), (at_a,)),
        ("say Austin", (at_b,)),
        (feature, (everywhere,)),
        (str(feature), (everywhere,)),
        (["Texas", b], (at_a, at_b)),
    ]:
        assert plan(graph, target, scale=-1).edits == expected
    assert plan(graph, "Texas", add=2, positions=[0, 3]).edits[0].positions == (0, 3)
    assert plan(graph, "Texas", add=2, positions=3).edits[0].positions == (3,)
    started = plan(graph, "Texas", set=2, start=4).edits[1]
    assert (started.positions, started.start, started.op, started.value) == (None, 4, "set", 2.0)
    assert plan(graph, "Texas", ablate=True).label == "Texas"


def test_directions_go_into_a_plan_as_they_are(world) -> None:
    graph = world[3]
    direction = DirectionEdit(site=Site("resid_post", 1), op="ablate", positions=(2,))
    assert plan(graph, direction).edits == (direction,)
    assert plan(graph, [direction, feature_nodes(graph)[0]], ablate=True).edits[1] is direction
    with pytest.raises(InvalidPlan, match="carries its own"):
        plan(graph, direction, scale=2)


def test_unknown_names_are_refused_with_the_nearest(world) -> None:
    graph = group(world[3], {"Texas": feature_nodes(world[3])[:2]})
    with pytest.raises(UnknownFeature, match='Did you mean "Texas"'):
        plan(graph, "Texsa", scale=2)
    with pytest.raises(UnknownFeature, match="feature node of this graph"):
        plan(graph, "feature:2:3:999", scale=2)
    with pytest.raises(UnknownFeature, match="dictionary of this graph"):
        plan(graph, "other/1/2", scale=2)
    with pytest.raises(UnknownFeature, match="layers 0 to 2"):
        plan(graph, FeatureId(graph.dictionary_name, 3, 0), scale=2)
    with pytest.raises(InvalidPlan, match="token node"):
        plan(graph, "token:1", scale=2)
    with pytest.raises(InvalidPlan, match="no feature"):
        plan(group(graph, {"input": ["token:1"]}), "input", scale=2)
    with pytest.raises(InvalidPlan, match="empty"):
        plan(graph, [], scale=2)
    for wrong in ({}, {"scale": 1, "set": 2}, {"ablate": True, "add": 1}):
        with pytest.raises(InvalidPlan, match="exactly one"):
            plan(graph, "Texas", **wrong)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"value": math.nan}, "finite"),
        ({"value": math.inf}, "finite"),
        ({"value": -1e12}, "up to 1e\\+09"),
        ({"layer": -1}, "layer must be"),
        ({"index": -1}, "index must be"),
        ({"positions": (-1,)}, "position must be"),
        ({"positions": ()}, "one or more"),
        ({"start": -2}, "start must be"),
        ({"positions": (1,), "start": 1}, "not both"),
        ({"op": "ablate", "value": 2.0}, "takes no value"),
    ],
)
def test_an_edit_that_means_nothing_is_refused(fields, word) -> None:
    with pytest.raises(InvalidPlan, match=word):
        FeatureEdit(**{"layer": 1, "index": 2, "op": "set", "value": 1.0, **fields})


def test_plans_of_one_kind_add_up_and_others_do_not(world) -> None:
    graph = world[3]
    a, b, *_ = feature_nodes(graph)[::5]
    one, two = plan(graph, a, scale=2), plan(graph, b, set=1)
    both = one | two
    assert both.edits == one.edits + two.edits and both.prediction is None
    assert both.label == f"{a} + {b}"
    assert both.predicted(graph).prediction == predict(graph, both)
    assert (Plan() | one).edits == (one | Plan(attention="free")).edits == one.edits
    for other in (replace(two, attention="free"), replace(two, constrained=(0, 1))):
        with pytest.raises(InvalidPlan, match="cannot be joined"):
            one | other
    for wrong in ((2, 1), (-1, 1)):
        with pytest.raises(InvalidPlan, match="first layer, last layer"):
            Plan(constrained=wrong)


# --- round trips ----------------------------------------------------------------------------------------------


places = st.one_of(
    st.fixed_dictionaries({"positions": st.lists(st.integers(0, 500), min_size=1, max_size=4).map(tuple)}),
    st.fixed_dictionaries({"start": st.integers(0, 500)}),
    st.just({}),
)
edits_as_fields = st.tuples(
    st.integers(0, 90),
    st.integers(0, 10**6),
    st.sampled_from(["set", "scale", "add"]),
    st.floats(-1e9, 1e9),
    places,
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(edits_as_fields, max_size=4),
    st.sampled_from(["frozen", "free"]),
    st.none() | st.tuples(st.integers(0, 5), st.integers(5, 9)),
    st.text(max_size=8),
)
def test_a_plan_survives_json_exactly(fields, attention, constrained, label) -> None:
    edits = [FeatureEdit(layer=a, index=b, op=op, value=value, **where) for a, b, op, value, where in fields]
    edits.append(FeatureEdit(layer=1, index=2, op="ablate"))
    made = Plan(edits=tuple(edits), attention=attention, constrained=constrained, label=label)
    text = json.dumps(made.to_json(), allow_nan=False)
    assert Plan.from_json(text) == made
    assert Plan.from_json(json.loads(text)).to_json() == made.to_json()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_direction_survives_json_bit_for_bit(dtype) -> None:
    vector = torch.randn(16).to(dtype)
    edit = DirectionEdit(site=Site("mlp_out", 2), op="add", vector=vector, value=0.1, start=3)
    (back,) = Plan.from_json(json.dumps(Plan(edits=(edit,)).to_json())).edits
    assert isinstance(back, DirectionEdit) and back.vector is not None
    assert back.vector.dtype == dtype and torch.equal(back.vector, vector)
    assert back.to_json() == edit.to_json()


def test_an_outcome_survives_json_exactly(world) -> None:
    model, dictionary, tokens, graph = world
    made = plan(graph, feature_nodes(graph)[:3], scale=-2)
    outcome = intervene(model, dictionary, tokens, made, max_new_tokens=2)
    text = json.dumps(outcome.to_json(), allow_nan=False)
    assert Outcome.from_json(text) == outcome == Outcome.from_json(json.loads(text))
    assert outcome.plan.prediction is not None


@pytest.mark.parametrize(
    "text",
    [
        "[]", "{", "{}", '{"edits": 3}', '{"edits": [3]}', '{"edits": [], "extra": 1}', '{"edits": [{"layer": 1}]}',
        '{"edits": [{"layer": 1, "index": 2, "op": "set", "value": NaN}]}',
        '{"edits": [{"layer": 1, "index": 2, "op": "melt", "value": 1.0}]}',
        '{"edits": [{"layer": "1", "index": 2, "op": "set", "value": 1.0}]}',
        '{"edits": [{"layer": 1, "index": 2, "op": "set", "value": 1.0, "colour": 1}]}',
        '{"edits": [{"site": "mlp_out.1", "op": "add", "vector": {"dtype": "int64", "values": [1]}}]}',
        '{"edits": [{"site": "mlp_out.1", "op": "add", "vector": [1]}]}',
        '{"edits": [{"site": "nowhere.1", "op": "ablate"}]}',
        '{"edits": [], "constrained": [1]}', '{"edits": [], "constrained": 1}',
        '{"edits": [], "attention": "wild"}', '{"edits": [], "prediction": {"changes": 1}}',
    ],
)  # fmt: skip
def test_a_malformed_plan_is_a_clear_error(text) -> None:
    with pytest.raises(ThoughtscopeError):
        Plan.from_json(text)


# --- predictions ----------------------------------------------------------------------------------------------


def prediction_by_solving(graph: Graph, held: Plan) -> np.ndarray:
    """The changes of all nodes as the solution of one dense linear system, for plans of frozen attention."""
    n = len(graph)
    edges = graph.edges.toarray().astype(np.float64)
    system, wanted = np.eye(n), np.zeros(n)
    for row in range(n):
        value = float(graph.value[row])
        if graph.kind[row] != FEATURE:
            continue
        node = graph.node_id(row)
        here = [edit for edit in held.feature_edits if (edit.layer, edit.index) == (node.layer, node.index)]
        factor, offset = fold(edit for edit in here if edit.covers(node.position))
        if factor == 1:
            wanted[row] = offset / value
            if not held.constrains(node.layer or 0):
                system[row] -= edges[row] / value
        else:
            wanted[row] = factor + offset / value - 1
    return edges @ np.linalg.solve(system, wanted)


@pytest.mark.parametrize("constrained", [None, (0, 0), (1, 2), (0, 2)])
def test_a_prediction_solves_the_graphs_linear_system(world, constrained) -> None:
    graph = world[3]
    nodes = feature_nodes(graph)
    made = plan(graph, nodes[:4], scale=-1, constrained=constrained)
    made |= plan(graph, nodes[len(nodes) // 2 :: 9], add=0.5, constrained=constrained)
    prediction = predict(graph, made)
    expected = prediction_by_solving(graph, made)
    assert prediction.edited == len(made.edits) and prediction.outside == 0
    assert [c.vocab_id for c in prediction.changes] == [t.vocab_id for t in graph.targets]
    for target, change in zip(graph.targets, prediction.changes, strict=True):
        assert change.change == pytest.approx(expected[target.node], rel=1e-4, abs=1e-7)
        assert prediction.of(target.vocab_id) == change.change
    assert prediction.of(-1) is None
    assert Prediction.from_json(json.loads(json.dumps(prediction.to_json()))) == prediction


def test_a_prediction_says_what_lies_outside_the_graph(world) -> None:
    graph = world[3]
    small = prune(graph, node_mass=0.3)
    gone = sorted(set(map(str, feature_nodes(graph))) - set(map(str, feature_nodes(small))))
    prediction = predict(small, plan(graph, gone[:3], ablate=True))
    assert (prediction.edited, prediction.outside) == (0, 3)
    assert all(change.change == 0 for change in prediction.changes)
    silent = FeatureEdit(layer=0, index=0, op="set", value=1.0, positions=(0,))
    assert predict(graph, Plan(edits=(silent,))).outside == 1


# --- controls -------------------------------------------------------------------------------------------------


def encoded(world: World) -> Features:
    model, dictionary, tokens, _ = world
    return encode(dictionary, capture(model, tokens, dictionary.sites))


def strengths(dictionary: Dictionary, features: Features, made: Plan) -> dict[tuple[int, int], list[float]]:
    """(layer, position) → signed norms of what each edited feature adds to the model there."""
    found: dict[tuple[int, int], list[float]] = {}
    for layer, index in {(e.layer, e.index) for e in made.feature_edits}:
        norm = float(dictionary.decoder_rows(layer, torch.tensor([index])).norm())
        for position in range(features.n_positions):
            here = (features.layer == layer) & (features.index == index) & (features.position == position)
            a = float(features.value[here].sum())
            edits = (
                e for e in made.feature_edits if (e.layer, e.index) == (layer, index) and e.covers(position)
            )
            factor, offset = fold(edits)
            change = (factor - 1) * a + offset
            if change:
                found.setdefault((layer, position), []).append(change * norm)
    return {place: sorted(several) for place, several in found.items()}


@pytest.mark.parametrize("among", ["all", "active"])
def test_a_control_is_as_strong_at_the_same_places_with_other_features(world, among) -> None:
    _, dictionary, _, graph = world
    features = encoded(world)
    nodes = feature_nodes(graph)
    made = plan(graph, nodes[::11], scale=-1) | plan(graph, nodes[5::17], set=2.5)
    open_ended = (("add", 2, 7, 0.4), ("scale", 1, 9, 3.0))
    made |= Plan(
        edits=tuple(FeatureEdit(layer=layer, index=i, op=op, value=v) for op, layer, i, v in open_ended)
    )
    control = random_control(dictionary, made, features, seed=3, among=among)
    wanted, found = (strengths(dictionary, features, each) for each in (made, control))
    assert found.keys() == wanted.keys()
    for place, norms in wanted.items():
        assert found[place] == pytest.approx(norms, rel=1e-4)
    theirs, mine = ({(e.layer, e.index) for e in each.feature_edits} for each in (made, control))
    assert not theirs & mine and len(theirs) == len(mine)
    if among == "active":
        active = set(zip(features.layer.tolist(), features.index.tolist(), strict=True))
        assert mine <= active
    assert random_control(dictionary, made, features, seed=3, among=among) == control
    assert random_control(dictionary, made, features, seed=4, among=among) != control
    assert control.label.startswith("random control of") and control.prediction is None


def test_a_control_of_a_direction_has_its_norm(world) -> None:
    _, dictionary, _, _ = world
    direction = DirectionEdit(
        site=Site("mlp_out", 1), op="add", vector=torch.arange(16.0), value=0.2, positions=(2,)
    )
    (control,) = random_control(dictionary, Plan(edits=(direction,)), encoded(world), seed=0).direction_edits
    assert control.vector is not None and direction.vector is not None
    assert float(control.vector.norm()) == pytest.approx(float(direction.vector.norm()))
    assert abs(float(torch.cosine_similarity(control.vector, direction.vector, dim=0))) < 0.8
    assert (control.positions, control.value, control.site) == (
        direction.positions,
        direction.value,
        direction.site,
    )


def test_a_control_without_candidates_is_refused(world) -> None:
    _, dictionary, _, _ = world
    indices = range(dictionary.n_features)
    everything = Plan(edits=tuple(FeatureEdit(layer=1, index=index, op="set", value=1) for index in indices))
    with pytest.raises(InvalidPlan, match="no other feature"):
        random_control(dictionary, everything, encoded(world), seed=0)
    late = Plan(edits=(FeatureEdit(layer=1, index=1, op="add", value=1.0, start=len(IDS)),))
    with pytest.raises(InvalidPlan, match="generated tokens"):
        random_control(dictionary, late, encoded(world), seed=0)
