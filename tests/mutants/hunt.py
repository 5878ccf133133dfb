"""Makes each change in a process of its own and runs the tests that reach it, until one notices.

A Python with torch and transformers in it takes seconds to start, so nothing is restarted: this process imports what
the tests need, except for the package itself, and forks. In the child the import system is handed the changed text in
place of the file; the working tree stays as it is.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import json
import os
import random
import resource
import signal
import sys
import sysconfig
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from tests.mutants.changes import Change, find_changes

FORK = get_context("fork")
QUIET = ["-q", "-p", "no:cacheprovider", "--no-header", "-m", "not browser and not gpu",
         "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip
# The rewriting of asserts in plugins is all that is lost by importing them before the fork.
OUT_OF_TIME = (-signal.SIGXCPU, -signal.SIGKILL)
PATIENCE = 40.0
"""Seconds of tests that a change is given, the quickest tests first."""


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where to hunt: a project, the package in it, the folders of the package to change, and the tests."""

    root: Path
    package: Path
    folders: tuple[str, ...]
    tests: Path
    workers: int = 2
    grace: float = 20.0
    """Seconds of the processor that a change is given beyond four times what its tests took; then it counts as timed
    out. Not seconds of the clock: a busy machine must not make a change look noticed."""

    def changes(self) -> dict[str, list[Change]]:
        """Every change that the table knows, by folder."""
        return {
            folder: [
                one
                for path in sorted((self.package / folder).rglob("*.py"))
                for one in find_changes(path, self.root)
            ]
            for folder in self.folders
        }


