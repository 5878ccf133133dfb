"""The measurements of access and load, in a size that takes seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

EVIDENCE = Path(__file__).parents[1] / "evidence"


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EVIDENCE))

    def load(name: str) -> Any:
        return __import__(name)

    yield load
    for name in ("_claim", "_load", "load", "access"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_route_of_the_table_asks_for_the_token(evidence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    access = evidence("access")
    monkeypatch.setattr(access, "METHODS", ("GET", "HEAD", "POST", "OPTIONS"))
    found = access.measure(0)
    assert found.value == 0, found.details["unnamed"]
    assert found.control["share answered with the token"] == 1
    assert found.n > 700 and found.details["routes"] >= 22
    assert {*found.details["open"]} == {
        "GET /", "HEAD /", "GET /chat", "HEAD /chat", "GET /atlas", "HEAD /atlas", "GET /app.js", "HEAD /app.js", "GET /health", "HEAD /health",
        "POST /login",
    }  # fmt: skip


def test_an_open_route_would_be_seen(evidence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtscope.server import gate

    monkeypatch.setattr(gate.Access, "admits", lambda self, headers: True)
    assert evidence("access").measure(0).value > 50


@pytest.mark.slow
def test_the_load_is_thrown_and_measured(evidence: Any) -> None:
    found = evidence("load").under_load(traces=4, connections=30, size=300_000)
    assert found.details["traces"] == {"done": 4, "refused": 0, "otherwise": {}}
    assert sum(found.details["half_open"].values()) == 30 and set(found.details["bodies"]) == {
        "empty lists", "deep nesting", "long chain", "huge strings",
    }  # fmt: skip
    assert all(not said.startswith(("0 ", "500 ")) for said in found.details["bodies"].values())
    assert found.details["health_failed"] == {} and found.n > 5
    assert found.control > 1.5, "the meter sees a blocked loop"
