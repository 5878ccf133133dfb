"""Graphs at their boundaries: targets, limits, pruning and scores on graphs small enough to do by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from tests.autograd_oracle import random_dictionary
from tests.random_graphs import random_graph
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, InvalidGraph, ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import NodeId
from thoughtscope.core.site import Site
from thoughtscope.graphs import (
    FeatureTarget,
    Graph,
    LogitDifference,
    attribute,
    curve,
    group,
    grouped_edges,
    influence,
    linearise,
    prune,
    score,
    strongest_path,
)
from thoughtscope.graphs import attribute as _attribute
from thoughtscope.graphs.curve import score_curve
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN, Certificate, Supernode, Target
from thoughtscope.graphs.influence import cumulative_influence, edge_influence, influence_share, why_unscored
from thoughtscope.graphs.prune import mass_threshold, subgraph
from thoughtscope.graphs.supernodes import find_supernode, group_named
from thoughtscope.graphs.sweep import Injections, chunks
from thoughtscope.graphs.targets import likeliest, token_id
from thoughtscope.models import Model, Tokens, capture, forward, tokens_from_ids

IDS = [256, 9, 77, 33, 120, 121]


def hand_graph(*, errors: bool = True) -> Graph:
    """Two layers, one position: token → a → b → logit, a → logit, error 1 → logit and error 0 → b.

    Of what enters the logit, 1/2 comes from b, 1/4 from a, 1/4 from error 1; of b's input 3/4 from a, 1/4 from error 0.
    """
    kinds = [FEATURE, FEATURE, *([ERROR, ERROR] * errors), TOKEN, LOGIT]
    layers = [0, 1, *([0, 1] * errors), -1, 2]
    size = len(kinds)
    token, logit = size - 2, size - 1
    edges = np.zeros((size, size), dtype=np.float32)
    edges[0, token], edges[1, 0], edges[logit, 1], edges[logit, 0] = -2.0, 3.0, -4.0, 2.0
    if errors:
        edges[1, 2], edges[logit, 3] = 1.0, 2.0
    target = Target(text=" x", vocab_id=5, probability=0.8, weight=0.8, node=logit)
    return Graph(
        prompt="p", tokens=("t",), token_ids=(9,), model_name="m", dictionary_name="a/d", scan="s", n_layers=2,
        kind=np.array(kinds, dtype=np.uint8), layer=np.array(layers, dtype=np.int32),
        position=np.zeros(size, dtype=np.int32),
        index=np.array([3, 4, *([-1, -1] * errors), 9, 5], dtype=np.int32),
        value=np.ones(size, dtype=np.float32), edges=sp.csr_array(edges), bias=np.zeros(size, dtype=np.float32),
        absent=np.zeros(size, dtype=np.float32), targets=(target,), certificate=None,
    )  # fmt: skip


# --- influence and scores ------------------------------------------------------------------------------------------


def test_influence_and_scores_by_hand() -> None:
    graph = hand_graph()
    a, b = 0.25 + 0.5 * 0.75, 0.5
    found = np.array([a, b, 0.5 * 0.25, 0.25, a, 0.0])
    np.testing.assert_allclose(influence(graph), 0.8 * found, rtol=1e-6)
    np.testing.assert_allclose(influence_share(graph), found / found.sum(), rtol=1e-6)
    # b, then a and the token alike, in their order, then error 1, error 0, and the logit's own nothing
    order = [0, 4, 1, 3, 2, 5]
    np.testing.assert_allclose(
        cumulative_influence(graph)[order], np.cumsum(found[order]) / found.sum(), rtol=1e-6
    )
    carried = {
        (int(t), int(s)): w for t, s, w in zip(*graph.edges.nonzero(), edge_influence(graph), strict=True)
    }
    assert carried == pytest.approx(
        {(0, 4): 0.8 * a, (1, 0): 0.3, (1, 2): 0.1, (5, 1): 0.4, (5, 0): 0.2, (5, 3): 0.2}
    )
    scores = score(graph)
    assert scores.replacement == pytest.approx(a / 1)
    # nodes weigh as what reaches them; of the logit's input 3/4 is no error, of b's 3/4, of a's all
    reached = [a, b, 0.125, 0.25, a, 1.0]
    assert scores.completeness == pytest.approx((sum(reached) - 0.25 * b - 0.25 * 1.0) / sum(reached))
    assert scores.mean_path_length == pytest.approx((2 * 0.25 + 3 * 0.375) / a)
    part = score(graph, ["feature:0:0:3"])  # b goes onto the error of its layer
    assert part.replacement == pytest.approx(0.25) and part.mean_path_length == pytest.approx(2)
    none = score(graph, [])
    assert none.replacement == 0 and score(graph, graph.node_ids()) == scores
    with pytest.raises(UnknownFeature):
        score(graph, ["feature:0:0:4"])


def test_scores_of_a_part_where_no_error_nodes_are() -> None:
    """What is not pinned has no error to go onto: it is lost, and nobody else gets it."""
    graph = hand_graph(errors=False)
    part = score(graph, ["feature:0:0:3"])
    direct = 1 / 3
    assert part.mean_path_length == pytest.approx(2) and score(graph, []).mean_path_length == 0
    assert part.replacement == pytest.approx(direct)
    assert why_unscored(graph) is not None and why_unscored(hand_graph()) is None
    lost = replace(graph, absent=np.array([0, 1, 0, 0], dtype=np.float32))
    assert why_unscored(lost) is None
    np.testing.assert_allclose(influence(lost)[:2], 0.8 * np.array([direct + 2 / 3 * 0.75, 2 / 3]), rtol=1e-6)
    circle = graph.edges.toarray()
    circle[0, 1] = 1.0
    with pytest.raises(InvalidGraph, match="circle"):
        influence(replace(graph, edges=sp.csr_array(circle)))


def test_a_graph_without_any_edge() -> None:
    graph = replace(hand_graph(), edges=sp.csr_array((6, 6), dtype=np.float32))
    assert not influence(graph).any() and not influence_share(graph).any()
    assert score(graph).replacement == 0 and np.isfinite(score(graph).completeness)
    assert (cumulative_influence(graph) == 0).all()
    small = prune(graph)
    assert [str(node) for node in small.node_ids()] == ["token:0", "logit:0:5"]
    assert small.provenance["influence_held"] == 0


# --- pruning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("node_mass", "edge_mass", "keep_errors", "kept", "absent"), [
    # shares: a 0.625, token 0.625, b 0.5, error 1 0.25, error 0 0.125, of 2.125
    (1.0, 1.0, True, "ab01", [0, 0]), (0.5, 1.0, True, "a1", [0, 4]), (0.8, 1.0, True, "ab01", [0, 0]),
    (0.8, 1.0, False, "ab", [1, 2]), (0.83, 1.0, False, "ab1", [1, 0]), (0.95, 1.0, False, "ab01", [0, 0]),
    (1.0, 0.9, True, "ab1", [1, 0]),
])  # fmt: skip
def test_pruning_by_hand(
    node_mass: float, edge_mass: float, keep_errors: bool, kept: str, absent: list
) -> None:
    graph = replace(hand_graph(), labels={"feature:1:0:4": "bee", "a/d/0/3": "ay"},
                    supernodes=(Supernode(label="s", members=(NodeId.parse("feature:0:0:3"), NodeId.parse("feature:1:0:4"))),))  # fmt: skip
    small = prune(graph, node_mass=node_mass, edge_mass=edge_mass, keep_errors=keep_errors)
    names = {"a": "feature:0:0:3", "b": "feature:1:0:4", "0": "error:0:0", "1": "error:1:0"}
    assert {str(node) for node in small.node_ids()} == {names[one] for one in kept} | {"token:0", "logit:0:5"}
    lost = {str(node): float(x) for node, x in zip(small.node_ids(), small.absent, strict=True)}
    assert lost.get(names["b"], 0) == absent[0] and lost["logit:0:5"] == absent[1] and lost[names["a"]] == 0
    found = {
        str(node): x for node, x in zip(graph.node_ids(), (0.625, 0.5, 0.125, 0.25, 0.625, 0), strict=True)
    }
    held = sum(found[str(node)] for node in small.node_ids()) / 2.125
    assert small.provenance["influence_held"] == pytest.approx(held)
    assert small.provenance["pruning"] == {
        "node_mass": node_mass,
        "edge_mass": edge_mass,
        "max_edges": None,
        "keep_errors": keep_errors,
    }
    assert small.provenance["scores_before_pruning"]["replacement"] == pytest.approx(0.625)
    assert small.targets[0].node == len(small) - 1 and small.labels.keys() == {"a/d/0/3"} | (
        {"feature:1:0:4"} if "b" in kept else set()
    )
    assert len(small.supernodes[0].members) == sum(one in kept for one in "ab")
    again = prune(small, node_mass=0.5)
    assert again.provenance["influence_held"] <= small.provenance["influence_held"]
    assert again.provenance["scores_before_pruning"] == small.provenance["scores_before_pruning"]


@pytest.mark.parametrize("name", ["node_mass", "edge_mass"])
@pytest.mark.parametrize("mass", [0.0, -0.5, 1.0001])
def test_masses_that_are_no_share(name: str, mass: float) -> None:
    with pytest.raises(ThoughtscopeError, match=f"{name} is a share"):
        prune(hand_graph(), **{name: mass})
    prune(hand_graph(), **{name: 1.0})
    prune(hand_graph(), **{name: 1e-6})


def test_what_goes_with_a_feature_that_goes() -> None:
    """A feature whose only input or output went goes too, and then its error or what fed it, in turn."""
    graph = hand_graph()
    for gone, left in ((0, {"token:0", "logit:0:5", "error:1:0", "feature:1:0:4", "error:0:0"}), (1, None)):
        kept = np.ones(6, dtype=bool)
        kept[gone] = False
        small = subgraph(graph, kept)
        assert len(small) == 5 and str(graph.node_id(gone)) not in map(str, small.node_ids())
        if left:
            assert {str(node) for node in small.node_ids()} == left
            assert small.absent.tolist() == [3.0, 0, 0, 0, 2.0]
    without = graph.edges.toarray()
    without[5, 1] = 0.0  # b no longer feeds anything; then error 0 feeds nothing either
    small = prune(replace(graph, edges=sp.csr_array(without)), node_mass=1.0, edge_mass=1.0)
    assert {str(node) for node in small.node_ids()} == {"feature:0:0:3", "error:1:0", "token:0", "logit:0:5"}


def test_thresholds_of_masses_at_the_ends() -> None:
    assert (
        mass_threshold(np.array([4.0, 3.0, 2.0, 1.0]), 0.4) == 4.0
        and mass_threshold(np.array([4.0, 3.0, 2.0, 1.0]), 0.41) == 3.0
    )
    assert (
        mass_threshold(np.array([4.0, 3.0, 2.0, 1.0]), 0.9) == 2.0
        and mass_threshold(np.array([4.0, 3.0, 2.0, 1.0]), 0.91) == 1.0
    )
    close = np.array([1.0, np.nextafter(np.float32(1), np.float32(2)), 1e-30, 3e38], dtype=np.float32)
    assert mass_threshold(close[:2], 0.5) == close[1] and mass_threshold(close[:2], 0.51) == 1.0
    assert mass_threshold(close, 0.5) == np.float32(3e38) and mass_threshold(np.array([]), 0.5) > 0
    assert 0 < mass_threshold(np.array([5.0]), 1.0) < 1e-40


# --- the curve -----------------------------------------------------------------------------------------------------


def test_the_curve_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Running totals 0.29 (a), 0.82 (b): before they show, what they carried is absent."""
    graph = hand_graph()
    found = score_curve(graph)
    at = {round(stop * 100): n for n, stop in enumerate(found.stops)}
    assert (
        found.nodes[at[20]] == 2
        and found.nodes[at[30]] == 3
        and found.nodes[at[82]] == 3
        and found.nodes[at[83]] == 4
    )
    assert found.nodes[at[100]] == 6 and found.error_nodes[at[100]] == 2 and found.error_nodes[at[93]] == 0
    assert found.error_nodes[at[95]] == 1 and found.error_edges[at[95]] == 1
    assert (
        found.edges[at[20]] == 0
        and found.edges[at[30]] == 2
        and found.edges[at[83]] == 4
        and found.edges[at[100]] == 6
    )
    assert (
        found.replacement is not None
        and found.completeness is not None
        and found.mean_path_length is not None
    )
    whole = score(graph)
    last = (found.replacement[-1], found.completeness[-1], found.mean_path_length[-1])
    assert last == pytest.approx((whole.replacement, whole.completeness, whole.mean_path_length), abs=1e-5)
    assert (
        found.replacement[at[20]] == 0
        and found.replacement[at[30]] == 0.25
        and found.mean_path_length[at[30]] == 2.0
    )
    monkeypatch.setattr(curve, "_AT_ONCE", 1)
    assert score_curve(graph) == found
    assert curve.ScoreCurve.from_json(found.to_json()) == found


