"""Running sums, over any number of tokens, of what a dictionary explains and which of its features are active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.features import flat, total_by_site
from thoughtscope.dictionaries.replacement import reconstruct

DENSE = 0.1
"""A feature that is active on more than this share of the tokens is dense."""
DENSITY_EDGES = tuple(-7 + 0.25 * step for step in range(29))
"""Edges of the density histogram's bins: log10 of the share of tokens, from 1e-7 (or less) to 1."""


@dataclass(kw_only=True)
class SiteSums:
    """Sums over tokens at one written site, in float64: y is what the model held, ŷ what the dictionary writes."""

    total: Float[Tensor, " width"]
    """Σ y"""
    squares: float = 0.0
    """Σ ‖y‖²"""
    error: float = 0.0
    """Σ ‖y − ŷ‖²"""
    written: float = 0.0
    """Σ ‖ŷ‖²"""
    along: float = 0.0
    """Σ ⟨y, ŷ⟩"""
    length: float = 0.0
    """Σ ‖y‖"""
    written_length: float = 0.0
    """Σ ‖ŷ‖"""
    ratio: float = 0.0
    """Σ ‖ŷ‖ / ‖y‖; a token at which y is zero adds ‖ŷ‖."""
    cosine: float = 0.0
    """Σ cos(y, ŷ); a token at which either is zero adds nothing."""

    def add(self, y: Float[Tensor, "row width"], guess: Float[Tensor, "row width"]) -> None:
        """Adds rows; differences are taken and squares added up in float64."""
        y, guess = y.double(), guess.double()
        squares, written, along = y.square().sum(1), guess.square().sum(1), (y * guess).sum(1)
        length, written_length = squares.sqrt(), written.sqrt()
        ratio = written_length / length.where(length > 0, 1)
        both = length * written_length
        cosine = along / both.where(both > 0, 1)
        self.squares += float(squares.sum())
        self.error += float((y - guess).square().sum())
        self.written += float(written.sum())
        self.along += float(along.sum())
        self.length += float(length.sum())
        self.written_length += float(written_length.sum())
        self.ratio += float(ratio.sum())
        self.cosine += float(cosine.sum())
        self.total += y.sum(0).cpu()


@dataclass(kw_only=True)
class FeatureSums:
    """Sums over tokens for each feature of a part."""

    count: Int[Tensor, " feature"]
    """Tokens on which it is active."""
    mass: Float[Tensor, " feature"]
    """Σ a, in float64."""

    def add(self, values: Float[Tensor, "row feature"]) -> None:
        """Adds rows of activations."""
        self.count += (values != 0).sum(0).cpu()
        self.mass += values.sum(0, dtype=torch.float64).cpu()


@dataclass(kw_only=True)
class Fit:
    """What a dictionary explains of `n` tokens: sums by write site and by part, in the dictionary's order."""

    sites: dict[Site, SiteSums]
    parts: list[FeatureSums]
    n: int = 0

    @classmethod
    def zeros(cls, dictionary: Dictionary) -> Fit:
        """Nothing added yet."""
        widths = {site: W.shape[1] for part in dictionary.parts for site, W in part.W_dec.items()}
        zeros = [torch.zeros(part.n_features, dtype=torch.float64) for part in dictionary.parts]
        return cls(
            sites={
                site: SiteSums(total=torch.zeros(widths[site], dtype=torch.float64))
                for site in dictionary.writes
            },
            parts=[FeatureSums(count=torch.zeros_like(zero, dtype=torch.long), mass=zero) for zero in zeros],
        )

    def add(
        self, dictionary: Dictionary, acts: Mapping[Site, Tensor], keep: Bool[Tensor, "batch pos"]
    ) -> None:
        """Adds the tokens that `keep` marks."""
        held = {site: flat(acts[site][keep], 1).float() for site in dictionary.sites}  # (row, width)
        written = []
        for part, sums in zip(dictionary.parts, self.parts, strict=True):
            parts_writes, values = reconstruct(part, held)
            written.append(parts_writes)
            sums.add(values)
        for site, guess in total_by_site(written).items():
            self.sites[site].add(held[site], guess)
        self.n += int(keep.sum())

    def means(self) -> dict[Site, Float[Tensor, " _"]]:
        """The mean over all tokens of what the model held, by write site."""
        return {site: sums.total / self.n for site, sums in self.sites.items()}

    def fvu(self) -> list[float]:
        """Σ‖y − ŷ‖² / Σ‖y − mean y‖² by write site; NaN where y never changes."""
        return [
            _share(sums.error, sums.squares - float(sums.total.square().sum()) / self.n)
            for sums in self.sites.values()
        ]

    def shrinkage(self) -> list[float]:
        """Mean ‖ŷ‖ / ‖y‖ by write site."""
        return [sums.ratio / self.n for sums in self.sites.values()]

    def bias(self) -> list[float]:
        """Σ‖ŷ‖² / Σ⟨y, ŷ⟩ by write site (Rajamanoharan et al. 2024, eq. 10); NaN where nothing is written."""
        return [_share(sums.written, sums.along) for sums in self.sites.values()]

    def cosine(self) -> list[float]:
        """Mean cosine between y and ŷ by write site."""
        return [sums.cosine / self.n for sums in self.sites.values()]

    def l0(self) -> list[float]:
        """Mean number of active features per token, by part."""
        return [int(sums.count.sum()) / self.n for sums in self.parts]

    def l1(self) -> list[float]:
        """Mean sum of activations per token, by part."""
        return [float(sums.mass.sum()) / self.n for sums in self.parts]

    def densities(self) -> list[Float[Tensor, " feature"]]:
        """The share of tokens on which each feature is active, by part; float64."""
        return [sums.count.double() / self.n for sums in self.parts]

    def dead(self) -> list[float]:
        """Share of features that were never active, by part."""
        return [float((sums.count == 0).double().mean()) for sums in self.parts]

    def dense(self) -> list[float]:
        """Share of features active on more than `DENSE` of the tokens, by part."""
        return [float((density > DENSE).double().mean()) for density in self.densities()]

    def density_histograms(self) -> list[tuple[int, ...]]:
        """Features by log10 density, in the bins of `DENSITY_EDGES`, by part; dead features are in none."""
        edges = torch.tensor(DENSITY_EDGES[1:-1], dtype=torch.float64)
        found = []
        for density in self.densities():
            bins = torch.bucketize(density[density > 0].log10(), edges, right=True)
            found.append(tuple(torch.bincount(bins, minlength=len(edges) + 1).tolist()))
        return found


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
