"""What a graph says that a plan will do: the change of each target, before any edited forward pass is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.graphs.graph import FEATURE, Graph
from thoughtscope.interventions.edits import FeatureEdit, fold

if TYPE_CHECKING:
    from thoughtscope.interventions.plans import Plan


@dataclass(frozen=True, kw_only=True)
class TargetChange:
    """The predicted change of one target of the graph."""

    text: str
    vocab_id: int | None
    change: float
    """Change of the target's logit, centred over the vocabulary (of a feature target: of its pre-activation)."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the graph says that a plan will do."""

    changes: tuple[TargetChange, ...]
    edited: int
    """Nodes of the graph that the plan edits."""
    outside: int
    """Feature edits that touch no node of the graph; the prediction knows nothing of their effect."""

    def of(self, vocab_id: int) -> float | None:
        """The predicted change of one token's logit; None when the graph does not have it as a target."""
        return next((target.change for target in self.changes if target.vocab_id == vocab_id), None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"changes": [asdict(change) for change in self.changes]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Prediction:
        """The exact inverse of `to_json`. Raises `InvalidPlan`."""
        try:
            changes = tuple(TargetChange(**change) for change in data["changes"])
            return cls(**{**data, "changes": changes})
        except (KeyError, TypeError) as error:
            raise InvalidPlan(f"This prediction cannot be read: {error}.") from None


def predict(graph: Graph, plan: Plan) -> Prediction:
    """The change of each target that the graph's edges imply, by propagating the plan's changes along them.

    The graph is linear: an edge is a source's contribution to its target, so a source that changes by the share `r` of
    its activation changes the target by `r * edge`. A feature that is not edited passes on the share by which its own
    pre-activation changed, as if it stayed active; edited features end where the plan puts them; tokens and errors
    stay. In constrained layers unedited features stay too, so over all layers only direct edges count.
    Direction edits are not part of a graph and are left out. Source: Ameisen et al. 2025, "Circuit Tracing".
    """
    outside = 0
    touched: dict[int, list[FeatureEdit]] = {}
    for edit in plan.feature_edits:
        same = (graph.kind == FEATURE) & (graph.layer == edit.layer) & (graph.index == edit.index)
        rows = [row for row in np.flatnonzero(same).tolist() if edit.covers(int(graph.position[row]))]
        outside += not rows
        for row in rows:
            touched.setdefault(row, []).append(edit)
    edits = {row: fold(several) for row, several in touched.items()}
    relative = _propagate(graph, plan, edits)
    changes = graph.edges @ relative
    return Prediction(
        changes=tuple(
            TargetChange(text=target.text, vocab_id=target.vocab_id, change=float(changes[target.node]))
            for target in graph.targets
        ),
        edited=len(edits),
        outside=outside,
    )


def _propagate(graph: Graph, plan: Plan, edits: Mapping[int, tuple[float, float]]) -> np.ndarray:
    """The share of its activation by which each node changes; layer by layer, as edges only go up."""
    relative = np.zeros(len(graph))
    value = graph.value.astype(np.float64)
    features = (graph.kind == FEATURE) & (value != 0)
    for layer in range(graph.n_layers):
        here = features & (graph.layer == layer)
        if not plan.constrains(layer) and relative.any():
            rows = np.flatnonzero(here)
            relative[rows] = (graph.edges[rows] @ relative) / value[rows]
        for row, (factor, offset) in edits.items():
            if here[row]:
                own = relative[row] if plan.attention == "free" or factor == 1 else 0.0
                relative[row] = factor * (1 + own) + offset / value[row] - 1
    return relative
