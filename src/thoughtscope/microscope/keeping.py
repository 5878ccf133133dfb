"""Kept graphs: what a work folder holds, as the page gets it, and what people arrange in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import InvalidGraph, LimitExceeded, UnknownFeature
from thoughtscope.core.labels import is_plain_line
from thoughtscope.microscope.folder import SLUG, WorkFolder, slug_of
from thoughtscope.microscope.intervening import Attention, Change, intervene
from thoughtscope.microscope.opening import Microscope

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph

MAX_PINS = 200
MAX_SUPERNODES = 200
MAX_MEMBERS = 500


def keep(folder: WorkFolder, graph: Graph, slug: str | None = None) -> str:
    """Writes a graph into the work folder; its slug."""
    from thoughtscope.graphs import graph_to_json

    slug = slug or slug_of(graph.prompt)
    folder.write_graph(slug, graph_to_json(graph, slug=slug))
    return slug


def keep_file(folder: WorkFolder, content: bytes | Mapping[str, Any]) -> str:
    """Checks a graph file of any tool and keeps it under its own slug, or a free one like it. Raises `InvalidGraph`."""
    from thoughtscope.graphs import graph_from_json

    file = _object(content) if isinstance(content, bytes) else dict(content)
    graph_from_json(file)
    metadata = file["metadata"]
    wanted = str(metadata.get("slug") or "")
    plain = SLUG.fullmatch(wanted) and not wanted.startswith(".")
    name = wanted if plain else slug_of(str(metadata.get("prompt", "")))
    slug, number, taken = name, 1, set(folder.slugs())
    while slug in taken:
        number += 1
        slug = f"{name[:90]}-{number}"
    folder.write_graph(slug, {**file, "metadata": {**metadata, "slug": slug}})
    return slug


def kept_file(folder: WorkFolder, slug: str) -> dict[str, Any]:
    """A kept graph file with the labels as they are now, which may be newer than the file."""
    from thoughtscope.reports import payload

    file = folder.read_graph(slug)
    return payload.relabelled(file, folder.labels_of(*payload.source_of(file)))


def kept_graph(folder: WorkFolder, slug: str) -> Graph:
    """A kept graph as a noun."""
    from thoughtscope.graphs import graph_from_json

    return graph_from_json(folder.read_graph(slug))


def pin(folder: WorkFolder, slug: str, pins: Sequence[str]) -> None:
    """Keeps the pinned nodes in the graph's file. Raises `UnknownFeature` for a node that it lacks."""
    _require_nodes(folder.read_graph(slug), pins)
    folder.change_query(slug, {"pinnedIds": list(pins)})


def arrange(folder: WorkFolder, slug: str, supernodes: Sequence[Sequence[str]]) -> None:
    """Keeps supernodes, each its label and then its nodes. Raises `UnknownFeature` for a node that the graph lacks."""
    _require_nodes(folder.read_graph(slug), [node for _, *members in supernodes for node in members])
    folder.change_query(slug, {"supernodes": [list(group) for group in supernodes]})


def keep_query(folder: WorkFolder, slug: str, content: bytes) -> None:
    """Keeps what another viewer's "Save" sends: `{"qParams": {...}}`, where lists may be written as text, or be null.

    Raises `InvalidGraph` when nothing sensible can be made of it, and leaves the file as it was.
    """
    from thoughtscope.graphs import parse_json

    sent = _object(content).get("qParams")
    if not isinstance(sent, dict):
        raise InvalidGraph('The body has no "qParams" object.')
    pins, groups = sent.get("pinnedIds") or [], sent.get("supernodes") or []
    if isinstance(pins, str):
        pins = [pin for pin in pins.split(",") if pin]
    if isinstance(groups, str):
        groups = parse_json(groups)
    _check_names(pins, "qParams.pinnedIds", MAX_PINS)
    if not isinstance(groups, list) or len(groups) > MAX_SUPERNODES:
        raise InvalidGraph(f"qParams.supernodes: expected a list of at most {MAX_SUPERNODES} groups.")
    for number, group in enumerate(groups):
        _check_names(group, f"qParams.supernodes[{number}]", MAX_MEMBERS)
        if len(group) < 2:
            raise InvalidGraph(f"qParams.supernodes[{number}]: expected a label and at least one node.")
    if "supernodes" in sent:
        arrange(folder, slug, groups)
    if "pinnedIds" in sent:
        pin(folder, slug, pins)


def intervene_kept(
    microscope: Microscope,
    folder: WorkFolder,
    slug: str,
    changes: Sequence[Change],
    *,
    attention: Attention = "frozen",
    max_new_tokens: int = 0,
) -> dict[str, Any]:
    """`intervene` on a kept graph; what happened, as the page shows it."""
    from thoughtscope.reports.payload import outcome_json

    graph = kept_graph(folder, slug)
    outcome = intervene(microscope, graph, changes, attention=attention, max_new_tokens=max_new_tokens)
    labels = microscope.labels.of(microscope.dictionary.name)
    return outcome_json(outcome, graph, bank=microscope.bank, labels=labels)


def report(folder: WorkFolder, slug: str, microscope: Microscope | None) -> str:
    """One self-contained HTML page of a kept graph."""
    from thoughtscope.reports import build_report

    bank = None if microscope is None else microscope.bank
    return build_report(kept_file(folder, slug), bank=bank, labels=folder.labels).html


def _check_names(names: Any, where: str, limit: int) -> None:
    if not isinstance(names, list) or not all(
        isinstance(name, str) and is_plain_line(name) for name in names
    ):
        raise InvalidGraph(f"{where}: expected a list of texts of one line each.")
    if len(names) > limit or any(len(name) > 200 for name in names):
        raise LimitExceeded(f"{where}: at most {limit} texts of at most 200 characters.")


def _object(content: bytes) -> dict[str, Any]:
    from thoughtscope.graphs import parse_json

    value = parse_json(content)
    if not isinstance(value, dict):
        raise InvalidGraph("The body is not a JSON object.")
    return value


def _require_nodes(graph: Mapping[str, Any], names: Sequence[str]) -> None:
    present = {str(node.get("node_id")) for node in graph.get("nodes", [])}
    for name in names:
        if name not in present:
            raise UnknownFeature(f'The graph has no node "{name}".')
