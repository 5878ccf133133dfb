"""The `Graph` noun: finding nodes, labels, files, supernodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.random_graphs import random_graph
from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError, UnknownFeature
from thoughtscope.graphs import Graph, find_supernode, group, prune


def test_every_node_is_found_by_its_id() -> None:
    graph = random_graph()
    ids = graph.node_ids()
    assert len(set(map(str, ids))) == len(graph)
    assert [graph.find(node) for node in ids] == list(range(len(graph)))
    assert [graph.find(str(node)) for node in ids] == list(range(len(graph)))


@pytest.mark.parametrize(
    "node", ["feature:0:0:49999", "error:7:0", "token:99", "logit:0:0", "word", "feature:1"]
)
def test_a_missing_node_is_refused(node: str) -> None:
    with pytest.raises(UnknownFeature):
        random_graph().find(node)


def test_a_node_label_comes_before_its_feature_label() -> None:
    graph = random_graph()
    node = graph.node_id(0)
    labelled = replace(graph, labels={f"a/dictionary/{node.layer}/{node.index}": "all"})
    assert labelled.label(0) == "all"
    assert replace(labelled, labels={**labelled.labels, str(node): "this"}).label(0) == "this"
    assert graph.label(0) is None


def test_save_and_load_are_exact(tmp_path: Path) -> None:
    graph = group(random_graph(seed=3), {"pair": [random_graph(seed=3).node_id(n) for n in (0, 1)]})
    graph = replace(prune(graph), labels={"a/dictionary/0/1": "é <b>"})
    graph.save(tmp_path / "graph")
    again = Graph.load(tmp_path / "graph")
    for name in ("kind", "layer", "position", "index", "value", "bias", "absent", "influence"):
        before, after = getattr(graph, name), getattr(again, name)
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)
    assert (graph.edges != again.edges).nnz == 0 and again.edges.dtype == np.float32
    for name in ("prompt", "tokens", "token_ids", "targets", "scores", "certificate", "labels", "supernodes"):
        assert getattr(again, name) == getattr(graph, name), name
    assert again.supernodes == graph.supernodes and again.targets == graph.targets


def test_load_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtefact, match="nowhere"):
        Graph.load(tmp_path / "nowhere")


def test_group_by_hand_and_by_label() -> None:
    graph = random_graph()
    nodes = graph.node_ids()
    by_hand = group(graph, {"a": [nodes[0], str(nodes[1])], "b": [nodes[2]]})
    assert [(s.label, s.members) for s in by_hand.supernodes] == [("a", tuple(nodes[:2])), ("b", (nodes[2],))]
    renewed = group(by_hand, {"b": [nodes[3]]})
    assert find_supernode(renewed, "b").members == (nodes[3],)
    assert find_supernode(renewed, "a").members == tuple(nodes[:2])
    with pytest.raises(UnknownFeature, match='"c" is not a supernode'):
        find_supernode(renewed, "c")
    labels = {str(nodes[4]): "same", str(nodes[5]): "same", str(nodes[6]): "other"}
    labelled = group(replace(graph, labels=labels))
    assert {s.label: len(s.members) for s in labelled.supernodes} == {"same": 2, "other": 1}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": ["feature:0:0:49999"]}, "not a feature node"),
        ({"a": []}, "one or more nodes"),
        ({"a": "feature:0:0:1"}, "list of one or more"),
        ({" ": ["token:0"]}, "needs a name"),
        ({"a": ["token:0"], "b": ["token:0"]}, "one supernode"),
        ({"a": ["token:0", "token:0"]}, "twice"),
    ],
)
def test_groups_that_make_no_sense(groups: dict, message: str) -> None:
    with pytest.raises(ThoughtscopeError, match=message):
        group(random_graph(), groups)
    with pytest.raises(ThoughtscopeError, match="way to group"):
        group(random_graph(), by="colour")


def map_ids(graph: Graph, rows: list[int]) -> list[str]:
    return [str(graph.node_id(row)) for row in rows]
