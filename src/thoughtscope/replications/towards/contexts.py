"""What follows a context: proxies, specificity by interval, what is lost without it, and what it writes.

Every figure is taken twice, of the feature and of the neuron that follow the context best. Both are picked on one text
and measured on another.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int64, Shaped

from thoughtscope.atlas.alike import correlations, correlations_with
from thoughtscope.models import forward
from thoughtscope.models.hooks import Step, Write
from thoughtscope.models.tokens import pad_left
from thoughtscope.replications.towards.corpus import CONTEXTS, LENGTH, Corpus, make_corpus
from thoughtscope.replications.towards.model import NEURONS
from thoughtscope.replications.towards.proxies import hypothesis, proxy, script, token_counts, unigram
from thoughtscope.replications.towards.rows import Row
from thoughtscope.replications.towards.subject import N_LABELS, Subject, Text, Units

LABEL: Mapping[str, int] = {name: 1 + number for number, name in enumerate(CONTEXTS)}
TEN = tuple(name for name in CONTEXTS if name not in ("html", "irc"))
"""Contexts that are of one kind from end to end; the other two alternate between marks and ordinary words."""
_SETS = {
    "dna": "ACGT",
    "hex": "0123456789abcdef",
    "base64": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
}


@cache
def counting() -> Corpus:
    """Text on which tokens are counted, for proxies and for what a context's tokens are."""
    return make_corpus(4000, seed=103)


@cache
def counts() -> Int64[np.ndarray, "label vocab"]:
    """How often each token comes in each context."""
    corpus = counting()
    return token_counts(corpus.ids, corpus.truth, N_LABELS).astype(np.int64)


def ratios(name: str) -> Float64[np.ndarray, " vocab"]:
    """log P(token | context) − log P(token): by the set of characters where the paper does so, else by Bayes."""
    said = hypothesis(_SETS[name]) if name in _SETS else script(counts(), LABEL[name])
    return said - unigram(counts())


def proxy_of(name: str, text: Text) -> Float64[np.ndarray, " token"]:
    """The paper's proxy of a context at every token."""
    return proxy(text.ids.reshape(-1, LENGTH), ratios(name)).ravel()


def even_odds(name: str) -> float:
    """The proxy at which the context is as likely as not, by its share of all tokens."""
    share = counts()[LABEL[name]].sum() / counts().sum()
    return float(-np.log(2 * share))


# --- proxies and truth ---------------------------------------------------------------------------------------------


def by_proxy(subject: Subject) -> dict[str, Row]:
    """Correlation with the proxies of the paper's four contexts; DNA's is binarised there, so it is here."""
    rows = {}
    for name in ("arabic", "dna", "base64", "hebrew"):
        proxies, over = [], []
        for activity in (subject.main.choose, subject.main.test):
            proxies.append(proxy_of(name, activity.text))
            over.append(proxies[-1] > even_odds(name))
        choose, test = over if name == "dna" else proxies
        truth = subject.main.test.text.truth == LABEL[name]
        rows[f"{name}_proxy"] = Row(
            value=_followed(subject.main, choose, test),
            control=_followed(subject.neurons, choose, test),
            n=len(truth),
            note=f"the proxy itself correlates with the truth by {np.corrcoef(test, truth)[0, 1]:.2f}; binarised at "
            f"even odds it does by {np.corrcoef(over[1], truth)[0, 1]:.2f}, and a feature with it by "
            f"{_followed(subject.main, over[0], over[1]):.2f}",
        )
    return rows


def _followed(
    units: Units, choose: Shaped[np.ndarray, " token"], test: Shaped[np.ndarray, " token"]
) -> float:
    """Correlation of a signal with the unit that follows it best on the text for choosing."""
    picked = int(
        np.nan_to_num(correlations_with(units.choose.matrix, choose[:, None])[:, 0], nan=-1.0).argmax()
    )
    return float(correlations_with(units.test.matrix[:, [picked]], test[:, None])[0, 0])


def followed(units: Units) -> dict[str, tuple[float, float]]:
    """By context, the correlation of its best unit with the truth, and the share of that unit's activation in it."""
    found = {}
    for name, label in LABEL.items():
        unit = int(units.best[label])
        share = float(np.nan_to_num(units.test.intervals.mass_share[unit, label]))
        found[name] = (float(units.test.follows[unit, label]), share)
    return found


def planted(subject: Subject) -> dict[str, Row]:
    """How many of the ten contexts have a unit that follows them: correlation 0.8 and specificity 0.9."""

    def of(units: Units) -> int:
        found = followed(units)
        return sum(found[name][0] >= 0.8 and found[name][1] >= 0.9 for name in TEN)

    features, neurons = of(subject.main), of(subject.neurons)
    return {
        "contexts_followed": Row(value=features, control=neurons, n=len(TEN)),
        "neurons_follow_few": Row(value=neurons, control=features, n=len(TEN)),
    }


# --- specificity ---------------------------------------------------------------------------------------------------


