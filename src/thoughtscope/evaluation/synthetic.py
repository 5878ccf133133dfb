"""Activations whose true features are known: many sparse, correlated, hierarchical features in few dimensions.

The construction of SynthSAEBench (Chanin and Garriga-Alonso 2026, arXiv:2602.14687), with the same parameters: a
feature fires where a Gaussian with low-rank correlations exceeds the threshold of its probability; children fire only
where their parent does, and of siblings that exclude each other one at most; magnitudes are rectified Gaussians. What
a dictionary is given is the sum of the features' unit vectors, times their magnitudes, plus a constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from thoughtscope.core.errors import ThoughtscopeError, describe_choices

SpreadKind = Literal["constant", "linear", "exponential", "zipf", "uniform", "folded_normal"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a number is spread over the features, from the most frequent (rank 1) to the rarest.

    - constant: `first`
    - linear, exponential: from `first` to `last` in equal steps, or by equal factors
    - zipf: rank^-exponent, scaled so that it runs from `first` to `last`
    - uniform: drawn between `last` and `first`
    - folded_normal: |N(first, last²)|
    """

    kind: SpreadKind
    first: float
    last: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(SpreadKind):
            raise ThoughtscopeError(describe_choices(self.kind, get_args(SpreadKind), what="spread"))

    def over(self, n: int, random: torch.Generator) -> Float[Tensor, " feature"]:
        """The values of `n` features."""
        first, last = self.first, self.last
        share = torch.linspace(0, 1, n)
        if self.kind == "constant" or n == 1:
            return torch.full((n,), first)
        if self.kind == "linear":
            return first + (last - first) * share
        if self.kind == "exponential":
            return first * (last / first) ** share
        if self.kind == "zipf":
            power = torch.arange(1, n + 1, dtype=torch.float64) ** -self.exponent
            return (last + (first - last) * (power - power[-1]) / (power[0] - power[-1])).float()
        if self.kind == "uniform":
            return last + (first - last) * torch.rand(n, generator=random)
        return (first + last * torch.randn(n, generator=random)).abs()


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Trees of features, numbered breadth first from 0 on until the features are used up.

    A child is silent where its parent is. `exclusive` is the share of the parents of at least two children, those at
    depths of `exclusive_depths`, of whose children at most one fires. `compensate` raises the probabilities so that
    each feature still fires about as often as its own probability says; `scale_by_parent` makes a child's magnitude
    proportional to its parent's.
    """

    roots: int = 100
    branching: int | tuple[int, int] = 100
    depth: int = 2
    exclusive: float = 0.0
    exclusive_depths: tuple[int, int | None] = (0, None)
    compensate: bool = False
    scale_by_parent: bool = False

    def __post_init__(self) -> None:
        low, high = self.between
        if self.roots < 1 or self.depth < 1 or not 2 <= low <= high or not 0 <= self.exclusive <= 1:
            raise ThoughtscopeError(
                "A hierarchy has roots ≥ 1, depth ≥ 1, branching ≥ 2 and 0 ≤ exclusive ≤ 1; got "
                f"roots={self.roots}, depth={self.depth}, branching={self.branching}, exclusive={self.exclusive}."
            )

    @property
    def between(self) -> tuple[int, int]:
        """The fewest and the most children of a parent."""
        return (self.branching, self.branching) if isinstance(self.branching, int) else self.branching


@dataclass(frozen=True, kw_only=True)
class SyntheticSpec:
    """The parameters of a synthetic model; everything follows from them and the seed."""

    n_features: int
    width: int
    probability: Spread = Spread(kind="zipf", first=0.3, last=0.01)
    mean: Spread = Spread(kind="constant", first=1.0)
    """Magnitude of a feature that fires: N(mean, deviation²), negative ones as 0."""
    deviation: Spread = Spread(kind="constant", first=0.0)
    hierarchy: Hierarchy | None = None
    correlation_rank: int = 0
    """0 for features that fire independently of each other."""
    correlation_scale: float = 0.1
    """Deviation of the entries of the correlations' factor, (feature, rank)."""
    orthogonal_steps: int = 0
    """Steps of Adam that push the feature vectors apart."""
    orthogonal_rate: float = 0.01
    bias: float = 1.0
    """Norm of the constant."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_features < 1 or self.width < 1 or self.correlation_rank < 0:
            raise ThoughtscopeError(
                "A synthetic model has at least one feature and dimension and a rank ≥ 0; got "
                f"n_features={self.n_features}, width={self.width}, correlation_rank={self.correlation_rank}."
            )


def synth_sae_bench_16k(*, n_features: int = 16384, width: int = 768, seed: int = 0) -> SyntheticSpec:
    """The published benchmark's parameters (Chanin and Garriga-Alonso 2026, "SynthSAEBench-16k"): an L0 of about 34.

    Its weights are drawn anew; the tables of the paper were made on weights of the same distribution.
    """
    return SyntheticSpec(
        n_features=n_features,
        width=width,
        probability=Spread(kind="zipf", first=0.4, last=5e-4, exponent=0.5),
        mean=Spread(kind="linear", first=5.0, last=4.0),
        deviation=Spread(kind="folded_normal", first=0.5, last=0.5),
        hierarchy=Hierarchy(roots=128, branching=4, depth=3, exclusive=1.0, compensate=True),
        correlation_rank=25,
        correlation_scale=0.1,
        orthogonal_steps=100,
        orthogonal_rate=3e-4,
        bias=10.0,
        seed=seed,
    )


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The children at one depth of the hierarchy, and which of them exclude each other."""

    children: Int[Tensor, " child"]
    parents: Int[Tensor, " child"]
    exclusive: tuple[Int[Tensor, "group sibling"], ...]
    """Groups of siblings, by size."""


