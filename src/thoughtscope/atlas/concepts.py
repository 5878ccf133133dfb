"""Concepts: what groups of features mean together, learned from tokens at which the meaning is known.

A feature of a small dictionary seldom stands for one thing: "Texas" is what the features at a city's name have in
common, each of which fires for some other states too. So a name belongs to a group, and is read in two steps:

- which value a concept has at a token: naive Bayes over which features are active there, against the token having none
  of the values;
- which of the active features carry it: those that more of the value's tokens have than shuffled values would explain
  (Fisher's exact test). Where the concept is what the model is about to say, a member must also raise that token.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int
from scipy.stats import hypergeom

from thoughtscope.atlas.soundness import check_concept
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, UnknownFeature, describe_choices
from thoughtscope.core.ids import NodeId, NodeKind
from thoughtscope.core.store import is_artefact, load_artefact, save_artefact

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary, Features

KIND = "concepts"
FOLDER = "concepts"
"""Where concepts lie inside their dictionary's folder."""
CHANCE = 0.01
"""A member is active on so many of the value's tokens that shuffled values would give as many with this probability;
and, where the value is said, raises its token more than all but this share of the vocabulary."""
SHARE = 0.5
"""A member is active on at least this share of the value's tokens."""
_RATES = 1e-3  # no feature is surer than this to be active, or not to be


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """On how many tokens of each value, and of none, each feature is active: all that names rest on."""

    tokens: Int[np.ndarray, " value"]
    active: Int[np.ndarray, "value feature"]
    tokens_none: int
    active_none: Int[np.ndarray, " feature"]

    @cached_property
    def chance(self) -> Float[np.ndarray, "value feature"]:
        """The probability that shuffled values leave a feature as many of the value's tokens, or more.

        Fisher's exact test, one-sided, among the tokens that have a value; no allowance for the number of tests.
        """
        total, with_feature = self.tokens.sum(), self.active.sum(axis=0)
        return hypergeom.sf(self.active - 1, total, with_feature[None], self.tokens[:, None])

    @cached_property
    def evidence(self) -> Float[np.ndarray, "value feature"]:
        """How much the odds of a value against none rise when the feature is active rather than not, in nats."""
        active, inactive = self._log_rates
        return active - inactive

    def log_odds(self, activity: sp.csr_array) -> Float[np.ndarray, "token value"]:
        """The log odds, in nats, of each value against none at tokens with these active features, from even odds.

        Naive Bayes: it counts every feature as if it were independent of the others, so the odds are too sure.
        """
        return activity @ self.evidence.T + self._log_rates[1].sum(axis=1)

    @cached_property
    def _log_rates(self) -> tuple[np.ndarray, np.ndarray]:
        """Log ratios (value, feature) of the rates of being active, and of not being, given the value and none.

        Every rate starts from one imagined token at the feature's overall rate.
        """
        prior = self.active.sum(axis=0) / self.tokens.sum()
        given = ((self.active + prior) / (self.tokens[:, None] + 1)).clip(_RATES, 1 - _RATES)
        none = ((self.active_none + prior) / (self.tokens_none + 1)).clip(_RATES, 1 - _RATES)
        return np.log(given / none), np.log((1 - given) / (1 - none))


