"""`AtlasPage`: all features of a dictionary as a folder that opens from disk: a page, an index, and pieces on demand.

    folder/
      index.html          the page, with its script and style inside; shows what the pieces hold
      data/index.js       all features in short: labels, densities, peaks, places on the map
      data/text.js        the text that examples are taken from, as tokens
      data/0-12.js        examples, figures, outputs and neighbours of features 1536 to 1663 of part 0

A page from disk may load scripts, and nothing else, from beside it: so each piece is a script that hands over one JSON
object. The server sends the same objects as JSON.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import thoughtscope
from thoughtscope.atlas import Atlas, FeatureBank
from thoughtscope.atlas.bank import LayerRecords
from thoughtscope.core.errors import UnknownFeature
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.progress import Progress, silent
from thoughtscope.reports.payload import made_json
from thoughtscope.reports.report import embed_json, render

FORMAT = 1
SHARD = 128
"""Features in a piece."""
_OURS = re.compile(r"index\.html|data/(?:index|text|\d+-\d+)\.js")
NEAR = 10
"""Neighbours that a feature's page shows."""
BESIDE = "'self' file:"
"""What the page may load: scripts of its own folder, on a disk or on any host."""


@dataclass(frozen=True, kw_only=True)
class AtlasPage:
    """An atlas, and what people call its features, by `part/index`."""

    atlas: Atlas
    labels: Mapping[str, str]

    @property
    def title(self) -> str:
        return f"{self.atlas.dictionary.name}: atlas"

    @property
    def pieces(self) -> tuple[str, ...]:
        """The names of all pieces, the index first."""
        shards = [
            f"{number}-{first // SHARD}"
            for number, part in enumerate(self.atlas.dictionary.parts)
            for first in range(0, part.n_features, SHARD)
        ]
        return ("index", "text", *shards)

    def piece(self, name: str) -> dict[str, Any]:
        """What a piece holds. Raises `UnknownFeature` for a name that is none of `pieces`."""
        if name == "index":
            return index_json(self.atlas, self.labels)
        if name == "text":
            return text_json(self.atlas.bank)
        part, _, chunk = name.partition("-")
        if name not in self.pieces:
            raise UnknownFeature(
                f'This atlas has no piece "{name}"; it has index, text, and 0-0 to {self.pieces[-1]}.'
            )
        return shard_json(self.atlas, int(part), int(chunk) * SHARD)

    def save(self, folder: str | os.PathLike[str], *, progress: Progress = silent) -> Path:
        """Writes the folder, as a whole or not at all; returns its `index.html`. Only an older atlas goes."""
        target = Path(folder)
        with replaced_folder(target, belongs=_OURS.fullmatch) as fresh:
            (fresh / "data").mkdir()
            for done, name in enumerate(self.pieces):
                (fresh / "data" / f"{name}.js").write_text(
                    script_of(name, self.piece(name)), encoding="utf-8"
                )
                progress("pieces", done + 1, len(self.pieces))
            (fresh / "index.html").write_text(self.html, encoding="utf-8")
        return target / "index.html"

    @property
    def html(self) -> str:
        """The page, without its pieces."""
        data = {"version": thoughtscope.__version__, "title": self.title, "pieces": "data/"}
        return render(self.title, data, page="atlas.js", also=BESIDE)


def script_of(name: str, content: Mapping[str, Any]) -> str:
    """A piece as a script that hands it to the page."""
    return f"thoughtscopeAtlas({embed_json(name)},{embed_json(content)});\n"


def index_json(atlas: Atlas, labels: Mapping[str, str]) -> dict[str, Any]:
    """All features in short, as columns: one entry a feature, one part behind the other."""
    return {**_columns(atlas), "people": dict(labels)}


