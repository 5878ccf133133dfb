"""Looking at a graph: what is drawn, hover, selection, travel, search, pruning, keys, the address, themes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.gestures import agree, at, becomes, centre, click, wait_for


def canvas_ink(page: Any, name: str = "canvas.edges") -> int:
    """How many pixels of a canvas are painted."""
    script = """(name) => { const c = document.querySelector(name), copy = new OffscreenCanvas(c.width, c.height);
      const t = copy.getContext('2d', { willReadFrequently: true }); t.drawImage(c, 0, 0);
      const d = t.getImageData(0, 0, c.width, c.height).data;
      let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n; }"""
    return page.evaluate(script, name)


def test_the_graph_is_drawn_with_all_kinds_of_nodes(opened: Any, graph: dict[str, Any]) -> None:
    agree(lambda: opened.locator(".stage g.node").count(), len(graph["nodes"]))
    for kind, shape in {"feature": "circle", "error": "path", "token": "rect", "logit": "rect"}.items():
        assert opened.locator(f".stage g.node.{kind} {shape}.shape").count() > 0, kind
    names = opened.locator(".column-name").all_text_contents()
    assert [name.split("token")[0] for name in names][:4] == ["Fact", ":", "·the", "·capital"]
    agree(lambda: opened.locator(".row-name").all_text_contents(), ["0", "1", "2", "out", "in"])
    assert canvas_ink(opened) > 1000


def test_columns_follow_the_prompt_and_rows_the_layers(opened: Any, graph: dict[str, Any], node: Any) -> None:
    left, right = centre(opened, node("capital")), centre(opened, node("say Austin"))
    assert left[0] < right[0], "an earlier token stands further left"
    assert left[1] > right[1], "a lower layer stands further down"
    assert centre(opened, node("→ Austin"))[1] < right[1] < centre(opened, node(" Dallas"))[1]


def test_hover_shows_the_nearest_node(opened: Any, node: Any) -> None:
    x, y = centre(opened, node("Texas"))
    opened.mouse.move(x + 4, y + 3)
    tooltip = opened.locator(".tooltip")
    assert "Texas" in tooltip.inner_text() and "at Dallas, token 8" in tooltip.inner_text()
    agree(lambda: opened.locator(".hover-ring").count(), 1)
    assert canvas_ink(opened, "canvas.hover-edges") > 100, "its edges are drawn"
    opened.mouse.move(5, 5)
    assert tooltip.count() == 0


def test_click_selects_and_a_click_beside_clears(opened: Any, node: Any) -> None:
    calm = canvas_ink(opened)
    click(opened, node("Texas"))
    agree(lambda: at(opened, node("Texas")).get_attribute("aria-pressed"), "true")
    agree(lambda: opened.locator(".inspector .name-field").input_value(), "Texas")
    assert opened.locator(".stage g.node.near").count() > 5
    assert canvas_ink(opened) != calm
    box = opened.locator(".stage").bounding_box()
    opened.mouse.click(box["x"] + 60, box["y"] + 100)
    agree(lambda: opened.locator(".stage g.node.selected").count(), 0)
    agree(lambda: opened.locator(".inspector .overview").count(), 1)


def test_connections_are_sorted_and_signed(opened: Any, graph: dict[str, Any], node: Any) -> None:
    chosen = node("Texas", 1)
    click(opened, chosen)
    for side, end, other in (("Inputs", "target", "source"), ("Outputs", "source", "target")):
        links = sorted(
            (link for link in graph["links"] if link[end] == chosen), key=lambda link: -abs(link["weight"])
        )
        rows = opened.locator(f'section[aria-label="{side}"] .connection')
        assert [row.get_attribute("data-id") for row in rows.all()] == [link[other] for link in links][:24]
        for row, link in list(zip(rows.all(), links, strict=False))[:6]:
            shown = row.locator(".weight").inner_text().replace("−", "-")
            assert float(shown) == pytest.approx(link["weight"], abs=0.006)
            assert ("lowers" if link["weight"] < 0 else "raises") in row.get_attribute("class")


def test_a_click_on_a_connection_travels(opened: Any, node: Any) -> None:
    click(opened, node("Texas"))
    row = opened.locator('section[aria-label="Outputs"] .connection').first
    there = row.get_attribute("data-id")
    row.click()
    agree(lambda: at(opened, there).get_attribute("aria-pressed"), "true")


def test_pruning_hides_the_weak_and_moves_nothing(opened: Any, graph: dict[str, Any]) -> None:
    strongest = min((n for n in graph["nodes"] if n["influence"] is not None), key=lambda n: n["influence"])[
        "node_id"
    ]
    before = centre(opened, strongest)
    slider = opened.locator("#prune")
    slider.fill("50")
    kept = [n for n in graph["nodes"] if n["influence"] is None or n["influence"] <= 0.5]
    agree(lambda: opened.locator(".stage g.node").count(), len(kept))
    wait_for(lambda: "50 %" in opened.locator(".prune").inner_text())
    agree(lambda: centre(opened, strongest), before)
    wait_for(lambda: "t=0.5" in opened.url)
    slider.fill("100")
    agree(lambda: opened.locator(".stage g.node").count(), len(graph["nodes"]))


def test_errors_can_be_hidden(opened: Any) -> None:
    agree(lambda: opened.locator(".stage g.error").count(), 12)
    opened.locator("#errors").click()
    agree(lambda: opened.locator(".stage g.error").count(), 0)
    opened.keyboard.press("Escape")
    opened.locator("h2", has_text="Circuit").click()
    opened.keyboard.press("e")
    agree(lambda: opened.locator(".stage g.error").count(), 12)


def test_search_finds_by_label_token_and_number(opened: Any, graph: dict[str, Any], node: Any) -> None:
    opened.keyboard.press("/")
    opened.keyboard.type("say aus")
    agree(lambda: opened.locator("#search-list [role=option]").count(), 2)
    agree(lambda: opened.locator(".stage g.node.match").count(), 2)
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    agree(lambda: opened.locator(".inspector .name-field").input_value(), "say Austin")
    layer, index, _ = node("Dallas").split("_")
    opened.locator("#search").fill(f"L{layer} #{index}")
    ids = opened.eval_on_selector_all(".stage g.node.match", "nodes => nodes.map(n => n.dataset.id)")
    assert node("Dallas") in ids and all(i.startswith(f"{layer}_{index}_") for i in ids)
    opened.locator("#search").fill("containing")
    agree(lambda: opened.locator(".stage g.node.token.match").count(), 1)
    opened.locator("#search").fill("no such thing")
    wait_for(lambda: "No node has" in opened.locator("#search-list").inner_text())
    opened.keyboard.press("Escape")
    agree(lambda: opened.locator(".stage g.node.unmatched").count(), 0)


def test_arrow_keys_move_and_enter_selects(opened: Any, node: Any) -> None:
    opened.keyboard.press("ArrowDown")
    start = opened.evaluate("document.activeElement.dataset.id")
    assert start == node("→ Austin"), "the keys start at the answer"
    opened.keyboard.press("ArrowDown")
    below = opened.evaluate("document.activeElement.dataset.id")
    assert below.startswith("2_")
    opened.keyboard.press("ArrowRight")
    right = opened.evaluate("document.activeElement.dataset.id")
    assert centre(opened, right)[0] > centre(opened, below)[0]
    opened.keyboard.press("ArrowLeft")
    assert centre(opened, opened.evaluate("document.activeElement.dataset.id"))[0] < centre(opened, right)[0]
    opened.keyboard.press("ArrowUp")
    wait_for(
        lambda: (
            "logit" in at(opened, opened.evaluate("document.activeElement.dataset.id")).get_attribute("class")
        )
    )
    opened.keyboard.press("ArrowDown")
    chosen = opened.evaluate("document.activeElement.dataset.id")
    opened.keyboard.press("Enter")
    agree(lambda: at(opened, chosen).get_attribute("aria-pressed"), "true")
    opened.keyboard.press("Escape")
    agree(lambda: opened.locator(".stage g.node.selected").count(), 0)


def test_nodes_speak_to_screen_readers(opened: Any, node: Any) -> None:
    label = at(opened, node("Texas")).get_attribute("aria-label")
    assert label.startswith("Feature Texas, layer 0, token 8 ·Dallas, activation ")
    assert at(opened, node("→ Austin")).get_attribute("aria-label").startswith("Output ·Austin")
    assert opened.locator('.stage g.node[tabindex="0"]').count() == 1, "one stop for Tab; arrows do the rest"
    click(opened, node("Texas"))
    wait_for(lambda: "Selected: Feature Texas" in opened.locator(".app > .hidden[aria-live]").inner_text())


def test_scores_and_what_is_left_out_are_always_in_view(
    opened: Any, server: Any, graph: Any, node: Any
) -> None:
    curve = server.ask(f"graphs/{graph['metadata']['slug']}")["score_curve"]
    explained, complete = curve["replacement"][-1], curve["completeness"][-1]
    for _ in range(2):
        scores = opened.locator(".scores").inner_text()
        assert f"{explained:.2f}" in scores and f"{complete:.2f}" in scores
        trust = opened.locator(".trust").inner_text()
        assert f"{100 * explained:.0f} %" in trust and f"{100 - 100 * explained:.0f} %" in trust
        assert "412 of 530" in trust and "1.2 %" in trust
        click(opened, node("Texas"))


def test_the_address_holds_the_view_and_back_works(opened: Any, server: Any, node: Any) -> None:
    click(opened, node("Texas"))
    first = opened.url
    click(opened, node("capital"))
    assert f"s={node('capital')}" in opened.url
    opened.go_back()
    becomes(opened, f"document.querySelector('.stage g.selected')?.dataset.id === '{node('Texas')}'")
    agree(lambda: opened.url, first)
    opened.go_forward()
    becomes(opened, f"document.querySelector('.stage g.selected')?.dataset.id === '{node('capital')}'")
    opened.locator("#prune").fill("70")
    click(opened, node("say Austin"), "Control")
    shared = opened.url
    opened.goto("about:blank")
    opened.goto(shared)
    opened.wait_for_selector(".stage g.selected")
    agree(lambda: at(opened, node("capital")).get_attribute("aria-pressed"), "true")
    wait_for(lambda: "pinned" in at(opened, node("say Austin")).get_attribute("class"))
    agree(lambda: opened.locator("#prune").input_value(), "70")


def test_themes_follow_the_system_and_the_switch(opened: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    opened.emulate_media(color_scheme="light")
    light = opened.evaluate(ground)
    opened.emulate_media(color_scheme="dark")
    dark = opened.evaluate(ground)
    assert light != dark
    switch = opened.get_by_role("button", name="Theme")
    switch.click()
    becomes(opened, ground, light)  # the switch wins over the system
    switch.click()
    becomes(opened, ground, dark)
    opened.reload()
    opened.wait_for_selector(".stage g.node")
    opened.emulate_media(color_scheme="light")
    becomes(opened, ground, dark)  # the choice is kept


def test_help_opens_and_closes(opened: Any) -> None:
    opened.keyboard.press("?")
    wait_for(lambda: "Replacement" in opened.locator("dialog").inner_text())
    opened.keyboard.press("Escape")
    agree(lambda: opened.locator("dialog").count(), 0)


def test_a_narrow_window_shows_everything(opened: Any) -> None:
    opened.set_viewport_size({"width": 1100, "height": 700})
    for selector in (".graph", ".inspector", ".circuit-panel", ".bench", "#search", ".trust"):
        box = opened.locator(selector).bounding_box()
        assert box["width"] > 60 and box["x"] + box["width"] <= 1101 and box["y"] + box["height"] <= 701, (
            selector
        )
    becomes(
        opened,
        "document.querySelector('.stage').offsetWidth <= document.querySelector('.graph-scroll').clientWidth",
    )