@dataclass(frozen=True, kw_only=True)
class SyntheticModel:
    """Known features, and how they fire."""

    spec: SyntheticSpec
    vectors: Float[Tensor, "feature width"]
    """Of norm 1."""
    bias: Float[Tensor, " width"]
    probability: Float[Tensor, " feature"]
    """Before the hierarchy silences any."""
    mean: Float[Tensor, " feature"]
    deviation: Float[Tensor, " feature"]
    factor: Float[Tensor, "feature rank"]
    """Correlations of what is thresholded: factor factorᵀ, with 1 on the diagonal."""
    generations: tuple[Generation, ...]

    def batch(self, step: int, rows: int) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row feature"]]:
        """Activations and the features they are made of: the same for the same step, whatever was drawn before."""
        random = torch.Generator().manual_seed((self.spec.seed + 1) * 1_000_003 + step)
        features = self._features(rows, random)
        return features @ self.vectors + self.bias, features

    def _features(self, rows: int, random: torch.Generator) -> Float[Tensor, "row feature"]:
        n = self.spec.n_features
        own = (1 - self.factor.square().sum(1)).sqrt()
        shared = torch.randn(rows, self.factor.shape[1], generator=random) @ self.factor.T
        threshold = math.sqrt(2) * torch.erfinv(1 - 2 * self.probability)  # of a standard normal
        fires = shared + torch.randn(rows, n, generator=random) * own > threshold
        found = torch.zeros(rows, n)
        _, feature = fires.nonzero(as_tuple=True)
        noise = torch.randn(len(feature), generator=random)
        found[fires] = (self.mean[feature] + noise * self.deviation[feature]).relu()
        for generation in self.generations:
            self._silence(found, generation, random)
        return found

    def _silence(self, found: Tensor, generation: Generation, random: torch.Generator) -> None:
        """Applies one depth of the hierarchy in place: one sibling of each exclusive group, only under its parent."""
        for group in generation.exclusive:
            values = found[:, group]  # (row, group, sibling)
            score = torch.rand(values.shape, generator=random).where(values > 0, -1)
            winner = torch.zeros_like(values).scatter_(-1, score.argmax(-1, keepdim=True), 1)
            found[:, group] = values * winner
        above = found[:, generation.parents]
        gate = above / self.mean[generation.parents] if self._scales else (above > 0).float()
        found[:, generation.children] *= gate

    @property
    def _scales(self) -> bool:
        return self.spec.hierarchy is not None and self.spec.hierarchy.scale_by_parent


