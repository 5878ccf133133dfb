"""What needs the model: tracing a prompt, features up close, interventions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.gestures import agree, at, becomes, click, wait_for


@pytest.fixture
def real(page: Any, server: Any, traced: str) -> Any:
    """The page with a graph of the tiny model open, and one of its features selected."""
    graph = server.ask(f"graphs/{traced}")
    inner = [n for n in graph["nodes"] if n["feature_type"] == "cross layer transcoder"]
    page.feature = min(inner, key=lambda n: n["influence"])
    page.goto(f"{server.url}#g={traced}&s={page.feature['node_id']}")
    page.wait_for_selector(".stage g.node.selected")
    return page


def test_the_empty_page_says_what_to_type(page: Any, server: Any, traced: str) -> None:
    page.goto(server.url)
    page.wait_for_selector(".start .prompts button")
    agree(lambda: page.get_by_label("Prompt").count(), 1)
    assert page.locator(".prompts button", has_text="the sun").count() == 1
    wait_for(lambda: "3 layers" in page.locator(".origin-line").inner_text())
    page.locator(".prompts button", has_text="ab cd").last.click()
    page.wait_for_selector(".stage g.node")
    wait_for(lambda: "#g=" in page.url)


def test_a_prompt_is_traced_with_progress(page: Any, server: Any) -> None:
    page.goto(server.url)
    page.wait_for_selector(".start")
    page.evaluate("""() => { window.stages = new Set(); new MutationObserver(() => { const p = document.querySelector('[role=progressbar]');
      if (p) window.stages.add(p.getAttribute('aria-label')); }).observe(document.body, { subtree: true, childList: true, attributes: true }); }""")
    page.get_by_label("Prompt").fill("a cat")
    page.get_by_role("button", name="Trace", exact=True).click()
    page.wait_for_selector(".stage g.node", timeout=60000)
    agree(
        lambda: page.locator(".overview .prompt-text .token").all_inner_texts()[-5:],
        ["a", "·", "c", "a", "t"],
    )
    assert len(page.evaluate("[...window.stages]")) >= 2, "the stages are told while it works"
    agree(lambda: page.locator("#prompt").input_value(), "a cat")
    assert page.get_by_label("Graphs").input_value() in page.url
    page.locator("#prompt").fill("a dog")
    page.locator("#prompt").press("Enter")
    becomes(page, "document.title.startsWith('a dog')")
    page.go_back()
    becomes(page, "document.title.startsWith('a cat')")


def test_the_empty_circuit_suggests_a_first_experiment(page: Any, server: Any, traced: str) -> None:
    page.goto(f"{server.url}#g={traced}")
    suggestion = page.locator(".suggestion")
    suggestion.wait_for()
    number = int(suggestion.inner_text().split()[2])
    suggestion.click()
    agree(lambda: int(page.locator(".card.group .card-text small").inner_text()), number)
    page.locator(".run").click()
    page.locator(".outcome").wait_for(timeout=60000)
    page.get_by_role("button", name="Undo").click()
    suggestion.wait_for()


def test_a_prompt_that_is_too_long_is_refused_in_words(page: Any, server: Any) -> None:
    page.expected_errors = ["422", "413", "400"]
    page.goto(server.url)
    page.wait_for_selector(".start")
    page.get_by_label("Prompt").fill("ab " * 60)
    page.get_by_role("button", name="Trace", exact=True).click()
    message = page.locator(".prompt-error")
    message.wait_for(timeout=30000)
    assert "48" in message.inner_text(), "the limit is named"
    message.get_by_label("Dismiss").click()
    assert message.count() == 0


def test_a_feature_up_close(real: Any) -> None:
    detail = real.locator(".feature-detail")
    detail.locator(".example").first.wait_for()
    assert detail.locator(".examples section h4").all_inner_texts() == ["Top activations", "Middle"]
    assert detail.locator(".example").count() == 5
    shades = detail.locator(".example").first.locator("span[style]")
    assert 4 <= shades.count() <= 5 and shades.first.get_attribute("title")
    colours = shades.evaluate_all("spans => spans.map(s => getComputedStyle(s).backgroundColor)")
    assert len(set(colours)) > 2, "stronger activations are darker"
    assert detail.locator(".histogram rect").count() == 30 and detail.locator(".histogram line").count() == 1
    assert (
        "·Austin" in detail.locator(".logits.raises").inner_text()
        and "·Ohio" in detail.locator(".logits.lowers").inner_text()
    )
    assert (
        real.locator(".name-field").get_attribute("placeholder")
        or real.locator(".name-field").input_value() == "Texas places"
    )


def test_a_label_is_there_after_a_reload(real: Any) -> None:
    field = real.get_by_label("Label of the feature")
    field.fill("my own label")
    with real.expect_response("**/api/labels/**"):
        field.press("Enter")
    real.reload()
    real.wait_for_selector(".stage g.node.selected")
    assert real.get_by_label("Label of the feature").input_value() == "my own label"


def test_an_intervention_shows_before_and_after(real: Any) -> None:
    real.get_by_label("Strength as a number").fill("-4")
    real.locator(".run").click()
    outcome = real.locator(".outcome")
    outcome.wait_for(timeout=60000)
    rows = outcome.locator(".before-after tbody tr")
    assert rows.count() >= 4
    shares = [
        float(text.split()[0].strip("<"))
        for text in outcome.locator(".share-bar span").all_inner_texts()
        if text != "–"
    ]
    assert all(0 <= share <= 100 for share in shares)
    assert float(outcome.locator(".measures dd").first.inner_text()) > 0, "the answer moved"
    assert "→" in outcome.locator(".measures dd").nth(1).inner_text()
    title = outcome.locator(".verdict b").first.inner_text()
    assert title.startswith(("✓ Confirmed", "✗ Refuted", "Right direction", "Nothing to test"))
    assert outcome.locator(".verdict .mark.random").count() in (0, 4)
    assert outcome.locator(".changes .connection").count() > 0
    changed = outcome.locator(".changes .connection:not([disabled])").first
    changed.click()
    assert real.locator(".stage g.node.selected").count() == 1


def test_operations_attention_several_changes_and_a_continuation(real: Any) -> None:
    sent: list[Any] = []
    real.on(
        "request",
        lambda request: (
            sent.append(request.post_data_json) if request.url.endswith("/api/intervene") else None
        ),
    )
    real.get_by_role("radio", name="Ablate").click()
    real.get_by_role("radio", name="free").click()
    real.get_by_label("write").fill("3")
    first = real.feature["node_id"]
    real.get_by_role("button", name="another change").click()
    other = real.locator(
        'section[aria-label="Inputs"] .connection[data-id^="0_"], section[aria-label="Outputs"] .connection[data-id^="1_"]'
    ).first
    second = other.get_attribute("data-id")
    other.click()
    real.get_by_role("radio", name="Set").last.click()
    real.get_by_label("Strength as a number").fill("2.5")
    real.locator(".run").click()
    real.locator(".generation").wait_for(timeout=60000)
    body = sent[-1]
    assert [edit["op"] for edit in body["edits"]] == ["ablate", "set"]
    assert [edit["nodes"] for edit in body["edits"]] == [[first], [second]] and body["edits"][1][
        "value"
    ] == 2.5
    assert body["attention"] == "free" and body["max_new_tokens"] == 3
    tried = real.get_by_label("Outcomes").locator("option").count()
    real.get_by_label("Remove this change").first.click()
    assert real.locator(".edit").count() == 1
    real.get_by_role("radio", name="Add").click()
    real.locator(".run").click()
    becomes(real, "document.querySelector('select[aria-label=Outcomes]').options.length", tried + 1)
    real.get_by_label("Outcomes").select_option("1")
    assert "ablated" in real.get_by_label("Outcomes").locator("option:checked").inner_text()


def test_a_supernode_is_changed_as_one(real: Any, server: Any, traced: str) -> None:
    nodes = [
        n["node_id"]
        for n in server.ask(f"graphs/{traced}")["nodes"]
        if n["feature_type"] == "cross layer transcoder"
    ][:3]
    for name in nodes:
        click(real, name, "Shift")
    real.keyboard.press("g")
    real.locator("#group-name").fill("three")
    real.keyboard.press("Enter")
    with real.expect_request("**/api/intervene") as asked:
        real.locator(".run").click()
    assert sorted(asked.value.post_data_json["edits"][0]["nodes"]) == sorted(nodes)
    real.locator(".outcome").wait_for(timeout=60000)
    assert at(real, nodes[0]).get_attribute("class").count("selected") == 1


def test_nothing_to_change_is_said_and_not_run(real: Any) -> None:
    real.keyboard.press("Escape")
    assert real.locator(".run").is_disabled()
    assert "Select a feature" in real.locator(".bench-edit").inner_text()