@dataclass(frozen=True, kw_only=True)
class Trail:
    """What the tests ran when nothing was changed."""

    lines: Mapping[str, Mapping[str, Sequence[int]]]
    """By file of the package and by test, the lines that ran."""
    seconds: Mapping[str, float]
    """By test, how long it took."""
    modules: Sequence[str]
    """What the tests import from elsewhere."""
    failed: Sequence[str] = ()
    """Tests that fail with nothing changed, and so are not asked."""

    def tests_for(self, change: Change) -> list[str]:
        """The tests that run the changed line, quickest first; then the others of their files, in case that a value
        made once (by a cached function or a shared fixture) is only tested later. As many as there is patience for."""
        first, last = change.reach
        reaching = [
            test
            for test, lines in self.lines.get(change.path, {}).items()
            if first > last or any(first <= line <= last for line in lines)
        ]
        known, files = set(reaching), {_file(test) for test in reaching}
        beside = [test for test in self.seconds if _file(test) in files and test not in known]
        chosen, spent = [], 0.0
        for test in [*sorted(reaching, key=self._cost), *sorted(beside, key=self._cost)]:
            spent += self.seconds[test]
            if chosen and spent > PATIENCE:
                break
            chosen.append(test)
        # File by file, those first whose tests run least beside the line: they are about it.
        about: dict[str, list[int]] = {}
        for test in chosen:
            about.setdefault(_file(test), []).append(self.breadth.get(test, 0))
        return sorted(
            chosen, key=lambda test: (sum(about[_file(test)]) / len(about[_file(test)]), _file(test))
        )

    @cached_property
    def breadth(self) -> Mapping[str, int]:
        """By test, how many lines of the package it runs."""
        return sum(
            (Counter({test: len(lines) for test, lines in tests.items()}) for tests in self.lines.values()),
            start=Counter(),
        )

    def _cost(self, test: str) -> float:
        return self.seconds[test]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one change."""

    change: Change
    fate: str
    """"noticed", "timed out", "survived", or "unreached" when no test runs the line."""
    tests: int
    seconds: float


def _file(test: str) -> str:
    return test.partition("::")[0]


# --- which tests run which line ------------------------------------------------------------------------------------


def follow(ground: Ground, cache: Path | None = None, say: Callable[[str], None] = print) -> Trail:
    """Runs every test file once under coverage. `cache` keeps what each file gave for as long as neither it nor the
    package nor what the tests share has changed.

    A test that fails says nothing about a change: it is left out, and named. Raises `RuntimeError` for a file that
    cannot even be collected.
    """
    ours = [path for path in ground.tests.rglob("*.py") if path.parent.name not in ("browser", "mutants")]
    files = sorted(path for path in ours if path.name.startswith("test_"))
    kept = json.loads(cache.read_text()) if cache and cache.exists() else {}
    shared = [path for path in ours if not path.name.startswith("test_")]
    common = _digest(ground.root, [*ground.package.rglob("*.py"), *shared])
    digests = {path.name: _digest(ground.root, [path]) + common for path in files}
    found = {name: kept[name] for name in digests if kept.get(name, {}).get("digest") == digests[name]}
    new = [path for path in files if path.name not in found]
    if new:
        say(f"following {len(new)} of {len(files)} test files …")
    jobs = [(path, lambda pipe, path=path: _trace(ground, path, pipe), 900.0) for path in new]
    for path, code, answer in _run_all(jobs, ground.workers):
        if answer is None or answer["broken"]:
            raise RuntimeError(f"{path.name} cannot be run before anything is changed (exit {code}).")
        found[path.name] = answer | {"digest": digests[path.name]}
    if cache and new:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(found))
    lines: dict[str, dict[str, list[int]]] = {}
    seconds: dict[str, float] = {}
    for answer in (found[name] for name in sorted(found)):
        for file, by_test in answer["lines"].items():
            good = {test: ran for test, ran in by_test.items() if test not in answer["failed"]}
            lines.setdefault(file, {}).update(good)
        seconds |= {test: took for test, took in answer["seconds"].items() if test not in answer["failed"]}
    failed = sorted({test for answer in found.values() for test in answer["failed"]})
    if failed:
        say(f"left out, for they fail before anything is changed: {', '.join(failed)}")
    modules = sorted({name for answer in found.values() for name in answer["modules"]})
    return Trail(lines=lines, seconds=seconds, modules=modules, failed=failed)


def _digest(root: Path, paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


class Watcher:
    """A pytest plugin that tells coverage which test runs, and keeps the time."""

    def __init__(self, coverage: Any) -> None:
        self.coverage = coverage
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []
        self.broken = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logfinish(self) -> None:
        self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        self.broken |= report.failed


def _trace(ground: Ground, path: Path, pipe: Any) -> int:
    """In a child: one test file under coverage; the lines of each test go through the pipe."""
    import coverage
    import pytest

    os.chdir(ground.root)
    measured = coverage.Coverage(data_file=None, config_file=False, source=[str(ground.package)])
    watcher = Watcher(measured)
    measured.start()
    code = pytest.main([*QUIET, f"--rootdir={ground.root}", str(path)], plugins=[watcher])
    measured.stop()
    data, lines = measured.get_data(), {}
    for name in data.measured_files():
        by_test: dict[str, list[int]] = {}
        for line, tests in data.contexts_by_lineno(name).items():
            for test in filter(None, tests):
                by_test.setdefault(test, []).append(line)
        lines[str(Path(name).relative_to(ground.root))] = by_test
    pipe.send(
        {
            "lines": lines,
            "seconds": watcher.seconds,
            "failed": watcher.failed,
            "broken": watcher.broken,
            "modules": _foreign_modules(),
        }
    )
    return int(code)


def _foreign_modules() -> list[str]:
    installed = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    plugins = {one.value.split(".")[0] for one in importlib.metadata.entry_points(group="pytest11")}
    return [
        name
        for name, module in list(sys.modules.items())
        if (getattr(module, "__file__", None) or "").startswith(installed)
        and name.split(".")[0] not in plugins | {"coverage", "pytest", "_pytest"}
    ]


# --- one change ----------------------------------------------------------------------------------------------------


def hunt(ground: Ground, trail: Trail, changes: Sequence[Change]) -> Iterator[Verdict]:
    """The verdict on each change, as they come."""
    _warm(trail.modules)
    jobs, chosen = [], {}
    for change in changes:
        tests = chosen[change] = trail.tests_for(change)
        if not tests:
            yield Verdict(change=change, fate="unreached", tests=0, seconds=0.0)
            continue
        limit = ground.grace + 4 * sum(trail.seconds[test] for test in tests)
        jobs.append((change, lambda pipe, change=change, tests=tests: _try(ground, change, tests), limit))
    start = {}
    for change, code, _ in _run_all(jobs, ground.workers, start):
        fate = "survived" if code == 0 else "timed out" if code in OUT_OF_TIME else "noticed"
        yield Verdict(
            change=change, fate=fate, tests=len(chosen[change]), seconds=time.monotonic() - start[change]
        )


def _warm(modules: Iterable[str]) -> None:
    """Imports once what every child needs."""
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    for name in modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                importlib.import_module(name)
            except Exception:  # what cannot be imported by itself is imported by the tests
                continue


class Chosen:
    """A pytest plugin that runs some tests only, in the order in which they stand: some files share a server."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.tests = frozenset(tests)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [one for one in items if one.nodeid in self.tests]


