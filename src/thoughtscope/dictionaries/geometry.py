"""How a dictionary's weight vectors lie to one another: what the features share before any text is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Part

BLOCK = 1024
"""Features whose cosines with all others are computed at a time."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Figures of each feature of one part. Vectors of several sites are one long vector; a zero vector has cosine 0."""

    encoder_norm: Float[Tensor, " feature"]
    encoder_bias: Float[Tensor, " feature"]
    decoder_norm: Float[Tensor, " feature"]
    max_encoder_cosine: Float[Tensor, " feature"]
    """The largest cosine with another feature's encoder; NaN for an only feature."""
    max_decoder_cosine: Float[Tensor, " feature"]
    encoder_decoder_cosine: Float[Tensor, " feature"] | None
    """Cosine between a feature's own two vectors; None where they differ in width."""


@torch.no_grad()
def geometry(part: Part) -> Geometry:
    """Norms and cosines in float32; time grows with the square of the features, memory with `BLOCK` times them."""
    encoder, decoder = _rows(part.W_enc), _rows(part.W_dec)
    unit_encoder, unit_decoder = normalize(encoder), normalize(decoder)
    same = encoder.shape == decoder.shape
    return Geometry(
        encoder_norm=encoder.norm(dim=1),
        encoder_bias=part.b_enc.float(),
        decoder_norm=decoder.norm(dim=1),
        max_encoder_cosine=max_cosine(unit_encoder),
        max_decoder_cosine=max_cosine(unit_decoder),
        encoder_decoder_cosine=(unit_encoder * unit_decoder).sum(1) if same else None,
    )


def max_cosine(unit: Float[Tensor, "feature width"]) -> Float[Tensor, " feature"]:
    """For each of some unit vectors, the largest cosine with another one; NaN where there is no other."""
    if len(unit) == 1:
        return torch.full((1,), torch.nan)
    found = []
    for start in range(0, len(unit), BLOCK):
        cosine = unit[start : start + BLOCK] @ unit.T  # (row, feature)
        cosine.diagonal(start).fill_(-torch.inf)
        found.append(cosine.amax(1))
    return torch.cat(found)


def _rows(weights: Mapping[Site, Tensor]) -> Float[Tensor, "feature _"]:
    return torch.cat([weight.float() for weight in weights.values()], dim=1)
