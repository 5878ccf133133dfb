"""The scores that the page shows, read in Chromium, against Python's score of the graph that is left at that stop.

The page looks its scores up in a table that the server makes in one sweep. Here each entry is made the long way: the
nodes that the slider hides are cut out of the graph, what they sent counts as absent, and `score` scores what is left.
Error nodes stay, as hiding them in a picture changes no score. The slider is moved by hand, in the real page.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from _claim import Measured, Unavailable, main

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SIZES = (40, 120, 300, 800)
PROMPTS = (
    "Fact: the capital of the state containing Dallas is",
    "Fact: the capital of the state containing Oakland is",
    'The opposite of "small" is "',
    "calc: 36+59=",
)
READ = """async (stops) => {
  const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const slider = document.getElementById('prune'), found = [];
  for (const stop of stops) {
    slider.value = String(Math.round(100 * stop));
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await drawn();
    found.push([...document.querySelectorAll('.scores .score[data-value]')].slice(0, 2).map((e) => e.dataset.value));
  }
  return found;
}"""
Table = list[tuple[float, float] | None]


def measure(seed: int) -> Measured:
    """Largest difference over all graphs, stops and the two scores; infinite where only one side has a score."""
    from thoughtscope.graphs.curve import STOPS

    files = all_files(seed)
    with page_on(files) as show:
        shown = {name: show(name) for name in files}
        shifted = {name: show(name, late=True) for name in files}
    wanted = {name: cut_scores(file, STOPS) for name, file in files.items()}
    rows = {name: difference(shown[name], wanted[name]) for name in files}
    control = {name: difference(shifted[name], wanted[name]) for name in files}
    scored = [name for name in files if wanted[name][0] is not None]
    details = {
        "graphs": len(files),
        "stops": len(STOPS),
        "unscored_graphs": sorted(set(files) - set(scored)),
        "largest_by_graph": {name: float(f"{rows[name]:.3g}") for name in files},
        "nodes": {name: len(file["nodes"]) for name, file in files.items()},
        "control_graphs_noticed": sum(control[name] > rows[name] for name in scored) / len(scored),
    }
    return Measured(
        value=max(rows.values()),
        n=len(scored) * len(STOPS),
        control=max(control[name] for name in scored),
        details=details,
    )


def all_files(seed: int) -> dict[str, Any]:
    """Graph files by name: of every dialect, of a made-up circuit, of the specimen, and generated ones."""
    try:
        from tests import test_graph_json as dialects
        from tests.browser.fixture_graph import make_graph, make_large_graph
    except ImportError as error:
        raise Unavailable(f"the graphs of the tests need {error.name}") from None
    from thoughtscope.graphs import graph_to_json
    from thoughtscope.microscope import open_microscope, trace

    files = {
        "made-up": make_graph(layers=3, features=24),
        "circuit-tracer": dialects.circuit_tracer_file(),
        "anthropic": dialects.anthropic_file(),
        "neuronpedia": dialects.neuronpedia_file(),
        "ours": graph_to_json(dialects.ours()),
        **{f"generated-{size}": make_large_graph(size, seed, links=20 * size) for size in SIZES},
    }
    for kind in ("clt", "plt"):
        microscope = open_microscope("specimen", f"specimen/{kind}")
        for number, prompt in enumerate(PROMPTS):
            files[f"specimen-{kind}-{number}"] = graph_to_json(trace(microscope, prompt))
    for name, file in files.items():
        file["metadata"]["slug"] = name
    return files


def cut_scores(file: Any, stops: tuple[float, ...]) -> Table:
    """Replacement and completeness at every stop, from one smaller graph a stop; None where a score says nothing."""
    from thoughtscope.graphs.clashes import distinct
    from thoughtscope.graphs.influence import cumulative_influence, score, why_unscored
    from thoughtscope.graphs.json_read import checked, graph_and_rows

    graph, row_of = graph_and_rows(copy.deepcopy(file))
    if why_unscored(graph) is not None:
        return [None] * len(stops)
    total = np.full(len(graph), np.nan)
    for node in distinct(checked(copy.deepcopy(file)))["nodes"]:
        if node.get("influence") is not None and node["node_id"] in row_of:
            total[row_of[node["node_id"]]] = node["influence"]
    if np.isnan(total).all():
        total = cumulative_influence(graph)
    ends = graph.mask("token") | graph.mask("logit") | graph.mask("error") | graph.is_target
    table: Table = []
    for stop in stops:
        scores = score(without(graph, ends | np.isnan(total) | (total <= stop + 1e-9)))
        table.append((scores.replacement, scores.completeness))
    return table


def without(graph: Any, kept: np.ndarray) -> Any:
    """The graph on the kept nodes alone; what the others sent to them is absent."""
    rows = np.flatnonzero(kept)
    lost = abs(graph.edges[rows][:, np.flatnonzero(~kept)]).sum(axis=1)
    number = np.cumsum(kept) - 1
    columns = {
        name: getattr(graph, name)[rows] for name in ("kind", "layer", "position", "index", "value", "bias")
    }
    return replace(
        graph,
        **columns,
        edges=graph.edges[rows][:, rows],
        absent=(graph.absent[rows] + lost).astype(np.float32),
        targets=tuple(replace(target, node=int(number[target.node])) for target in graph.targets),
        supernodes=(),
    )


def difference(shown: list[list[str]], wanted: Table) -> float:
    """The largest difference of a page's readings; infinite where one side has a score and the other has none."""
    largest = 0.0
    for texts, scores in zip(shown, wanted, strict=True):
        if len(texts) != (0 if scores is None else 2):
            return float("inf")
        for text, score in zip(texts, scores or (), strict=True):
            largest = max(largest, abs(float(text) - score))
    return largest