def upper_share(units: Units, name: str) -> float:
    """Share of the tokens on which the context's best unit is above half of its largest activation that are of it."""
    counts_of = units.test.intervals.count[int(units.best[LABEL[name]])]
    upper = counts_of[counts_of.shape[0] // 2 :].sum(axis=0)
    return float(upper[LABEL[name]] / upper.sum()) if upper.sum() else 0.0


def specificity(subject: Subject) -> dict[str, Row]:
    """Specificity over all active tokens and above half of the largest activation; whether it rises."""
    main, neurons = subject.main, subject.neurons

    def active(units: Units) -> float:
        return float(units.test.intervals.precision[int(units.best[LABEL["arabic"]]), LABEL["arabic"]])

    n = int(main.test.columns.count[int(main.best[LABEL["arabic"]])])
    rising = [_rise(main, name) for name in TEN]
    return {
        "arabic_active": Row(value=active(main), control=active(neurons), n=n),
        "arabic_upper": Row(value=upper_share(main, "arabic"), control=upper_share(neurons, "arabic"), n=n),
        "upper_specificity": Row(
            value=float(np.median([upper_share(main, name) for name in TEN])),
            control=float(np.median([upper_share(neurons, name) for name in TEN])),
            n=len(TEN),
        ),
        "specificity_rises": Row(
            value=float(np.mean([rise > 0 for rise in rising])),
            control=float(np.mean([_rise(neurons, name) > 0.5 for name in TEN])),
            n=len(TEN),
            note=f"median rise from the weakest interval to the strongest {np.median(rising):.2f}",
        ),
    }


def _rise(units: Units, name: str) -> float:
    """Specificity in the strongest interval that is not empty, less that in the weakest."""
    shares = units.test.intervals.specificity[int(units.best[LABEL[name]]), :, LABEL[name]]
    there = shares[~np.isnan(shares)]
    return float(there[-1] - there[0]) if len(there) else 0.0


def neuron_basis(subject: Subject) -> dict[str, Row]:
    """Features are not neurons: how many neurons share in one, and how like any neuron it is."""
    main = subject.main
    picked = np.array([main.best[LABEL[name]] for name in TEN])
    decoder = torch.nn.functional.normalize(main.part.decoder_rows(torch.from_numpy(picked))[NEURONS], dim=1)
    sharing = (decoder.abs() >= 0.1).sum(dim=1).double()
    alike = np.nan_to_num(correlations(main.test.matrix[:, picked], subject.neurons.test.matrix)).max(axis=1)
    return {
        "neurons_in_a_feature": Row(value=float(sharing.median()), n=len(TEN)),
        "nearest_neuron": Row(value=float(np.median(alike)), n=len(TEN)),
    }


# --- effects -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def ablations(subject: Subject) -> dict[str, Row]:
    """Where the loss changes without a unit: the share of all change that is on the next tokens of its context."""
    text = subject.main.test.text
    rows = text.ids.reshape(-1, LENGTH)[:300]
    clean = _losses(subject, rows, None, None)
    truth = text.truth.reshape(-1, LENGTH)[:300, :-1]

    def of(units: Units) -> tuple[float, float]:
        shares, rises = [], []
        for name in TEN:
            change = _losses(subject, rows, units, int(units.best[LABEL[name]])) - clean
            inside = truth == LABEL[name]
            shares.append(float(np.abs(change[inside]).sum() / max(np.abs(change).sum(), 1e-12)))
            rises.append(_mean(change[inside]) - _mean(change[~inside]))
        return float(np.median(shares)), float(np.mean(np.array(rises) > 0))

    (share, rises), (neuron_share, neuron_rises) = of(subject.main), of(subject.neurons)
    return {
        "ablation_inside": Row(value=share, control=neuron_share, n=len(TEN)),
        "ablation_hurts": Row(value=rises, control=neuron_rises, n=len(TEN)),
    }


def _mean(x: Float64[np.ndarray, " token"]) -> float:
    return float(x.mean()) if len(x) else 0.0


def _losses(
    subject: Subject, rows: Int64[np.ndarray, "document pos"], units: Units | None, unit: int | None
) -> Float64[np.ndarray, "document next"]:
    """Loss of every next token, with what a unit adds to the neurons taken away."""
    found = []
    for batch in np.array_split(rows, -(-len(rows) // 64)):
        tokens = pad_left(batch.tolist())
        writes = {} if units is None or unit is None else {NEURONS: _without(units, unit)}
        logits = forward(subject.model, tokens, writes=writes)
        assert logits is not None
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), tokens.ids[:, 1:].flatten(), reduction="none"
        )
        found.append(losses.view(len(batch), -1).double().numpy())
    return np.concatenate(found)


def _without(units: Units, unit: int) -> Write:
    index = torch.tensor([unit])
    direction = units.part.decoder_rows(index)[NEURONS][0]

    def write(x: torch.Tensor, step: Step) -> torch.Tensor:
        return x - units.part.activations_of(index, {NEURONS: x}) * direction

    return write


def logit_weights(subject: Subject) -> dict[str, Row]:
    """Share of the ten tokens that a unit raises most that are tokens of its context."""
    seen = counts() > 0

    def of(units: Units) -> float:
        shares = []
        for name in TEN:
            raised = units.logits[int(units.best[LABEL[name]])].topk(10).indices.numpy()
            shares.append(float(seen[LABEL[name]][raised].mean()))
        return float(np.median(shares))

    return {"logits_of_context": Row(value=of(subject.main), control=of(subject.neurons), n=len(TEN))}
