"""One training step with gradients written out: its cost grows with the active features, not with all of them.

    encode      W_enc x in the low-precision type, a stretch of tokens at a time; only what passes is kept
    compete     the k · tokens largest of a batch, for objectives that have that
    decode      what the active features write, prefix by prefix; errors and loss
    backward    gradients at the active entries, then of the weights, a block of features at a time

With e_s = ŷ_s − y_s at write site s of width d_s over n tokens, the loss is Σ_s Σ_i w_si ‖e_si‖² / (n d_s): in
training's units, where targets have unit mean square, about the fraction of variance unexplained, summed over sites.
The weights w are 1 but for rows that are far longer than the typical one. Every gradient here is checked against
autograd in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.training import schedule
from thoughtscope.training.dead import Revival, resample, revive
from thoughtscope.training.objective import Gradients
from thoughtscope.training.patterns import Block, Dense, Pairs, Pattern
from thoughtscope.training.recipe import Auxiliary, Resampling
from thoughtscope.training.selection import above_zero, among_all, bar_of_all, largest
from thoughtscope.training.state import PartState, State
from thoughtscope.training.weights import side_by_side

ROWS = 1024
"""Tokens that are encoded at a time: their scores are still in the cache when the best are looked for."""
DENSE = 1 / 12
"""Share of active entries from which whole matrix products are faster than gathers."""

Sink = Callable[[str, Tensor, int, int | None], None]
"""Takes the gradient of rows `start` to `stop` of a weight."""


Weights = Mapping[Site, Float[Tensor, "token 1"]]
"""By site, how much each row's squared error counts; sites where all count fully are left out."""


@dataclass(kw_only=True)
class Active:
    """What passed in one part: entries, their pre-activations, and what the objective makes of them."""

    pattern: Pattern
    z: Tensor
    values: list[Tensor] = field(default_factory=list)
    l0: float = 0.0
    """Active features a token, those of all ranks."""


@dataclass(kw_only=True)
class Pass:
    """A forward pass: per part what is active, per level and site the error of the reconstruction."""

    active: list[Active]
    dead: list[Active | None]
    """Per part, the dead features' best entries, where they learn from what the others leave."""
    errors: list[list[dict[Site, Tensor]]]
    """By reading (activations, then gates) and level (prefix)."""
    weights: Weights

    @property
    def final(self) -> dict[Site, Tensor]:
        """The error of the whole dictionary, by site."""
        return self.errors[0][-1]


# --- forward -------------------------------------------------------------------------------------------------------


def forward(state: State, x: Mapping[Site, Tensor], y: Mapping[Site, Tensor]) -> Pass:
    """Encodes and decodes a batch in training's units."""
    found = [encode(state, part, x) for part in state.parts]
    active, dead = [each for each, _ in found], [each for _, each in found]
    if state.recipe.activation.kind == "batchtopk":
        active = compete(state, active, x)
    for part, each in zip(state.parts, active, strict=True):
        each.values = state.objective.values(each.z, each.pattern, part.own)
    counts = state.ranks.total(torch.stack([(each.values[0] > 0).sum() for each in active])).tolist()
    for each, count in zip(active, counts, strict=True):
        each.l0 = count / each.pattern.n_tokens
    errors = [_errors(state, active, reading, x, y) for reading in range(len(active[0].values))]
    return Pass(active=active, dead=dead, errors=errors, weights=row_weights(state, y))


def row_weights(state: State, y: Mapping[Site, Tensor]) -> Weights:
    """min(1, limit² / mean square) of each target row, where any is longer than the limit."""
    limit = state.recipe.outliers
    if limit is None:
        return {}
    found = {}
    for site, target in y.items():
        square = torch.linalg.vector_norm(target, dim=1, keepdim=True).square_().div_(target.shape[1])
        if float(square.max()) > limit**2:
            found[site] = square.clamp_(min=limit**2).reciprocal_().mul_(limit**2)
    return found


