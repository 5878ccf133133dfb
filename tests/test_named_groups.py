"""Groups named by rule, from the concepts to the page: the specimen's two-hop question, and dictionaries without any."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest

from tests.tiny_microscope import tiny_microscope
from thoughtscope import microscope as verbs
from thoughtscope.atlas import read_concepts
from thoughtscope.cli.summary import summary_data, summary_text
from thoughtscope.dictionaries import encode
from thoughtscope.graphs import (
    find_supernode,
    graph_from_json,
    group,
    group_chain,
    grouped_edges,
    strongest_path,
)
from thoughtscope.microscope import WorkFolder, keep, page_graph
from thoughtscope.models import capture
from thoughtscope.reports import build_report
from thoughtscope.reports.payload import graph_file, named_by_rule

PROMPT = "Fact: the capital of the state containing Dallas is"
WAY = ["Texas", "say Austin"]


@cache
def opened():
    return replace(verbs.open_microscope("specimen"), labels=tiny_microscope().labels)


@cache
def traced():
    return verbs.trace(opened(), PROMPT)


def test_the_chain_is_dallas_texas_austin_as_text_and_as_data() -> None:
    graph, chain = traced(), group_chain(traced())
    assert chain is not None and list(chain.names[1:-1]) == WAY
    ends = [graph.tokens[graph.find(chain.names[0]) - graph.rows("token")[0]], graph.targets[0].text]
    assert ends == [" Dallas", " Austin"] and graph.node_id(graph.targets[0].node) == graph.node_id(
        graph.find(chain.names[-1])
    )
    data = summary_data(graph)
    assert data["path"]["names"] == list(chain.names)
    assert sorted(each["label"] for each in data["groups"]) == sorted(WAY)
    told = summary_text(graph)
    places = [
        told.index(text) for text in ("“ Dallas”\n", "→ Texas (", "→ say Austin (", "→ “ Austin” (answer)")
    ]
    assert places == sorted(places) and "named by rule" in told
    json.dumps(data, allow_nan=False)


def test_the_record_is_what_the_reading_says() -> None:
    tokens = verbs.tokens_of(opened(), PROMPT)
    features = encode(opened().dictionary, capture(opened().model, tokens, opened().dictionary.sites))
    readings = {reading.label: reading for reading in read_concepts(opened().concepts, features)}
    records = {record["label"]: record for record in traced().provenance["named_by_rule"]}
    assert set(records) == set(WAY) <= set(readings)
    for label, record in records.items():
        reading = readings[label]
        assert record["log_odds"] == pytest.approx(reading.log_odds, abs=0.01)
        assert record["margin"] == pytest.approx(reading.margin, abs=0.01)
        assert set(record["members"]) <= set(map(str, reading.members))
        assert record["members"] == list(map(str, find_supernode(traced(), label).members))


def test_page_report_and_file_show_the_same_groups(tmp_path) -> None:
    folder = WorkFolder(tmp_path)
    shown = page_graph(folder, keep(folder, traced()))
    report = build_report(traced(), bank=opened().bank).data["graph"]
    for file in (shown, report):
        groups = {label: members for label, *members in file["qParams"]["supernodes"]}
        assert sorted(groups) == sorted(WAY)
        rules = {each["label"]: each for each in file["named_by_rule"]}
        assert {label: each["members"] for label, each in rules.items()} == groups
        record = next(each for each in traced().provenance["named_by_rule"] if each["label"] == "Texas")
        assert (
            f"log odds {record['log_odds']:.0f}" in rules["Texas"]["why"]
            and "“Dallas”" in rules["Texas"]["why"]
        )
        tokens = [node for node in file["nodes"] if node["feature_type"] == "embedding"]
        pinned = [node["ctx_idx"] for node in tokens if node["node_id"] in file["qParams"]["pinnedIds"]]
        assert [file["metadata"]["prompt_tokens"][position] for position in pinned] == [" Dallas"]
    back = graph_from_json(graph_file(traced()))
    assert (
        named_by_rule(back) == named_by_rule(traced())
        and group_chain(back).names == group_chain(traced()).names
    )


def test_a_dictionary_without_concepts_changes_nothing() -> None:
    tiny = tiny_microscope()
    graph = verbs.trace(tiny, "ab cd")
    assert graph.supernodes == () and "named_by_rule" not in graph.provenance
    assert group_chain(graph) is None and graph_file(graph)["qParams"]["pinnedIds"] == []
    without = replace(opened(), concepts=())
    plain = verbs.trace(without, PROMPT)
    assert plain.supernodes == () and np.array_equal(plain.edges.data, traced().edges.data)


def test_names_of_another_tool_are_passed_over() -> None:
    wrong = [{"label": "x"}, 3, None, {"members": ["nonsense"], "label": "y"}]
    assert named_by_rule(replace(traced(), provenance={"named_by_rule": wrong})) == []
    assert named_by_rule(replace(traced(), provenance={"named_by_rule": "no list"})) == []


def test_a_chain_is_the_best_way_through_the_group_that_reaches_the_answer_best() -> None:
    """By trying every token and every group, each half by the path between two groups."""
    graph = verbs.trace(tiny_microscope(), "ab cd")
    draw = np.random.default_rng(5).permutation(graph.rows("feature"))
    nodes = [graph.node_id(int(row)) for row in draw]
    grouped = group(graph, {"a": nodes[:4], "b": nodes[4:7], "c": nodes[7:12]})
    edges, answer = grouped_edges(grouped), max(graph.targets, key=lambda target: target.probability).node
    end = str(graph.node_id(answer))

    def strength(path: tuple[str, ...]) -> float:
        rows = [edges.names.index(name) for name in path]
        shares = [edges.shares[target, source] for source, target in pairwise(rows)]
        return float(np.prod(shares)) if path else 0.0

    best = max("abc", key=lambda label: strength(strongest_path(edges, label, end)))
    tokens = [str(graph.node_id(int(row))) for row in graph.rows("token")]
    ways = {token: strongest_path(edges, token, label) for token, label in product(tokens, [best])}
    start = max(tokens, key=lambda token: strength(ways[token]))
    chain = group_chain(grouped)
    assert chain is not None
    assert chain.names == (*ways[start], *strongest_path(edges, best, end)[1:])
    assert np.prod(chain.shares) == pytest.approx(strength(chain.names))
