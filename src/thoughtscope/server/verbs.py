"""What the routes do, as plain functions on a microscope and a work folder; no HTTP in here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from thoughtscope.core.errors import (
    InvalidGraph,
    InvalidPlan,
    LimitExceeded,
    UnknownFeature,
    describe_choices,
)
from thoughtscope.core.ids import NodeId
from thoughtscope.core.progress import Progress, silent
from thoughtscope.microscope import Microscope
from thoughtscope.reports import payload
from thoughtscope.server.errors import NoModel
from thoughtscope.server.folder import SLUG, WorkFolder, slug_of
from thoughtscope.server.wire import (
    EditRequest,
    InterveneRequest,
    PinsRequest,
    SupernodesRequest,
    TraceRequest,
)

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph
    from thoughtscope.interventions import Plan
    from thoughtscope.models import Tokens

Attention = Literal["frozen", "free"]

# --- tracing ---------------------------------------------------------------------------------------------------------


def tokens_of(microscope: Microscope, prompt: str) -> Tokens:
    """Tokenizes within the microscope's limit. Raises `LimitExceeded` before anything large is allocated."""
    from thoughtscope.models import tokenize

    # No tokenizer makes fewer tokens than this from so many characters; the check spares it absurd inputs.
    if len(prompt) > 200 * microscope.max_tokens:
        raise LimitExceeded(
            f"The prompt has {len(prompt):,} characters; {microscope.max_tokens} tokens are the limit."
        )
    return tokenize(microscope.model, prompt, max_tokens=microscope.max_tokens)


def trace_prompt(
    microscope: Microscope,
    prompt: str | Tokens,
    *,
    node_mass: float = 0.8,
    edge_mass: float = 0.98,
    max_nodes: int | None = None,
    progress: Progress = silent,
) -> Graph:
    """A prompt's pruned graph with the labels that the dictionary's feature bank knows."""
    from thoughtscope.graphs import attribute, prune

    tokens = tokens_of(microscope, prompt) if isinstance(prompt, str) else prompt
    graph = attribute(microscope.model, microscope.dictionary, tokens, max_nodes=max_nodes, progress=progress)
    return payload.with_bank_labels(prune(graph, node_mass=node_mass, edge_mass=edge_mass), microscope.bank)


def trace(
    microscope: Microscope,
    folder: WorkFolder,
    tokens: Tokens,
    request: TraceRequest,
    *,
    slug: str | None = None,
    progress: Progress = silent,
) -> str:
    """Traces and keeps the graph; its slug."""
    graph = trace_prompt(
        microscope,
        tokens,
        node_mass=request.node_mass,
        edge_mass=request.edge_mass,
        max_nodes=request.max_nodes,
        progress=progress,
    )
    return keep(microscope, folder, graph, slug or slug_of(request.prompt))


def keep(microscope: Microscope, folder: WorkFolder, graph: Graph, slug: str) -> str:
    """Writes a graph into the work folder under `slug`."""
    folder.write_graph(slug, payload.graph_json(graph, slug=slug))
    return slug


# --- kept graphs -----------------------------------------------------------------------------------------------------


def graph_with_labels(folder: WorkFolder, slug: str) -> dict[str, Any]:
    """A kept graph with the labels as they are now, which may be newer than the file."""
    graph = folder.read_graph(slug)
    return payload.relabelled(graph, folder.labels(payload.scan_of(graph)))


def keep_graph(folder: WorkFolder, body: bytes) -> str:
    """Checks a graph file of any tool and keeps it under its own slug, or a free one like it. Raises `InvalidGraph`."""
    graph = _json_object(body)
    payload.check_graph(graph)
    wanted = str(graph["metadata"].get("slug") or "")
    name = (
        wanted
        if SLUG.fullmatch(wanted) and not wanted.startswith(".")
        else slug_of(str(graph["metadata"].get("prompt", "")))
    )
    slug, number, taken = name, 1, set(folder.slugs())
    while slug in taken:
        number += 1
        slug = f"{name[:90]}-{number}"
    graph["metadata"]["slug"] = slug
    folder.write_graph(slug, graph)
    return slug


def keep_pins(folder: WorkFolder, slug: str, pins: list[str]) -> None:
    """Keeps the pinned nodes in the graph's file. Raises `UnknownFeature` for a node that it lacks."""
    _require_nodes(folder.read_graph(slug), pins)
    folder.change_query(slug, {"pinnedIds": pins})


def keep_supernodes(folder: WorkFolder, slug: str, supernodes: list[list[str]]) -> None:
    """Keeps supernodes, each its label and then its nodes. Raises `UnknownFeature` for a node that the graph lacks."""
    _require_nodes(folder.read_graph(slug), [node for _, *members in supernodes for node in members])
    folder.change_query(slug, {"supernodes": supernodes})


