"""Influence and the scores of a graph.

With Â the absolute edges, each row divided by all that comes into its target (also by what was left out), influence
is the mass that starts at the targets and spreads backwards: `I = w Â + w Â² + …` (Ameisen et al. 2025, "Circuit
Tracing", section on pruning). Rows of Â add up to at most one; what is missing to one is the share of what was left
out, and counts as error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from thoughtscope.core.errors import InvalidGraph
from thoughtscope.core.ids import NodeId
from thoughtscope.graphs.graph import ERROR, FEATURE, TOKEN, Graph, Scores

_TINY = 1e-10  # a target whose whole input is smaller has no input to speak of


def influence(graph: Graph) -> Float[np.ndarray, " node"]:
    """The influence of every node on the targets, over paths of every length.

    Targets weigh as their probabilities, so the influence of the tokens and errors of a full graph adds up to the
    probability that the targets cover.
    """
    total = np.zeros(len(graph))
    for mass in _spread(normalise(graph.edges, graph.absent), graph.weights):
        total += mass
    return total.astype(np.float32)


def score(graph: Graph, pinned: Iterable[NodeId | str] | None = None) -> Scores:
    """Replacement, completeness and mean path length; everything that was left out counts as error.

    With `pinned`, the score of that part of the graph alone: what every other feature sends counts as sent by the
    error node of its layer and position. Tokens, errors and targets always belong to the part.
    Raises `UnknownFeature` for a pinned node that the graph lacks. The formulas are those of circuit-tracer; where
    nothing was left out the numbers are too.
    """
    normal = normalise(graph.edges, graph.absent)
    has_input = (normal.sum(axis=1) > 0) | (graph.absent > 0)
    if pinned is not None:
        normal = normal @ _unpinned_to_errors(graph, {graph.find(node) for node in pinned})
    total, by_length, is_token = np.zeros(len(graph)), [], graph.kind == TOKEN
    for mass in _spread(normal, graph.weights):
        total += mass
        by_length.append(mass[is_token].sum())
    reached = total + graph.weights
    share_absent = np.where(has_input, np.maximum(1 - normal.sum(axis=1), 0), 0)
    share_error = normal[:, graph.kind == ERROR].sum(axis=1) + share_absent
    from_tokens = total[is_token].sum()
    from_errors = total[graph.kind == ERROR].sum() + (reached * share_absent).sum()
    lengths = np.array(by_length)
    return Scores(
        replacement=float(from_tokens / max(from_tokens + from_errors, _TINY)),
        completeness=float(((1 - share_error) * reached).sum() / max(reached.sum(), _TINY)),
        mean_path_length=float((lengths * np.arange(1, len(lengths) + 1)).sum() / max(lengths.sum(), _TINY)),
    )


def normalise(edges: sp.csr_array, absent: Float[np.ndarray, " node"]) -> sp.csr_array:
    """|edges| with each row divided by its sum and what is absent from it."""
    incoming = abs(edges).sum(axis=1, dtype=np.float64) + absent
    scale = 1 / np.maximum(incoming, _TINY)
    data = np.abs(edges.data) * np.repeat(scale, np.diff(edges.indptr))
    return sp.csr_array((data, edges.indices, edges.indptr), shape=edges.shape)


def _spread(normal: sp.csr_array, start: Float[np.ndarray, " node"]) -> Iterator[Float[np.ndarray, " node"]]:
    """The mass after one step back from the targets, after two, … until none moves. A graph without cycles ends."""
    backwards = normal.T
    mass = start.astype(np.float64)
    for _ in range(normal.shape[0] + 1):
        mass = backwards @ mass
        if not mass.any():
            return
        yield mass
    raise InvalidGraph("The edges of this graph run in a circle, so influence has no end.")


def _unpinned_to_errors(graph: Graph, pinned: set[int]) -> sp.csr_array:
    """A (node, node) map of columns: features that are not pinned onto their error node, all others onto themselves."""
    size = len(graph)
    onto = np.arange(size)
    errors = {
        (int(graph.layer[node]), int(graph.position[node])): node
        for node in np.flatnonzero(graph.kind == ERROR)
    }
    is_target = graph.is_target
    for node in np.flatnonzero(graph.kind == FEATURE):
        if node not in pinned and not is_target[node]:
            onto[node] = errors.get((int(graph.layer[node]), int(graph.position[node])), -1)
    kept = onto >= 0
    return sp.csr_array((np.ones(kept.sum()), (np.arange(size)[kept], onto[kept])), shape=(size, size))
