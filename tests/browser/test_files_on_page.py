"""Files in and out: graphs of other tools, broken and malicious files, saving, and the report from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.browser.fixture_graph import make_feature, make_graph
from tests.browser.gestures import agree, at, becomes, click, wait_for


def upload(page: Any, server: Any, name: str, content: bytes) -> None:
    page.goto(server.url)
    page.wait_for_selector(".start")
    page.locator("#file").first.set_input_files(
        [{"name": name, "mimeType": "application/json", "buffer": content}]
    )


def foreign(slug: str) -> dict[str, Any]:
    """As another tool writes it: deeper, without our own fields, jsNodeIds not unique."""
    graph = make_graph(3, slug=slug, dictionary=None)
    for node in graph["nodes"]:
        node["jsNodeId"] = node["node_id"].rsplit("_", 1)[0] + "-0"
    graph["qParams"] = {
        "pinnedIds": [graph["nodes"][12]["node_id"]],
        "supernodes": [["a pair", *(n["node_id"] for n in graph["nodes"][14:16])]],
    }
    return graph


def test_a_graph_of_another_tool_opens(page: Any, server: Any) -> None:
    graph = foreign("from-elsewhere")
    upload(page, server, "elsewhere.json", json.dumps(graph).encode())
    page.wait_for_selector(".stage g.node")
    agree(lambda: page.locator(".stage g.node").count(), len(graph["nodes"]))
    agree(lambda: sorted(page.locator(".card .card-text > span").all_text_contents())[0], "a pair")
    wait_for(lambda: "does not say what its maker left out" in page.locator(".trust").inner_text())
    first = next(n["node_id"] for n in graph["nodes"] if n["clerp"] == "Texas")
    click(page, first)
    wait_for(lambda: "not loaded here" in page.locator(".inspector").inner_text())
    assert "cannot" not in page.locator(".bench").inner_text() and page.locator(".run").count() == 0
    agree(lambda: at(page, first).get_attribute("aria-pressed"), "true")


def test_a_dropped_file_opens(opened: Any) -> None:
    data = opened.evaluate_handle(
        "text => { const d = new DataTransfer(); d.items.add(new File([text], 'dropped.json')); return d; }",
        json.dumps(foreign("dropped")),
    )
    opened.dispatch_event("body", "dragover", {"dataTransfer": data})
    agree(lambda: opened.locator(".drop").count(), 1)
    opened.dispatch_event("body", "drop", {"dataTransfer": data})
    becomes(opened, "location.hash.includes('g=dropped')")
    opened.wait_for_selector(".card.group")


def test_broken_files_are_refused_and_the_page_lives(page: Any, server: Any) -> None:
    page.expected_errors = ["422", "400"]
    broken = {
        "what.json": b"{not json",
        "list.json": b"[1, 2]",
        "half.json": json.dumps({"nodes": [{"node_id": 3}], "links": []}).encode(),
        "far.json": json.dumps({"nodes": [{"node_id": "a", "ctx_idx": 10**9}], "links": []}).encode(),
    }
    for name, content in broken.items():
        upload(page, server, name, content)
        page.wait_for_selector(".notice.error")
        assert len(page.locator(".notice").inner_text()) > 15, name
        assert page.locator(".start").count() == 1
    page.goto(f"{server.url}#g=no-such-graph")
    page.expected_errors.append("404")
    page.wait_for_selector(".notice.error")


def test_a_malicious_file_stays_text(page: Any, server: Any) -> None:
    evil = "<img src=x onerror=window.hacked=1>\u202e"
    graph = foreign("evil")
    graph["metadata"]["prompt"] = evil
    graph["metadata"]["prompt_tokens"][3] = evil
    graph["qParams"]["supernodes"][0][0] = evil
    for node in graph["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            node["clerp"] = evil
    graph["links"].append({"source": "nowhere", "target": graph["nodes"][20]["node_id"], "weight": 1})
    page.expected_errors = ["422"]
    upload(page, server, "evil.json", json.dumps(graph).encode())
    page.wait_for_selector(".stage g.node, .notice.error")
    if page.locator(".stage").count():
        click(page, next(n["node_id"] for n in graph["nodes"] if n["clerp"] == evil))
        assert "‹202E›" in page.locator(".card.group").inner_text()
        assert "\u202e" not in page.locator("main").inner_text(), "direction overrides are made visible"
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0


def test_the_saved_file_holds_the_arrangement(
    opened: Any, graph: dict[str, Any], node: Any, tmp_path: Path
) -> None:
    click(opened, node("Texas"), "Control")
    click(opened, node("capital"))
    field = opened.get_by_label("Label of the feature")
    field.fill("capital city")
    field.press("Enter")
    with opened.expect_download() as download:
        opened.get_by_role("button", name="Save JSON").click()
    download.value.save_as(tmp_path / "saved.json")
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert saved["qParams"]["pinnedIds"] == [node("Texas")]
    assert next(n["clerp"] for n in saved["nodes"] if n["node_id"] == node("capital")) == "capital city"
    assert saved["links"] == graph["links"]


def test_the_report_opens_from_disk(opened: Any, server: Any, node: Any, tmp_path: Path) -> None:
    with opened.expect_download() as download:
        opened.get_by_role("link", name="Report").click()
    path = tmp_path / "report.html"
    download.value.save_as(path)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    opened.wait_for_selector(".stage g.node")
    click(opened, node("Texas"))
    assert opened.locator(".connections .connection").count() > 10
    assert f"s={node('Texas')}" in opened.url
    click(opened, node("capital"), "Control")
    agree(lambda: opened.locator(".card").count(), 1)
    click(opened, node("say Austin"))
    opened.go_back()
    becomes(opened, "document.querySelector('.name-field').value === 'Texas'")
    wait_for(lambda: "read only" in opened.locator(".bench").inner_text())
    assert [url for url in asked if not url.startswith(("file:", "blob:", "data:"))] == [], (
        "a report asks for nothing"
    )


def test_a_report_shows_its_features_and_recorded_interventions(page: Any, tmp_path: Path) -> None:
    from thoughtscope.reports.report import render

    graph = make_graph()
    chosen = next(n for n in graph["nodes"] if n["clerp"] == "Texas")
    layer, index, _ = chosen["node_id"].split("_")
    outcome = {
        "before": {"top": [{"text": " Austin", "probability": 0.62}]}, "after": {"top": [{"text": " Albany", "probability": 0.4}]}, "kl": 1.5,
        "answer": " Austin", "rank_before": 1, "rank_after": 7, "prediction": {"direction": "up", "confirmed": False}, "feature_changes": [],
        "generation_before": " Austin", "generation_after": " Albany", "label": "Texas × -1",
    }  # fmt: skip
    data = {
        "version": "0",
        "title": "t",
        "graph": graph,
        "features": {f"{layer}/{index}": make_feature(int(layer), int(index))},
        "outcomes": [outcome],
    }
    (tmp_path / "report.html").write_text(render("t", data))
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector(".stage g.node")
    assert (
        "Refuted" in page.locator(".verdict").inner_text()
        and "1 → 7" in page.locator(".measures").inner_text()
    )
    agree(lambda: page.get_by_label("Outcomes").locator("option").all_inner_texts(), ["1. Texas × -1"])
    click(page, chosen["node_id"])
    page.locator(".example").first.wait_for()
    agree(lambda: page.locator(".example").count(), 5)
    click(page, next(n["node_id"] for n in graph["nodes"] if n["clerp"] == "capital"))
    page.get_by_text("holds no examples").wait_for()


def test_files_that_were_not_read_are_named(page: Any, server: Any, graph: dict[str, Any]) -> None:
    broken = {"file": "graphs/<i>cut</i>.json", "why": "It is not JSON: it ends after 12 bytes. Remove it."}
    about = {**server.ask("session"), "problems": [broken, {**broken, "file": "labels.json"}]}
    page.route("**/api/session", lambda route: route.fulfill(json=about))
    page.goto(f"{server.url}#g={graph['metadata']['slug']}")
    page.wait_for_selector(".stage g.node")
    wait_for(lambda: "2 files could not be read" in page.locator(".notice").inner_text())
    page.get_by_role("button", name="Which?").click()
    shown = page.get_by_role("dialog", name="Files not read")
    wait_for(lambda: broken["file"] in shown.inner_text() and broken["why"] in shown.inner_text())
    page.keyboard.press("Escape")
    assert page.locator(".notice").count() == 0
    page.get_by_role("button", name="2 files could not be read").click()
    assert shown.locator("li").count() == 2
    page.unroute("**/api/session")
