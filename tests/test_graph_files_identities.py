"""Graph files number by number: one small graph written out by hand, and what every field of a foreign file becomes."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from thoughtscope.core import ids
from thoughtscope.core.errors import InvalidGraph, LimitExceeded, ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import NodeId
from thoughtscope.graphs import (
    Graph,
    clashes,
    graph_from_json,
    graph_to_json,
    json_read,
    json_write,
    names,
    read_json,
    validate_json,
    write_graph,
)
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN, Certificate, Supernode, Target

Json = dict[str, Any]


def small_graph() -> Graph:
    """Two layers, two tokens, a feature in each layer, an error, and two logits of which one is no target."""
    rows = [  # kind, layer, position, index, value, bias
        (FEATURE, 0, 0, 7, 2.0, 0.25), (FEATURE, 1, 1, 3, 4.0, -0.5), (ERROR, 0, 1, -1, 1.5, 0.0),
        (TOKEN, -1, 0, 11, 1.0, 0.0), (TOKEN, -1, 1, 12, np.nan, 0.0),
        (LOGIT, 2, 1, 20, 3.0, 0.125), (LOGIT, 2, 1, 21, 0.5, 0.0),
    ]  # fmt: skip
    columns = list(zip(*rows, strict=True))
    edges = np.zeros((7, 7), dtype=np.float32)
    edges[5, 1], edges[5, 2], edges[6, 1] = 3.0, -1.0, 0.5
    edges[1, 0], edges[1, 4], edges[0, 3] = 1.0, 1.0, 2.0
    return Graph(
        prompt="Hi (there)!",
        tokens=("<s>", ' "x"'),
        token_ids=(11, 12),
        model_name="org/Model 1",
        dictionary_name="org/dict",
        scan="org/scan",
        n_layers=2,
        kind=np.array(columns[0], dtype=np.uint8),
        layer=np.array(columns[1], dtype=np.int32),
        position=np.array(columns[2], dtype=np.int32),
        index=np.array(columns[3], dtype=np.int32),
        value=np.array(columns[4], dtype=np.float32),
        bias=np.array(columns[5], dtype=np.float32),
        absent=np.array([0, 0.5, 0, 0, 0, 0, 0], dtype=np.float32),
        edges=sp.csr_array(edges),
        targets=(Target(text=" yes", vocab_id=20, probability=0.75, weight=0.75, node=5),),
        certificate=Certificate(expanded=2, active=3, frontier_mass=0.1, bound=0.2, dropped_mass=0.05),
        labels={"feature:1:1:3": "a thing"},
        supernodes=(
            Supernode(label="both", members=(NodeId.parse("feature:1:1:3"), NodeId.parse("token:0"))),
        ),
        provenance={"pruning": {"node_mass": 0.7, "edge_mass": 0.9}},
    )


# Of 0.75 that starts at the logit, 9/16 arrives at feature 1/3 and 3/16 at the error; 1/2.5 of the 9/16 goes on to each
# of feature 0/7 and the second token, and the whole of that to the first.
SHARES = {"1_3_1": 0.5625, "0_-1_1": 0.1875, "0_7_0": 0.225, "E_12_1": 0.225, "E_11_0": 0.225}


def test_a_small_graph_as_a_file() -> None:
    file = graph_to_json(
        small_graph(), scan="there", slug="a-slug", node_threshold=0.5, feature_base_url="u/"
    )
    metadata = file["metadata"]
    assert metadata["info"].pop("create_time_ms") > 1_600_000_000_000
    ours = metadata.pop("thoughtscope")
    assert metadata["info"]["generator"]["name"] == "thoughtscope"
    assert {name: value for name, value in metadata.items() if name != "info"} == {
        "slug": "a-slug", "scan": "there", "transcoder_list": [], "prompt_tokens": ["<s>", ' "x"'],
        "prompt": "Hi (there)!", "node_threshold": 0.5, "schema_version": 1,
        "pruning_settings": {"node_threshold": 0.7, "edge_threshold": 0.9},
        "feature_details": {"feature_json_base_url": "u/"},
    }  # fmt: skip
    assert file["qParams"] == {
        "pinnedIds": ["1_3_1", "E_11_0", "3_20_1"], "supernodes": [["both", "1_3_1", "E_11_0"]], "linkType": "both",
        "clickedId": "", "sg_pos": "",
    }  # fmt: skip
    assert [tuple(link.values()) for link in file["links"]] == [
        ("E_11_0", "0_7_0", 2.0), ("0_7_0", "1_3_1", 1.0), ("E_12_1", "1_3_1", 1.0), ("1_3_1", "3_20_1", 3.0),
        ("0_-1_1", "3_20_1", -1.0), ("1_3_1", "3_21_1", 0.5),
    ]  # fmt: skip
    assert ours["version"] == 1 and ours["n_layers"] == 2 and ours["token_ids"] == [11, 12]
    assert (ours["model"], ours["dictionary"], ours["scan"]) == ("org/Model 1", "org/dict", "org/scan")
    assert ours["targets"] == [
        {"id": "3_20_1", "text": " yes", "vocab_id": 20, "probability": 0.75, "weight": 0.75}
    ]
    assert ours["labels"] == {"feature:1:1:3": "a thing"}
    assert graph_to_json(replace(small_graph(), supernodes=()))["qParams"]["pinnedIds"] == []


def test_the_nodes_of_a_small_graph() -> None:
    nodes = {node["node_id"]: node for node in graph_to_json(small_graph())["nodes"]}
    held = sorted(SHARES.values(), reverse=True)
    running = sorted(nodes[name]["influence"] for name in SHARES)
    assert running == pytest.approx(np.cumsum(held) / sum(held), rel=1e-6)
    assert (nodes["1_3_1"]["influence"], nodes["0_-1_1"]["influence"]) == (running[0], running[-1])
    told = {
        name: (node["feature"], node["layer"], node["ctx_idx"], node["feature_type"], node["token_prob"],
               node["is_target_logit"], node["clerp"], node["activation"], node["value"], node["bias"], node["absent"])
        for name, node in nodes.items()
    }  # fmt: skip
    other = (0.0, False)
    assert told == {
        "0_7_0": (35, "0", 0, "cross layer transcoder", *other, "", 2.0, 2.0, 0.25, 0.0),
        "1_3_1": (13, "1", 1, "cross layer transcoder", *other, "a thing", 4.0, 4.0, -0.5, 0.5),
        "0_-1_1": (-1, "0", 1, "mlp reconstruction error", *other, 'Err: mlp " ”x”"', None, 1.5, 0.0, 0.0),
        "E_11_0": (0, "E", 0, "embedding", *other, 'Emb: "<s>"', None, 1.0, 0.0, 0.0),
        "E_12_1": (1, "E", 1, "embedding", *other, 'Emb: " ”x”"', None, None, 0.0, 0.0),
        "3_20_1": (20, "3", 1, "logit", 0.75, True, 'Output " yes" (p=0.750)', None, 3.0, 0.125, 0.0),
        "3_21_1": (21, "3", 1, "logit", *other, 'Output "#21" (p=0.000)', None, 0.5, 0.0, 0.0),
    }
    for node in nodes.values():
        assert (node["run_idx"], node["reverse_ctx_idx"], node["jsNodeId"]) == (0, 0, node["node_id"])
        assert (node["influence"] is None) == (node["feature_type"] == "logit")
    bare = graph_to_json(small_graph(), extras=False)
    assert (
        "thoughtscope" not in bare["metadata"] and not {"value", "bias", "absent"} & bare["nodes"][0].keys()
    )


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.0001])
def test_thresholds_that_are_no_share(threshold: float) -> None:
    with pytest.raises(ThoughtscopeError, match=r"over 0 and up to 1"):
        graph_to_json(small_graph(), node_threshold=threshold)
    graph_to_json(small_graph(), node_threshold=1.0)
    graph_to_json(small_graph(), node_threshold=1e-9)


def test_names_of_files_and_models(tmp_path: Path) -> None:
    graph = small_graph()
    metadata = graph_to_json(graph)["metadata"]
    assert (metadata["slug"], metadata["scan"]) == ("Hi-there", "org-Model-1")
    assert graph_to_json(replace(graph, prompt="¿?", model_name="…"))["metadata"]["slug"] == "graph"
    assert graph_to_json(replace(graph, prompt="¿?", model_name="…"))["metadata"]["scan"] == "model"
    long = graph_to_json(replace(graph, prompt="p" * 300, model_name="m" * 300))["metadata"]
    assert (len(long["slug"]), len(long["scan"])) == (60, 100)
    path = json_write.write_json(graph, tmp_path / "new" / "folder" / ("n" * 120 + ".json"))
    assert len(json.loads(path.read_text())["metadata"]["slug"]) == 100
    assert json_write.write_json(graph, path) == path  # over an older file
    assert "”" in path.read_text() and ", " not in path.read_text().replace("Hi (there)!", "")
    with pytest.raises(ThoughtscopeError, match="slug"):
        graph_to_json(graph, slug="a slug")
    assert ids.plain_name("--a b..", 10) == "a-b" and ids.plain_name("abc def", 4) == "abc"


def test_one_number_for_layer_and_index_is_cantors() -> None:
    """Every whole number stands for one pair, diagonal by diagonal."""
    pairs = [(diagonal - index, index) for diagonal in range(40) for index in range(diagonal + 1)]
    assert [ids.feature_number(*pair) for pair in pairs] == list(range(len(pairs)))
    assert [ids.place_of_number(number) for number in range(len(pairs))] == pairs
    for pair in ((25, 1_000_000), (0, 90_000_000), (3, 94_906_264), (61, 2**24)):
        assert ids.place_of_number(ids.feature_number(*pair)) == pair
    assert ids.feature_number(0, 2**27) == 2**27  # its pair is over 2**53
    # The diagonal of 2**53 itself: its last numbers are too large by a little.
    at, largest = ids.place_of_number(2**53), ids._LARGEST_NUMBER
    assert ids.feature_number(*at) == largest and ids.feature_number(at[0] - 1, at[1] + 1) == at[1] + 1


def test_names_of_features() -> None:
    graph = small_graph()
    assert names.feature_of_file_id("99999_9999999999_999999999") == (99999, 9999999999, 999999999)
    for wrong in (
        "100000_1_1",
        "1_10000000000_1",
        "1_1_1000000000",
        "1_1",
        "1_-1_1",
        "E_1_1",
        "1_1_1_1",
        "_1_1",
    ):
        assert names.feature_of_file_id(wrong) is None
    assert names.node_of_file_id("1_3_1", graph) == NodeId.parse("feature:1:1:3")
    assert names.feature_file_id(NodeId.parse("feature:1:2:3")) == "1_3_2"
    for wrong in ("2_3_1", "E_11_0"):
        with pytest.raises(UnknownFeature):
            names.node_of_file_id(wrong, graph)
    node = {"feature_type": "cross layer transcoder", "node_id": "2_310_9"}
    assert names.feature_key(node) == "2/310" and names.feature_key({**node, "node_id": "x"}) is None
    assert names.feature_key({**node, "feature_type": "logit"}) is None


# --- files of others -----------------------------------------------------------------------------------------------


def node(name: str, layer: str, position: int, kind: str, **more: Any) -> Json:
    plain = {"node_id": name, "feature": 0, "layer": layer, "ctx_idx": position, "feature_type": kind, "token_prob": 0.0,
             "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "jsNodeId": name, "clerp": "",
             "influence": None, "activation": None}  # fmt: skip
    return plain | more


def foreign_file() -> Json:
    nodes = [
        node("E_11_0", "E", 0, "embedding"),
        node("E_oops", "E", 1, "embedding"),
        node(
            "f", "0", 0, "cross layer transcoder", feature=35, activation=2.5, clerp="own"
        ),  # Cantor's (0, 7)
        node("1_3_1", "1", 1, "transcoder", feature=99, activation=4.0),
        node("a1", "1", 1, "lorsa", feature=4),  # Cantor's (1, 1)
        node("e1", "1", 1, "mlp reconstruction error"),
        node("b", "0", 1, "bias"),
        node("odd", "1", 0, "something else", feature=5),
        node("end", "1", 1, "something else"),
        node("3_20_1", "3", 1, "logit", token_prob=0.25, clerp='Output " no" (p=0.9)'),
        node("x_21_1", "3", 1, "logit", clerp="  yes  (p=5e-1)"),
        node("l", "3", 1, "logit", feature=22, clerp="plain"),
    ]
    link = lambda source, target, weight: {"source": source, "target": target, "weight": weight}
    links = [
        link("E_11_0", "f", 2.0), link("b", "f", 0.5), link("f", "1_3_1", 1.0), link("E_oops", "a1", 1.5),
        link("f", "odd", 3.0), link("1_3_1", "3_20_1", 3.0), link("e1", "3_20_1", -1.0), link("odd", "x_21_1", 2.0),
        link("end", "x_21_1", 7.0), link("a1", "l", 0.0), link("b", "3_20_1", 0.25), link("b", "1_3_1", 0.125),
    ]  # fmt: skip
    return {
        "metadata": {"slug": "s", "scan": "m", "prompt_tokens": ["<s>", "x"], "prompt": "x", "schema_version": 1,
                     "node_threshold": 0.8, "transcoder_list": [], "info": {"by": "somebody"}},
        "qParams": {"pinnedIds": "f,,1_3_1",
                    "supernodes": '[["one","f","nobody","b","e1"],["","1_3_1","f"],[],["none","nobody"]]',
                    "linkType": None},
        "nodes": nodes, "links": links,
    }  # fmt: skip


def test_every_field_of_a_foreign_file() -> None:
    graph = graph_from_json(foreign_file())
    rows = list(zip(graph.kind.tolist(), graph.layer.tolist(), graph.position.tolist(), graph.index.tolist(),
                    strict=True))  # fmt: skip
    assert rows == [
        (FEATURE, 0, 0, 7), (FEATURE, 1, 0, json_read.OPAQUE + 7), (FEATURE, 1, 1, 3),
        (FEATURE, 1, 1, json_read.LORSA + 1), (ERROR, 1, 1, -1), (TOKEN, -1, 0, 11), (TOKEN, -1, 1, -1),
        (LOGIT, 2, 1, 20), (LOGIT, 2, 1, 21), (LOGIT, 2, 1, 22),
    ]  # fmt: skip
    assert graph.n_layers == 2 and graph.token_ids == (11, -1) and graph.tokens == ("<s>", "x")
    assert (graph.model_name, graph.dictionary_name, graph.scan, graph.prompt) == ("m", "m", "m", "x")
    np.testing.assert_array_equal(graph.value, [2.5, np.nan, 4.0] + [np.nan] * 7)
    np.testing.assert_array_equal(graph.bias, [0.5, 0, 0.125, 0, 0, 0, 0, 0.25, 0, 0])
    assert not graph.absent.any() and graph.certificate is None
    edges = {(int(t), int(s)): float(graph.edges[t, s]) for t, s in zip(*graph.edges.nonzero(), strict=True)}
    # Both errors of layer 1 are one node, the unknown type that nothing feeds included.
    assert edges == {
        (0, 5): 2,
        (2, 0): 1,
        (3, 6): 1.5,
        (1, 0): 3,
        (7, 2): 3,
        (7, 4): -1,
        (8, 1): 2,
        (8, 4): 7,
    }
    told = [
        (target.text, target.vocab_id, target.probability, target.weight, target.node)
        for target in graph.targets
    ]
    assert told == [
        ("yes", 21, 0.5, 0.5, 8), (" no", 20, 0.25, 0.25, 7), ("plain", 22, 0.0, 0.0, 9)
    ]  # fmt: skip
    assert graph.labels == {"feature:0:0:7": "own"}
    assert [(one.label, [str(member) for member in one.members]) for one in graph.supernodes] == [
        ("one", ["feature:0:0:7", "error:1:1"]), ("group", ["feature:1:1:3"])
    ]  # fmt: skip
    assert graph.provenance["read_from"] == {"slug": "s", "info": {"by": "somebody"}}
    assert graph.provenance["node_types"] == {
        "1_3_1": "transcoder", "a1": "lorsa", "b": "bias", "odd": "something else", "end": "something else"
    }  # fmt: skip


def altered(change: Any) -> Json:
    file = copy.deepcopy(foreign_file())
    change(file)
    return file


@pytest.mark.parametrize(("change", "words"), [
    (lambda f: f["nodes"][3].update(ctx_idx=2), r"nodes\[3\]\.ctx_idx: position 2 of 2"),
    (lambda f: f["nodes"][3].update(layer="1001"), r"nodes\[3\]\.layer: expected a layer from 0 to 1000"),
    (lambda f: f["nodes"][3].update(layer="-1"), r"nodes\[3\]\.layer"),
    (lambda f: f["nodes"][11].update(feature=None), r"nodes\[11\]\.feature: a logit needs"),
    (lambda f: f["nodes"][11].update(feature=-1), r"nodes\[11\]\.feature: a logit needs"),
    (lambda f: f["nodes"][11].update(feature=2**31), r"nodes\[11\]\.feature: a logit needs"),
    (lambda f: f["nodes"][3].update(node_id="f"), r'"f"'),
    (lambda f: f["nodes"].append(f["nodes"][2] | {"node_id": "g"}), r"nodes\[12\]\.node_id: .*nodes\[2\]"),
    (lambda f: f["links"].append(f["links"][0]), r'links\[12\]: a second link from "E_11_0" to "f"'),
    (lambda f: f["links"][1].update(source="who"), r'links\[1\]\.source: there is no node "who"'),
    (lambda f: f["links"][1].update(target="who"), r'links\[1\]\.target: there is no node "who"'),
    (lambda f: f["links"][1].update(target="E_11_0"), r"links\[1\]\.target: .*into which nothing flows"),
    (lambda f: f["links"][1].update(source="l"), r"links\[1\]\.source: .*from which nothing flows"),
    (lambda f: f["links"][0].update(source="f"), "a link to itself"),
    (lambda f: f["links"][0].update(source="1_3_1"), "run in a circle"),
    (lambda f: f["links"][0].update(weight=1e39), "too large"),
    (lambda f: f["nodes"][2].update(activation=1e39), "value holds a number too large"),
])  # fmt: skip
def test_a_foreign_file_that_contradicts_itself(change: Any, words: str) -> None:
    with pytest.raises(InvalidGraph, match=words):
        graph_from_json(altered(change))


def test_just_within_the_limits_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = altered(lambda f: f["nodes"][3].update(layer="1000", node_id="1_3_1"))
    assert graph_from_json(file).layer.max() == 1_001
    assert graph_from_json(altered(lambda f: f["nodes"][11].update(feature=2**31 - 1))).index[9] == 2**31 - 1
    assert graph_from_json(altered(lambda f: f["nodes"][11].update(feature=0))).index[9] == 0
    path = tmp_path / "g.json"
    path.write_text(json.dumps(foreign_file()))
    for name, size in (("MAX_NODES", 12), ("MAX_LINKS", 12), ("MAX_BYTES", path.stat().st_size)):
        with monkeypatch.context() as patch:
            patch.setattr(json_read, name, size)
            read_json(path)
            patch.setattr(json_read, name, size - 1)
            with pytest.raises(LimitExceeded, match=f"{size:,}.*{size - 1:,}"):
                read_json(path)


@pytest.mark.parametrize(("stated", "layers"), [
    ("3", 2), ("9", 8), ("2", 2), ("1001", 1_000), ("1002", 2), ("1" * 12, 2), ("x", 2),
])  # fmt: skip
def test_how_many_layers_a_file_shows(stated: str, layers: int) -> None:
    """A logit of schema 1 stands one above the last layer, unless that is less than there are, or beyond reason."""
    file = altered(
        lambda f: [one.update(layer=stated) for one in f["nodes"] if one["feature_type"] == "logit"]
    )
    assert graph_from_json(file).n_layers == layers
    del file["metadata"]["schema_version"]
    assert graph_from_json(file).n_layers == 2


def test_where_a_features_index_comes_from() -> None:
    """The id where it names its own layer and place, else Cantor's pairing where that gives the layer, else as it is."""

    def index(**changes: Any) -> int:
        graph = graph_from_json(altered(lambda f: f["nodes"][2].update(changes)))
        return int(graph.index[(graph.kind == FEATURE) & (graph.layer == int(changes.get("layer", 0)))][0])

    assert index(feature=35) == 7
    assert index(feature=13) == 13  # Cantor's (1, 3): another layer, so the number itself
    assert index(feature=0) == 0
    assert index(feature=-5) == index(feature=None) == json_read.OPAQUE + 2
    assert index(feature=2**29 + 9) == 2**29 + 9 and index(feature=2**31) == json_read.OPAQUE + 2
    file = altered(lambda f: f["metadata"].pop("schema_version"))
    assert graph_from_json(file).index[0] == 35


