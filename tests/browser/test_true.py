"""What the page says is what the server and the file say: scores, edges, outputs, nodes, and what is not known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.browser.fixture_graph import add_curve, add_influence, make_graph
from tests.browser.gestures import agree, click, wait_for


@pytest.fixture
def show(page: Any, server: Any) -> Callable[..., Any]:
    """Opens a graph exactly as given, in place of the server's answer."""

    def open_it(graph: dict[str, Any], view: str = "") -> Any:
        slug = graph["metadata"]["slug"]
        page.route(f"**/api/graphs/{slug}", lambda route: route.fulfill(json=graph))
        page.goto(f"{server.url}#g={slug}{view}")
        page.wait_for_selector(".stage g.node")
        return page

    yield open_it
    page.unroute_all(behavior="ignoreErrors")


def made(slug: str) -> dict[str, Any]:
    graph = make_graph(layers=3, features=24, dictionary="tiny/clt", slug=slug)
    add_influence(graph)
    add_curve(graph)
    return graph


def test_scores_follow_the_slider_and_the_error_switch(opened: Any, server: Any, graph: Any) -> None:
    curve = server.ask(f"graphs/{graph['metadata']['slug']}")["score_curve"]
    whole, cut = (
        [f"{curve[name][curve['stops'].index(stop)]:.2f}" for name in ("replacement", "completeness")]
        for stop in (1.0, 0.6)
    )
    assert whole != cut

    def scores() -> list[str]:
        return opened.locator(".scores .score b").all_inner_texts()[:2]

    agree(scores, whole)
    opened.locator("#prune").fill("60")
    agree(scores, cut)
    told = f"{100 * curve['replacement'][curve['stops'].index(0.6)]:.0f} % of the influence"
    wait_for(lambda: told in opened.locator(".trust").inner_text().replace("\n", " "))
    opened.locator("#errors").click()
    agree(scores, cut, "errors count, seen or not")
    wait_for(lambda: "hidden in the picture, not in the scores" in opened.locator(".trust").inner_text())
    opened.locator("#prune").fill("100")
    agree(scores, whole)


def test_unknown_scores_are_said_with_their_reason(show: Any) -> None:
    graph = made("unknown")
    graph["score_curve"] |= {"why_unscored": "The file lacks what was pruned.", "replacement": None}
    page = show(graph)
    agree(lambda: page.locator(".scores .score b").all_inner_texts(), ["not known", "not known"])
    wait_for(lambda: "not known: The file lacks what was pruned" in page.locator(".trust").inner_text())


def test_without_a_curve_the_stated_scores_hold_for_the_whole_graph_alone(show: Any) -> None:
    graph = made("stated")
    del graph["score_curve"]
    page = show(graph)
    agree(lambda: page.locator(".scores .score b").first.inner_text(), "0.61")
    page.locator("#prune").fill("60")
    agree(lambda: page.locator(".scores .score b").first.inner_text(), "not known")


def test_a_file_without_error_nodes_gets_no_clean_bill(show: Any) -> None:
    graph = made("clean")
    gone = {n["node_id"] for n in graph["nodes"] if "error" in n["feature_type"]}
    graph["nodes"] = [n for n in graph["nodes"] if n["node_id"] not in gone]
    graph["links"] = [link for link in graph["links"] if link["source"] not in gone]
    add_influence(graph)
    graph["score_curve"] |= {"replacement": [1.0] * 81, "completeness": [1.0] * 81}
    page = show(graph)
    wait_for(lambda: "what its dictionary misses is not known" in page.locator(".trust").inner_text())
    assert "100 %" not in page.locator(".trust").inner_text()
    assert page.locator(".scores .score b").all_inner_texts() == ["not known", "not known"]
    assert page.locator("#errors").count() == 0


def test_a_file_that_was_cut_says_how_much_it_holds(show: Any) -> None:
    graph = made("cut")
    graph["score_curve"]["influence_held"] = 0.7
    page = show(graph)
    wait_for(lambda: "70 % of the influence" in page.locator(".trust").inner_text())
    assert "70 %" in page.locator(".prune").inner_text()


def test_the_edges_at_rest_are_those_with_most_influence(show: Any) -> None:
    graph = made("edges")
    strongest = min((link for link in graph["links"] if link["weight"]), key=lambda link: abs(link["weight"]))
    graph["edge_influence"] = [0.5 if link is strongest else 0.0 for link in graph["links"]]
    page = show(graph, "&k=1")
    wait_for(
        lambda: (
            re.search(r"\b1 of [\d,]+ edges, by their influence", page.locator(".edge-line").inner_text())
            is not None
        )
    )
    painted = """(id) => { const c = document.querySelector('canvas.edges'), copy = new OffscreenCanvas(c.width, c.height);
      const t = copy.getContext('2d'); t.drawImage(c, 0, 0); const d = t.getImageData(0, 0, c.width, c.height).data;
      const b = document.querySelector(`.stage g.node[data-id="${id}"] .shape`).getBoundingClientRect();
      const s = document.querySelector('.stage').getBoundingClientRect();
      let n = 0; for (let y = -14; y < 14; y++) for (let x = -6; x < 6; x++) {
        const at = 4 * ((Math.round(b.y + b.height / 2 - s.y) + y) * c.width + Math.round(b.x + b.width / 2 - s.x) + x);
        n += d[at + 3] > 0; } return n; }"""
    assert page.evaluate(painted, strongest["source"]) > 0 and page.evaluate(painted, strongest["target"]) > 0
    other = next(n["node_id"] for n in graph["nodes"] if n["feature_type"] == "embedding" and n["ctx_idx"] == 0
                 and n["node_id"] not in (strongest["source"], strongest["target"]))  # fmt: skip
    assert page.evaluate(painted, other) == 0, "no other edge is drawn"


