"""`Graph`: an attribution graph of one prompt, as a node table and sparse edges."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from thoughtscope.core.errors import CorruptArtefact, UnknownFeature, describe_choices
from thoughtscope.core.ids import FeatureId, NodeId, NodeKind
from thoughtscope.core.store import load_artefact, save_artefact
from thoughtscope.core.turns import Turn, check_turns, heading
from thoughtscope.graphs.influence import Scores, influence, score

KINDS = (NodeKind.FEATURE, NodeKind.ERROR, NodeKind.TOKEN, NodeKind.LOGIT)
FEATURE, ERROR, TOKEN, LOGIT = range(4)  # codes in `Graph.kind`, and the order of the nodes

_ARRAYS = {
    "kind": np.uint8,
    "layer": np.int32,
    "position": np.int32,
    "index": np.int32,
    "value": np.float32,
    "bias": np.float32,
    "absent": np.float32,
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the graph explains: a next token, a difference of two, or a feature's activation."""

    text: str
    vocab_id: int | None
    """The token; None for a difference or a feature."""
    probability: float
    """The model's probability of the token (for a difference: of its first token; for a feature: 1)."""
    weight: float
    """The influence that starts at this target: the probability of a token, else 1."""
    node: int
    """The target's row in the node table."""


@dataclass(frozen=True, kw_only=True)
class Supernode:
    """Nodes that a person reads as one."""

    label: str
    members: tuple[NodeId, ...]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What the full graph leaves out. Masses are shares of all influence that starts at the targets."""

    expanded: int
    """Features whose incoming edges were computed."""
    active: int
    """Features that are active on the prompt and can reach a target."""
    frontier_mass: float
    """Influence that arrives at features that were not expanded, and goes no further."""
    bound: float
    """No feature that was left out can have more influence than this, however it is continued."""
    dropped_mass: float
    """Influence lost with edges under the floor."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Nodes in the order features (layer, position, index), errors (layer, position), tokens, logits.

    `edges[target, source]` is the signed direct effect of a source on a target with attention patterns and norm
    scales held at the prompt's values; a target's edges and its `bias` add up to its `value` when nothing was left
    out. What was left out (a floor, pruning, a node budget) is in `absent`, as absolute weight by target, and counts
    as error in every score. Influence and scores follow from the table and are computed when they are first asked for.
    """

    prompt: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    model_name: str
    dictionary_name: str
    scan: str
    n_layers: int
    kind: UInt8[np.ndarray, " node"]
    """As stored: 0 feature, 1 error, 2 token, 3 logit; `rows` and `mask` take the names."""
    layer: Int32[np.ndarray, " node"]
    """-1 for tokens, `n_layers` for logits."""
    position: Int32[np.ndarray, " node"]
    index: Int32[np.ndarray, " node"]
    """Feature index; -1 for errors; vocabulary id for tokens and logits (`vocab_size + i` for a difference)."""
    value: Float32[np.ndarray, " node"]
    """Activation of a feature, norm of an error or token vector, centred logit before any soft cap; NaN if unknown."""
    edges: sp.csr_array
    bias: Float32[np.ndarray, " node"]
    """Part of each target's value that comes from constants: encoder, decoder, norm and projection biases."""
    absent: Float32[np.ndarray, " node"]
    """Absolute incoming weight that is no longer among the edges."""
    targets: tuple[Target, ...]
    certificate: Certificate | None
    """None for a graph that another tool made."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """By node id (`feature:2:9:310`) or, for all positions at once, by feature id (`dictionary/2/310`)."""
    supernodes: tuple[Supernode, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    """Of a conversation: who speaks at which tokens. A plain text has none."""

    def __post_init__(self) -> None:
        check_turns(self.turns, len(self.tokens))

    @property
    def heading(self) -> str:
        """What a person reads as the prompt: of a conversation, who says what, without the template."""
        return heading(self.turns) or self.prompt

    def __len__(self) -> int:
        return len(self.kind)

    @cached_property
    def influence(self) -> Float32[np.ndarray, " node"]:
        """The influence of every node on the targets; see `influence.influence`."""
        return influence(self)

    @cached_property
    def scores(self) -> Scores:
        """Replacement, completeness and mean path length; see `influence.score`."""
        return score(self)

    def mask(self, kind: NodeKind | str) -> Bool[np.ndarray, " node"]:
        """True for the rows of one kind: `"feature"`, `"error"`, `"token"` or `"logit"`."""
        return self.kind == KINDS.index(NodeKind(kind))

    def rows(self, kind: NodeKind | str) -> Int[np.ndarray, " row"]:
        """The rows of one kind, in order."""
        return np.flatnonzero(self.mask(kind))

    def node_id(self, node: int) -> NodeId:
        """The id of a row of the node table."""
        kind = KINDS[self.kind[node]]
        return NodeId(
            kind,
            int(self.position[node]),
            int(self.layer[node]) if kind in (NodeKind.FEATURE, NodeKind.ERROR) else None,
            int(self.index[node]) if kind in (NodeKind.FEATURE, NodeKind.LOGIT) else None,
        )

    def node_ids(self) -> list[NodeId]:
        """The ids of all rows, in order."""
        return [self.node_id(node) for node in range(len(self))]

    @cached_property
    def _rows(self) -> dict[NodeId, int]:
        return {node_id: row for row, node_id in enumerate(self.node_ids())}

    def find(self, node: NodeId | str) -> int:
        """The row of a node. Raises `UnknownFeature` when this graph does not have it."""
        node_id = NodeId.parse(node) if isinstance(node, str) else node
        row = self._rows.get(node_id)
        if row is None:
            near = sorted(
                (name for name in self._rows if name.kind == node_id.kind),
                key=lambda name: (
                    abs(name.position - node_id.position),
                    abs((name.layer or 0) - (node_id.layer or 0)),
                    abs((name.index or 0) - (node_id.index or 0)),
                ),
            )
            raise UnknownFeature(
                describe_choices(
                    node_id, near, what=f"{node_id.kind} node of this graph", limit=6, listed="Nearest"
                )
            )
        return row

    def label(self, node: int) -> str | None:
        """The label of a row: the node's own, else its feature's; None without one."""
        own = self.labels.get(str(self.node_id(node)))
        feature = self.feature_id(node)
        return self.labels.get(str(feature)) if own is None and feature is not None else own

    def feature_id(self, node: int) -> FeatureId | None:
        """The feature of the dictionary that a row shows; None for other nodes, and where no dictionary is named."""
        if self.kind[node] != FEATURE or not self.dictionary_name:
            return None
        return FeatureId(self.dictionary_name, str(int(self.layer[node])), int(self.index[node]))

    @property
    def is_target(self) -> Bool[np.ndarray, " node"]:
        """True for the rows that the graph explains."""
        mask = np.zeros(len(self), dtype=bool)
        mask[[target.node for target in self.targets]] = True
        return mask

    @property
    def weights(self) -> Float32[np.ndarray, " node"]:
        """The influence that starts at each node: a target's weight, zero elsewhere."""
        weights = np.zeros(len(self), dtype=np.float32)
        for target in self.targets:
            weights[target.node] += target.weight
        return weights

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Saves the graph as the folder `path` (safetensors and a manifest), atomically."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        edges = {"data": self.edges.data, "indices": self.edges.indices, "indptr": self.edges.indptr}
        return save_artefact(
            path,
            kind="graph",
            tensors={"nodes": arrays, "edges": edges},
            meta=_header(self),
            provenance=self.provenance or None,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Graph:
        """Reads a graph that `save` wrote. Raises `CorruptArtefact` naming what does not fit."""
        artefact = load_artefact(path, kind="graph")
        nodes, edges = artefact.tensors("nodes"), artefact.tensors("edges")
        arrays: dict[str, Any] = {name: nodes[name].numpy().astype(dtype) for name, dtype in _ARRAYS.items()}
        size = len(arrays["kind"])
        try:
            arrays["edges"] = sp.csr_array(
                (edges["data"].numpy(), edges["indices"].numpy(), edges["indptr"].numpy()), shape=(size, size)
            )
            return cls(**arrays, **_from_header(artefact.meta), provenance=artefact.provenance)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtefact(f"{path} does not hold a graph of this version: {error}.") from error


def _header(graph: Graph) -> dict[str, Any]:
    """Everything but the arrays and the provenance, as plain JSON values; the scores for those who read the file."""
    names = ("prompt", "tokens", "token_ids", "model_name", "dictionary_name", "scan", "n_layers")
    return {
        **{name: getattr(graph, name) for name in names},
        "targets": [asdict(target) for target in graph.targets],
        "scores": asdict(graph.scores),
        "certificate": None if graph.certificate is None else asdict(graph.certificate),
        "labels": dict(graph.labels),
        "supernodes": [[node.label, *map(str, node.members)] for node in graph.supernodes],
    } | ({"turns": [turn.to_json() for turn in graph.turns]} if graph.turns else {})


def _from_header(header: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_header`: fields for the constructor."""
    fields = {name: value for name, value in header.items() if name != "scores"}
    fields["tokens"] = tuple(header["tokens"])
    fields["token_ids"] = tuple(header["token_ids"])
    fields["targets"] = tuple(Target(**target) for target in header["targets"])
    fields["certificate"] = None if header["certificate"] is None else Certificate(**header["certificate"])
    fields["supernodes"] = tuple(
        Supernode(label=label, members=tuple(map(NodeId.parse, members)))
        for label, *members in header["supernodes"]
    )
    fields["turns"] = tuple(map(Turn.from_json, header.get("turns", ())))
    return fields


def keep_supernodes(supernodes: Sequence[Supernode], present: set[NodeId]) -> tuple[Supernode, ...]:
    """The supernodes without the members that a smaller graph lacks; empty ones go."""
    kept = [
        Supernode(label=supernode.label, members=tuple(m for m in supernode.members if m in present))
        for supernode in supernodes
    ]
    return tuple(supernode for supernode in kept if supernode.members)
