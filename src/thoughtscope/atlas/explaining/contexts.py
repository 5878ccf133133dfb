"""`contexts_of`: stretches of text that show a feature, and others, of other documents, on which a label is tested.

A text is cut into excerpts of equal length. Half of its documents are for explaining, the other half for scoring: no
document is in both, and no excerpt for scoring has the words of one for explaining. Active excerpts and silent ones
are cut the same way, so that nothing but the feature tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from thoughtscope.core.errors import UnknownFeature, UnsupportedModel

if TYPE_CHECKING:
    from thoughtscope.atlas.columns import Columns
    from thoughtscope.atlas.recording import Recording
    from thoughtscope.models import Model

Kind = Literal["active", "random", "hard"]
LEAST = 8
"""Tokens of the shortest excerpt: a document's end may be shorter than the others."""
BLOCK = 4096
"""Features that are looked at together."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """An excerpt of a document, and what one feature does on it."""

    text: str
    pieces: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    """Each token's bytes in `text`."""
    ids: tuple[int, ...]
    values: tuple[float, ...]
    """The feature's activation at each token, 0 where it is silent."""
    document: int
    kind: Kind
    """`active`; or silent: `random`, or `hard` where neighbours of the feature are active."""

    @property
    def is_active(self) -> bool:
        return self.kind == "active"

    @property
    def largest(self) -> float:
        return max(self.values, default=0.0)


@dataclass(frozen=True, kw_only=True)
class Contexts:
    """What a feature is explained from, and what its labels are tested on."""

    explaining: tuple[Context, ...]
    """Active ones, of all strengths, the strongest first."""
    contrast: tuple[Context, ...]
    """Silent ones of the same documents."""
    scoring: tuple[Context, ...]
    """Of other documents: active ones of all strengths, and silent ones."""