def keep_query(folder: WorkFolder, slug: str, body: bytes) -> None:
    """Keeps what another viewer's "Save" sends: `{"qParams": {...}}`, where lists may be written as text, or be null.

    Raises `InvalidGraph` when nothing sensible can be made of it, and leaves the file as it was.
    """
    sent = _json_object(body).get("qParams")
    if not isinstance(sent, dict):
        raise InvalidGraph('The body has no "qParams" object.')
    pins, groups = sent.get("pinnedIds") or [], sent.get("supernodes") or []
    if isinstance(pins, str):
        pins = [pin for pin in pins.split(",") if pin]
    if isinstance(groups, str):
        groups = payload.parse_graph_text(groups)
    try:
        kept_pins = PinsRequest.model_validate({"pins": pins}).pins
        kept_groups = SupernodesRequest.model_validate({"supernodes": groups}).supernodes
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidGraph(f"qParams.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if "supernodes" in sent:
        keep_supernodes(folder, slug, kept_groups)
    if "pinnedIds" in sent:
        keep_pins(folder, slug, kept_pins)


def _json_object(body: bytes) -> dict[str, Any]:
    value = payload.parse_graph_text(body)
    if not isinstance(value, dict):
        raise InvalidGraph("The body is not a JSON object.")
    return value


def _require_nodes(graph: Mapping[str, Any], names: list[str]) -> None:
    present = {str(node.get("node_id")) for node in graph.get("nodes", [])}
    for name in names:
        if name not in present:
            raise UnknownFeature(f'The graph has no node "{name}".')


def report_page(folder: WorkFolder, slug: str, microscope: Microscope | None) -> str:
    """One self-contained HTML page of a kept graph."""
    from thoughtscope.reports import build_report

    graph = graph_with_labels(folder, slug)
    bank = None if microscope is None else microscope.bank
    return build_report(graph, bank=bank).html


# --- features and labels ---------------------------------------------------------------------------------------------


def feature(microscope: Microscope, folder: WorkFolder, layer: int, index: int) -> dict[str, Any]:
    """What is known of a feature, with the label that a person gave it. Raises `UnknownFeature`."""
    _require_feature(microscope, layer, index)
    label = folder.labels(microscope.dictionary.scan).get(f"{layer}/{index}")
    return payload.feature_json(microscope.bank, layer, index, label=label)


def keep_label(microscope: Microscope, folder: WorkFolder, layer: int, index: int, label: str) -> str:
    """Keeps a person's label; what is kept. Raises `UnknownFeature`."""
    _require_feature(microscope, layer, index)
    return folder.write_label(microscope.dictionary.scan, layer, index, label)


def viewer_feature(microscope: Microscope, folder: WorkFolder, scan: str, number: int) -> dict[str, Any]:
    """A feature by the Cantor number that graph files carry. Raises `UnknownFeature`."""
    known = {microscope.dictionary.scan, re.sub(r"[^A-Za-z0-9_.-]+", "-", microscope.model.name).strip("-.")}
    if scan not in known:
        raise UnknownFeature(describe_choices(scan, sorted(known), what="set of features on this server"))
    layer, index = payload.cantor_unpair(number)
    return feature(microscope, folder, layer, index)


def _require_feature(microscope: Microscope, layer: int, index: int) -> None:
    microscope.dictionary.check_feature(str(layer), index)


# --- interventions ---------------------------------------------------------------------------------------------------


def intervene(microscope: Microscope, folder: WorkFolder, request: InterveneRequest) -> dict[str, Any]:
    """Carries out the edits on the graph's own prompt. Raises `InvalidPlan`, `UnknownFeature`, `NoModel`."""
    from thoughtscope import interventions

    graph = payload.graph_of(folder.read_graph(request.slug))
    check_same_model(microscope, graph)
    tokens = tokens_of(microscope, graph.prompt)
    check_same_tokens(tokens, graph)
    plan = plan_of(graph, request.edits, request.attention)
    if tokens.ids.shape[1] + request.max_new_tokens > microscope.model.max_positions:
        raise LimitExceeded(
            f"The model reads {microscope.model.max_positions} tokens at most; ask for fewer new ones."
        )
    answer = max(graph.targets, key=lambda target: target.probability, default=None)
    outcome = interventions.intervene(
        microscope.model,
        microscope.dictionary,
        tokens,
        plan,
        answer=None if answer is None else answer.vocab_id,
        max_new_tokens=request.max_new_tokens,
    )
    labels = folder.labels(microscope.dictionary.scan)
    return payload.outcome_json(outcome, graph, bank=microscope.bank, labels=labels)


def plan_of(graph: Graph, edits: list[EditRequest], attention: Attention) -> Plan:
    """The plan for a list of edits; no edit at all is the empty plan, which changes nothing."""
    from thoughtscope import interventions

    if not edits:
        return interventions.Plan(edits=(), attention=attention)
    plans = [
        interventions.plan(
            graph,
            [node_of(graph, name) for name in edit.nodes],
            attention=attention,
            **operation(edit.op, edit.value),
        )
        for edit in edits
    ]
    whole = plans[0]
    for part in plans[1:]:
        whole = whole | part
    return whole if len(plans) == 1 else whole.predicted(graph)


def operation(op: str, value: float | None) -> dict[str, Any]:
    """The keyword of `plan` for an edit. Raises `InvalidPlan` when a value is missing or too much."""
    if op == "ablate":
        return {"ablate": True}
    if value is None or not math.isfinite(value):
        raise InvalidPlan(f'"{op}" needs a value.')
    return {op: value}


def node_of(graph: Graph, name: str) -> NodeId:
    """A node by the name that the graph file gives it (`2_310_9`) or by its own (`feature:2:9:310`)."""
    node = NodeId.parse(name) if ":" in name else payload.node_of_file_id(name, graph)
    graph.find(node)
    return node


def check_same_model(microscope: Microscope, graph: Graph) -> None:
    """Refuses to test a graph of another model or dictionary: its features would be other features."""
    ours = (microscope.model.name, microscope.dictionary.scan)
    if (graph.model_name or ours[0], graph.scan or ours[1]) != ours:
        raise NoModel(
            f'The graph was made with {graph.model_name} and "{graph.scan}"; loaded are {ours[0]} and "{ours[1]}". '
            "Load those to test this graph."
        )


def check_same_tokens(tokens: Tokens, graph: Graph) -> None:
    """Refuses a graph whose prompt this tokenizer cuts differently: positions would name other tokens."""
    ids = tuple(int(token) for token in tokens.ids[0])
    if graph.token_ids and ids != tuple(graph.token_ids):
        raise NoModel(
            "This model's tokenizer cuts the graph's prompt differently, so its positions do not fit."
        )
