"""`intervene`: change what a graph's nodes stand for, on the prompt that it was traced on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Literal

from thoughtscope.core.errors import InvalidPlan, LimitExceeded, NoModel, UnknownFeature, describe_choices
from thoughtscope.core.ids import NodeId
from thoughtscope.core.progress import Progress, silent
from thoughtscope.microscope.opening import Microscope
from thoughtscope.microscope.tracing import heard, tokens_of

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph
    from thoughtscope.interventions import Outcome, Plan
    from thoughtscope.models import Tokens

Attention = Literal["frozen", "free"]
Op = Literal["scale", "set", "add", "ablate"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """One operation on some features of a graph."""

    nodes: Sequence[str] = ()
    """By the ids of the graph (`feature:2:9:310`) or of its file (`2_310_9`)."""
    supernode: str | None = None
    """Or the features of a supernode, by its label."""
    at: str | None = None
    """Or every feature at a token that pruning leaves, by the token's text; spaces around it do not matter. Where
    pruning leaves none, every one that can reach the answer."""
    op: Op = "ablate"
    value: float | None = None


def intervene(
    microscope: Microscope,
    graph: Graph,
    changes: Sequence[Change],
    *,
    attention: Attention = "frozen",
    max_new_tokens: int = 0,
    progress: Progress = silent,
) -> Outcome:
    """What the model answers when the changes are made while it reads the graph's prompt, and with random features.

    No change at all is the empty plan. Raises `NoModel` for a graph of another model, dictionary or tokenizer,
    `InvalidPlan` and `UnknownFeature` for what cannot be changed, `LimitExceeded` for too many new tokens.
    """
    from thoughtscope import interventions

    check_same_model(microscope, graph)
    tokens = tokens_like(microscope, graph)
    plan = plan_of(graph, changes, attention)
    limit = microscope.model.max_positions
    if tokens.ids.shape[1] + max_new_tokens > limit:
        raise LimitExceeded(f"The model reads {limit} tokens at most; ask for fewer new ones.")
    answer = max(graph.targets, key=lambda target: target.probability, default=None)
    return interventions.intervene_controlled(
        microscope.model,
        microscope.dictionary,
        tokens,
        plan,
        answer=None if answer is None else answer.vocab_id,
        max_new_tokens=max_new_tokens,
        progress=progress,
    )


def plan_of(graph: Graph, changes: Sequence[Change], attention: Attention = "frozen") -> Plan:
    """The changes as one plan, with the graph's prediction for the whole."""
    from thoughtscope import interventions

    if not changes:
        return interventions.Plan(edits=(), attention=attention)
    plans = [
        interventions.plan(graph, _members(graph, change), attention=attention, **_operation(change))
        for change in changes
    ]
    return reduce(or_, plans) if len(plans) == 1 else reduce(or_, plans).predicted(graph)


def _operation(change: Change) -> dict[str, Any]:
    if change.op == "ablate":
        return {"ablate": True}
    if change.value is None or not math.isfinite(change.value):
        raise InvalidPlan(f'"{change.op}" needs a value.')
    return {change.op: change.value}


def _members(graph: Graph, change: Change) -> str | list[NodeId]:
    """What `plan` takes: a supernode's label or nodes."""
    if change.supernode is not None:
        from thoughtscope.graphs import find_supernode

        return find_supernode(graph, change.supernode).label
    if change.at is not None:
        return _features_at(graph, change.at)
    return [node_of(graph, name) for name in change.nodes]


def _features_at(graph: Graph, token: str) -> list[NodeId]:
    """The features at a token that pruning leaves; where it leaves none, all that the graph has there."""
    from thoughtscope.graphs import prune

    found = {place for place, text in enumerate(graph.tokens) if text.strip() == token.strip()}
    if not found:
        raise UnknownFeature(
            describe_choices(token, list(dict.fromkeys(graph.tokens)), what="token of the prompt")
        )
    small = graph if "pruning" in graph.provenance else prune(graph)
    for each in (small, graph):
        members = [
            node for node in map(each.node_id, each.rows("feature").tolist()) if node.position in found
        ]
        if members:
            return members
    raise UnknownFeature(f'No feature at "{token}" can reach the answer, so there is nothing to change.')


def node_of(graph: Graph, name: str) -> NodeId:
    """A node by its own id (`feature:2:9:310`) or by a graph file's (`2_310_9`). Raises `UnknownFeature`."""
    from thoughtscope.graphs import node_of_file_id

    node = NodeId.parse(name) if ":" in name else node_of_file_id(name, graph)
    graph.find(node)
    return node


def check_same_model(microscope: Microscope, graph: Graph) -> None:
    """Refuses to test a graph of another model or dictionary: its features would be other features."""
    ours = (microscope.model.name, microscope.dictionary.scan)
    if (graph.model_name or ours[0], graph.scan or ours[1]) != ours:
        raise NoModel(
            f'The graph was made with {graph.model_name} and "{graph.scan}"; loaded are {ours[0]} and "{ours[1]}". '
            "Load those to test this graph."
        )


def tokens_like(microscope: Microscope, graph: Graph) -> Tokens:
    """The graph's prompt as it was cut when the graph was made, with or without its beginning-of-text token.

    A conversation's tokens are taken as they are, if they mean the same to this tokenizer: no text gives them again.
    Raises `NoModel` where this tokenizer cuts it differently: positions would name other tokens.
    """
    if graph.turns and (same := _tokens_again(microscope, graph)) is not None:
        return same
    has_bos = getattr(microscope.model.tokenizer, "bos_token_id", None) is not None
    for bos in (None, True, False) if has_bos else (None,):
        with heard():  # who traced the prompt was told
            tokens = tokens_of(microscope, graph.prompt, bos=bos)
        if not graph.token_ids or tuple(tokens.ids[0].tolist()) == tuple(graph.token_ids):
            return tokens
    raise NoModel("This model's tokenizer cuts the graph's prompt differently, so its positions do not fit.")


def _tokens_again(microscope: Microscope, graph: Graph) -> Tokens | None:
    from thoughtscope.models import tokens_from_ids

    if not all(0 <= token < microscope.model.vocab_size for token in graph.token_ids):
        return None
    tokens = tokens_from_ids(microscope.model, list(graph.token_ids))
    same = tokens.pieces[0] == graph.tokens and tokens.texts[0] == graph.prompt
    return replace(tokens, turns=(graph.turns,)) if same else None