@lru_cache(maxsize=2)  # a server sends it with the labels of the moment, again and again
def _columns(atlas: Atlas) -> dict[str, Any]:
    bank, dictionary = atlas.bank, atlas.dictionary
    pieces, number = _pieces(bank)
    parts = zip(dictionary.parts, atlas.firsts.tolist(), strict=False)
    peaks = [_peaks(records) for records in bank.layers]
    return {
        "format": FORMAT,
        "name": dictionary.name,
        "model": dictionary.model_name,
        "kind": dictionary.kind,
        "parts": [
            {"name": part.name, "layer": part.layer, "first": first, "n": part.n_features}
            for part, first in parts
        ],
        "shard": SHARD,
        "tokens": bank.n_tokens,
        "groups": list(bank.groups),
        "window": list(bank.window),
        "pieces": pieces,
        "labels": [label for layer in range(len(bank.layers)) for label in bank.auto_labels(layer)],
        "held": _held(bank),
        "count": column(atlas.count, "u4"),
        "largest": column(np.concatenate([layer.quantiles[:, -1].numpy() for layer in bank.layers]), "f4"),
        "raised": _wide([number[layer.top_logits.numpy()] for layer in bank.layers], len(pieces)),
        "peak_count": column(np.concatenate([counts for counts, _ in peaks]), "u1"),
        "peak_token": column(np.concatenate([tokens for _, tokens in peaks]), "u4"),
        **_map_json(atlas),
    }


def _held(bank: FeatureBank) -> dict[str, Any] | None:
    """How far each label held when it was tried (F1 on other text), NaN for those that were not; None without any."""
    if bank.made is None:
        return None
    found = [
        math.nan if (made := bank.made_label(layer, index)) is None else made.figures.get("f1", math.nan)
        for layer, records in enumerate(bank.layers)
        for index in range(len(records.count))
    ]
    return column(np.array(found), "f4")


def _map_json(atlas: Atlas) -> dict[str, Any]:
    if atlas.map is None:
        return {"place": None, "cluster": None}
    return {"place": column(atlas.map.place, "f4"), "cluster": column(atlas.map.cluster, "i4")}


def text_json(bank: FeatureBank) -> dict[str, Any]:
    """The scanned text as numbers of pieces, and where its documents start."""
    _, number = _pieces(bank)
    return {"text": column(number[bank.ids.numpy()], "u4"), "starts": column(bank.starts.numpy(), "u4")}


def shard_json(atlas: Atlas, part: int, first: int) -> dict[str, Any]:
    """Features `first` and on of a part, at most `SHARD`: the records of the bank, cut out, and their neighbours."""
    records, number = atlas.bank.layers[part], _pieces(atlas.bank)[1]
    end = min(first + SHARD, len(records.count))
    rows = slice(first, end)
    examples = _cut(records.example_offsets, first, end)
    active = _cut(records.active_offsets, examples.start, examples.stop)
    counts = np.diff(records.active_offsets[examples.start : examples.stop + 1].numpy())
    peak = records.example_token[examples].numpy()
    beside = records.active_token[active].numpy() - np.repeat(peak, counts)
    return {
        "part": part,
        "first": first,
        "made": [
            None if (made := atlas.bank.made_label(part, index)) is None else made_json(made)
            for index in range(first, end)
        ],
        "histogram": column(records.histogram[rows].numpy(), "u4"),
        "quantiles": column(records.quantiles[rows].float().numpy(), "f4"),
        "top_logits": column(number[records.top_logits[rows].numpy()], "u4"),
        "bottom_logits": column(number[records.bottom_logits[rows].numpy()], "u4"),
        "strength": column(records.output_strength[rows].float().numpy(), "f4"),
        "examples": column(np.diff(records.example_offsets[first : end + 1].numpy()), "u2"),
        "peak": column(peak, "u4"),
        "group": column(records.example_group[examples].numpy(), "u1"),
        "active": column(counts, "u2"),
        "offset": column(beside, "i2"),
        "value": column(records.active_value[active].float().numpy(), "f4"),
        **_near_json(atlas, part, first, end),
    }


