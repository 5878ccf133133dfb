"""Nouns as the JSON that the page, the report and `--json` share; the one place that knows both shapes."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import InvalidGraph, ThoughtscopeError, UnknownFeature, describe_choices
from thoughtscope.core.files import atomic_write_text
from thoughtscope.core.ids import NodeId, NodeKind

if TYPE_CHECKING:
    from thoughtscope.atlas import FeatureBank
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.graphs import Graph
    from thoughtscope.interventions import Outcome
    from thoughtscope.models import Model

FEATURE_TYPE = "cross layer transcoder"
"""What every viewer's files call a feature, whatever the dictionary's kind."""


# --- graphs ----------------------------------------------------------------------------------------------------------


def graph_json(graph: Graph, *, slug: str | None = None) -> dict[str, Any]:
    """The graph file's content."""
    from thoughtscope.graphs import graph_to_json

    return graph_to_json(graph, slug=slug)


def graph_of(file: Any) -> Graph:
    """The graph that a file's content describes. Raises `InvalidGraph`."""
    from thoughtscope.graphs import graph_from_json

    return graph_from_json(file)


def parse_graph_text(text: bytes | str) -> Any:
    """JSON without NaN, infinities and bottomless nesting. Raises `InvalidGraph`."""
    from thoughtscope.graphs.json_read import parse_json

    return parse_json(text)


def read_graph_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a graph file of any tool, checked. Raises `InvalidGraph` naming the file."""
    try:
        file = parse_graph_text(Path(path).read_bytes())
        check_graph(file)
    except InvalidGraph as error:
        raise InvalidGraph(f"{path}: {error}") from None
    return file


def check_graph(file: Any) -> None:
    """Raises `InvalidGraph` for what cannot be read as a graph, naming the first offending field.

    More lenient than `validate_json`: files of other tools break rules that only matter to yet other tools.
    """
    graph_of(file)


def write_graph_file(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes the graph file; its slug is the file's name."""
    from thoughtscope.graphs import write_json

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(graph, path)


GRAPH_FLAVOURS = ("thoughtscope", "circuit-tracer", "neuronpedia", "anthropic")
"""All of them take the same file; the last three without what only this package writes into it."""
_OURS = ("value", "bias", "absent")