@pytest.mark.parametrize(("provenance", "certificate", "total", "held"), [
    ({"influence_held": 0.123456}, True, None, 0.12346), ({"influence_held": 1}, False, None, 1.0), ({}, True, [0.5] * 6, 1.0),
    ({}, False, None, 1.0), ({}, False, [0.25, 0.5, 0.75, np.nan, -1, -1], 0.75), ({}, False, [1.5] * 6, 1.0), ({}, False, [0.0] * 6, None),
    ({"influence_held": "x"}, False, [0.5] * 6, 0.5),
])  # fmt: skip
def test_the_influence_that_a_graph_says_it_holds(
    provenance: dict, certificate: bool, total: Any, held: Any
) -> None:
    book = Certificate(expanded=1, active=1, frontier_mass=0.0, bound=0.0, dropped_mass=0.0)
    graph = replace(hand_graph(), provenance=provenance, certificate=book if certificate else None)
    assert score_curve(graph, None if total is None else np.array(total)).influence_held == held


# --- nodes and groups ----------------------------------------------------------------------------------------------


def test_the_nearest_nodes_come_first() -> None:
    """By position, then layer, then index; of the same kind only."""
    graph = random_graph(n_layers=3, length=4, per_place=3, seed=4)
    node = NodeId.parse("feature:1:2:99")
    with pytest.raises(UnknownFeature) as refused:
        graph.find(node)
    listed = str(refused.value).partition("Nearest: ")[2].split(", ")[:6]
    features = [one for one in graph.node_ids() if one.kind == "feature"]
    near = sorted(features, key=lambda one: (abs(one.position - 2), abs(one.layer - 1), abs(one.index - 99)))  # type: ignore[operator]
    assert [one.strip(" .…") for one in listed] == [str(one) for one in near[:6]]
    assert graph.find(features[3]) == graph.find(str(features[3])) == 3


