"""What every test shares: fixed seeds, one thread, no network, and no silent skips where the whole suite must run."""

from __future__ import annotations

import os
import random
import socket
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

# The same examples each time, and no deadline: a busy machine must not turn a right answer into a failure.
settings.register_profile("house", derandomize=True, deadline=None)
settings.load_profile("house")

ROOT = Path(__file__).parents[1]
LOCAL = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "")


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Each test starts from the same random numbers, whatever ran before it."""
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that leaves this machine fails at the place that does it."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOCAL:  # type: ignore[index]
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first, so that no worker is left with it in the end."""
    items.sort(
        key=lambda item: (worker_unit(item.nodeid) != "browser", not has_mark(file_of(item.nodeid), "slow"))
    )


def worker_unit(nodeid: str) -> str:
    """What runs on one worker: a file, whose fixtures are made once; all tests that start a browser, which share it, a
    server and a tab."""
    file = file_of(nodeid)
    return "browser" if Path(file).parent.name == "browser" or has_mark(file, "browser") else file


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@cache
def has_mark(file: str, mark: str) -> bool:
    path = ROOT / file
    return path.is_file() and f"pytest.mark.{mark}" in path.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For several workers (`make test`). Not by marks of a group, which pytest-xdist 3.8 loses under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return worker_unit(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)


def must_run() -> bool:
    """With THOUGHTSCOPE_NO_SKIPS=1 a skipped test is a failed one: what promised to run here did not."""
    return os.environ.get("THOUGHTSCOPE_NO_SKIPS") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Tests marked `gpu` may still be skipped: not every machine that must run the rest has one."""
    report = yield
    if (
        must_run()
        and report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("gpu") is None
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped where every test must run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """The same for a whole file that skips itself."""
    report = yield
    if must_run() and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped where every test must run: {report.longrepr}"
    return report
