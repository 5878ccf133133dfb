"""From starting `thoughtscope demo` to the first graph on the screen, with nothing warmed up in the process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from _claim import ROOT, Measured, Unavailable, main

RUNS = 3
PATIENCE = 120
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


def measure(seed: int) -> Measured:
    """The median of a few runs; each is a new process and a new work folder. Nothing is drawn at random."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    runs = [one_run(browser) for _ in range(RUNS)]
    seconds = [run["seconds"] for run in runs]
    end = "graph drawn in headless Chromium" if browser else "graph file served (no Chromium here)"
    details = {"end": end, "cores": len(os.sched_getaffinity(0)), "runs": runs, "slowest": max(seconds)}
    return Measured(value=statistics.median(seconds), n=RUNS, details=details)


def one_run(browser: str | None) -> dict[str, Any]:
    """One demo, from the start of its process; what happened when, in seconds from that start."""
    with tempfile.TemporaryDirectory() as folder, opened(browser, folder) as page:
        start = time.perf_counter()
        with demo(folder) as (process, lines):
            url = listening(process, lines)
            served = time.perf_counter() - start
            nodes = wait_for_graph(url, page)
            return {
                "seconds": round(time.perf_counter() - start, 2),
                "server_answers": round(served, 2),
                "nodes": nodes,
            }


@contextlib.contextmanager
def demo(folder: str) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    command = [
        sys.executable,
        "-m",
        "thoughtscope",
        "demo",
        "--no-browser",
        "--port",
        "0",
        "--folder",
        folder,
        "--json",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process, process.stdout
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listening(process: subprocess.Popen[str], lines: Any) -> str:
    """The address that the demo prints. Raises `Unavailable` with its error when it fails."""
    answer = json.loads(lines.readline() or "{}")
    if "url" not in answer:
        raise Unavailable(f"the demo did not start: {answer.get('error', {}).get('message', process.poll())}")
    return answer["url"]


def wait_for_graph(url: str, page: Any) -> int:
    """Opens the page and waits for its nodes, or without a browser for the graph file; how many nodes there are."""
    if page is None:
        address, _, slug = url.partition("#g=")
        address, _, token = address.partition("?token=")
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{address}api/graphs/{slug}", headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return len(json.load(answer)["nodes"])
    page.goto(url)
    page.wait_for_selector(".stage [data-id]", timeout=1000 * PATIENCE)
    return page.locator(".stage [data-id]").count()


@contextlib.contextmanager
def opened(browser: str | None, folder: str) -> Iterator[Any]:
    """A page of a browser that is already open, as a person's is; None without one."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser = None
    if browser is None:
        yield None
        return
    with sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        try:
            yield window.new_page(viewport={"width": 1440, "height": 900})
        finally:
            window.close()


if __name__ == "__main__":
    main(
        measure,
        claim="Seconds from starting `thoughtscope demo` to the first graph on the screen (median of cold processes).",
    )
