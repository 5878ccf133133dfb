"""Features long silent: they learn from what the others leave, are drawn to their threshold, or start anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.training.recipe import Auxiliary, PreActivation
from thoughtscope.training.weights import side_by_side

if TYPE_CHECKING:
    from thoughtscope.training.state import PartState, State
    from thoughtscope.training.step import Active


@dataclass(kw_only=True)
class Revival:
    """Gradients of the dead features of one part, and the loss that they are of."""

    index: Int[Tensor, " dead"]
    encoder: Float[Tensor, "dead d_in"]
    bias: Float[Tensor, " dead"]
    decoder: Float[Tensor, "dead d_out"]
    loss: float

    def add(self, decoder: Tensor, encoder: Tensor, start: int, stop: int) -> None:
        """Adds them, in place, to the gradients of rows `start` to `stop`."""
        here = (self.index >= start) & (self.index < stop)
        rows = self.index[here] - start
        decoder.index_add_(0, rows, self.decoder[here].to(decoder.dtype))
        encoder.index_add_(0, rows, self.encoder[here].to(encoder.dtype))


def revive(
    state: State,
    part: PartState,
    dead: Active | None,
    x: Mapping[Site, Tensor],
    errors: Mapping[Site, Tensor],
    weights: Mapping[Site, Tensor],
) -> Revival | None:
    """The gradients by which dead features learn in this step, if any are dead."""
    if dead is None:
        return None
    index = part.dead_index(state)
    assert index is not None
    read = side_by_side(part.layout.reads, x)
    if isinstance(state.recipe.dead, PreActivation):
        return _towards_threshold(state, part, dead, index, read)
    return _on_the_rest(state, part, dead, index, read, errors, weights)


def _on_the_rest(
    state: State,
    part: PartState,
    dead: Active,
    index: Tensor,
    read: Tensor,
    errors: Mapping[Site, Tensor],
    weights: Mapping[Site, Tensor],
) -> Revival:
    """AuxK: coefficient · Σ_s ‖e_s + ê_s‖² / ‖e_s‖², what dead features leave of what is left; e_s is a constant here.

    At sites that several parts write, each explains the rest by itself. Rows count as they do in the loss.
    """
    assert isinstance(state.recipe.dead, Auxiliary)
    decoder = part.own["W_dec"][index]
    written = state.ranks.total(dead.pattern.decode(dead.values[0], decoder))
    loss, grads = 0.0, []
    for site, columns in part.layout.writes.items():
        left, weight = errors[site] + written[:, columns], weights.get(site, 1.0)
        total = (errors[site].square() * weight).sum().clamp(min=1e-12)
        loss += float((left.square() * weight).sum() / total)
        grads.append(left * (2 * state.recipe.dead.coefficient / total * weight))
    grad = torch.cat(grads, dim=1) if len(grads) > 1 else grads[0]
    pre = dead.pattern.against(grad, decoder) * (dead.z > 0)
    n = len(index)
    return Revival(
        index=index,
        encoder=dead.pattern.columns(pre, read)(0, n),
        bias=dead.pattern.by_feature(pre),
        decoder=dead.pattern.columns(dead.values[0], grad)(0, n),
        loss=state.recipe.dead.coefficient * loss,
    )


def _towards_threshold(state: State, part: PartState, dead: Active, index: Tensor, read: Tensor) -> Revival:
    """coefficient / n · Σ max(θ − z, 0) ‖decoder‖: moves encoders and biases; θ and norms are constants here."""
    assert isinstance(state.recipe.dead, PreActivation)
    n_tokens = dead.pattern.n_tokens
    theta = (
        part.own["log_threshold"].exp()[index]
        if "log_threshold" in part.own
        else dead.z.new_zeros(len(index))
    )
    weight = part.norms(state)[index] * (state.recipe.dead.coefficient / n_tokens)
    missing = (theta - dead.z).relu()
    pre = -weight * (missing > 0)
    return Revival(
        index=index,
        encoder=pre.T @ read,
        bias=pre.sum(0),
        decoder=torch.zeros_like(part.own["W_dec"][index]),
        loss=float(state.ranks.total((missing * weight).sum())),
    )


def resample(
    state: State, x: Mapping[Site, Tensor], errors: Mapping[Site, Tensor], weights: Mapping[Site, Tensor]
) -> int:
    """Gives each dead feature the direction of an input that is explained badly, and forgets its moments; counts them.

    Inputs are drawn with probability proportional to their squared loss. Encoders take a fifth of the mean norm of the
    living, decoders the direction of what is left there (Bricken et al. 2023, appendix on resampling).
    """
    random = torch.Generator().manual_seed(state.recipe.seed * 1_000_003 + state.step)
    errors = {site: e * weights[site].sqrt() if site in weights else e for site, e in errors.items()}
    count = 0
    for part in state.parts:
        dead = part.dead(state)
        index = dead.nonzero()[:, 0]
        counts = state.ranks.gathered(torch.tensor([len(index)])).tolist()
        if not sum(counts):
            continue
        read, left = side_by_side(part.layout.reads, x), side_by_side(part.layout.writes, errors)
        badness = left.square().sum(1).square().double().cpu()
        drawn = torch.multinomial(badness, sum(counts), replacement=True, generator=random).to(read.device)
        # Every rank draws for all, in the order of the features, and takes what its own get.
        drawn = drawn.split(counts)[state.ranks.rank]
        living = _mean(state, part.own["W_enc"][~dead].norm(dim=1))
        part.own["W_enc"][index] = 0.2 * living * _directions(read[drawn])
        part.own["W_dec"][index] = _directions(-left[drawn]) * (
            1.0 if state.recipe.decoder == "unit" else _mean(state, part.norm)
        )
        part.own["b_enc"][index] = 0
        for name, value in state.objective.extras.items():
            part.own[name][index] = value
        for name in ("W_enc", "W_dec", "b_enc", *state.objective.extras):
            state.adam.forget(f"{part.name}/{name}", index)
        part.idle[index] = 0
        part.refresh(0, part.n_features)
        count += sum(counts)
    return count


def _mean(state: State, x: Float[Tensor, " feature"]) -> Float[Tensor, ""]:
    """Over the features of all ranks; 1 where there are none."""
    total, n = state.ranks.total(torch.stack([x.sum(), x.new_tensor(float(len(x)))]))
    return total / n if n > 0 else torch.ones_like(total)


def _directions(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)