def convert_graph(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    flavour: str,
    scan: str | None,
    slug: str | None,
) -> None:
    """Rewrites a graph file of any tool for another. `scan` names the model (for Neuronpedia) or the dictionary (for
    circuit-tracer) as the other place knows it. Raises `InvalidGraph`, and `ThoughtscopeError` for an unknown flavour.
    """
    from thoughtscope.graphs import graph_to_json, read_json, validate_json

    if flavour not in GRAPH_FLAVOURS:
        raise ThoughtscopeError(describe_choices(flavour, GRAPH_FLAVOURS, what="graph format"))
    before = read_graph_file(source)
    kept = before["metadata"]
    file = graph_to_json(
        read_json(source), slug=slug or _plain(kept.get("slug")), scan=scan or _plain(kept.get("scan"))
    )
    if flavour != "thoughtscope":
        del file["metadata"]["thoughtscope"]
        file["nodes"] = [
            {key: value for key, value in node.items() if key not in _OURS} for node in file["nodes"]
        ]
    validate_json(file)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(target, json.dumps(file, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _plain(name: Any) -> str | None:
    return name if isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name) else None


def scan_of(file: Mapping[str, Any]) -> str:
    """The dictionary whose features a file shows: under this name people's labels are kept."""
    metadata = file.get("metadata", {})
    about = metadata.get("thoughtscope")
    own = about.get("scan") if isinstance(about, Mapping) else None
    return str(own or metadata.get("scan") or "")


def relabelled(file: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    """The file with people's labels (`layer/index` → text) in place of its own."""
    if not labels:
        return dict(file)
    nodes = []
    for node in file["nodes"]:
        key = feature_key(node)
        nodes.append({**node, "clerp": labels[key]} if key is not None and key in labels else node)
    return {**file, "nodes": nodes}


def feature_key(node: Mapping[str, Any]) -> str | None:
    """`layer/index` of a feature node in a graph file; None for other nodes."""
    if node.get("feature_type") != FEATURE_TYPE:
        return None
    place = feature_of_file_id(str(node.get("node_id", "")))
    return None if place is None else f"{place[0]}/{place[1]}"


def feature_of_file_id(name: str) -> tuple[int, int, int] | None:
    """`2_310_9` → layer 2, index 310, position 9; None for another kind of name."""
    match = re.fullmatch(r"([0-9]{1,4})_([0-9]{1,9})_([0-9]{1,7})", name)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def node_of_file_id(name: str, graph: Graph) -> NodeId:
    """The feature that a graph file's node name means. Raises `UnknownFeature`."""
    place = feature_of_file_id(name)
    if place is None or place[0] >= graph.n_layers:
        raise UnknownFeature(
            f'"{name}" does not name a feature of this graph; features are named LAYER_INDEX_POSITION.'
        )
    layer, index, position = place
    return NodeId(NodeKind.FEATURE, position, layer, index)


def file_id_of_node(node: NodeId) -> str:
    """The inverse of `node_of_file_id`."""
    return f"{node.layer}_{node.index}_{node.position}"


def cantor_unpair(number: int) -> tuple[int, int]:
    """The layer and index whose Cantor number this is: `number = (l + i)(l + i + 1)/2 + i`."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    index = number - diagonal * (diagonal + 1) // 2
    return diagonal - index, index


def with_names(file: Mapping[str, Any], model: Model | None, dictionary: Dictionary | None) -> dict[str, Any]:
    """The file with the model's and the dictionary's names where the page's head looks for them."""
    about = dict(file["metadata"].get("thoughtscope") or {})
    if model is not None:
        about.setdefault("model", model.name)
    if dictionary is not None:
        about.setdefault("dictionary", dictionary.name)
    return {**file, "metadata": {**file["metadata"], "thoughtscope": about}} if about else dict(file)


# --- features --------------------------------------------------------------------------------------------------------


def with_bank_labels(graph: Graph, bank: FeatureBank | None) -> Graph:
    """The graph with the bank's labels for features that have none."""
    if bank is None:
        return graph
    labels = {}
    for node in range(len(graph)):
        name = graph.node_id(node)
        if name.kind == NodeKind.FEATURE and graph.label(node) is None:
            assert name.layer is not None and name.index is not None
            label = bank_label(bank, name.layer, name.index)
            if label:
                labels[f"{graph.dictionary_name}/{name.layer}/{name.index}"] = label
    return replace(graph, labels={**labels, **graph.labels})


def bank_label(bank: FeatureBank, layer: int, index: int) -> str | None:
    """A person's label for the feature, else the bank's own."""
    return bank.label(layer, index) or bank.auto_label(layer, index)


def feature_json(
    bank: FeatureBank | None, layer: int, index: int, *, label: str | None = None
) -> dict[str, Any]:
    """What the page shows of a feature; without a bank, its place and its label only."""
    detail: dict[str, Any] = {
        "layer": layer,
        "index": index,
        "examples_quantiles": [],
        "top_logits": [],
        "bottom_logits": [],
    }
    auto = None
    if bank is not None:
        detail.update(bank.detail(layer, index))
        auto = bank.auto_label(layer, index)
        label = label or bank.label(layer, index)
    return {**detail, "layer": layer, "index": index, "label": label or "", "auto_label": auto or ""}


def features_of(file: Mapping[str, Any], bank: FeatureBank | None) -> dict[str, Any]:
    """Every feature of a graph file that the bank knows, by `layer/index`."""
    if bank is None:
        return {}
    keys = dict.fromkeys(key for key in map(feature_key, file["nodes"]) if key is not None)
    found = {}
    for key in keys:
        layer, index = map(int, key.split("/"))
        try:
            found[key] = feature_json(bank, layer, index)
        except UnknownFeature:
            continue  # a graph of another dictionary: its features are not in this bank
    return found


# --- outcomes --------------------------------------------------------------------------------------------------------


def outcome_json(
    outcome: Outcome,
    graph: Graph | None = None,
    *,
    bank: FeatureBank | None = None,
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What an intervention did, as the page shows it.

    `graph` says which features are nodes that the page can point at; `labels` are people's, by `layer/index`.
    """
    present = set() if graph is None else {node for node in graph.node_ids() if node.kind == NodeKind.FEATURE}

    def change(row: Any) -> dict[str, Any]:
        node = NodeId(NodeKind.FEATURE, row.position, int(row.part), row.index)
        label = (labels or {}).get(f"{row.part}/{row.index}")
        if label is None and graph is not None and node in present:
            label = graph.label(graph.find(node))
        if label is None and bank is not None:
            label = bank_label(bank, int(row.part), row.index)
        return {
            "node_id": file_id_of_node(node) if node in present else None,
            "layer": int(row.part),
            "index": row.index,
            "position": row.position,
            "before": row.before,
            "after": row.after,
            "label": label,
        }

    return {
        "before": {"top": _top(outcome.before)},
        "after": {"top": _top(outcome.after)},
        "kl": outcome.kl,
        "answer": outcome.answer,
        "rank_before": outcome.rank_before,
        "rank_after": outcome.rank_after,
        "prediction": _prediction(outcome),
        "feature_changes": [change(row) for row in outcome.feature_changes],
        "generation_before": outcome.generation_before,
        "generation_after": outcome.generation_after,
        "label": outcome.plan.label,
        "attention": outcome.plan.attention,
    }


def _top(distribution: Any) -> list[dict[str, Any]]:
    pairs = zip(distribution.tokens, distribution.probabilities, strict=True)
    return [{"text": text, "probability": probability} for text, probability in pairs]


def _prediction(outcome: Outcome) -> dict[str, Any] | None:
    """Which way the graph says that the answer goes, and whether it went there; None when it says nothing."""
    prediction = outcome.plan.prediction
    change = None if prediction is None else prediction.of(outcome.answer_id)
    if change is None or change == 0:
        return None
    return {
        "direction": "up" if change > 0 else "down",
        "confirmed": outcome.prediction_confirmed,
        "change": change,
    }