@dataclass(frozen=True, kw_only=True)
class Excerpts:
    """A text cut into excerpts, each within one document."""

    first: Int64[np.ndarray, " excerpt"]
    end: Int64[np.ndarray, " excerpt"]
    document: Int64[np.ndarray, " excerpt"]
    explains: Bool[np.ndarray, " excerpt"]
    """True for excerpts of the documents for explaining."""
    of_token: Int64[np.ndarray, " pos"]
    """The excerpt of each token of the text; -1 for tokens of none."""

    @classmethod
    def of(
        cls,
        ids: Int[np.ndarray, " pos"],
        starts: Int[np.ndarray, " start"],
        *,
        width: int = 32,
        seed: int = 0,
    ) -> Excerpts:
        """Cuts documents, which begin at `starts` (its last entry is the text's length), every `width` tokens.

        `seed` decides which half of the documents is for explaining. Of equal excerpts one is kept, for explaining
        where one of them is.
        """
        lengths = np.diff(starts)
        per_document = -(-lengths // width)
        document = np.repeat(np.arange(len(lengths)), per_document)
        number = np.arange(len(document)) - np.repeat(np.cumsum(per_document) - per_document, per_document)
        first = starts[:-1][document] + number * width
        end = np.minimum(first + width, starts[1:][document])
        chosen = np.random.default_rng(seed).permutation(len(lengths)) < len(lengths) / 2
        keep = (end - first >= min(LEAST, width)) & _unrepeated(ids, first, end, chosen[document])
        first, end, document = first[keep], end[keep], document[keep]
        of_token = np.full(len(ids), -1, np.int64)
        inside = np.repeat(first - np.cumsum(end - first) + (end - first), end - first)
        of_token[inside + np.arange(len(inside))] = np.repeat(np.arange(len(first)), end - first)
        return cls(first=first, end=end, document=document, explains=chosen[document], of_token=of_token)


def _unrepeated(
    ids: Int[np.ndarray, " pos"],
    first: Int64[np.ndarray, " excerpt"],
    end: Int64[np.ndarray, " excerpt"],
    explains: Bool[np.ndarray, " excerpt"],
) -> Bool[np.ndarray, " excerpt"]:
    """True for the first excerpt of each text, those for explaining before the others."""
    width = int((end - first).max(initial=1))
    place = first[:, None] + np.arange(width)
    words = np.where(place < end[:, None], ids[np.minimum(place, len(ids) - 1)], -1)
    order = np.argsort(~explains, kind="stable")
    _, found = np.unique(words[order], axis=0, return_index=True)
    keep = np.zeros(len(first), dtype=bool)
    keep[order[found]] = True
    return keep


def contexts_of(
    model: Model,
    recording: Recording,
    part: int,
    features: Sequence[int],
    *,
    excerpts: Excerpts | None = None,
    neighbours: Mapping[int, Sequence[int]] | None = None,
    n_explain: int = 20,
    n_contrast: int = 10,
    n_active: int = 20,
    n_silent: int = 20,
    seed: int = 0,
) -> dict[int, Contexts]:
    """The contexts of some features of a part, fewer where the text holds fewer.

    Active ones are one of each of so many quantiles of the excerpts' largest activations. Half of the silent ones for
    scoring are hard where `neighbours` has features that fire alike: those on which one of these is strongest.
    Raises `UnknownFeature`, and `UnsupportedModel` for a model without a tokenizer.
    """
    if model.tokenizer is None:
        raise UnsupportedModel(f"{model.name} was bound without a tokenizer, so its text cannot be read.")
    n_features = recording.plan.n_features[part]
    wrong = next((feature for feature in features if not 0 <= feature < n_features), None)
    if wrong is not None:
        raise UnknownFeature(f"This part has features 0 to {n_features - 1}; got {wrong}.")
    ids = recording.ids
    excerpts = Excerpts.of(ids, recording.starts, seed=seed) if excerpts is None else excerpts
    found: dict[int, Contexts] = {}
    for feature in features:
        random = np.random.default_rng([seed, part, feature])
        events = recording.columns(part, feature, feature + 1)
        fires, strength = _on_excerpts(events, excerpts)
        near = (neighbours or {}).get(feature, ())
        hard = _hardest(recording, part, near, excerpts, ~fires & ~excerpts.explains, n_silent // 2)
        silent = np.flatnonzero(~fires & ~excerpts.explains)
        chosen: dict[str, list[tuple[int, Kind]]] = {
            "explaining": [(n, "active") for n in _stratified(fires & excerpts.explains, strength, n_explain, random)],
            "contrast": [(n, "random") for n in _some(np.flatnonzero(~fires & excerpts.explains), n_contrast, random)],
            "scoring": [
                *((n, "active") for n in _stratified(fires & ~excerpts.explains, strength, n_active, random)),
                *((n, "hard") for n in hard.tolist()),
                *((n, "random") for n in _some(np.setdiff1d(silent, hard), n_silent - len(hard), random)),
            ],
        }  # fmt: skip
        show = _Shown(model, ids, excerpts, events)
        found[feature] = Contexts(
            **{name: tuple(show(number, kind) for number, kind in rows) for name, rows in chosen.items()}
        )
    return found


def scorable(recording: Recording, part: int, excerpts: Excerpts, *, least: int = 10) -> list[int]:
    """The features that are active on at least `least` excerpts of each half, and silent on as many."""
    n_features, n_excerpts = recording.plan.n_features[part], len(excerpts.first)
    size = np.bincount(excerpts.explains, minlength=2)
    found: list[int] = []
    for first in range(0, n_features, BLOCK):
        columns = recording.columns(part, first, min(first + BLOCK, n_features))
        at = excerpts.of_token[columns.token]
        pairs = np.unique(columns.feature[at >= 0] * n_excerpts + at[at >= 0])
        half = excerpts.explains[pairs % n_excerpts]
        counts = np.bincount(2 * (pairs // n_excerpts) + half, minlength=2 * len(columns.count)).reshape(
            -1, 2
        )
        enough = ((counts >= least) & (size - counts >= least)).all(axis=1)
        found += (first + np.flatnonzero(enough)).tolist()
    return found


def _on_excerpts(
    events: Columns, excerpts: Excerpts
) -> tuple[Bool[np.ndarray, " excerpt"], Float32[np.ndarray, " excerpt"]]:
    """Where a feature is active at all, and its largest activation there."""
    at = excerpts.of_token[events.token]
    fires = np.zeros(len(excerpts.first), dtype=bool)
    strength = np.full(len(excerpts.first), -np.inf, np.float32)
    fires[at[at >= 0]] = True
    np.maximum.at(strength, at[at >= 0], events.value[at >= 0].astype(np.float32))
    return fires, strength


def _hardest(
    recording: Recording,
    part: int,
    near: Sequence[int],
    excerpts: Excerpts,
    allowed: Bool[np.ndarray, " excerpt"],
    n: int,
) -> Int64[np.ndarray, " chosen"]:
    """The excerpts on which a neighbour is nearest to its own largest activation."""
    share = np.full(len(excerpts.first), -np.inf, np.float32)
    for feature in near:
        fires, strength = _on_excerpts(recording.columns(part, feature, feature + 1), excerpts)
        if fires.any():
            share = np.maximum(share, strength / max(float(strength.max()), 1e-12))
    share[~allowed] = -np.inf
    strongest = np.argsort(-share, kind="stable")[:n]
    return strongest[np.isfinite(share[strongest])].astype(np.int64)


def _stratified(
    allowed: Bool[np.ndarray, " excerpt"],
    strength: Float32[np.ndarray, " excerpt"],
    n: int,
    random: np.random.Generator,
) -> list[int]:
    """One excerpt of each of `n` quantiles of strength, the strongest first; all where there are no more than `n`."""
    places = np.flatnonzero(allowed)
    order = places[np.argsort(-strength[places], kind="stable")]
    if len(order) <= n:
        return order.tolist()
    return [int(random.choice(quantile)) for quantile in np.array_split(order, n)] if n else []


def _some(places: Int[np.ndarray, " place"], n: int, random: np.random.Generator) -> list[int]:
    return random.permutation(places)[:n].tolist()


@dataclass(frozen=True)
class _Shown:
    """Excerpts of a text as one feature sees them."""

    model: Model
    ids: Int[np.ndarray, " pos"]
    excerpts: Excerpts
    events: Columns

    def __call__(self, number: int, kind: Kind) -> Context:
        from thoughtscope.models.tokens import describe

        first, end = int(self.excerpts.first[number]), int(self.excerpts.end[number])
        values = np.zeros(end - first)
        here = slice(*np.searchsorted(self.events.token, [first, end]))
        values[self.events.token[here] - first] = self.events.value[here]
        ids = self.ids[first:end].tolist()
        text, pieces, offsets = describe(self.model, ids)
        return Context(
            text=text,
            pieces=tuple(pieces),
            offsets=tuple(offsets),
            ids=tuple(ids),
            values=tuple(values.tolist()),
            document=int(self.excerpts.document[number]),
            kind=kind,
        )
