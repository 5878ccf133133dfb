"""Graph files of other tools by name: what each of them wants beside the one file that all of them read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thoughtscope.core.errors import CorruptArtefact
from thoughtscope.core.files import atomic_write_text
from thoughtscope.core.ids import plain_name
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.registry import Registry
from thoughtscope.graphs.graph import Graph
from thoughtscope.graphs.json_read import read_both
from thoughtscope.graphs.json_write import graph_to_json, write_text
from thoughtscope.graphs.schema import validate_json

METADATA = "graph-metadata.json"
"""The list of graphs that circuit-tracer's server reads first in its folder."""


@runtime_checkable
class GraphWriter(Protocol):
    """Writes a graph for one tool. `scan` and `slug` are its names there, None for those that the graph has."""

    def __call__(self, graph: Graph, path: Path, *, scan: str | None, slug: str | None) -> Path: ...


@dataclass(frozen=True, kw_only=True)
class GraphFormat:
    """One tool's way to take a graph."""

    what: str
    """Half a sentence for lists: what is written."""
    write: GraphWriter


GRAPH_FORMATS: Registry[GraphFormat] = Registry("graph format", group="thoughtscope.graph_formats")
"""By name; installed packages add theirs as entry points of the group."""


def write_graph(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    format: str = "thoughtscope",
    scan: str | None = None,
    slug: str | None = None,
) -> Path:
    """Writes the graph in a format of `GRAPH_FORMATS`; where it was written.

    The slug is the file's name unless given; `scan` names the model (for Neuronpedia) or the dictionary (for
    circuit-tracer) as the other place knows it. Raises `ThoughtscopeError` for a format that is not known.
    """
    return GRAPH_FORMATS[format].write(graph, Path(path), scan=scan, slug=slug)


def convert_graph(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    format: str,
    scan: str | None = None,
    slug: str | None = None,
) -> Path:
    """Rewrites a graph file of any tool for another, under the names that it has there. Raises as `read_json`."""
    writer = GRAPH_FORMATS[format]
    file, graph = read_both(source)
    named = {key: plain_name(str(file["metadata"].get(key) or ""), 100) or None for key in ("scan", "slug")}
    return writer.write(graph, Path(target), scan=scan or named["scan"], slug=slug or named["slug"])


def _file_for(extras: bool) -> GraphWriter:
    def write(graph: Graph, path: Path, *, scan: str | None, slug: str | None) -> Path:
        file = graph_to_json(graph, scan=scan, slug=slug or plain_name(path.stem, 100) or None, extras=extras)
        validate_json(file)
        return write_text(file, path)

    return write


def _for_circuit_tracer(graph: Graph, path: Path, *, scan: str | None, slug: str | None) -> Path:
    """A `.json` path is the file alone; any other the folder that the tool's server takes: the file, and its entry in
    the list of graphs, beside those that are listed already."""
    if path.suffix.lower() == ".json":
        return _file_for(extras=False)(graph, path, scan=scan, slug=slug)
    file = graph_to_json(graph, scan=scan, slug=slug, extras=False)
    validate_json(file)
    entry = file["metadata"]
    listed = [one for one in _listed(path / METADATA) if one.get("slug") != entry["slug"]]
    write_text(file, path / f"{entry['slug']}.json")
    text = json.dumps({"graphs": [*listed, entry]}, ensure_ascii=False, allow_nan=False, indent=1)
    atomic_write_text(path / METADATA, text + "\n")
    return path


def _listed(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    content = strict_json(path.read_bytes(), path)
    graphs = content.get("graphs") if isinstance(content, dict) else None
    if not isinstance(graphs, list) or not all(isinstance(one, dict) for one in graphs):
        raise CorruptArtefact(f'{path} has no list "graphs". Name another folder.')
    return graphs


GRAPH_FORMATS.register("thoughtscope")(
    GraphFormat(what="one file for this page and the viewers below", write=_file_for(extras=True))
)
GRAPH_FORMATS.register("circuit-tracer")(
    GraphFormat(what="a file, or the folder that its server takes", write=_for_circuit_tracer)
)
GRAPH_FORMATS.register("neuronpedia")(GraphFormat(what="a file to upload", write=_file_for(extras=False)))
GRAPH_FORMATS.register("anthropic")(
    GraphFormat(what="a file for the published viewer", write=_file_for(extras=False))
)