def encode(state: State, part: PartState, x: Mapping[Site, Tensor]) -> tuple[Active, Active | None]:
    """The entries of one part that pass, or that are candidates to; and the best of its dead features."""
    read = side_by_side(part.layout.reads, x)
    n, kind = len(read), state.recipe.activation.kind
    low = read.to(part.scorer.dtype)
    bias = part.offset(state).to(low.dtype)
    chunk = n if read.device.type != "cpu" else min(ROWS, n)
    buffer = low.new_empty(chunk, part.n_features)
    dead = part.dead_index(state)
    found: list[tuple[Tensor, ...]] = []
    revived: list[Tensor] = []
    dense: list[Tensor] | None = None
    for start in range(0, n, chunk):
        rows = low[start : start + chunk]
        score = torch.addmm(bias, rows, part.scorer.T, out=buffer[: len(rows)])
        if start == 0 and state.may_be_dense:
            dense = [] if _share_above_zero(state, score[:64]) > DENSE else None
        if dense is not None:
            dense.append(score.clone())
        elif kind == "topk":
            value, index = largest(score, round(state.k))
            token = torch.arange(start, start + len(rows), device=score.device)[:, None].expand_as(index)
            found.append((token.flatten(), index.flatten(), value.flatten()))
        else:
            token, feature, value = above_zero(score)
            found.append((token + start, feature, value))
        if dead is not None:
            revived.append(score[:, dead])
    if dense is not None:
        pattern: Pattern = Dense(n_tokens=n, n_features=part.n_features, low=low.dtype)
        scores = torch.cat(dense).to(read.dtype)
    else:
        token, feature, value = (torch.cat(column) for column in zip(*found, strict=True))
        if kind == "topk" and state.ranks.world > 1:
            kept = among_all(value.view(n, -1), round(state.k), state.ranks).flatten().nonzero()[:, 0]
            token, feature, value = token[kept], feature[kept], value[kept]
        pattern = Pairs(token=token, feature=feature, n_tokens=n, n_features=part.n_features)
        scores = value.to(read.dtype)
    active = Active(pattern=pattern, z=part.preactivations(scores, pattern))
    return active, None if dead is None else _dead_active(state, part, dead, torch.cat(revived))


def _share_above_zero(state: State, score: Tensor) -> float:
    """Of the features of all ranks, so that they take the same way."""
    above = state.ranks.total((score > 0).sum())
    return float(above) / (len(score) * state.recipe.n_features)


def _dead_active(state: State, part: PartState, dead: Tensor, scores: Tensor) -> Active:
    """The entries by which dead features learn: the best of each token, or all, numbered among the dead alone."""
    n = len(scores)
    remedy = state.recipe.dead
    if isinstance(remedy, Auxiliary):
        value, which = scores.topk(min(remedy.k, len(dead)), dim=1, sorted=False)
        token = torch.arange(n, device=which.device)[:, None].expand_as(which)
        if state.ranks.world > 1:
            k = min(remedy.k, int(state.ranks.total(torch.tensor(len(dead)))))
            kept = among_all(value, k, state.ranks)
            token, which, value = token[kept], which[kept], value[kept]
        pairs = Pairs(token=token.flatten(), feature=which.flatten(), n_tokens=n, n_features=len(dead))
        z = part.unscored(value.flatten().to(state.dtype), dead[pairs.feature])
        return Active(pattern=pairs, z=z, values=[z.relu()])
    z = part.unscored(scores.to(state.dtype), dead)
    return Active(pattern=Dense(n_tokens=n, n_features=len(dead), low=state.dtype), z=z, values=[z.relu()])


def compete(state: State, active: list[Active], x: Mapping[Site, Tensor]) -> list[Active]:
    """Of the candidates above the cut, the k · tokens with the largest scores; below the cut where that is too few.

    The cut lies below the threshold of the step before, so that there are nearly always enough.
    """
    made = state.recipe.activation
    assert made.kind == "batchtopk"
    k, groups = (
        state.k,
        [range(len(active))] if made.shared else [range(i, i + 1) for i in range(len(active))],
    )
    chosen = list(active)
    for group in groups:
        wanted = round(k * active[0].pattern.n_tokens * len(group))
        while True:
            scores = [state.parts[i].scores(chosen[i].z, chosen[i].pattern) for i in group]
            n_found, lowest = bar_of_all(torch.cat(scores), wanted, state.ranks)
            cut = max(state.parts[i].cut for i in group)
            if n_found >= wanted or cut <= 0:
                break
            for i in group:
                state.parts[i].cut = 0.0 if cut < 1e-3 else cut / 2
                chosen[i] = encode(state, state.parts[i], x)[0]
        for i, score in zip(group, scores, strict=True):
            kept = (score >= lowest).nonzero()[:, 0]
            pattern = chosen[i].pattern
            assert isinstance(pattern, Pairs)
            chosen[i] = Active(
                pattern=Pairs(
                    token=pattern.token[kept],
                    feature=pattern.feature[kept],
                    n_tokens=pattern.n_tokens,
                    n_features=pattern.n_features,
                ),
                z=chosen[i].z[kept],
            )
            state.parts[i].saw_threshold(float(lowest))
    return chosen


