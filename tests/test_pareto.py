"""The page of dictionaries by sparsity and fidelity: its data, and what a browser makes of it."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import pytest

from tests.browser.conftest import FLAGS, find_chromium
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.dictionaries import DictionaryScores
from thoughtscope.reports import ParetoPage, ParetoPoint, pareto_page


def point(name: str, l0: float, fvu: float, kl: float = 0.5) -> ParetoPoint:
    values = {field.name: 0.25 for field in fields(DictionaryScores)}
    values |= {name: {"a": 0.5} for name in values if name.endswith(("_by_site", "_by_part"))}
    values |= {"n_tokens": 9, "densities": {"a": (1, 2)}, "l0": l0, "fvu": fvu, "kl": kl}
    return ParetoPoint(
        name=name, kind="sparse autoencoder", n_features=1536, scores=DictionaryScores(**values)
    )


POINTS = (
    point("sparse", 8.0, 0.30), point("beaten", 9.0, 0.31), point("</script><b>middle</b>", 20.0, 0.1, math.nan),
    point("like middle", 20.0, 0.1), point("dense", 200.0, 0.05), point("as dense, worse", 200.0, 0.06),
)  # fmt: skip


def test_points_go_to_json_and_back() -> None:
    for one in POINTS:
        again = ParetoPoint.from_json(json.loads(json.dumps(one.to_json())))
        assert again == one or (
            math.isnan(again.scores.kl) and math.isnan(one.scores.kl) and again.name == one.name
        )


def test_the_page_is_saved_with_its_data(tmp_path: Path) -> None:
    page = pareto_page(POINTS, title="All of them")
    path = page.save(tmp_path / "deep" / "pareto.html")
    assert json.loads(path.with_suffix(".data.json").read_text()) == page.data
    assert (
        path.read_text() == page.html and "<b>middle" not in page.html and "script-src 'sha256-" in page.html
    )
    assert "curve.js" not in page.html  # only what this page imports
    with pytest.raises(ThoughtscopeError, match=r"\.html"):
        page.save(tmp_path / "page.txt")
    with pytest.raises(ThoughtscopeError, match="no dictionary"):
        pareto_page([])


@pytest.mark.browser
def test_the_front_and_the_table_are_drawn(tmp_path: Path) -> None:
    """Hovering names a point; sorting and other axes rearrange; what is unknown is left out of the figure, not the table."""
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    path = ParetoPage(title="All of them", points=POINTS).save(tmp_path / "pareto.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("circle", timeout=20_000)
        assert page.locator("circle").count() == 6
        names = page.locator("tbody tr.best th").all_inner_texts()
        assert names == ["sparse", "</script><b>middle</b>", "like middle", "dense"]
        page.locator("circle").nth(0).dispatch_event("mouseenter")
        assert page.locator(".label-name").text_content() == "sparse"
        assert page.locator("tbody tr.over th").all_inner_texts() == ["sparse"]
        page.get_by_role("button", name="FVU").click()
        assert page.locator("tbody th").first.inner_text() == "dense"
        page.get_by_label("up").select_option("kl")
        assert page.locator("circle").count() == 5 and page.locator("tbody tr").count() == 6
        page.get_by_label("theme").select_option("dark")
        page.wait_for_selector("html[data-theme=dark]", state="attached")
        browser.close()
    assert said == []
