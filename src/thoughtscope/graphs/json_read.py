"""`read_json`: graph files of any tool that writes the shared format, ours included.

Files of others are read for what they are:

- circuit-tracer names the error of layer l `0_l_pos`, which is also the id of feature l of layer 0; `clashes.py` tells
  them apart.
- `bias` nodes become the constant part of their targets. Attention (`lorsa`) features get indices from `LORSA` on, so
  that they cannot be taken for MLP features; their errors join the error node of the layer. Nodes of unknown type get
  indices from `OPAQUE` on, or count as errors where nothing flows into them.
- Labels are data: nothing in them is interpreted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from thoughtscope.core.errors import (
    CorruptArtefact,
    InvalidGraph,
    LimitExceeded,
    ThoughtscopeError,
    UnknownFeature,
)
from thoughtscope.core.files import read_file
from thoughtscope.core.ids import NodeId, place_of_number
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.turns import Turn, check_turns
from thoughtscope.graphs.clashes import distinct
from thoughtscope.graphs.graph import (
    ERROR,
    FEATURE,
    LOGIT,
    TOKEN,
    Certificate,
    Graph,
    Supernode,
    Target,
)
from thoughtscope.graphs.influence import waves
from thoughtscope.graphs.json_write import EXTRAS_VERSION, MAX_BYTES, MAX_LINKS, MAX_NODES
from thoughtscope.graphs.names import TYPE_NAMES, feature_of_file_id
from thoughtscope.graphs.schema import check_schema

MAX_LAYER = 1_000
"""Published models have up to 130 blocks."""
LORSA = 2**28
OPAQUE = 2**29
_BIAS = -2  # a kind of its own while reading

_Key = tuple[int, int, int, int]  # kind, layer, position, index


def read_json(path: str | os.PathLike[str]) -> Graph:
    """Reads a graph file. Its scores are computed anew.

    Raises `InvalidGraph` naming the field for a file that is broken, contradicts itself or runs in a circle,
    `LimitExceeded` for one over 256 MiB, 200,000 nodes or 5,000,000 links.
    """
    return read_both(path)[1]


def checked_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a graph file that can be read as a graph. Raises as `read_json`.

    More lenient than `validate_json`: files of other tools break rules that only matter to yet other tools.
    """
    return read_both(path)[0]


def read_both(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Graph]:
    """A graph file's content and the graph in it. Raises as `read_json`."""
    try:
        content = load_json(path)
        return content, graph_from_json(content)
    except InvalidGraph as error:
        raise InvalidGraph(f"{path}: {error}") from None


def load_json(path: str | os.PathLike[str]) -> Any:
    """The content of a graph file, not yet checked. Raises `InvalidGraph` and `LimitExceeded`."""
    try:
        data = read_file(path, limit=MAX_BYTES)
    except FileNotFoundError as error:
        raise InvalidGraph(f"cannot be read: {error.strerror or error}.") from None
    except CorruptArtefact as error:
        raise InvalidGraph(str(error)) from None
    except LimitExceeded as error:
        raise LimitExceeded(f"{error} Prune it first.") from None
    return parse_json(data)


def parse_json(data: bytes | str) -> Any:
    """The JSON of a graph file, or of a part of one. Raises `InvalidGraph` and `LimitExceeded`; see `strict_json`."""
    return strict_json(data, "The file", error=InvalidGraph)


def graph_from_json(obj: Any) -> Graph:
    """The graph in an object of the shared format. Raises as `read_json`."""
    return graph_and_rows(obj)[0]


def graph_and_rows(obj: Any) -> tuple[Graph, dict[str, int]]:
    """`graph_from_json`, and the row of each node id once the ids are `distinct`; bias nodes have none."""
    obj = distinct(checked(obj))
    extras = obj["metadata"].get("thoughtscope")
    if extras is not None and extras["version"] != EXTRAS_VERSION:
        extras = None  # of another version: what the shared format says is still good
    table = _NodeTable(obj, extras)
    edges, bias = _read_links(obj, table)
    rows = {name: table.row[node.key] for name, node in table.by_id.items() if node.kind != _BIAS}
    return _build(obj, extras, table, edges, bias), rows