def synthetic_model(spec: SyntheticSpec) -> SyntheticModel:
    """Draws the features of a specification."""

    def random(part: int) -> torch.Generator:
        return torch.Generator().manual_seed(spec.seed * 16 + part)

    n = spec.n_features
    probability = spec.probability.over(n, random(0))
    generations = _grow(spec)
    if spec.hierarchy is not None and spec.hierarchy.compensate:
        probability = (probability * _compensation(probability, generations)).clamp(max=1 - 1e-7)
    vectors = normalize(torch.randn(n, spec.width, generator=random(3)))
    return SyntheticModel(
        spec=spec,
        vectors=_pushed_apart(vectors, spec.orthogonal_steps, spec.orthogonal_rate),
        bias=spec.bias * normalize(torch.randn(spec.width, generator=random(4)), dim=0),
        probability=probability,
        mean=spec.mean.over(n, random(1)),
        deviation=spec.deviation.over(n, random(2)),
        factor=_factor(spec, random(5)),
        generations=generations,
    )


def _factor(spec: SyntheticSpec, random: torch.Generator) -> Float[Tensor, "feature rank"]:
    """Rows shorter than 1, so that each feature keeps some chance of its own."""
    factor = spec.correlation_scale * torch.randn(spec.n_features, spec.correlation_rank, generator=random)
    squares = factor.square().sum(1, keepdim=True)
    return factor * (0.99 / squares.clamp(min=0.99)).sqrt()


def _grow(spec: SyntheticSpec) -> tuple[Generation, ...]:
    """The hierarchy, depth by depth."""
    shape = spec.hierarchy
    if shape is None:
        return ()
    draw, fresh = Random(spec.seed), iter(range(spec.n_features))
    level = list(islice(fresh, shape.roots))
    levels: list[dict[int, list[int]]] = []
    for _ in range(shape.depth):
        families: dict[int, list[int]] = {}
        for parent in level:
            size = draw.randint(*shape.between)
            families[parent] = list(islice(fresh, size))
        levels.append(families)
        level = [child for children in families.values() for child in children]
    low, high = shape.exclusive_depths
    able = [
        parent
        for depth, families in enumerate(levels)
        for parent, children in families.items()
        if depth >= low and (high is None or depth <= high) and len(children) > 1
    ]
    chosen = set(draw.sample(able, int(len(able) * shape.exclusive)))
    return tuple(_generation(families, chosen) for families in levels if any(families.values()))


def _generation(families: dict[int, list[int]], exclusive: set[int]) -> Generation:
    pairs = [(child, parent) for parent, children in families.items() for child in children]
    groups: dict[int, list[list[int]]] = {}
    for parent in families:
        if parent in exclusive:
            groups.setdefault(len(families[parent]), []).append(families[parent])
    return Generation(
        children=torch.tensor([child for child, _ in pairs]),
        parents=torch.tensor([parent for _, parent in pairs]),
        exclusive=tuple(torch.tensor(group) for group in groups.values()),
    )


def _compensation(
    probability: Float[Tensor, " feature"], generations: Sequence[Generation]
) -> Float[Tensor, " feature"]:
    """What makes up for the silence under silent parents, and beside siblings: 1 + the number expected to compete."""
    factor = torch.ones_like(probability)
    for generation in generations:
        factor[generation.children] = 1 / probability[generation.parents]
        above = dict(zip(generation.children.tolist(), generation.parents.tolist(), strict=True))
        for group in generation.exclusive:
            parent = torch.tensor([above[int(first)] for first in group[:, 0]])
            others = probability[group].sum(1, keepdim=True) - probability[group]
            factor[group] *= 1 + others / probability[parent, None]
    return factor


def _pushed_apart(
    vectors: Float[Tensor, "feature width"], steps: int, rate: float, block: int = 1024
) -> Float[Tensor, "feature width"]:
    """Adam on Σ_{i≠j} ⟨v_i, v_j⟩² + n Σ_i (‖v_i‖² − 1)², then vectors of norm 1."""
    vectors = vectors.clone().requires_grad_()
    optimiser = torch.optim.Adam([vectors], lr=rate)
    n = len(vectors)
    for _ in range(steps):
        with torch.no_grad():
            gradient = torch.empty_like(vectors)
            for start in range(0, n, block):
                products = vectors[start : start + block] @ vectors.T  # (row, feature)
                own = products.diagonal(start)
                own.sub_(1).mul_(n)
                gradient[start : start + block] = 4 * products @ vectors
        vectors.grad = gradient
        optimiser.step()
    return normalize(vectors.detach())


def batches(model: SyntheticModel, rows: int, start: int = 0) -> Iterator[Float[Tensor, "row width"]]:
    """Endless activations from step `start` on, `rows` at a time."""
    step = start
    while True:
        yield model.batch(step, rows)[0]
        step += 1
