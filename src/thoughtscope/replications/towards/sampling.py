"""Steered samples: what the model writes while a unit is held at its largest activation (Bricken et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int, Int64

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
    n = subject.scale.samples
    plain = read_as(_samples(subject, n, {}))
    features, neurons = _shares(subject, subject.main, 1.0), _shares(subject, subject.neurons, 1.0)
    harder = _shares(subject, subject.main, HARDER)
    unpinned = max(float(np.mean(plain == LABEL[name])) for name in TEN)
    return {
        "pinned_samples": Row(
            value=float(np.median(features)),
            control=float(np.median(neurons)),
            n=len(TEN) * n,
            note=f"at {HARDER:g} times the largest activation {np.median(harder):.2f}; with nothing pinned at most "
            f"{unpinned:.2f} read as any one of the ten",
        )
    }


def _shares(subject: Subject, units: Units, times: float) -> list[float]:
    """By context, the share of samples that read as it while its best unit is held."""
    n, labels = subject.scale.samples, np.array([LABEL[name] for name in TEN])
    picked = torch.from_numpy(units.best[labels])
    written = _samples(subject, n * len(TEN), {NEURONS: _held(units, picked.repeat_interleave(n), times)})
    return (read_as(written) == labels.repeat(n)).reshape(len(TEN), n).mean(axis=1).tolist()


def _samples(subject: Subject, rows: int, writes: Mapping[Site, Write]) -> Int64[np.ndarray, "sample new"]:
    """What is written after the prefix; every `samples` rows are drawn with the same seeds again."""
    sampling = Sampling(seed=tuple(row % subject.scale.samples for row in range(rows)))
    tokens = pad_left([PREFIX] * rows)
    written = generate(subject.model, tokens, max_new_tokens=NEW, writes=writes, sampling=sampling)
    return written.ids[:, len(PREFIX) :].numpy()


def _held(units: Units, by_row: Int[torch.Tensor, " batch"], times: float) -> Write:
    """By row, what a unit adds becomes that of `times` its largest activation, from the prefix's last token on."""
    index, which = by_row.unique(return_inverse=True)
    direction = units.part.decoder_rows(index)[NEURONS][which]  # (batch, d_mlp)
    held = times * torch.tensor([_largest(units, unit) for unit in index.tolist()])[which]

    def write(x: torch.Tensor, step: Step) -> torch.Tensor:
        active = units.part.activations_of(index, {NEURONS: x})  # (batch, pos, unit)
        own = active.gather(2, which[:, None, None].expand(-1, x.shape[1], 1))
        later = (step.positions >= len(PREFIX) - 1)[..., None]
        return torch.where(later, x + (held[:, None, None] - own) * direction[:, None], x)

    return write


def _largest(units: Units, unit: int) -> float:
    values = units.choose.columns.part(unit, unit + 1).value
    return float(values.max()) if len(values) else 0.0


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
