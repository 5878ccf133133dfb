"""thoughtscope's side. The loop is `thoughtscope.training.train`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.trainers.problem import Problem
from bench.trainers.source import Source
from thoughtscope.core.site import Site
from thoughtscope.training import Recipe, run
from thoughtscope.training.data.moments import Moments
from thoughtscope.training.recipe import JumpReLU, PartSites, TopK
from thoughtscope.training.state import State
from thoughtscope.training.step import ROWS


class Rows:
    """A problem's batches as a stream."""

    def __init__(self, problem: Problem, source: Source) -> None:
        self._source = source
        self.sites = tuple(map(Site.parse, problem.sites))
        self.widths = dict.fromkeys(self.sites, problem.width)
        self.moments = {
            site: Moments(mean=torch.zeros(problem.width).double(), mean_square=1.0, n_rows=problem.n_rows)
            for site in self.sites
        }

    def batches(self, start: int = 0) -> Iterator[dict[Site, Tensor]]:
        for batch in self._source:
            yield {Site.parse(site): x for site, x in batch.items()}


def recipe(problem: Problem, decoder: str) -> Recipe:
    """What the other sides do: no centring, scaling or schedules, nothing for dead features, Adam as they have it.

    `decoder` is what the peer does: "unit" as in dictionary_learning and sparsify, "free" as in SAELens.
    """
    activation: Any = (
        TopK(k=problem.k)
        if problem.k
        # crosslayer-coding's window is 1 wide; the penalty is 0 on both sides.
        else JumpReLU(penalty="tanh", coefficient=0.0, threshold=problem.threshold, bandwidth=1.0)
    )
    return Recipe.of(
        parts=[
            PartSites(name=str(part), reads=(read,), writes=tuple(problem.writes[part:]))
            for part, read in enumerate(problem.reads)
        ],
        n_features=problem.n_features,
        activation=activation,
        dead=None,
        centre=False,
        scale=False,
        decoder=decoder,
        schedule={
            "n_tokens": 10**12, "batch": problem.batch, "learning_rate": problem.rate, "betas": (0.9, 0.999),
            "warm_up": 0.0, "decay": 0.0, "sparsity_warm_up": 0.0, "k_start": 1.0,
        },
    )  # fmt: skip


def train(problem: Problem, source: Source) -> None:
    """`train`, with the problem's start weights in place of drawn ones."""
    drawn = run.begin

    def begin(*arguments: Any, **options: Any) -> State:
        state = drawn(*arguments, **options)
        for name, weight in problem.start().items():
            state.weights[name].copy_(weight)
        for part in state.parts:
            part.refresh(0, part.n_features)
        source.weights = lambda: finished(state)
        source.extra = lambda: {"product_seconds": product(problem)}
        return state

    run.begin = begin  # type: ignore[assignment]
    run.train(Rows(problem, source), recipe(problem, source.options["decoder"]))


def finished(state: State) -> Mapping[str, Tensor]:
    """The weights, with free decoders' norms moved into the encoders, as in a finished TopK dictionary."""
    weights = dict(state.weights)
    if state.recipe.activation.kind == "topk" and state.recipe.decoder == "free":
        for part in range(len(state.parts)):
            norm = weights[f"{part}/W_dec"].norm(dim=1)
            weights[f"{part}/W_enc"] = weights[f"{part}/W_enc"] * norm[:, None]
            weights[f"{part}/b_enc"] = weights[f"{part}/b_enc"] * norm
            weights[f"{part}/W_dec"] = weights[f"{part}/W_dec"] / norm[:, None]
    return weights


def product(problem: Problem) -> float:
    """Seconds that the encoders' matrix products of one step take by themselves, the best of a few."""
    x = torch.randn(problem.batch, problem.width).bfloat16()
    encoder = torch.randn(problem.n_features, problem.width).bfloat16()
    bias = torch.zeros(problem.n_features, dtype=torch.bfloat16)
    rows = min(ROWS, problem.batch)
    out, best = x.new_empty(rows, problem.n_features), float("inf")
    for _ in range(4):
        began = time.perf_counter()
        for start in range(0, problem.batch, rows):
            torch.addmm(bias, x[start : start + rows], encoder.T, out=out)
        best = min(best, time.perf_counter() - began)
    return best * problem.layers
