"""Coming in: with the link, by typing the token, and beside another server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.gestures import becomes, wait_for
from tests.clients import TOKEN
from thoughtscope.microscope import WorkFolder
from thoughtscope.server import Session, create_app
from thoughtscope.server.access import Access
from thoughtscope.server.launch import Server, listen


@pytest.fixture
def stranger(browser: Any) -> Iterator[Any]:
    """A tab of a browser that was never here."""
    context = browser.new_context()
    context.set_default_timeout(20000)
    yield context.new_page()
    context.close()


def test_a_stranger_types_the_token(stranger: Any, server: Any, graph: dict[str, Any]) -> None:
    slug = graph["metadata"]["slug"]
    stranger.goto(f"{server.url}#g={slug}")
    field = stranger.get_by_label("Token")
    field.wait_for()
    assert stranger.locator("body").inner_text().count(slug) == 0
    becomes(stranger, "document.activeElement.id === 'token'")
    field.fill("not the token")
    field.press("Enter")
    wait_for(lambda: "not the token of this server" in stranger.get_by_role("alert").inner_text())
    field.fill(f" http://localhost/?token={TOKEN}#g=other ")
    stranger.get_by_role("button", name="Open").click()
    stranger.wait_for_selector(".stage g.node")
    assert stranger.url.startswith(f"{server.url}#g={slug}")
    assert stranger.evaluate("document.cookie") == "", "scripts cannot read it"
    stranger.reload()
    stranger.wait_for_selector(".stage g.node")


def test_the_link_opens_the_graph_and_leaves_no_token(
    stranger: Any, server: Any, graph: dict[str, Any]
) -> None:
    stranger.goto(f"{server.url}?token={TOKEN}#g={graph['metadata']['slug']}")
    stranger.wait_for_selector(".stage g.node")
    assert "token" not in stranger.url and graph["metadata"]["slug"] in stranger.url
    assert TOKEN not in stranger.evaluate(
        "JSON.stringify([document.referrer, history.state, {...localStorage}])"
    )


def test_the_file_that_opens_the_browser_leads_to_the_page(stranger: Any, server: Any, graph: dict[str, Any],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from thoughtscope.server import launch

    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    ended = threading.Event()
    link = f"{server.url}?token={TOKEN}#g={graph['metadata']['slug']}"
    thread = threading.Thread(target=launch.open_privately, args=(link, ended))
    thread.start()
    wait_for(lambda: bool(opened))
    assert TOKEN not in opened[0]
    stranger.goto(opened[0])
    stranger.wait_for_selector(".stage g.node")
    assert "token" not in stranger.url
    ended.set()
    thread.join(10)
    assert not Path(opened[0].removeprefix("file://")).exists()


def test_two_servers_side_by_side_in_one_browser(stranger: Any, server: Any, tmp_path: Path) -> None:
    access = Access()
    session = Session(None, folder=WorkFolder(tmp_path))
    listener = listen("127.0.0.1", 0)
    other = Server(create_app(session, access), access.limits)
    thread = threading.Thread(target=other.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not other.started:
        time.sleep(0.02)
    second = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    links = {server.url: TOKEN, second: access.token}
    for url, token in links.items():
        stranger.goto(f"{url}?token={token}")
        stranger.locator(".start h1").wait_for()
    for url in links:
        stranger.goto(url)
        wait_for(lambda: "See what a model computes" in stranger.locator("h1").inner_text())
    other.should_exit = True
    thread.join(10)
    session.close()
