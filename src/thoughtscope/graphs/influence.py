"""Influence and the scores of a graph: their one definition.

With Â the absolute edges, each row divided by all that comes into its target (also by what was left out), influence
is the mass that starts at the targets and spreads backwards: `I = w Â + w Â² + …` (Ameisen et al. 2025, "Circuit
Tracing", section on pruning). Rows of Â add up to at most one; what is missing to one is the share of what was left
out, and counts as error. So with e_t the share of a target's input that comes from errors or was left out:

    replacement   = Σ_tokens I / (Σ_tokens I + Σ_t (I_t + w_t) e_t)     of what ends, what ends at a token
    completeness  = Σ_t (I_t + w_t) (1 - e_t) / Σ_t (I_t + w_t)         of all input, what is no error

Influence ends at tokens, which have no input, or leaves by e_t: the two add up to all that started at the targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Float32, Int

from thoughtscope.core.errors import InvalidGraph
from thoughtscope.core.ids import NodeId

if TYPE_CHECKING:
    from thoughtscope.graphs.graph import Graph

_TINY = 1e-10  # a target whose whole input is smaller has no input to speak of


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How much of the influence on the targets the graph explains; all in shares except the path length."""

    replacement: float
    """Share of the influence that reaches the input through features rather than stopping at an error."""
    completeness: float
    """Share of the nodes' input that is no error, weighted by the nodes' influence."""
    mean_path_length: float
    """Mean number of edges from a target to a token, weighted by influence."""


def influence(graph: Graph) -> Float32[np.ndarray, " node"]:
    """The influence of every node on the targets, over paths of every length.

    Targets weigh as their probabilities, so the influence of the tokens and errors of a full graph adds up to the
    probability that the targets cover. Raises `InvalidGraph` for edges that run in a circle.
    """
    start = graph.weights.astype(np.float64)[:, None]
    mass, _ = _spread(normalise(graph.edges, graph.absent), start)
    return (mass - start)[:, 0].astype(np.float32)


def influence_share(graph: Graph) -> Float[np.ndarray, " node"]:
    """Each node's share of all influence on the targets: what page and command line call its influence.

    The shares of all nodes add up to one; sorted and added up they are the running total that graph files carry.
    """
    return graph.influence / max(float(graph.influence.sum(dtype=np.float64)), 1e-30)


def cumulative_influence(graph: Graph) -> Float[np.ndarray, " node"]:
    """For each node the share of all influence held by the nodes that have at least as much.

    A viewer that shows the nodes with at most 0.8 thus shows the fewest that hold 0.8.
    """
    order = np.argsort(-graph.influence, kind="stable")
    running = np.cumsum(graph.influence[order], dtype=np.float64)
    result = np.empty(len(order))
    result[order] = running / max(running[-1] if len(running) else 0.0, 1e-30)
    return np.minimum(result, 1.0)


def edge_influence(graph: Graph) -> Float32[np.ndarray, " edge"]:
    """How much influence each edge carries to the targets: its target's, times its share of the target's input.

    In the order of `graph.edges.data`. The edges out of a node add up to its influence.
    """
    reached = graph.influence + graph.weights
    carried = normalise(graph.edges, graph.absent).data * np.repeat(reached, np.diff(graph.edges.indptr))
    return carried.astype(np.float32)


def score(graph: Graph, pinned: Iterable[NodeId | str] | None = None) -> Scores:
    """Replacement, completeness and mean path length; everything that was left out counts as error.

    With `pinned`, the score of that part of the graph alone: what every other feature sends counts as sent by the
    error node of its layer and position. Tokens, errors and targets always belong to the part.
    Raises `UnknownFeature` for a pinned node that the graph lacks. The formulas are those of circuit-tracer; where
    nothing was left out the numbers are too.
    """
    normal, onto = normalise(graph.edges, graph.absent), None
    if pinned is not None:
        onto = _unpinned_to_errors(graph, {graph.find(node) for node in pinned})
    everything = np.ones((len(graph), 1), dtype=bool)
    replacement, completeness, length = _scores(graph, normal, everything, onto)[:, 0].tolist()
    return Scores(replacement=replacement, completeness=completeness, mean_path_length=length)


def scores_of_cuts(graph: Graph, kept: Bool[np.ndarray, "node cut"]) -> Float[np.ndarray, "score cut"]:
    """The scores of the graph cut down to the nodes in `kept`, for many choices at once; in the order of `Scores`.

    As `score` of each smaller graph, in which the input from nodes that went is absent. Targets are kept in every cut.
    """
    return _scores(graph, normalise(graph.edges, graph.absent), kept)


