"""`splitting`: which features of a larger dictionary a feature of a smaller one has become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.dictionaries import Part


@dataclass(frozen=True, kw_only=True)
class Split:
    """From one dictionary to a larger one of the same site: each feature's nearest in the smaller."""

    parent: Int[Tensor, " feature"]
    cosine: Float[Tensor, " feature"]
    """Of the decoders, over all written sites together."""

    def children(self, feature: int, *, least: float) -> Int[Tensor, " child"]:
        """The features that come from this one with at least so large a cosine."""
        return ((self.parent == feature) & (self.cosine >= least)).nonzero()[:, 0]


def splitting(parts: Sequence[Part]) -> tuple[Split, ...]:
    """The links from each part to the next; parts are sorted by size, and together the links are a graph without
    cycles (Bricken et al. 2023, Feature splitting). Raises `DictionaryMismatch` for parts that write elsewhere."""
    for part in parts:
        if part.writes != parts[0].writes:
            raise DictionaryMismatch(
                f"Splitting compares decoders of the same sites; {part.name} writes to "
                f"{', '.join(map(str, part.writes))}, {parts[0].name} to {', '.join(map(str, parts[0].writes))}."
            )
    found = []
    for small, large in pairwise(parts):
        cosine = _directions(large) @ _directions(small).T  # (feature, feature)
        best = cosine.max(dim=1)
        found.append(Split(parent=best.indices, cosine=best.values))
    return tuple(found)


def _directions(part: Part) -> Float[Tensor, "feature _"]:
    rows = part.decoder_rows(torch.arange(part.n_features))
    return normalize(torch.cat([rows[site] for site in part.writes], dim=1), dim=1)
