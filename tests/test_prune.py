"""Influence, scores and pruning against a dense implementation that shares no code with the package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.random_graphs import random_graph
from thoughtscope.core.errors import InvalidGraph, ThoughtscopeError, UnknownFeature
from thoughtscope.graphs import Graph, influence, prune, score
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN
from thoughtscope.graphs.influence import edge_influence
from thoughtscope.graphs.prune import mass_threshold, subgraph

SEEDS = range(4)


def dense_shares(graph: Graph) -> np.ndarray:
    """Rows of |A|, each over its sum and what is absent from it."""
    absolute = np.abs(graph.edges.toarray().astype(np.float64))
    total = absolute.sum(1) + graph.absent
    return np.divide(absolute, total[:, None], out=np.zeros_like(absolute), where=total[:, None] > 0)


def dense_influence(graph: Graph) -> np.ndarray:
    """w ((I - Â)^-1 - I), by the inverse: no power series, no sparsity."""
    size = len(graph)
    closed = np.linalg.inv(np.eye(size) - dense_shares(graph)) - np.eye(size)
    return graph.weights.astype(np.float64) @ closed


def dense_scores(graph: Graph) -> tuple[float, float]:
    """Replacement and completeness as circuit-tracer defines them; absent input is one more error."""
    shares, total = dense_shares(graph), dense_influence(graph)
    reached = total + graph.weights
    fed = (shares.sum(1) > 0) | (graph.absent > 0)
    absent = np.where(fed, 1 - shares.sum(1), 0)
    tokens, errors = total[graph.kind == TOKEN].sum(), total[graph.kind == ERROR].sum()
    errors += (reached * absent).sum()
    kept = 1 - shares[:, graph.kind == ERROR].sum(1) - absent
    return tokens / (tokens + errors), (kept * reached).sum() / reached.sum()


@pytest.mark.parametrize("seed", SEEDS)
def test_influence_is_the_closed_form(seed: int) -> None:
    graph = random_graph(seed=seed)
    np.testing.assert_allclose(influence(graph), dense_influence(graph), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_are_the_published_formulas(seed: int) -> None:
    graph = random_graph(seed=seed)
    found = score(graph)
    assert (found.replacement, found.completeness) == pytest.approx(dense_scores(graph), rel=1e-6)
    absent = replace(graph, absent=np.where(graph.kind == FEATURE, 2.0, 0.0).astype(np.float32))
    lower = score(absent)
    assert (lower.replacement, lower.completeness) == pytest.approx(dense_scores(absent), rel=1e-6)
    assert lower.replacement < found.replacement and lower.completeness < found.completeness


def test_influence_that_reaches_an_end_is_all_that_started() -> None:
    graph = random_graph(seed=5)
    ends = influence(graph)[(graph.kind == TOKEN) | (graph.kind == ERROR)].sum()
    assert ends == pytest.approx(graph.weights.sum(), rel=1e-6)


def test_the_path_length_of_a_chain() -> None:
    """logit ← feature ← token, and logit ← token: half of the mass each, of 2 and 1 edges."""
    graph = random_graph(n_layers=1, length=1, per_place=1, logits=1, density=0.0)
    feature, _, token, logit = range(4)
    edges = np.zeros((4, 4), dtype=np.float32)
    edges[logit, feature], edges[logit, token], edges[feature, token] = 3, -3, 0.5
    graph = replace(graph, edges=type(graph.edges)(edges))
    assert graph.scores.mean_path_length == pytest.approx(1.5)
    assert graph.scores.replacement == pytest.approx(1) and graph.scores.completeness == pytest.approx(1)


@pytest.mark.parametrize("seed", SEEDS)
def test_mass_threshold_equals_sorting(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = np.abs(draw.standard_cauchy(5000)).astype(np.float32)
    values[draw.random(5000) < 0.2] = 0
    values[:50] = values[50:100]  # ties
    for mass in (0.01, 0.3, 0.8, 0.98, 0.999999):
        ordered = np.sort(values)[::-1]
        running = np.cumsum(ordered, dtype=np.float64)
        expected = ordered[np.searchsorted(running, mass * running[-1] * (1 - 1e-12))]
        assert mass_threshold(values, mass) == expected
    assert (values >= mass_threshold(values, 1.0)).sum() == (values > 0).sum()
    assert mass_threshold(np.zeros(3, dtype=np.float32), 0.8) > 0


def test_prune_to_one_keeps_every_node_with_influence() -> None:
    graph = random_graph(seed=2, density=0.3)
    kept = prune(graph, node_mass=1.0, edge_mass=1.0)
    expected = (influence(graph) > 0) | (graph.kind == TOKEN) | (graph.kind == LOGIT)
    assert set(kept.node_ids()) == {graph.node_id(node) for node in np.flatnonzero(expected).tolist()}
    assert kept.scores.replacement == pytest.approx(graph.scores.replacement, rel=1e-6)
    assert kept.scores.completeness == pytest.approx(graph.scores.completeness, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_pruning_keeps_the_books(seed: int) -> None:
    graph = random_graph(seed=seed, n_layers=4, length=5)
    small = prune(graph, node_mass=0.6, edge_mass=0.9)
    assert len(small) < len(graph) and small.edges.nnz < graph.edges.nnz
    for row, node in enumerate(small.node_ids()):
        before = graph.find(node)
        incoming = np.abs(small.edges[[row]]).sum() + small.absent[row]
        assert incoming == pytest.approx(np.abs(graph.edges[[before]]).sum(), rel=1e-5)
    assert (small.scores.replacement, small.scores.completeness) == pytest.approx(
        dense_scores(small), rel=1e-5
    )
    assert small.scores.replacement <= graph.scores.replacement + 1e-6
    np.testing.assert_allclose(small.influence, dense_influence(small), rtol=1e-4, atol=1e-7)


def test_pruned_nodes_are_the_fewest_that_hold_the_mass() -> None:
    graph = random_graph(seed=3, n_layers=4, length=5)
    total = influence(graph)
    ordered = np.sort(total)[::-1]
    threshold = ordered[np.searchsorted(np.cumsum(ordered) / ordered.sum(), 0.6)]
    small = prune(graph, node_mass=0.6, edge_mass=1.0, keep_errors=False)
    features = {
        graph.node_id(n) for n in np.flatnonzero((graph.kind == FEATURE) & (total >= threshold)).tolist()
    }
    found = {node for node in small.node_ids() if node.kind == "feature"}
    assert found <= features and len(found) >= 0.8 * len(features)  # the rest had lost their input or output


def ends_of(graph: Graph) -> np.ndarray:
    """(edge, 2): the names of each edge's target and source, in the order of its data."""
    rows = np.repeat(np.arange(len(graph)), np.diff(graph.edges.indptr))
    return np.array([str(node) for node in graph.node_ids()])[np.stack([rows, graph.edges.indices], axis=1)]