def test_a_graph_on_disk(tmp_path: Path) -> None:
    graph = replace(hand_graph(), labels={"a/d/0/3": "ay"}, provenance={"x": 1},
                    supernodes=(Supernode(label="s", members=(NodeId.parse("feature:0:0:3"),)),))  # fmt: skip
    back = Graph.load(graph.save(tmp_path / "g"))
    for name in ("prompt", "tokens", "token_ids", "model_name", "dictionary_name", "scan", "n_layers", "targets", "certificate",
                 "labels", "supernodes"):  # fmt: skip
        assert getattr(back, name) == getattr(graph, name), name
    for name in ("kind", "layer", "position", "index", "value", "bias", "absent"):
        assert getattr(back, name).dtype == getattr(graph, name).dtype
    assert back.is_target.tolist() == [False] * 5 + [True] and back.weights.tolist() == pytest.approx(
        [0] * 5 + [0.8]
    )
    assert graph.label(0) == "ay" and graph.label(1) is None and graph.feature_id(2) is None
    assert replace(graph, dictionary_name="").feature_id(0) is None
    assert [graph.rows(kind).tolist() for kind in ("feature", "error", "token", "logit")] == [
        [0, 1],
        [2, 3],
        [4],
        [5],
    ]
    assert issubclass(CorruptArtefact, ThoughtscopeError)


