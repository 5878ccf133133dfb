"""The shape of a measured claim: what a script prints, what is stored, what the table shows."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "evidence"
sys.path.insert(0, str(EVIDENCE))
FIELDS = ["claim", "value", "n", "control", "paper", "seed", "seconds", "commit", "details"]
NAMES = sorted(
    path.stem for path in EVIDENCE.glob("*.py") if not path.stem.startswith("_") and path.stem != "run_all"
)

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from _claim import Measured, Unavailable, main

def measure(seed):
    {body}

if __name__ == "__main__":
    main(measure, claim="Water is wet.", paper=0.61, seed=7)
"""


def run(tmp_path: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "wet.py"
    script.write_text(SCRIPT.format(folder=str(EVIDENCE), body=body))
    return subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=60
    )


def test_one_object_with_all_fields(tmp_path):
    done = run(tmp_path, "return Measured(value=0.5, n=10, control=0.1, details={'seed': seed})", "--json")
    result = json.loads(done.stdout)
    assert list(result) == FIELDS and done.returncode == 0
    assert (result["value"], result["n"], result["paper"], result["seed"]) == (0.5, 10, 0.61, 7)
    assert result["details"] == {"seed": 7}


def test_seed_can_be_chosen_and_people_get_lines(tmp_path):
    done = run(tmp_path, "return Measured(value=0.5, n=10, details={'seed': seed})", "--seed", "3")
    assert done.stdout.startswith("wet: Water is wet.\n  value 0.5   n 10") and '"seed": 3' in done.stdout


def test_what_is_missing_is_said(tmp_path):
    done = run(tmp_path, "raise Unavailable('no accelerator here')", "--json")
    assert done.returncode == 3 and json.loads(done.stdout)["unavailable"] == "no accelerator here"
    assert (
        "wet: unavailable: no accelerator here"
        in run(tmp_path, "raise Unavailable('no accelerator here')").stdout
    )


def test_nan_is_no_result(tmp_path):
    assert run(tmp_path, "return Measured(value=float('nan'), n=1)", "--json").returncode == 1


@pytest.mark.parametrize("name", NAMES)
def test_each_script_states_a_claim(name):
    done = subprocess.run(
        [sys.executable, str(EVIDENCE / f"{name}.py"), "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "--json" in done.stdout and len(done.stdout.split("\n\n")[1]) > 20


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EVIDENCE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_has_a_row_for_each_claim():
    run_all = load("run_all")
    assert run_all.names() == NAMES
    result = {
        "claim": "a | b",
        "value": 0.25,
        "n": 4,
        "control": None,
        "paper": {"clt": 0.61},
        "seed": 0,
        "seconds": 1.5,
        "commit": None,
    }
    text = run_all.table(
        {"x": result, "y": {"claim": "c", "unavailable": "no GPU"}},
        {"platform": "Linux", "versions": {"torch": "2"}},
    )
    assert (
        "| `x` | a \\| b | 0.25 | 4 | – | clt 0.61 | 0 | 1.5 | unknown |" in text
        and "unavailable: no GPU" in text
    )
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_controls_take_the_next_other_answer():
    heldout = load("_heldout")
    cases = ["a1", "a2", "b1", "c1"]
    answer = lambda case: case[0]
    assert heldout.other(cases, 0, answer, None) == "b1" and heldout.other(cases, 3, answer, None) == "a1"
    with pytest.raises(ValueError, match="same answer"):
        heldout.other(["a1", "a2"], 0, answer, None)


def test_stored_results_are_whole():
    stored = ROOT / "docs" / "evidence.json"
    if stored.exists():
        for name, result in json.loads(stored.read_text())["results"].items():
            assert name in NAMES and ("unavailable" in result or set(FIELDS) <= set(result)), name
