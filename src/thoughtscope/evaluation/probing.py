"""What features know of labels: sparse probing, targeted probe perturbation and absorption, after SAEBench's protocols.

Texts and labels are the user's. A text's activations and features are means over its tokens. Probes are logistic
regressions; figures are accuracies on texts that no probe was fitted on. Absorption asks of words instead of texts, and
reads them at one token.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import normalize

from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.files import read_file
from thoughtscope.core.parsing import strict_json
from thoughtscope.dictionaries import Dictionary, Part, check_fits, resident
from thoughtscope.dictionaries.documents import counted, numbered_batches
from thoughtscope.dictionaries.features import flat

if TYPE_CHECKING:
    from thoughtscope.models import Model

KS = (1, 2, 5)
"""Numbers of features that a sparse probe may read."""
TOP = (2, 5, 10, 20, 50, 100, 500)
"""Numbers of features that are ablated for a perturbation."""
JUMP = 0.03
"""A further feature belongs to a letter while the F1 of a probe on all of them grows by this much."""
ALIGNED, STRONG, ABSORBERS, SHARE = 0.1, 0.025, 3, 0.4
"""Absorption: a latent takes part from this cosine with the probe on (a single one from the second), at most so many at
a time, and together they make up at least this share of the probe's projection (Karvonen et al. 2025, app. E)."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A text and its class."""

    text: str
    label: str


def read_labelled(path: str | os.PathLike[str]) -> list[Labelled]:
    """Reads lines of JSON, {"text": …, "label": …} each. Raises `ThoughtscopeError` for a line of another form."""
    found = []
    for number, line in enumerate(read_file(Path(path)).splitlines(), 1):
        if line.strip():
            data = strict_json(line, f"{path}, line {number}")
            if not isinstance(data, dict) or not all(
                isinstance(data.get(key), str) for key in ("text", "label")
            ):
                raise ThoughtscopeError(
                    f'{path}, line {number}: a line is {{"text": "…", "label": "…"}}, both of them texts.'
                )
            found.append(Labelled(text=data["text"], label=data["label"]))
    return found


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """Texts as means over their tokens: of what a site held, and of the features there."""

    x: Float[Tensor, "text width"]
    features: Float[Tensor, "text feature"]
    labels: tuple[str, ...]
    decoder: Float[Tensor, "feature width"] | None
    """What the features add to `x`; None where they write elsewhere than they read."""

    def rows(self, index: Sequence[int]) -> Pooled:
        """Some of the texts."""
        at = torch.tensor(list(index))
        labels = tuple(self.labels[one] for one in index)
        return replace(self, x=self.x[at], features=self.features[at], labels=labels)


@torch.no_grad()
def pool(
    model: Model,
    dictionary: Dictionary,
    texts: Sequence[Labelled],
    *,
    part: str | None = None,
    context: int = 128,
) -> Pooled:
    """The mean activations and features of each text, by one part (by default the only one); first positions are left
    out where the dictionary leaves them out. Texts of a single token are left out.

    Raises `DictionaryMismatch` for a part that reads several sites or must be named.
    """
    from thoughtscope.models import capture

    check_fits(dictionary, model)
    one = _one_part(resident(dictionary, device=model.device), part)
    (site,) = one.reads
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for numbers, tokens in numbered_batches(model, [each.text for each in texts], context=context):
        keep = counted(tokens.mask, skip_first=dictionary.skip_first).to(model.device)
        held = capture(model, tokens, [site])[site]
        for row, number in enumerate(numbers):
            x = flat(held[row][keep[row]], 1).float()
            found[number] = (x.mean(0).cpu(), one.activations({site: x}).mean(0).cpu())
    if not found:
        raise ThoughtscopeError("The texts hold no tokens to probe.")
    order = sorted(found)
    return Pooled(
        x=torch.stack([found[number][0] for number in order]),
        features=torch.stack([found[number][1] for number in order]),
        labels=tuple(texts[number].label for number in order),
        decoder=one.W_dec[site].float().cpu() if one.writes == one.reads else None,
    )


def _one_part(dictionary: Dictionary, name: str | None) -> Part:
    part = dictionary.part(name) if name is not None else dictionary.parts[0]
    if (name is None and len(dictionary.parts) > 1) or len(part.reads) > 1:
        names = ", ".join(each.name for each in dictionary.parts)
        raise DictionaryMismatch(
            f"Probing takes one part that reads one site; {dictionary.name} has parts {names}. Name one."
        )
    return part


# --- probes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A linear classifier: the class holds where `weight · x + bias > 0`."""

    weight: Float[Tensor, " width"]
    bias: float

    def predict(self, x: Float[Tensor, "text width"]) -> Bool[Tensor, " text"]:
        """Whether the class holds."""
        return x.double() @ self.weight + self.bias > 0