def checked(obj: Any) -> dict[str, Any]:
    """A graph file's content once it has the form of one. Raises `InvalidGraph` and `LimitExceeded`."""
    obj = _with_params(obj)
    check_schema(obj)
    for name, limit in (("nodes", MAX_NODES), ("links", MAX_LINKS)):
        if len(obj[name]) > limit:
            raise LimitExceeded(
                f"The file has {len(obj[name]):,} {name}; a graph may have {limit:,}. Prune it first."
            )
    return obj


@dataclass(frozen=True)
class _Read:
    """One node as read, before it has a row."""

    kind: int
    layer: int
    position: int
    index: int
    source: Mapping[str, Any]

    @property
    def key(self) -> _Key:
        return self.kind, self.layer, self.position, self.index


class _NodeTable:
    """Rows for the nodes of a file, in the order of `Graph`, and the way from its ids to them."""

    def __init__(self, obj: Mapping[str, Any], extras: Mapping[str, Any] | None) -> None:
        fed = {link["target"] for link in obj["links"]}
        self.n_layers = extras["n_layers"] if extras else _count_layers(obj)
        self.read = [
            self._node(node, number, obj, node["node_id"] in fed) for number, node in enumerate(obj["nodes"])
        ]
        places: dict[_Key, int] = {}
        for number, node in enumerate(self.read):
            if node.key in places and node.kind not in (ERROR, _BIAS):
                raise InvalidGraph(
                    f"nodes[{number}].node_id: the node is the same as nodes[{places[node.key]}] "
                    f"({node.source['node_id']!r})."
                )
            places.setdefault(node.key, number)
        # Outputs stay in the order of the file, which is that of their probabilities.
        ordered = sorted(
            (node for node in places if node[0] != _BIAS),
            key=lambda key: (LOGIT, 0, 0, places[key]) if key[0] == LOGIT else key,
        )
        self.row: dict[_Key, int] = {key: row for row, key in enumerate(ordered)}
        self.nodes = [self.read[places[key]] for key in ordered]
        self.by_id: dict[str, _Read] = {}
        for number, node in enumerate(self.read):
            name = node.source["node_id"]
            if name in self.by_id:
                raise InvalidGraph(f'nodes[{number}].node_id: "{name}" is the id of another node too.')
            self.by_id[name] = node

    def _node(self, node: Mapping[str, Any], number: int, obj: Mapping[str, Any], fed: bool) -> _Read:
        position, kind = node["ctx_idx"], node["feature_type"]
        if position >= max(len(obj["metadata"]["prompt_tokens"]), 1):
            raise InvalidGraph(
                f"nodes[{number}].ctx_idx: position {position} of {len(obj['metadata']['prompt_tokens'])} tokens."
            )
        if kind == "embedding":
            match = re.fullmatch(r"E_(\d{1,9})_\d+", node["node_id"])
            return _Read(TOKEN, -1, position, int(match[1]) if match else -1, node)
        if kind == "logit":
            return _Read(LOGIT, self.n_layers, position, _logit_index(node, number), node)
        layer = _layer(node, number)
        if kind == "bias":
            return _Read(_BIAS, layer, position, number, node)
        if "error" in kind or (kind not in _FEATURES and not fed):
            return _Read(ERROR, layer, position, -1, node)
        index = _feature_index(node, layer, obj["metadata"].get("schema_version"))
        if kind == "lorsa" and index is not None and index < LORSA:
            index += LORSA
        elif index is None or index >= LORSA or kind not in _FEATURES:
            # Already ours on a second trip; else a number of its own, which stays within int32.
            index = index if index is not None and LORSA <= index < 2**31 else OPAQUE + number
        return _Read(FEATURE, layer, position, index, node)


_FEATURES = ("cross layer transcoder", "transcoder", "unexplored node", "lorsa")


def _with_params(obj: Any) -> Any:
    """`qParams` as lists and texts: circuit-tracer's "Save" leaves texts where lists belong, and nulls."""
    if not isinstance(obj, dict) or not isinstance(obj.get("qParams", {}), dict):
        return obj
    params = dict(obj.get("qParams", {}))
    pinned, supernodes = params.get("pinnedIds"), params.get("supernodes")
    if pinned is None or isinstance(pinned, str):
        params["pinnedIds"] = [name for name in (pinned or "").split(",") if name]
    if supernodes is None or isinstance(supernodes, str):
        params["supernodes"] = parse_json(supernodes) if supernodes else []
    for name in ("linkType", "clickedId", "sg_pos"):
        if params.get(name) is None:
            params.pop(name, None)
    return {**obj, "qParams": params}


