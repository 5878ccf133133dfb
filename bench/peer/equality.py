"""Whether two graphs of one prompt say the same, node by node.

Both are tables: `active` (feature, 3: layer, position, index) with `activation`, and `nodes` (node, 4: kind, layer,
position, index; -1 where a kind has none) with `edges[target, source]`.

Two differences are definitions, not errors. At the first position circuit-tracer has no error nodes (their edges are
0), thoughtscope has. Features from which no edge leads on to a target are rows and columns of circuit-tracer's graph,
and no nodes of thoughtscope's: such a column must be 0 in every row that both have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS = ("feature", "error", "token", "logit")
FEATURE, ERROR, TOKEN, LOGIT = range(4)
TOLERANCE = 1e-4
"""Of a target's largest edge; single precision on two ways through up to 30 layers."""


class Unequal(Exception):
    """Raised when the sides did not do the same work: times then say nothing."""


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, whole: bool) -> dict[str, Any]:
    """The largest differences. Raises `Unequal` over the tolerance, or for other features or targets.

    `whole` says that every feature was expanded; else each side has chosen some, and what both chose is compared.
    """
    import numpy as np

    activation = _same_features(ours, theirs)
    rows_of = [{tuple(node): row for row, node in enumerate(one["nodes"].tolist())} for one in (ours, theirs)]
    logits = [{node for node in rows if node[0] == LOGIT} for rows in rows_of]
    if logits[0] != logits[1]:
        raise Unequal(f"other targets: {sorted(logits[0])} and {sorted(logits[1])}")
    common = [node for node in rows_of[0] if node in rows_of[1]]
    sources = [node for node in common if node[0] != LOGIT and node[:3:2] != (ERROR, 0)]
    targets = [node for node in common if node[0] in (FEATURE, LOGIT)]
    mine, other = (
        one["edges"][np.ix_([rows[node] for node in targets], [rows[node] for node in sources])]
        for one, rows in zip((ours, theirs), rows_of, strict=True)
    )
    largest = np.abs(other).max(axis=1)
    error = np.abs(mine - other).max(axis=1) / np.where(largest > 0, largest, 1)
    stray = _stray(theirs, rows_of[0], [rows_of[1][node] for node in targets], whole=whole)
    worst = max(float(error.max()), float(activation), stray)
    if not worst <= TOLERANCE:
        raise Unequal(
            f"edges differ by {error.max():.1e} of a target's largest, activations by {activation:.1e}, "
            f"left-out edges {stray:.1e}"
        )
    chosen = [sum(node[0] == FEATURE for node in rows) for rows in rows_of]
    shared = sum(node[0] == FEATURE for node in common)
    return {
        "edge_error": float(error.max()),
        "median_edge_error": float(np.median(error)),
        "activation_error": float(activation),
        "edges_left_out": stray,
        "active": len(ours["active"]),
        "targets_compared": len(targets),
        "features": {"thoughtscope": chosen[0], "circuit-tracer": chosen[1]},
        "overlap": shared / min(chosen),
    }


def _same_features(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """The largest difference of an activation, as a share of its layer's largest. Raises `Unequal`."""
    import numpy as np

    (mine, a), (other, b) = (
        (one["active"][order], one["activation"][order])
        for one in (ours, theirs)
        for order in [np.lexsort(one["active"].T[::-1])]
    )
    if not np.array_equal(mine, other):
        pairs = [set(map(tuple, places.tolist())) for places in (mine, other)]
        raise Unequal(f"other active features: {len(pairs[0] ^ pairs[1])} of {len(mine)} and {len(other)}")
    scale = np.zeros(int(mine[:, 0].max()) + 1)
    np.maximum.at(scale, mine[:, 0], np.abs(b))
    return float((np.abs(a - b) / scale[mine[:, 0]]).max())


def _stray(theirs: Mapping[str, Any], ours: Mapping[Any, int], rows: list[int], *, whole: bool) -> float:
    """The largest edge, as a share of its row's largest, from what has no node of ours and should not need one."""
    import numpy as np

    columns = [
        column
        for column, node in enumerate(map(tuple, theirs["nodes"].tolist()))
        if node[:3:2] == (ERROR, 0) or (whole and node not in ours)
    ]
    if not columns:
        return 0.0
    edges = np.abs(theirs["edges"][rows])
    largest = edges.max(axis=1)
    return float((edges[:, columns].max(axis=1) / np.where(largest > 0, largest, 1)).max())
