"""Features turned to multiples of their largest activation, what the dictionary misses kept as it is.

The model reads its own answers to a few prompts while a feature is held at a multiple at every position. Measured are
the chance of a concept's words, mean over the answers' positions, and how far the next tokens are from those without
(KL). A concept's feature, and how far it is turned, are chosen by some words on some prompts, among the `CANDIDATES`
that the concept's examples activate most beyond other concepts' examples; what counts are other words on other prompts.
The few-shot vector is the mean residual stream of the same examples less that of the other concepts', its site and
strength chosen in the same way (Templeton et al. 2024, Influence on Behavior).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import fmean as mean
from statistics import median

import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor

from thoughtscope.atlas import bank_of
from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries import Dictionary
from thoughtscope.evaluation.probing import Labelled, pool
from thoughtscope.models import Model
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling.turning import (
    Answers,
    Turn,
    adding,
    answers_to,
    chance,
    first_tokens,
    holding,
)

CHOOSING = ("Tell me something interesting.", "Give me some advice.", "Write a short story.")
JUDGING = ("Describe a nice day.", "What makes people happy?", "Explain something that you know well.")
CANDIDATES = 4
MULTIPLES = (1.0, 2.0, 4.0, 8.0)
"""Among which strengths are chosen: of the largest activation, and of the length of a few-shot vector."""
PRICE = 2.0
"""Nats from the unsteered next tokens that a choice may cost."""
DOSES = (-10.0, -5.0, -2.0, -1.0, 0.0, 1.0, 2.0, 5.0, 10.0)
BROKEN = 100.0


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A concept's examples, and its words: those by which is chosen, and those by which is judged."""

    name: str
    examples: tuple[str, ...]
    choose: tuple[str, ...]
    judge: tuple[str, ...]


def shipped_concepts() -> tuple[Concept, ...]:
    """The concepts that come along."""
    file = resources.files("thoughtscope.replications.scaling") / "concepts.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    return tuple(
        Concept(name=name, **{key: tuple(value) for key, value in row.items()}) for name, row in found.items()
    )


# --- choosing --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is turned for a concept, how far, and by how much that raised the words by which it was chosen."""

    what: str
    turn: Turn
    strength: float
    lift: float
    price: float


def contrasts(
    model: Model, dictionary: Dictionary, concepts: Sequence[Concept]
) -> tuple[list[Float[Tensor, "concept feature"]], list[Float[Tensor, "concept width"]]]:
    """By part: how much more active features are on a concept's examples than on the others', and the same of what
    the part reads."""
    texts = [Labelled(text=text, label=concept.name) for concept in concepts for text in concept.examples]
    features: list[Tensor] = []
    vectors: list[Tensor] = []
    for part in dictionary.parts:
        found = pool(model, dictionary, texts, part=part.name)
        for values, kept in ((found.features, features), (found.x, vectors)):
            own = torch.stack([values[[label == c.name for label in found.labels]].mean(0) for c in concepts])
            kept.append(own - (own.sum(0) - own) / (len(concepts) - 1))
    return features, vectors


def best_of(tried: Mapping[str, Turn], answers: Answers, words: Int[Tensor, " token"]) -> Choice:
    """The turn and the strength that raise the words most among what costs at most `PRICE`."""
    base, found = float(chance(answers.base[None], words)[0]), []
    for what, turn in tried.items():
        log_p = answers.under(turn, MULTIPLES)
        rows = zip(MULTIPLES, chance(log_p, words).tolist(), answers.price(log_p).tolist(), strict=True)
        found += [Choice(what=what, turn=turn, strength=s, lift=c - base, price=p) for s, c, p in rows]
    cheap = [one for one in found if one.price <= PRICE] or [min(found, key=lambda one: one.price)]
    return max(cheap, key=lambda one: one.lift)


