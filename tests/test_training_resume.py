"""Small rounds of `evidence/training_resume.py`, and of the plan on paper."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join(map(str, (ROOT / "evidence", ROOT / "src", ROOT)))


def run(*command: str) -> str:
    """What a program prints as its last line; in a process of its own, which may be forked."""
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits_and_forgetful_ones_do_not(tmp_path):
    code = (
        "import json, pathlib, training_resume as it\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "equal, met = it.killed_and_resumed(place / 'kills', 3, seed=2)\n"
        "forgetful = it.resumed_without_moments(place / 'control', 2, seed=2)\n"
        "flips = [it.flipped(*it.a_checkpoint(place / 'a'), 0), it.flipped(*it.a_store(place / 'b'), 0)]\n"
        "print(json.dumps([equal, forgetful, met['steps that were saved'], flips]))\n"
    )
    equal, forgetful, steps, flips = json.loads(run("-c", code))
    assert equal == [True] * 3 and forgetful == [False] * 2
    assert any(0 < step < 24 for step in steps)
    assert all(each["named"] == each["flipped"] >= 9 for each in flips)


@pytest.mark.slow
def test_the_plan_counts_what_the_code_does():
    told = json.loads(run("bench/plan.py", "--json", "--rounds", "1", "--gpus", "256"))
    made, result = told["measured"], told["result"]
    # Weights and two moments in float32, both matrices in bf16 for the products; vectors are the small rest.
    assert 14 < made["bytes_per_parameter"] < 14.2
    assert 0 <= made["bytes_per_token_fixed"] < 2
    assert 20 <= made["store_bytes_beyond_rows"] < 24  # token, document, position, offset
    assert made["step_over_encoder"] > 1
    assert result["FLOPs a token: encoder"] == 2 * 30e6 * 8192
    assert result["memory: state"] == pytest.approx(2 * 30e6 * 8192 * made["bytes_per_parameter"] / 256)
    seconds = [value for name, value in result.items() if name.startswith("seconds a step: ")]
    assert result["seconds a step"] == pytest.approx(sum(seconds))
    assert result["GPU-days"] == pytest.approx(40e9 / 16384 * sum(seconds) * 256 / 86400)
