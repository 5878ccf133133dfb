"""Arranging a circuit: pins, marks, supernodes, undo, labels; and that the server keeps them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.gestures import agree, at, centre, click, wait_for


def cards(page: Any) -> list[str]:
    return [text.strip() for text in page.locator(".circuit .card-text > span").all_text_contents()]


def pins(page: Any) -> set[str]:
    return set(page.eval_on_selector_all(".stage g.node.pinned", "nodes => nodes.map(n => n.dataset.id)"))


def make_group(page: Any, name: str, *members: str) -> None:
    for member in members:
        click(page, member, "Shift")
    page.keyboard.press("g")
    page.locator("#group-name").fill(name)
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog", state="detached")


def test_three_ways_to_pin_and_to_unpin(opened: Any, node: Any) -> None:
    a, b, c = node("Texas"), node("capital"), node("say Austin")
    click(opened, a)
    opened.get_by_role("button", name="Pin", exact=True).click()
    click(opened, b, "Control")
    opened.mouse.move(*centre(opened, c))
    opened.keyboard.press("p")
    agree(lambda: (pins(opened), sorted(cards(opened))), ({a, b, c}, ["Texas", "capital", "say Austin"]))
    opened.mouse.move(*centre(opened, c))
    opened.keyboard.press("p")
    opened.locator(f'.card[data-id="{b}"]').hover()
    opened.get_by_role("button", name="Unpin capital").click()
    agree(lambda: pins(opened), {a})


def test_the_circuit_says_how_much_it_explains(opened: Any, node: Any) -> None:
    wait_for(lambda: "The circuit is empty" in opened.locator(".circuit-panel").inner_text())
    click(opened, node("say Austin"), "Control")
    few = float(opened.locator(".circuit-panel small b").nth(1).inner_text())
    click(opened, node("Texas", 3), "Control")
    click(opened, node("say a capital"), "Control")
    more = float(opened.locator(".circuit-panel small b").nth(1).inner_text())
    assert 0 <= few <= 1 and 0 <= more <= 1 and few != more


def test_grouping_adds_up_the_edges(opened: Any, graph: dict[str, Any], node: Any) -> None:
    features = {n["node_id"] for n in graph["nodes"] if n["feature_type"] == "cross layer transcoder"}
    members = [
        link["source"]
        for link in graph["links"]
        if link["target"] == node("say Austin") and link["source"] in features
    ][:2]
    click(opened, node("say Austin"), "Control")
    make_group(opened, "Texas", *members)
    agree(lambda: sorted(cards(opened)), ["Texas", "say Austin"])
    agree(lambda: opened.locator(".card.group .card-text small").inner_text(), "2")
    links = [
        link for link in graph["links"] if link["source"] in members and link["target"] == node("say Austin")
    ]
    weight = sum(link["weight"] for link in links)
    title = opened.locator(".arrow title").text_content().replace("−", "-")
    assert float(title.split(": ")[1].split(",")[0]) == pytest.approx(weight, abs=0.006)
    everything = sum(abs(link["weight"]) for link in graph["links"] if link["target"] == node("say Austin"))
    assert float(title.split(", ")[1].split(" %")[0]) == pytest.approx(
        100 * abs(weight) / everything, abs=0.51
    )


def test_pinned_nodes_are_grouped_when_nothing_is_marked(opened: Any, node: Any) -> None:
    for number in range(2):
        click(opened, node("capital", number), "Control")
    click(opened, node(" Dallas"), "Control")
    opened.get_by_role("button", name="Group 2 pinned").click()
    agree(lambda: opened.locator("#group-name").input_value(), "capital", "the common label is suggested")
    opened.keyboard.press("Enter")
    agree(lambda: sorted(cards(opened)), ["capital", "·Dallas"], "tokens are not swept into a supernode")


def test_a_supernode_can_be_selected_renamed_and_ungrouped(opened: Any, node: Any) -> None:
    members = [node("Texas", 0), node("Texas", 1)]
    make_group(opened, "state", *members)
    agree(lambda: opened.locator(".members .connection").count(), 2)
    assert all("selected" in at(opened, member).get_attribute("class") for member in members)
    name = opened.get_by_label("Name of the supernode")
    name.fill("Texas, the state")
    name.press("Enter")
    agree(lambda: cards(opened), ["Texas, the state"])
    assert "s=group:Texas" in opened.url.replace("%3A", ":")
    opened.get_by_role("button", name="Ungroup", exact=True).first.click()
    agree(lambda: sorted(cards(opened)), ["Texas", "Texas"], "its members stay pinned")


def test_two_supernodes_cannot_share_a_name(opened: Any, node: Any) -> None:
    make_group(opened, "one", node("Texas", 0))
    make_group(opened, "two", node("Texas", 1))
    name = opened.get_by_label("Name of the supernode")
    name.fill("one")
    name.press("Enter")
    wait_for(lambda: "already a supernode" in opened.locator(".notice").inner_text())
    agree(lambda: sorted(cards(opened)), ["one", "two"])


def test_marks_are_toggled_and_cleared(opened: Any, node: Any) -> None:
    click(opened, node("Texas"), "Shift")
    click(opened, node("capital"), "Shift")
    click(opened, node("Texas"), "Shift")
    opened.mouse.move(*centre(opened, node("say Austin")))
    opened.keyboard.press("m")
    agree(lambda: opened.locator(".stage g.node.marked").count(), 2)
    opened.keyboard.press("Escape")
    agree(lambda: opened.locator(".stage g.node.marked").count(), 0)


def test_undo_and_redo_step_through_edits(opened: Any, node: Any) -> None:
    click(opened, node("Texas"), "Control")
    make_group(opened, "city", node("Dallas"))
    opened.locator("#prune").fill("60")
    opened.locator("h2", has_text="Circuit").click()
    opened.keyboard.press("Control+z")
    agree(lambda: opened.locator("#prune").input_value(), "100")
    opened.keyboard.press("Control+z")
    agree(lambda: cards(opened), ["Texas"])
    opened.get_by_role("button", name="Undo").click()
    agree(lambda: cards(opened), [])
    assert opened.get_by_role("button", name="Undo").is_disabled()
    opened.keyboard.press("Control+Shift+z")
    opened.get_by_role("button", name="Redo").click()
    agree(lambda: sorted(cards(opened)), ["Texas", "city"])


def test_cards_are_dragged_and_the_circuit_enlarged(opened: Any, node: Any) -> None:
    click(opened, node("Texas"), "Control")
    card = opened.locator(".card")
    before = card.bounding_box()
    opened.mouse.move(before["x"] + 20, before["y"] + 10)
    opened.mouse.down()
    opened.mouse.move(before["x"] - 80, before["y"] - 30, steps=4)
    opened.mouse.up()
    after = card.bounding_box()
    assert after["x"] < before["x"] - 60 and after["y"] < before["y"] - 20
    agree(lambda: opened.locator(".card.selected").count(), 0, "a drag is not a click")
    card.click()
    agree(lambda: at(opened, node("Texas")).get_attribute("aria-pressed"), "true")
    height = opened.locator(".circuit-panel").bounding_box()["height"]
    opened.get_by_role("button", name="Larger circuit").click()
    assert opened.locator(".circuit-panel").bounding_box()["height"] > height + 50


def test_the_server_keeps_pins_and_supernodes(
    opened: Any, server: Any, graph: dict[str, Any], node: Any
) -> None:
    slug = graph["metadata"]["slug"]
    click(opened, node("say Austin"), "Control")
    make_group(opened, "Texas", node("Texas", 0), node("Texas", 1))
    wait_for(
        lambda: (
            server.ask(f"graphs/{slug}")["qParams"]["supernodes"]
            == [["Texas", node("Texas", 0), node("Texas", 1)]]
        )
    )
    assert set(server.ask(f"graphs/{slug}")["qParams"]["pinnedIds"]) == {
        node("say Austin"),
        node("Texas", 0),
        node("Texas", 1),
    }
    opened.goto("about:blank")
    opened.goto(f"{server.url}#g={slug}")
    opened.wait_for_selector(".card.group")
    agree(lambda: sorted(cards(opened)), ["Texas", "say Austin"])


def test_a_label_is_edited_undone_and_kept(opened: Any, server: Any, node: Any) -> None:
    layer, index, _ = node("say Austin").split("_")
    click(opened, node("say Austin"))
    field = opened.get_by_label("Label of the feature")
    field.fill("thrown away")
    field.press("Escape")
    agree(lambda: field.input_value(), "say Austin")
    field.fill("the answer is Austin")
    field.press("Enter")
    shown = at(opened, node("say Austin"))
    wait_for(lambda: shown.get_attribute("aria-label").startswith("Feature the answer is Austin"))
    wait_for(lambda: server.ask(f"features/{layer}/{index}")["label"] == "the answer is Austin")
    opened.keyboard.press("Control+z")
    agree(lambda: field.input_value(), "say Austin")
    opened.keyboard.press("Control+Shift+z")
    agree(lambda: field.input_value(), "the answer is Austin")
    wait_for(lambda: server.ask(f"features/{layer}/{index}")["label"] == "the answer is Austin")


def test_a_malicious_label_stays_text(opened: Any, node: Any) -> None:
    evil = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'
    click(opened, node("Texas"))
    field = opened.get_by_label("Label of the feature")
    field.fill(evil)
    field.press("Enter")
    opened.mouse.move(*centre(opened, node("Texas")))
    wait_for(lambda: "<img src=x" in opened.locator(".tooltip").inner_text())
    make_group(opened, evil, node("Texas"))
    opened.locator("#search").fill("onerror")
    assert opened.locator("#search-list [role=option]").count() >= 1
    assert opened.evaluate("window.hacked") is None and opened.locator("img").count() == 0
