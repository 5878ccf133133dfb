"""`family_tree`: the features of small dictionaries, and those that larger ones have in their place.

A larger dictionary splits a feature into several (Bricken et al. 2023, "Feature splitting"). Dictionaries are put in
order of size; a feature of the next larger one is a child of those whose direction is near to its own. As a child may
have several parents, this is a directed graph without cycles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from thoughtscope.atlas.neighbours import active_together, directions, nearest
from thoughtscope.core.errors import DictionaryMismatch

if TYPE_CHECKING:
    from thoughtscope.atlas.recording import Recording
    from thoughtscope.dictionaries import Dictionary

TAU = 0.5
"""Cosine from which on a feature counts as made of another."""
MOST_PARENTS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The edges from one dictionary's features to those of the next larger one, by child, the nearest parent first."""

    parent: Int[np.ndarray, " edge"]
    "Numbers over all parts, as everywhere in an atlas."
    child: Int[np.ndarray, " edge"]
    cosine: Float[np.ndarray, " edge"]
    given: Float[np.ndarray, " edge"] | None
    "P(child | parent): the share of the parent's tokens on which the child is active; None without recordings."


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyTree:
    """Dictionaries from small to large, and the splits between each and the next."""

    names: tuple[str, ...]
    "With the number of features behind those that share a name."
    splits: tuple[Splits, ...]


def by_size(dictionaries: Sequence[Dictionary]) -> list[int]:
    """The dictionaries' numbers from small to large: their order in a tree."""
    return sorted(range(len(dictionaries)), key=lambda number: dictionaries[number].n_features)


def family_tree(
    dictionaries: Sequence[Dictionary],
    *,
    tau: float = TAU,
    recordings: Sequence[Recording] | None = None,
) -> FamilyTree:
    """The family tree of dictionaries of several sizes that read and write at the same sites.

    `recordings`, in the same order and of the same text, add on how much of a parent's text a child is active.
    Raises `DictionaryMismatch` for dictionaries of other sites, or recordings of different texts.
    """
    first = dictionaries[0]
    for other in dictionaries[1:]:
        if [(part.reads, part.writes) for part in other.parts] != [
            (part.reads, part.writes) for part in first.parts
        ]:
            raise DictionaryMismatch(
                f"{other.name} and {first.name} do not read and write at the same sites, part by part; a family needs "
                "dictionaries of several sizes that do."
            )
    texts: Sequence[Recording | None] = recordings or [None] * len(dictionaries)
    if len({text.plan.documents for text in texts if text is not None}) > 1:
        raise DictionaryMismatch("The recordings are of different texts; record the same documents for each.")
    order = by_size(dictionaries)
    names = [dictionaries[at].name for at in order]
    steps = pairwise(order)
    return FamilyTree(
        names=tuple(
            name if names.count(name) == 1 else f"{name}, {dictionaries[at].n_features:,} features"
            for name, at in zip(names, order, strict=True)
        ),
        splits=tuple(
            _splits(dictionaries[small], dictionaries[large], tau, texts[small], texts[large])
            for small, large in steps
        ),
    )


def _splits(
    small: Dictionary, large: Dictionary, tau: float, text: Recording | None, other_text: Recording | None
) -> Splits:
    """Of each part of the larger dictionary, the nearest features of the smaller one's, if they are near enough."""
    parents, children, cosines, givens = [], [], [], []
    before = before_large = 0
    for number, (one, other) in enumerate(zip(small.parts, large.parts, strict=True)):
        index, cosine = nearest(directions(other), directions(one), k=MOST_PARENTS)
        child, rank = np.nonzero((cosine >= tau) & (index >= 0))
        parent = index[child, rank]
        if text is not None and other_text is not None:
            columns = text.columns(number, 0, one.n_features), other_text.columns(number, 0, other.n_features)
            both = active_together(columns[0], columns[1], parent, child)
            givens.append(both / np.maximum(columns[0].count[parent], 1))
        parents.append(parent + before)
        children.append(child + before_large)
        cosines.append(cosine[child, rank])
        before, before_large = before + one.n_features, before_large + other.n_features
    return Splits(
        parent=np.concatenate(parents),
        child=np.concatenate(children),
        cosine=np.concatenate(cosines),
        given=np.concatenate(givens) if givens else None,
    )
