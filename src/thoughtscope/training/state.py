"""`State`: all that a training knows between two steps. What a checkpoint holds is exactly this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.training import schedule
from thoughtscope.training.objective import Objective, objective
from thoughtscope.training.optimiser import Adam, blocks
from thoughtscope.training.patterns import Pattern
from thoughtscope.training.ranks import Ranks
from thoughtscope.training.recipe import Auxiliary, PreActivation, Recipe
from thoughtscope.training.weights import PartLayout, Scaling, Weights

SLACK = 0.7
"""Candidates of a batch top-k are what scores above this share of the last threshold."""


class State:
    """A training at a step: weights, optimiser, thresholds, and when each feature last fired.

    Of many ranks, each has a state of its own stretch of features (`own`), with those rows of every weight.
    """

    def __init__(
        self,
        recipe: Recipe,
        layouts: Sequence[PartLayout],
        weights: Weights,
        scaling: Scaling,
        ranks: Ranks | None = None,
    ) -> None:
        self.recipe, self.scaling, self.weights = recipe, scaling, weights
        self.ranks = ranks or Ranks()
        self.own = self.ranks.rows(recipe.n_features)
        """Which features of each part these are."""
        self.objective: Objective = objective(recipe.activation)
        self.adam = Adam(weights, recipe.schedule.betas, recipe.schedule.epsilon)
        self.step = 0
        self.seconds = 0.0
        """Time spent in steps."""
        self.about: dict[str, Any] = {}
        """What the caller wants kept with it, JSON-able."""
        prefixes = getattr(recipe.activation, "prefixes", (1.0,))
        ends = [0, *(round(share * recipe.n_features) for share in prefixes)]
        self.edges = [min(max(end - self.own.start, 0), len(self.own)) for end in ends]
        """Where each prefix of the features ends among these."""
        self.parts = [PartState(self, layout) for layout in layouts]

    @property
    def device(self) -> torch.device:
        return next(iter(self.weights.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.weights.values())).dtype

    @property
    def sparsity(self) -> float:
        """How much of a penalty counts at this step."""
        return schedule.sparsity(self.recipe.schedule, self.step)

    @property
    def k(self) -> float:
        """Active features a token, of objectives that set it."""
        k = float(getattr(self.recipe.activation, "k", 0.0))
        return schedule.active(self.recipe.schedule, self.step, k, self.recipe.n_features)

    @property
    def may_be_dense(self) -> bool:
        """Whether a penalty, which needs its time, is all that makes features sparse."""
        return self.recipe.activation.kind in ("relu", "jumprelu", "gated")

    def scaled(self, batch: Mapping[Site, Tensor]) -> tuple[dict[Site, Tensor], dict[Site, Tensor]]:
        """Inputs and targets in training's units; a site that is both is the same tensor."""
        held = {
            site: self.scaling.inside(site, x.to(self.device), self.dtype)
            for site, x in batch.items()
            if site in self.scaling.mean
        }
        reads = {site: held[site] for part in self.parts for site in part.layout.reads}
        return reads, {site: held[site] for part in self.parts for site in part.layout.writes}


