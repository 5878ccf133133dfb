"""What an outcome says beyond up and down: random controls, thresholds, verdicts, and the rival of the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope import attribute, capture, encode
from thoughtscope.interventions import (
    VERDICTS,
    Control,
    FeatureEdit,
    Outcome,
    Plan,
    intervene,
    intervene_controlled,
    plan,
    random_control,
)
from thoughtscope.interventions.outcome import NEGLIGIBLE
from thoughtscope.models import forward, tokens_from_ids
from thoughtscope.reports.payload import outcome_json

IDS = [3, 17, 90, 45, 61, 2, 33]


@pytest.fixture(scope="module")
def world():
    model = shared_model()
    return model, random_dictionary(model), tokens_from_ids(model, IDS)


@pytest.fixture(scope="module")
def graph(world):
    return attribute(*world)


@pytest.fixture(scope="module")
def outcome(world, graph) -> Outcome:
    strongest = graph.rows("feature")[graph.influence[graph.rows("feature")].argmax()]
    return intervene_controlled(*world, plan(graph, graph.node_id(int(strongest)), scale=-3))


def test_each_control_is_the_random_plan_run_by_itself(world, outcome: Outcome) -> None:
    model, dictionary, tokens = world
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    alone = [
        intervene(*world, random_control(dictionary, outcome.plan, features, seed=seed)).logit_change
        for seed in range(4)
    ]
    assert outcome.control is not None and len(set(alone)) > 2
    assert outcome.control.changes == pytest.approx(alone, abs=1e-4)
    assert outcome.control.largest == max(abs(change) for change in outcome.control.changes)
    bare = intervene(*world, outcome.plan)
    assert bare.control is None and bare.logit_change == pytest.approx(outcome.logit_change, abs=1e-4)


def test_the_rival_is_the_strongest_other_token(world, outcome: Outcome) -> None:
    model, _, tokens = world
    logits = forward(model, tokens)[0, -1].double()
    order = logits.argsort(descending=True).tolist()
    assert (outcome.answer_id, outcome.rival_id) == tuple(order[:2])
    assert outcome.difference_before == pytest.approx(float(logits[order[0]] - logits[order[1]]), abs=1e-4)
    known = {token: p for token, p in zip(outcome.after.ids, outcome.after.probabilities, strict=True)}
    ratio = torch.tensor(known[order[0]] / known[order[1]]).log()
    assert outcome.difference_after == pytest.approx(float(ratio), abs=1e-3)
    other = intervene(*world, outcome.plan, answer=order[5])
    assert other.rival_id == order[0] and other.difference_before < 0


@pytest.mark.parametrize(
    ("confirmed", "moved", "changes", "verdict", "threshold"),
    [
        (True, -2.0, (0.5, -1.9), "confirmed", 1.9),
        (True, -2.0, (0.5, 2.1), "no_stronger", 2.1),
        (True, -2.0, (2.0,), "no_stronger", 2.0),
        (True, 0.002, (0.0, 0.0), "confirmed", NEGLIGIBLE),
        (True, -2.0, (), "not_compared", NEGLIGIBLE),
        (True, -2.0, None, "not_compared", NEGLIGIBLE),
        (False, -2.0, (0.1,), "refuted", 0.1),
        (None, -2.0, (0.1,), "untested", 0.1),
    ],
)
def test_only_what_random_features_do_not_do_is_confirmed(
    outcome: Outcome, confirmed, moved, changes, verdict, threshold
) -> None:
    control = None if changes is None else Control(changes=changes, reason=None if changes else "none")
    made = replace(outcome, prediction_confirmed=confirmed, logit_change=moved, control=control)
    assert (made.verdict, made.threshold) == (verdict, threshold)
    told = outcome_json(made)
    assert told["verdict"] == {"name": verdict, "text": VERDICTS[verdict]}
    wanted = None if verdict in ("untested", "not_compared") else verdict == "confirmed"
    assert told["prediction"]["confirmed"] is wanted
    assert (told["prediction"]["measured"], told["prediction"]["threshold"]) == (moved, threshold)
    assert Outcome.from_json(made.to_json()) == made
    if control is None:
        assert told["control"] is None
    else:
        assert told["control"] == {
            "changes": list(changes), "largest": control.largest, "n": len(changes), "reason": control.reason,
        }  # fmt: skip


def test_where_no_control_can_be_drawn_the_reason_is_said(world) -> None:
    _, dictionary, _ = world
    whole = Plan(
        edits=tuple(
            FeatureEdit(part="0", index=index, op="scale", value=2.0)
            for index in range(dictionary.parts[0].n_features)
        )
    )
    control = intervene_controlled(*world, whole).control
    assert control is not None and control.changes == () and "no other feature left" in control.reason
    empty = intervene_controlled(*world, Plan())
    assert empty.control == Control(changes=(), reason="The plan changes nothing.") and empty.kl == 0
    assert empty.verdict == "untested"


def test_the_wire_says_the_measured_change_of_the_predicted_logit(outcome: Outcome) -> None:
    told = outcome_json(outcome)["prediction"]
    assert told["change"] == outcome.plan.prediction.of(outcome.answer_id)
    assert told["measured"] == outcome.logit_change and told["direction"] == (
        "up" if told["change"] > 0 else "down"
    )
