"""Graphs of every size fit the panel when they open, and can be zoomed and moved without losing their axes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.fixture_graph import LARGE_LAYERS, make_large_graph
from tests.browser.gestures import agree, becomes, centre, wait_for

SIZES = (40, 120, 400, 800)
WINDOWS = ((1440, 900), (1024, 700))

FACTS = """() => {
  const box = (e) => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const panel = document.querySelector('.graph-scroll');
  const shapes = [...document.querySelectorAll('.stage g.node')].map((g) => ({
    id: g.dataset.id, kind: [...g.classList].find((c) => ['feature', 'error', 'token', 'logit'].includes(c)),
    box: box(g.querySelector('.shape')) }));
  const columns = [...document.querySelectorAll('.grid line.column')].map((l) => [Number(l.dataset.position), box(l)[0]]);
  const texts = (selector) => [...document.querySelectorAll(selector)].map((t) => [t.textContent, ...box(t)]);
  return { panel: box(panel), scrolls: panel.scrollWidth > panel.clientWidth || panel.scrollHeight > panel.clientHeight,
    shapes, columns, rows: texts('.row-name'), names: texts('.column-name'),
    answer: box(document.querySelector('.node.target .output-name')) };
}"""


def inside(box: list[float], panel: list[float]) -> bool:
    left, top, right, bottom = box
    return left >= panel[0] - 1 and top >= panel[1] - 1 and right <= panel[2] + 1 and bottom <= panel[3] + 1


@pytest.fixture(scope="module")
def large(server: Any) -> dict[int, dict[str, Any]]:
    made = {size: make_large_graph(size) for size in SIZES}
    for graph in made.values():
        graph["metadata"]["slug"] = server.add(graph)
    return made


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: f"{window[0]}x{window[1]}")
@pytest.mark.parametrize("size", SIZES)
def test_a_graph_fits_on_opening(
    page: Any, server: Any, large: dict[int, dict[str, Any]], size: int, window: tuple[int, int]
) -> None:
    graph = large[size]
    page.set_viewport_size({"width": window[0], "height": window[1]})
    page.goto(f"{server.url}#g={graph['metadata']['slug']}&t=1")
    page.wait_for_selector(".stage g.node")
    agree(lambda: page.locator(".stage g.node").count(), size)
    facts = page.evaluate(FACTS)
    assert {shape["id"] for shape in facts["shapes"]} == {node["node_id"] for node in graph["nodes"]}
    assert not facts["scrolls"] and facts["panel"][2] <= window[0] and facts["panel"][3] <= window[1]
    outside = [shape["id"] for shape in facts["shapes"] if not inside(shape["box"], facts["panel"])]
    assert outside == [], "every node stands in the panel"
    assert inside(facts["answer"], facts["panel"]), "the top answer is in view with its name"
    last = max(facts["columns"])
    assert last[0] == max(node["ctx_idx"] for node in graph["nodes"])
    outputs = [shape for shape in facts["shapes"] if shape["kind"] == "logit"]
    assert len(outputs) == 10
    assert all(shape["box"][0] >= last[1] - 1 for shape in outputs), (
        "outputs stand in the last token's column"
    )
    names = [name for name in facts["rows"] if name[0] in ("0", "out", "in")]
    assert len(names) == 3 and all(inside(name[1:], facts["panel"]) for name in facts["rows"])
    assert len(facts["names"]) >= min(len(graph["metadata"]["prompt_tokens"]), 20)
    assert all(inside(name[1:], facts["panel"]) for name in facts["names"]), "token names are not cut off"


@pytest.mark.parametrize("size", SIZES)
def test_nodes_stand_in_their_own_cell_and_apart(
    page: Any, server: Any, large: dict[int, dict[str, Any]], size: int
) -> None:
    graph = large[size]
    page.goto(f"{server.url}#g={graph['metadata']['slug']}&t=1")
    page.wait_for_selector(".stage g.node")
    agree(lambda: page.locator(".stage g.node").count(), size)
    facts = page.evaluate(FACTS)
    edges = dict(facts["columns"]) | {max(facts["columns"])[0] + 1: facts["panel"][2]}
    position = {node["node_id"]: node["ctx_idx"] for node in graph["nodes"]}
    centres = {
        s["id"]: ((s["box"][0] + s["box"][2]) / 2, (s["box"][1] + s["box"][3]) / 2) for s in facts["shapes"]
    }
    for name, (x, _) in centres.items():
        assert edges[position[name]] - 0.6 <= x <= edges[position[name] + 1] + 0.6, name
    places = sorted(centres.values())
    near = [
        (a, b)
        for i, a in enumerate(places)
        for b in places[i + 1 : i + 40]
        if abs(a[0] - b[0]) < 3 and abs(a[1] - b[1]) < 3
    ]
    assert near == [], "no node covers another"


def test_a_graph_of_many_nodes_opens_with_those_that_matter_most(
    page: Any, server: Any, large: dict[int, dict[str, Any]]
) -> None:
    slug = large[800]["metadata"]["slug"]
    page.goto(f"{server.url}#g={slug}")
    page.wait_for_selector(".stage g.node")
    inner = page.locator(".stage g.node.feature, .stage g.node.error")
    agree(lambda: 300 < inner.count() <= 400, True)
    opening = page.locator("#prune").input_value()
    assert 20 <= int(opening) < 100 and "t=" not in page.url
    page.locator("#prune").fill("100")
    agree(lambda: page.locator(".stage g.node").count(), 800)
    wait_for(lambda: "t=1" in page.url)
    page.reload()
    page.wait_for_selector(".stage g.node")
    agree(lambda: page.locator(".stage g.node").count(), 800)
    page.locator("#prune").fill(opening)
    wait_for(lambda: "t=" not in page.url)


def test_layers_stand_one_above_the_other(page: Any, server: Any, large: dict[int, dict[str, Any]]) -> None:
    graph = large[400]
    page.goto(f"{server.url}#g={graph['metadata']['slug']}")
    page.wait_for_selector(".stage g.node")
    heights: dict[int, list[float]] = {}
    for shape in page.evaluate(FACTS)["shapes"]:
        if shape["kind"] in ("feature", "error"):
            heights.setdefault(int(shape["id"].split("_")[0]), []).append(
                (shape["box"][1] + shape["box"][3]) / 2
            )
    for layer in range(1, LARGE_LAYERS):
        if layer in heights and layer - 1 in heights:
            assert max(heights[layer]) < min(heights[layer - 1])


def test_zoom_by_wheel_button_and_key(page: Any, server: Any, large: dict[int, dict[str, Any]]) -> None:
    graph = large[400]
    page.goto(f"{server.url}#g={graph['metadata']['slug']}")
    page.wait_for_selector(".stage g.node")
    some = graph["nodes"][60]["node_id"]
    x, y = centre(page, some)
    before = page.evaluate(FACTS)
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    wait_for(lambda: page.locator(".stage.zoomed").count() == 1)
    now = centre(page, some)
    assert abs(now[0] - x) < 4 and abs(now[1] - y) < 4, "what is under the pointer stays there"
    after = page.evaluate(FACTS)
    assert after["names"] and after["rows"] and inside(after["answer"], after["panel"])
    foot = max(name[4] for name in before["names"])
    assert all(name[2] > foot - 90 for name in after["names"]), "token names stay at the foot"
    assert all(name[1] < after["panel"][0] + 60 for name in after["rows"]), "layer names stay at the left"
    page.get_by_role("button", name="Show the whole graph").click()
    agree(lambda: page.locator(".stage.zoomed").count(), 0)
    page.locator("h2", has_text="Circuit").click()
    page.keyboard.press("+")
    agree(lambda: page.locator(".zoom .wide").inner_text(), "1.5×")
    page.keyboard.press("-")
    agree(lambda: page.locator(".zoom .wide").inner_text(), "fit")
    page.get_by_role("button", name="Zoom in").click()
    page.locator("h2", has_text="Circuit").click()
    page.keyboard.press("0")
    agree(lambda: page.locator(".zoom .wide").inner_text(), "fit")


def test_a_zoomed_graph_is_dragged_and_a_drag_is_no_click(
    page: Any, server: Any, large: dict[int, dict[str, Any]]
) -> None:
    graph = large[120]
    page.goto(f"{server.url}#g={graph['metadata']['slug']}")
    page.wait_for_selector(".stage g.node")
    for _ in range(3):
        page.get_by_role("button", name="Zoom in").click()
    some = next(n["node_id"] for n in graph["nodes"] if n["feature_type"] == "cross layer transcoder")
    before = centre(page, some)
    box = page.locator(".stage").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 30, steps=5)
    page.mouse.up()
    after = centre(page, some)
    assert abs(after[0] - before[0] - 60) < 3 and abs(after[1] - before[1] - 30) < 3
    assert page.locator(".stage g.node.selected").count() == 0


def test_the_edges_at_rest_are_counted_and_can_be_changed(
    page: Any, server: Any, large: dict[int, dict[str, Any]]
) -> None:
    graph = large[800]
    page.goto(f"{server.url}#g={graph['metadata']['slug']}")
    page.wait_for_selector(".stage g.node")
    all_of_them = f"{len(graph['links']):,}"
    line = page.locator(".edge-line")
    wait_for(lambda: f"300 of {all_of_them} edges, by their influence on the answers" in line.inner_text())
    page.get_by_label("Edges drawn at rest").select_option("1000")
    wait_for(lambda: f"1,000 of {all_of_them} edges" in line.inner_text())
    wait_for(lambda: "k=1000" in page.url)


def test_the_panels_are_resized_by_hand_and_keys(opened: Any) -> None:
    def width() -> float:
        return opened.locator(".inspector").bounding_box()["width"]

    before = width()
    bar = opened.get_by_role("separator", name="Width of the inspector")
    box = bar.bounding_box()
    opened.mouse.move(box["x"] + 2, box["y"] + 100)
    opened.mouse.down()
    opened.mouse.move(box["x"] - 78, box["y"] + 100, steps=4)
    opened.mouse.up()
    wait_for(lambda: abs(width() - before - 80) < 4)
    bar.focus()
    opened.keyboard.press("ArrowRight")
    wait_for(lambda: abs(width() - before - 56) < 4)
    opened.reload()
    opened.wait_for_selector(".stage g.node")
    wait_for(lambda: abs(width() - before - 56) < 4)
    graph = opened.locator(".graph").bounding_box()["height"]
    opened.get_by_role("button", name="Close the circuit").click()
    wait_for(lambda: opened.locator(".graph").bounding_box()["height"] > graph + 100)
    opened.get_by_role("button", name="Open the circuit").click()
    becomes(opened, "document.querySelector('.dock').classList.contains('open')")
