"""Scores at each stop of the slider: those of the graph that is left, whatever the picture hides."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from tests.random_graphs import random_graph
from thoughtscope.graphs import (
    Graph,
    ScoreCurve,
    edge_influence,
    graph_from_json,
    graph_to_json,
    influence_share,
    prune,
    score_curve,
)
from thoughtscope.graphs.curve import STOPS
from thoughtscope.graphs.influence import cumulative_influence
from thoughtscope.graphs.prune import subgraph


def shown(graph: Graph, stop: float) -> np.ndarray:
    always = graph.mask("token") | graph.mask("logit") | graph.is_target
    return always | (cumulative_influence(graph) <= stop + 1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_stop_has_the_scores_of_the_graph_that_is_left(seed: int) -> None:
    graph = random_graph(n_layers=4, length=4, seed=seed)
    curve = score_curve(graph)
    assert len(curve.stops) == 81 and (curve.stops[0], curve.stops[-1]) == (0.2, 1.0)
    for number in range(0, 81, 5):
        kept = shown(graph, STOPS[number])
        left = subgraph(graph, kept)
        for name, value in asdict(subgraph(graph, kept | graph.mask("error")).scores).items():
            assert getattr(curve, name)[number] == pytest.approx(value, abs=2e-5), (name, number)
        assert (curve.nodes[number], curve.edges[number]) == (int(kept.sum()), left.edges.nnz)
        assert curve.error_nodes[number] == len(left.rows("error"))
        assert curve.error_edges[number] == int(left.mask("error")[left.edges.indices].sum())
    assert curve.replacement[-1] == pytest.approx(graph.scores.replacement, abs=1e-5)
    assert curve.replacement[0] < curve.replacement[-1]  # what is hidden is not explained


def test_hiding_errors_changes_no_score() -> None:
    graph = random_graph(n_layers=4, seed=3)
    total = cumulative_influence(graph)
    hidden = np.where(graph.mask("error"), 2.0, total)
    seen, unseen = score_curve(graph), score_curve(graph, hidden)
    assert (seen.replacement, seen.completeness) == (unseen.replacement, unseen.completeness)
    assert score_curve(graph, hidden).error_nodes[-1] == 0


def test_the_curve_of_a_file_survives_the_file() -> None:
    graph = prune(random_graph(n_layers=4, length=5, seed=5))
    again = graph_from_json(graph_to_json(graph))
    curve = score_curve(graph)
    assert score_curve(again) == curve == ScoreCurve.from_json(curve.to_json())
    assert curve.influence_held == pytest.approx(graph.provenance["influence_held"], abs=1e-5)
    assert 0.5 < curve.influence_held < 1


def test_a_file_without_errors_cannot_be_scored() -> None:
    graph = random_graph(seed=1)
    bare = replace(
        subgraph(graph, ~graph.mask("error")), absent=np.zeros(len(graph) - 12, np.float32), certificate=None
    )
    curve = score_curve(bare)
    assert curve.replacement is curve.completeness is curve.mean_path_length is None
    assert "no error nodes" in curve.why_unscored and curve.nodes[-1] == len(bare)
    assert score_curve(subgraph(graph, ~graph.mask("error"))).why_unscored is None  # the books hold what went


def test_a_file_that_states_less_than_all_influence_says_so() -> None:
    graph = replace(random_graph(seed=1), certificate=None)
    stated = 0.7 * cumulative_influence(graph)
    curve = score_curve(graph, stated)
    assert curve.influence_held == pytest.approx(0.7, abs=1e-4)
    assert curve.nodes[STOPS.index(0.71)] == len(graph) == curve.nodes[-1]
    assert curve.nodes[STOPS.index(0.3)] < len(graph)


def test_edges_out_of_a_node_carry_its_influence() -> None:
    graph = random_graph(n_layers=4, seed=2)
    by_source = np.bincount(graph.edges.indices, weights=edge_influence(graph), minlength=len(graph))
    np.testing.assert_allclose(by_source, graph.influence, rtol=1e-4, atol=1e-7)
    assert influence_share(graph).sum() == pytest.approx(1, rel=1e-6)
    order = np.argsort(-graph.influence, kind="stable")
    np.testing.assert_allclose(
        np.cumsum(influence_share(graph)[order]), cumulative_influence(graph)[order], atol=1e-6
    )


def test_eight_hundred_nodes_and_forty_thousand_edges_take_less_than_a_second() -> None:
    graph = random_graph(n_layers=20, length=10, per_place=3, logits=5, density=0.3, seed=0)
    assert len(graph) > 800 and graph.edges.nnz > 40_000
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        score_curve(replace(graph))
        best = min(best, time.perf_counter() - start)
    assert best < 1