@pytest.mark.parametrize(("clerp", "stated", "text", "probability"), [
    ('Output " a" (p=0.396)', None, " a", 0.396), ('Output "a"b" (p=1e-3)', None, 'a"b', 0.001),
    ("a (p=0.25 )", 0.0, "a", 0.25), ("a", 0.5, "a", 0.5), ("a (p=2)", None, "a", 1.0), ("a (p=x)", None, "a", 0.0),
    ("a (p=1.2.3)", None, "a", 0.0), ('Output "x\ny" (p=.5)', None, "x\ny", 0.5), ("a (p=0.2)", 0.7, "a", 0.7),
])  # fmt: skip
def test_what_a_logits_label_says(clerp: str, stated: float | None, text: str, probability: float) -> None:
    found, share = json_read._logit_text(node("3_1_1", "3", 1, "logit", clerp=clerp, token_prob=stated))
    assert (found, share) == (text, pytest.approx(probability))


@pytest.mark.parametrize(("weight", "probability", "fits"), [
    (0.0, 0.0, True), (1.0, 1.0, True), (1.01, 0.5, False), (-0.01, 0.5, False), (0.5, 1.01, False), (0.5, -0.01, False),
])  # fmt: skip
def test_targets_that_a_file_of_ours_states(weight: float, probability: float, fits: bool) -> None:
    file = graph_to_json(small_graph())
    file["metadata"]["thoughtscope"]["targets"][0] |= {"weight": weight, "probability": probability}
    if not fits:
        with pytest.raises(InvalidGraph, match=r"targets\[0\]: weight and probability"):
            graph_from_json(file)
    else:
        assert graph_from_json(file).targets[0].weight == weight
    for wrong in ("E_11_0", "0_-1_1", "who"):
        file["metadata"]["thoughtscope"]["targets"][0]["id"] = wrong
        with pytest.raises(InvalidGraph, match=rf'targets\[0\]\.id: "{wrong}" is no logit or feature'):
            graph_from_json(file)