def _count_layers(obj: Mapping[str, Any]) -> int:
    """Layers of the model as far as the file shows: circuit-tracer's logits stand at `n_layers + 1`."""
    layers = [_layer(node, number) for number, node in enumerate(obj["nodes"]) if _in_a_layer(node)]
    highest = max(layers, default=0) + 1
    logits = [node for node in obj["nodes"] if node["feature_type"] == "logit"]
    if obj["metadata"].get("schema_version") == 1 and logits and str(logits[0]["layer"]).isdecimal():
        stated = int(str(logits[0]["layer"])[:9]) - 1
        return stated if highest <= stated <= MAX_LAYER else highest
    return highest


def _in_a_layer(node: Mapping[str, Any]) -> bool:
    return node["feature_type"] not in ("embedding", "logit")


def _layer(node: Mapping[str, Any], number: int) -> int:
    text = str(node["layer"])
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= MAX_LAYER:
        return int(text)
    raise InvalidGraph(f"nodes[{number}].layer: expected a layer from 0 to {MAX_LAYER}, got {text[:40]!r}.")


def _feature_index(node: Mapping[str, Any], layer: int, schema_version: int | None) -> int | None:
    """The feature's index in its layer: from the id, from Cantor's pairing, or `feature` itself; None without any."""
    place = feature_of_file_id(node["node_id"])
    if place and place[0] == layer and place[2] == node["ctx_idx"]:
        return place[1]
    feature = node["feature"]
    if feature is None or feature < 0:
        return None
    if schema_version == 1:
        of_layer, index = place_of_number(feature)
        if of_layer == layer:
            return index
    return feature


def _logit_index(node: Mapping[str, Any], number: int) -> int:
    match = re.fullmatch(r"[A-Za-z0-9]+_(\d{1,9})_\d+", node["node_id"])
    index = int(match[1]) if match else node["feature"]
    if index is None or not 0 <= index < 2**31:
        raise InvalidGraph(
            f"nodes[{number}].feature: a logit needs its vocabulary id; got {node['feature']}."
        )
    return index


def _read_links(obj: Mapping[str, Any], table: _NodeTable) -> tuple[sp.csr_array, np.ndarray]:
    """Edges between rows, and what bias nodes add to their targets."""
    size = len(table.nodes)
    bias = np.zeros(size, dtype=np.float64)
    targets, sources, weights = [], [], []
    linked: set[tuple[str, str]] = set()
    for number, link in enumerate(obj["links"]):
        ends = link["source"], link["target"]
        for name, end in zip(("source", "target"), ends, strict=True):
            if end not in table.by_id:
                raise InvalidGraph(f'links[{number}].{name}: there is no node "{end}".')
        if ends in linked:
            raise InvalidGraph(f'links[{number}]: a second link from "{ends[0]}" to "{ends[1]}".')
        linked.add(ends)
        source, target = table.by_id[ends[0]], table.by_id[ends[1]]
        if target.kind not in (FEATURE, LOGIT):
            raise InvalidGraph(
                f'links[{number}].target: "{ends[1]}" is a {target.source["feature_type"]} node, '
                "into which nothing flows."
            )
        if source.kind == LOGIT:
            raise InvalidGraph(f'links[{number}].source: "{ends[0]}" is a logit, from which nothing flows.')
        if source.kind == _BIAS:
            bias[table.row[target.key]] += link["weight"]
        elif link["weight"]:
            targets.append(table.row[target.key])
            sources.append(table.row[source.key])
            weights.append(link["weight"])
    with np.errstate(over="ignore"):  # refused below
        data = np.array(weights, dtype=np.float32)
    edges = sp.coo_array((data, (targets, sources)), shape=(size, size)).tocsr()
    edges.sum_duplicates()
    if not np.isfinite(edges.data).all():
        raise InvalidGraph("links: a weight is too large for a number in single precision.")
    _refuse_circles(edges)
    _refuse_long_paths(edges, table.n_layers)
    return edges, bias.astype(np.float32)


