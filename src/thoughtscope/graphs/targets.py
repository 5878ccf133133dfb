"""What a graph explains: next tokens, differences of their logits, features of its own or of another dictionary.

Every target but the graph's own features is a linear read of the model: a vector for one or more sites at one position
and a constant. A logit reads the output of the final norm; features of autoencoders and crosscoders, their sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import FeatureId, NodeId, NodeKind
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.features import flat
from thoughtscope.graphs.linear import Linearised
from thoughtscope.models.capture import Activations
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import token_text


@dataclass(frozen=True)
class LogitDifference:
    """How much more the model wants token `a` than token `b`; each a piece of text that is one token, or an id."""

    a: str | int
    b: str | int


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTarget:
    """The pre-activation of a feature of any dictionary: of an autoencoder on the residual stream, a crosscoder, …

    Features of the dictionary that is traced are named by their `NodeId` instead.
    """

    dictionary: Dictionary
    part: str
    index: int
    position: int = -1

    @property
    def reads(self) -> tuple[Site, ...]:
        return self.dictionary.part(self.part).reads


@dataclass(frozen=True, kw_only=True)
class ReadTarget:
    """A linear read of the model at one position: `value = Σ_site vector · x_site + bias`."""

    text: str
    vocab_id: int | None
    index: int
    """The node's index: the vocabulary id, or a virtual one above the vocabulary."""
    probability: float
    weight: float
    position: int
    vectors: Mapping[Site, Float[Tensor, " _"]]
    bias: float
    value: float


TargetLike = str | int | LogitDifference | NodeId | FeatureTarget


def resolve_targets(
    model: Model,
    frozen: Linearised,
    activations: Activations,
    wanted: Sequence[TargetLike] | None,
    *,
    position: int,
    max_targets: int,
    target_mass: float,
) -> tuple[list[ReadTarget], list[NodeId]]:
    """Reads of the model, and features of the graph itself, for what the user asked for.

    None means the likeliest next tokens at `position`, until they cover `target_mass` or number `max_targets`.
    Raises `ThoughtscopeError` for text that is not one token, `UnknownFeature` for a node that is no feature, and for
    a feature of another dictionary that is not active.
    """
    if wanted is None:
        wanted = likeliest(frozen.logits[position], max_targets=max_targets, target_mass=target_mass)
    if not wanted:
        raise ThoughtscopeError(
            "A graph needs at least one target; pass targets=None for the likeliest next tokens."
        )
    if len(set(wanted)) != len(wanted):
        raise ThoughtscopeError("A target is named twice; name each once.")
    unembedding = _CentredUnembedding(model=model, frozen=frozen, position=position)
    reads: list[ReadTarget] = []
    virtual = model.vocab_size  # differences and features get indices above the vocabulary
    for item in wanted:
        if isinstance(item, LogitDifference):
            reads.append(unembedding.difference(item, index=virtual))
            virtual += 1
        elif isinstance(item, FeatureTarget):
            reads.append(_feature(item, activations, index=virtual))
            virtual += 1
        elif not isinstance(item, NodeId):
            reads.append(unembedding.token(token_id(model, item)))
        elif item.kind != NodeKind.FEATURE:
            raise UnknownFeature(f"A target node is a feature; {item} is a {item.kind} node.")
    if len({target.index for target in reads}) != len(reads):
        raise ThoughtscopeError("Two targets mean the same token; name each once.")
    return reads, [item for item in wanted if isinstance(item, NodeId)]


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


@dataclass(frozen=True, kw_only=True)
class _CentredUnembedding:
    """Logits less the vocabulary's mean, before any soft cap (Ameisen et al. 2025, appendix): softmax sees no more."""

    model: Model
    frozen: Linearised
    position: int

    @cached_property
    def mean(self) -> Float[Tensor, " d_model"]:
        return self.model.family.unembed.detach().mean(0, dtype=torch.float32)

    def token(self, token: int) -> ReadTarget:
        bias = self.model.family.unembed_bias
        probability = float(self.frozen.logits[self.position].softmax(-1)[token])
        vector = self.model.family.unembed.detach()[token].float() - self.mean
        constant = 0.0 if bias is None else float(bias[token].float() - bias.float().mean())
        return ReadTarget(
            text=token_text(self.model, token),
            vocab_id=token,
            index=token,
            probability=probability,
            weight=probability,
            position=self.position,
            vectors={Site("final_norm"): vector},
            bias=constant,
            value=float(vector @ self.frozen.final_hidden[self.position]) + constant,
        )

    def difference(self, pair: LogitDifference, *, index: int) -> ReadTarget:
        a, b = (self.token(token_id(self.model, token)) for token in (pair.a, pair.b))
        return ReadTarget(
            text=f"{a.text} − {b.text}",
            vocab_id=None,
            index=index,
            probability=a.probability,
            weight=1.0,
            position=self.position,
            vectors={site: vector - b.vectors[site] for site, vector in a.vectors.items()},
            bias=a.bias - b.bias,
            value=a.value - b.value,
        )


def _feature(item: FeatureTarget, activations: Activations, *, index: int) -> ReadTarget:
    """A feature of another dictionary, as its encoder's read."""
    part = item.dictionary.part(item.part)
    item.dictionary.check_feature(item.part, item.index)
    if part.normalise:
        raise DictionaryMismatch(
            f"Part {part.name} of {item.dictionary.name} normalises each vector that it reads ({part.normalise}): its "
            "features are no linear function of the residual stream, so they cannot be traced."
        )
    n_positions = activations[part.reads[0]].shape[1]
    if not -n_positions <= item.position < n_positions:
        raise ThoughtscopeError(
            f"position {item.position} is outside the prompt, which has positions 0 to {n_positions - 1}."
        )
    position, which = item.position % n_positions, torch.tensor([item.index])
    held = {site: flat(activations[site][0, position], 0).float() for site in part.reads}
    values = part.activations(held)
    if item.dictionary.skip_first and position == 0:
        values = torch.zeros_like(values)
    if not float(values[item.index]) > 0:
        active = values.nonzero()[:, 0].tolist()
        raise UnknownFeature(
            f"Feature {item.index} of part {part.name} in {item.dictionary.name} is not active at position {position}; "
            f"active there: {', '.join(map(str, active[:12])) or 'none'}{', …' if len(active) > 12 else ''}."
        )
    return ReadTarget(
        text=f"{FeatureId(item.dictionary.name, part.name, item.index)} at {position}",
        vocab_id=None,
        index=index,
        probability=1.0,
        weight=1.0,
        position=position,
        vectors={site: rows[0] for site, rows in part.encoder_rows(which).items()},
        bias=float(part.encoder_bias(which)),
        value=float(part.preactivations(held)[item.index]),
    )
