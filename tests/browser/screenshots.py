"""The pictures in the README and the documentation, taken of the page at work on the specimen.

`python -m tests.browser.screenshots [--url URL] [--out FOLDER]`; without a URL it serves the specimen itself, or the
stand-in where the specimen's weights are not there (`--stand-in` asks for that).
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
from typing import Any

from tests.browser.conftest import FLAGS, find_chromium

PROMPT = "Fact: the capital of the state containing Dallas is"
SIZES = {"": (1440, 900), "-small": (1024, 700)}


@contextlib.contextmanager
def specimen_server() -> Iterator[str]:
    """The page on the specimen, with a fresh work folder."""
    import uvicorn

    from thoughtscope.microscope import WorkFolder, open_microscope
    from thoughtscope.server import Session, create_app

    with tempfile.TemporaryDirectory() as folder:
        session = Session(lambda: open_microscope("specimen"), folder=WorkFolder(folder))
        running = uvicorn.Server(uvicorn.Config(create_app(session), port=0, log_level="warning", ws="none"))
        threading.Thread(target=running.run, daemon=True).start()
        while not running.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}/"
        running.should_exit = True
        session.close()


@contextlib.contextmanager
def stand_in_server() -> Iterator[str]:
    from tests.browser.stand_in import serve

    server = serve()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()


def trace(url: str) -> str:
    body = json.dumps({"prompt": PROMPT}).encode()
    request = urllib.request.Request(
        f"{url}api/trace", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    assert "event: graph" in text, text[-500:]
    return json.loads(text.split("event: graph\ndata: ")[1].split("\n")[0])["slug"]


def arrange(graph: dict[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Supernodes of the features at the city and at "capital", and the pins: those, the strongest at the end, tokens."""
    tokens = graph["metadata"]["prompt_tokens"]
    features = sorted(
        (n for n in graph["nodes"] if n["feature_type"].startswith("cross")), key=lambda n: n["influence"]
    )
    supernodes = [
        [f"at {token.strip()}", *(n["node_id"] for n in features if tokens[n["ctx_idx"]] == token)]
        for token in (" Dallas", " capital")
    ]
    supernodes = [group for group in supernodes if len(group) > 2]
    last = [n["node_id"] for n in features if n["ctx_idx"] == len(tokens) - 1][:4]
    answer = [n["node_id"] for n in graph["nodes"] if n["is_target_logit"]][:1]
    told = [
        n["node_id"]
        for n in graph["nodes"]
        if n["feature_type"] == "embedding" and tokens[n["ctx_idx"]] in (" capital", " Dallas", " state")
    ]
    return supernodes, [*(member for _, *members in supernodes for member in members), *last, *answer, *told]


def put(url: str, path: str, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(
        urllib.request.Request(f"{url}api/{path}", json.dumps(body).encode(), headers, method="PUT")
    ).read()


def shoot(url: str, out: Path) -> list[Path]:
    from playwright.sync_api import sync_playwright

    slug = trace(url)
    graph = json.loads(urllib.request.urlopen(f"{url}api/graphs/{slug}").read())
    supernodes, pins = arrange(graph)
    put(url, f"graphs/{slug}/supernodes", {"supernodes": supernodes})
    put(url, f"graphs/{slug}/pins", {"pins": pins})
    chosen = f"group:{supernodes[0][0]}" if supernodes else pins[0]
    taken = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=FLAGS, headless=True)
        for theme in ("light", "dark"):
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
                taken.append(out / f"graph-{theme}{suffix}.png")
                page.screenshot(path=taken[-1])
                page.locator(f'.card[data-id="{chosen}"]').click()
                page.locator(".run").click()
                page.wait_for_selector(".outcome", timeout=120000)
                member = supernodes[0][1] if supernodes else pins[0]
                page.locator(f'.stage g.node[data-id="{member}"]').click(force=True)
                page.locator(".example, .feature-detail .quiet").first.wait_for()
                page.mouse.move(2, height - 2)
                taken.append(out / f"intervention-{theme}{suffix}.png")
                page.screenshot(path=taken[-1])
                page.close()
        browser.close()
    return taken


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", help="a server that already runs")
    options.add_argument("--stand-in", action="store_true")
    options.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs/screenshots")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.nullcontext(given.url)
        if given.url
        else stand_in_server()
        if given.stand_in
        else specimen_server() as url
    ):
        for path in shoot(url, given.out):
            print(path)


if __name__ == "__main__":
    main()