def _errors(
    state: State, active: list[Active], reading: int, x: Mapping[Site, Tensor], y: Mapping[Site, Tensor]
) -> list[dict[Site, Tensor]]:
    """Reconstruction minus target by level and site, where level j has the features of the first j + 1 prefixes."""
    ranks = state.ranks
    total = {site: state.weights[f"b_dec/{site}"] - target for site, target in y.items()}
    for part in state.parts if state.recipe.skip else ():
        site = next(iter(part.layout.writes))
        total[site] = total[site] + side_by_side(part.layout.reads, x) @ part.own["W_skip"].T
    if not ranks.first:  # what is no feature's counts once
        total = {site: torch.zeros_like(error) for site, error in total.items()}
    levels = []
    for level in range(len(state.edges) - 1):
        for part, each in zip(state.parts, active, strict=True):
            pattern, values, rows = each.pattern, each.values[reading], part.decoder
            if len(state.edges) > 2:
                assert isinstance(pattern, Pairs)
                pattern, index = pattern.split(state.edges)[level]
                values, rows = values[index], rows[state.edges[level] : state.edges[level + 1]]
            written = pattern.decode(values, rows)
            for site, columns in part.layout.writes.items():
                total[site] = total[site] + written[:, columns]
        levels.append({site: ranks.total(error) for site, error in total.items()})
    return levels


# --- backward ------------------------------------------------------------------------------------------------------


def backward(state: State, x: Mapping[Site, Tensor], done: Pass, sink: Sink) -> tuple[float, list[Gradients]]:
    """Hands every gradient to `sink`, block by block; returns the loss and what the objective said per part."""
    scaled = [[_loss_gradient(level, done.weights) for level in reading] for reading in done.errors]
    n_levels, loss = len(state.edges) - 1, 0.0
    for reading in done.errors:
        loss += sum(float(_loss(level, done.weights)) for level in reading) / n_levels
    # An entry of prefix j counts in the errors of levels j and on.
    by_level = [[_summed(reading[level:], n_levels) for level in range(n_levels)] for reading in scaled]
    bias = by_level[0][0]
    made, revival = (
        [],
        [
            revive(state, part, dead, x, done.final, done.weights)
            for part, dead in zip(state.parts, done.dead, strict=True)
        ],
    )
    updates = []
    for part, active, help_ in zip(state.parts, done.active, revival, strict=True):
        gradients, decoders = _at_entries(state, part, active, by_level)
        made.append(gradients)
        loss += gradients.by_l0 + (help_.loss if help_ else 0.0)
        updates.append((part, active, gradients, decoders, help_))
    if any(isinstance(each.penalty, Tensor) for each in made):
        loss += float(state.ranks.total(torch.stack([torch.as_tensor(each.penalty) for each in made]).sum()))
    # Weights move only now: every part's gradients are of the same weights.
    for part, active, gradients, decoders, help_ in updates:
        _weights(state, part, active, gradients, decoders, help_, x, sink)
        if state.recipe.skip:
            site = next(iter(part.layout.writes))
            sink(f"{part.name}/W_skip", bias[site].T @ side_by_side(part.layout.reads, x), 0, None)
    for site, grad in bias.items():
        sink(f"b_dec/{site}", grad.sum(0), 0, None)
    return loss, made


def _at_entries(
    state: State, part: PartState, active: Active, by_level: list[list[dict[Site, Tensor]]]
) -> tuple[Gradients, list[Block]]:
    """Gradients at the active entries, and by level the decoders' gradients."""
    decoder, edges = part.decoder, state.edges
    n_levels = len(edges) - 1
    split: list[tuple[Pattern, Any]] = [(active.pattern, slice(None))]
    if n_levels > 1:
        assert isinstance(active.pattern, Pairs)
        split = [*active.pattern.split(edges)]
    grads, blocks = [], []
    for reading, values in enumerate(active.values):
        at = torch.zeros_like(values)
        for level, (pattern, index) in enumerate(split):
            written = side_by_side(part.layout.writes, by_level[reading][level]).to(decoder.dtype)
            found = pattern.against(written, decoder[edges[level] : edges[level + 1]])
            at[index] = found.to(values.dtype)
            if reading == 0:  # a gate's own reconstruction leaves the decoders alone
                blocks.append(pattern.columns(values[index], written))
        grads.append(at)
    gradients = state.objective.gradients(
        active.z, grads, active.pattern, part.own, part.norms(state),
        state.sparsity, active.pattern.n_tokens, active.l0,
    )  # fmt: skip
    return gradients, blocks


