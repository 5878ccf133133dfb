"""Thresholds that are raised until only so many features are active."""

from __future__ import annotations

import pytest
import torch

from tests.autograd_oracle import random_dictionary
from tests.tiny_microscope import shared_model
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.dictionaries import Dictionary, with_l0
from thoughtscope.models import capture, tokens_from_ids

DOCUMENTS = [[3, 5, 8, 13, 21], [2, 4, 8, 16, 32, 7, 11], [9, 1, 9, 6]]


def margins(dictionary: Dictionary) -> list[float]:
    """By hand, document by document: how far above its threshold each active feature is."""
    model, found = shared_model(), []
    for ids in DOCUMENTS:
        acts = capture(model, tokens_from_ids(model, ids), dictionary.reads)
        for part in dictionary.parts:
            for x in acts[part.reads[0]][0, int(dictionary.skip_first) :]:
                pre = part.W_enc[part.reads[0]] @ x + part.b_enc
                assert part.threshold is not None
                found += (pre / part.threshold)[pre > part.threshold].tolist()
    return sorted(found, reverse=True)


def test_as_many_stay_as_are_asked_for_and_they_are_those_furthest_above_their_thresholds() -> None:
    model = shared_model()
    before = random_dictionary(model, activation="jumprelu")
    n_tokens = sum(len(ids) - int(before.skip_first) for ids in DOCUMENTS)
    there = margins(before)
    wanted = len(there) // 2
    after = with_l0(model, before, DOCUMENTS, l0=wanted / (n_tokens * len(before.parts)))
    stay = margins(after)
    assert len(stay) == wanted
    pairs = zip(before.parts, after.parts, strict=True)
    factors = {float((b.threshold / a.threshold).mean()) for a, b in pairs}
    assert max(factors) == pytest.approx(min(factors), rel=1e-5)
    assert [each * max(factors) for each in stay] == pytest.approx(there[:wanted], rel=1e-4)
    for a, b in zip(before.parts, after.parts, strict=True):
        assert torch.equal(a.b_enc, b.b_enc) and a.W_enc is b.W_enc and a.W_dec is b.W_dec
    assert not after.card.declared and after.card.self_test is None


def test_more_than_there_are_and_thresholds_that_cannot_be_raised_are_refused() -> None:
    model = shared_model()
    jumprelu = random_dictionary(model, activation="jumprelu")
    for l0 in (20.0, 0.0):
        with pytest.raises(ThoughtscopeError, match="are active as it is"):
            with_l0(model, jumprelu, DOCUMENTS, l0=l0)
    with pytest.raises(ThoughtscopeError, match="only JumpReLU does"):
        with_l0(model, random_dictionary(model), DOCUMENTS, l0=1.0)