def _near_json(atlas: Atlas, part: int, first: int, end: int) -> dict[str, Any]:
    """Neighbours, co-firing, specificity and family of some features; null for what is not known."""
    start = int(atlas.firsts[part])
    found: dict[str, Any] = {"near": None, "together": None, "specific": None, "family": None}
    if atlas.map is not None:
        rows, near = slice(start + first, start + end), atlas.map.near
        found["near"] = {
            "index": column(near.index[rows, :NEAR], "i4"),
            "cosine": column(near.cosine[rows, :NEAR], "f4"),
        }
    if atlas.recorded is not None:
        together = atlas.recorded.together[part]
        index = together.index[first:end]
        found["together"] = {
            "index": column(np.where(index < 0, -1, index + start), "i4"),
            "jaccard": column(together.jaccard[first:end], "f4"),
            "given": column(together.given[first:end], "f4"),
        }
        found["specific"] = column(atlas.recorded.specific[part][first:end], "f4")
    if atlas.families is not None:
        found["family"] = [_family(atlas, start + feature) for feature in range(first, end)]
    return found


def _family(atlas: Atlas, feature: int) -> list[dict[str, Any]]:
    """A feature's parents and children in the dictionaries next to it in size, nearest first."""
    tree, here = atlas.families, atlas.generation
    assert tree is not None
    found = []
    for step, splits in enumerate(tree.splits):
        if here not in (step, step + 1):
            continue
        role, own, other, there = (
            ("child", splits.parent, splits.child, step + 1)
            if here == step
            else ("parent", splits.child, splits.parent, step)
        )
        edges = np.flatnonzero(own == feature)
        for edge in edges[np.argsort(-splits.cosine[edges], kind="stable")].tolist():
            found.append(
                {
                    "role": role,
                    "dictionary": tree.names[there],
                    **_relative(atlas, there, int(other[edge])),
                    "cosine": round(float(splits.cosine[edge]), 4),
                    "given": None if splits.given is None else round(float(splits.given[edge]), 4),
                }
            )
    return found


def _relative(atlas: Atlas, there: int, number: int) -> dict[str, Any]:
    """A feature of a family's other dictionary, by its number over all parts: its id there and its label."""
    if not atlas.relatives:
        return {"id": str(number), "label": ""}
    labels = atlas.relatives[there]
    ends = np.cumsum([len(each) for each in labels])
    part = int(np.searchsorted(ends, number, side="right"))
    index = number - int(ends[part]) + len(labels[part])
    return {"id": f"{atlas.dictionary.parts[part].name}/{index}", "label": labels[part][index]}


# --- columns ---------------------------------------------------------------------------------------------------------


def column(values: Any, kind: str) -> dict[str, str]:
    """A column of numbers as base64 of little-endian bytes: `u1 u2 u4 i2 i4 f4`."""
    data = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    return {"kind": kind, "data": base64.b64encode(data.tobytes()).decode()}


def _wide(tables: list[np.ndarray], n_pieces: int) -> dict[str, str]:
    """Tables of tokens below one another, the narrower ones filled up with a number that no token has."""
    width = max(table.shape[1] for table in tables)
    kind, none = ("u2", 2**16 - 1) if n_pieces < 2**16 else ("u4", 2**32 - 1)
    filled = [np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=none) for table in tables]
    return {**column(np.concatenate(filled), kind), "width": str(width)}


@lru_cache(maxsize=2)
def _pieces(bank: FeatureBank) -> tuple[list[str], np.ndarray]:
    """The tokens' texts, and by token id the number of its text."""
    number = np.zeros(max(bank.pieces, default=0) + 1, np.int64)
    number[list(bank.pieces)] = np.arange(len(bank.pieces))
    return list(bank.pieces.values()), number


def _peaks(records: LayerRecords) -> tuple[np.ndarray, np.ndarray]:
    """How many of the strongest examples each feature has, and at which tokens of the text they peak."""
    strongest = records.example_group.numpy() == 0
    running = np.concatenate([[0], np.cumsum(strongest)])
    return np.diff(running[records.example_offsets.numpy()]), records.example_token.numpy()[strongest]


def _cut(offsets: Any, first: int, end: int) -> slice:
    return slice(int(offsets[first]), int(offsets[end]))
