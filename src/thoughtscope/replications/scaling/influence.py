"""Which active features matter for an answer: attribution, activation, and what ablation does, beside one another.

Of an active feature a with decoder d, the attribution to the difference of the answer's logit and its strongest rival's
is a · d · ∂difference/∂x at the site that it writes, and its ablation is the difference lost when the feature is set to
zero at that one position, with the dictionary's error left as it is (Templeton et al. 2024, Features as computational
intermediates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean as mean

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, Features, encode
from thoughtscope.interventions import FeatureEdit, Plan, intervene_many
from thoughtscope.models import Model, Tokens, capture
from thoughtscope.models.hooks import forward
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling.material import read

TOP = 10
"""The features of a prompt that are compared by their ranks."""
CITIES = ("Dallas", "Oakland", "Miami", "Chicago", "Seattle", "Cleveland", "Buffalo", "Tampa")
WORDS = ("small", "hot", "fast", "rich", "open", "heavy", "clean", "near")
SUMS = ("36+59", "12+45", "70+18", "27+66", "41+83", "55+39", "94+17", "62+23")
SPECIMEN = (
    *(f"Fact: the capital of the state containing {city} is" for city in CITIES),
    *(f'The opposite of "{word}" is "' for word in WORDS),
    *(f"calc: {two}=" for two in SUMS),
)
SMOLLM2 = (
    "The capital of France is the city of",
    "John says, I want to be alone right now. John feels",
    "The opposite of hot is",
    "The chemical symbol for water is",
    "She poured the milk into the coffee and drank the",
    "Two plus two equals",
    "In winter the lake is covered with",
    "Bees make",
)
"""What the models are asked: facts, opposites and sums; and texts whose next word follows from what was said."""


@dataclass(frozen=True, kw_only=True)
class Influences:
    """Of every active feature of one prompt."""

    activation: Float[np.ndarray, " active"]
    attribution: Float[np.ndarray, " active"]
    """How much of the difference of logits the local linear model gives to the feature."""
    ablation: Float[np.ndarray, " active"]
    """How much of it is lost without the feature."""


def influences(model: Model, dictionary: Dictionary, tokens: Tokens) -> Influences:
    """All three for one prompt. Features at the same position of several parts are taken one by one, too."""
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    plans = [
        Plan(
            edits=(FeatureEdit(part=dictionary.parts[part].name, index=index, op="ablate", positions=(at,)),)
        )
        for part, index, at in zip(
            features.part.tolist(), features.index.tolist(), features.position.tolist(), strict=True
        )
    ]
    outcomes = intervene_many(model, dictionary, tokens, [Plan(edits=()), *plans], changes=0, top=1)
    base, lost = outcomes[0], [one.difference_before - one.difference_after for one in outcomes[1:]]
    gradients = gradients_at(model, tokens, dictionary.writes, base.answer_id, base.rival_id)
    return Influences(
        activation=features.value.numpy(),
        attribution=attributions(dictionary, features, gradients).numpy(),
        ablation=np.array(lost, dtype=np.float32),
    )


def gradients_at(
    model: Model, tokens: Tokens, sites: Sequence[Site], answer: int, rival: int
) -> dict[Site, Float[Tensor, "pos _"]]:
    """∂(logit of `answer` − logit of `rival`) after the prompt, by what each site holds at each position."""
    found: dict[Site, Tensor] = {}

    def write(site: Site, x: Tensor, step: object) -> Tensor:
        found[site] = torch.zeros_like(x, requires_grad=True)
        return x + found[site]

    with torch.enable_grad():
        logits = forward(model, tokens, writes={site: partial(write, site) for site in sites})
        assert logits is not None
        difference = logits[0, -1, answer] - logits[0, -1, rival]
        made = torch.autograd.grad(difference, [found[site] for site in sites])
    return {site: gradient[0].float() for site, gradient in zip(sites, made, strict=True)}


def attributions(
    dictionary: Dictionary, features: Features, gradients: Mapping[Site, Float[Tensor, "pos _"]]
) -> Float[Tensor, " active"]:
    """Σ over the sites that a feature writes: a · d · gradient there, at the feature's position."""
    total = torch.zeros_like(features.value)
    for number, part in enumerate(dictionary.parts):
        here = (features.part == number).nonzero()[:, 0]
        for site, rows in part.decoder_rows(features.index[here]).items():
            slope = gradients[site][features.position[here]]
            total[here] += features.value[here] * (rows.float() * slope).sum(1)
    return total


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two orders of a prompt's features say what ablation does."""

    attribution: float
    """Pearson's correlation with the effects of ablation."""
    activation: float
    size: float
    """Of activation, with the absolute effects."""
    ranks: float
    """Spearman's, of attribution."""
    top_attribution: int
    """Of the `TOP` features by ablation, those that are among the first `TOP` by attribution."""
    top_activation: int


def agreement(found: Influences) -> Agreement:
    """The correlations and overlaps of one prompt."""
    lost = found.ablation
    return Agreement(
        attribution=float(pearsonr(found.attribution, lost).statistic),
        activation=float(pearsonr(found.activation, lost).statistic),
        size=float(pearsonr(found.activation, abs(lost)).statistic),
        ranks=float(spearmanr(found.attribution, lost).statistic),
        top_attribution=shared_top(found.attribution, lost),
        top_activation=shared_top(found.activation, lost),
    )


def shared_top(one: Float[np.ndarray, " active"], other: Float[np.ndarray, " active"], n: int = TOP) -> int:
    """How many of the `n` largest of one order are among the `n` largest of another."""
    return len(set(np.argsort(-one)[:n].tolist()) & set(np.argsort(-other)[:n].tolist()))


def measure(
    name: str,
    model: Model,
    dictionaries: Sequence[Dictionary],
    prompts: Sequence[str],
    progress: Progress = silent,
) -> dict[str, Seen]:
    """Two claims of one model, a value for each dictionary: means over the prompts."""
    rows: list[list[Agreement]] = []
    for dictionary in dictionaries:
        rows.append([])
        for number, prompt in enumerate(prompts):
            rows[-1].append(agreement(influences(model, dictionary, read(model, prompt))))
            progress(f"{name} influence", number + 1, len(prompts))

    def means(field: str) -> tuple[float, ...]:
        return tuple(mean(getattr(row, field) for row in each) for each in rows)

    note = f"Spearman {means('ranks')[0]:.2f}; activation with absolute effects {means('size')[0]:.2f}"
    return {
        f"{name}_attribution": Seen(
            values=means("attribution"), controls=means("activation"), n=len(prompts), note=note
        ),
        f"{name}_top": Seen(
            values=means("top_attribution"), controls=means("top_activation"), n=len(prompts)
        ),
    }
