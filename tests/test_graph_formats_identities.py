"""Graph files for other programs: names that they go by, lists that they stand in, and the small checker of schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.test_graph_files_identities import foreign_file, small_graph
from thoughtscope.core.errors import CorruptArtefact, InvalidGraph, ThoughtscopeError, UnknownFeature
from thoughtscope.graphs import convert_graph, graph_to_json, schema, write_graph


def metadata(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["metadata"]


@pytest.mark.parametrize("format", ["thoughtscope", "neuronpedia", "anthropic", "circuit-tracer"])
def test_names_under_which_a_graph_is_written(tmp_path: Path, format: str) -> None:
    """The slug is the file's name unless given, the scan the model's; a conversion keeps what the file says."""
    path = tmp_path / "a file.json"
    assert write_graph(small_graph(), path, format=format) == path
    found = metadata(path)
    assert (found["slug"], found["scan"]) == ("a-file", "org-Model-1") and ("thoughtscope" in found) is (
        format == "thoughtscope"
    )
    write_graph(small_graph(), path, format=format, slug="own", scan="there")
    assert (metadata(path)["slug"], metadata(path)["scan"]) == ("own", "there")
    source = tmp_path / "source.json"
    source.write_text(json.dumps(foreign_file()))
    convert_graph(source, path, format=format)
    assert (metadata(path)["slug"], metadata(path)["scan"]) == ("s", "m")
    convert_graph(source, path, format=format, slug="own", scan="there")
    assert (metadata(path)["slug"], metadata(path)["scan"]) == ("own", "there")
    file = foreign_file()
    file["metadata"] |= {"slug": "", "scan": ""}
    source.write_text(json.dumps(file))
    convert_graph(source, path, format=format)
    assert metadata(path)["slug"] == "a-file"
    file["metadata"] |= {"slug": "x" * 200, "scan": "y" * 200}
    source.write_text(json.dumps(file))
    convert_graph(source, path, format=format)
    assert (len(metadata(path)["slug"]), len(metadata(path)["scan"])) == (100, 100)
    long = tmp_path / ("n" * 150 + ".JSON")
    write_graph(small_graph(), long, format=format)
    assert long.is_file() and len(metadata(long)["slug"]) == 100


def test_the_list_of_a_folder(tmp_path: Path) -> None:
    """One entry for each slug, the latest last; the others stay as they were."""
    home = tmp_path / "served"
    for slug in ("a", "b", "a"):
        assert write_graph(small_graph(), home, format="circuit-tracer", slug=slug) == home
    listing = next(path for path in home.iterdir() if path.name not in ("a.json", "b.json"))
    assert [one["slug"] for one in json.loads(listing.read_text())["graphs"]] == ["b", "a"]
    assert listing.read_text().endswith("}\n") and "thoughtscope" not in metadata(home / "a.json")
    for broken in ("[]", "{}", '{"graphs": {}}', '{"graphs": [1]}', '{"graphs": [{}, 1]}'):
        listing.write_text(broken)
        with pytest.raises(CorruptArtefact, match='has no list "graphs"'):
            write_graph(small_graph(), home, format="circuit-tracer", slug="c")
    with pytest.raises(ThoughtscopeError, match="graph format"):
        write_graph(small_graph(), home, format="nobody")


@pytest.mark.parametrize(("rule", "value", "words"), [
    ({"type": "integer"}, 3, None), ({"type": "integer"}, True, "expected integer, got bool"), ({"type": "integer"}, 3.0, "expected integer"),
    ({"type": "number"}, 3, None), ({"type": "number"}, False, "expected number"), ({"type": "boolean"}, True, None),
    ({"type": "boolean"}, 1, "expected boolean"), ({"type": ["string", "null"]}, None, None), ({"type": ["string", "null"]}, 1, "string or null"),
    ({"type": "number", "minimum": 1}, 1, None), ({"type": "number", "minimum": 1}, 0.9, "0.9 is less than 1"),
    ({"type": "number", "maximum": 1}, 1, None), ({"type": "number", "maximum": 1}, 1.1, "1.1 is more than 1"),
    ({"minimum": 1}, "text", None), ({"maximum": 1}, None, None), ({"type": "number"}, float("nan"), "not a finite number"),
    ({"type": "integer"}, 2**53, None), ({"type": "integer"}, 2**53 + 1, "too many digits"), ({"type": "integer"}, -(2**53) - 1, "too many digits"),
    ({}, {"any": [1]}, None), ({"type": "array", "items": {"type": "string"}}, ["a", "b"], None),
    ({"type": "array", "items": {"type": "string"}}, ["a", 2], r"x\[1\]: expected string"), ({"type": "array"}, [1, "a"], None),
    ({"items": {"type": "string"}}, "abc", None), ({"type": "object", "required": ["a"]}, {"a": 1}, None),
    ({"type": "object", "required": ["a", "b"]}, {"a": 1}, r"x\.b is missing"),
    ({"properties": {"a": {"type": "string"}}}, {"a": 1}, r"x\.a: expected string"), ({"properties": {"a": {"type": "string"}}}, {"b": 1}, None),
])  # fmt: skip
def test_the_small_checker(rule: dict, value: Any, words: str | None) -> None:
    if words is None:
        schema._check(rule, value, "x")
    else:
        with pytest.raises(InvalidGraph, match=words):
            schema._check(rule, value, "x")


def test_the_place_of_a_fault() -> None:
    for file, words in (([], "the file: expected object, got list"), ({}, "^metadata is missing"),
                        (graph_to_json(small_graph()) | {"nodes": {}}, "^nodes: expected array")):  # fmt: skip
        with pytest.raises(InvalidGraph, match=words):
            schema.check_schema(file)


def test_the_nearest_of_nodes_without_a_layer_or_an_index() -> None:
    graph = small_graph()
    for node, nearest in (
        ("token:5", "token:1, token:0"),
        ("logit:1:29", "logit:1:21, logit:1:20"),
        ("error:1:3", "error:0:1"),
    ):
        with pytest.raises(UnknownFeature, match=f"Nearest: {nearest}"):
            graph.find(node)
