"""`Columns`: what was active on a text, by feature (CSC)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
from jaxtyping import Float16, Int, Int32, Int64

from thoughtscope.core.tensors import TensorFile


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Activations by feature: f is active at `token[offsets[f]:offsets[f + 1]]`, in the text's order."""

    offsets: Int64[np.ndarray, " offset"]
    token: Int32[np.ndarray, " event"]
    value: Float16[np.ndarray, " event"]

    @property
    def count(self) -> Int64[np.ndarray, " feature"]:
        return np.diff(self.offsets)

    @property
    def feature(self) -> Int64[np.ndarray, " event"]:
        return np.repeat(np.arange(len(self.offsets) - 1), self.count)

    def matrix(self, n_tokens: int) -> scipy.sparse.csc_array:
        """All activations as a sparse array (token, feature), in float32."""
        return scipy.sparse.csc_array(
            (self.value.astype(np.float32), self.token, self.offsets), shape=(n_tokens, len(self.offsets) - 1)
        )

    def part(self, first: int, end: int) -> Columns:
        """Those of features `first` to `end`."""
        offsets = self.offsets[first : end + 1]
        here = slice(offsets[0], offsets[-1])
        return Columns(offsets=offsets - offsets[0], token=self.token[here], value=self.value[here])


@dataclass(frozen=True, kw_only=True)
class StoredColumns:
    """Columns in a file, of which only what is asked for is read."""

    path: Path

    @property
    def count(self) -> Int64[np.ndarray, " feature"]:
        return np.diff(TensorFile(self.path)["offsets"].numpy())

    def part(self, first: int, end: int) -> Columns:
        """Those of features `first` to `end`."""
        file = TensorFile(self.path)
        offsets = file["offsets"][first : end + 1].numpy()
        here = slice(int(offsets[0]), int(offsets[-1]))
        token, value = (file.slice(name)[here].numpy() for name in ("token", "value"))
        return Columns(offsets=offsets - offsets[0], token=token, value=value)


def by_feature(
    feature: Int[np.ndarray, " event"],
    token: Int32[np.ndarray, " event"],
    value: Float16[np.ndarray, " event"],
    n_features: int,
) -> Columns:
    """Columns of events that come in the text's order."""
    order = np.argsort(
        feature.astype(np.uint16) if n_features <= 2**16 else feature, kind="stable"
    )  # radix sort
    offsets = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=n_features))])
    return Columns(offsets=offsets, token=token[order], value=value[order])


def joined(found: Sequence[Columns], before: Sequence[int]) -> Columns:
    """Columns of the same features over texts that follow each other; `before[i]` tokens come before text i."""
    counts = np.stack([each.count for each in found])  # (text, feature)
    offsets = np.concatenate([[0], np.cumsum(counts.sum(0))])
    place = offsets[:-1] + np.cumsum(counts, axis=0) - counts  # (text, feature): where its events begin
    token = np.empty(offsets[-1], np.int32)
    value = np.empty(offsets[-1], np.float16)
    for each, start, at in zip(found, before, place, strict=True):
        where = np.repeat(at - each.offsets[:-1], each.count) + np.arange(len(each.token))
        token[where] = each.token + start
        value[where] = each.value
    return Columns(offsets=offsets, token=token, value=value)
