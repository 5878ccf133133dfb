"""What a person did is kept: interventions, cards, titles; two tabs stay in step; long work shows and can be stopped."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.browser.fixture_graph import make_graph
from tests.browser.gestures import agree, click, wait_for

OUTCOME = {
    "before": {"top": [{"text": " Austin", "probability": 0.996}]},
    "after": {"top": [{"text": " Austin", "probability": 0.996}]},
    "kl": 0.001, "answer": " Austin", "rank_before": 1, "rank_after": 1,
    "prediction": {"direction": "down", "confirmed": False, "change": -2.05, "measured": -0.01, "threshold": 0.1},
    "control": {"changes": [-0.02, 0.1, -0.05], "largest": 0.1, "n": 3, "reason": None},
    "verdict": {"name": "refuted", "text": "refuted: the answer's logit did not move as predicted"},
    "rival": {"text": " Texas", "difference_before": 6.04, "difference_after": 5.5},
    "feature_changes": [], "generation_before": None, "generation_after": None, "title": "capital × −1",
}  # fmt: skip


@pytest.fixture
def real(page: Any, server: Any, traced: str) -> Any:
    graph = server.ask(f"graphs/{traced}")
    inner = [n for n in graph["nodes"] if n["feature_type"] == "cross layer transcoder"]
    page.feature = min(inner, key=lambda n: n["influence"])
    page.goto(f"{server.url}#g={traced}&s={page.feature['node_id']}")
    page.wait_for_selector(".stage g.node.selected")
    yield page
    page.unroute_all(behavior="ignoreErrors")


def test_kept_outcomes_are_shown_with_threshold_and_control(page: Any, server: Any) -> None:
    graph = make_graph(layers=3, features=24, dictionary="tiny/clt", slug="with-outcomes")
    up = {
        **OUTCOME,
        "title": "later",
        "prediction": {
            **OUTCOME["prediction"],
            "direction": "up",
            "confirmed": True,
            "change": 2.05,
            "measured": 1.5,
        },
        "verdict": {"name": "confirmed", "text": "confirmed"},
    }
    graph["outcomes"] = [OUTCOME, up]
    page.route("**/api/graphs/with-outcomes", lambda route: route.fulfill(json=graph))
    page.goto(f"{server.url}#g=with-outcomes")
    verdict = page.locator(".verdict")
    verdict.wait_for()
    agree(
        lambda: page.get_by_label("Outcomes").locator("option").all_inner_texts(),
        ["2. later", "1. capital × −1"],
    )
    assert "rises" in verdict.inner_text() and "Confirmed" in verdict.inner_text()
    page.get_by_label("Outcomes").select_option("1")
    wait_for(lambda: "Refuted" in verdict.inner_text())
    told = verdict.inner_text()
    assert "falls" in told and "−2.05" in told and "−0.01" in told and "beyond 0.1" in told
    assert "3 random" in told and "+0.10" in told and verdict.locator(".mark.random").count() == 3
    measures = page.locator(".measures").inner_text()
    assert "Ahead of ·Texas" in measures and "+6.04" in measures and "+5.50" in measures
    page.unroute_all(behavior="ignoreErrors")


def test_cards_lie_where_they_were_put(opened: Any, node: Any) -> None:
    click(opened, node("Texas"), "Control")
    card = opened.locator(".card")
    before = card.bounding_box()
    opened.mouse.move(before["x"] + 20, before["y"] + 10)
    opened.mouse.down()
    with opened.expect_response("**/layout"):
        opened.mouse.move(before["x"] - 80, before["y"] - 30, steps=4)
        opened.mouse.up()
    put = card.bounding_box()
    opened.reload()
    opened.wait_for_selector(".card")
    wait_for(
        lambda: abs(card.bounding_box()["x"] - put["x"]) < 2 and abs(card.bounding_box()["y"] - put["y"]) < 2
    )
    opened.get_by_role("button", name="Arrange").click()
    wait_for(lambda: abs(card.bounding_box()["x"] - before["x"]) < 2)


def test_graphs_are_renamed_deleted_and_brought_back(page: Any, server: Any) -> None:
    made = make_graph(layers=3, features=24, dictionary="tiny/clt", slug="to-delete")
    made["metadata"]["prompt"] = "a prompt to delete"
    slug = server.add(made)
    page.goto(f"{server.url}#g={slug}")
    page.wait_for_selector(".stage g.node")
    page.get_by_role("button", name="Library").click()
    page.get_by_role("button", name="Rename a prompt to delete").click()
    page.get_by_label("Title").fill("a better title")
    page.keyboard.press("Enter")
    row = page.locator("dialog .library li", has_text="a better title")
    row.wait_for()
    row.get_by_role("button", name="Delete").click()
    wait_for(lambda: page.locator(".notice").inner_text().startswith("Deleted “a better title”"))
    agree(lambda: row.count(), 0)
    agree(lambda: page.locator(".stage").count(), 0, "the deleted graph is closed")
    page.get_by_role("button", name="Undo", exact=True).click()
    row.wait_for()
    page.keyboard.press("Escape")
    entry = page.locator(".start .library li", has_text="a better title")
    entry.wait_for()
    entry.locator(".open").click()
    page.wait_for_selector(".stage g.node")


def test_equal_prompts_are_told_apart(page: Any, server: Any) -> None:
    session = server.ask("session")
    session["graphs"] = [
        {"slug": "a", "prompt": "the same", "created": "2026-01-05T10:00:00Z"},
        {"slug": "b", "prompt": "the same", "created": "2026-01-05T11:00:00Z"},
    ]
    page.route("**/api/session", lambda route: route.fulfill(json=session))
    page.goto(server.url)
    page.wait_for_selector(".library li")
    names = page.locator(".library .open bdi").all_inner_texts()
    assert len(set(names)) == 2 and all(name.startswith("the same (") for name in names)
    page.unroute_all(behavior="ignoreErrors")


def test_two_tabs_stay_in_step(opened: Any, node: Any) -> None:
    other = opened.context.new_page()
    try:
        other.goto(opened.url)
        other.wait_for_selector(".stage g.node")
        click(opened, node("Texas"), "Control")
        wait_for(lambda: other.locator(".card").count() == 1)
        click(other, node("capital"), "Control")
        wait_for(lambda: opened.locator(".card").count() == 2)
        click(other, node("say Austin"))
        field = other.get_by_label("Label of the feature")
        field.fill("heard in the other tab")
        field.press("Enter")
        shown = opened.locator(f'.stage g.node[data-id="{node("say Austin")}"]')
        wait_for(lambda: "heard in the other tab" in shown.get_attribute("aria-label"))
        field.fill("say Austin")
        field.press("Enter")
        wait_for(lambda: "Feature say Austin" in shown.get_attribute("aria-label"))
    finally:
        other.close()


def test_a_change_beyond_ten_times_warns_first(real: Any) -> None:
    real.get_by_label("Strength as a number").fill("10")
    assert real.locator(".warning").count() == 0
    real.get_by_label("Strength as a number").fill("1000000")
    wait_for(
        lambda: (
            "1,000,000 times" in real.locator(".warning").inner_text()
            or "10" in real.locator(".warning").inner_text()
        )
    )
    assert real.locator(".run").inner_text() == "Run all the same"
    real.get_by_role("radio", name="Set").click()
    real.get_by_label("Strength as a number").fill(str(11 * abs(real.feature["activation"])))
    agree(lambda: real.locator(".warning").count(), 1)
    real.get_by_label("Strength as a number").fill(str(9 * abs(real.feature["activation"])))
    agree(lambda: real.locator(".warning").count(), 0)


def test_an_intervention_shows_progress_and_can_be_cancelled(real: Any) -> None:
    real.expected_errors = ["ERR_ABORTED", "ERR_FAILED"]
    real.route("**/api/intervene", lambda route: None)
    real.locator(".run").click()
    real.locator(".bench [role=progressbar]").wait_for()
    real.get_by_role("button", name="Cancel").click()
    wait_for(lambda: "cancelled" in real.locator(".notice").inner_text())
    assert real.locator(".outcome").count() == 0 and real.locator(".run").is_enabled()


def test_events_of_an_intervention_are_followed(real: Any) -> None:
    told = 'event: progress\ndata: {"stage": "writing", "done": 3, "total": 40}\n\n'
    body = f"{told}event: outcome\ndata: {json.dumps(OUTCOME)}\n\n"
    real.route(
        "**/api/intervene",
        lambda route: route.fulfill(body=body, headers={"Content-Type": "text/event-stream"}),
    )
    real.locator(".run").click()
    real.locator(".outcome").wait_for()
    assert "Refuted" in real.locator(".verdict").inner_text()


def test_an_upload_shows_life_at_once(page: Any, server: Any) -> None:
    def slow(route: Any) -> None:
        if route.request.method == "POST":
            time.sleep(0.6)
        route.continue_()

    page.route("**/api/graphs", slow)
    page.goto(server.url)
    page.wait_for_selector(".start")
    graph = make_graph(layers=3, features=24, slug="slow")
    page.evaluate("""() => { window.told = []; new MutationObserver(() => { const p = document.querySelector('.loading p');
      if (p) window.told.push(p.textContent); }).observe(document.body, { subtree: true, childList: true }); }""")
    content = json.dumps(graph).encode()
    page.locator("#file").first.set_input_files(
        [{"name": "slow.json", "mimeType": "application/json", "buffer": content}]
    )
    page.wait_for_selector(".stage g.node")
    assert any("slow.json" in text for text in page.evaluate("window.told"))
    agree(lambda: page.locator(".loading p").count(), 0)
    page.unroute_all(behavior="ignoreErrors")


def test_tracing_can_be_cancelled(page: Any, server: Any) -> None:
    page.expected_errors = ["ERR_ABORTED", "ERR_FAILED"]
    page.route("**/api/trace", lambda route: None)
    page.goto(server.url)
    page.wait_for_selector(".start")
    page.get_by_label("Prompt").fill("a long one")
    page.get_by_role("button", name="Trace", exact=True).click()
    page.locator(".prompt [role=progressbar]").wait_for()
    page.get_by_role("button", name="Cancel").click()
    wait_for(lambda: "cancelled" in page.locator(".notice").inner_text())
    assert page.get_by_role("button", name="Trace", exact=True).is_enabled()
    page.unroute_all(behavior="ignoreErrors")
