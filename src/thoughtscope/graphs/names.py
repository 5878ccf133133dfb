"""Names in graph files: ids of nodes, the types of nodes, and the one number that stands for a feature.

feature   LAYER_INDEX_POSITION          error   LAYER_-1_POSITION, which no feature can have
token     E_VOCABULARYID_POSITION       logit   LAYERS+1_VOCABULARYID_POSITION
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from thoughtscope.core.errors import UnknownFeature
from thoughtscope.core.ids import NodeId, NodeKind
from thoughtscope.graphs.graph import ERROR, FEATURE, LOGIT, TOKEN, Graph

TYPE_NAMES = {
    FEATURE: "cross layer transcoder",
    ERROR: "mlp reconstruction error",
    TOKEN: "embedding",
    LOGIT: "logit",
}
"""What every viewer's files call the kinds of nodes; a feature's name is the same whatever the dictionary's kind."""


def file_ids(graph: Graph) -> list[str]:
    """The id of every node in graph files."""
    form = {
        FEATURE: "{layer}_{index}_{position}",
        ERROR: "{layer}_-1_{position}",
        TOKEN: "E_{index}_{position}",
        LOGIT: f"{graph.n_layers + 1}_{{index}}_{{position}}",
    }
    columns = zip(
        graph.kind.tolist(), graph.layer.tolist(), graph.index.tolist(), graph.position.tolist(), strict=True
    )
    return [
        form[kind].format(layer=layer, index=index, position=position)
        for kind, layer, index, position in columns
    ]


def error_file_id(layer: int, position: int) -> str:
    """The id of an error node."""
    return f"{layer}_-1_{position}"


def feature_file_id(node: NodeId) -> str:
    """The id of a feature node: the inverse of `node_of_file_id`."""
    return f"{node.layer}_{node.index}_{node.position}"


def feature_of_file_id(name: str) -> tuple[int, int, int] | None:
    """`2_310_9` → layer 2, index 310, position 9; None for another kind of name."""
    match = re.fullmatch(r"([0-9]{1,5})_([0-9]{1,10})_([0-9]{1,9})", name)
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


def feature_key(node: Mapping[str, Any]) -> str | None:
    """`layer/index` of a feature node in a graph file; None for other nodes."""
    if node.get("feature_type") != TYPE_NAMES[FEATURE]:
        return None
    place = feature_of_file_id(str(node.get("node_id", "")))
    return None if place is None else f"{place[0]}/{place[1]}"