def test_groups_of_a_small_graph() -> None:
    graph = replace(hand_graph(), labels={"feature:0:0:3": "x", "feature:1:0:4": "x"})
    both = group(graph)
    assert [(one.label, len(one.members)) for one in both.supernodes] == [("x", 2)]
    edges = grouped_edges(both)
    assert edges.names == ("x", "error:0:0", "error:1:0", "token:0", "logit:0:5")
    x, zero, one, token, logit = range(5)
    weights = {
        (t, s): float(w) for t, s, w in zip(*edges.weights.nonzero(), edges.weights.tocsr().data, strict=True)
    }
    assert weights == {(x, token): -2.0, (x, zero): 1.0, (logit, x): -2.0, (logit, one): 2.0}
    # Into the group flow 0.5 of 0.625 from the token (a) … in all a's 0.625 and a quarter of b's 0.5
    assert float(edges.shares[x, token]) == pytest.approx(0.625 / 0.75) and float(
        edges.shares[x, zero]
    ) == pytest.approx(0.125 / 0.75)
    assert float(edges.shares[logit, x]) == pytest.approx(0.75) and float(
        edges.shares[logit, one]
    ) == pytest.approx(0.25)
    assert strongest_path(edges, "token:0", "logit:0:5") == ("token:0", "x", "logit:0:5")
    assert strongest_path(edges, "logit:0:5", "token:0") == () and strongest_path(edges, "x", "x") == ("x",)
    plain = grouped_edges(graph)
    # a directly: 1/4; through b: 1/2 · 3/4
    a = "feature:0:0:3"
    assert strongest_path(plain, a, "logit:0:5") == (a, "feature:1:0:4", "logit:0:5")
    with pytest.raises(UnknownFeature, match="group"):
        strongest_path(plain, "x", a)
    for groups, words in (({"": [a]}, "needs a name"), ({"n": []}, "one or more"), ({"n": a}, "one or more"), ({"n": [a, a]}, "a node twice"),
                          ({"n": [a], "m": [a]}, 'in "n" and in "m"')):  # fmt: skip
        with pytest.raises(ThoughtscopeError, match=words):
            group(graph, groups)
    with pytest.raises(ThoughtscopeError, match="way to group"):
        group(graph, by="colour")
    kept = group(group(graph, {"n": [a], "m": ["token:0"]}), {"n": ["feature:1:0:4"]})
    assert {one.label: str(one.members[0]) for one in kept.supernodes} == {
        "m": "token:0",
        "n": "feature:1:0:4",
    }
    named = group_named(
        kept,
        {NodeId.parse(a): "m", NodeId.parse("feature:1:0:4"): "other", NodeId.parse("feature:1:0:9"): "gone"},
    )
    assert {one.label: [str(m) for m in one.members] for one in named.supernodes} == {
        "m": ["token:0", a],
        "n": ["feature:1:0:4"],
    }
    assert find_supernode(named, "m").members[0] == NodeId.parse("token:0")
    with pytest.raises(UnknownFeature, match="Allowed: m, n"):
        find_supernode(named, "q")


