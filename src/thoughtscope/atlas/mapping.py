"""`FeatureMap`: where each feature of a dictionary lies, in which cluster, and next to which others."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from thoughtscope.atlas.clusters import hdbscan
from thoughtscope.atlas.maps import EPOCHS, N_NEIGHBOURS, umap
from thoughtscope.atlas.neighbours import Neighbours, directions, neighbours_of
from thoughtscope.core.errors import CorruptArtefact
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.store import is_artefact, load_artefact, save_artefact

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary

KIND = "feature-map"
MAP_DISTANCE, CLUSTER_DISTANCE, CLUSTER_DIM, LEAST = 0.05, 0.1, 10, 3
"""`min_dist` of the map and of the clusters' layout, its dimensions, and the least cluster (Bricken et al. 2023)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMap:
    """An artefact. Features are numbered over all parts, one part behind the other."""

    dictionary_name: str
    digest: str
    "SHA-256 of the directions and of which features have a place: whose map this is."
    n_features: tuple[int, ...]
    "Of each part."
    place: Float[np.ndarray, "feature 2"]
    "NaN for features that were left out: those that never fired."
    cluster: Int[np.ndarray, " feature"]
    "By size, the largest first; -1 for none."
    near: Neighbours

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the map as an artefact."""
        meta = {
            "dictionary_name": self.dictionary_name,
            "digest": self.digest,
            "n_features": list(self.n_features),
        }
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
                digest=meta["digest"],
                n_features=tuple(meta["n_features"]),
                near=near,
                **held,
            )
            sound = _fits(found)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtefact(
                f"{path} is a feature map with unreadable content: {error!r:.300}."
            ) from None
        if not sound:
            raise CorruptArtefact(f"{path} is a feature map whose tables do not fit each other.")
        return found


def _fits(found: FeatureMap) -> bool:
    """Whether the tables belong together: a place is two numbers or none, a neighbour is a feature."""
    n, near = sum(found.n_features), found.near
    shapes = (found.place.shape, found.cluster.shape, near.index.shape[:1], near.cosine.shape)
    if shapes != ((n, 2), (n,), (n,), near.index.shape) or near.index.ndim != 2:
        return False
    nowhere = np.isnan(found.place)
    placed = bool((nowhere[:, 0] == nowhere[:, 1]).all() and not np.isinf(found.place).any())
    there = bool((near.index >= -1).all() and (near.index < n).all() and (found.cluster >= -1).all())
    return placed and there and bool(np.isfinite(near.cosine).all())


def widths(dictionary: Dictionary) -> tuple[int, ...]:
    """How many features each part has."""
    return tuple(part.n_features for part in dictionary.parts)


def map_digest(dictionary: Dictionary, alive: Bool[np.ndarray, " feature"]) -> str:
    """What decides every number of a map: the directions, and which features have a place."""
    found = hashlib.sha256(np.packbits(alive).tobytes())
    for part in dictionary.parts:
        found.update(directions(part).numpy().tobytes())
    return found.hexdigest()


def kept_map(
    dictionary: Dictionary,
    folder: str | os.PathLike[str],
    *,
    alive: Bool[np.ndarray, " feature"],
    make: bool = True,
    progress: Progress = silent,
) -> FeatureMap | None:
    """The map that is kept in a folder of maps, each under its digest; made and kept where there is none yet.

    With `make=False`, None where there is none. A damaged one is made anew.
    """
    digest = map_digest(dictionary, alive)
    place = Path(folder) / digest[:24]
    if is_artefact(place, kind=KIND):
        try:
            found = FeatureMap.load(place)
            if (found.digest, found.n_features) == (digest, widths(dictionary)):
                return found
        except CorruptArtefact:
            pass
    if not make:
        return None
    made = feature_map(dictionary, alive=alive, progress=progress)
    made.save(place)
    return made


def feature_map(
    dictionary: Dictionary,
    *,
    alive: Bool[np.ndarray, " feature"],
    seed: int = 0,
    progress: Progress = silent,
) -> FeatureMap:
    """Neighbours, map and clusters of a dictionary's features, by the directions that they write.

    `alive` says which features have a place, and can be neighbours: one that never fired has neighbours, but no place.
    A map needs `2 * LEAST` features with a place; with fewer, none has one.
    """
    near = neighbours_of(dictionary, k=N_NEIGHBOURS - 1, among=alive, progress=progress)
    n, chosen = len(near.index), np.flatnonzero(alive)
    place = np.full((n, 2), np.nan, np.float32)
    cluster = np.full(n, -1, np.int32)
    index, distance = _among(near, chosen)
    if len(chosen) >= 2 * LEAST and index.shape[1]:
        how: dict[str, Any] = {"epochs": EPOCHS, "seed": seed, "progress": progress}
        place[chosen] = umap(index, distance, min_dist=MAP_DISTANCE, **how)
        wide = umap(index, distance, dim=CLUSTER_DIM, min_dist=CLUSTER_DISTANCE, **how)
        cluster[chosen] = hdbscan(wide, min_cluster_size=LEAST)
    return FeatureMap(
        dictionary_name=dictionary.name,
        digest=map_digest(dictionary, alive),
        n_features=widths(dictionary),
        place=place,
        cluster=cluster,
        near=near,
    )


def _among(
    near: Neighbours, chosen: Int[np.ndarray, " chosen"]
) -> tuple[Int[np.ndarray, "chosen near"], Float[np.ndarray, "chosen near"]]:
    """Neighbours, numbered among the chosen, and 1 - cosine; a gap is the point itself, far off."""
    number = np.full(len(near.index) + 1, -1, np.int32)
    number[chosen] = np.arange(len(chosen))
    index = number[near.index[chosen]]
    gap = index < 0
    distance = np.where(gap, 2.0, 1 - near.cosine[chosen]).clip(0)
    order = np.argsort(distance, axis=1, kind="stable")
    index = np.where(gap, np.arange(len(chosen))[:, None], index)
    return np.take_along_axis(index, order, 1), np.take_along_axis(distance, order, 1)
