"""The pictures in the README and the documentation, taken of the pages at work.

`python -m tests.browser.screenshots [--url URL] [--out FOLDER]`: of the specimen, which it serves itself without a URL,
or of the stand-in with `--stand-in`. With `--smollm2`, of SmolLM2 and its dictionaries, where they are on the machine:
a graph, and a conversation with a feature turned up. With `--atlas`, of all features of the specimen's dictionary.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from tests.browser.conftest import FLAGS, find_chromium
from tests.clients import TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROMPT = "Fact: the capital of the state containing Dallas is"
REAL_PROMPT = "Question: What is the capital of Japan?\nAnswer: The capital of Japan is"
QUESTION, TURNED = "Tell me about yourself.", "resid_post.18/7632:3"
OPENED = "3/151"
SIZES = {"": (1440, 830), "-small": (1024, 700)}
THEMES = ("light", "dark")


@contextlib.contextmanager
def server(model: str, dictionary: str | None = None) -> Iterator[str]:
    """The pages on a model, with a fresh work folder."""
    import uvicorn

    from thoughtscope.microscope import WorkFolder, open_microscope
    from thoughtscope.server import Session, create_app
    from thoughtscope.server.access import Access

    with tempfile.TemporaryDirectory() as folder:
        session = Session(lambda: open_microscope(model, dictionary), folder=WorkFolder(folder))
        app = create_app(session, Access(token=TOKEN))
        running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
        threading.Thread(target=running.run, daemon=True).start()
        while not running.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/?token={TOKEN}"
        running.should_exit = True
        session.close()


@contextlib.contextmanager
def stand_in_server() -> Iterator[str]:
    from tests.browser.stand_in import serve

    server = serve()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def trace(url: str, prompt: str) -> str:
    body = json.dumps({"prompt": prompt}).encode()
    base, _, token = url.partition("?token=")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{base}api/trace", data=body, headers=headers)
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    assert "event: graph" in text, text[-500:]
    return json.loads(text.split("event: graph\ndata: ")[1].split("\n")[0])["slug"]


def shoot(url: str, out: Path) -> list[Path]:
    from playwright.sync_api import sync_playwright

    slug = trace(url, PROMPT)
    taken = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS, headless=True)
        for theme in THEMES:
            for suffix, (width, height) in SIZES.items():
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
                )
                page.goto(url)
                page.wait_for_selector(".start button")
                taken.append(out / f"start-{theme}{suffix}.png")
                page.screenshot(path=taken[-1])
                page.goto(f"{url}#g={slug}")
                page.wait_for_selector(".stage g.node")
                page.wait_for_selector(".card.group")
                page.wait_for_selector(".circuit-panel header b")
                taken.append(out / f"graph-{theme}{suffix}.png")
                page.screenshot(path=taken[-1])
                page.locator(".card.group").first.click()
                page.locator(".run").click()
                page.wait_for_selector(".outcome .scale", timeout=120000)
                page.wait_for_selector(".run")
                page.mouse.move(2, height - 2)
                taken.append(out / f"intervention-{theme}{suffix}.png")
                page.screenshot(path=taken[-1])
                page.get_by_role("button", name="Remove this outcome").click()
                page.wait_for_selector(".bench-outcome .empty")
                page.close()
        browser.close()
    return taken


def shoot_smollm2(out: Path) -> list[Path]:
    """A graph by the transcoders, and a conversation with a feature of the autoencoders turned up."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS, headless=True)
        with server("smollm2", "smollm2/transcoders") as url:
            address = f"{url}#g={trace(url, REAL_PROMPT)}"
            taken = in_both_themes(browser, address, ".stage g.node", out / "smollm2-graph")
        with server("smollm2", "smollm2/sae") as url:
            view = urlencode({"n": 60, "f": TURNED, "c": json.dumps([[QUESTION, ""]])})
            address = f"{url.replace('/?', '/chat?')}#{view}"
            ready = "body:has-text('Point at a token to see'):not(:has-text('reading…'))"
            taken += in_both_themes(browser, address, ready, out / "smollm2-chat")
        browser.close()
    return taken


def shoot_atlas(out: Path) -> list[Path]:
    """All features of the specimen's dictionary, one of them open."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver, server("specimen") as url:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS, headless=True)
        address = f"{url.replace('/?', '/atlas?')}#{urlencode({'f': OPENED})}"
        taken = in_both_themes(
            browser, address, ".atlas-work:has(.map-field[data-drawn]):has(.example)", out / "atlas"
        )
        browser.close()
    return taken


def in_both_themes(browser: Browser, address: str, ready: str, name: Path) -> list[Path]:
    """A picture of a page in each theme, once `ready` (a selector) is on it."""
    width, height = SIZES[""]
    taken = []
    for theme in THEMES:
        page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion="reduce"
        )
        page.goto(address)
        page.wait_for_selector(ready, timeout=300_000)
        taken.append(name.with_name(f"{name.name}-{theme}.png"))
        page.screenshot(path=taken[-1])
        page.close()
    return taken


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", help="the link that a running server printed")
    options.add_argument("--stand-in", action="store_true")
    options.add_argument("--smollm2", action="store_true", help="of SmolLM2, in place of the specimen")
    options.add_argument("--atlas", action="store_true", help="of all features of the specimen's dictionary")
    options.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs/screenshots")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.smollm2:
        print(*shoot_smollm2(given.out), sep="\n")
        return
    if given.atlas:
        print(*shoot_atlas(given.out), sep="\n")
        return
    with (
        contextlib.nullcontext(given.url)
        if given.url
        else stand_in_server()
        if given.stand_in
        else server("specimen") as url
    ):
        print(*shoot(url, given.out), sep="\n")


if __name__ == "__main__":
    main()