def test_pruning_to_a_number_of_edges_keeps_those_that_carry_most() -> None:
    graph = random_graph(seed=3, n_layers=4, length=5)
    whole = prune(graph, node_mass=1.0, edge_mass=1.0)
    small = prune(graph, node_mass=1.0, edge_mass=1.0, max_edges=160)
    order = np.argsort(-edge_influence(whole))[:160]
    strongest, kept = ends_of(whole)[order].tolist(), ends_of(small).tolist()
    assert 100 < len(kept) <= 160 and all(
        ends in strongest for ends in kept
    )  # the others led nowhere any more
    assert small.provenance["pruning"]["max_edges"] == 160
    assert prune(graph, max_edges=10**6).edges.nnz == prune(graph).edges.nnz
    with pytest.raises(ThoughtscopeError, match="max_edges must be at least 1"):
        prune(graph, max_edges=0)


def test_pruning_leaves_no_loose_ends() -> None:
    graph = prune(random_graph(seed=1, n_layers=4, density=0.4), node_mass=0.5, edge_mass=0.6)
    absolute = abs(graph.edges)
    fed, used = absolute.sum(axis=1) > 0, absolute.sum(axis=0) > 0
    is_feature, is_error = graph.kind == FEATURE, graph.kind == ERROR
    assert fed[is_feature].all() and used[is_feature].all() and used[is_error].all()
    assert (graph.kind == LOGIT).sum() == 2 and (graph.kind == TOKEN).sum() == 4


def test_errors_stay_unless_told_otherwise() -> None:
    graph = random_graph(seed=0, n_layers=4, length=5)
    kept = prune(graph, node_mass=0.3, edge_mass=1.0)
    fewer = prune(graph, node_mass=0.3, edge_mass=1.0, keep_errors=False)
    assert (kept.kind == ERROR).sum() > (fewer.kind == ERROR).sum()


def test_scores_of_a_pinned_part() -> None:
    graph = random_graph(seed=6)
    features = [graph.node_id(node) for node in np.flatnonzero(graph.kind == FEATURE).tolist()]
    everything = score(graph, pinned=features)
    assert everything.replacement == pytest.approx(graph.scores.replacement, rel=1e-6)
    assert everything.completeness == pytest.approx(graph.scores.completeness, rel=1e-6)
    some, none = score(graph, pinned=features[:12]), score(graph, pinned=[])
    assert none.replacement < some.replacement < everything.replacement
    # By hand: columns of features that are not pinned move to the error of their layer and position.
    dense = np.abs(graph.edges.toarray().astype(np.float64))
    for node in np.flatnonzero(graph.kind == FEATURE):
        if graph.node_id(int(node)) not in features[:12]:
            error = graph.find(f"error:{graph.layer[node]}:{graph.position[node]}")
            dense[:, error] += dense[:, node]
            dense[:, node] = 0
    moved = replace(graph, edges=type(graph.edges)(dense.astype(np.float32)))
    assert (some.replacement, some.completeness) == pytest.approx(dense_scores(moved), rel=1e-5)
    with pytest.raises(UnknownFeature, match="feature:9:9:9"):
        score(graph, pinned=["feature:9:9:9"])


def test_subgraph_keeps_targets_labels_and_members() -> None:
    graph = random_graph(seed=0)
    node = graph.node_id(0)
    graph = replace(
        graph, labels={str(node): "first", str(graph.node_id(1)): "second", "a/dictionary/0/3": "any"}
    )
    kept = np.ones(len(graph), dtype=bool)
    kept[1] = False
    small = subgraph(graph, kept)
    assert small.labels == {str(node): "first", "a/dictionary/0/3": "any"}
    assert [small.node_id(t.node) for t in small.targets] == [graph.node_id(t.node) for t in graph.targets]


@pytest.mark.parametrize(
    ("node_mass", "edge_mass"), [(0.0, 0.5), (1.2, 0.5), (0.5, -1.0), (float("nan"), 0.5)]
)
def test_thresholds_out_of_range(node_mass: float, edge_mass: float) -> None:
    with pytest.raises(ThoughtscopeError, match="share of the influence"):
        prune(random_graph(), node_mass=node_mass, edge_mass=edge_mass)


def test_a_graph_in_a_circle_is_refused() -> None:
    graph = random_graph(n_layers=1, length=1, per_place=2, logits=1, density=0.0)
    edges = np.zeros((5, 5), dtype=np.float32)
    edges[0, 1] = edges[1, 0] = edges[4, 0] = 1
    with pytest.raises(InvalidGraph, match="circle"):
        influence(replace(graph, edges=type(graph.edges)(edges)))
