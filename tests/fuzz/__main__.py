"""`make fuzz`: damaged files of every format, and damaged requests to every route, for ten minutes.

A case may be refused or accepted with finite numbers. A traceback, a hang, a burst of memory, or a NaN that came in is
a failure: it is made smaller and kept in `tests/fuzz/corpus`, which `make test` reads again each time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.fuzz.attack import cases
from tests.fuzz.judge import BAD, Case, Verdict, run
from tests.fuzz.mutations import mutate
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
KEPT = 40_000
"""Bytes of a case that is kept; larger failures are told and not kept."""
SHRINKS = 30
SERVER = 40
"""How often a request is drawn, beside the weights of the formats."""


def draw(seed: int, *, only: str = "", naive: bool = False) -> Iterator[Case]:
    """Cases without end; the same for the same seed."""
    random = Random(seed)
    targets = [t for t in TARGETS.values() if only in t.name and (t.naive is not None or not naive)]
    weights: list[float] = [target.weight for target in targets]
    server = only in "server" and not naive
    while True:
        if server and random.random() < SERVER / (SERVER + sum(weights)):
            from tests.fuzz.routes import request

            asked = request(random)
            yield Case(target="server", file=f"{asked['method']} {asked['path']}", data=asked["body"])
            continue
        (target,) = random.choices(targets, weights)
        files = target.files()
        file = random.choice(list(files))
        data = mutate(file, files[file], [each for each in files.values() if len(each) < 10**5], random)
        yield Case(
            target=target.name, file=file, data=data, sealed=target.seal is not None and random.random() < 0.6
        )


def until(cases: Iterator[Case], *, minutes: float | None, n: int | None) -> Iterator[Case]:
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for number, case in enumerate(cases):
        if (n is not None and number >= n) or (end is not None and time.monotonic() > end):
            return
        yield case


def kind(verdict: Verdict) -> tuple[str, str, str]:
    """What makes two failures the same for a reader: fate, format and place, without the figures."""
    return verdict.fate, verdict.case.target, re.sub(r"\d+|0x\w+|'.*?'", "#", verdict.why)[:120]


def smaller(case: Case, fate: str) -> Case:
    """The same failure with less: pieces are left out, from halves down, as long as it stays."""
    data, piece, tries = case.data, len(case.data) // 2, 0
    while piece >= 1 and tries < SHRINKS:
        start = 0
        while start < len(data) and tries < SHRINKS:
            tries += 1
            shorter = data[:start] + data[start + piece :]
            tried = Case(target=case.target, file=case.file, data=shorter, sealed=case.sealed)
            if next(iter(run([tried], workers=1))).fate == fate:
                data = shorter
            else:
                start += piece
        piece //= 2
    return Case(target=case.target, file=case.file, data=data, sealed=case.sealed)


def keep(verdict: Verdict) -> str:
    """Writes a failure into the corpus, made smaller where it is a file; its name there."""
    case = smaller(verdict.case, verdict.fate) if len(verdict.case.data) < 10**6 else verdict.case
    text = json.dumps(case.to_json(), indent=1)
    if len(text) > KEPT:
        return "too large to keep"
    plain = re.sub(r"[^a-z0-9]+", "-", f"{case.target}-{verdict.fate}".lower())
    path = CORPUS / f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    CORPUS.mkdir(exist_ok=True)
    path.write_text(text + "\n")
    return path.name


def known() -> dict[str, Case]:
    """Known attacks and past failures, by name."""
    kept = {path.stem: Case.from_json(json.loads(path.read_text())) for path in sorted(CORPUS.glob("*.json"))}
    return {**cases(), **kept}


def tell_known(workers: int) -> int:
    """Prints one JSON object: the fate of each known case, and why. The exit status is 1 where one failed."""
    named = known()
    found: dict[str, tuple[str, str]] = {}
    for verdict in run(named.values(), workers=workers):
        found |= {name: (verdict.fate, verdict.why) for name, case in named.items() if case == verdict.case}
    print(json.dumps(found))
    return 1 if any(fate in BAD for fate, _ in found.values()) else 0


def main() -> int:
    """Command line; the exit status is 1 where something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("-n", type=int, help="stop after so many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="formats whose name contains this; server for requests")
    parser.add_argument("--naive", action="store_true", help="the control: readers without any check")
    parser.add_argument("--no-keep", action="store_true", help="leave the corpus as it is")
    parser.add_argument("--known", action="store_true", help="only known attacks and past failures, as JSON")
    given = parser.parse_args()
    if given.known:
        return tell_known(given.workers)
    drawn = until(draw(given.seed, only=given.only, naive=given.naive), minutes=given.minutes, n=given.n)
    fates: Counter[tuple[str, str]] = Counter()
    known: dict[tuple[str, str, str], int] = {}
    for verdict in run(drawn, workers=given.workers, naive=given.naive):
        fates[verdict.case.target, verdict.fate] += 1
        if verdict.fate in BAD:
            known[kind(verdict)] = known.get(kind(verdict), 0) + 1
            if known[kind(verdict)] == 1:
                name = "" if given.no_keep or given.naive else keep(verdict)
                print(
                    f"{verdict.fate:10} {verdict.case.target:14} {verdict.case.file[:60]!r}  {verdict.why}  {name}",
                    flush=True,
                )
        if fates.total() % 500 == 0:
            print(f"{fates.total():,} cases, {sum(known.values())} failures", file=sys.stderr, flush=True)
    for target in sorted({target for target, _ in fates}):
        row = {fate: count for (of, fate), count in sorted(fates.items()) if of == target}
        print(f"{target:28} {sum(row.values()):7,}  {row}")
    print(f"{fates.total():,} cases, seed {given.seed}: {sum(known.values())} failures of {len(known)} kinds")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(main())
