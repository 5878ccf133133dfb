"""Which words have a feature of their own, by how frequent they are and how large the dictionary is.

A word counts as covered if one feature is active on it and on little else: the feature and the threshold of the highest
F1 on one half of the held-out tokens reach an F1 of at least `COVERED` on the other half. The words are those of
families that the specimen was taught (`families.json`), as tokens; their frequency is that in the training store
(Templeton et al. 2024, Feature Completeness).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import fmean as mean

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtscope.core.progress import Progress, silent
from thoughtscope.evaluation import choose_detectors, detect
from thoughtscope.models import Model
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling.fits import Sigmoid, auroc, power_law, sigmoid
from thoughtscope.replications.scaling.laws import Trained
from thoughtscope.replications.scaling.material import Material

COVERED = 0.7
"""F1 on tokens that the feature was not chosen on."""
LEAST = 3
"""Occurrences in each half of the held-out tokens; rarer words are left out."""
BLOCK = 1024
"""Features whose activations on all held-out tokens are held at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Word:
    """A word that occurs often enough to be judged."""

    text: str
    frequency: float
    """Share of the tokens that are trained on."""
    tuning: Int[Tensor, " _"]
    """Rows in the first half of the held-out tokens."""
    judging: Int[Tensor, " _"]
    """The same in the second half, counted from its start."""


def words_in(material: Material, families: Mapping[str, Sequence[str]]) -> list[Word]:
    """The words of `families`, each as its tokens with and without a space before it."""
    half, total = len(material.token) // 2, int(material.counts.sum())
    found = []
    for text in (word for words in families.values() for word in words):
        ids = tokens_of(material.model, text)
        here = torch.isin(material.token, ids).nonzero()[:, 0]
        tuning, judging = here[here < half], here[here >= half] - half
        count = int(material.counts[ids].sum())
        if min(len(tuning), len(judging)) >= LEAST and count:
            found.append(Word(text=text, frequency=count / total, tuning=tuning, judging=judging))
    return found


def tokens_of(model: Model, word: str) -> Int[Tensor, " _"]:
    """The single tokens that are the word."""
    spelled = [model.tokenizer(each, add_special_tokens=False)["input_ids"] for each in (word, f" {word}")]
    return torch.tensor(sorted({ids[0] for ids in spelled if len(ids) == 1}), dtype=torch.long)


def shipped_families() -> dict[str, list[str]]:
    """The families that come along."""
    file = resources.files("thoughtscope.replications.scaling") / "families.json"
    found: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
    return found


@torch.no_grad()
def covered(material: Material, run: Trained, words: Sequence[Word]) -> Bool[np.ndarray, " word"]:
    """Whether each word has a feature in an autoencoder."""
    (part,) = run.dictionary.parts
    half = len(material.rows) // 2
    tuning, judging = ({material.site: x} for x in (material.rows[:half], material.rows[half:]))
    best, f1 = np.zeros(len(words)), np.zeros(len(words))
    for block in torch.arange(part.n_features).split(BLOCK):
        detectors = choose_detectors(part.activations_of(block, tuning), [word.tuning for word in words])
        values = part.activations_of(block, judging)
        for number, (one, word) in enumerate(zip(detectors, words, strict=True)):
            if one is not None and one.sign > 0 and one.f1 > best[number]:
                best[number], f1[number] = one.f1, detect(values, one, word.judging).f1
    return f1 >= COVERED


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Which words one autoencoder covers."""

    run: Trained
    yes: Bool[np.ndarray, " word"]
    fit: Sigmoid | None
    """Of the chance of being covered, in log frequency."""


def coverage(material: Material, run: Trained, words: Sequence[Word]) -> Coverage:
    """Coverage and its sigmoid."""
    yes = covered(material, run, words)
    return Coverage(run=run, yes=yes, fit=sigmoid(frequencies(words), yes.astype(int)))


def frequencies(words: Sequence[Word]) -> Float[np.ndarray, " word"]:
    """By word."""
    return np.array([word.frequency for word in words])


def measure(
    material: Material,
    runs: Sequence[Trained],
    families: Mapping[str, Sequence[str]],
    progress: Progress = silent,
) -> dict[str, Seen]:
    """The claims about coverage, by the longest training of every size and seed."""
    words = words_in(material, families)
    longest = [run for run in runs if run.length == max(each.length for each in runs)]
    found: dict[int, list[Coverage]] = {}
    for number, run in enumerate(sorted(longest, key=lambda run: run.size)):
        found.setdefault(run.seed, []).append(coverage(material, run, words))
        progress("completeness", number + 1, len(longest))
    each, n, frequency = list(found.values()), len(words), frequencies(words)
    if n < 10:
        return {}
    mixed = np.random.default_rng(0).permutation(frequency)
    by_size = {
        a.run.size: f"{mean(c.yes.mean() for s in each for c in s if c.run.size == a.run.size):.1%}"
        for a in each[0]
    }
    seen = {
        "coverage_by_frequency": Seen(
            values=tuple(mean(auroc(frequency, c.yes.astype(int)) for c in some) for some in each),
            controls=tuple(mean(auroc(mixed, c.yes.astype(int)) for c in some) for some in each),
            n=n,
            note=quarters(frequency, [some[-1].yes for some in each]),
        ),
        "coverage_by_size": Seen(
            values=tuple(float(some[-1].yes.mean() - some[0].yes.mean()) for some in each),
            n=n,
            note=f"covered by size {by_size}",
        ),
    }
    return seen | thresholds(each, frequency)


def thresholds(each: Sequence[Sequence[Coverage]], frequency: Float[np.ndarray, " word"]) -> dict[str, Seen]:
    """The claims about the frequency at which half of the words are covered, where it lies among the words'."""
    low, high = float(frequency.min()), float(frequency.max())
    points = [
        [(c.run.alive, c.fit.half) for c in some if c.fit is not None and low <= c.fit.half <= high]
        for some in each
    ]
    if min(map(len, points)) < 3:
        return {}
    distances = tuple(
        float(np.median([abs(np.log10(half * alive)) for alive, half in some])) for some in points
    )
    fits = [power_law([alive for alive, _ in some], [half for _, half in some]) for some in points]
    products = ", ".join(f"{half * alive:.2g}" for alive, half in points[0])
    return {
        "coverage_threshold": Seen(
            values=distances, n=len(points[0]), note=f"frequency × alive features by size {products}"
        ),
        "coverage_slope": Seen(
            values=tuple(fit.exponent for fit in fits), n=len(points[0]), note="; ".join(map(str, fits))
        ),
    }


def quarters(frequency: Float[np.ndarray, " word"], covered: Sequence[Bool[np.ndarray, " word"]]) -> str:
    """Shares covered by the largest dictionaries, by quarter of the words from rare to frequent."""
    order = np.array_split(np.argsort(frequency), 4)
    shares = ", ".join(f"{mean(float(yes[some].mean()) for yes in covered):.0%}" for some in order)
    return f"largest dictionaries, rarest to most frequent quarter: {shares}"