# --- targets and limits of a trace ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced() -> tuple[Model, Any, Tokens, Graph]:
    model = tiny_model("llama", layers=3)
    dictionary, tokens = random_dictionary(model, cross_layer=True), tokens_from_ids(model, IDS)
    return model, dictionary, tokens, attribute(model, dictionary, tokens)


def test_the_fewest_tokens_that_cover_a_mass() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()
    found = lambda n, mass: likeliest(logits, max_targets=n, target_mass=mass)
    assert (
        found(9, 1.0)[:3] == [1, 3, 2]
        and found(9, 0.39) == [1]
        and found(9, 0.41) == [1, 3]
        and found(9, 0.89) == [1, 3, 2]
    )
    assert found(1, 0.9) == [1] and found(2, 0.9) == [1, 3] and found(4, 0.95) == [1, 3, 2, 0]
    for n, mass in ((0, 0.5), (1, 0.0), (1, 1.01), (-1, 0.5)):
        with pytest.raises(ThoughtscopeError, match=f"got {n} and {mass}"):
            found(n, mass)


def test_names_of_target_tokens(traced: tuple) -> None:
    model = traced[0]
    assert token_id(model, "A") == 65 and token_id(model, 0) == 0 and token_id(model, 259) == 259
    for wrong, words in (
        (260, "ids go from 0 to 259"),
        (-1, "ids go from 0 to 259"),
        ("AB", r"is 2 tokens .*' AB'"),
        ("", "is 0 tokens"),
    ):
        with pytest.raises(ThoughtscopeError, match=words):
            token_id(model, wrong)
    with pytest.raises(ThoughtscopeError, match="has no tokenizer"):
        token_id(tiny_model("llama", vocab_size=50), "A")


