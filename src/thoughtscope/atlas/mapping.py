"""`FeatureMap`: where each feature of a dictionary lies, in which cluster, and next to which others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtscope.atlas.clusters import hdbscan
from thoughtscope.atlas.maps import N_NEIGHBOURS, umap
from thoughtscope.atlas.neighbours import Neighbours, neighbours
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.store import load_artefact, save_artefact

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary

KIND = "feature-map"
FOLDER = "map"
"""Where a map lies inside its dictionary's folder."""
MAP_DISTANCE, CLUSTER_DISTANCE, CLUSTER_DIM, LEAST = 0.05, 0.1, 10, 3
"""`min_dist` of the map and of the clusters' layout, its dimensions, and the least cluster (Bricken et al. 2023)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """An artefact. Features are numbered over all parts, one part behind the other."""

    dictionary_name: str
    scan: str
    n_features: tuple[int, ...]
    "Of each part."
    place: Float[np.ndarray, "feature 2"]
    "NaN for features that were left out: those that never fired."
    cluster: Int[np.ndarray, " feature"]
    "By size, the largest first; -1 for none."
    near: Neighbours

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the map as an artefact."""
        meta = {"dictionary_name": self.dictionary_name, "scan": self.scan, "n_features": list(self.n_features)}
        tensors = {"place": self.place, "cluster": self.cluster, **vars(self.near)}
        return save_artefact(path, kind=KIND, tensors={"map": tensors}, meta=meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureMap:
        """Opens a saved map. Raises `CorruptArtefact` naming the file."""
        artefact = load_artefact(path, kind=KIND)
        try:
            meta = artefact.meta
            held = {name: tensor.numpy() for name, tensor in artefact.tensors("map").items()}
            near = Neighbours(index=held.pop("index"), cosine=held.pop("cosine"))
            found = cls(
                dictionary_name=meta["dictionary_name"],
                scan=meta["scan"],
                n_features=tuple(meta["n_features"]),
                near=near,
                **held,
            )
            n = sum(found.n_features)
            sound = found.place.shape == (n, 2) and found.cluster.shape == (n,) and len(near.index) == n
            inside = bool((near.index >= -1).all() and (near.index < n).all())
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtefact(f"{path} is a feature map with unreadable content: {error!r:.300}.") from None
        if not (sound and inside and near.cosine.shape == near.index.shape):
            raise CorruptArtefact(f"{path} is a feature map whose tables do not fit each other.")
        return found

    def check_of(self, dictionary: Dictionary) -> None:
        """Raises `DictionaryMismatch` for the map of another dictionary."""
        if (self.scan, self.n_features) != (dictionary.scan, widths(dictionary)):
            raise DictionaryMismatch(
                f"This is a map of {self.dictionary_name} with {self.n_features} features; {dictionary.name} is another "
                "dictionary. Make its own."
            )


def widths(dictionary: Dictionary) -> tuple[int, ...]:
    """How many features each part has."""
    return tuple(part.n_features for part in dictionary.parts)


def feature_map(
    dictionary: Dictionary,
    *,
    alive: Bool[np.ndarray, " feature"] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> FeatureMap:
    """Neighbours, map and clusters of a dictionary's features, by the directions that they write.

    `alive` says which features have a place, and can be neighbours: one that never fired has neighbours, but no place. A map needs
    `2 * LEAST` features with a place; with fewer, none has one.
    """
    near = neighbours(dictionary, k=N_NEIGHBOURS - 1, among=alive, progress=progress)
    n = len(near.index)
    chosen = np.arange(n) if alive is None else np.flatnonzero(alive)
    place = np.full((n, 2), np.nan, np.float32)
    cluster = np.full(n, -1, np.int32)
    index, distance = _among(near, chosen)
    if len(chosen) >= 2 * LEAST and index.shape[1]:
        place[chosen] = umap(index, distance, min_dist=MAP_DISTANCE, seed=seed, progress=progress)
        wide = umap(index, distance, dim=CLUSTER_DIM, min_dist=CLUSTER_DISTANCE, seed=seed, progress=progress)
        cluster[chosen] = hdbscan(wide, min_cluster_size=LEAST)
    return FeatureMap(
        dictionary_name=dictionary.name,
        scan=dictionary.scan,
        n_features=widths(dictionary),
        place=place,
        cluster=cluster,
        near=near,
    )


def _among(
    near: Neighbours, chosen: Int[np.ndarray, " chosen"]
) -> tuple[Int[np.ndarray, "chosen near"], Float[np.ndarray, "chosen near"]]:
    """Neighbours that are chosen themselves, numbered among those, and 1 - cosine; a gap is the point itself, far off."""
    number = np.full(len(near.index) + 1, -1, np.int32)
    number[chosen] = np.arange(len(chosen))
    index = number[near.index[chosen]]
    gap = index < 0
    distance = np.where(gap, 2.0, 1 - near.cosine[chosen]).clip(0)
    order = np.argsort(distance, axis=1, kind="stable")
    index = np.where(gap, np.arange(len(chosen))[:, None], index)
    return np.take_along_axis(index, order, 1), np.take_along_axis(distance, order, 1)
