"""Groups that a rule has named, arrows with their weights, scores of the circuit, and prompts without a beginning."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.browser.fixture_graph import make_graph
from tests.browser.gestures import agree, wait_for

WHY = "Named by rule, from the features that are active at “Dallas”."


@pytest.fixture
def named(page: Any, server: Any) -> Any:
    """The page with a graph that opens with two groups, one of them named by rule."""
    graph = make_graph(layers=3, features=24, dictionary="tiny/clt", slug="named")
    groups = {
        label: [node["node_id"] for node in graph["nodes"] if node["clerp"] == label]
        for label in ("Texas", "say Austin")
    }
    graph["qParams"] = {
        "supernodes": [[label, *members] for label, members in groups.items()],
        "pinnedIds": [],
    }
    page.slug = graph["metadata"]["slug"] = server.add(graph)
    page.groups, page.links = groups, graph["links"]
    told = server.ask(f"graphs/{page.slug}")
    told["named_by_rule"] = [{"label": "Texas", "members": groups["Texas"], "why": WHY}]
    page.route(f"**/api/graphs/{page.slug}", lambda route: route.fulfill(json=told))
    page.goto(f"{server.url}#g={page.slug}")
    page.wait_for_selector(".card.group")
    yield page
    page.unroute_all(behavior="ignoreErrors")


def test_a_name_by_rule_says_so_until_a_person_changes_it(named: Any) -> None:
    agree(lambda: named.locator(".card.by-rule").count(), 1)
    card = named.locator('.card[data-id="group:Texas"]')
    assert "rule" in card.text_content() and WHY in card.locator("span").get_attribute("title")
    card.click()
    agree(lambda: named.locator(".rule").inner_text(), WHY)
    field = named.get_by_label("Name of the supernode")
    field.fill("Lone Star")
    field.press("Enter")
    agree(lambda: named.locator(".card.by-rule").count(), 0)
    assert named.locator(".rule").count() == 0
    named.get_by_role("button", name="Undo").click()
    agree(lambda: named.locator(".card.by-rule").count(), 1)
    named.get_by_label("Ungroup Texas").click(force=True)
    agree(lambda: named.locator(".card.group").count(), 1)


def test_arrows_say_the_sum_of_their_edges(named: Any) -> None:
    texas, austin = named.groups["Texas"], named.groups["say Austin"]
    weight = sum(
        each["weight"] for each in named.links if each["source"] in texas and each["target"] in austin
    )
    text = named.locator(".arrow-weight").first
    text.wait_for()
    assert float(text.text_content().replace("−", "-")) == pytest.approx(weight, abs=0.006)


def test_the_circuits_scores_are_the_servers(named: Any, server: Any) -> None:
    nodes = [node for members in named.groups.values() for node in members]
    found = server.ask(f"graphs/{named.slug}/score", {"nodes": nodes})
    wanted = [f"{found[name]:.2f}" for name in ("replacement", "completeness")]
    agree(lambda: named.locator(".circuit-panel header small b").all_inner_texts(), wanted)


def test_a_missing_beginning_is_shown_and_can_be_put(page: Any, server: Any, traced: str) -> None:
    asked: list[Any] = []

    def answer(route: Any) -> None:
        asked.append(json.loads(route.request.post_data))
        said = [] if asked[-1].get("bos") else ["The prompt begins with 'ab'."]
        event = json.dumps({"slug": traced, "warnings": said})
        route.fulfill(body=f"event: graph\ndata: {event}\n\n", headers={"Content-Type": "text/event-stream"})

    page.route("**/api/trace", answer)
    page.goto(server.url)
    page.get_by_label("Prompt").fill("ab cd")
    page.get_by_role("button", name="Trace", exact=True).click()
    warning = page.locator(".prompt-warning")
    warning.wait_for()
    assert "begins with 'ab'" in warning.inner_text()
    warning.get_by_role("button", name="Trace with a beginning token").click()
    wait_for(lambda: len(asked) == 2)
    plain = {"prompt": "ab cd", "snapshots": True}
    assert asked == [plain, plain | {"bos": True}]
    agree(lambda: warning.count(), 0)
    page.unroute_all(behavior="ignoreErrors")


def test_a_costly_trace_is_asked_for(page: Any, server: Any, traced: str) -> None:
    """The dialog says what it takes; a cancel sends nothing, a yes sends the same prompt with its word for it."""
    asked: list[Any] = []
    price = {"n_nodes": 9_876, "n_edges": 12_345_678, "memory": 3_400_000_000, "device_memory": 0,
             "file": 150_000_000, "seconds": 130.0}  # fmt: skip

    def answer(route: Any) -> None:
        asked.append(json.loads(route.request.post_data))
        error = json.dumps({"error": {"code": "costly", "message": "large", "price": price}})
        event = json.dumps({"slug": traced, "warnings": []})
        said = f"event: graph\ndata: {event}" if asked[-1].get("costly") else f"event: error\ndata: {error}"
        route.fulfill(body=f"{said}\n\n", headers={"Content-Type": "text/event-stream"})

    page.route("**/api/trace", answer)
    page.goto(server.url)
    page.get_by_label("Prompt").fill("ab cd")
    dialog = page.get_by_role("dialog", name="A large graph")
    for button in ("Cancel", "Trace it"):
        page.get_by_role("button", name="Trace", exact=True).click()
        dialog.wait_for()
        told = dialog.inner_text()
        for figure in ("9,876", "up to 12,345,678", "about 3.4 GB", "about 2 min", "about 150 MB"):
            assert figure in told
        dialog.get_by_role("button", name=button).click()
        wait_for(lambda: dialog.count() == 0)
    wait_for(lambda: len(asked) == 3)
    plain = {"prompt": "ab cd", "snapshots": True}
    assert asked == [plain, plain, plain | {"costly": True}]
    page.unroute_all(behavior="ignoreErrors")
