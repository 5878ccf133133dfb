"""Graph files: ours in the three viewers' terms, theirs as published, and broken ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.random_graphs import random_graph
from thoughtscope.core.errors import CorruptArtefact, InvalidGraph, LimitExceeded, ThoughtscopeError
from thoughtscope.graphs import (
    Graph,
    file_ids,
    graph_from_json,
    graph_to_json,
    group,
    prune,
    read_json,
    validate_json,
    write_graph,
    write_json,
)
from thoughtscope.graphs.clashes import distinct
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN
from thoughtscope.graphs.json_read import LORSA, OPAQUE
from thoughtscope.graphs.schema import check_schema, graph_schema

Json = dict[str, Any]


def ours() -> Graph:
    graph = random_graph(seed=3)
    nodes = graph.node_ids()
    labels = {str(nodes[0]): "capital <b>", f"a/dictionary/{nodes[9].layer}/{nodes[9].index}": "Texas"}
    return group(replace(graph, labels=labels), {"both": [nodes[0], nodes[5]]})


# --- what we write ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [ours(), prune(ours())], ids=["full", "pruned"])
def test_our_files_follow_the_schema_and_the_viewers_rules(graph: Graph) -> None:
    obj = json.loads(json.dumps(graph_to_json(graph), allow_nan=False))
    jsonschema.Draft7Validator.check_schema(graph_schema())
    jsonschema.Draft7Validator(graph_schema()).validate(obj)
    validate_json(obj)
    nodes = obj["nodes"]
    ids = [node["node_id"] for node in nodes]
    assert len(set(ids)) == len(ids) and ids == file_ids(graph)
    assert len({node["jsNodeId"] for node in nodes}) == len(nodes)
    for node in nodes:
        assert isinstance(node["feature"], int) and isinstance(node["layer"], str)
        if node["feature_type"] == "logit":
            label = node["clerp"]
            assert label.count('"') == 2 and float(label.split("(p=")[1].split(")")[0]) > 0
        if node["feature_type"] == "mlp reconstruction error":
            assert node["node_id"] == f"{node['layer']}_-1_{node['ctx_idx']}"
    embeddings = [node["feature"] for node in nodes if node["feature_type"] == "embedding"]
    assert len(set(embeddings)) == len(embeddings)
    parameters = obj["qParams"]
    assert all(isinstance(parameters[name], str) for name in ("linkType", "clickedId", "sg_pos"))
    assert set(parameters["pinnedIds"]) <= set(ids)
    assert all(set(members) <= set(ids) for _, *members in parameters["supernodes"])
    metadata = obj["metadata"]
    for name in ("slug", "scan"):
        assert metadata[name] and not set(metadata[name]) - set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
        )


def test_node_numbers_are_the_published_ones() -> None:
    graph = random_graph(seed=1)
    for node, row in zip(graph_to_json(graph)["nodes"], range(len(graph)), strict=True):
        layer, index, position = (int(getattr(graph, name)[row]) for name in ("layer", "index", "position"))
        kind = graph.kind[row]
        if kind == FEATURE:
            assert node["node_id"] == f"{layer}_{index}_{position}"
            assert node["feature"] == (layer + index) * (layer + index + 1) // 2 + index
        elif kind == TOKEN:
            assert node["node_id"] == f"E_{index}_{position}" and node["feature"] == position
        elif kind == LOGIT:
            assert node["node_id"] == f"{graph.n_layers + 1}_{index}_{position}"


def test_the_slider_shows_the_fewest_nodes_that_hold_a_share() -> None:
    graph = random_graph(seed=2)
    obj = graph_to_json(graph)
    shown = [i for i, node in enumerate(obj["nodes"]) if (node["influence"] or 1) <= 0.8]
    held, total = graph.influence[shown].sum(), graph.influence.sum()
    assert held <= 0.8 * total < held + np.sort(np.delete(graph.influence, shown))[-1]
    assert all(node["influence"] is None for node in obj["nodes"] if node["feature_type"] == "logit")


@pytest.mark.parametrize("token", ['"', "(p=", '(p=1)"', "\n", "</script>", "\ud800"])
def test_tokens_that_would_break_a_label(token: str, tmp_path: Path) -> None:
    graph = random_graph()
    targets = (replace(graph.targets[0], text=token), *graph.targets[1:])
    graph = replace(graph, targets=targets, tokens=(token, *graph.tokens[1:]))
    again = read_json(write_json(graph, tmp_path / "graph.json"))
    raw = json.loads((tmp_path / "graph.json").read_text("utf-8"))
    label = next(node["clerp"] for node in raw["nodes"] if node["feature_type"] == "logit")
    assert float(label.split("(p=")[1].split(")")[0]) == pytest.approx(graph.targets[0].probability, abs=1e-3)
    if token != "\ud800":  # half a character cannot be written in UTF-8
        assert again.targets[0].text == token and again.tokens[0] == token


def test_round_trip_is_exact(tmp_path: Path) -> None:
    graph = prune(ours())
    again = read_json(write_json(graph, tmp_path / "graph.json"))
    for name in ("kind", "layer", "position", "index", "value", "bias", "absent", "influence"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(again, name))
    assert (graph.edges != again.edges).nnz == 0
    for name in ("prompt", "tokens", "token_ids", "model_name", "dictionary_name", "scan", "n_layers", "targets", "scores",
                 "certificate", "labels", "supernodes", "provenance"):  # fmt: skip
        assert getattr(graph, name) == getattr(again, name), name
    assert graph_to_json(again)["nodes"] == graph_to_json(graph)["nodes"]


def test_a_label_from_another_viewer_wins(tmp_path: Path) -> None:
    graph = ours()
    obj = graph_to_json(graph)
    obj["nodes"][0]["clerp"] = "renamed"
    again = graph_from_json(obj)
    assert again.label(0) == "renamed" and again.label(9) == "Texas"


def test_settings_of_a_file() -> None:
    graph = prune(random_graph(), node_mass=0.7, edge_mass=0.9)
    obj = graph_to_json(
        graph,
        scan="org/repo//sub@rev",
        slug="my-slug",
        node_threshold=0.5,
        feature_base_url="https://x.test/f",
    )
    metadata = obj["metadata"]
    assert metadata["scan"] == "org/repo//sub@rev" and metadata["slug"] == "my-slug"
    assert metadata["node_threshold"] == 0.5
    assert metadata["pruning_settings"] == {"node_threshold": 0.7, "edge_threshold": 0.9}
    assert metadata["feature_details"] == {"feature_json_base_url": "https://x.test/f"}
    for slug in ("a/b", "..", "a b", ""):
        if slug != "..":
            with pytest.raises(ThoughtscopeError, match="slug"):
                graph_to_json(graph, slug=slug)
    with pytest.raises(ThoughtscopeError, match="node_threshold"):
        graph_to_json(graph, node_threshold=0.0)


# --- what others write -----------------------------------------------------------------------------------------------


def circuit_tracer_file() -> Json:
    """As circuit-tracer 0.5.0 writes it: no error has an id of its own, and `jsNodeId`s repeat."""

    def node(node_id: str, feature: int, layer: str, position: int, kind: str, **more: Any) -> Json:
        base = {
            "node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": position, "feature_type": kind,
            "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": "0_1-0",
            "clerp": "", "influence": 0.5, "activation": None,
        }  # fmt: skip
        return base | more

    feature = "cross layer transcoder"
    return {
        "metadata": {
            "slug": "s", "scan": "org/transcoders", "transcoder_list": [], "prompt_tokens": ["<bos>", "The", " cat"],
            "prompt": "<bos>The cat", "node_threshold": 0.8, "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            node("0_1_2", 2, "0", 2, feature, activation=3.5),  # feature 1 of layer 0 at position 2 …
            node("1_700_2", 246051, "1", 2, feature, activation=1.25),
            node("2_5_2", 33, "2", 2, feature, activation=2.0),
            node("0_1_2", -1, "1", 2, "mlp reconstruction error"),  # … and the error of layer 1 there
            node("0_0_1", -1, "0", 1, "mlp reconstruction error"),
            node("E_2_0", 0, "E", 0, "embedding"),
            node("E_651_1", 1, "E", 1, "embedding"),
            node("E_5776_2", 2, "E", 2, "embedding"),
            node("4_8_2", 8, "4", 2, "logit", token_prob=0.6, is_target_logit=True, clerp='Output " sat" (p=0.600)'),
            node("4_9_2", 9, "4", 2, "logit", token_prob=0.2, clerp='Output " "x" (p=0.1)" (p=0.200)'),
        ],
        "links": [
            {"source": "0_1_2", "target": "4_8_2", "weight": 1.0},  # twice: the feature's, then the error's
            {"source": "0_1_2", "target": "4_8_2", "weight": 2.0},
            {"source": "0_1_2", "target": "1_700_2", "weight": 0.5},  # layer 1: the error of layer 1 cannot reach it
            {"source": "0_1_2", "target": "2_5_2", "weight": -0.25},  # before a feature, so the feature's
            {"source": "E_5776_2", "target": "0_1_2", "weight": 4.0},
            {"source": "1_700_2", "target": "2_5_2", "weight": 1.5},
            {"source": "2_5_2", "target": "4_9_2", "weight": -1.0},
            {"source": "0_0_1", "target": "2_5_2", "weight": 0.125},
        ],
    }  # fmt: skip


def test_circuit_tracers_file() -> None:
    graph = graph_from_json(circuit_tracer_file())
    assert [str(node) for node in graph.node_ids()] == [
        "feature:0:2:1", "feature:1:2:700", "feature:2:2:5", "error:0:1", "error:1:2",
        "token:0", "token:1", "token:2", "logit:2:8", "logit:2:9",
    ]  # fmt: skip
    edge = lambda target, source: float(graph.edges[graph.find(target), graph.find(source)])
    assert edge("logit:2:8", "feature:0:2:1") == 1.0 and edge("logit:2:8", "error:1:2") == 2.0
    assert edge("feature:1:2:700", "feature:0:2:1") == 0.5 and edge("feature:1:2:700", "error:1:2") == 0
    assert edge("feature:2:2:5", "feature:0:2:1") == -0.25 and edge("feature:2:2:5", "error:1:2") == 0
    assert edge("feature:0:2:1", "token:2") == 4.0
    assert graph.n_layers == 3 and graph.certificate is None
    assert graph.token_ids == (2, 651, 5776) and graph.prompt == "<bos>The cat"
    assert [(t.text, t.probability) for t in graph.targets] == [(" sat", 0.6), (' "x" (p=0.1)', 0.2)]
    assert graph.value[graph.find("feature:0:2:1")] == 3.5
    assert 0 < graph.scores.replacement < 1
    validate_json(json.loads(json.dumps(graph_to_json(graph))))


def test_the_order_of_links_tells_a_feature_from_the_error_that_shares_its_id() -> None:
    """Written target by target in the order of the nodes; where the order is gone or leaves it open, an error."""

    def source_of_the_link(order: list[str]) -> str:
        obj = circuit_tracer_file()
        weights = {"0_1_2": -0.25, "1_700_2": 1.5, "0_0_1": 0.125, "E_651_1": 3.0}
        rest = [link for link in obj["links"] if link["target"] != "2_5_2"]
        obj["links"] = [*rest, *({"source": s, "target": "2_5_2", "weight": weights[s]} for s in order)]
        obj["nodes"][3:5] = obj["nodes"][4], obj["nodes"][3]  # errors by layer, as the tool writes them
        graph = graph_from_json(obj)
        (column,) = np.flatnonzero(graph.edges[[graph.find("feature:2:2:5")]].toarray()[0] == -0.25)
        return str(graph.node_id(int(column)))

    feature, error = "feature:0:2:1", "error:1:2"
    assert source_of_the_link(["0_1_2", "1_700_2", "0_0_1"]) == feature
    assert source_of_the_link(["0_1_2", "0_0_1", "E_651_1"]) == feature
    assert source_of_the_link(["1_700_2", "0_1_2", "E_651_1"]) == error
    assert source_of_the_link(["1_700_2", "0_0_1", "0_1_2"]) == error
    assert source_of_the_link(["0_1_2", "E_651_1"]) == error  # open
    assert source_of_the_link(["0_1_2", "E_651_1", "1_700_2"]) == error  # sorted anew by somebody


def test_what_is_distinct_stays_as_it_is() -> None:
    obj = graph_to_json(ours())
    assert distinct(obj) is obj
    renamed = distinct(circuit_tracer_file())
    names = [node["node_id"] for node in renamed["nodes"]]
    assert len(set(names)) == len(names) and names[3] == "1_-1_2"
    assert distinct(renamed) is renamed


def test_outputs_come_back_in_their_order() -> None:
    graph = ours()
    last = graph.rows("logit")
    assert len(last) > 1
    swapped = graph.index.copy()
    swapped[last] = graph.index[last][::-1]  # the likeliest has the larger vocabulary id
    targets = tuple(replace(target, vocab_id=int(swapped[target.node])) for target in graph.targets)
    graph = replace(graph, index=swapped, targets=targets)
    again = graph_from_json(graph_to_json(graph))
    assert again.node_ids() == graph.node_ids() and again.targets == graph.targets


def test_the_slug_is_the_files_name(tmp_path: Path) -> None:
    path = write_json(ours(), tmp_path / "new" / "my graph.json")
    assert json.loads(path.read_text("utf-8"))["metadata"]["slug"] == "my-graph"
    write_json(ours(), path, slug="given")
    assert json.loads(path.read_text("utf-8"))["metadata"]["slug"] == "given"


def test_a_folder_for_circuit_tracers_server(tmp_path: Path) -> None:
    """It reads the list first, then each graph from `SLUG.json`."""
    folder = tmp_path / "served"
    for slug in ("one", "two", "one"):
        write_graph(ours(), folder, format="circuit-tracer", scan="org/transcoders", slug=slug)
    listed = json.loads((folder / "graph-metadata.json").read_text("utf-8"))["graphs"]
    assert [entry["slug"] for entry in listed] == ["two", "one"]
    for entry in listed:
        file = json.loads((folder / f"{entry['slug']}.json").read_text("utf-8"))
        assert file["metadata"] == entry and entry["scan"] == "org/transcoders"
        assert "thoughtscope" not in file["metadata"] and "value" not in file["nodes"][0]
    (folder / "graph-metadata.json").write_text('{"graphs": 3}')
    with pytest.raises(CorruptArtefact, match="graph-metadata"):
        write_graph(ours(), folder, format="circuit-tracer")


def test_circuit_tracers_saved_parameters() -> None:
    """Its "Save" leaves texts and nulls where lists belong."""
    obj = circuit_tracer_file()
    obj["qParams"] = {
        "pinnedIds": "1_700_2,2_5_2", "supernodes": '[["cat", "1_700_2", "2_5_2", "gone"]]', "linkType": "both",
        "clickedId": None, "sg_pos": None,
    }  # fmt: skip
    with pytest.raises(InvalidGraph, match="qParams"):
        validate_json(obj)
    (supernode,) = graph_from_json(obj).supernodes
    assert supernode.label == "cat" and list(map(str, supernode.members)) == [
        "feature:1:2:700",
        "feature:2:2:5",
    ]


def anthropic_file() -> Json:
    """As on transformer-circuits.pub: no schema version, integer features, probabilities in labels only."""
    kinds = {"f": "cross layer transcoder", "e": "mlp reconstruction error"}

    def node(node_id: str, layer: str, position: int, feature: int, kind: str, clerp: str = "") -> Json:
        return {
            "node_id": node_id, "layer": layer, "ctx_idx": position, "feature": feature, "clerp": clerp,
            "feature_type": kinds.get(kind, kind), "jsNodeId": f"{layer}_{feature}-{position}", "vis_link": "x",
        }  # fmt: skip

    return {
        "metadata": {
            "slug": "a",
            "scan": "jackl-circuits-runs-1-4",
            "prompt_tokens": ["a", "b"],
            "prompt": "ab",
        },
        "qParams": {},
        "nodes": [
            node("1_16337_1", "1", 1, 16337, "f", "digits"),
            node("3_29999999_1", "3", 1, 29999999, "f"),
            node("error_2_1", "2", 1, 7, "e"),
            node("embed_0", "E", 0, 0, "embedding"),
            node("embed_1", "E", 1, 1, "embedding"),
            node("27_22_1", "27", 1, 22, "logit", " yes (p=0.4531)"),
        ],
        "links": [
            {"source": "embed_1", "target": "1_16337_1", "weight": 2.0},
            {"source": "1_16337_1", "target": "3_29999999_1", "weight": 2.0},
            {"source": "error_2_1", "target": "3_29999999_1", "weight": 1.0},
            {"source": "3_29999999_1", "target": "27_22_1", "weight": 1.0},
        ],
    }


def test_anthropics_file() -> None:
    graph = graph_from_json(anthropic_file())
    assert [str(node) for node in graph.node_ids()] == [
        "feature:1:1:16337", "feature:3:1:29999999", "error:2:1", "token:0", "token:1", "logit:1:22",
    ]  # fmt: skip
    assert graph.targets[0].text == "yes" and graph.targets[0].probability == 0.4531
    assert graph.label(0) == "digits" and np.isnan(graph.value[0])
    assert graph.scores.replacement == pytest.approx(
        2 / 3
    ) and graph.scores.mean_path_length == pytest.approx(3)
    validate_json(json.loads(json.dumps(graph_to_json(graph), allow_nan=False)))


def neuronpedia_file() -> Json:
    """As Neuronpedia keeps it: attention features and their errors, bias nodes, types of the future, nulls."""
    obj = circuit_tracer_file()
    obj["metadata"] |= {
        "info": {
            "creator_name": "x",
            "source_urls": ["u"],
            "generator": {"name": "g"},
            "create_time_ms": 1.5e12,
        },
        "feature_details": {"neuronpedia_source_set": "set"},
    }

    def node(node_id: str, layer: int, kind: str, feature: int | None = None) -> Json:
        return {
            "node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": 2, "feature_type": kind,
            "jsNodeId": node_id, "clerp": "", "influence": None, "activation": None,
        }  # fmt: skip

    obj["qk_only_nodes"] = {}
    obj["nodes"] += [
        node("lorsa_1", 1, "lorsa", 700),
        node("lorsa_err", 1, "lorsa error"),
        node("bias_1", 1, "bias"),
        node("strange_fed", 1, "quantum"),
        node("strange", 0, "quantum"),
    ]
    obj["links"] += [
        {"source": "lorsa_1", "target": "2_5_2", "weight": 0.75},
        {"source": "E_651_1", "target": "lorsa_1", "weight": 0.5},
        {"source": "lorsa_err", "target": "2_5_2", "weight": 0.0625},
        {"source": "bias_1", "target": "2_5_2", "weight": 8.0},
        {"source": "strange", "target": "strange_fed", "weight": 1.0},
        {"source": "strange_fed", "target": "2_5_2", "weight": 1.0},
    ]
    return obj


def test_neuronpedias_file() -> None:
    graph = graph_from_json(neuronpedia_file())
    lorsa = graph.find(f"feature:1:2:{700 + LORSA}")
    target = graph.find("feature:2:2:5")
    assert graph.edges[target, lorsa] == 0.75
    assert graph.edges[target, graph.find("error:1:2")] == pytest.approx(0.0625)
    assert graph.bias[target] == 8.0
    (strange,) = (n for n in graph.node_ids() if n.index is not None and n.index >= OPAQUE)
    assert graph.edges[graph.find(strange), graph.find("error:0:2")] == 1.0
    assert graph.provenance["node_types"]["lorsa_1"] == "lorsa"
    again = graph_from_json(json.loads(json.dumps(graph_to_json(graph))))
    assert again.node_ids() == graph.node_ids() and (again.edges != graph.edges).nnz == 0


# --- what nobody should write ----------------------------------------------------------------------------------------


def broken(change: Callable[[Json], Any]) -> Json:
    obj = copy.deepcopy(circuit_tracer_file())
    change(obj)
    return obj


BROKEN: dict[str, tuple[Callable[[Json], Any], str]] = {
    "no nodes": (lambda o: o.pop("nodes"), "nodes is missing"),
    "no prompt": (lambda o: o["metadata"].pop("prompt"), "metadata.prompt is missing"),
    "nodes is a text": (lambda o: o.update(nodes="x"), "nodes: expected array, got str"),
    "a node is a number": (lambda o: o["nodes"].append(3), r"nodes\[10\]: expected object"),
    "a token is a number": (lambda o: o["metadata"]["prompt_tokens"].append(1), r"prompt_tokens\[3\]"),
    "position is a text": (lambda o: o["nodes"][0].update(ctx_idx="2"), r"nodes\[0\].ctx_idx: expected integer"),
    "position is true": (lambda o: o["nodes"][0].update(ctx_idx=True), r"nodes\[0\].ctx_idx"),
    "position too high": (lambda o: o["nodes"][0].update(ctx_idx=3), r"nodes\[0\].ctx_idx: position 3 of 3"),
    "position negative": (lambda o: o["nodes"][0].update(ctx_idx=-1), r"nodes\[0\].ctx_idx"),
    "layer is a word": (lambda o: o["nodes"][0].update(layer="top"), r"nodes\[0\].layer"),
    "layer is huge": (lambda o: o["nodes"][0].update(layer="99999"), r"nodes\[0\].layer"),
    "label is a number": (lambda o: o["nodes"][0].update(clerp=1), r"nodes\[0\].clerp"),
    "feature is huge": (lambda o: o["nodes"][0].update(feature=10**30), r"nodes\[0\].feature"),
    "weight is a text": (lambda o: o["links"][0].update(weight="1"), r"links\[0\].weight"),
    "weight is infinite": (lambda o: o["links"][0].update(weight=float("inf")), r"links\[0\].weight"),
    "weight is not a number": (lambda o: o["links"][0].update(weight=float("nan")), r"links\[0\].weight"),
    "weight too large": (lambda o: o["links"][0].update(weight=1e300), "single precision"),
    "activation too large": (lambda o: o["nodes"][0].update(activation=1e300), "single precision"),
    "link from nowhere": (lambda o: o["links"][1].update(source="9_9_9"), r'links\[1\].source: there is no node "9_9'),
    "link to nowhere": (lambda o: o["links"][1].update(target="x"), r"links\[1\].target"),
    "link to itself": (lambda o: o["links"][5].update(source="2_5_2"), "link to itself"),
    "links in a circle": (lambda o: o["links"].append({"source": "2_5_2", "target": "1_700_2", "weight": 1}), "circle"),
    "link into a token": (lambda o: o["links"][4].update(target="E_2_0"), r"links\[4\].target.*nothing flows"),
    "link from a logit": (lambda o: o["links"][4].update(source="4_8_2"), r"links\[4\].source"),
    "the same link twice": (lambda o: o["links"].append(dict(o["links"][5])), r"links\[8\]: a second link"),
    "the same node twice": (lambda o: o["nodes"].append(dict(o["nodes"][1])), "same as nodes"),
    "one id for two nodes": (lambda o: o["nodes"][1].update(node_id="2_5_2"), "id of another node"),
    "supernodes no lists": (lambda o: o["qParams"].update(supernodes=[1]), r"qParams.supernodes\[0\]"),
    "supernodes a torn text": (lambda o: o["qParams"].update(supernodes="[["), "not valid JSON"),
    "parameters a list": (lambda o: o.update(qParams=[]), "qParams: expected object"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_field(name: str) -> None:
    change, message = BROKEN[name]
    with pytest.raises(InvalidGraph, match=message):
        graph_from_json(broken(change))


@pytest.mark.parametrize("value", [None, 3, "text", [], [1], True])
def test_not_an_object(value: Any) -> None:
    with pytest.raises(InvalidGraph, match="the file: expected object"):
        graph_from_json(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(token_ids=[1]), "token_ids"),
        (lambda e: e.update(n_layers=0), "n_layers"),
        (lambda e: e["targets"][0].update(id="nobody"), r"targets\[0\].id"),
        (lambda e: e["targets"][0].update(weight=1e9), "between 0 and 1"),
        (lambda e: e["targets"][0].update(text=3), r"targets\[0\].text"),
        (lambda e: e.update(labels={"a": 3}), "labels"),
        (lambda e: e.update(certificate={}), "certificate.expanded is missing"),
    ],
)
def test_our_own_part_is_checked_too(change: Callable[[Json], Any], message: str) -> None:
    obj = graph_to_json(ours())
    change(obj["metadata"]["thoughtscope"])
    with pytest.raises(InvalidGraph, match=message):
        graph_from_json(obj)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    texts = {
        "torn.json": '{"nodes": [',
        "nan.json": json.dumps(circuit_tracer_file()).replace("0.125", "NaN"),
        "infinity.json": json.dumps(circuit_tracer_file()).replace("0.125", "-Infinity"),
        "overflow.json": json.dumps(circuit_tracer_file()).replace("0.125", "1e999"),
        "deep.json": "[" * 200_000,
        "deeper.json": '{"metadata":' * 200_000 + "1" + "}" * 200_000,
        "digits.json": '{"nodes": ' + "9" * 10_000 + "}",
        "empty.json": "",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidGraph, match=name):
            read_json(tmp_path / name)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00{")
    for path in (tmp_path / "bytes.json", tmp_path / "missing.json", tmp_path):
        with pytest.raises(InvalidGraph):
            read_json(path)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(random_graph(), tmp_path / "graph.json")
    for name, value in (("MAX_NODES", 10), ("MAX_LINKS", 10), ("MAX_BYTES", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(f"thoughtscope.graphs.json_read.{name}", value)
            with pytest.raises(LimitExceeded, match="Prune it first"):
                read_json(path)
    assert len(read_json(path)) == len(random_graph())


def test_markup_in_labels_stays_text() -> None:
    obj = circuit_tracer_file()
    obj["nodes"][0]["clerp"] = "<img src=x onerror=alert(1)>"
    graph = graph_from_json(obj)
    assert graph.label(0) == "<img src=x onerror=alert(1)>"
    assert graph_to_json(graph)["nodes"][0]["clerp"] == "<img src=x onerror=alert(1)>"


def test_our_checker_and_jsonschema_agree() -> None:
    """Every broken file that the schema alone can tell is told by both, and no other."""
    judge = jsonschema.Draft7Validator(graph_schema())
    for name, (change, _) in BROKEN.items():
        if name in (
            "weight is infinite",
            "weight is not a number",
            "feature is huge",
            "supernodes a torn text",
        ):
            continue  # not a matter of the schema
        obj = broken(change)
        try:
            check_schema(obj)
            accepted = True
        except InvalidGraph:
            accepted = False
        assert accepted == judge.is_valid(obj), name


def test_validation_knows_more_than_the_schema() -> None:
    good = graph_to_json(random_graph())
    validate_json(good)
    for change, message in (
        (lambda o: o["nodes"][1].update(jsNodeId=o["nodes"][0]["jsNodeId"]), r"nodes\[1\].jsNodeId"),
        (lambda o: o["nodes"][1].update(node_id=o["nodes"][0]["node_id"]), r"nodes\[1\].node_id"),
        (lambda o: o["nodes"][-1].update(clerp="tok"), r"\(p="),
        (lambda o: o["links"][0].update(source="nobody"), r"links\[0\].source"),
    ):
        obj = copy.deepcopy(good)
        change(obj)
        with pytest.raises(InvalidGraph, match=message):
            validate_json(obj)
    with pytest.raises(InvalidGraph, match="jsNodeId"):
        validate_json(circuit_tracer_file() | {"nodes": circuit_tracer_file()["nodes"][1:3], "links": []})


def test_errors_and_features_of_our_files_never_collide() -> None:
    graph = random_graph(n_layers=4, per_place=20, seed=8)
    features = {name for name, kind in zip(file_ids(graph), graph.kind, strict=True) if kind == FEATURE}
    errors = {name for name, kind in zip(file_ids(graph), graph.kind, strict=True) if kind == ERROR}
    assert not features & errors
