"""A tiny dictionary with real examples of its features, on disk, for what shows or exports them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch

from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope.atlas import (
    Atlas,
    FeatureBank,
    FeatureMap,
    Recorded,
    Recording,
    bank_of_recording,
    feature_map,
    mapping,
    record,
    recorded_of,
)
from thoughtscope.core.labels import LabelStore
from thoughtscope.dictionaries import Dictionary
from thoughtscope.microscope import Microscope


@cache
def dictionary() -> Dictionary:
    """Features of which most are active on few tokens, and the first ones on none."""
    found = random_dictionary(shared_model())
    parts = []
    for part in found.parts:
        bias = part.b_enc - 2.0
        bias[:2] = -100.0
        parts.append(replace(part, b_enc=bias))
    return replace(found, parts=tuple(parts))


@cache
def recording() -> Recording:
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(5, 40, (60,), generator=generator).tolist()
    documents = [torch.randint(3, 250, (length,), generator=generator).tolist() for length in lengths]
    found = record(shared_model(), dictionary(), documents)
    assert found is not None
    return found


@cache
def bank() -> FeatureBank:
    return bank_of_recording(shared_model(), dictionary(), recording())


@cache
def places() -> FeatureMap:
    """A map that took no time."""
    usual, mapping.EPOCHS = mapping.EPOCHS, 5
    try:
        return feature_map(dictionary(), alive=Atlas(dictionary=dictionary(), bank=bank()).count > 0)
    finally:
        mapping.EPOCHS = usual


@cache
def recorded() -> Recorded:
    return recorded_of(bank(), recording())


@cache
def atlas() -> Atlas:
    """Everything but a family."""
    return Atlas(dictionary=dictionary(), bank=bank(), map=places(), recorded=recorded())


def microscope(labels: LabelStore | None = None) -> Microscope:
    return Microscope(
        model=shared_model(),
        dictionary=dictionary(),
        bank=bank(),
        max_tokens=48,
        labels=labels or LabelStore(),
    )
