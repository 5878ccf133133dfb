"""Past failures and known attacks stay harmless; the fuzzer finds what is wrong with careless readers.

It runs in a process of its own: there the package is as users have it, without the checks of shapes that tests add.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import draw, known, until
from tests.fuzz.judge import BAD, Case

ROOT = Path(__file__).parents[1]
HARMLESS = {
    "gemma scope 2: a list as l0",  # as if none were declared
    "config: quantization_config",  # of a kind that the library does not know, and passes over
}


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


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


@pytest.mark.slow
def test_a_short_run_finds_nothing_here_and_much_in_careless_readers() -> None:
    words = ("--workers", "1", "-n", "300", "--seed", "7", "--no-keep")
    careful = fuzz(*words)
    assert careful.returncode == 0 and "300 cases, seed 7: 0 failures" in careful.stdout, careful.stdout
    careless = fuzz(*words, "--naive")
    failures = re.search(r"300 cases, seed 7: (\d+) failures", careless.stdout)
    assert careless.returncode == 1 and failures is not None and int(failures[1]) > 60, careless.stdout
    assert "'crash'" in careless.stdout and "'not finite'" in careless.stdout


def test_the_same_seed_gives_the_same_cases() -> None:
    first, again = (list(until(draw(3, only="graph"), minutes=None, n=60)) for _ in range(2))
    assert first == again and len({case.data for case in first}) > 50


def test_a_case_is_kept_exactly() -> None:
    case = Case(target="labels", file="labels.json", data=b"[" * 10_000 + b"\x00\xff", sealed=True)
    text = json.dumps(case.to_json())
    assert Case.from_json(json.loads(text)) == case and len(text) < 400
