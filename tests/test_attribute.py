"""Attribution: exact on every family, by an independent autograd oracle; targets, limits, certificates, refusals."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.autograd_oracle import VARIANTS as WRONG
from tests.autograd_oracle import edges_by_autograd, random_dictionary, relayered
from tests.tiny_models import VARIANTS, tiny_model, tiny_variant
from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import NodeId
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import encode, layer_weights
from thoughtscope.graphs import Graph, LogitDifference, attribute, influence, linearise, prune
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN
from thoughtscope.models import capture, tokens_from_ids

IDS = [256, 9, 77, 33, 120, 121]
KINDS: dict[str, dict[str, Any]] = {
    "per-layer": {},
    "cross-layer": {"cross_layer": True, "read": "mlp_norm"},
    "skip": {"skip": True, "write": "mlp_raw", "activation": "jumprelu", "n_features": 8},
    "cross-layer, early read": {"cross_layer": True, "skip": True, "read": "resid_pre", "write": "mlp_raw"},
}


@cache
def traced(label: str = "llama", kind: str = "cross-layer", layers: int = 3) -> tuple:
    model = tiny_variant(label, layers=layers)
    dictionary = random_dictionary(model, **KINDS[kind])
    tokens = tokens_from_ids(model, IDS)
    return model, dictionary, tokens, attribute(model, dictionary, tokens)


def oracle(
    model, dictionary, tokens, graph: Graph, wrong: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Autograd's edges in the rows and columns of the graph's features, errors and tokens, then logits."""
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    vocab = model.vocab_size
    logits = [
        (
            int(graph.position[t.node]),
            torch.nn.functional.one_hot(torch.tensor(t.vocab_id), vocab) - 1 / vocab,
        )
        for t in graph.targets
    ]
    edges, values = edges_by_autograd(model, dictionary, features, tokens, logits, wrong=wrong)
    ids = zip(features.part.tolist(), features.position.tolist(), features.index.tolist(), strict=True)
    known = {node: row for row, node in enumerate(graph.node_ids())}
    rows = [known.get(NodeId.parse(f"feature:{layer}:{p}:{index}")) for layer, p, index in ids]
    kept = np.array([row is not None for row in rows])
    absent = ~np.concatenate([kept, np.ones(edges.shape[1] - len(rows), dtype=bool)])
    into_kept = np.concatenate([kept, np.ones(len(logits), dtype=bool)])
    assert not edges[into_kept][:, absent].any(), "a feature that was left out of the graph has an effect"
    return edges[into_kept][:, ~absent], values[into_kept]


def rows_of(graph: Graph) -> np.ndarray:
    return np.flatnonzero((graph.kind == FEATURE) | (graph.kind == LOGIT))


