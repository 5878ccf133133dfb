"""A small round of `evidence/nothing_lost.py`: what was acknowledged is there, and the loops notice when it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EVIDENCE = Path(__file__).parents[1] / "evidence"


def run(code: str) -> dict:
    """Runs code beside the evidence, in a process that may be forked; what it prints as its last line."""
    paths = os.pathsep.join(map(str, (EVIDENCE, EVIDENCE.parent / "src", EVIDENCE.parent)))
    done = subprocess.run(
        [sys.executable, "-c", f"import json, nothing_lost as it\n{code}"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


@pytest.mark.slow
def test_no_acknowledged_change_is_lost():
    """Writers and servers, killed; and the same without the lock, which must lose something."""
    found = run(
        "kept, kills, lost = it.raced(250, seed=1, servers=True)\n"
        "with it.no_lock():\n    _, _, without = it.raced(120, seed=1)\n"
        "print(json.dumps({'kept': kept, 'kills': kills, 'lost': lost, 'without': without}))"
    )
    assert found["lost"] == {} and sum(found["kept"].values()) >= 250 and found["kills"] >= 1, found["said"]
    stores = ["graphs", "labels", "pins", "groups", "titles", "layouts", "outcomes"]
    assert [store for store in stores if not found["kept"].get(store)] == []
    assert sum(found["without"].values()) > 0
    assert "refused" not in found["said"].partition("lost from")[0], found["said"]


@pytest.mark.slow
def test_a_killed_save_leaves_one_whole_dictionary():
    """Every layout; and the same with layouts that are written in place, which must mix versions."""
    found = run(
        "saved, mixed = it.saved_and_killed(it.LAYOUTS, 3, seed=1)\n"
        "with it.in_place():\n    _, without = it.saved_and_killed(it.LAYOUTS[4:5], 6, seed=1)\n"
        "print(json.dumps({'saved': saved, 'mixed': mixed, 'without': without}))"
    )
    assert found["mixed"] == {} and found["saved"] >= 18, found["said"]
    assert sum(found["without"].values()) > 0
