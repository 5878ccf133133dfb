"""`group`: nodes that are read as one, by hand-made lists or by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from thoughtscope.core.errors import ThoughtscopeError, UnknownFeature, describe_choices
from thoughtscope.core.ids import NodeId
from thoughtscope.graphs.graph import Graph, Supernode

_WAYS = ("label",)


def group(
    graph: Graph, groups: Mapping[str, Sequence[NodeId | str]] | None = None, *, by: str = "label"
) -> Graph:
    """The graph with supernodes: the given lists of nodes, or without lists all features that share a label.

    Supernodes that the graph already has stay, unless one of the same name is given. Raises `UnknownFeature` for a
    node that the graph lacks, `ThoughtscopeError` for a node in two groups, an empty group or an empty name.
    """
    if groups is None:
        groups = _by_label(graph, by)
    given = {label: _members(graph, label, nodes) for label, nodes in groups.items()}
    kept = {node.label: node.members for node in graph.supernodes if node.label not in given}
    owner: dict[NodeId, str] = {}
    for label, members in (kept | given).items():
        for member in members:
            if member in owner:
                raise ThoughtscopeError(
                    f'{member} is in "{owner[member]}" and in "{label}"; a node belongs to one supernode.'
                )
            owner[member] = label
    supernodes = tuple(Supernode(label=label, members=members) for label, members in (kept | given).items())
    return replace(graph, supernodes=supernodes)


def find_supernode(graph: Graph, label: str) -> Supernode:
    """The supernode of that name. Raises `UnknownFeature` naming those that the graph has."""
    for supernode in graph.supernodes:
        if supernode.label == label:
            return supernode
    raise UnknownFeature(describe_choices(label, [node.label for node in graph.supernodes], what="supernode"))


def _members(graph: Graph, label: str, nodes: Sequence[NodeId | str]) -> tuple[NodeId, ...]:
    if not label.strip():
        raise ThoughtscopeError("A supernode needs a name.")
    if isinstance(nodes, str) or not len(nodes):
        raise ThoughtscopeError(f'Supernode "{label}" needs a list of one or more nodes; got {nodes!r}.')
    members = tuple(graph.node_id(graph.find(node)) for node in nodes)
    if len(set(members)) != len(members):
        raise ThoughtscopeError(f'Supernode "{label}" names a node twice.')
    return members


def _by_label(graph: Graph, by: str) -> dict[str, list[NodeId]]:
    if by not in _WAYS:
        raise ThoughtscopeError(describe_choices(by, _WAYS, what="way to group"))
    groups: dict[str, list[NodeId]] = {}
    for node in graph.rows("feature"):
        label = graph.label(int(node))
        if label:
            groups.setdefault(label, []).append(graph.node_id(int(node)))
    return groups
