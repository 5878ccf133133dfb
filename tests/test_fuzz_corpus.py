"""Past failures and known attacks stay harmless; the fuzzer finds what is wrong with careless readers.

It runs in a process of its own: there the package is as users have it, without the checks of shapes that tests add.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import draw, known, until
from tests.fuzz.judge import BAD, Case

ROOT = Path(__file__).parents[1]
HARMLESS = {
    "gemma scope 2: a list as l0",  # as if none were declared
    "outcome: a part of no layer",  # an autoencoder's is named by its site
    "config: quantization_config",  # of a kind that the library does not know, and passes over
}


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *words]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
def test_every_attack_and_every_past_failure_is_harmless() -> None:
    done = fuzz("--known", "--workers", "1")
    found = json.loads(done.stdout)
    bad = [f"{name}: {fate}, {why}" for name, (fate, why) in found.items() if fate in BAD]
    assert not bad and done.returncode == 0, "\n".join(bad)
    assert found.keys() == known().keys() and len(found) > 120
    # What is let in on purpose does no harm; anything else that is let in is a check that is gone.
    attacks = {name for name in found if ": " in name}
    let_in = {name for name in attacks if found[name][0] == "accepted"}
    assert let_in <= HARMLESS, sorted(let_in - HARMLESS)


MEASURE = """
import json, sys
sys.path.insert(0, "evidence")
from bad_input import count
from tests.fuzz.__main__ import draw, until
careful = count(until(draw(7), minutes=None, n=300))
careless = count(until(draw(7, naive=True), minutes=None, n=300), naive=True)
print(json.dumps([careful, careless]))
"""


@pytest.mark.slow
def test_the_measurement_finds_nothing_here_and_much_in_careless_readers() -> None:
    """The loop of evidence/bad_input.py, shorter."""
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    careful, careless = json.loads(done.stdout)
    assert sum(careful["fates"].values()) == 300 and not careful["failures"], careful["failures"]
    assert set(careful["fates"]) == {"refused", "accepted"} and len(careful["formats"]) > 10
    assert sum(careless["fates"].get(fate, 0) for fate in BAD) > 60, careless
    assert careless["fates"]["crash"] and careless["fates"]["not finite"]


def test_the_same_seed_gives_the_same_cases() -> None:
    first, again = (list(until(draw(3, only="graph"), minutes=None, n=60)) for _ in range(2))
    assert first == again and len({case.data for case in first}) > 50


def test_a_case_is_kept_exactly() -> None:
    case = Case(target="labels", file="labels.json", data=b"[" * 10_000 + b"\x00\xff", sealed=True)
    text = json.dumps(case.to_json())
    assert Case.from_json(json.loads(text)) == case and len(text) < 400
