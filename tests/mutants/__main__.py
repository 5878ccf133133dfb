"""`make mutants`: how many small wrong changes do the tests notice, and which do they not?

`python -m tests.mutants` samples changes of four packages, runs the tests that reach each, and prints the share that
was noticed and every change that was not. About 20 minutes on two cores; run by hand, since its answer is a list of
tests to write, not a gate.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mutants.changes import Change
from tests.mutants.hunt import Ground, Verdict, follow, hunt, sample, unchanged

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("graphs", "interventions", "dictionaries", "models")
CONTROLS = 4
NOTICED = ("noticed", "timed out")


def ground(folders: Sequence[str] = FOLDERS, workers: int = 2) -> Ground:
    """This project."""
    return Ground(
        root=ROOT,
        package=ROOT / "src" / "thoughtscope",
        folders=tuple(folders),
        tests=ROOT / "tests",
        workers=workers,
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a hunt brought home."""

    changes: Mapping[str, Sequence[Change]]
    """All that the table knows, by folder."""
    verdicts: Sequence[Verdict]
    """On the sample."""
    controls: Sequence[Verdict]
    """The same tests for some of the sample, with nothing changed: none of them may notice anything."""
    left_out: Sequence[str]
    """Tests that were not asked, because they fail before anything is changed."""


def measure(where: Ground, *, n: int, seed: int) -> Found:
    """Hunts a sample of `n` changes. Says on stderr how far it is. Raises `RuntimeError` when every control fails."""
    say = lambda text: print(text, file=sys.stderr, flush=True)
    trail = follow(where, cache=where.root / "build" / "mutants.json", say=say)
    changes = where.changes()
    chosen = sample(changes, n, seed, where.root)
    start = time.monotonic()
    every = max(1, len(chosen) // CONTROLS)
    controls = list(hunt(where, trail, [unchanged(change) for change in chosen[::every]]))
    alarms = sum(verdict.fate in NOTICED for verdict in controls)
    say(
        f"{alarms} of {len(controls)} noticed something with nothing changed, {time.monotonic() - start:.0f} s"
    )
    if alarms == len(controls):
        raise RuntimeError(
            "Every control noticed something with nothing changed: the hunt itself is at fault."
        )
    verdicts: list[Verdict] = []
    for verdict in hunt(where, trail, chosen):
        verdicts.append(verdict)
        if verdict.fate not in NOTICED or not len(verdicts) % 20:
            say(
                f"{len(verdicts)} of {len(chosen)}, {time.monotonic() - start:.0f} s  {verdict.fate}  {verdict.change}"
            )
    return Found(changes=changes, verdicts=verdicts, controls=controls, left_out=trail.failed)


def figures(verdicts: Sequence[Verdict], of: Any) -> dict[str, dict[str, Any]]:
    """For each group that `of` names: how many changes, how many noticed, of these by time-out, and the share."""
    table = {}
    for name in sorted({of(verdict) for verdict in verdicts}):
        fates = Counter(verdict.fate for verdict in verdicts if of(verdict) == name)
        noticed = sum(fates[fate] for fate in NOTICED)
        table[name] = {"n": fates.total(), "noticed": noticed, "timed_out": fates["timed out"],
                       "unreached": fates["unreached"], "share": noticed / fates.total()}  # fmt: skip
    return table


def folder_of(verdict: Verdict) -> str:
    return Path(verdict.change.path).parts[2]


def survivors(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """What no test noticed, in the order of the files."""
    kept = [verdict for verdict in verdicts if verdict.fate not in NOTICED]
    return sorted(kept, key=lambda verdict: (verdict.change.path, verdict.change.line))


def show(title: str, table: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{title:24}{'changes':>9}{'noticed':>9}{'timed out':>11}{'unreached':>11}{'share':>9}")
    for name, row in table.items():
        counts = f"{row['n']:9}{row['noticed']:9}{row['timed_out']:11}{row['unreached']:11}"
        print(f"{name:24}{counts}{row['share']:9.1%}")
    print()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("-n", type=int, default=240, help="how many changes to sample (default 240)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--folder", action="append", choices=FOLDERS, help="only this folder; may be repeated"
    )
    given = parser.parse_args()
    found = measure(ground(given.folder or FOLDERS, given.workers), n=given.n, seed=given.seed)
    verdicts, total = found.verdicts, sum(map(len, found.changes.values()))
    show("folder", figures(verdicts, folder_of) | figures(verdicts, lambda _: "all"))
    show("change", figures(verdicts, lambda verdict: verdict.change.operator))
    missed = survivors(verdicts)
    alarms = sum(verdict.fate in NOTICED for verdict in found.controls)
    print(f"{len(verdicts)} of {total:,} changes, seed {given.seed}. With nothing changed, {alarms} of "
          f"{len(found.controls)} noticed something. Not noticed: {len(missed)}")  # fmt: skip
    for verdict in missed:
        ran = "no test runs it" if verdict.fate == "unreached" else f"{verdict.tests} tests ran"
        print(f"  {verdict.change}  ({ran})")


if __name__ == "__main__":
    main()
