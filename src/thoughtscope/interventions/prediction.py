"""What a graph says that a plan will do: the change of each target, before any edited forward pass is run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.graphs.graph import FEATURE, Graph
from thoughtscope.interventions.edits import FeatureEdit, fold


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


def follow_edges(
    graph: Graph, edits: Iterable[FeatureEdit], *, frozen: bool, constrained: Collection[int]
) -> Prediction:
    """The change of each target that the graph's edges imply, by propagating the edits' changes along them.

    The graph is linear: an edge is a source's contribution to its target, so a source that changes by the share `r`
    of its activation changes the target by `r * edge`. A feature that is not edited passes on the share by which
    its own pre-activation changed, as if it stayed active; edited features end where their edits put them; tokens
    and errors stay. `frozen`: whether attention is, so that `scale` starts from the unedited activation.
    `constrained`: layers whose MLPs are held, where unedited features stay too; over all layers only direct edges
    count. Source: Ameisen et al. 2025, "Circuit Tracing".
    """
    outside = 0
    touched: dict[int, list[FeatureEdit]] = {}
    for edit in edits:
        same = (graph.kind == FEATURE) & (graph.layer == _layer(edit)) & (graph.index == edit.index)
        rows = [row for row in np.flatnonzero(same).tolist() if edit.covers(int(graph.position[row]))]
        outside += not rows
        for row in rows:
            touched.setdefault(row, []).append(edit)
    by_node = {row: fold(several) for row, several in touched.items()}
    relative = _propagate(graph, by_node, frozen, constrained)
    changes = graph.edges @ relative
    return Prediction(
        changes=tuple(
            TargetChange(text=target.text, vocab_id=target.vocab_id, change=float(changes[target.node]))
            for target in graph.targets
        ),
        edited=len(by_node),
        outside=outside,
    )


def _layer(edit: FeatureEdit) -> int:
    """The layer that the part of a graph's feature is named by; -1 for a part of another kind, which has no nodes."""
    return int(edit.part) if edit.part.isdecimal() else -1


def _propagate(
    graph: Graph, by_node: Mapping[int, tuple[float, float]], frozen: bool, constrained: Collection[int]
) -> np.ndarray:
    """The share of its activation by which each node changes; layer by layer, as edges only go up."""
    relative = np.zeros(len(graph))
    value = graph.value.astype(np.float64)
    features = (graph.kind == FEATURE) & (value != 0)
    for layer in range(graph.n_layers):
        here = features & (graph.layer == layer)
        if layer not in constrained and relative.any():
            rows = np.flatnonzero(here)
            relative[rows] = (graph.edges[rows] @ relative) / value[rows]
        for row, (factor, offset) in by_node.items():
            if here[row]:
                own = relative[row] if not frozen or factor == 1 else 0.0
                relative[row] = factor * (1 + own) + offset / value[row] - 1
    return relative
