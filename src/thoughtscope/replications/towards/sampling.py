"""Steered samples: what the model writes while a unit is held at its largest activation (Bricken et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int64

from thoughtscope.core.site import Site
from thoughtscope.models import Sampling, generate
from thoughtscope.models.hooks import Step, Write
from thoughtscope.models.tokens import pad_left
from thoughtscope.replications.towards.contexts import LABEL, TEN, counting
from thoughtscope.replications.towards.corpus import BEGIN, VOCAB
from thoughtscope.replications.towards.model import NEURONS
from thoughtscope.replications.towards.rows import Row
from thoughtscope.replications.towards.subject import N_LABELS, Subject, Units

PREFIX = [BEGIN, *b"1,2,3,4,5,6,7,8,9,10"]
NEW = 32
"""Tokens of a sample."""
HARDER = 3.0
"""Times the largest activation: whether a pin that does nothing is only too weak."""


@torch.no_grad()
def pinned(subject: Subject) -> dict[str, Row]:
    """Share of samples that read as the context, the median over contexts; beside it the neurons'."""
    plain = read_as(_samples(subject, {}))
    features, neurons = _shares(subject, subject.main, 1.0), _shares(subject, subject.neurons, 1.0)
    harder = _shares(subject, subject.main, HARDER)
    unpinned = max(float(np.mean(plain == LABEL[name])) for name in TEN)
    return {
        "pinned_samples": Row(
            value=float(np.median(features)),
            control=float(np.median(neurons)),
            n=len(TEN) * subject.scale.samples,
            note=f"at {HARDER:g} times the largest activation {np.median(harder):.2f}; with nothing pinned at most "
            f"{unpinned:.2f} read as any one of the ten",
        )
    }


def _shares(subject: Subject, units: Units, times: float) -> list[float]:
    """By context, the share of samples that read as it while its best unit is held."""
    found = []
    for name in TEN:
        written = _samples(subject, {NEURONS: _held(units, int(units.best[LABEL[name]]), times)})
        found.append(float(np.mean(read_as(written) == LABEL[name])))
    return found


def _samples(subject: Subject, writes: Mapping[Site, Write]) -> Int64[np.ndarray, "sample new"]:
    n = subject.scale.samples
    tokens = pad_left([PREFIX] * n)
    sampling = Sampling(seed=tuple(range(n)))
    written = generate(subject.model, tokens, max_new_tokens=NEW, writes=writes, sampling=sampling)
    return written.ids[:, len(PREFIX) :].numpy()


def _held(units: Units, unit: int, times: float) -> Write:
    """What a unit adds is made that of `times` its largest activation, from the prefix's last token on."""
    index = torch.tensor([unit])
    direction = units.part.decoder_rows(index)[NEURONS][0]
    columns = units.choose.columns.part(unit, unit + 1)
    held = times * float(columns.value.max()) if len(columns.value) else 0.0

    def write(x: torch.Tensor, step: Step) -> torch.Tensor:
        change = held - units.part.activations_of(index, {NEURONS: x})
        later = (step.positions >= len(PREFIX) - 1)[..., None]
        return torch.where(later, x + change * direction, x)

    return write


def read_as(samples: Int64[np.ndarray, "sample new"]) -> Int64[np.ndarray, " sample"]:
    """The label under which each sample is likeliest, by pairs of bytes."""
    said = pairs()
    return said[:, samples[:, :-1], samples[:, 1:]].sum(axis=-1).argmax(axis=0)


@cache
def pairs() -> Float64[np.ndarray, "label vocab next"]:
    """log P(next byte | byte, label), counts plus a hundredth."""
    corpus = counting()
    first, then = corpus.ids[:, :-1].astype(np.int64), corpus.ids[:, 1:].astype(np.int64)
    label = corpus.truth[:, 1:].astype(np.int64)
    cell = ((label * VOCAB + first) * VOCAB + then).ravel()
    found = np.bincount(cell, minlength=N_LABELS * VOCAB**2).reshape(N_LABELS, VOCAB, VOCAB) + 0.01
    return np.log(found / found.sum(axis=2, keepdims=True))