def test_influence_is_one_number_and_else_not_known(show: Any) -> None:
    graph = made("one-number")
    chosen = next(n for n in graph["nodes"] if n["clerp"] == "Texas")
    share = 100 * graph["influence_share"][graph["nodes"].index(chosen)]
    page = show(graph, f"&s={chosen['node_id']}")
    shown = page.locator(".facts span", has_text="influence").locator("b")
    wait_for(lambda: abs(float(shown.inner_text().split()[0]) - share) < 0.06)
    click(page, chosen["node_id"])
    tip = page.locator(".tooltip-facts")
    wait_for(lambda: shown.inner_text() in tip.inner_text())
    del graph["edge_influence"], graph["influence_share"]
    graph["metadata"]["slug"] = "no-number"
    page = show(graph, f"&s={chosen['node_id']}")
    agree(lambda: shown.inner_text(), "not known")
    wait_for(
        lambda: (
            "by weight: their influence on the answers is not known"
            in page.locator(".edge-line").inner_text()
        )
    )


def test_two_nodes_of_one_id_are_both_there(show: Any) -> None:
    graph = made("twice")
    feature = next(n for n in graph["nodes"] if n["clerp"] == "Dallas")
    error = next(
        n for n in graph["nodes"] if "error" in n["feature_type"] and n["ctx_idx"] == feature["ctx_idx"]
    )
    old = error["node_id"]
    error["node_id"] = feature["node_id"]
    for link in graph["links"]:
        if link["source"] == old:
            link["source"] = feature["node_id"]
    page = show(graph)
    agree(lambda: page.locator(".stage g.node").count(), len(graph["nodes"]))
    ids = page.eval_on_selector_all(".stage g.node", "all => all.map((n) => n.dataset.id)")
    assert len(set(ids)) == len(ids)
    assert page.locator(f'.stage g.node.feature[data-id="{feature["node_id"]}"]').count() == 1


@pytest.mark.parametrize("text", ['say "yes"', '"', 'a"b (p=0.5)', '\\"', ' "quoted" and more'])
def test_output_names_with_quotes_are_read_right(show: Any, text: str) -> None:
    graph = made("quotes")
    top = next(n for n in graph["nodes"] if n["is_target_logit"])
    top["clerp"] = f'Output "{text}" (p={top["token_prob"]:.3f})'
    page = show(graph)
    shown = page.locator(f'.stage g.node[data-id="{top["node_id"]}"]').get_attribute("aria-label")
    wanted = text.replace("\\", "") if text == '\\"' else text
    assert shown.startswith(f"Output {wanted.replace(' ', '·', 1) if wanted.startswith(' ') else wanted},")


def test_features_of_another_model_say_whose_they_are(show: Any) -> None:
    graph = made("foreign-model")
    graph["metadata"]["thoughtscope"].update(model="a-large-model", dictionary="its/dictionary")
    feature = next(n for n in graph["nodes"] if n["clerp"] == "Texas")
    feature["feature_details"] = {"url": "https://example.org/f/1", "top_logits": [" Austin"]}
    page = show(graph, f"&s={feature['node_id']}")
    told = page.locator(".foreign")
    told.wait_for()
    assert "a-large-model" in told.inner_text() and "its/dictionary" in told.inner_text()
    assert "https://example.org/f/1" in told.inner_text() and page.locator(".foreign a").count() == 0
    bench = page.locator(".bench-edit").inner_text()
    assert "a-large-model" in bench and "Trace the prompt here" not in bench


def test_a_feature_without_a_label_is_more_than_a_dot(show: Any) -> None:
    graph = made("nameless")
    feature = next(n for n in graph["nodes"] if n["clerp"] == "" and n["feature_type"].startswith("cross"))
    layer, index, position = feature["node_id"].split("_")
    token = graph["metadata"]["prompt_tokens"][int(position)].strip()
    page = show(graph, f"&p={feature['node_id']}")
    agree(lambda: page.locator(".card .card-text > span").inner_text(), f"L{layer} #{index} at {token}")


def test_marks_that_turn_the_direction_are_spelt_out(show: Any) -> None:
    graph = made("turned")
    graph["metadata"]["prompt"] = "abc \u202edef\u202c ghi"
    graph["metadata"]["prompt_tokens"][2] = "\u202edef"
    page = show(graph)
    shown = page.locator("#prompt").input_value()
    assert shown == "abc [right-to-left override]def[end of direction] ghi"
    assert "\u202e" not in page.locator("body").inner_text() and "\u202e" not in page.title()
    isolated = "e => getComputedStyle(e).unicodeBidi"
    assert page.locator(".prompt-text .token").nth(2).evaluate(isolated) == "isolate"
    sent: list[Any] = []
    page.route(
        "**/api/trace", lambda route: (sent.append(json.loads(route.request.post_data)), route.abort())
    )
    page.expected_errors = ["ERR_FAILED"]
    page.get_by_role("button", name="Trace", exact=True).click()
    wait_for(lambda: bool(sent))
    assert sent[0]["prompt"] == graph["metadata"]["prompt"], "what is sent is what was meant"


def test_hidden_characters_have_names(opened: Any) -> None:
    from playwright.sync_api import Page

    assert isinstance(opened, Page)
    texts = opened.evaluate(
        """async () => { const { tokenText } = await import('./text.js');
        return ['\\u0000', '\\ufeff', '\\u2028', '\\u0007', ' a', '\\n'].map(tokenText); }"""
    )
    assert texts == ["[NUL]", "[byte-order mark]", "[line separator]", "[U+0007]", "·a", "↵"]
