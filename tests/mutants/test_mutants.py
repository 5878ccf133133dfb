"""The hunt for wrong changes, on a package of one function: what must be noticed is, what cannot be is listed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.changes import find_changes

ROOT = Path(__file__).parents[2]
SOURCE = '''"""A docstring with 1 < 2."""

from typing import TYPE_CHECKING

_TINY = 1e-10

if TYPE_CHECKING:
    LIMIT = 3


def clamp(x: int, low: int = 0, high: int = 9) -> int:
    """Between low + 0 and high."""
    if low > high:
        raise ValueError(f"{low} is over {high + 1}")
    total = 0
    total += max(min(x, high), low)
    return total


def unseen(x):
    return x + 1


def forever(n):
    while n > 0:
        n -= 1
    return n
'''
TESTS = """
from toy.part.clamp import clamp, forever
import pytest

def test_clamp():
    assert [clamp(-1), clamp(4), clamp(12)] == [0, 4, 9]

def test_forever():
    assert forever(3) == 0
"""
RUN = """
import sys
from pathlib import Path
from tests.mutants.hunt import Ground, follow, hunt, unchanged
root = Path(sys.argv[1])
where = Ground(root=root, package=root / "toy", folders=("part",), tests=root / "checks", grace=4.0)
trail = follow(where, cache=root / "trail.json")
assert follow(where, cache=root / "trail.json", say=None) == trail
changes = where.changes()["part"]
for verdict in hunt(where, trail, [*changes, unchanged(changes[0])]):
    print(verdict.fate, verdict.change.operator, verdict.change.before, "->", verdict.change.after, sep="|")
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "toy" / "part").mkdir(parents=True)
    (tmp_path / "checks").mkdir()
    (tmp_path / "toy" / "part" / "clamp.py").write_text(SOURCE)
    (tmp_path / "checks" / "test_clamp.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\nmarkers =\n  browser\n  gpu\n")
    return tmp_path


def test_what_is_no_behaviour_is_left_alone(toy: Path) -> None:
    found = [(one.operator, one.before, one.after) for one in find_changes(toy / "toy/part/clamp.py", toy)]
    assert ("comparison", "low > high", "(low >= high)") in found
    assert ("dropped statement", "total += max(min(x, high), low)", "pass") in found
    assert ("= for +=", "total += max(min(x, high), low)", "total = max(min(x, high), low)") in found
    assert ("reduction", "min(x, high)", "(max(x, high))") in found
    assert ("constant", "9", "(10)") in found
    # A constant that is exempt, what only a type checker reads, what stands in a message or a docstring.
    assert not {"1e-10", "3", "high + 1", "1 < 2"} & {before for _, before, _ in found}


def test_a_change_keeps_the_lines_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "long.py"
    path.write_text('x = "ü" * (\n    1 +\n    2\n) + f(\n    1,\n    2,\n)\ny = a @ b  # é\n')
    for change in find_changes(path, tmp_path):
        changed = change.apply(path.read_bytes())
        compile(changed, "long.py", "exec")
        assert changed.count(b"\n") == path.read_bytes().count(b"\n") and changed != path.read_bytes()


@pytest.mark.slow
def test_the_hunt(toy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(toy)], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    fates = dict(reversed(line.split("|", 1)) for line in done.stdout.splitlines() if "|" in line)
    assert fates["none||->|"] == "survived"
    assert fates["reduction|min(x, high)|->|(max(x, high))"] == "noticed"
    assert fates["constant|9|->|(10)"] == "noticed"
    # Starting at nothing, += and = are the same; bounds are never equal in the tests; nothing calls `unseen`.
    assert fates["= for +=|total += max(min(x, high), low)|->|total = max(min(x, high), low)"] == "survived"
    assert fates["comparison|low > high|->|(low >= high)"] == "survived"
    assert fates["arithmetic|x + 1|->|(x - 1)"] == "unreached"
    assert fates["dropped statement|n -= 1|->|pass"] == "timed out"
    assert (toy / "toy" / "part" / "clamp.py").read_text() == SOURCE
