"""Cases, and what became of each: run in worker processes, with a limit of time and a meter of memory."""

from __future__ import annotations

import base64
import lzma
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Of a processor's time: more is a hang. Time on the clock says little on a busy machine."""
PATIENCE = 60.0
"""Seconds on the clock, for what waits and does nothing."""
FREE_MEMORY, PER_BYTE = 50 * 2**20, 2
"""A case may take this much memory, and so many bytes for each of its own."""
ROOM = 8 * 2**30
"""Address space of a worker beyond what it has: a bomb must not take the machine along."""

BAD = ("crash", "hang", "memory", "not finite")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One damaged file of a target, or one damaged request (target "server"; `file` is then "METHOD path")."""

    target: str
    file: str
    data: bytes
    sealed: bool = False
    """Whether checksums were made to agree with the damage."""

    def to_json(self) -> dict[str, Any]:
        packed = base64.b85encode(lzma.compress(self.data)).decode()
        return {"target": self.target, "file": self.file, "sealed": self.sealed, "data": packed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Case:
        return cls(**{**data, "data": lzma.decompress(base64.b85decode(data["data"]))})


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a case: refused, accepted, or one of `BAD`, and why."""

    case: Case
    fate: str
    why: str = ""


Reader = Callable[[Case], Any]


def read_case(case: Case, *, naive: bool = False) -> Any:
    """Reads a case as the package does, or as `naive` code would; what came in."""
    if case.target == "server":
        from tests.fuzz.routes import ask

        method, _, path = case.file.partition(" ")
        return ask(method, path, case.data)
    from tests.fuzz.targets import TARGETS

    target = TARGETS[case.target]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        for name, data in target.files().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(case.data if name == case.file else data)
        if case.sealed and target.seal is not None:
            target.seal(folder)
        reader = target.naive if naive else target.read
        assert reader is not None
        return reader(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def judge(case: Case, *, naive: bool = False) -> Verdict:
    """Reads a case in this process. Time is limited by a signal that ends the process."""
    from tests.fuzz.targets import not_finite
    from thoughtscope.core.errors import ThoughtscopeError

    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        found = read_case(case, naive=naive)
        odd = not_finite(found)
        fate, why = ("not finite", odd) if odd is not None else ("accepted", "")
    except ThoughtscopeError as error:
        fate, why = "refused", str(error)
    except Exception as error:
        fate, why = "crash", f"{type(error).__name__}: {error}"[:400] + _place(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _memory("VmHWM") - before
    if fate in ("refused", "accepted") and grown > FREE_MEMORY + PER_BYTE * len(case.data):
        fate, why = "memory", f"{grown / 2**20:.0f} MB for {len(case.data):,} bytes; {why[:200]}"
    return Verdict(case=case, fate=fate, why=why)


def _place(error: BaseException) -> str:
    trace, last = error.__traceback__, ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "thoughtscope" in name or not last:
            last = f" at {'/'.join(Path(name).parts[-2:])}:{trace.tb_lineno}"
        trace = trace.tb_next
    return last


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


# --- workers ---------------------------------------------------------------------------------------------------------


def run(cases: Iterable[Case], *, workers: int = 2, naive: bool = False) -> Iterator[Verdict]:
    """Verdicts as they come. A worker that dies of a case has found a hang or a crash, and another takes its place."""
    _prepare(naive)
    context = multiprocessing.get_context("fork")
    waiting, busy, idle = iter(cases), {}, []

    def hire() -> tuple[Any, Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, naive), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    idle = [hire() for _ in range(workers)]
    try:
        while True:
            while idle and (case := next(waiting, None)) is not None:
                process, pipe = idle.pop()
                pipe.send(case)
                busy[pipe] = process, case
            if not busy:
                return
            ready = wait(list(busy), timeout=PATIENCE)
            for pipe in [p for p in busy if p in ready] if ready else list(busy):
                process, case = busy.pop(pipe)
                try:
                    if not ready:
                        process.kill()
                        raise EOFError
                    yield pipe.recv()
                    idle.append((process, pipe))
                except (EOFError, ConnectionError):
                    process.join()
                    hung = process.exitcode in (-signal.SIGPROF, -signal.SIGKILL)
                    why = f"over {SECONDS} s" if hung else f"the process ended with {process.exitcode}"
                    yield Verdict(case=case, fate="hang" if hung else "crash", why=why)
                    idle.append(hire())
    finally:
        for process, _ in [*idle, *((process, pipe) for pipe, (process, _) in busy.items())]:
            process.kill()


def _prepare(naive: bool) -> None:
    """Whatever is slow the first time happens once, before workers are forked."""
    from tests.fuzz.targets import TARGETS

    for target in TARGETS.values():
        files = target.files()
        if target.naive is not None or not naive:
            first = next(iter(files))
            read_case(Case(target=target.name, file=first, data=files[first]), naive=naive)


def _work(pipe: Connection, naive: bool) -> None:
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.stdout = sys.stderr = open(os.devnull, "w")
    used = _memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if not naive:
        from tests.fuzz.routes import client

        client()  # it starts threads, which a fork would lose
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        pipe.send(judge(case, naive=naive))