@dataclass(frozen=True, kw_only=True)
class Check:
    """How far a concept's names can be trusted: each token read by what the others taught, in cross-validation."""

    right: float
    """Share of the tokens with a value at which that value is read."""
    named: float
    """Share of the tokens with a value at which any is read."""
    mistaken: float
    """Share of the tokens without a value at which one is read."""
    shuffled: float
    """`right` when the values are shuffled among the tokens that have one."""
    chance_members: float
    """Members that shuffled values have, for each member of the real ones: the share that is there by chance."""
    by_value: Mapping[str, tuple[int, int, int]]
    """For each value: its tokens; those of them read as it; other tokens read as it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Concept:
    """One concept of a dictionary: its values, the features that were active, and what speaks for which value."""

    name: str
    dictionary_name: str
    model_name: str
    says: bool
    """True where a value is what the model is about to say, False where it is what the token is about."""
    values: tuple[str, ...]
    layer: Int[np.ndarray, " feature"]
    index: Int[np.ndarray, " feature"]
    counts: Counts
    strength: Float[np.ndarray, "value feature"]
    """Mean activation on the value's tokens on which the feature is active; 0 where there is none."""
    raised: Float[np.ndarray, "value feature"] | None
    """Share of the vocabulary whose logit the feature raises at least as much as that of the value's token; 1 where
    the feature is active on none of the value's tokens. None where a value is not what is said."""
    check: Check

    @cached_property
    def members(self) -> Bool[np.ndarray, "value feature"]:
        """Which features belong to a value's group."""
        found = (self.counts.chance <= CHANCE) & (self.counts.active >= SHARE * self.counts.tokens[:, None])
        return found if self.raised is None else found & (self.raised <= CHANCE)

    def label(self, value: str) -> str:
        """The name of a value's group: `Texas`, or `say Austin`."""
        return f"say {value}" if self.says else value

    def group(self, value: str) -> dict[tuple[int, int], float]:
        """The members of a value's group, as (layer, index), with their strength. Raises `UnknownFeature`."""
        if value not in self.values:
            raise UnknownFeature(describe_choices(value, self.values, what=f"value of {self.name}"))
        row = self.values.index(value)
        return {
            (int(self.layer[at]), int(self.index[at])): float(self.strength[row, at])
            for at in np.flatnonzero(self.members[row])
        }

    def activity(
        self,
        row: Int[np.ndarray, " active"],
        layer: Int[np.ndarray, " active"],
        index: Int[np.ndarray, " active"],
        n_rows: int,
    ) -> sp.csr_array:
        """Which of this concept's features are active in each row: (row, feature), of zeros and ones."""
        known, asked = feature_keys(self.layer, self.index), feature_keys(layer, index)
        at = np.searchsorted(known, asked).clip(max=max(len(known) - 1, 0))
        ours = known[at] == asked if len(known) else np.zeros(len(asked), dtype=bool)
        shape = (n_rows, len(known))
        return sp.csr_array((np.ones(ours.sum(), np.float32), (row[ours], at[ours])), shape=shape)


