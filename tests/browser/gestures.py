"""What a hand does on the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def at(page: Any, node_id: str) -> Any:
    return page.locator(f'.stage g.node[data-id="{node_id}"]')


def centre(page: Any, node_id: str) -> tuple[float, float]:
    box = at(page, node_id).locator(".shape").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def click(page: Any, node_id: str, *modifiers: str) -> None:
    for key in modifiers:
        page.keyboard.down(key)
    page.mouse.click(*centre(page, node_id))
    for key in modifiers:
        page.keyboard.up(key)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Asks again and again, from here: the page's policy forbids the driver's own way, which is `eval`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def agree(read: Callable[[], Any], wanted: Any, why: str = "") -> None:
    """Asserts that the page comes to show `wanted`: it draws a moment after the hand has moved."""
    end = time.monotonic() + 5
    while (found := read()) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    assert found == wanted, why


def becomes(page: Any, expression: str, value: Any = True) -> None:
    """Waits until a JavaScript expression has this value."""
    wait_for(lambda: page.evaluate(expression) == value)
