"""`prune`: a smaller graph that keeps most of the influence, and counts what it drops as error."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.graphs.graph import Graph, keep_supernodes
from thoughtscope.graphs.influence import edge_influence


def prune(
    graph: Graph,
    *,
    node_mass: float = 0.8,
    edge_mass: float = 0.98,
    max_edges: int | None = None,
    keep_errors: bool = True,
) -> Graph:
    """The smallest set of nodes that carries `node_mass` of the influence, and of their edges that carries `edge_mass`.

    Tokens and targets always stay, error nodes as long as they have an edge (`keep_errors=False` lets them compete
    like features). Features left without an edge in or out go. Whatever goes stays in the books as `absent` and
    counts as error in the new graph's scores. `prune(graph, node_mass=1, edge_mass=1)` keeps every node with
    influence. Ameisen et al. 2025, "Circuit Tracing", pruning: 0.8 and 0.98. `max_edges` ends it earlier: of more edges
    than that, those that carry most stay.
    """
    for name, mass in (("node_mass", node_mass), ("edge_mass", edge_mass)):
        if not 0 < mass <= 1:
            raise ThoughtscopeError(f"{name} is a share of the influence, over 0 and up to 1; got {mass}.")
    if max_edges is not None and max_edges < 1:
        raise ThoughtscopeError(f"max_edges must be at least 1, or None for no limit; got {max_edges}.")
    always = graph.is_target | graph.mask("token")
    total = graph.influence
    kept = always | (total >= mass_threshold(total, node_mass))
    if keep_errors:
        kept |= graph.mask("error") & (total > 0)
    small = subgraph(graph, kept)
    carried = edge_influence(small)
    strong = small.edges.copy()
    strong.data[carried < max(mass_threshold(carried, edge_mass), count_threshold(carried, max_edges))] = 0
    strong.eliminate_zeros()
    small = _with_edges(small, strong)
    connected = _connected(small)
    held = float(total[np.flatnonzero(kept)[connected]].sum() / max(float(total.sum()), 1e-30))
    settings = {
        "node_mass": node_mass,
        "edge_mass": edge_mass,
        "max_edges": max_edges,
        "keep_errors": keep_errors,
    }
    whole = {"scores_before_pruning": asdict(graph.scores)}
    facts = {"pruning": settings, "influence_held": held * float(graph.provenance.get("influence_held", 1))}
    return replace(subgraph(small, connected), provenance={**whole, **graph.provenance, **facts})


def subgraph(graph: Graph, kept: Bool[np.ndarray, " node"]) -> Graph:
    """The graph on the nodes in `kept`; weight that came from the others becomes `absent`."""
    rows = graph.edges[kept]
    edges = rows[:, kept]
    lost = abs(rows).sum(axis=1, dtype=np.float64) - abs(edges).sum(axis=1, dtype=np.float64)
    number = np.cumsum(kept) - 1
    present = {graph.node_id(node) for node in np.flatnonzero(kept).tolist()}
    names = {str(node) for node in present}
    per_node = ("kind", "layer", "position", "index", "value", "bias")
    return replace(
        graph,
        **{name: getattr(graph, name)[kept] for name in per_node},
        edges=sp.csr_array(edges),
        absent=(graph.absent[kept] + np.maximum(lost, 0)).astype(np.float32),
        targets=tuple(replace(target, node=int(number[target.node])) for target in graph.targets),
        labels={name: label for name, label in graph.labels.items() if "/" in name or name in names},
        supernodes=keep_supernodes(graph.supernodes, present),
    )


def mass_threshold(values: Float[np.ndarray, " value"], mass: float) -> float:
    """The largest `t` such that the values `>= t` add up to at least `mass` of all. Values must not be negative.

    A radix search over the bits of float32, which order like the numbers: three histograms, no sort and no copy of
    an index, so that the N² edges of a dense graph cost little more than reading them.

    >>> mass_threshold(np.array([5.0, 3.0, 1.0, 1.0]), 0.8)
    3.0
    """
    values = np.ascontiguousarray(values, dtype=np.float32)
    values = values[values > 0]
    if mass >= 1 or not len(values):
        return float(np.nextafter(np.float32(0), np.float32(1)))
    bits = values.view(np.uint32)
    wanted = mass * values.sum(dtype=np.float64)
    above, prefix = 0.0, np.uint32(0)
    for shift, width in ((21, 11), (10, 11), (0, 10)):
        known = shift + width
        here = bits >> known == prefix >> known if known < 32 else np.ones(len(bits), dtype=bool)
        digit = (bits[here] >> shift) & ((1 << width) - 1)
        by_digit = np.bincount(digit, weights=values[here], minlength=1 << width)
        from_top = above + np.cumsum(by_digit[::-1])[::-1]
        reached = np.flatnonzero((from_top >= wanted * (1 - 1e-12)) & (by_digit > 0))
        chosen = int(reached[-1]) if len(reached) else int(np.flatnonzero(by_digit)[0])
        above = float(from_top[chosen] - by_digit[chosen])
        prefix = prefix | np.uint32(chosen << shift)
    return float(np.array([prefix], dtype=np.uint32).view(np.float32)[0])


def count_threshold(values: Float[np.ndarray, " value"], most: int | None) -> float:
    """The `t` such that at most `most` values are `>= t`; values that are equal at the border all go. None: 0.

    >>> count_threshold(np.array([5.0, 3.0, 3.0, 1.0]), 2) > 3
    True
    """
    if most is None or len(values) <= most:
        return 0.0
    first_out = np.partition(values, -most - 1)[-most - 1]
    return float(np.nextafter(first_out, np.inf))


def _with_edges(graph: Graph, edges: sp.csr_array) -> Graph:
    before, after = (abs(matrix).sum(axis=1, dtype=np.float64) for matrix in (graph.edges, edges))
    return replace(
        graph, edges=edges, absent=(graph.absent + np.maximum(before - after, 0)).astype(np.float32)
    )


def _connected(graph: Graph) -> Bool[np.ndarray, " node"]:
    """Nodes that stay once features without input or output, and errors without output, have gone in turn."""
    always = graph.is_target | graph.mask("token")
    pattern = sp.csr_array(
        (np.ones(graph.edges.nnz, dtype=np.int64), graph.edges.indices, graph.edges.indptr),
        shape=graph.edges.shape,
    )
    transposed = sp.csr_array(pattern.T)
    kept = np.ones(len(graph), dtype=bool)
    while True:
        counts = kept.astype(np.int64)
        used = (transposed @ counts) > 0
        fed = ((pattern @ counts) > 0) | ~graph.mask("feature")
        new = always | (kept & used & fed)
        if (new == kept).all():
            return kept
        kept = new