def largest_difference(graph: Graph, expected: np.ndarray) -> float:
    found = graph.edges.toarray()[rows_of(graph)][:, : expected.shape[1]]
    # An edge may be a product that cancels to almost nothing: it is exact on the scale of what it adds up to.
    scale = np.maximum(np.abs(expected).max(1), np.abs(graph.value[rows_of(graph)]))[:, None]
    return float((np.abs(found - expected) / scale).max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", VARIANTS)
def test_edges_equal_autograd(label: str, kind: str) -> None:
    model, dictionary, tokens, graph = traced(label, kind)
    edges, values = oracle(model, dictionary, tokens, graph)
    assert largest_difference(graph, edges) < 1e-5
    np.testing.assert_allclose(graph.value[rows_of(graph)], values, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", VARIANTS)
def test_edges_and_bias_add_up_to_the_value(label: str, kind: str) -> None:
    _, _, _, graph = traced(label, kind)
    rows = rows_of(graph)
    total = graph.edges.sum(axis=1) + graph.bias
    np.testing.assert_allclose(total[rows], graph.value[rows], atol=2e-5)
    assert graph.edges[graph.kind == TOKEN].nnz == 0 and graph.edges[graph.kind == ERROR].nnz == 0
    assert not graph.absent.any()


@pytest.mark.parametrize("wrong", WRONG)
def test_the_oracle_would_notice_a_mistake(wrong: str) -> None:
    model, dictionary, tokens, graph = traced("gemma2", "skip")
    edges, _ = oracle(model, dictionary, tokens, graph, wrong=wrong)
    assert largest_difference(graph, edges) > 1e-2


def test_nodes_are_in_order_and_describe_the_prompt() -> None:
    model, _, tokens, graph = traced()
    assert (np.diff(graph.kind.astype(int)) >= 0).all()
    features = [(n.layer, n.position, n.index) for n in graph.node_ids() if n.kind == "feature"]
    assert features == sorted(features) and len(set(features)) == len(features)
    assert graph.token_ids == tuple(IDS) and len(graph.tokens) == len(IDS)
    logits = capture(model, tokens, ["logits"])["logits"][0, -1]
    probabilities = logits.softmax(-1)
    for target in graph.targets:
        assert target.probability == pytest.approx(float(probabilities[target.vocab_id]), rel=1e-5)
    stated = [target.probability for target in graph.targets]
    assert stated == sorted(stated, reverse=True) and len(stated) <= 10
    assert sum(stated[:-1]) < 0.95
    assert graph.certificate is not None and graph.certificate.bound == 0


def test_soft_cap_is_in_the_probabilities_and_not_in_the_logits() -> None:
    model = tiny_model("gemma2")
    tokens = tokens_from_ids(model, IDS)
    graph = attribute(model, random_dictionary(model), tokens, targets=[5])
    acts = capture(model, tokens, ["final_norm", "logits"])
    uncapped = acts["final_norm"][0, -1] @ model.family.unembed.T
    node = graph.targets[0].node
    assert graph.value[node] == pytest.approx(float(uncapped[5] - uncapped.mean()), abs=1e-5)
    assert graph.targets[0].probability == pytest.approx(
        float(acts["logits"][0, -1].softmax(-1)[5]), rel=1e-5
    )


def test_a_difference_is_the_difference() -> None:
    model, dictionary, tokens, _ = traced()
    both = attribute(model, dictionary, tokens, targets=[11, 12])
    difference = attribute(model, dictionary, tokens, targets=[LogitDifference(11, 12)])
    a, b = (both.edges[[t.node]].toarray()[0] for t in both.targets)
    found = difference.edges[[difference.targets[0].node]].toarray()[0]
    n = len(found) - 1
    np.testing.assert_allclose(found[:n], (a - b)[:n], atol=1e-6)
    assert difference.targets[0].vocab_id is None and difference.targets[0].weight == 1
    assert difference.index[difference.targets[0].node] == model.vocab_size


def test_a_feature_is_explained_as_it_is_in_the_whole_graph() -> None:
    model, dictionary, tokens, whole = traced()
    node = next(n for n in whole.node_ids() if n.kind == "feature" and n.layer == 2)
    graph = attribute(model, dictionary, tokens, targets=[node])
    row = graph.targets[0].node
    assert graph.node_id(row) == node and not (graph.kind == LOGIT).any()
    assert all(n.layer < 2 or n == node for n in graph.node_ids() if n.kind == "feature")
    for source in np.flatnonzero(graph.edges[[row]].toarray()[0]).tolist():
        there = whole.edges[whole.find(node), whole.find(graph.node_id(source))]
        assert graph.edges[row, source] == pytest.approx(float(there), abs=1e-6)
    assert 0 < graph.scores.replacement < 1
    pruned = prune(graph)
    assert pruned.node_id(pruned.targets[0].node) == node


@pytest.mark.parametrize("label", ["llama", "gpt_neox"])
def test_only_features_that_can_reach_the_target_are_nodes(label: str) -> None:
    """In parallel blocks a feature of the layer below reaches a target only at its own position."""
    model, dictionary, tokens, whole = traced(label)
    rows = np.flatnonzero((whole.kind == FEATURE) & (whole.layer == 2) & (whole.position == len(IDS) - 1))
    graph = attribute(model, dictionary, tokens, targets=[whole.node_id(int(rows[0]))])
    features = (graph.kind == FEATURE) & ~graph.is_target
    assert features.any() and (graph.influence[features] > 0).all()


def test_another_position_is_a_shorter_prompt() -> None:
    model, dictionary, tokens, _ = traced()
    graph = attribute(model, dictionary, tokens, position=2, targets=[7])
    short = attribute(model, dictionary, tokens_from_ids(model, IDS[:3]), targets=[7])
    assert graph.position[graph.kind == FEATURE].max() <= 2
    assert graph.scores.replacement == pytest.approx(short.scores.replacement, rel=1e-5)
    found, expected = (np.sort(g.edges[[g.targets[0].node]].data) for g in (graph, short))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_limits_leave_out_the_least_and_the_certificate_holds() -> None:
    model, dictionary, tokens, whole = traced("llama", "cross-layer", 4)
    true = {node: float(i) for node, i in zip(whole.node_ids(), influence(whole), strict=True)}
    total = whole.weights.sum()
    previous = None
    for budget in (5, 15, 30):
        graph = attribute(model, dictionary, tokens, max_nodes=budget)
        certificate = graph.certificate
        assert certificate is not None and certificate.expanded == budget == (graph.kind == FEATURE).sum()
        kept = set(graph.node_ids())
        left_out = [value for node, value in true.items() if node not in kept]
        assert max(left_out) / total <= certificate.bound + 1e-6
        assert graph.scores.replacement <= whole.scores.replacement + 1e-6
        assert graph.scores.completeness <= whole.scores.completeness + 1e-6
        total_in = np.abs(graph.edges).sum(axis=1) + graph.absent
        for row in rows_of(graph):
            before = np.abs(whole.edges[[whole.find(graph.node_id(int(row)))]]).sum()
            assert total_in[row] == pytest.approx(before, rel=1e-4)
        assert previous is None or certificate.frontier_mass < previous
        previous = certificate.frontier_mass


def test_influence_bound_stops_where_it_says() -> None:
    model, dictionary, tokens, whole = traced("llama", "cross-layer", 4)
    graph = attribute(model, dictionary, tokens, influence_bound=0.2)
    certificate = graph.certificate
    assert certificate is not None and 0 < certificate.frontier_mass <= 0.2
    assert certificate.expanded < certificate.active
    exact = attribute(model, dictionary, tokens, influence_bound=0.0)
    assert exact.scores.replacement == pytest.approx(whole.scores.replacement, rel=1e-6)


def test_a_floor_keeps_the_books() -> None:
    model, dictionary, tokens, whole = traced()
    graph = attribute(model, dictionary, tokens, edge_floor=0.02)
    assert graph.node_ids() == whole.node_ids() and graph.edges.nnz < whole.edges.nnz
    np.testing.assert_allclose(
        abs(graph.edges).sum(axis=1) + graph.absent, abs(whole.edges).sum(axis=1), rtol=1e-4, atol=1e-5
    )
    assert graph.certificate is not None and 0 < graph.certificate.dropped_mass < 1
    assert graph.scores.replacement < whole.scores.replacement


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model, dictionary, tokens, whole = traced()
    monkeypatch.setattr("thoughtscope.graphs.sweep.SMALL_CHUNK", 1)
    monkeypatch.setattr("thoughtscope.graphs.sweep.CHUNK_BYTES", 20_000)
    again = attribute(model, dictionary, tokens)
    np.testing.assert_allclose(again.edges.toarray(), whole.edges.toarray(), atol=1e-6)
    np.testing.assert_allclose(again.bias, whole.bias, atol=1e-6)


def test_half_precision_models_are_traced_in_single() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    graph = attribute(model, random_dictionary(model), tokens_from_ids(model, IDS))
    rows = rows_of(graph)
    total = graph.edges.sum(axis=1) + graph.bias
    assert graph.edges.dtype == np.float32
    # The model itself rounds to 8 bits; the graph is linear in what it then holds.
    assert np.abs(total[rows] - graph.value[rows]).max() < 0.1


def test_a_dictionary_without_active_features_gives_errors_and_tokens() -> None:
    model, dictionary, tokens, _ = traced("llama", "skip")
    layers = tuple(
        replace(w, threshold=torch.full_like(w.threshold, 1e6)) if w.threshold is not None else w
        for w in layer_weights(dictionary)
    )
    graph = attribute(model, relayered(dictionary, layers), tokens)
    assert not (graph.kind == FEATURE).any()
    assert graph.edges.sum() + graph.bias.sum() == pytest.approx(
        graph.value[graph.kind == LOGIT].sum(), abs=1e-4
    )


def test_progress_is_told() -> None:
    model, dictionary, tokens, _ = traced()
    heard: list[tuple[str, int, int]] = []
    attribute(model, dictionary, tokens, progress=lambda *event, **_: heard.append(event))
    assert [stage for stage in dict.fromkeys(stage for stage, _, _ in heard)] == [
        "forward",
        "attribute",
        "graph",
    ]
    assert all(0 <= done <= total for _, done, total in heard)
    assert heard[-1] == ("graph", 1, 1)


def test_frozen_attention_is_the_models_own() -> None:
    for label in VARIANTS:
        model = tiny_variant(label)
        tokens = tokens_from_ids(model, IDS)
        sites = tuple(Site(kind, layer) for layer in range(2) for kind in ("resid_pre", "attn_out"))
        frozen, acts = linearise(model, tokens, sites)
        for layer, block in enumerate(frozen.blocks):
            written = block.attend(acts[Site("resid_pre", layer)][0]) + block.constant
            torch.testing.assert_close(written, acts[Site("attn_out", layer)][0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"targets": []}, ThoughtscopeError, "at least one target"),
        ({"targets": ["two words"]}, ThoughtscopeError, "a target is one token"),
        ({"targets": [9999]}, ThoughtscopeError, "ids go from 0 to"),
        ({"targets": [3, 3]}, ThoughtscopeError, "named twice"),
        ({"targets": [NodeId.parse("feature:0:1:9999")]}, UnknownFeature, "not active at position 1"),
        ({"targets": [NodeId.parse("token:1")]}, UnknownFeature, "is a feature"),
        ({"position": 17}, ThoughtscopeError, "outside the prompt"),
        ({"max_nodes": 0}, ThoughtscopeError, "max_nodes"),
        ({"max_targets": 0}, ThoughtscopeError, "max_targets"),
        ({"target_mass": 1.5}, ThoughtscopeError, "target_mass"),
        ({"influence_bound": 1.0}, ThoughtscopeError, "influence_bound"),
        ({"edge_floor": 1.0}, ThoughtscopeError, "edge_floor"),
    ],
)
def test_requests_that_cannot_be_met(changes: dict, error: type[Exception], message: str) -> None:
    model, dictionary, tokens, _ = traced()
    with pytest.raises(error, match=message):
        attribute(model, dictionary, tokens, **changes)


def test_dictionaries_and_batches_that_do_not_fit() -> None:
    model, dictionary, tokens, _ = traced()
    with pytest.raises(ThoughtscopeError, match="one prompt"):
        attribute(model, dictionary, tokens_from_ids(model, [IDS, IDS[:3]]))
    with pytest.raises(DictionaryMismatch):
        attribute(tiny_model("llama", layers=2), dictionary, tokens)
    wrong = relayered(dictionary, layer_weights(dictionary), read="mlp_out")
    with pytest.raises(DictionaryMismatch, match=r"stand in for MLPs.*Part 0 .* reads mlp_out.0"):
        attribute(model, wrong, tokens)
    swapped = replace(dictionary, parts=dictionary.parts[::-1])
    with pytest.raises(DictionaryMismatch, match="another order than the blocks"):
        attribute(model, swapped, tokens)
