"""A graph that comes while it is refined: the first picture at once, later ones in its place, and a stop that keeps it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.browser.gestures import agree, becomes, click, wait_for
from thoughtscope.microscope import tracing

PLACES = """Object.fromEntries([...document.querySelectorAll('.stage g.node')].map((node) =>
  [node.dataset.id, node.querySelector('.shape').getBoundingClientRect().toJSON()]))"""


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets one picture out for each time that it is opened."""
    opened = threading.Semaphore(0)
    monkeypatch.setattr(tracing.Pace, "is_due", lambda self: opened.acquire(timeout=60))
    yield opened
    opened.release(1000)


def middles(page: Any) -> dict[str, tuple[float, float]]:
    found = page.evaluate(PLACES)
    return {name: (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for name, box in found.items()}


def expanded(page: Any) -> int:
    return int(page.locator(".refining").inner_text().split(" of ")[0].removeprefix("refining: "))


def begin(page: Any, server: Any, gate: Any, prompt: str) -> None:
    page.goto(server.url)
    page.wait_for_selector(".start")
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Trace", exact=True).click()
    gate.release()
    page.locator(".refining").wait_for(timeout=60_000)


def test_later_pictures_take_the_place_of_the_first(page: Any, server: Any, gate: Any) -> None:
    begin(page, server, gate, "refined")
    wait_for(lambda: expanded(page) >= 16)
    assert "influence still to come" in page.locator(".refining").inner_text()
    first = middles(page)
    chosen = page.locator(".stage g.node.feature").first.get_attribute("data-id")
    click(page, chosen)
    becomes(page, f"document.querySelector('.stage g.node.selected')?.dataset.id === '{chosen}'")
    gate.release()
    wait_for(lambda: len(middles(page)) > len(first))
    second = middles(page)
    stayed = first.keys() & second.keys()
    assert chosen in stayed and len(stayed) > len(first) / 2
    for name in stayed:
        assert second[name] == pytest.approx(first[name], abs=1.0), name
    assert page.locator(".stage g.node.selected").get_attribute("data-id") == chosen
    gate.release(1000)
    becomes(page, "document.querySelector('.refining') === null")
    becomes(page, "location.hash.includes('g=refined')")
    assert page.locator(".legend").is_visible()
    assert page.locator(".stage g.node.selected").get_attribute("data-id") == chosen
    last = middles(page)
    for name in last.keys() & first.keys():
        assert last[name] == pytest.approx(first[name], abs=1.0), name


def test_stop_keeps_the_last_picture_as_the_graph(page: Any, server: Any, gate: Any) -> None:
    page.expected_errors = ["ERR_ABORTED", "ERR_FAILED"]
    begin(page, server, gate, "stopped early")
    shown = middles(page).keys()
    page.get_by_role("button", name="Stop").click()
    becomes(page, "location.hash.includes('g=stopped-early')")
    gate.release(1000)
    agree(lambda: page.locator(".refining").count(), 0)
    assert middles(page).keys() == shown
    assert "traced; no node left out holds more than" in page.locator(".trust").inner_text()
    kept = server.ask("graphs/stopped-early")["metadata"]["thoughtscope"]["certificate"]
    assert kept["expanded"] < kept["active"] and 0 < kept["bound"] < 1
    assert page.get_by_role("button", name="Trace", exact=True).is_enabled()
