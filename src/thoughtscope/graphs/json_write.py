"""`write_json`: one file that Anthropic's viewer, circuit-tracer's server and Neuronpedia take unchanged.

What each of them stumbles over, and so is done here: node ids and script ids are unique and the same (one
viewer pins by the one, two by the other); an error's id cannot be a feature's; a logit's label holds its token
in quotes and `(p=…)`; `qParams` holds lists and texts, never null; each embedding has a `feature` of its own.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError
from thoughtscope.core.files import atomic_write_bytes
from thoughtscope.core.ids import feature_number, plain_name
from thoughtscope.core.parsing import JsonLimits
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN, Graph
from thoughtscope.graphs.influence import cumulative_influence
from thoughtscope.graphs.names import TYPE_NAMES, file_ids

MAX_BYTES = JsonLimits.size
MAX_NODES = 200_000
MAX_LINKS = 5_000_000
"""What a graph file may have, for writing as for reading: what is made here can be read here."""
EXTRAS_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def write_json(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    scan: str | None = None,
    slug: str | None = None,
    node_threshold: float = 1.0,
    feature_base_url: str | None = None,
) -> Path:
    """Writes the graph as one JSON file, whose name is its slug unless one is given; see `graph_to_json`. Atomic."""
    slug = slug or plain_name(Path(path).stem, 100) or None
    obj = graph_to_json(
        graph, scan=scan, slug=slug, node_threshold=node_threshold, feature_base_url=feature_base_url
    )
    return write_text(obj, path)


def write_text(obj: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Writes a graph file's content, making its folder. Atomic. Raises `LimitExceeded` for what could not be read."""
    path = Path(path)
    text = json.dumps(obj, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    data = text.encode("utf-8", "replace")
    if len(data) > MAX_BYTES:
        raise LimitExceeded(
            f"{path} would have {len(data):,} bytes; a graph file may have {MAX_BYTES:,}. Prune it first."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path, data)
    return path


def graph_to_json(
    graph: Graph,
    *,
    scan: str | None = None,
    slug: str | None = None,
    node_threshold: float = 1.0,
    feature_base_url: str | None = None,
    extras: bool = True,
) -> dict[str, Any]:
    """The graph as an object of the shared format; `graph_from_json` is its inverse.

    - `scan`: the model's name unless given, because Neuronpedia knows models only; circuit-tracer finds feature
      examples when it is the dictionary's repository.
    - `slug`: the graph's name in viewers; letters, digits, `_`, `.` and `-`. Made from the prompt unless given.
    - `node_threshold`: where the viewers' pruning slider starts: nodes up to that share of the influence show.
    - `feature_base_url`: where `{feature}.json` with examples lies, for Neuronpedia.
    - `extras`: also what only this package reads: scores, certificate, labels, provenance, biases.

    Raises `ThoughtscopeError` for a slug or threshold that viewers would refuse, `LimitExceeded` for a graph that could
    not be read again.
    """
    for what, number, limit in (("nodes", len(graph), MAX_NODES), ("links", graph.edges.nnz, MAX_LINKS)):
        if number > limit:
            raise LimitExceeded(
                f"The graph has {number:,} {what}; a file may have {limit:,}. Prune it first."
            )
    if not 0 < node_threshold <= 1:
        raise ThoughtscopeError(f"node_threshold is a share, over 0 and up to 1; got {node_threshold}.")
    if slug is not None and not _NAME.fullmatch(slug):
        raise ThoughtscopeError(f"A slug has letters, digits, _, . and - only; got {slug!r}.")
    ids = file_ids(graph)
    targets, sources = _ends(graph)
    metadata = _metadata(graph, scan, slug, node_threshold, feature_base_url)
    return {
        "metadata": metadata | ({"thoughtscope": _extras(graph, ids)} if extras else {}),
        "qParams": {
            "pinnedIds": _pinned(graph, ids),
            "supernodes": [
                [node.label, *(ids[graph.find(member)] for member in node.members)]
                for node in graph.supernodes
            ],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": _nodes(graph, ids, extras),
        "links": [
            {"source": ids[source], "target": ids[target], "weight": weight}
            for source, target, weight in zip(sources, targets, short_floats(graph.edges.data), strict=True)
        ],
    }


def short_floats(values: Float[np.ndarray, " value"]) -> list[float]:
    """Float32 numbers as the shortest decimals that give them back."""
    return [float(str(value)) for value in np.asarray(values, dtype=np.float32)]


def _ends(graph: Graph) -> tuple[list[int], list[int]]:
    targets = np.repeat(np.arange(len(graph)), np.diff(graph.edges.indptr))
    return targets.tolist(), graph.edges.indices.tolist()


def _pinned(graph: Graph, ids: list[str]) -> list[str]:
    """Members of supernodes and the targets: what the subgraph view starts from."""
    members = [graph.find(member) for node in graph.supernodes for member in node.members]
    if not members:
        return []
    return [ids[node] for node in dict.fromkeys([*members, *(target.node for target in graph.targets)])]


def _metadata(
    graph: Graph, scan: str | None, slug: str | None, threshold: float, base_url: str | None
) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        generator = {"name": "thoughtscope", "version": version("thoughtscope")}
    except PackageNotFoundError:  # run from a checkout
        generator = {"name": "thoughtscope", "version": "0"}
    result: dict[str, Any] = {
        "slug": slug or plain_name(graph.heading, 60) or "graph",
        "scan": scan or plain_name(graph.model_name, 100) or "model",
        "transcoder_list": [],
        "prompt_tokens": list(graph.tokens),
        "prompt": graph.prompt,
        "node_threshold": threshold,
        "schema_version": 1,
        "info": {"generator": generator, "create_time_ms": int(time.time() * 1000)},
    }
    pruning = graph.provenance.get("pruning")
    if isinstance(pruning, dict) and {"node_mass", "edge_mass"} <= pruning.keys():
        result["pruning_settings"] = {
            "node_threshold": pruning["node_mass"],
            "edge_threshold": pruning["edge_mass"],
        }
    if base_url is not None:
        result["feature_details"] = {"feature_json_base_url": base_url}
    return result


def _extras(graph: Graph, ids: list[str]) -> dict[str, Any]:
    """What only this package reads, under `metadata.thoughtscope`."""
    return {
        "version": EXTRAS_VERSION,
        "n_layers": graph.n_layers,
        "model": graph.model_name,
        "dictionary": graph.dictionary_name,
        "scan": graph.scan,
        "token_ids": list(graph.token_ids),
        "targets": [
            {"id": ids[target.node]} | {key: value for key, value in asdict(target).items() if key != "node"}
            for target in graph.targets
        ],
        "scores": asdict(graph.scores),
        "certificate": None if graph.certificate is None else asdict(graph.certificate),
        "labels": dict(graph.labels),
        "provenance": dict(graph.provenance),
    } | ({"turns": [turn.to_json() for turn in graph.turns]} if graph.turns else {})


def _nodes(graph: Graph, ids: list[str], extras: bool) -> list[dict[str, Any]]:
    share = short_floats(cumulative_influence(graph))
    bias, absent = short_floats(graph.bias), short_floats(graph.absent)
    value = [number if number == number else None for number in short_floats(graph.value)]  # NaN: unknown
    target_of = {target.node: target for target in graph.targets}
    nodes = []
    for row, name in enumerate(ids):
        kind, layer, index = int(graph.kind[row]), int(graph.layer[row]), int(graph.index[row])
        position, target = int(graph.position[row]), target_of.get(row)
        is_logit = kind == LOGIT
        nodes.append(
            {
                "node_id": name,
                "feature": _number(kind, layer, index, position),
                "layer": {TOKEN: "E", LOGIT: str(graph.n_layers + 1)}.get(kind, str(layer)),
                "ctx_idx": position,
                "feature_type": TYPE_NAMES[kind],
                "token_prob": target.probability if is_logit and target else 0.0,
                "is_target_logit": bool(is_logit and target and target is graph.targets[0]),
                "run_idx": 0,
                "reverse_ctx_idx": 0,
                "jsNodeId": name,
                "clerp": _label(graph, row, kind, position),
                "influence": None if is_logit else share[row],
                "activation": value[row] if kind == FEATURE else None,
            }
            | ({"value": value[row], "bias": bias[row], "absent": absent[row]} if extras else {})
        )
    return nodes


def _number(kind: int, layer: int, index: int, position: int) -> int:
    """What the file calls `feature`: positions tell embeddings apart."""
    if kind == FEATURE:
        return feature_number(layer, index)
    return {ERROR: -1, TOKEN: position, LOGIT: index}[kind]


def _label(graph: Graph, row: int, kind: int, position: int) -> str:
    own = graph.label(row)
    token = _quoted(graph.tokens[position]) if position < len(graph.tokens) else ""
    if kind == ERROR:
        return own or f'Err: mlp "{token}"'
    if kind == TOKEN:
        return f'Emb: "{token}"'
    if kind == FEATURE:
        return own or ""
    target = next((target for target in graph.targets if target.node == row), None)
    text, probability = (target.text, target.probability) if target else (f"#{int(graph.index[row])}", 0.0)
    return f'Output "{_quoted(text)}" (p={probability:.3f})'


def _quoted(token: str) -> str:
    """A token that can stand between quotes: viewers split labels at `"` and at `(p=`."""
    return token.replace('"', "\u201d").replace("(p=", "( p=")