def test_what_targets_say_of_themselves(traced: tuple) -> None:
    model, dictionary, tokens, whole = traced
    node = whole.node_id(int(whole.rows("feature")[-1]))
    at = 3
    graph = attribute(
        model, dictionary, tokens, targets=[65, LogitDifference("B", 67), LogitDifference(1, 2)], position=at
    )
    probability = forward(model, tokens)[0, at].softmax(-1)
    first, second, third = graph.targets
    assert (
        (first.text, first.vocab_id) == ("A", 65)
        and (second.text, second.vocab_id) == ("B − C", None)
        and third.vocab_id is None
    )
    assert first.probability == first.weight == pytest.approx(float(probability[65]), rel=1e-5)
    assert (
        second.probability == pytest.approx(float(probability[66]), rel=1e-5)
        and second.weight == third.weight == 1
    )
    rows = [graph.node_id(target.node) for target in graph.targets]
    assert [(one.position, one.index) for one in rows] == [(at, 65), (at, 260), (at, 261)]
    values = forward(model, tokens)[0, at].double()
    expected = [values[65] - values.mean(), values[66] - values[67], values[1] - values[2]]
    assert graph.value[graph.rows("logit")] == pytest.approx([float(x) for x in expected], abs=1e-4)
    inside = attribute(model, dictionary, tokens, targets=[65, node])
    own = inside.targets[1]
    assert (own.text, own.vocab_id, own.probability, own.weight) == (
        f"feature {node.index} of layer {node.layer}",
        None,
        1.0,
        1.0,
    )
    assert inside.node_id(own.node) == node and inside.targets[0].node == len(inside) - 1
    for repeated in ([65, 65], ["A", 65], [node, node]):
        with pytest.raises(ThoughtscopeError, match=r"named twice|mean the same token"):
            attribute(model, dictionary, tokens, targets=repeated)
    early = attribute(model, dictionary, tokens, position=-6)
    assert not early.position[early.mask("feature") | early.mask("logit")].any()
    assert attribute(model, dictionary, tokens, position=5).value == pytest.approx(whole.value)
    for position in (6, -7):
        with pytest.raises(
            ThoughtscopeError, match=f"position {position} is outside the prompt, which has positions 0 to 5"
        ):
            attribute(model, dictionary, tokens, position=position)


