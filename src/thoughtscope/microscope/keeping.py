"""Kept graphs: what a work folder holds, as the page gets it, and what people arrange in it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import InvalidGraph, LimitExceeded, ThoughtscopeError, UnknownFeature
from thoughtscope.core.labels import is_plain_line
from thoughtscope.core.progress import Progress, silent
from thoughtscope.microscope.folder import SLUG, WorkFolder, slug_of
from thoughtscope.microscope.intervening import Attention, Change, intervene
from thoughtscope.microscope.opening import Microscope

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph

MAX_PINS = 200
MAX_SUPERNODES = 200
MAX_MEMBERS = 500


def keep(folder: WorkFolder, graph: Graph, slug: str | None = None) -> str:
    """Writes a graph into the work folder, under a slug of its own unless one is given; the slug."""
    from thoughtscope.reports.payload import graph_file

    if slug is None:
        return folder.add_graph(slug_of(graph.heading), lambda free: graph_file(graph, free))
    folder.write_graph(slug, graph_file(graph, slug))
    return slug


def keep_file(folder: WorkFolder, content: bytes | Mapping[str, Any]) -> str:
    """Checks a graph file of any tool and keeps it under its own slug, or a free one like it. Raises `InvalidGraph`."""
    from thoughtscope.graphs import graph_from_json
    from thoughtscope.reports import payload
    from thoughtscope.reports.payload import PAGE_ONLY, distinct_content

    file = _object(content) if isinstance(content, bytes) else dict(content)
    graph_from_json(file)
    file = {key: value for key, value in distinct_content(file).items() if key not in PAGE_ONLY}
    metadata = file["metadata"]
    wanted = str(metadata.get("slug") or "")
    plain = SLUG.fullmatch(wanted) and not wanted.startswith(".")
    name = wanted if plain else slug_of(payload.heading_of(metadata))
    return folder.add_graph(name, lambda slug: {**file, "metadata": {**metadata, "slug": slug}})


def kept_file(folder: WorkFolder, slug: str) -> dict[str, Any]:
    """A kept graph file with the labels as they are now, which may be newer than the file."""
    from thoughtscope.reports import payload

    file = folder.read_graph(slug)
    return payload.relabelled(file, folder.labels_of(*payload.source_of(file)))


def page_snapshot(graph: Graph) -> dict[str, Any]:
    """A graph that is not kept, or not yet, as the page gets it; see `reports.payload.for_page`."""
    from thoughtscope.reports import payload

    return {**payload.for_page(payload.graph_file(graph)), "outcomes": []}


def page_graph(folder: WorkFolder, slug: str) -> dict[str, Any]:
    """A kept graph as the page gets it: see `reports.payload.for_page`; with `outcomes`, what was tried on it."""
    from thoughtscope.reports import payload

    known = folder.remembered(slug, payload.page_facts)
    file = payload.for_page(kept_file(folder, slug), known)
    return {**file, "outcomes": page_outcomes(folder, slug)}


def page_outcomes(folder: WorkFolder, slug: str) -> list[dict[str, Any]]:
    """What was tried on a kept graph, as the page shows it, oldest first."""
    records = folder.outcomes(slug)
    if not records:
        return []
    from thoughtscope.interventions import Outcome
    from thoughtscope.reports.payload import outcome_json

    graph, shown = kept_graph(folder, slug), []
    labels = folder.labels_of(graph.dictionary_name, graph.scan)
    for number, record in records:
        try:
            outcome = Outcome.from_json(record["outcome"])
        except (ThoughtscopeError, KeyError, TypeError):
            continue  # of another version: it hides no other
        more = {key: record.get(key) for key in ("created", "changes", "max_new_tokens")}
        shown.append({**outcome_json(outcome, graph, labels=labels), "id": number, **more})
    return shown


def kept_graph(folder: WorkFolder, slug: str) -> Graph:
    """A kept graph as a noun."""
    from thoughtscope.graphs import graph_from_json

    return graph_from_json(folder.read_graph(slug))


def score_part(folder: WorkFolder, slug: str, nodes: Sequence[str]) -> dict[str, Any]:
    """What a part of a kept graph explains; see `reports.payload.circuit_scores`."""
    from thoughtscope.reports.payload import circuit_scores

    return circuit_scores(folder.read_graph(slug), nodes)


def pin(folder: WorkFolder, slug: str, pins: Sequence[str]) -> None:
    """Keeps the pinned nodes in the graph's file. Raises `UnknownFeature` for a node that it lacks."""
    _change_query(folder, slug, {"pinnedIds": list(pins)}, nodes=pins)