def _weights(
    state: State,
    part: PartState,
    active: Active,
    gradients: Gradients,
    decoders: list[Block],
    help_: Revival | None,
    x: Mapping[Site, Tensor],
    sink: Sink,
) -> None:
    """The gradients of a part's matrices in blocks of features, then those of its vectors."""
    read = side_by_side(part.layout.reads, x).to(part.scorer.dtype)
    encoder = active.pattern.columns(gradients.pre, read)
    direction = part.norm_gradient(state, gradients.norm)
    for level, decoder in enumerate(decoders):
        first = state.edges[level]
        for start, stop in part.blocks(first, state.edges[level + 1]):
            grad = decoder(start - first, stop - first).to(state.dtype)
            if direction is not None:
                grad = grad + direction(start, stop)
            grad_enc = encoder(start, stop).to(state.dtype)
            if help_ is not None:
                help_.add(grad, grad_enc, start, stop)
            sink(f"{part.name}/W_dec", grad, start, stop)
            sink(f"{part.name}/W_enc", grad_enc, start, stop)
    bias = active.pattern.by_feature(gradients.bias)
    if help_ is not None:
        bias = bias.index_add(0, help_.index, help_.bias)
    sink(f"{part.name}/b_enc", bias, 0, None)
    for name, grad in gradients.extras.items():
        sink(f"{part.name}/{name}", grad, 0, None)


def _loss(errors: Mapping[Site, Tensor], weights: Weights) -> Tensor:
    return torch.stack([_squares(e, weights.get(site)) / e.numel() for site, e in errors.items()]).sum()


def _squares(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ_i w_i ‖x_i‖², without a copy of x where all rows count fully."""
    flat = x.reshape(-1)
    return flat.dot(flat if weight is None else (x * weight).reshape(-1))


def _loss_gradient(errors: Mapping[Site, Tensor], weights: Weights) -> dict[Site, Tensor]:
    return {
        site: e * (2 / e.numel() * weights[site] if site in weights else 2 / e.numel())
        for site, e in errors.items()
    }


def _summed(levels: list[dict[Site, Tensor]], n_levels: int) -> dict[Site, Tensor]:
    if n_levels == 1:
        return levels[0]
    return {site: torch.stack([level[site] for level in levels]).sum(0) / n_levels for site in levels[0]}


# --- one step ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def train_step(state: State, batch: Mapping[Site, Tensor]) -> dict[str, float]:
    """Moves the weights by one batch in the model's units; returns loss, FVU, L0 and the share of dead features.

    FVU and L0 are means over sites and parts, of the weights before the step; rows count in FVU as they do in the loss.
    """
    x, y = state.scaled(batch)
    done = forward(state, x, y)
    state.adam.begin(schedule.rate(state.recipe.schedule, state.step))
    figures = _figures(state, done, y)
    figures["loss"], _ = backward(state, x, done, _applied(state))
    for part, active in zip(state.parts, done.active, strict=True):
        fired = active.pattern.by_feature((active.values[0] > 0).to(state.dtype))
        part.fired(fired.nonzero()[:, 0], active.pattern.n_tokens)
    if isinstance(state.recipe.dead, Resampling) and state.step in _resampled_at(state):
        figures["resampled"] = resample(state, x, done.final, done.weights)
    state.step += 1
    return figures


def _applied(state: State) -> Sink:
    """A sink that moves the weights, and brings what is derived from them up to date behind itself."""
    parts = {part.name: part for part in state.parts}
    unit = state.recipe.decoder == "unit"

    def sink(name: str, grad: Tensor, start: int, stop: int | None) -> None:
        owner, _, kind = name.rpartition("/")
        if kind == "W_dec" and unit:
            # Only what turns a row counts: along itself, it is brought back to norm 1 (Bricken et al. 2023).
            rows = state.weights[name][start:stop]
            grad = torch.addcmul(grad, rows, (grad * rows).sum(1, keepdim=True), value=-1)
        rows = state.adam.apply(name, grad, start, stop)
        if kind == "W_dec" and unit:
            rows.div_(rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
        if kind == "W_enc":  # which comes after its decoder
            parts[owner].refresh(start, stop or parts[owner].n_features)

    return sink


def _resampled_at(state: State) -> set[int]:
    remedy = state.recipe.dead
    assert isinstance(remedy, Resampling)
    return {round(share * state.recipe.schedule.n_steps) for share in remedy.at}


def _figures(state: State, done: Pass, y: Mapping[Site, Tensor]) -> dict[str, float]:
    fvu = [
        float(_squares(done.final[site], weight) / _squares(target, weight))
        for site, target in y.items()
        for weight in [done.weights.get(site)]
    ]
    dead = state.ranks.total(torch.stack([part.dead(state).sum() for part in state.parts]).sum())
    l0 = [active.l0 for active in done.active]
    n_features = len(state.parts) * state.recipe.n_features
    return {"fvu": sum(fvu) / len(fvu), "l0": sum(l0) / len(l0), "dead": float(dead) / n_features}