def test_a_feature_of_another_dictionary_as_a_target(traced: tuple) -> None:
    model, dictionary, tokens, _ = traced
    other = random_dictionary(model, seed=3, activation="jumprelu")
    acts = capture(model, tokens, other.sites)
    part = other.part("1")
    live = part.activations({site: acts[site][0] for site in part.reads})
    pre = part.preactivations({site: acts[site][0] for site in part.reads})
    position, index = (int(x) for x in live[2:].nonzero()[0] + torch.tensor([2, 0]))
    for given in (position, position - 6):
        graph = attribute(
            model,
            dictionary,
            tokens,
            targets=[FeatureTarget(dictionary=other, part="1", index=index, position=given)],
        )
        (target,) = graph.targets
        assert target.text.endswith(f"/1/{index} at {position}") and (
            target.vocab_id,
            target.probability,
            target.weight,
        ) == (None, 1.0, 1.0)
        assert graph.value[target.node] == pytest.approx(float(pre[position, index]), rel=1e-4)
        assert graph.edges[[target.node]].sum() + graph.bias[target.node] == pytest.approx(
            float(pre[position, index]), abs=1e-4
        )
    silent = int((live[position] == 0).nonzero()[0])
    for wrong, words in (({"index": silent}, f"not active at position {position}; active there: "), ({"position": 6}, "outside the prompt"),
                         ({"position": -7}, "outside the prompt"), ({"index": 999}, "no feature 999"), ({"position": 0}, "not active at position 0")):  # fmt: skip
        with pytest.raises(ThoughtscopeError, match=words):
            fields = {"dictionary": other, "part": "1", "index": index, "position": position} | wrong
            attribute(model, dictionary, tokens, targets=[FeatureTarget(**fields)])
    assert attribute(model, dictionary, tokens, targets=[FeatureTarget(dictionary=replace(other, skip_first=False), part="1",
                     index=int(live[0].nonzero()[0]), position=0)]).targets[0].weight == 1  # fmt: skip


@pytest.mark.parametrize(("limits", "words"), [
    ({"max_nodes": 0}, "max_nodes must be 1 or more"), ({"influence_bound": -0.01}, "influence_bound is a share"),
    ({"influence_bound": 1.0}, "influence_bound is a share"), ({"edge_floor": -0.01}, "edge_floor is a share"), ({"edge_floor": 1.0}, "edge_floor"),
])  # fmt: skip
def test_limits_out_of_range(traced: tuple, limits: dict, words: str) -> None:
    with pytest.raises(ThoughtscopeError, match=words):
        attribute(*traced[:3], **limits)


def test_limits_at_their_ends(traced: tuple) -> None:
    model, dictionary, tokens, whole = traced
    n = len(whole.rows("feature"))
    for limits, features in (({"max_nodes": 1}, 1), ({"max_nodes": n}, n), ({"max_nodes": n + 5}, n), ({"max_nodes": n - 1}, n - 1),
                             ({"influence_bound": 0.999}, 0), ({"edge_floor": 0.0}, n)):  # fmt: skip
        told: list[tuple] = []
        graph = attribute(
            model, dictionary, tokens, **limits, progress=lambda *one, told=told, **_: told.append(one)
        )
        book = graph.certificate
        assert (
            book is not None and len(graph.rows("feature")) == book.expanded == features and book.active == n
        )
        assert (book.frontier_mass == 0) == (book.bound == 0) == (features == n) and book.dropped_mass == 0
        steps = [one for one in told if one[0] == "attribute"]
        assert not features or steps[-1][1] == features
        assert (
            told[0] == ("forward", 0, 1)
            and ("forward", 1, 1) in told
            and told[-2:] == [("graph", 0, 1), ("graph", 1, 1)]
        )
    np.testing.assert_allclose(
        attribute(model, dictionary, tokens, max_nodes=n).edges.toarray(), whole.edges.toarray(), atol=1e-6
    )
    assert (whole.absent == 0).all() and whole.certificate == Certificate(
        expanded=n, active=n, frontier_mass=0.0, bound=0.0, dropped_mass=0.0
    )
    best = attribute(model, dictionary, tokens, max_nodes=1)
    top = whole.node_id(int(np.argmax(np.where(whole.mask("feature"), whole.influence, -1))))
    direct = np.abs(whole.edges[whole.rows("logit")].toarray())
    share = (direct / direct.sum(1, keepdims=True) * whole.weights[whole.rows("logit"), None]).sum(0)
    first = whole.node_id(int(np.argmax(np.where(whole.mask("feature"), share, -1))))
    assert [node for node in best.node_ids() if node.kind == "feature"] == [first] and top.kind == "feature"
    assert _attribute is attribute