def feature_keys(
    layer: Int[np.ndarray, " feature"], index: Int[np.ndarray, " feature"]
) -> Int[np.ndarray, " feature"]:
    """One number a feature, which orders like layer and index."""
    return layer.astype(np.int64) << 32 | index.astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A concept has a value at a position of one prompt, and these of the active features carry it."""

    concept: str
    value: str
    label: str
    position: int
    log_odds: float
    """Of the value against none of them, in nats."""
    margin: float
    """How far the value is ahead of the next one, in nats."""
    members: tuple[NodeId, ...]


def read_concepts(concepts: Iterable[Concept], features: Features) -> tuple[Reading, ...]:
    """What each concept says at every position of a prompt at which one of its values is likelier than none."""
    columns = (features.position, features.part, features.index)
    position, layer, index = (column.cpu().numpy() for column in columns)
    readings: list[Reading] = []
    for concept in concepts:
        activity = concept.activity(position, layer, index, features.n_positions)
        odds = concept.counts.log_odds(activity)
        order = np.argsort(odds, axis=1)
        for at in np.flatnonzero((odds.max(axis=1) > 0) & (np.diff(activity.indptr) > 0)):
            best, second = order[at, -1], order[at, -2]
            here = activity.indices[activity.indptr[at] : activity.indptr[at + 1]]
            readings.append(
                Reading(
                    concept=concept.name,
                    value=concept.values[best],
                    label=concept.label(concept.values[best]),
                    position=int(at),
                    log_odds=float(odds[at, best]),
                    margin=float(odds[at, best] - odds[at, second]),
                    members=tuple(
                        NodeId(NodeKind.FEATURE, int(at), int(concept.layer[one]), int(concept.index[one]))
                        for one in np.sort(here)
                        if concept.members[best, one]
                    ),
                )
            )
    return tuple(readings)


def name_nodes(readings: Iterable[Reading]) -> dict[NodeId, str]:
    """A name for each node that a reading claims: the surer reading's, where two do.

    One value read at neighbouring positions (the tokens of one word) is one name. Where it is read elsewhere too, the
    surest keeps the plain name and the others say where they begin.
    """
    found = sorted(readings, key=lambda reading: reading.position)
    begins: dict[tuple[str, int], int] = {}
    for reading in found:
        before = (reading.label, reading.position - 1)
        begins[reading.label, reading.position] = begins.get(before, reading.position)
    names: dict[NodeId, str] = {}
    plain: dict[str, int] = {}
    for reading in sorted(found, key=lambda reading: -reading.log_odds):
        begin = begins[reading.label, reading.position]
        same = plain.setdefault(reading.label, begin) == begin
        label = reading.label if same else f"{reading.label} at {begin}"
        for member in reading.members:
            names.setdefault(member, label)
    return names


def save_concepts(concepts: Iterable[Concept], path: str | os.PathLike[str]) -> Path:
    """Saves the concepts of one dictionary as the artefact `path`. Raises `DictionaryMismatch` if they have several."""
    several = tuple(concepts)
    owners = {concept.dictionary_name for concept in several}
    if len(owners) != 1:
        raise DictionaryMismatch(
            f"Save the concepts of one dictionary together; these belong to {sorted(owners)}."
        )
    tensors, meta = {}, []
    for concept in several:
        seen = np.flatnonzero(concept.counts.active)  # most features are active for a few values only
        arrays = {
            "layer": concept.layer.astype(np.int32),
            "index": concept.index.astype(np.int32),
            "tokens": concept.counts.tokens.astype(np.int32),
            "active_none": concept.counts.active_none.astype(np.int32),
            "seen": seen.astype(np.int32),
            "active": concept.counts.active.flat[seen].astype(np.int32),
            "strength": concept.strength.flat[seen].astype(np.float16),
        }
        if concept.raised is not None:
            arrays["raised"] = concept.raised.flat[seen].astype(np.float16)
        tensors[concept.name] = arrays
        names = ("name", "dictionary_name", "model_name", "says", "values")
        fields = {name: getattr(concept, name) for name in names}
        fields |= {"tokens_none": concept.counts.tokens_none, "check": asdict(concept.check)}
        meta.append(fields)
    return save_artefact(path, kind=KIND, tensors=tensors, meta={"concepts": meta})


def load_concepts(path: str | os.PathLike[str]) -> tuple[Concept, ...]:
    """Opens what `save_concepts` wrote. Raises `CorruptArtefact` naming what does not fit."""
    artefact = load_artefact(path, kind=KIND)
    try:
        found = tuple(_load(artefact.tensors(meta["name"]), dict(meta)) for meta in artefact.meta["concepts"])
        for concept in found:
            check_concept(concept)
        return found
    except CorruptArtefact:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        raise CorruptArtefact(f"{path} does not hold concepts of this version: {error!r:.300}.") from None


def _load(tensors: Mapping[str, Any], meta: dict[str, Any]) -> Concept:
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    check = dict(meta.pop("check"))
    by_value = {value: tuple(figures) for value, figures in check.pop("by_value").items()}
    shape = (len(arrays["tokens"]), len(arrays["layer"]))

    def spread(name: str, absent: int, dtype: type) -> np.ndarray:
        full: np.ndarray = np.full(shape, absent, dtype)
        full.flat[arrays["seen"]] = arrays[name]
        return full

    counts = Counts(
        tokens=arrays["tokens"],
        active=spread("active", 0, np.int32),
        tokens_none=meta.pop("tokens_none"),
        active_none=arrays["active_none"],
    )
    return Concept(
        **{**meta, "values": tuple(meta["values"])},
        layer=arrays["layer"],
        index=arrays["index"],
        counts=counts,
        strength=spread("strength", 0, np.float32),
        raised=spread("raised", 1, np.float32) if "raised" in arrays else None,
        check=Check(**check, by_value=by_value),
    )


def concepts_of(dictionary: Dictionary) -> tuple[Concept, ...]:
    """The concepts that lie with a loaded dictionary (its folder's `concepts/`); none if there are none.

    Raises `CorruptArtefact` for damaged ones.
    """
    folder = dictionary.card.folder
    if folder is None or not is_artefact(folder / FOLDER, kind=KIND):
        return ()
    return load_concepts(folder / FOLDER)