def _scores(
    graph: Graph, normal: sp.csr_array, kept: Bool[np.ndarray, "node cut"], onto: sp.csr_array | None = None
) -> Float[np.ndarray, "score cut"]:
    """The three formulas. `onto` sends what some nodes give to others in their place."""
    has_input = (normal.sum(axis=1) > 0) | (graph.absent > 0)
    if onto is not None:
        normal = sp.csr_array(normal @ onto)
    start = np.repeat(graph.weights.astype(np.float64)[:, None], kept.shape[1], axis=1)
    reached, travelled = _spread(normal, start, kept)
    explains = (kept & ~graph.mask("error")[:, None]).astype(np.float64)
    # Shape: (node, cut). Of each node's input, what comes from an error, from a node that went, or was left out.
    share_error = np.where(has_input[:, None], np.maximum(1 - normal @ explains, 0), 0)
    tokens = graph.rows("token")
    from_tokens = (reached - start)[tokens].sum(axis=0)
    from_errors = (reached * share_error).sum(axis=0)
    return np.stack(
        [
            from_tokens / np.maximum(from_tokens + from_errors, _TINY),
            ((1 - share_error) * reached).sum(axis=0) / np.maximum(reached.sum(axis=0), _TINY),
            travelled[tokens].sum(axis=0) / np.maximum(from_tokens, _TINY),
        ]
    )


def why_unscored(graph: Graph) -> str | None:
    """Why the scores of this graph would say nothing; None when they do."""
    if len(graph.rows("error")) or graph.absent.any():
        return None
    return "this file holds no error nodes, so what its dictionary misses cannot be told"


def normalise(edges: sp.csr_array, absent: Float[np.ndarray, " node"]) -> sp.csr_array:
    """|edges| with each row divided by its sum and what is absent from it."""
    incoming = abs(edges).sum(axis=1, dtype=np.float64) + absent
    scale = 1 / np.maximum(incoming, _TINY)
    data = np.abs(edges.data) * np.repeat(scale, np.diff(edges.indptr))
    return sp.csr_array((data, edges.indices, edges.indptr), shape=edges.shape)


def _spread(
    normal: sp.csr_array,
    start: Float[np.ndarray, "node cut"],
    kept: Bool[np.ndarray, "node cut"] | None = None,
) -> tuple[Float[np.ndarray, "node cut"], Float[np.ndarray, "node cut"]]:
    """What reaches each node from the targets, and the edges that it took: mass, and mass times length of its paths.

    A node passes on what it has once everything has arrived, so each edge is used once. Nodes that are not `kept`
    get nothing, and thus pass nothing on.
    """
    mass, travelled = start.copy(), np.zeros_like(start)  # (node, cut)
    for rows in waves(normal):
        # Only the sources of these rows are touched, so that all waves together cost what the edges cost.
        block = normal[rows]
        sources, column = np.unique(block.indices, return_inverse=True)
        shape = (len(rows), len(sources))
        to_sources = sp.csr_array((block.data, column, block.indptr), shape=shape).T
        if kept is None:
            mass[sources] += to_sources @ mass[rows]
        else:
            # Only kept rows hold mass; what arrives at the others is dropped when their turn comes.
            mass[rows] *= kept[rows]
            travelled[rows] *= kept[rows]
            mass[sources] += to_sources @ mass[rows]
            travelled[sources] += to_sources @ (travelled[rows] + mass[rows])
    return mass, travelled


def waves(edges: sp.csr_array) -> Iterator[Int[np.ndarray, " row"]]:
    """The nodes in waves: each after every node that it feeds; as many as the longest path has nodes.

    Raises `InvalidGraph` where there is a circle.
    """
    size, seen = edges.shape[0], 0
    feeds = np.bincount(edges.indices, minlength=size)
    rows = np.flatnonzero(feeds == 0)
    while len(rows):
        yield rows
        seen += len(rows)
        sources, times = np.unique(edges[rows].indices, return_counts=True)
        feeds[sources] -= times
        rows = sources[feeds[sources] == 0]
    if seen < size:
        raise InvalidGraph("The edges of this graph run in a circle, so influence has no end.")


def _unpinned_to_errors(graph: Graph, pinned: set[int]) -> sp.csr_array:
    """A (node, node) map of columns: features that are not pinned onto their error node, all others onto themselves."""
    size = len(graph)
    onto = np.arange(size)
    errors = {(int(graph.layer[row]), int(graph.position[row])): int(row) for row in graph.rows("error")}
    is_target = graph.is_target
    for row in graph.rows("feature").tolist():
        if row not in pinned and not is_target[row]:
            onto[row] = errors.get((int(graph.layer[row]), int(graph.position[row])), -1)
    kept = onto >= 0
    return sp.csr_array((np.ones(kept.sum()), (np.arange(size)[kept], onto[kept])), shape=(size, size))