def test_chunks_hold_every_target_once_in_the_order_that_a_sweep_needs() -> None:
    draw = torch.Generator().manual_seed(0)
    size = 60
    targets = Injections(layer=torch.randint(0, 4, (size,), generator=draw), after_attention=torch.rand(size, generator=draw) > 0.5,
                         position=torch.randint(0, 9, (size,), generator=draw), vector=torch.zeros(size, 2), constant=torch.zeros(size))  # fmt: skip
    for budget in (1, 3000, 10**9):
        found = [one.tolist() for one in chunks(targets, width=4, columns=8, budget=budget)]
        assert sorted(n for one in found for n in one) == list(range(size))
        assert (len(found) == size) == (budget == 1)
        last = -1
        for one in found:
            heights = (2 * targets.layer + targets.after_attention)[one].tolist()
            assert heights == sorted(heights, reverse=True)
            assert min(targets.position[one].tolist()) >= last
            last = (
                max(targets.position[one].tolist())
                if len(found) < size
                else min(targets.position[one].tolist())
            )


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "olmo2", "llama"])
def test_reads_of_a_frozen_model_give_what_the_site_holds(family: str) -> None:
    """For every site that can be read: the injections' gradients and constants add up to the read of the site."""
    model = tiny_model(family, layers=2)
    tokens = tokens_from_ids(model, IDS)
    kinds = ["resid_pre", "resid_mid", "attn_norm", "attn_in", "mlp_norm", "mlp_in", "z", "resid_post"]
    sites = [Site(kind, layer) for kind in kinds for layer in (0, 1) if kind not in model.family.missing] + [
        Site("embed"),
        Site("final_norm"),
    ]
    stream = [
        Site(kind, layer)
        for kind in ("resid_pre", "resid_post", "resid_mid")
        for layer in (0, 1)
        if kind not in model.family.missing
    ]
    frozen, acts = linearise(model, tokens, tuple(dict.fromkeys([*sites, *stream])))
    for site in sites:
        vector = torch.randn(model.width(site), generator=torch.Generator().manual_seed(1))
        for position in (0, 3):
            total = 0.0
            for layer, after, at, gradient, constant in frozen.read_transpose(site, vector, position):
                held = (
                    Site("resid_post", 1)
                    if layer == 2
                    else Site("resid_mid" if after else "resid_pre", layer)
                )
                total += float(acts[held][0, at] @ gradient) + constant
            assert total == pytest.approx(
                float(vector @ acts[site][0, position].flatten()), rel=1e-3, abs=1e-3
            ), site
    for site in (Site("q", 0), Site("mlp_out", 0), Site("logits")):
        with pytest.raises(ThoughtscopeError, match="targets of a graph"):
            list(frozen.read_transpose(site, torch.zeros(16), 0))
    for several in (
        tokens_from_ids(model, [IDS, IDS]),
        replace(tokens, mask=torch.tensor([[False] + [True] * 5])),
    ):
        with pytest.raises(ThoughtscopeError, match="one prompt without padding"):
            linearise(model, several)
