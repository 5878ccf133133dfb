"""Autoencoders of many sizes, each trained for many lengths: how loss, best size and best length grow with compute.

All are trained on one store of the residual stream, as ReLU autoencoders with an L1 penalty weighted by decoder norms,
nothing done about dead features (Templeton et al. 2024, Scaling Laws). Compute is counted as features times tokens. The
loss is that of held-out rows: squared error in units of the variance, and the penalty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean as mean

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries import Dictionary
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling.fits import PowerLaw, frontier, power_law
from thoughtscope.replications.scaling.material import BATCH, SITE, Material
from thoughtscope.training import Recipe, recipes, train
from thoughtscope.training.run import finished

COEFFICIENT = 0.2
"""Of the penalty, for every size and length: only then are losses comparable."""
LEARNING_RATE = 3e-3
START_L0 = 32.0
EVALUATED = 16_384
"""Held-out rows on which losses are taken; those of the longest trainings are taken on all, since dead features need
many."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is trained: every size for every length, with every seed."""

    sizes: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
    lengths: tuple[int, ...] = (8192, 16_384, 32_768, 65_536, 131_072, 262_144)
    """In tokens."""
    seeds: tuple[int, ...] = (0, 1)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One autoencoder, and its figures on held-out rows."""

    size: int
    length: int
    seed: int
    n: int
    """Of those rows."""
    loss: float
    variance: float
    """Share explained."""
    l0: float
    dead: float
    """Share of features that no held-out row activates."""
    dictionary: Dictionary

    @property
    def alive(self) -> int:
        return round(self.size * (1 - self.dead))


def recipe_of(size: int, length: int, seed: int) -> Recipe:
    """The published kind of training: one penalty for all, dead features left alone."""
    return recipes.relu_sae(SITE, size, coefficient=COEFFICIENT, dead=None, seed=seed).replaced(
        {
            "activation.start_l0": min(START_L0, size / 4),
            "schedule.n_tokens": length,
            "schedule.batch": BATCH,
            "schedule.learning_rate": LEARNING_RATE,
        }
    )


def trained(
    material: Material, size: int, length: int, seed: int, rows: Float[Tensor, "row width"]
) -> Trained:
    """Trains one autoencoder and takes its figures on held-out `rows`."""
    recipe = recipe_of(size, length, seed)
    state = train(material.stream(seed), recipe)
    dictionary = finished(state, name=f"scaling/{size}/{length}/{seed}", model_name=material.model.name)
    unit = next(iter(state.scaling.unit.values()))
    figures = evaluated(dictionary, rows, unit)
    return Trained(size=size, length=length, seed=seed, n=len(rows), dictionary=dictionary, **figures)


@torch.no_grad()
def evaluated(dictionary: Dictionary, rows: Float[Tensor, "row width"], unit: float) -> dict[str, float]:
    """Loss, explained variance, L0 and dead share of a one-part autoencoder; `unit` is what training divided by."""
    (part,) = dictionary.parts
    (site,) = part.reads
    norms = part.W_dec[site].float().norm(dim=1)
    error = penalty = active = 0.0
    fired = torch.zeros(part.n_features, dtype=torch.bool)
    for some in rows.split(2048):
        values = part.activations({site: some})
        guess = values @ part.W_dec[site].float() + part.b_dec[site].float()
        error += float((some - guess).square().sum())
        penalty += float((values @ norms).sum())
        active += float((values > 0).sum())
        fired |= (values > 0).any(0)
    n, width = rows.shape
    squares = float((rows - rows.mean(0)).square().sum())
    loss = error / (n * width * unit**2) + COEFFICIENT * penalty / (n * unit * width**0.5)
    return {
        "loss": loss,
        "variance": 1 - error / squares,
        "l0": active / n,
        "dead": float((~fired).float().mean()),
    }


def train_grid(material: Material, grid: Grid, progress: Progress = silent) -> list[Trained]:
    """Everything of a grid, the shortest trainings first."""
    todo = [(size, length, seed) for seed in grid.seeds for length in grid.lengths for size in grid.sizes]
    found = []
    for number, (size, length, seed) in enumerate(todo):
        rows = material.rows if length == max(grid.lengths) else material.rows[:EVALUATED]
        found.append(trained(material, size, length, seed, rows))
        progress("laws", number + 1, len(todo), loss=found[-1].loss)
    return found


@dataclass(frozen=True, kw_only=True)
class Laws:
    """The three power laws in compute of one seed's autoencoders."""

    budgets: int
    """Of compute, through whose optima they are fitted."""
    loss: PowerLaw
    size: PowerLaw
    steps: PowerLaw


def laws_of(runs: Sequence[Trained]) -> Laws | None:
    """The fits through every budget's optimum; None with fewer than four of them."""
    best = frontier({(float(run.size), float(run.length)): run.loss for run in runs})
    if len(best) < 4:
        return None
    compute = [one.compute for one in best]
    return Laws(
        budgets=len(best),
        loss=power_law(compute, [one.loss for one in best]),
        size=power_law(compute, [one.size for one in best]),
        steps=power_law(compute, [one.steps for one in best]),
    )


def largest(runs: Sequence[Trained]) -> list[Dictionary]:
    """Of every seed the largest autoencoder, of the longest training."""
    best: dict[int, Trained] = {}
    for run in runs:
        if run.seed not in best or (run.size, run.length) > (best[run.seed].size, best[run.seed].length):
            best[run.seed] = run
    return [run.dictionary for run in best.values()]


def measure(runs: Sequence[Trained]) -> dict[str, Seen]:
    """The claims about training, a value for each seed."""
    seeds = sorted({run.seed for run in runs})
    own = [[run for run in runs if run.seed == seed] for seed in seeds]
    longest = [[run for run in each if run.length == max(run.length for run in each)] for each in own]
    last = [max(each, key=lambda run: run.size) for each in longest]
    first = [min(each, key=lambda run: run.size) for each in longest]
    shares = {
        run.size: f"{mean(r.dead for e in longest for r in e if r.size == run.size):.1%}"
        for run in longest[0]
    }
    seen = {
        "dead_rises": Seen(
            values=tuple(a.dead - b.dead for a, b in zip(last, first, strict=True)),
            n=len(longest[0]),
            note=f"dead by size {shares}",
        ),
        "variance": Seen(
            values=tuple(run.variance for run in last),
            n=last[0].n,
            note=f"L0 {', '.join(f'{run.l0:.1f}' for run in last)}",
        ),
    }
    laws = [laws_of(each) for each in own]
    return seen | (power_claims([one for one in laws if one is not None]) if all(laws) else {})


def power_claims(laws: Sequence[Laws]) -> dict[str, Seen]:
    """The claims about exponents."""
    n = min(one.budgets for one in laws)
    return {
        "loss_power_law": Seen(
            values=tuple(one.loss.r2 for one in laws), n=n, note=told([x.loss for x in laws])
        ),
        "features_power_law": Seen(
            values=tuple(one.size.low for one in laws), n=n, note=told([x.size for x in laws])
        ),
        "steps_power_law": Seen(
            values=tuple(one.steps.low for one in laws), n=n, note=told([x.steps for x in laws])
        ),
        "features_faster": Seen(values=tuple(one.size.exponent - one.steps.exponent for one in laws), n=n),
    }


def told(fits: Sequence[PowerLaw]) -> str:
    """The exponents, one a seed."""
    return "exponent " + "; ".join(map(str, fits))
