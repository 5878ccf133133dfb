"""Studies: each case is the plain intervention on the plain graph; packages add their own."""

from __future__ import annotations

import json
import math

import pytest

from tests.tiny_microscope import tiny_microscope
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.interventions import intervene, plan
from thoughtscope.microscope import open_microscope, tokens_of, trace
from thoughtscope.studies import STUDIES, TWO_HOP, Findings, Study, run_study


def everything(graph):
    return [graph.node_id(row) for row in graph.rows("feature").tolist()]


def test_a_case_is_the_plain_intervention_on_the_plain_graph() -> None:
    opened = tiny_microscope()
    study = Study(
        question="Does anything matter?", prompts=("ab cd", "the sun"), choose=everything, scale=0.0
    )
    heard: list[tuple] = []
    findings = run_study(study, opened, progress=lambda *event: heard.append(event))
    assert heard[-1] == ("study", 2, 2) and [case.prompt for case in findings.cases] == ["ab cd", "the sun"]
    for case in findings.cases:
        graph = trace(opened, case.prompt)
        made = plan(graph, everything(graph), scale=0.0)
        outcome = intervene(opened.model, opened.dictionary, tokens_of(opened, case.prompt), made)
        assert case.changed == len(everything(graph)) > 0 and case.tested
        assert (case.answer, case.after) == (outcome.answer, outcome.after.tokens[0])
        assert case.measured == pytest.approx(outcome.logit_change)
        assert case.predicted == pytest.approx(made.prediction.of(outcome.answer_id))
        assert case.turned == (outcome.after.ids[0] != outcome.answer_id)
    assert Findings.from_json(json.loads(json.dumps(findings.to_json()))) == findings
    assert findings.turned == sum(case.turned for case in findings.cases) / 2


def test_where_the_question_does_not_arise_nothing_is_tested() -> None:
    none = Study(question="And here?", prompts=("ab cd",), choose=lambda graph: [])
    findings = run_study(none, tiny_microscope())
    (case,) = findings.cases
    assert not case.tested and case.after == case.answer and case.measured == 0
    assert math.isnan(findings.turned) and math.isnan(findings.turned_control)


def test_the_specimen_forgets_the_capital_and_not_for_random_features() -> None:
    findings = run_study(TWO_HOP, open_microscope())
    assert len(findings.tested) == len(TWO_HOP.prompts)
    assert findings.turned >= 0.75 and findings.turned_control <= 0.25
    assert all(case.predicted is not None for case in findings.cases)


def test_a_study_needs_a_question_and_prompts() -> None:
    for wrong in ({"question": " "}, {"prompts": ()}, {"prompts": "one text"}):
        with pytest.raises(ThoughtscopeError, match=r"question and a list|one or more|typechecking"):
            Study(**{"question": "Why?", "prompts": ("a",), "choose": everything} | wrong)
    with pytest.raises(ThoughtscopeError, match='Did you mean "two-hop"'):
        STUDIES["two-hops"]