def test_a_file_of_another_version_of_ours_is_read_as_anybodys() -> None:
    file = graph_to_json(small_graph())
    assert graph_from_json(file).dictionary_name == "org/dict"
    file["metadata"]["thoughtscope"]["version"] = 2
    assert graph_from_json(file).dictionary_name == "org-Model-1"
    file = graph_to_json(small_graph())
    file["metadata"]["thoughtscope"]["token_ids"].append(1)
    with pytest.raises(InvalidGraph, match="token_ids: 3 for 2 tokens"):
        graph_from_json(file)


def test_which_of_two_places_fits_between_its_neighbours() -> None:
    """The feature stands at 4 and the error at 9: an open place is either's that fits alone."""
    fits = lambda places, at: clashes._fitting(places, at, 4, 9)
    assert fits([None], 0) is None and fits([None, 20], 0) is None
    assert (
        fits([5, None], 1) == 9
        and fits([4, None], 1) == 9
        and fits([None, 9], 0) == 4
        and fits([None, 5], 0) == 4
    )
    assert fits([9, None], 1) is None and fits([None, 4], 0) is None and fits([5, None, 8], 1) is None
    assert fits([7, 6, None], 2) is None and fits([6, 6, None], 2) is None  # not in the order of the nodes
    assert fits([1, None, 7, None, 12], 1) == 4 and fits([1, None, 7, None, 12], 3) == 9
    error = {"layer": "3", "node_id": "0_3_1"}
    for layer, kind, reached in (
        ("3", "x", False),
        ("4", "x", True),
        ("2", "x", False),
        ("3", "logit", True),
    ):
        target = {"layer": layer, "feature_type": kind, "node_id": "t"}
        assert clashes._reaches(error, target) is reached
    assert clashes._layer({"layer": "99999"}) == 99999
    for wrong in ("100000", "-1", "x"):
        with pytest.raises(InvalidGraph, match="its layer"):
            clashes._layer({"layer": wrong, "node_id": "t"})


