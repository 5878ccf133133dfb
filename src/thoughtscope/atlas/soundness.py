"""Whether what was read from a bank or a concept's files fits together, so that no later look-up can fail on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from thoughtscope.atlas.picking import windows_of
from thoughtscope.core.tensors import all_finite

if TYPE_CHECKING:
    from thoughtscope.atlas.bank import FeatureBank, LayerRecords
    from thoughtscope.atlas.concepts import Concept

MAX_WINDOW = 10_000
"""Tokens shown on either side of an example's peak."""


def check_bank(bank: FeatureBank) -> None:
    """Raises `ValueError` saying what in a bank points to nothing, has another shape, or is no finite number."""
    texts = (bank.dictionary_name, bank.scan, bank.model_name, *bank.groups, *bank.pieces.values())
    _require(all(isinstance(text, str) for text in texts), "names, groups and pieces are texts")
    window = bank.window
    _require(
        len(window) == 2 and all(type(n) is int and 0 <= n <= MAX_WINDOW for n in window),
        "window is two numbers",
    )
    starts, ids = bank.starts.numpy(), bank.ids.numpy()
    _require(
        ids.ndim == starts.ndim == 1 and ids.dtype.kind == starts.dtype.kind == "i",
        "ids and starts are lists",
    )
    _require(
        _runs(starts, len(ids)) and bool((np.diff(starts) > 0).all()), "starts cut the text into documents"
    )
    known = np.array(sorted(bank.pieces), dtype=np.int64)
    _require(bool(np.isin(ids, known).all()), "every token of the text has its piece")
    for number, records in enumerate(bank.layers):
        try:
            _check_records(bank, records, known)
        except ValueError as error:
            raise ValueError(f"layer {number}: {error}") from None


def _check_records(bank: FeatureBank, records: LayerRecords, known: np.ndarray) -> None:
    fields = records.tensors()
    _require(all(all_finite(tensor) for tensor in fields.values()), "every number is finite")
    ranks = {"histogram": 2, "quantiles": 2, "top_logits": 2, "bottom_logits": 2}
    for name, tensor in fields.items():
        _require(tensor.ndim == ranks.get(name, 1), f"{name} has {ranks.get(name, 1)} axes")
        floating = name in ("quantiles", "output_strength", "active_value", "effect_value")
        _require(
            tensor.is_floating_point() == floating,
            f"{name} holds {'floats' if floating else 'whole numbers'}",
        )
    n_features, n_examples = len(records.count), len(records.example_token)
    for name in ("histogram", "quantiles", "top_logits", "bottom_logits", "output_strength"):
        _require(len(fields[name]) == n_features, f"{name} has a row for each feature")
    _require(records.quantiles.shape[1] > 0 or not n_features, "there are quantiles")
    for name in ("top_logits", "bottom_logits"):
        _require(bool(np.isin(fields[name].numpy(), known).all()), f"every token of {name} has its piece")
    _require(
        _runs(records.example_offsets.numpy(), n_examples, n_features), "example_offsets cut the examples"
    )
    _require(
        _runs(records.active_offsets.numpy(), len(records.active_token), n_examples),
        "active_offsets cut it",
    )
    _require(len(records.example_group) == n_examples, "every example has a group")
    _require(len(records.active_value) == len(records.active_token), "every active token has a value")
    group, peak = records.example_group.numpy(), records.example_token.numpy().astype(np.int64)
    _require(bool(((group >= 0) & (group < len(bank.groups))).all()), "every group has a name")
    _require(bool(((peak >= 0) & (peak < bank.n_tokens)).all()), "every example lies in the text")
    # What is active around a peak lies in the window that is shown of its document.
    first, end = windows_of(bank.starts.numpy().astype(np.int64), peak, bank.window)
    example = np.repeat(np.arange(n_examples), np.diff(records.active_offsets.numpy()))
    token = records.active_token.numpy()
    _require(
        bool(((token >= first[example]) & (token < end[example])).all()), "what is active is near its peak"
    )
    _check_effects(fields, end - first)


def _check_effects(fields: dict[str, Tensor], shown: np.ndarray) -> None:
    """Effects on the loss: of no example, or of every token that is shown of some."""
    there = [name in fields for name in ("effect_offsets", "effect_value")]
    _require(all(there) or not any(there), "effects have values and offsets")
    if not any(there):
        return
    offsets = fields["effect_offsets"].numpy()
    _require(_runs(offsets, len(fields["effect_value"]), len(shown)), "effect_offsets cut the effects")
    length = np.diff(offsets)
    _require(bool(((length == 0) | (length == shown)).all()), "an effect stands for every token shown")


def check_concept(concept: Concept) -> None:
    """Raises `ValueError` saying what in a concept has another shape, or is no finite number."""
    texts = (concept.name, concept.dictionary_name, concept.model_name, *concept.values)
    _require(all(isinstance(text, str) for text in texts), "names and values are texts")
    _require(len(set(concept.values)) == len(concept.values), "every value has a name of its own")
    _require(type(concept.says) is bool, "says is true or false")
    counts, n_values, n_features = concept.counts, len(concept.values), len(concept.layer)
    shapes: dict[str, tuple[Any, tuple[int, ...], str]] = {
        "layer": (concept.layer, (n_features,), "i"),
        "index": (concept.index, (n_features,), "i"),
        "tokens": (counts.tokens, (n_values,), "i"),
        "active_none": (counts.active_none, (n_features,), "i"),
        "active": (counts.active, (n_values, n_features), "i"),
        "strength": (concept.strength, (n_values, n_features), "f"),
    }
    for name, (array, shape, kind) in shapes.items():
        _require(
            array.shape == shape and array.dtype.kind == kind, f"{name} has shape {shape} and kind {kind}"
        )
        _require(bool((np.isfinite(array) & (array >= 0)).all()), f"{name} holds finite numbers from 0 on")
    _require(type(counts.tokens_none) is int and counts.tokens_none >= 0, "tokens_none is a number")
    _require(
        bool((counts.active <= counts.tokens[:, None]).all()),
        "no feature is active on more than all",
    )
    _require(
        bool((counts.active_none <= counts.tokens_none).all()),
        "no feature is active on more than all",
    )
    _require(concept.raised is None or bool(np.isfinite(concept.raised).all()), "raised holds finite numbers")
    figures = [value for name, value in vars(concept.check).items() if name != "by_value"]
    figures += [number for row in concept.check.by_value.values() for number in row]
    _require(all(type(n) in (int, float) and abs(n) < 1e15 for n in figures), "the figures are numbers")


def _runs(offsets: np.ndarray, total: int, n: int | None = None) -> bool:
    """Whether offsets rise from 0 to `total`, for `n` runs."""
    fits = offsets.ndim == 1 and offsets.dtype.kind == "i" and len(offsets) >= 1
    fits = fits and (n is None or len(offsets) == n + 1)
    return bool(fits and offsets[0] == 0 and offsets[-1] == total and (np.diff(offsets) >= 0).all())


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"it does not hold that {what}")