def _refuse_circles(edges: sp.csr_array) -> None:
    if edges.diagonal().any():
        raise InvalidGraph("links: a node has a link to itself.")
    count, _ = sp.csgraph.connected_components(edges, directed=True, connection="strong")
    if count != edges.shape[0]:
        raise InvalidGraph("links: they run in a circle; an attribution graph flows one way.")


def _refuse_long_paths(edges: sp.csr_array, n_layers: int) -> None:
    """Influence takes a step for each edge of the longest path, so that a long chain would take very long.

    A path meets a layer at most twice: at a feature of attention and at one of the MLP.
    """
    limit = 2 * n_layers + 4
    for number, _ in enumerate(waves(edges), start=1):
        if number > limit:
            raise InvalidGraph(
                f"links: a path is longer than {limit - 1} links, which {n_layers} layers do not allow."
            )


def _build(
    obj: Mapping[str, Any],
    extras: Mapping[str, Any] | None,
    table: _NodeTable,
    edges: sp.csr_array,
    bias: np.ndarray,
) -> Graph:
    metadata, nodes = obj["metadata"], table.nodes
    given = [node.source for node in nodes]
    token_ids = extras["token_ids"] if extras else _token_ids(metadata, nodes)
    if len(token_ids) != len(metadata["prompt_tokens"]):
        raise InvalidGraph(
            f"metadata.thoughtscope.token_ids: {len(token_ids)} for {len(metadata['prompt_tokens'])} tokens."
        )
    graph = Graph(
        prompt=metadata["prompt"],
        tokens=tuple(metadata["prompt_tokens"]),
        token_ids=tuple(token_ids),
        turns=_turns(extras, len(token_ids)),
        model_name=extras["model"] if extras else metadata["scan"],
        dictionary_name=extras["dictionary"] if extras else metadata["scan"],
        scan=extras["scan"] if extras else metadata["scan"],
        n_layers=table.n_layers,
        kind=np.array([node.kind for node in nodes], dtype=np.uint8),
        layer=np.array([node.layer for node in nodes], dtype=np.int32),
        position=np.array([node.position for node in nodes], dtype=np.int32),
        index=np.array([node.index for node in nodes], dtype=np.int32),
        value=_numbers(given, "value", "activation", default=np.nan),
        edges=edges,
        bias=_numbers(given, "bias") + bias,
        absent=_numbers(given, "absent"),
        targets=_targets(extras, table),
        certificate=_certificate(extras),
        provenance=_provenance(obj, extras, table),
    )
    return replace(graph, labels=_labels(graph, extras, given), supernodes=_supernodes(graph, obj, table))


def _numbers(nodes: list[Mapping[str, Any]], *names: str, default: float = 0.0) -> np.ndarray:
    """The first of `names` that each node has, in single precision."""
    column = [next((node[name] for name in names if node.get(name) is not None), default) for node in nodes]
    with np.errstate(over="ignore"):
        values = np.array(column, dtype=np.float64).astype(np.float32)
    if np.isinf(values).any():
        raise InvalidGraph(f"nodes: {names[0]} holds a number too large for single precision.")
    return values


def _token_ids(metadata: Mapping[str, Any], nodes: list[_Read]) -> list[int]:
    ids = [-1] * len(metadata["prompt_tokens"])
    for node in nodes:
        if node.kind == TOKEN and node.position < len(ids):
            ids[node.position] = node.index
    return ids


def _targets(extras: Mapping[str, Any] | None, table: _NodeTable) -> tuple[Target, ...]:
    """The targets that the file states, else its logits, the likeliest first."""
    if extras and "targets" in extras:
        stated = []
        for number, target in enumerate(extras["targets"]):
            path = f"metadata.thoughtscope.targets[{number}]"
            found = table.by_id.get(target["id"])
            if found is None or found.kind not in (FEATURE, LOGIT):
                raise InvalidGraph(f'{path}.id: "{target["id"]}" is no logit or feature of this file.')
            if not 0 <= target["weight"] <= 1 or not 0 <= target["probability"] <= 1:
                raise InvalidGraph(f"{path}: weight and probability lie between 0 and 1.")
            fields = {name: target[name] for name in ("text", "vocab_id", "probability", "weight")}
            stated.append(Target(**fields, node=table.row[found.key]))
        return tuple(stated)
    logits = [(_logit_text(node.source), node) for node in table.nodes if node.kind == LOGIT]
    targets = [
        Target(text=text, vocab_id=node.index, probability=p, weight=p, node=table.row[node.key])
        for (text, p), node in logits
    ]
    return tuple(sorted(targets, key=lambda target: -target.probability))