def _try(ground: Ground, change: Change, tests: Sequence[str]) -> int:
    """In a child: the tests on the changed package, a file at a time. Returns pytest's exit status: 0 when they all
    pass."""
    import pytest

    os.chdir(ground.root)
    serve(ground.root / change.path, change.apply((ground.root / change.path).read_bytes()))
    ways: list[str] = []
    for file, some in groupby(tests, _file):
        asked = [*QUIET, *ways, "-x", f"--rootdir={ground.root}", file]
        code = int(pytest.main(asked, plugins=[Chosen(list(some))]))
        if code:
            return code
        ways = ["-o", "addopts=--import-mode=importlib"]  # the other options act on imports, made by now
    return 0


def serve(path: Path, text: bytes) -> None:
    """From now on in this process, an import that reads `path` gets `text`."""
    loader = importlib.machinery.SourceFileLoader
    read, stats = loader.get_data, loader.path_stats

    def get_data(self: Any, asked: str) -> bytes:
        return text if Path(asked) == path else read(self, asked)

    def path_stats(self: Any, asked: str) -> Mapping[str, Any]:
        if Path(asked) == path:
            raise OSError("no bytecode is kept of a changed file, and none is taken")
        return stats(self, asked)

    loader.get_data, loader.path_stats = get_data, path_stats  # type: ignore[method-assign]


# --- children ------------------------------------------------------------------------------------------------------


def _run_all(
    jobs: Iterable[tuple[Any, Callable[[Any], int], float]],
    workers: int,
    start: dict[Any, float] | None = None,
) -> Iterator[tuple[Any, int, Any]]:
    """Runs each job (name, work, limit in seconds of the processor) in a fork, `workers` at a time. Gives the name, the
    exit status (one of `OUT_OF_TIME` for one that ran past its limit) and what it sent through its pipe."""
    waiting, running = list(jobs)[::-1], {}
    try:
        yield from _turns(waiting, running, workers, start)
    finally:
        for _, child, _, _ in running.values():
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.killpg(child.pid, signal.SIGKILL)


def _turns(
    waiting: list[Any], running: dict[int, Any], workers: int, start: dict[Any, float] | None
) -> Iterator[tuple[Any, int, Any]]:
    while waiting or running:
        while waiting and len(running) < workers:
            name, work, limit = waiting.pop()
            ours, theirs = FORK.Pipe(duplex=False)
            child = FORK.Process(target=_child, args=(work, theirs, limit))
            child.start()
            theirs.close()
            running[child.sentinel] = (name, child, ours, time.monotonic() + 60 + 10 * limit)
            if start is not None:
                start[name] = time.monotonic()
        pipes = [ours for _, _, ours, _ in running.values() if not ours.closed]
        ready = connection.wait([*running, *pipes], timeout=0.5)
        for sentinel, (name, child, ours, limit) in list(running.items()):
            answer = None
            if ours in ready:
                try:
                    answer = ours.recv()
                    child.join()
                except EOFError:
                    child.join(0.5)
            if child.exitcode is None and time.monotonic() > limit:
                os.killpg(child.pid, signal.SIGKILL)
                child.join()
            if child.exitcode is not None:
                del running[sentinel]
                ours.close()
                yield name, child.exitcode, answer


def _child(work: Callable[[Any], int], pipe: Any, limit: float) -> None:
    os.setsid()  # its own group, so that what it starts ends with it
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(silence, descriptor)
    code = 1
    try:
        code = work(pipe)
    finally:
        pipe.close()
        os._exit(code)


# --- the sample ----------------------------------------------------------------------------------------------------


def sample(changes: Mapping[str, Sequence[Change]], n: int, seed: int, root: Path) -> list[Change]:
    """At least `n` changes, each folder by its share of all and at least one; those that are no Python are passed over."""
    chooser, total = random.Random(seed), sum(map(len, changes.values()))
    chosen: list[Change] = []
    for found in changes.values():
        wanted, taken = max(1, -(-n * len(found) // total)), 0
        for change in chooser.sample(found, len(found)):
            if taken < wanted and _is_python(change.apply((root / change.path).read_bytes())):
                chosen.append(change)
                taken += 1
    return chosen


def unchanged(change: Change) -> Change:
    """The control of a change: the same tests on the file as it is, which must pass."""
    return replace(change, operator="none", start=0, end=0, before="", after="")


def _is_python(source: bytes) -> bool:
    try:
        compile(source, "changed", "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True
