"""What makes features sparse: for each activation, which entries pass, what they are worth, and the gradients.

An objective is one small class of pointwise formulas over the entries of a `Pattern`; the products that turn them into
reconstructions and weight gradients are the step's. With z the pre-activations, a the activations, ‖d‖ the decoder
norms and L the reconstruction loss, the step asks in this order:

    offset      what is added to W_enc x before the entries above zero, or the largest, are looked for
    values      z and a at the entries that passed
    gradients   dL/da in; gradients of z, of the biases and of the extra per-feature weights out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.training import recipe as kinds
from thoughtscope.training.patterns import Pattern

Own = Mapping[str, Tensor]
"""The weights of one part, by their names within it."""


@dataclass(kw_only=True)
class Gradients:
    """What an objective makes of dL/da, entries in the pattern's shape."""

    pre: Tensor
    """Of W_enc x at the held entries."""
    bias: Tensor
    """Of b_enc's entries: `pre` again unless the objective says otherwise."""
    extras: dict[str, Float[Tensor, " feature"]] = field(default_factory=dict)
    norm: Float[Tensor, " feature"] | None = None
    """Of each decoder's norm, from a penalty that is weighted by it."""
    penalty: Tensor | float = 0.0
    """Summed over the entries."""
    by_l0: float = 0.0
    """The penalty that follows from L0, which is one number for all features."""


@runtime_checkable
class Objective(Protocol):
    """One activation with its penalty. `weight` is what the sparsity schedule lets count of it, `n` the tokens."""

    @property
    def extras(self) -> Mapping[str, float]:
        """Per-feature weights beyond the biases, with their start values."""

    @property
    def weighted(self) -> bool:
        """Whether scores are pre-activations times decoder norms."""

    def offset(self, own: Own) -> Float[Tensor, " feature"]: ...

    def values(self, z: Tensor, pattern: Pattern, own: Own) -> list[Tensor]:
        """The activations; and, where there are more, what decodes through frozen decoders to train the gate."""

    def gradients(
        self,
        z: Tensor,
        grads: Sequence[Tensor],
        pattern: Pattern,
        own: Own,
        norm: Float[Tensor, " feature"],
        weight: float,
        n: int,
        l0: float,
    ) -> Gradients: ...


@dataclass(frozen=True, kw_only=True)
class Largest:
    """TopK and BatchTopK: whichever pass are worth what they are; no penalty."""

    weighted: bool = True
    extras: Mapping[str, float] = field(default_factory=dict)

    def offset(self, own: Own) -> Tensor:
        return own["b_enc"]

    def values(self, z: Tensor, pattern: Pattern, own: Own) -> list[Tensor]:
        return [z.relu()]

    def gradients(self, z, grads, pattern, own, norm, weight, n, l0) -> Gradients:
        pre = grads[0] * (z > 0)
        return Gradients(pre=pre, bias=pre)


@dataclass(frozen=True, kw_only=True)
class Rectified:
    """ReLU with a penalty on u = a ‖d‖: coefficient/n · Σ u, or Σ tanh(steepness u)."""

    recipe: kinds.ReLU
    weighted: bool = False
    extras: Mapping[str, float] = field(default_factory=dict)

    def offset(self, own: Own) -> Tensor:
        return own["b_enc"]

    def values(self, z: Tensor, pattern: Pattern, own: Own) -> list[Tensor]:
        return [z.relu()]

    def gradients(self, z, grads, pattern, own, norm, weight, n, l0) -> Gradients:
        a, spread = z.relu(), pattern.spread(norm)
        steepness = self.recipe.steepness if self.recipe.penalty == "tanh" else None
        penalty, slope = _penalty(a * spread, steepness, weight * self.recipe.coefficient / n)
        pre = (grads[0] + slope * spread) * (z > 0)
        return Gradients(pre=pre, bias=pre, norm=pattern.by_feature(slope * a), penalty=penalty.sum())