@contextlib.contextmanager
def page_on(files: dict[str, Any]) -> Iterator[Any]:
    """A function that opens one of the files in the page and reads its scores at every stop.

    `late=True` gives the page each stop's scores in the place of the one before.
    """
    from thoughtscope.graphs.curve import STOPS

    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        raise Unavailable("there is no Chromium here")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise Unavailable("playwright is not installed") from None
    with served(files) as url, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)

        def show(name: str, *, late: bool = False) -> list[list[str]]:
            page = browser.new_page(viewport={"width": 1200, "height": 800}, reduced_motion="reduce")
            if late:
                page.route(
                    f"**/api/graphs/{name}", lambda route: route.fulfill(json=one_late(route.fetch().json()))
                )
            page.goto(f"{url}#g={name}")
            page.wait_for_selector(".scores .score", timeout=60_000)
            found = page.evaluate(READ, list(STOPS))
            page.close()
            return found

        try:
            yield show
        finally:
            browser.close()


def one_late(graph: Any) -> Any:
    """The page's graph with every stop's scores in the place of the one before."""
    curve = graph["score_curve"]
    for name in ("replacement", "completeness"):
        if curve[name] is not None:
            curve[name] = [*curve[name][1:], curve[name][0]]
    return graph


@contextlib.contextmanager
def served(files: dict[str, Any]) -> Iterator[str]:
    """The page with these graph files and no model."""
    import uvicorn

    from thoughtscope.microscope import WorkFolder, keep_file
    from thoughtscope.server import Session, create_app
    from thoughtscope.server.access import Access

    with tempfile.TemporaryDirectory() as place:
        folder = WorkFolder(Path(place))
        for name, file in files.items():
            if keep_file(folder, copy.deepcopy(file)) != name:
                raise ValueError(f"{name} was kept under another name")
        session = Session(None, folder=folder)
        access = Access()
        app = create_app(session, access)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        try:
            port = server.servers[0].sockets[0].getsockname()[1]
            yield f"http://127.0.0.1:{port}/?token={access.token}"
        finally:
            server.should_exit = True
            thread.join(10)
            session.close()


if __name__ == "__main__":
    main(
        measure,
        claim="Largest difference between a score that the page shows and Python's score of the graph cut at the same "
        "stop of the slider (control: each stop is given the next one's scores).",
    )
