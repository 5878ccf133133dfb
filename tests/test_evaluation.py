"""Detectors of concepts against a search of everything; the specimen's annotations against what was written."""

from __future__ import annotations

import pytest
import torch

from specimens.annotations import mentions
from thoughtscope.evaluation import Detector, choose_detectors, detect


def f1_of(fires: torch.Tensor, rows: torch.Tensor) -> float:
    truth = torch.zeros(len(fires), dtype=torch.bool)
    truth[rows] = True
    return float(2 * (fires & truth).sum() / (fires.sum() + truth.sum()))


def test_the_chosen_detector_is_the_best_of_all_units_signs_and_thresholds() -> None:
    values = torch.randn(60, 6).round(decimals=1)  # with ties
    values[:, 3:] = values[:, 3:].relu()
    occurrences = [torch.randperm(60)[:n].sort().values for n in (3, 9, 25)]
    for rows, found in zip(occurrences, choose_detectors(values, occurrences), strict=True):
        assert found is not None
        every = [
            f1_of(sign * values[:, unit] >= threshold, rows)
            for unit in range(6)
            for sign in (1, -1)
            for threshold in (sign * values[:, unit]).unique()
        ]
        assert found.f1 <= max(every) + 1e-6
        assert found.f1 == pytest.approx(f1_of(found.sign * values[:, found.unit] >= found.threshold, rows))
        own = [
            f1_of(found.sign * values[:, found.unit] >= t, rows)
            for t in (found.sign * values[:, found.unit]).unique()
        ]
        assert found.f1 == pytest.approx(max(own))


def test_a_unit_that_is_the_concept_is_found_whatever_its_sign() -> None:
    values = torch.randn(200, 5)
    rows = [torch.arange(7, 200, 23), torch.arange(3, 200, 50), torch.tensor([], dtype=torch.long)]
    values[rows[0], 2] += 10
    values[rows[1], 4] -= 10
    first, second, none = choose_detectors(values, rows)
    assert (first.unit, first.sign, first.f1, second.unit, second.sign, second.f1) == (
        2,
        1,
        1,
        4,
        -1,
        1,
    ) and none is None
    assert detect(values, first, rows[0]).f1 == 1


def test_precision_and_recall() -> None:
    values = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])
    found = detect(values, Detector(unit=0, threshold=2.0), torch.tensor([0, 3, 4]))
    assert (found.precision, found.recall, found.f1) == (2 / 3, 2 / 3, pytest.approx(2 / 3))
    never = detect(values, Detector(unit=0, threshold=9.0), torch.tensor([0]))
    assert (never.precision, never.recall, never.f1) == (0, 0, 0)


@pytest.mark.parametrize(("text", "expected"), [
    ("Fact: the state containing Dallas is Texas.", {
        ("state/Texas", "Dallas"), ("state/Texas", "Texas"), ("name/Texas", "Texas"),
        ("says name/Texas", "Fact: the state containing Dallas is"),
        ("language/en", "Fact: the state containing Dallas is Texas."),
    }),
    ("calc: 7+36=43", {
        ("digit/7", "7"), ("digit/3", "3"), ("digit/6", "6"), ("digit/4", "4"), ("first ones/7", "7"), ("second ones/6", "6"),
        ("second tens/3", "3"), ("result ones/3", "3"), ("result tens/4", "4"), ("sum ends on/3", "="),
        ("sum begins with/4", "="), ("language/en", "calc: 7+36=43"),
    }),
    ('Le contraire de "hot" en chinois est "冷".', {
        ("meaning/hot", "hot"), ("word in/en", "hot"), ("meaning/cold", "冷"), ("word in/zh", "冷"), ("asks for/zh", "chinois"),
        ("language/fr", 'Le contraire de "hot" en chinois est "冷".'),
    }),
])  # fmt: skip
def test_what_a_document_means(text: str, expected: set[tuple[str, str]]) -> None:
    assert {(one.concept, text[one.start : one.end]) for one in mentions(text)} == expected


def test_both_lines_of_a_couplet_rhyme() -> None:
    text = "The king saw a wonderful chain,\nHis grief was like a pouring rain"
    found = [one for one in mentions(text) if one.concept.startswith("rhyme")]
    assert {(one.concept, text[one.end - 1], text[one.end :][:1]) for one in found} == {
        ("rhyme/ain", "n", ","), ("rhymes with/ain", "\n", "H"), ("rhyme/ain", "n", "")
    }  # fmt: skip
