"""Claims of papers: read from their file, judged by rule and by nothing else."""

from __future__ import annotations

import json

import pytest

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.replications import Bound, Claim, Seen, judge, read_claims


def claim(op: str = ">=", value: float = 0.8, margin: float | None = None) -> Claim:
    return Claim(name="arabic", statement="A feature follows Arabic.", where="Arabic feature", unit="correlation",
                 holds=Bound(op=op, value=value), margin=margin)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "outcome"),
    [((0.9, 0.8), "replicated"), ((0.9, 0.85, 0.1), "partly"), ((0.9, 0.1, 0.2), "not replicated"),
     ((float("nan"),), "not replicated")],
)  # fmt: skip
def test_every_seed_must_hold_and_a_median_is_half_of_it(values, outcome):
    assert judge(claim(), Seen(values=values, n=10)).outcome == outcome


def test_a_claim_must_also_be_beyond_its_control():
    far, near = Seen(values=(0.9,), controls=(0.2,), n=10), Seen(values=(0.9,), controls=(0.8,), n=10)
    assert judge(claim(margin=0.3), far).outcome == "replicated"
    assert judge(claim(margin=0.3), near).outcome == "partly"
    below = claim("<=", 0.3, margin=0.3)
    assert judge(below, Seen(values=(0.1,), controls=(0.9,), n=10)).outcome == "replicated"
    assert judge(below, Seen(values=(0.1,), controls=(0.2,), n=10)).outcome == "partly"


def test_what_was_not_measured_or_not_compared_is_said_to_be():
    assert judge(claim(), None).outcome == "not measured"
    assert judge(claim(margin=0.1), Seen(values=(1.0,), n=1)).outcome == "not measured"


def test_the_reason_names_figures_bound_and_control():
    reason = judge(claim(margin=0.3), Seen(values=(0.9, 0.95), controls=(0.2, 0.25), n=10)).reason
    assert reason == "0.9, 0.95 (correlation), asked >= 0.8; control 0.2, 0.25, asked 0.3 above it"


def test_claims_are_read_strictly(tmp_path):
    row = {
        "name": "a",
        "statement": "It holds.",
        "where": "1",
        "unit": "share",
        "holds": {"op": ">=", "value": 0.5},
    }
    file = tmp_path / "expected.json"
    file.write_text(json.dumps([row]))
    assert read_claims(file)[0].holds == Bound(op=">=", value=0.5)
    for bad, error in (([{**row, "bound": 1}], ThoughtscopeError), ([row, row], CorruptArtefact), (row, CorruptArtefact),
                       ([{**row, "holds": {"op": "<", "value": 0.5}}], ThoughtscopeError)):  # fmt: skip
        file.write_text(json.dumps(bad))
        with pytest.raises(error):
            read_claims(file)


def test_controls_come_with_every_seed():
    with pytest.raises(ThoughtscopeError, match="as many controls"):
        Seen(values=(1.0, 2.0), controls=(1.0,), n=1)