def fit_probe(x: Float[Tensor, "text width"], truth: Bool[Tensor, " text"]) -> Probe:
    """Logistic regression: the minimum of ½‖w‖² + Σ log(1 + e^(−y (w·x + b))), y = ±1, by L-BFGS in float64."""
    rows, sign = x.double().numpy(), np.where(truth.numpy(), 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weight, margin = parameters[:-1], sign * (rows @ parameters[:-1] + parameters[-1])
        pull = -sign * expit(-margin)
        value = 0.5 * weight @ weight + np.logaddexp(0, -margin).sum()
        return value, np.append(weight + rows.T @ pull, pull.sum())

    found = minimize(
        loss, np.zeros(rows.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1000}
    ).x
    return Probe(weight=torch.from_numpy(found[:-1].copy()), bias=float(found[-1]))


def top_by_mean_difference(
    features: Float[Tensor, "text feature"], truth: Bool[Tensor, " text"], k: int
) -> list[int]:
    """The `k` features whose means differ most, in size, between texts of the class and others."""
    difference = (features[truth].mean(0) - features[~truth].mean(0)).abs()
    return difference.topk(min(k, len(difference))).indices.tolist()


# --- sparse probing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Probing:
    """Accuracies on texts that were left out, means over the classes.

    - features: of probes on the k best features, by k; - channels: on the k best numbers of the activation itself
    - dense: of probes on the whole activation
    """

    features: Mapping[int, float]
    channels: Mapping[int, float]
    dense: float
    classes: tuple[str, ...]


def sparse_probing(
    pooled: Pooled, *, ks: Sequence[int] = KS, test_share: float = 0.2, seed: int = 0
) -> Probing:
    """One probe a class against as many texts of the others (Gurnee et al. 2023; Karvonen et al. 2025).

    Raises `ThoughtscopeError` with fewer than two classes, or fewer than ten texts in one.
    """
    classes = _classes(pooled)
    features: dict[int, list[float]] = {k: [] for k in ks}
    channels: dict[int, list[float]] = {k: [] for k in ks}
    dense = []
    for name in classes:
        train, test = _balanced(pooled, name, test_share, seed)
        (there, is_there), (here, is_here) = _of_class(train, name), _of_class(test, name)
        dense.append(_accuracy(there.x, is_there, here.x, is_here))
        for k in ks:
            for found, a, b in ((features, there.features, here.features), (channels, there.x, here.x)):
                index = top_by_mean_difference(a, is_there, k)
                found[k].append(_accuracy(a[:, index], is_there, b[:, index], is_here))
    return Probing(
        features={k: _mean(values) for k, values in features.items()},
        channels={k: _mean(values) for k, values in channels.items()},
        dense=_mean(dense),
        classes=classes,
    )


def _accuracy(x: Tensor, truth: Tensor, test: Tensor, test_truth: Tensor) -> float:
    return float((fit_probe(x, truth).predict(test) == test_truth).double().mean())


def _classes(pooled: Pooled) -> tuple[str, ...]:
    classes = tuple(dict.fromkeys(pooled.labels))
    few = [name for name in classes if pooled.labels.count(name) < 10]
    if len(classes) < 2 or few:
        raise ThoughtscopeError(
            f"Probing needs two classes or more, of ten texts or more each; got {len(classes)}, too few in {few}."
        )
    return classes


def _balanced(pooled: Pooled, name: str, test_share: float, seed: int) -> tuple[Pooled, Pooled]:
    """As many texts of the class as of the others together, in two halves; the test's are the same for every class."""
    draw = Random(f"{seed}:{name}")
    test = set(Random(seed).sample(range(len(pooled.labels)), int(len(pooled.labels) * test_share)))
    halves = []
    for inside in (False, True):
        mine = [n for n, label in enumerate(pooled.labels) if (n in test) == inside and label == name]
        others = [n for n, label in enumerate(pooled.labels) if (n in test) == inside and label != name]
        size = min(len(mine), len(others))
        if not size:
            raise ThoughtscopeError(f'Too few texts of class "{name}" to leave some out for the test.')
        halves.append(pooled.rows(sorted(draw.sample(mine, size) + draw.sample(others, size))))
    return halves[0], halves[1]


def _of_class(pooled: Pooled, name: str) -> tuple[Pooled, Bool[Tensor, " text"]]:
    return pooled, torch.tensor([label == name for label in pooled.labels])


# --- targeted probe perturbation -------------------------------------------------------------------------------------


def targeted_perturbation(
    pooled: Pooled, *, top: Sequence[int] = TOP, test_share: float = 0.2, seed: int = 0
) -> dict[int, float]:
    """How much more a class's own probe loses than the others', when the class's features are ablated; by their number.

    The features of a class are those whose mean difference (where positive) times the pull of their decoder on the
    probe is largest. Value: the mean over classes of the accuracy lost by their own probe, minus the mean of what the
    other classes' probes lose (TPP; Karvonen et al. 2025). Raises as `sparse_probing`, and `DictionaryMismatch` for a
    part that writes elsewhere than it reads.
    """
    if pooled.decoder is None:
        raise DictionaryMismatch("A perturbation needs an autoencoder: features that write where they read.")
    classes = _classes(pooled)
    halves = {name: _balanced(pooled, name, test_share, seed) for name in classes}
    probes, effects = {}, {}
    for name, (train, _) in halves.items():
        _, truth = _of_class(train, name)
        probes[name] = fit_probe(train.x, truth)
        difference = (train.features[truth].mean(0) - train.features[~truth].mean(0)).clamp(min=0)
        effects[name] = difference * (pooled.decoder.double() @ probes[name].weight).float()

    def accuracy(name: str, ablated: Sequence[int]) -> float:
        test, truth = _of_class(halves[name][1], name)
        index = list(ablated)
        x = test.x - test.features[:, index] @ pooled.decoder[index] if pooled.decoder is not None else test.x
        return float((probes[name].predict(x) == truth).double().mean())

    before = {name: accuracy(name, []) for name in classes}
    found = {}
    for n in top:
        own, others = [], []
        for name in classes:
            order = effects[name].topk(min(n, int((effects[name] != 0).sum()))).indices.tolist()
            lost = {each: before[each] - accuracy(each, order) for each in classes}
            own.append(lost.pop(name))
            others.append(_mean(list(lost.values())))
        found[n] = _mean(own) - _mean(others)
    return found


# --- absorption ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Absorption:
    """Means over first letters: of the share of a letter that other latents absorb, and of words whose letter one other
    latent has wholly taken over; and the number of latents that a letter is split over."""

    fraction: float
    full: float
    split: float
    letters: tuple[str, ...]


def absorption(pooled: Pooled, *, test_share: float = 0.2, seed: int = 0, most_split: int = 5) -> Absorption:
    """First-letter absorption (Chanin et al. 2024; Karvonen et al. 2025): does the feature of a letter stay silent on
    words for which a more special feature carries the letter along?

    `pooled` holds words at the token where they are read, labelled by their first letters. A probe a letter is fitted;
    the letter's own features are found by sparse probing, as many as each raise F1 by `JUMP`. On test words of the
    letter that the probe gets right, the others count that are aligned with the probe. Raises as
    `targeted_perturbation`.
    """
    if pooled.decoder is None:
        raise DictionaryMismatch("Absorption needs an autoencoder: features that write where they read.")
    letters = _classes(pooled)
    fractions, full, split = [], [], []
    for letter in letters:
        train, test = _balanced(pooled, letter, test_share, seed)
        _, truth = _of_class(train, letter)
        probe = fit_probe(train.x, truth)
        own = _own_features(train.features, truth, most_split)
        split.append(float(len(own)))
        rows, is_letter = _of_class(test, letter)
        right = is_letter & probe.predict(rows.x)
        cases = [
            _absorbed(x.double(), a.double(), pooled.decoder.double(), normalize(probe.weight, dim=0), own)
            for x, a in zip(rows.x[right], rows.features[right], strict=True)
        ]
        if cases:
            fractions.append(_mean([fraction for fraction, _ in cases]))
            full.append(_mean([float(whole) for _, whole in cases]))
    return Absorption(fraction=_mean(fractions), full=_mean(full), split=_mean(split), letters=letters)


def _own_features(features: Tensor, truth: Tensor, most: int) -> list[int]:
    """The best feature of a letter, and further ones while each makes the probe clearly better."""
    ranked = top_by_mean_difference(features, truth, most)
    best = 0.0
    for k in range(1, len(ranked) + 1):
        guess = fit_probe(features[:, ranked[:k]], truth).predict(features[:, ranked[:k]])
        f1 = 2 * float((guess & truth).sum()) / max(1.0, float(guess.sum() + truth.sum()))
        if k > 1 and f1 < best + JUMP:
            return ranked[: k - 1]
        best = f1
    return ranked


def _absorbed(x: Tensor, a: Tensor, decoder: Tensor, direction: Tensor, own: list[int]) -> tuple[float, bool]:
    """Of one word: the share of the probe's projection that others carry, and whether one alone does."""
    cosine = normalize(decoder) @ direction
    projection, whole = a * cosine, float(x @ direction)
    mine = float(projection[own].sum())
    others = (cosine >= ALIGNED) & (projection > 0)
    others[own] = False
    taken = float(projection[others].topk(min(ABSORBERS, int(others.sum()))).values.sum())
    top = int(projection.argmax())
    silent = bool((a[own] < 1e-6).all())
    carried = whole > 0 and float(projection[top]) / whole >= SHARE and float(cosine[top]) >= STRONG
    if whole <= 0 or mine >= whole or taken / whole < SHARE:
        fraction = 0.0
    elif mine <= 0:
        fraction = 1.0
    else:
        absorbed = min(taken, whole - mine)
        fraction = absorbed / (absorbed + mine)
    return fraction, silent and carried


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
