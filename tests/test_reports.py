"""The report: complete, harmless whatever text it holds, and really a page when opened from disk."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_microscope import N_FEATURES, tiny_microscope
from thoughtscope.atlas import MadeLabel
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.ids import feature_number, place_of_number
from thoughtscope.core.labels import LabelStore
from thoughtscope.graphs import Graph, feature_key, graph_to_json, group
from thoughtscope.interventions import Outcome, intervene, plan
from thoughtscope.microscope import tokens_of, trace
from thoughtscope.reports import Report, build_report
from thoughtscope.reports.report import embed_json

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"> & \u2028 <!--'


class TinyBank:
    """Examples for every feature, with text that tries to break out."""

    def detail(self, layer: int, index: int) -> dict[str, Any]:
        example = {
            "tokens": ["a ", EVIL],
            "tokens_acts_list": [0.0, 1.5],
            "train_token_ind": 1,
            "is_repeated_datapoint": False,
        }
        return {
            "examples_quantiles": [{"quantile_name": "Top", "examples": [example]}],
            "top_logits": [EVIL], "bottom_logits": ["b"], "act_min": 0.0, "act_max": 1.5, "quantile_values": [0.0, 1.5],
            "histogram": [3, 1], "activation_frequency": 0.25,
        }  # fmt: skip

    def auto_label(self, layer: int, index: int) -> str | None:
        return f"auto {layer}.{index}"

    def made_label(self, layer: int, index: int) -> MadeLabel:
        return MadeLabel(
            text=EVIL, author=EVIL, side="input", figures={"f1": 0.5, "unigram_f1": 0.25, "n": 12}
        )


def peoples_labels() -> LabelStore:
    """Every feature with an odd index has a name."""
    store = LabelStore()
    store.adopt(
        "tiny/clt", {f"{layer}/{index}": EVIL for layer in range(3) for index in range(1, N_FEATURES, 2)}
    )
    return store


@pytest.fixture(scope="module")
def graph() -> Graph:
    graph = trace(tiny_microscope(bank=TinyBank()), f"Hi {EVIL[:24]}")
    features = [str(node) for node in graph.node_ids() if node.kind == "feature"]
    return group(graph, {EVIL: features[:2]})


@pytest.fixture(scope="module")
def outcome(graph: Graph) -> Outcome:
    microscope = tiny_microscope()
    tokens = tokens_of(microscope, graph.prompt)
    return intervene(
        microscope.model, microscope.dictionary, tokens, plan(graph, EVIL, scale=-1), max_new_tokens=2
    )


@pytest.fixture(scope="module")
def report(graph: Graph, outcome: Outcome) -> Report:
    return build_report(graph, bank=TinyBank(), labels=peoples_labels(), outcomes=[outcome], title=EVIL)


def embedded(page: str) -> Any:
    return json.loads(
        re.search(r'<script type="application/json" id="thoughtscope-data">(.*?)</script>', page)[1]
    )


def test_the_page_holds_the_data_unchanged(report: Report, graph: Graph) -> None:
    data = embedded(report.html)
    assert data == json.loads(json.dumps(report.data))
    assert data["title"] == EVIL and data["graph"]["metadata"]["prompt"] == graph.prompt
    kinds = [node["feature_type"] for node in data["graph"]["nodes"]]
    assert len(data["graph"]["nodes"]) == len(graph)
    assert 0 < len(data["features"]) <= kinds.count("cross layer transcoder")
    assert data["outcomes"][0]["label"] == EVIL


def test_a_persons_label_has_its_place_over_the_banks(report: Report, graph: Graph) -> None:
    for node in report.data["graph"]["nodes"]:
        key = feature_key(node)
        if key is not None:
            layer, index = map(int, key.split("/"))
            assert node["clerp"] == (EVIL if index % 2 else f"auto {layer}.{index}")


def test_the_outcome_names_nodes_of_the_graph(report: Report, graph: Graph) -> None:
    ids = {node["node_id"] for node in report.data["graph"]["nodes"]}
    for row in report.data["outcomes"][0]["feature_changes"]:
        expected = f"{row['layer']}_{row['index']}_{row['position']}"
        assert row["node_id"] == (expected if expected in ids else None)


def test_the_circuits_scores_are_those_of_its_groups_alone(report: Report, graph: Graph) -> None:
    from thoughtscope.graphs import score

    members = [member for each in graph.supernodes for member in each.members]
    wanted, found = score(graph, members), report.data["circuit"]
    assert found["replacement"] == pytest.approx(wanted.replacement, abs=1e-6)
    assert found["completeness"] == pytest.approx(wanted.completeness, abs=1e-6)
    assert found["replacement"] != pytest.approx(graph.scores.replacement, abs=1e-6)
    groups = {name for _, *names in report.data["graph"]["qParams"]["supernodes"] for name in names}
    assert groups <= set(found["nodes"]) <= groups | set(report.data["graph"]["qParams"]["pinnedIds"])


def test_nothing_in_the_data_can_leave_its_element(report: Report) -> None:
    page = report.html
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    assert f"<title>{html.escape(EVIL)}" in page


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028\u2029", "&lt;", "é 北京 👩‍🔬", '"\\'])
def test_embedding_keeps_the_data_and_no_markup(text: str) -> None:
    whole = embed_json({text: [text]})
    assert json.loads(whole) == {text: [text]}
    assert not set("<>&\u2028\u2029") & set(whole)
    with pytest.raises(ValueError, match="JSON compliant"):
        embed_json([float("nan")])


def test_the_page_needs_nothing_from_elsewhere(report: Report) -> None:
    page = report.html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert (
        "default-src 'none'" in policy
        and "script-src 'sha256-" in policy
        and "unsafe-inline" not in policy.split("style-src")[0]
    )
    assert not re.search(r"<(?:link|img|iframe|object)\b|<script[^>]*\bsrc=", page)
    assert "http://" not in page.replace("http://www.w3.org/", "")


def test_saving_writes_the_page_and_its_data(report: Report, tmp_path: Path) -> None:
    path = report.save(tmp_path / "deep" / "page.html")
    assert path.read_text(encoding="utf-8") == report.html
    assert json.loads(path.with_suffix(".data.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(report.data)
    )
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["page.data.json", "page.html"]
    with pytest.raises(ThoughtscopeError, match=r"\.html"):
        report.save(tmp_path / "page.txt")


def test_a_graph_file_is_a_graph_too(graph: Graph) -> None:
    file = graph_to_json(graph, slug="mine")
    data = build_report(file).data
    assert data["graph"]["nodes"] == file["nodes"] and data["features"] == {} and data["outcomes"] == []


def test_a_report_names_model_and_dictionary_of_a_file_that_does_not() -> None:
    microscope = tiny_microscope()
    file = graph_to_json(trace(microscope, "Hi"))
    del file["metadata"]["thoughtscope"]
    about = build_report(file, model=microscope.model, dictionary=microscope.dictionary).data["graph"][
        "metadata"
    ]["thoughtscope"]
    assert about["model"] == "random-llama" and about["dictionary"] == "tiny/clt"


def test_numbers_of_features_come_apart_as_they_were_put_together() -> None:
    pairs = [(layer, index) for layer in (0, 1, 7, 61) for index in (0, 1, N_FEATURES, 16_383, 10**6)]
    for layer, index in pairs:
        assert place_of_number(feature_number(layer, index)) == (layer, index)


@pytest.mark.browser
def test_the_report_opens_from_disk(report: Report, tmp_path: Path) -> None:
    """The graph is drawn, a click opens a feature with its examples, nothing escapes, nothing is asked of the network."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    path = report.save(tmp_path / "a report.html")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector(".stage [data-id]", timeout=20_000)
        drawn = page.locator(".stage [data-id]").count()
        name = next(node["node_id"] for node in report.data["graph"]["nodes"] if feature_key(node))
        page.locator(f'.stage [data-id="{name}"]').dispatch_event("click")
        page.wait_for_timeout(300)
        title = page.title()
        browser.close()
    assert drawn > 10
    assert said == []
    assert title.startswith("Hi ") and "owned" not in title.split("<")[0]
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"} and len(
        [url for url in asked if url.startswith("file")]
    ) == 1
