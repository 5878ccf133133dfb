"""One real server on a tiny model, one real Chromium, and a page that must stay free of errors."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.browser.fixture_graph import make_feature, make_graph
from tests.clients import BEARER, TOKEN
from thoughtscope.atlas import MadeLabel
from thoughtscope.core.labels import LabelStore

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
).split()


def find_chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome", "chrome")]
    return named or next((path for path in found if path), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
    # Last, because their one browser stays open to the end, and a second driver cannot start beside it.
    items.sort(key=lambda item: here in item.path.parents)


class Bank:
    """Made-up examples for every feature of the tiny dictionary."""

    def made_label(self, layer: int, index: int) -> MadeLabel:
        figures = {"f1": 0.62, "precision": 0.9, "recall": 0.47, "n": 120, "unigram_f1": 0.31}
        return MadeLabel(text="Texas places", author="rules", side="input", figures=figures)

    def auto_label(self, layer: int, index: int) -> str | None:
        return "Texas places"

    def detail(self, layer: int, index: int) -> dict[str, Any]:
        return make_feature(layer, index)


@dataclass
class Server:
    url: str
    folder: Path
    labels: LabelStore

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with self.open(f"api/{path}", data, method=method) as answer:
            return json.loads(answer.read())

    def open(self, path: str, data: bytes | None = None, method: str | None = None) -> Any:
        headers = {"Content-Type": "application/json", **BEARER}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        return urllib.request.urlopen(request)

    def add(self, graph: dict[str, Any]) -> str:
        return self.ask("graphs", graph)["slug"]


@contextmanager
def serving(load: Callable[[], Any], folder: Path) -> Iterator[Server]:
    """The real server on a microscope, until the block ends."""
    import uvicorn

    from thoughtscope.microscope import WorkFolder
    from thoughtscope.server import Session, create_app
    from thoughtscope.server.access import Access

    session = Session(load, folder=WorkFolder(folder), example_prompts=["ab cd", "the sun"])
    app = create_app(session, Access(token=TOKEN))
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield Server(f"http://127.0.0.1:{port}/", folder, session.folder.labels)
    running.should_exit = True
    thread.join(10)
    session.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server with a tiny random model and its random dictionary."""
    from tests.tiny_microscope import tiny_microscope

    with serving(lambda: tiny_microscope(bank=Bank()), tmp_path_factory.mktemp("work")) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium: install it, or name it in the environment variable CHROMIUM")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=FLAGS, headless=True)
        yield running
        running.close()


@pytest.fixture(scope="package")
def tab(browser: Any, server: Server) -> Any:
    """One tab for all tests, let in by the server's link: what it has read once it need not read again."""
    context = browser.new_context(reduced_motion="reduce", accept_downloads=True)
    context.set_default_timeout(20000)
    page = context.new_page()
    page.goto(f"{server.url}?token={TOKEN}")
    page.errors = []

    def heard(message: Any) -> None:
        place = message.location.get("url", "")
        if message.type in ("error", "warning") and not place.endswith(
            "/favicon.ico"
        ):  # asked for by pages without one
            page.errors.append(f"{message.text} {place}")

    page.on("console", heard)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    return page


@pytest.fixture
def page(tab: Any, server: Server) -> Iterator[Any]:
    """An empty tab without memory; the test fails if the console or the page reported an error.

    `page.expected_errors` holds texts that a test provokes on purpose, such as a refused request.
    """
    tab.set_viewport_size({"width": 1440, "height": 900})
    tab.emulate_media(color_scheme="light")
    tab.goto(f"{server.url}icon.svg")
    tab.evaluate("localStorage.clear()")
    tab.errors.clear()
    tab.expected_errors = []
    yield tab
    tab.goto("about:blank")
    for feature in server.labels.all():
        server.labels.set(feature, "")
    unexpected = [text for text in tab.errors if not any(part in text for part in tab.expected_errors)]
    assert unexpected == [], f"the console reported: {unexpected}"


@pytest.fixture
def graph(server: Server) -> dict[str, Any]:
    """The made-up graph, kept on the server under a name of its own."""
    made = make_graph(layers=3, features=24, dictionary="tiny/clt", slug="made-up")
    made["metadata"]["slug"] = server.add(made)
    return made


@pytest.fixture
def opened(page: Any, server: Server, graph: dict[str, Any]) -> Any:
    """The page with the made-up graph open."""
    page.goto(f"{server.url}#g={graph['metadata']['slug']}")
    page.wait_for_selector(".stage g.node")
    return page


@pytest.fixture
def node(graph: dict[str, Any]) -> Callable[..., str]:
    """`node("Texas", 1)`: the id of the second feature with that label; `node(" Dallas")`: of a token; `node("→ Austin")`: of an output."""

    def find(label: str, number: int = 0) -> str:
        wanted = {"→": "Output", " ": "Emb"}.get(label[0])
        text = f'{wanted}: "{label}"' if wanted == "Emb" else f'Output "{label[1:]}"' if wanted else label
        return [
            n["node_id"]
            for n in graph["nodes"]
            if (n["clerp"].startswith(text) if wanted else n["clerp"] == text)
        ][number]

    return find


@pytest.fixture(scope="package")
def traced(server: Server) -> str:
    """A graph that the tiny model made, with its slug."""
    with server.open("api/trace", json.dumps({"prompt": "ab cd"}).encode()) as answer:
        text = answer.read().decode()
    return json.loads(text.split("event: graph\ndata: ")[1].split("\n")[0])["slug"]