def _logit_text(node: Mapping[str, Any]) -> tuple[str, float]:
    """Token and probability of a logit: `Output "tok" (p=0.396)`, ` tok (p=0.396)`, or `token_prob`."""
    label, _, rest = node["clerp"].rpartition("(p=")
    quoted = re.search(r'"(.*)"', label, flags=re.DOTALL)
    text = quoted[1] if quoted else (label or node["clerp"]).strip()
    probability = node.get("token_prob")
    if not probability:
        match = re.match(r"\s*([0-9.]{1,20}(?:[eE]-?\d{1,3})?)\s*\)", rest)
        try:
            probability = float(match[1]) if match else 0.0
        except ValueError:
            probability = 0.0
    return text, min(max(float(probability), 0.0), 1.0)


def _turns(extras: Mapping[str, Any] | None, length: int) -> tuple[Turn, ...]:
    """Who speaks at which tokens, if the file says so."""
    try:
        turns = tuple(map(Turn.from_json, (extras or {}).get("turns", ())))
        check_turns(turns, length)
    except ThoughtscopeError as error:
        raise InvalidGraph(f"metadata.thoughtscope.turns: {error}") from None
    return turns


def _certificate(extras: Mapping[str, Any] | None) -> Certificate | None:
    stated = (extras or {}).get("certificate")
    if stated is None:
        return None
    # A program without whole numbers of its own may have written 0 for 0.0.
    shares = {name: float(stated[name]) for name in ("frontier_mass", "bound", "dropped_mass")}
    return Certificate(expanded=stated["expanded"], active=stated["active"], **shares)


def _provenance(
    obj: Mapping[str, Any], extras: Mapping[str, Any] | None, table: _NodeTable
) -> dict[str, Any]:
    """Ours as written; of other tools' files who made them, and the types of nodes that have no place in a graph."""
    if extras:
        return dict(extras.get("provenance", {}))
    types = {
        node.source["node_id"]: node.source["feature_type"]
        for node in table.read
        if node.source["feature_type"] not in TYPE_NAMES.values()
    }
    facts = {name: obj["metadata"][name] for name in ("slug", "info") if name in obj["metadata"]}
    return {"read_from": facts} | ({"node_types": types} if types else {})


def _labels(graph: Graph, extras: Mapping[str, Any] | None, given: list[Mapping[str, Any]]) -> dict[str, str]:
    """Labels that the file keeps for us, overridden by what another viewer wrote on a node since."""
    labels = {}
    for name, label in (extras or {}).get("labels", {}).items():
        if not isinstance(label, str):
            raise InvalidGraph(f"metadata.thoughtscope.labels: the label of {name!r} is no text.")
        labels[name] = label
    labelled = replace(graph, labels=labels)
    for row in graph.rows("feature").tolist():
        label = given[row]["clerp"]
        if label and label != labelled.label(row):
            labels[str(graph.node_id(row))] = label
    return labels


def _supernodes(graph: Graph, obj: Mapping[str, Any], table: _NodeTable) -> tuple[Supernode, ...]:
    """Supernodes with members that the file has; a node stays in the first that names it."""
    taken: set[NodeId] = set()
    result: dict[str, list[NodeId]] = {}
    for entry in obj["qParams"]["supernodes"]:
        if not entry:
            continue
        label, *names = entry
        members = result.setdefault(label or "group", [])
        for name in names:
            found = table.by_id.get(name)
            try:
                member = None if found is None or found.kind == _BIAS else graph.node_id(table.row[found.key])
            except UnknownFeature:
                member = None
            if member is not None and member not in taken:
                taken.add(member)
                members.append(member)
    return tuple(Supernode(label=label, members=tuple(m)) for label, m in result.items() if m)
