"""Damaged files of every format and damaged requests to every route: what is neither refused nor harmless.

Cases are made by `tests/fuzz` from real files: flipped bits, cut and doubled pieces, odd numbers and texts, deep
nesting, values of other types, also behind checksums that were made to agree. Each is read in a worker process with
2 s of processor time and a meter of memory. Known attacks are among them.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any

from _claim import Measured, main

N, N_CONTROL = 24_000, 1_500


def measure(seed: int, n: int = N, n_control: int = N_CONTROL) -> Measured:
    """Counts tracebacks, hangs, bursts of memory, and numbers that came in and are not finite.

    The control is the same fuzzer on readers without a check: json.loads, np.load, the libraries' own loaders.
    """
    from itertools import chain

    from tests.fuzz.__main__ import draw, until
    from tests.fuzz.attack import cases
    from tests.fuzz.judge import BAD

    careful = count(chain(cases().values(), until(draw(seed), minutes=None, n=n - len(cases()))))
    careless = count(until(draw(seed, naive=True), minutes=None, n=n_control), naive=True)
    bad = {fate: careful["fates"][fate] for fate in BAD}
    failures = sum(careless["fates"][fate] for fate in BAD)
    return Measured(
        value=sum(bad.values()),
        n=careful["fates"].total(),
        control={"failures": failures, "n": careless["fates"].total(), "by_fate": dict(careless["fates"])},
        details={
            "by_fate": dict(careful["fates"]),
            "by_format": careful["formats"],
            "attacks": len(cases()),
            "failures": careful["failures"],
        },
    )


def count(cases: Any, *, naive: bool = False) -> dict[str, Any]:
    """What became of the cases: in all, by format, and the first few failures."""
    from tests.fuzz.judge import BAD, run

    fates: Counter[str] = Counter()
    formats: dict[str, Counter[str]] = {}
    failures: list[str] = []
    start = time.monotonic()
    for verdict in run(cases, workers=2, naive=naive):
        fates[verdict.fate] += 1
        formats.setdefault(verdict.case.target, Counter())[verdict.fate] += 1
        if verdict.fate in BAD and len(failures) < 20:
            failures.append(
                f"{verdict.fate}: {verdict.case.target} {verdict.case.file[:60]}: {verdict.why[:200]}"
            )
        if fates.total() % 1000 == 0:
            print(f"{fates.total():,} cases, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return {
        "fates": fates,
        "formats": {name: dict(found) for name, found in sorted(formats.items())},
        "failures": failures,
    }


if __name__ == "__main__":
    main(
        measure,
        claim="Damaged files and requests that end in a traceback, a hang, a burst of memory, or with NaN let in.",
    )
