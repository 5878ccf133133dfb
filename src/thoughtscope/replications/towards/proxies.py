"""Proxies: how likely a stretch of text is under a hypothesis, against how likely it is at all.

The paper's proxy of a context at a token is log P(s | context) − log P(s), both as of independent tokens, for the
stretch s that ends at the token and makes it largest (Bricken et al. 2023, feature proxies).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Integer

from thoughtscope.replications.towards.corpus import VOCAB

NEVER = 1e-10
"""Probability of a token that a hypothesis excludes."""


def hypothesis(characters: str) -> Float64[np.ndarray, " vocab"]:
    """log P(token | context) where the context is a set of equally likely bytes: 1/4 each for DNA, 1/64 for base64."""
    said = np.full(VOCAB, np.log(NEVER))
    said[list(characters.encode())] = -np.log(len(characters))
    return said


def script(counts: Integer[np.ndarray, "label vocab"], label: int) -> Float64[np.ndarray, " vocab"]:
    """log P(token | context) by Bayes from counts of tokens in labelled text, as for scripts in the paper."""
    here = counts[label].astype(np.float64)
    return np.log(np.maximum(here / here.sum(), NEVER))


def unigram(counts: Integer[np.ndarray, "label vocab"]) -> Float64[np.ndarray, " vocab"]:
    """log P(token) over all text."""
    total = counts.sum(axis=0).astype(np.float64)
    return np.log(np.maximum(total / total.sum(), NEVER))


def proxy(
    ids: Integer[np.ndarray, "document pos"], ratio: Float64[np.ndarray, " vocab"]
) -> Float64[np.ndarray, "document pos"]:
    """The largest sum of `ratio` over the stretches of one token or more that end at each token.

    With S the sums from a document's start, it is S_t − min_{s < t} S_s.
    """
    sums = np.cumsum(ratio[ids.astype(np.int64)], axis=1)
    before = np.concatenate([np.zeros((len(ids), 1)), sums[:, :-1]], axis=1)
    return sums - np.minimum.accumulate(before, axis=1)


def token_counts(
    ids: Integer[np.ndarray, "document pos"], truth: Integer[np.ndarray, "document pos"], n_labels: int
) -> Integer[np.ndarray, "label vocab"]:
    """How often each token comes in text of each label."""
    cell = truth.astype(np.int64).ravel() * VOCAB + ids.astype(np.int64).ravel()
    return np.bincount(cell, minlength=n_labels * VOCAB).reshape(n_labels, VOCAB)