@dataclass(frozen=True, kw_only=True)
class Jumping:
    """JumpReLU: a = z [z > θ]. What depends on whether z passes has its derivative taken in a window about θ.

    ∂a/∂θ = −θ/ε [|z − θ| < ε/2] and ∂[z > θ]/∂θ = −1/ε [|z − θ| < ε/2] (Rajamanoharan et al. 2024, eq. 11 and 12).
    """

    recipe: kinds.JumpReLU
    weighted: bool = False

    @property
    def extras(self) -> Mapping[str, float]:
        return {"log_threshold": float(torch.tensor(self.recipe.threshold, dtype=torch.float64).log())}

    def offset(self, own: Own) -> Tensor:
        # Entries just below the threshold are held too: they move it.
        return own["b_enc"] - (own["log_threshold"].exp() - self.recipe.bandwidth / 2).clamp(min=0)

    def values(self, z: Tensor, pattern: Pattern, own: Own) -> list[Tensor]:
        return [z * (z > pattern.spread(own["log_threshold"].exp()))]

    def gradients(self, z, grads, pattern, own, norm, weight, n, l0) -> Gradients:
        theta = own["log_threshold"].exp()
        at, made = pattern.spread(theta), self.recipe
        passed = z > at
        window = ((z - at).abs() < made.bandwidth / 2).to(z) / made.bandwidth
        grad, norms = grads[0], None
        penalty: Tensor | float = 0.0
        by_l0 = 0.0
        step = 0.0  # the derivative of the penalty by L0, over n
        scale = weight * made.coefficient
        if made.penalty == "tanh":
            a, spread = z * passed, pattern.spread(norm)
            found, slope = _penalty(a * spread, made.steepness, scale / n)
            grad, norms, penalty = grad + slope * spread, pattern.by_feature(slope * a), found.sum()
        elif made.target_l0 is None:
            step, by_l0 = scale / n, scale * l0
        else:
            miss = l0 / made.target_l0 - 1
            step, by_l0 = scale * 2 * miss / made.target_l0 / n, scale * miss**2
        pre = grad * passed
        moved = pattern.by_feature(window * (at * grad + step))
        return Gradients(
            pre=pre,
            bias=pre,
            extras={"log_threshold": -theta * moved},
            norm=norms,
            penalty=penalty,
            by_l0=by_l0,
        )


@dataclass(frozen=True, kw_only=True)
class GatedPair:
    """A gate π = W x + b_enc and a magnitude e^r W x + b_mag (Rajamanoharan et al. 2024, Gated, eq. 8).

    The loss is that of a = [π > 0] relu(magnitude), that of relu(π) through frozen decoders, and an L1 on relu(π).
    """

    recipe: kinds.Gated
    weighted: bool = False
    extras: Mapping[str, float] = field(default_factory=lambda: {"r_mag": 0.0, "b_mag": 0.0})

    def offset(self, own: Own) -> Tensor:
        return own["b_enc"]

    def values(self, z: Tensor, pattern: Pattern, own: Own) -> list[Tensor]:
        return [self._magnitude(z, pattern, own).relu() * (z > 0), z.relu()]

    def _magnitude(self, z: Tensor, pattern: Pattern, own: Own) -> Tensor:
        gain = own["r_mag"].exp()
        return z * pattern.spread(gain) + pattern.spread(own["b_mag"] - gain * own["b_enc"])

    def gradients(self, z, grads, pattern, own, norm, weight, n, l0) -> Gradients:
        magnitude, spread, gain = self._magnitude(z, pattern, own), pattern.spread(norm), own["r_mag"].exp()
        by_magnitude = grads[0] * (magnitude > 0) * (z > 0)
        penalty, slope = _penalty(z.relu() * spread, None, weight * self.recipe.coefficient / n)
        by_gate = (grads[1] + slope * spread) * (z > 0)
        shared = by_magnitude * (z - pattern.spread(own["b_enc"]))  # W x, times what comes from the magnitude
        return Gradients(
            pre=by_magnitude * pattern.spread(gain) + by_gate,
            bias=by_gate,
            extras={
                "r_mag": gain * pattern.by_feature(shared),
                "b_mag": pattern.by_feature(by_magnitude),
            },
            norm=pattern.by_feature(slope * z.relu()),
            penalty=penalty.sum(),
        )


def objective(activation: kinds.Activation) -> Objective:
    """The formulas of an activation's configuration."""
    if isinstance(activation, kinds.ReLU):
        return Rectified(recipe=activation)
    if isinstance(activation, kinds.JumpReLU):
        return Jumping(recipe=activation)
    if isinstance(activation, kinds.Gated):
        return GatedPair(recipe=activation)
    return Largest()


def _penalty(u: Tensor, steepness: float | None, scale: float) -> tuple[Tensor, Tensor]:
    """scale · u, or scale · tanh(steepness u), and its derivative by u where u > 0."""
    if steepness is None:
        return scale * u, torch.full_like(u, scale)
    t = torch.tanh(steepness * u)
    return scale * t, scale * steepness * (1 - t * t)