def candidates(
    dictionary: Dictionary, contrast: Sequence[Float[Tensor, "concept feature"]], number: int
) -> dict[str, Turn]:
    """The features that a concept's examples activate most beyond the others', in units of their largest activation."""
    bank = bank_of(dictionary)
    assert bank is not None  # the shipped dictionary has one
    scored = []
    for part, values in enumerate(contrast):
        for value, index in zip(*(x.tolist() for x in values[number].topk(CANDIDATES * 4)), strict=True):
            largest = bank.largest(part, index)
            if largest:
                scored.append((value / largest, part, index, largest))
    return {
        f"{dictionary.parts[part].name}/{index}": holding(dictionary, part, index, largest)
        for _, part, index, largest in sorted(scored, reverse=True)[:CANDIDATES]
    }


def random_feature(dictionary: Dictionary, seed: int) -> Turn:
    """A feature with a known largest activation."""
    bank = bank_of(dictionary)
    assert bank is not None
    draw = torch.Generator().manual_seed(seed)
    while True:
        part = int(torch.randint(len(dictionary.parts), (1,), generator=draw))
        index = int(torch.randint(dictionary.parts[part].n_features, (1,), generator=draw))
        if largest := bank.largest(part, index):
            return holding(dictionary, part, index, largest)


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Steered:
    """What came of one concept."""

    name: str
    feature: Choice
    vector: Choice
    lift: float
    """Of the words that judge, in nats, by the feature."""
    vector_lift: float
    dose: float
    """Rank correlation of dose and chance."""
    random_dose: float
    broken: float
    """Nats at `BROKEN` times the largest activation."""
    usual: float
    """Nats at the largest activation."""


def steered(concept: Concept, choices: tuple[Choice, Choice], answers: Answers, other: Turn) -> Steered:
    """The feature and the vector chosen for a concept, judged by other words on other prompts."""
    feature, vector = choices
    chosen_by, words = (first_tokens(answers.model, each) for each in (concept.choose, concept.judge))
    words = words[~torch.isin(words, chosen_by)]
    base = float(chance(answers.base[None], words)[0])
    lifts = [float(chance(answers.under(one.turn, [one.strength]), words)[0]) - base for one in choices]
    doses = [
        float(spearmanr(DOSES, chance(answers.under(turn, DOSES), words).tolist()).statistic)
        for turn in (feature.turn, other)
    ]
    usual, up, down = answers.price(answers.under(feature.turn, [1.0, BROKEN, -BROKEN])).tolist()
    return Steered(
        name=concept.name, feature=feature, vector=vector, lift=lifts[0], vector_lift=lifts[1], dose=doses[0],
        random_dose=doses[1], broken=min(up, down), usual=usual,
    )  # fmt: skip


def measure(model: Model, dictionary: Dictionary, progress: Progress = silent) -> dict[str, Seen]:
    """The claims about steering."""
    concepts = shipped_concepts()
    contrast, vectors = contrasts(model, dictionary, concepts)
    choosing, judging = answers_to(model, CHOOSING), answers_to(model, JUDGING)
    found = []
    for number, concept in enumerate(concepts):
        words = first_tokens(model, concept.choose)
        added = {
            part.name: adding(part.writes[0], vectors[at][number]) for at, part in enumerate(dictionary.parts)
        }
        choices = (
            best_of(candidates(dictionary, contrast, number), choosing, words),
            best_of(added, choosing, words),
        )
        found.append(steered(concept, choices, judging, random_feature(dictionary, number)))
        progress("steering", number + 1, len(concepts))
    return claims(found)


def claims(found: Sequence[Steered]) -> dict[str, Seen]:
    """What the steered concepts say."""
    n = len(found)
    won = mean(one.lift > one.vector_lift for one in found)
    lifts = "; ".join(
        f"{one.name} {one.lift:+.1f} by {one.feature.what} at {one.feature.strength:g}, {one.vector_lift:+.1f} by "
        f"{one.vector.what} at {one.vector.strength:g}"
        for one in found
    )
    return {
        "steering_dose": Seen(
            values=(mean(one.dose for one in found),), controls=(mean(one.random_dose for one in found),), n=n
        ),
        "steering_breaks": Seen(
            values=(median(one.broken for one in found),), controls=(median(one.usual for one in found),), n=n
        ),
        "steering_few_shot": Seen(values=(won,), n=n, note=f"nats of lift: {lifts}"),
    }
