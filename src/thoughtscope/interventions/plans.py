"""`Plan`: edits of features and directions and how the rest of the model behaves meanwhile, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from thoughtscope.core.errors import InvalidPlan, UnknownFeature, describe_choices
from thoughtscope.core.ids import FeatureId, NodeId, NodeKind
from thoughtscope.core.parsing import strict_json
from thoughtscope.graphs.graph import FEATURE, Graph
from thoughtscope.interventions.edits import FeatureEdit, Op, read_edit
from thoughtscope.interventions.prediction import Prediction, follow_edges
from thoughtscope.models.edits import Edit

Attention = Literal["frozen", "free"]
Target = str | NodeId | FeatureId | Edit


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to change, and what to hold. Plans of one kind add up with `|`; edits apply in order.

    - `attention`: `"frozen"` holds the attention patterns of the unedited run on the prompt; `"free"` lets them move.
    - `constrained`: layers (first, last) whose MLPs write what they wrote in the unedited run plus the edits' share.
      Over all layers the norm scales are held as well, so that only direct effects remain.
    """

    edits: tuple[FeatureEdit | Edit, ...] = ()
    attention: Attention = "frozen"
    constrained: tuple[int, int] | None = None
    label: str = ""
    prediction: Prediction | None = None

    def __post_init__(self) -> None:
        if self.attention not in get_args(Attention):
            raise InvalidPlan(
                describe_choices(self.attention, get_args(Attention), what="way to treat attention")
            )
        for edit in self.edits:
            if not isinstance(edit, (FeatureEdit, Edit)):
                raise InvalidPlan(f"A plan holds FeatureEdits and Edits; got {type(edit).__name__}.")
        if self.constrained is not None:
            whole = all(isinstance(layer, int) and not isinstance(layer, bool) for layer in self.constrained)
            if len(self.constrained) != 2 or not whole or not 0 <= self.constrained[0] <= self.constrained[1]:
                raise InvalidPlan(
                    f"constrained must be (first layer, last layer), 0 or more; got {self.constrained}."
                )

    def __or__(self, other: Plan) -> Plan:
        """Both plans' edits, this one's first. The prediction is dropped: call `predicted` for the whole."""
        if self.edits and other.edits:
            for field in ("attention", "constrained"):
                mine, theirs = getattr(self, field), getattr(other, field)
                if mine != theirs:
                    raise InvalidPlan(
                        f"Plans with {field} {mine!r} and {theirs!r} cannot be joined. Make them equal."
                    )
        host = self if self.edits else other
        label = " + ".join(dict.fromkeys(text for text in (self.label, other.label) if text))
        return replace(host, edits=self.edits + other.edits, label=label, prediction=None)

    @property
    def feature_edits(self) -> tuple[FeatureEdit, ...]:
        return tuple(edit for edit in self.edits if isinstance(edit, FeatureEdit))

    @property
    def direction_edits(self) -> tuple[Edit, ...]:
        return tuple(edit for edit in self.edits if isinstance(edit, Edit))

    def constrains(self, layer: int) -> bool:
        """True when the MLP of `layer` is held."""
        return self.constrained is not None and self.constrained[0] <= layer <= self.constrained[1]

    def predicted(self, graph: Graph) -> Plan:
        """The same plan with what `graph` says it will do."""
        return replace(self, prediction=predict(graph, self))

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values; `from_json` is the exact inverse."""
        return {
            "edits": [edit.to_json() for edit in self.edits],
            "attention": self.attention,
            "constrained": None if self.constrained is None else list(self.constrained),
            "label": self.label,
            "prediction": None if self.prediction is None else self.prediction.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Plan:
        """Reads what `to_json` gave, as values or as text. Raises `InvalidPlan` naming the field."""
        data = read_object(data, tuple(cls.__dataclass_fields__), what="plan")
        try:
            constrained, prediction = data.get("constrained"), data.get("prediction")
            return cls(
                edits=tuple(read_edit(edit) for edit in data["edits"]),
                attention=data.get("attention", "frozen"),
                constrained=None if constrained is None else tuple(constrained),
                label=str(data.get("label", "")),
                prediction=None if prediction is None else Prediction.from_json(prediction),
            )
        except (KeyError, TypeError) as error:
            raise InvalidPlan(f"This plan cannot be read: {error}.") from None


def predict(graph: Graph, plan: Plan) -> Prediction:
    """The change of each target that the graph implies; see `follow_edges`. Directions are no part of a graph."""
    held = [layer for layer in range(graph.n_layers) if plan.constrains(layer)]
    return follow_edges(graph, plan.feature_edits, frozen=plan.attention == "frozen", constrained=held)


def plan(
    graph: Graph,
    target: Target | Sequence[Target],
    *,
    scale: float | int | None = None,
    set: float | int | None = None,
    add: float | int | None = None,
    ablate: bool = False,
    positions: Sequence[int] | int | None = None,
    start: int | None = None,
    attention: Attention = "frozen",
    constrained: tuple[int, int] | None = None,
    label: str | None = None,
) -> Plan:
    """A plan to change what `target` names in `graph`, with the graph's prediction of the effect.

    `target` is a supernode's label, a node (`feature:2:9:310`), a feature (`dictionary/2/310`), a label, an `Edit` on a
    direction, or a list of these. Exactly one of `scale`, `set`, `add` and `ablate` says what to do with the features.
    Nodes are edited at their own position and features at every position, unless `positions` or `start` says otherwise.
    Raises `UnknownFeature` with the nearest names, and `InvalidPlan`.
    """
    targets = [target] if isinstance(target, (str, NodeId, FeatureId, Edit)) else list(target)
    if not targets:
        raise InvalidPlan("The list of targets is empty. Name a supernode, a node, a feature or an Edit.")
    directions = [item for item in targets if isinstance(item, Edit)]
    named = [item for item in targets if not isinstance(item, Edit)]
    given = {"scale": scale, "set": set, "add": add, "ablate": 0.0 if ablate else None}
    chosen = [(op, float(value)) for op, value in given.items() if value is not None]
    if len(chosen) != (1 if named else 0):
        needed = (
            "exactly one of scale, set, add and ablate"
            if named
            else "no operation, as an Edit carries its own"
        )
        got = ", ".join(f"{op}={value:g}" for op, value in chosen) or "none"
        raise InvalidPlan(f"A plan for {', '.join(map(str, named)) or 'an Edit'} takes {needed}; got {got}.")
    where = _where(positions, start)
    edits: list[FeatureEdit | Edit] = []
    for item in named:
        for part, position, index in resolve(graph, item):
            own = {"positions": None if position is None else (position,)} if where is None else where
            ((op, value),) = chosen
            edits.append(FeatureEdit(part=part, index=index, op=_op(op), value=value, **own))
    made = Plan(
        edits=(*dict.fromkeys(edits), *directions),
        attention=attention,
        constrained=constrained,
        label=", ".join(map(str, named)) if label is None else label,
    )
    return made.predicted(graph)


def resolve(graph: Graph, target: str | NodeId | FeatureId) -> list[tuple[str, int | None, int]]:
    """The features that a name means in `graph`, as (part, position or None for all, index).

    A supernode means its features; its tokens, errors and logits cannot be edited and are passed over.
    Raises `UnknownFeature`, and `InvalidPlan` for a name without any feature.
    """
    if isinstance(target, FeatureId):
        return [_feature(graph, target)]
    if isinstance(target, NodeId):
        return [_node(graph, target)]
    for supernode in graph.supernodes:
        if supernode.label == target:
            nodes = [node for node in supernode.members if node.kind == NodeKind.FEATURE]
            if not nodes:
                raise InvalidPlan(f'Supernode "{target}" holds no feature, so there is nothing to edit.')
            return [_node(graph, node) for node in nodes]
    labelled = [row for row in np.flatnonzero(graph.kind == FEATURE) if graph.label(int(row)) == target]
    if labelled:
        return [_node(graph, graph.node_id(int(row))) for row in labelled]
    if target.partition(":")[0] in list(NodeKind):
        return [_node(graph, NodeId.parse(target))]
    if target.count("/") >= 2 and target.rpartition("/")[2].isdigit():
        return [_feature(graph, FeatureId.parse(target))]
    names = [supernode.label for supernode in graph.supernodes] + list(dict.fromkeys(graph.labels.values()))
    ids = [str(node) for node in graph.node_ids() if node.kind == NodeKind.FEATURE]
    raise UnknownFeature(describe_choices(target, names + ids, what="supernode, label or node of this graph"))


def _node(graph: Graph, node: NodeId) -> tuple[str, int | None, int]:
    if node.kind != NodeKind.FEATURE:
        raise InvalidPlan(
            f'"{node}" is a {node.kind} node; a plan edits features, for example "feature:2:9:310".'
        )
    graph.find(node)
    assert node.layer is not None and node.index is not None
    return str(node.layer), node.position, node.index


def _feature(graph: Graph, feature: FeatureId) -> tuple[str, int | None, int]:
    """A feature need not be a node of the graph: one that is silent on this prompt can still be turned on."""
    if graph.dictionary_name and feature.dictionary != graph.dictionary_name:
        raise UnknownFeature(
            describe_choices(feature.dictionary, [graph.dictionary_name], what="dictionary of this graph")
        )
    if feature.part.isdecimal() and int(feature.part) >= graph.n_layers:
        raise UnknownFeature(f'"{feature}" does not exist: this graph has layers 0 to {graph.n_layers - 1}.')
    return feature.part, None, feature.index


def _where(positions: Sequence[int] | int | None, start: int | None) -> dict[str, Any] | None:
    if positions is None and start is None:
        return None
    given = (positions,) if isinstance(positions, int) else positions
    return {
        "positions": None if given is None else tuple(int(position) for position in given),
        "start": start,
    }


def _op(name: str) -> Op:
    assert name in get_args(Op)
    return name  # type: ignore[return-value]


def read_object(data: Mapping[str, Any] | str, allowed: Sequence[str], *, what: str) -> Mapping[str, Any]:
    """JSON text or values as an object that has no other fields than `allowed`. Raises `InvalidPlan`."""
    data = strict_json(data, f"This {what}", error=InvalidPlan) if isinstance(data, str) else data
    if not isinstance(data, Mapping):
        raise InvalidPlan(f"A {what} is a JSON object; got {type(data).__name__}.")
    for key in data:
        if key not in allowed:
            raise InvalidPlan(describe_choices(key, allowed, what=f"field of a {what}"))
    return data