def arrange(folder: WorkFolder, slug: str, supernodes: Sequence[Sequence[str]]) -> None:
    """Keeps supernodes, each its label and then its nodes. Raises `UnknownFeature` for a node that the graph lacks."""
    members = [node for _, *members in supernodes for node in members]
    _change_query(folder, slug, {"supernodes": [list(group) for group in supernodes]}, nodes=members)


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
    changes = {"pinnedIds": pins, "supernodes": groups}
    members = [node for _, *members in groups for node in members]
    changes = {name: value for name, value in changes.items() if name in sent}
    _change_query(folder, slug, changes, nodes=[*pins, *members])


def lay_out(folder: WorkFolder, slug: str, layout: Mapping[str, Sequence[float]]) -> None:
    """Keeps where a person has put cards, `[x, y]` by the id of a node or a group."""
    places = {name: [float(x), float(y)] for name, (x, y) in layout.items()}
    if not all(math.isfinite(number) for place in places.values() for number in place):
        raise InvalidGraph("layout: a place is two finite numbers.")
    _change_query(folder, slug, {"layout": places}, nodes=())


def _change_query(folder: WorkFolder, slug: str, changes: Mapping[str, Any], *, nodes: Sequence[str]) -> None:
    """Replaces entries of a graph's `qParams`, the part of the file that holds what a person arranged.

    Raises `UnknownFeature` for one of `nodes` that the graph lacks, and leaves the file as it was.
    """

    def changed(graph: dict[str, Any]) -> dict[str, Any]:
        if nodes:
            _require_nodes(graph, nodes)
        query = graph.get("qParams")
        return {**graph, "qParams": {**(query if isinstance(query, dict) else {}), **changes}}

    folder.change_graph(slug, changed)


def intervene_kept(
    microscope: Microscope,
    folder: WorkFolder,
    slug: str,
    changes: Sequence[Change],
    *,
    attention: Attention = "frozen",
    max_new_tokens: int = 0,
    keep: bool = True,
    progress: Progress = silent,
) -> dict[str, Any]:
    """`intervene` on a kept graph, kept beside it; what happened, as the page shows it.

    `id` is its number among the graph's outcomes; None where it was not kept, as for no change at all.
    """
    from thoughtscope.reports.payload import outcome_json

    graph = kept_graph(folder, slug)
    outcome = intervene(
        microscope, graph, changes, attention=attention, max_new_tokens=max_new_tokens, progress=progress
    )
    labels = microscope.labels.of(microscope.dictionary.name)
    record = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "changes": [{"nodes": list(c.nodes), "op": c.op, "value": c.value} for c in changes],
        "max_new_tokens": max_new_tokens,
    }
    number = None
    if keep and changes:
        number = folder.keep_outcome(slug, {**record, "outcome": outcome.to_json()})
    shown = outcome_json(outcome, graph, bank=microscope.bank, labels=labels)
    return {**shown, "id": number, **record}


def report(folder: WorkFolder, slug: str, microscope: Microscope | None) -> str:
    """One self-contained HTML page of a kept graph, with what was tried on it."""
    from thoughtscope.reports import build_report

    file, outcomes = kept_file(folder, slug), page_outcomes(folder, slug)
    bank = None if microscope is None else microscope.bank
    title = str(file["metadata"].get("title") or "") or None
    return build_report(file, bank=bank, labels=folder.labels, outcomes=outcomes, title=title).html


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


def _require_nodes(graph: dict[str, Any], names: Sequence[str]) -> None:
    from thoughtscope.reports.payload import distinct_content

    present = {node["node_id"] for node in distinct_content(graph)["nodes"]}
    for name in names:
        if name not in present:
            raise UnknownFeature(f'The graph has no node "{name}".')
