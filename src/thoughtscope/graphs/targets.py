"""What a graph explains: next tokens, differences of their logits, features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import NodeId, NodeKind
from thoughtscope.graphs.linear import Linearised
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import token_text


@dataclass(frozen=True)
class LogitDifference:
    """How much more the model wants token `a` than token `b`; each a piece of text that is one token, or an id."""

    a: str | int
    b: str | int


@dataclass(frozen=True, kw_only=True)
class LogitTarget:
    """A direction after the final norm, at one position: `value = vector · hidden + bias`."""

    text: str
    vocab_id: int | None
    index: int
    """The node's index: the vocabulary id, or a virtual one above the vocabulary."""
    probability: float
    weight: float
    position: int
    vector: Float[Tensor, " d_model"]
    bias: float


TargetLike = str | int | LogitDifference | NodeId


def resolve_targets(
    model: Model,
    frozen: Linearised,
    wanted: Sequence[TargetLike] | None,
    *,
    position: int,
    max_targets: int,
    target_mass: float,
) -> tuple[list[LogitTarget], list[NodeId]]:
    """Logit targets and feature targets for what the user asked for.

    None means the likeliest next tokens at `position`, until they cover `target_mass` or number `max_targets`.
    Raises `ThoughtscopeError` for text that is not one token, `UnknownFeature` for a node that is no feature.
    """
    if wanted is None:
        wanted = likeliest(frozen.logits[position], max_targets=max_targets, target_mass=target_mass)
    if not wanted:
        raise ThoughtscopeError(
            "A graph needs at least one target; pass targets=None for the likeliest next tokens."
        )
    if len(set(wanted)) != len(wanted):
        raise ThoughtscopeError("A target is named twice; name each once.")
    mean = model.family.unembed.detach().mean(0, dtype=torch.float32)
    logits = []
    differences = 0
    for item in wanted:
        if isinstance(item, LogitDifference):
            logits.append(_difference(model, frozen, item, position, differences, mean))
            differences += 1
        elif not isinstance(item, NodeId):
            logits.append(_token(model, frozen, token_id(model, item), position, mean))
        elif item.kind != NodeKind.FEATURE:
            raise UnknownFeature(f"A target node is a feature; {item} is a {item.kind} node.")
    if len({target.index for target in logits}) != len(logits):
        raise ThoughtscopeError("Two targets mean the same token; name each once.")
    return logits, [item for item in wanted if isinstance(item, NodeId)]


def likeliest(logits: Float[Tensor, " vocab"], *, max_targets: int, target_mass: float) -> list[int]:
    """The fewest most likely tokens that cover `target_mass`, at most `max_targets`."""
    if max_targets < 1 or not 0 < target_mass <= 1:
        raise ThoughtscopeError(
            f"max_targets must be 1 or more and target_mass over 0 and up to 1; got {max_targets} and {target_mass}."
        )
    top = logits.softmax(-1).topk(min(max_targets, len(logits)))
    needed = int((top.values.cumsum(0) < target_mass).sum()) + 1
    return top.indices[:needed].tolist()


def token_id(model: Model, token: str | int) -> int:
    """The vocabulary id of an id or of a text that is exactly one token. Raises `ThoughtscopeError`."""
    vocab_size = model.family.unembed.shape[0]
    if isinstance(token, str):
        if model.tokenizer is None:
            raise ThoughtscopeError(
                f"{model.name} has no tokenizer; name the target {token!r} by its vocabulary id."
            )
        ids = model.tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1:
            raise ThoughtscopeError(
                f"The target {token!r} is {len(ids)} tokens ({ids}); a target is one token. "
                f"Words inside a text mostly start with a space: {' ' + token.strip()!r}."
            )
        return int(ids[0])
    if not 0 <= token < vocab_size:
        raise ThoughtscopeError(
            f"{token} is not a vocabulary id of {model.name}: ids go from 0 to {vocab_size - 1}."
        )
    return int(token)


def _token(
    model: Model, frozen: Linearised, token: int, position: int, mean: Float[Tensor, " d_model"]
) -> LogitTarget:
    """A token's logit over the mean logit of the vocabulary, before any soft cap (Ameisen et al. 2025, appendix)."""
    unembed, bias = model.family.unembed.detach(), model.family.unembed_bias
    probability = float(frozen.logits[position].softmax(-1)[token])
    return LogitTarget(
        text=token_text(model, token),
        vocab_id=token,
        index=token,
        probability=probability,
        weight=probability,
        position=position,
        vector=unembed[token].float() - mean,
        bias=0.0 if bias is None else float(bias[token].float() - bias.float().mean()),
    )


def _difference(
    model: Model,
    frozen: Linearised,
    pair: LogitDifference,
    position: int,
    number: int,
    mean: Float[Tensor, " d_model"],
) -> LogitTarget:
    a, b = (_token(model, frozen, token_id(model, token), position, mean) for token in (pair.a, pair.b))
    return LogitTarget(
        text=f"{a.text} − {b.text}",
        vocab_id=None,
        index=model.family.unembed.shape[0] + number,
        probability=a.probability,
        weight=1.0,
        position=position,
        vector=a.vector - b.vector,
        bias=a.bias - b.bias,
    )
