"""`score_curve`: what a graph still explains when a viewer's slider hides its weaker nodes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from thoughtscope.graphs.graph import Graph
from thoughtscope.graphs.influence import cumulative_influence, scores_of_cuts, why_unscored

STOPS = tuple(round(stop / 100, 2) for stop in range(20, 101))
"""Where the slider stops: nodes up to that running total of influence show."""
_AT_ONCE = 4_000_000  # numbers in one table of nodes by stops
_DIGITS = 5


@dataclass(frozen=True, kw_only=True)
class ScoreCurve:
    """Scores and sizes of a graph at each stop of the slider; hidden nodes count as absent.

    Hiding error nodes in a picture changes no score: they count as error, seen or not.
    """

    stops: tuple[float, ...]
    replacement: tuple[float, ...] | None
    """None where `why_unscored` says why."""
    completeness: tuple[float, ...] | None
    mean_path_length: tuple[float, ...] | None
    nodes: tuple[int, ...]
    edges: tuple[int, ...]
    error_nodes: tuple[int, ...]
    """Of the nodes, those that hold errors."""
    error_edges: tuple[int, ...]
    influence_held: float | None
    """Share of all influence that the graph holds at the last stop; None where that is not known."""
    why_unscored: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the exact inverse."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ScoreCurve:
        """Reads what `to_json` gave."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**fields)


def score_curve(graph: Graph, cumulative: Float[np.ndarray, " node"] | None = None) -> ScoreCurve:
    """The scores of the graph cut at every stop of `STOPS`, and how much of it shows there.

    `cumulative` is the running total of influence by node that a file states, NaN for nodes that always show; computed
    from the graph unless given. Tokens, outputs and targets always show. At each stop the scores are those of the graph
    on what shows and all its error nodes, seen or not.
    """
    stated = cumulative is not None
    total = cumulative_influence(graph) if cumulative is None else np.array(cumulative, dtype=np.float64)
    is_error = graph.mask("error")
    total[graph.mask("token") | graph.mask("logit") | graph.is_target | np.isnan(total)] = -1
    shown_at = np.searchsorted(np.array(STOPS) + 1e-9, total)  # the first stop at which a node shows
    reason = why_unscored(graph)
    scores = None if reason else np.round(_scores_at(graph, np.where(is_error, 0, shown_at)), _DIGITS)
    columns = (None, None, None) if scores is None else tuple(tuple(row.tolist()) for row in scores)
    targets = np.repeat(np.arange(len(graph)), np.diff(graph.edges.indptr))
    edge_at = np.maximum(shown_at[targets], shown_at[graph.edges.indices])
    from_error = is_error[graph.edges.indices]
    return ScoreCurve(
        stops=STOPS,
        replacement=columns[0],
        completeness=columns[1],
        mean_path_length=columns[2],
        nodes=_running(shown_at),
        edges=_running(edge_at),
        error_nodes=_running(shown_at[is_error]),
        error_edges=_running(edge_at[from_error]),
        influence_held=_held(graph, total if stated else None),
        why_unscored=reason,
    )


def _scores_at(graph: Graph, shown_at: np.ndarray) -> Float[np.ndarray, "score cut"]:
    """The scores at every stop, a few stops at a time where the graph is large."""
    step = max(1, _AT_ONCE // max(len(graph), 1))
    parts = []
    for first in range(0, len(STOPS), step):
        stops = np.arange(first, min(first + step, len(STOPS)))
        shown: Bool[np.ndarray, "node cut"] = shown_at[:, None] <= stops
        parts.append(scores_of_cuts(graph, shown))
    return np.concatenate(parts, axis=1)


def _running(first_shown: np.ndarray) -> tuple[int, ...]:
    counts = np.bincount(first_shown, minlength=len(STOPS) + 1)[: len(STOPS)]
    return tuple(np.cumsum(counts).tolist())


def _held(graph: Graph, total: Float[np.ndarray, " node"] | None) -> float | None:
    """What pruning wrote down, else the end of the running total that another tool's file states."""
    known = graph.provenance.get("influence_held")
    if isinstance(known, (int, float)):
        return round(float(known), _DIGITS)
    if graph.certificate is not None or total is None:
        return 1.0
    return round(min(float(total.max()), 1.0), _DIGITS) if (total > 0).any() else None
