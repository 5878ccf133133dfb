"""`group`: nodes that are read as one, by hand-made lists or by label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int
from scipy.sparse.csgraph import dijkstra

from thoughtscope.core.errors import ThoughtscopeError, UnknownFeature, describe_choices
from thoughtscope.core.ids import NodeId
from thoughtscope.graphs.graph import Graph, Supernode
from thoughtscope.graphs.influence import normalise

_WAYS = ("label",)
_SHORTEST = 1e-12  # a share of one has no length; zero would mean no edge


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


def group_named(graph: Graph, names: Mapping[NodeId, str]) -> Graph:
    """The graph with a supernode for each name, of the named nodes that it has; names of other nodes are passed over.

    Nodes that already belong to a supernode stay there. This is how names that know nothing of a graph (of all active
    features of a prompt) come to a pruned one.
    """
    present = set(graph.node_ids()) - {member for node in graph.supernodes for member in node.members}
    groups: dict[str, list[NodeId]] = {node.label: list(node.members) for node in graph.supernodes}
    for node, name in names.items():
        if node in present:
            groups.setdefault(name, []).append(node)
    return group(graph, groups)


def find_supernode(graph: Graph, label: str) -> Supernode:
    """The supernode of that name. Raises `UnknownFeature` naming those that the graph has."""
    for supernode in graph.supernodes:
        if supernode.label == label:
            return supernode
    raise UnknownFeature(describe_choices(label, [node.label for node in graph.supernodes], what="supernode"))


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupedEdges:
    """The graph between supernodes and the nodes that belong to none."""

    names: tuple[str, ...]
    """Label of a supernode, or id of a node by itself."""
    weights: sp.csr_array
    """`[target, source]`: the sum of the signed edges from members to members; none from a group to itself."""
    shares: sp.csr_array
    """`[target, source]`: the share of what enters the target group from outside, weighted within the group by the
    members' influence; a row adds up to at most one, the rest was left out."""


def grouped_edges(graph: Graph) -> GroupedEdges:
    """Edges summed over supernodes, and their shares of each group's outside input."""
    of_group = {member: number for number, node in enumerate(graph.supernodes) for member in node.members}
    names = [node.label for node in graph.supernodes]
    place = np.empty(len(graph), dtype=np.int64)
    for row, node_id in enumerate(graph.node_ids()):
        if node_id in of_group:
            place[row] = of_group[node_id]
        else:
            place[row] = len(names)
            names.append(str(node_id))
    membership = sp.csr_array(
        (np.ones(len(graph)), (place, np.arange(len(graph)))), shape=(len(names), len(graph))
    )
    weights = _without_diagonal(membership @ graph.edges @ membership.T)
    reached = graph.influence + graph.weights
    normal = normalise(graph.edges, graph.absent)
    flow = sp.csr_array(
        (normal.data * np.repeat(reached, np.diff(normal.indptr)), normal.indices, normal.indptr),
        normal.shape,
    )
    between = membership @ flow @ membership.T
    has_input = (normal.sum(axis=1) > 0) | (graph.absent > 0)
    external = membership @ np.where(has_input, reached, 0) - between.diagonal()
    shares = _without_diagonal(between)
    shares.data /= np.maximum(np.repeat(external, np.diff(shares.indptr)), 1e-10)
    return GroupedEdges(names=tuple(names), weights=weights, shares=shares)


def strongest_path(edges: GroupedEdges, source: str, target: str) -> tuple[str, ...]:
    """The groups on the way from `source` to `target` that carries the largest product of shares; empty without a way.

    Raises `UnknownFeature` for a name that is not among `edges.names`.
    """
    for name in (source, target):
        if name not in edges.names:
            raise UnknownFeature(describe_choices(name, edges.names, what="group"))
    _, following = _ways_to(edges, edges.names.index(target))
    path = _follow(following, edges.names.index(source), edges.names.index(target))
    return tuple(edges.names[group] for group in path)


@dataclass(frozen=True, kw_only=True)
class Chain:
    """One path through a grouped graph, from a token to the answer."""

    names: tuple[str, ...]
    """Labels of supernodes, ids of nodes by themselves; as in `GroupedEdges`."""
    shares: tuple[float, ...]
    """For each step, how much of what enters its end from outside comes from its start."""


def group_chain(graph: Graph) -> Chain | None:
    """The strongest path from a token to the likeliest answer through the supernode that reaches the answer best.

    None without supernodes, or where no token's path to the answer runs through one.
    """
    if not graph.supernodes or not graph.targets:
        return None
    answer = str(graph.node_id(max(graph.targets, key=lambda target: target.probability).node))
    edges = grouped_edges(graph)
    tokens = [
        at for at, name in enumerate(edges.names) if at >= len(graph.supernodes) and name.startswith("token:")
    ]
    if answer not in edges.names or not tokens:
        return None
    end = edges.names.index(answer)
    length, onwards = _ways_to(edges, end)
    through = int(np.argmin(length[: len(graph.supernodes)]))
    way, following = _ways_to(edges, through)
    start = min(tokens, key=lambda token: way[token])
    if not np.isfinite(length[through] + way[start]):
        return None
    path = [*_follow(following, start, through), *_follow(onwards, through, end)[1:]]
    shares = tuple(float(edges.shares[target, source]) for source, target in pairwise(path))
    return Chain(names=tuple(edges.names[at] for at in path), shares=shares)


def _ways_to(
    edges: GroupedEdges, target: int
) -> tuple[Float[np.ndarray, " group"], Int[np.ndarray, " group"]]:
    """For each group, its strongest way to `target`: the length (-log of the product of shares), and the next step."""
    shares = edges.shares
    numbers = np.maximum(-np.log(shares.data), _SHORTEST)
    # Older versions of scipy find paths by 32-bit indices only.
    places = (array.astype(np.int32) for array in (shares.indices, shares.indptr))
    length = sp.csr_array((numbers, *places), shape=shares.shape)
    return dijkstra(length, indices=target, return_predecessors=True)


def _follow(following: Int[np.ndarray, " group"], start: int, end: int) -> list[int]:
    """The way from `start` to `end`; empty where there is none."""
    path = [start]
    while path[-1] != end:
        if following[path[-1]] < 0:
            return []
        path.append(int(following[path[-1]]))
    return path


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


def _without_diagonal(matrix: sp.csr_array) -> sp.csr_array:
    result = sp.csr_array(matrix - sp.diags_array(matrix.diagonal()))
    result.eliminate_zeros()
    return result