def test_what_validation_refuses_beyond_the_schema() -> None:
    good = graph_to_json(small_graph())
    validate_json(good)
    for change, words in (
        (lambda f: f["nodes"][1].update(node_id="0_7_0"), r'nodes\[1\]\.node_id: "0_7_0"'),
        (lambda f: f["nodes"][1].update(jsNodeId="0_7_0"), r'nodes\[1\]\.jsNodeId: "0_7_0"'),
        (lambda f: f["nodes"][5].update(clerp="x"), r"nodes\[5\]\.clerp"),
        (lambda f: f["links"][2].update(source="x"), r'links\[2\]\.source: there is no node "x"'),
        (lambda f: f["links"][2].update(target="x"), r'links\[2\]\.target: there is no node "x"'),
        (lambda f: f["links"][2].update(weight=float("inf")), r"links\[2\]\.weight"),
        (lambda f: f["nodes"][2].update(feature=2**53 + 1), r"nodes\[2\]\.feature"),
    ):
        bad = copy.deepcopy(good)
        change(bad)
        with pytest.raises(InvalidGraph, match=words):
            validate_json(bad)
    good["nodes"][2]["feature"] = 2**53
    validate_json(good)


def test_formats_of_graphs(tmp_path: Path) -> None:
    """What each target of `write_graph` leaves: only our own file has our own part."""
    for format, extras in (("thoughtscope", True), ("neuronpedia", False)):
        write_graph(small_graph(), tmp_path / f"{format}.json", format=format)
        found = json.loads((tmp_path / f"{format}.json").read_text())
        assert ("thoughtscope" in found["metadata"]) is extras
