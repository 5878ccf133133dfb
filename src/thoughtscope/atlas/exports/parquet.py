"""A Parquet table for embedding-atlas: a row for each feature that has a place on the map.

    embedding-atlas features.parquet --text text --x x --y y --neighbors neighbors

`neighbors` holds `{"ids": row numbers, "distances": 1 - cosine}`, as that tool reads precomputed ones.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from thoughtscope.atlas.exports.formats import FEATURE_FORMATS, Exported, FeatureFormat
from thoughtscope.core.errors import MissingExtra
from thoughtscope.core.progress import Progress

FILE = "features.parquet"


def columns(exported: Exported) -> dict[str, list[Any]]:
    """The table by column; rows are the features with a place, in the dictionary's order."""
    atlas = exported.atlas
    assert atlas.map is not None
    place = atlas.map.place
    owner = np.searchsorted(atlas.firsts, np.arange(len(place)), side="right") - 1
    rows = np.flatnonzero(~np.isnan(place[:, 0]) & np.isin(owner, exported.parts))
    part = owner[rows]
    index = rows - atlas.firsts[part]
    parts = atlas.dictionary.parts
    automatic = [atlas.bank.auto_labels(number) for number in range(len(parts))]
    owned = list(zip(part.tolist(), index.tolist(), strict=True))
    labels = [exported.label(number, own, automatic[number][own]) or ("", "") for number, own in owned]
    names = [parts[number].name for number, _ in owned]
    return {
        "id": [f"{name}/{own}" for name, (_, own) in zip(names, owned, strict=True)],
        "text": [label for label, _ in labels],
        "label_by": [by for _, by in labels],
        "part": names,
        "layer": [parts[number].layer for number, _ in owned],
        "index": index.tolist(),
        "density": (atlas.count[rows] / max(1, atlas.bank.n_tokens)).tolist(),
        "max_activation": [atlas.bank.largest(number, own) for number, own in owned],
        "peaks": [list(atlas.bank.peaks(number, own, 5)) for number, own in owned],
        "cluster": atlas.map.cluster[rows].tolist(),
        "x": place[rows, 0].tolist(),
        "y": place[rows, 1].tolist(),
        "neighbors": _neighbours(exported, rows),
    }


def _neighbours(exported: Exported, rows: np.ndarray) -> list[dict[str, list[Any]]]:
    """Row numbers of each row's neighbours, and how far they are."""
    found = exported.atlas.map
    assert found is not None
    number = np.full(len(found.place) + 1, -1)
    number[rows] = np.arange(len(rows))
    index, distance = number[found.near.index[rows]], 1 - found.near.cosine[rows]
    return [
        {"ids": near[near >= 0].tolist(), "distances": away[near >= 0].tolist()}
        for near, away in zip(index, distance.astype(float), strict=True)
    ]


def write(exported: Exported, folder: Path, progress: Progress) -> list[Path]:
    """One file. Raises `MissingExtra` without pyarrow."""
    if find_spec("pyarrow") is None:
        raise MissingExtra("Writing Parquet needs pyarrow. Install: pip install 'thoughtscope[parquet]'")
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns(exported))
    path = folder / FILE
    pyarrow.parquet.write_table(table, path)
    progress("features", len(table), len(table))
    return [path]


FEATURE_FORMATS.register("parquet")(
    FeatureFormat(what="a Parquet table for embedding-atlas", write=write, needs=("map",))
)
