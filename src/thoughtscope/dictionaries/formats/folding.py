"""What autoencoders do beside `W_decᵀ activation(W_enc x + b_enc) + b_dec`, folded into weights that do the same.

Sums are taken in float64, so that the folded dictionary agrees with the one it was made of as far as float32 allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.dictionary import Part
from thoughtscope.dictionaries.normalise import Normalise

BLOCK = 8192
"""Rows of a matrix that are in float64 at a time."""


@dataclass(frozen=True, kw_only=True)
class Coder:
    """One autoencoder or transcoder before it has sites: from one vector to one vector."""

    activation: Activation
    W_enc: Float[Tensor, "feature d_in"]
    b_enc: Float[Tensor, " feature"]
    W_dec: Float[Tensor, "feature d_out"]
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " feature"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    normalise: Normalise | None = None

    def part(self, name: str, read: Site, write: Site) -> Part:
        """As a part of a dictionary."""
        return Part(
            name=name,
            activation=self.activation,
            W_enc={read: self.W_enc},
            b_enc=self.b_enc,
            W_dec={write: self.W_dec},
            b_dec={write: self.b_dec},
            threshold=self.threshold,
            W_skip=self.W_skip,
            normalise=self.normalise,
        )


def centred(coder: Coder, centre: Float[Tensor, " d_in"]) -> Coder:
    """The coder of `x` that does what `coder` does with `x − centre`."""
    wide = centre.double()
    shift = torch.cat([rows @ wide for rows in _blocks(coder.W_enc)])
    return replace(coder, b_enc=_like(coder.b_enc.double() - shift, coder.b_enc))


def gated(coder: Coder, r_mag: Float[Tensor, " feature"], b_gate: Float[Tensor, " feature"]) -> Coder:
    """A gated coder, whose `b_enc` is the magnitudes' bias, as a JumpReLU one (Rajamanoharan et al. 2024).

    With `π = W x` and `z = e^r π + b_mag`, the gate `π + b_gate > 0` is `z > b_mag − e^r b_gate`.
    """
    scale = r_mag.double().exp()
    threshold = (coder.b_enc.double() - scale * b_gate.double()).clamp(min=0)
    return replace(
        coder,
        activation=Activation(kind="jumprelu"),
        W_enc=_scaled(coder.W_enc, scale),
        threshold=_like(threshold, coder.b_enc),
    )


def jumping(coder: Coder, threshold: Float[Tensor, " feature"]) -> Coder:
    """The same with thresholds, and 0 for those below it: what they let pass, ReLU stops."""
    same = bool((threshold >= 0).all())
    return replace(
        coder,
        activation=Activation(kind="jumprelu"),
        threshold=threshold if same else threshold.clamp(min=0),
    )


def unit_decoders(coder: Coder) -> Coder:
    """The same function with decoders of length 1: pre-activations and thresholds grow by what decoders lose.

    What competes by `pre ‖W_dec‖` competes by its pre-activation then.
    """
    length = torch.cat([rows.norm(dim=1) for rows in _blocks(coder.W_dec)])
    scale = torch.where(length > 0, length, torch.ones_like(length))
    return replace(
        coder,
        W_enc=_scaled(coder.W_enc, scale),
        b_enc=_like(coder.b_enc.double() * scale, coder.b_enc),
        W_dec=_scaled(coder.W_dec, 1 / scale),
        threshold=None
        if coder.threshold is None
        else _like(coder.threshold.double() * scale, coder.threshold),
    )


def rescaled(coder: Coder, *, read: float = 1.0, write: float = 1.0) -> Coder:
    """The coder of `x` that does what `coder` does with `x · read`, and multiplies its answer by `write`."""
    skip = coder.W_skip
    return replace(
        coder,
        W_enc=_scaled(coder.W_enc, read),
        W_dec=_scaled(coder.W_dec, write),
        b_dec=_like(coder.b_dec.double() * write, coder.b_dec),
        W_skip=None if skip is None else _scaled(skip, read * write),
    )


def _scaled(weight: Float[Tensor, "row _"], scale: Float[Tensor, " row"] | float) -> Float[Tensor, "row _"]:
    """Rows times their factors, or all times one."""
    if not isinstance(scale, Tensor):
        return torch.cat([_like(rows * scale, weight) for rows in _blocks(weight)])
    factors = scale.split(BLOCK)
    return torch.cat(
        [_like(rows * factor[:, None], weight) for rows, factor in zip(_blocks(weight), factors, strict=True)]
    )


def _blocks(weight: Float[Tensor, "row _"]) -> Iterator[Float[Tensor, "some _"]]:
    """A matrix in float64, some rows at a time: whole, it would be four times a file of bfloat16."""
    return (rows.double() for rows in weight.split(BLOCK))


def _like(folded: Tensor, original: Tensor) -> Tensor:
    """In float32, whatever smaller type the original had: a smaller one would round the fold away."""
    return folded.to(torch.promote_types(original.dtype, torch.float32))