class PartState:
    """One part: views of its weights, and what is derived from them or remembered."""

    def __init__(self, state: State, layout: PartLayout) -> None:
        self.layout = layout
        self.own = {
            name.removeprefix(f"{layout.name}/"): weight
            for name, weight in state.weights.items()
            if name.startswith(f"{layout.name}/")
        }
        self.idle = torch.zeros(self.n_features, dtype=torch.long, device=state.device)
        """Tokens since each feature fired."""
        self.threshold: float | None = None
        """The running score from which a batch top-k lets entries pass."""
        self.cut = 0.0
        """What a score has to exceed to be a candidate."""
        self._offset = self.own["b_enc"]
        self.norm = self.own["W_dec"].norm(dim=1)
        self.weighted = state.objective.weighted and state.recipe.decoder == "free"
        low = getattr(torch, state.recipe.precision)
        low = state.dtype if low is torch.float32 else low
        self.scorer = self.own["W_enc"]
        """The encoder that scores are made with: of the low-precision type, and times the norms where those count."""
        self.unit = state.recipe.decoder == "unit"
        self.decoder = self.own["W_dec"]
        """The decoder that products are made with."""
        if low is not state.dtype:
            self.decoder = torch.empty_like(self.own["W_dec"], dtype=low)
        if low is not state.dtype or self.weighted:
            self.scorer = torch.empty_like(self.own["W_enc"], dtype=low)
        self.refresh(0, self.n_features)

    @property
    def name(self) -> str:
        return self.layout.name

    @property
    def n_features(self) -> int:
        return self.own["b_enc"].shape[0]

    def refresh(self, start: int, stop: int) -> None:
        """Brings what is derived from rows of the weights up to date."""
        if not self.unit:
            self.norm[start:stop] = self.own["W_dec"][start:stop].norm(dim=1)
        if self.decoder is not self.own["W_dec"]:
            self.decoder[start:stop] = self.own["W_dec"][start:stop]
        if self.scorer is not self.own["W_enc"]:
            rows = self.own["W_enc"][start:stop]
            self.scorer[start:stop] = rows * self.norm[start:stop, None] if self.weighted else rows

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Ranges of features to update at a time."""
        widest = max(self.layout.d_in, self.layout.d_out) * self.own["W_enc"].element_size()
        for first, last in blocks(stop - start, widest, self.norm.device):
            yield start + first, start + last

    # --- scores

    def offset(self, state: State) -> Tensor:
        """What is added to the scorer's product at this step, as it will be rounded."""
        offset = state.objective.offset(self.own)
        offset = (offset * self.norm if self.weighted else offset) - self.cut
        self._offset = offset.to(self.scorer.dtype)
        return self._offset

    def preactivations(self, score: Tensor, pattern: Pattern) -> Tensor:
        """z = W_enc x + b_enc at the entries of a pattern, from their scores."""
        bias, norm = pattern.spread(self.own["b_enc"]), pattern.spread(self.norm) if self.weighted else 1.0
        return (score - pattern.spread(self._offset.to(score.dtype))) / norm + bias

    def unscored(self, score: Tensor, feature: Int[Tensor, " _"]) -> Tensor:
        """The same for scores of features one by one; a list of features may stand for columns."""
        norm = self.norm[feature] if self.weighted else 1.0
        return (score - self._offset[feature].to(score.dtype)) / norm + self.own["b_enc"][feature]

    def scores(self, z: Tensor, pattern: Pattern) -> Tensor:
        """What entries compete by: activation times decoder norm."""
        return z * pattern.spread(self.norm) if self.weighted else z

    def saw_threshold(self, lowest: float) -> None:
        """Moves the running threshold towards the lowest score that passed."""
        self.threshold = lowest if self.threshold is None else 0.9 * self.threshold + 0.1 * lowest
        self.cut = max(0.0, SLACK * lowest)

    # --- norms in penalties

    def norms(self, state: State) -> Float[Tensor, " feature"]:
        """‖decoder‖ / √width: of all sites together, or the sum over them."""
        if state.recipe.norm == "joint":
            return self.norm / self.layout.d_out**0.5
        rows = self.own["W_dec"]
        return torch.stack(
            [rows[:, c].norm(dim=1) / (c.stop - c.start) ** 0.5 for c in self.layout.writes.values()]
        ).sum(0)

    def norm_gradient(
        self, state: State, grad: Float[Tensor, " feature"] | None
    ) -> Callable[[int, int], Tensor] | None:
        """The decoders' gradient from that of `norms`, by blocks."""
        if grad is None:
            return None
        joint = state.recipe.norm == "joint"
        columns = [slice(0, self.layout.d_out)] if joint else list(self.layout.writes.values())

        def block(start: int, stop: int) -> Tensor:
            rows = self.own["W_dec"][start:stop]
            parts = []
            for each in columns:
                piece = rows[:, each]
                scale = grad[start:stop, None] / (each.stop - each.start) ** 0.5
                parts.append(piece * (scale / piece.norm(dim=1, keepdim=True).clamp(min=1e-12)))
            return torch.cat(parts, dim=1)

        return block

    # --- dead features

    def dead(self, state: State) -> Tensor:
        return self.idle > state.recipe.schedule.dead_after

    def dead_index(self, state: State) -> Int[Tensor, " dead"] | None:
        """The dead features, if any are, here or on another rank, and are to learn in this step."""
        if not isinstance(state.recipe.dead, Auxiliary | PreActivation):
            return None
        index = self.dead(state).nonzero()[:, 0]
        return index if state.ranks.any(len(index) > 0) else None

    def fired(self, which: Tensor, n_tokens: int) -> None:
        """Counts tokens of silence; those of `which` (feature) begin anew."""
        self.idle += n_tokens
        self.idle[which] = 0
