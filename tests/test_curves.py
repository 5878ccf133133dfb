"""The curves of trainings: what the page holds, that it runs nothing else, and who may read the live one."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.clients import BEARER, TOKEN
from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.reports import build_curves
from thoughtscope.reports.report import hash_source
from thoughtscope.server.access import Access
from thoughtscope.server.curves import create_curves_app, serving_curves
from thoughtscope.training.log import find_runs


def training(folder: Path, n: int, of: int = 4) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"step": s, "n_steps": of, "tokens": 10 * s, "loss": 1 / s, "fvu": 0.5 / s, "l0": 4.0, "dead": 0.0, "tokens_per_second": 7}
        for s in range(1, n + 1)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '[1]\n{"step": 9, "tok')
    return folder


def held(page: str) -> dict:
    found = re.search(r'id="thoughtscope-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_trainings_are_found_and_named_apart(tmp_path: Path) -> None:
    a, b, c = (training(tmp_path / name, 2) for name in ("a/one", "b/one", "b/two"))
    assert find_runs([tmp_path / "b"]) == {"one": b, "two": c}
    assert find_runs([tmp_path]) == {str(a): a, str(b): b, "two": c}
    assert find_runs([c, c]) == {"two": c} and find_runs([tmp_path / "nothing"]) == {}


def test_the_page_holds_the_figures_and_its_one_script_alone(tmp_path: Path) -> None:
    name = 'evil"></script><script>alert(1)</script>'.replace("/", "_")
    curves = build_curves({name: training(tmp_path / "a", 3), "done": training(tmp_path / "b", 4)})
    page = curves.save(tmp_path / "out" / "curves.html").read_text()
    one, done = held(page)["runs"]
    assert one["name"] == name and (one["done"], one["finished"]) == (0.75, False) and done["finished"]
    assert one["points"]["tokens"] == [10, 20, 30] and one["points"]["fvu"] == pytest.approx(
        [0.5, 0.25, 0.5 / 3]
    )
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1 and hash_source(scripts[0]) in page and "alert" not in scripts[0]
    assert page.count("<script") == 2 and "default-src 'none'" in page
    assert not re.findall(r"""(?:src|href)=["']""", page)  # nothing is asked of anywhere
    with pytest.raises(ThoughtscopeError, match=r"should end in \.html"):
        curves.save(tmp_path / "curves.json")


def test_figures_that_are_none_leave_a_gap(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(
        '{"tokens": 1, "fvu": "x", "loss": NaN}\n{"tokens": 2, "fvu": true, "loss": 1}\n'
    )
    points = build_curves({"a": folder}).runs[0]["points"]
    assert points["fvu"] == [None, None] and points["loss"] == [None, 1.0] and points["l0"] == [None, None]
    (tmp_path / "b" / "metrics.jsonl").mkdir(parents=True)
    with pytest.raises(CorruptArtefact):
        build_curves({"b": tmp_path / "b"})


def test_the_live_page_asks_for_its_token_and_follows_the_run(tmp_path: Path) -> None:
    folder = training(tmp_path / "a", 1)
    app = create_curves_app([tmp_path], Access(token=TOKEN))
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    page = client.get("/")
    assert (
        page.status_code == 200
        and "thoughtscope-data" not in page.text
        and "default-src 'self'" in page.headers["content-security-policy"]
    )
    assert client.get("/curves.js").text.startswith('"use strict"')
    assert client.get("/curves.json").status_code == 401
    assert client.get("/curves.json", headers={"Authorization": "Bearer " + "x" * 20}).status_code == 401
    assert client.get("/curves.json", headers={**BEARER, "Host": "evil.example"}).status_code == 403
    assert client.post("/curves.json", headers=BEARER).status_code in (404, 405)
    assert client.get("/metrics.jsonl", headers=BEARER).status_code == 404
    assert [
        len(run["points"]["tokens"]) for run in client.get("/curves.json", headers=BEARER).json()["runs"]
    ] == [1]
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"step": 2, "n_steps": 4, "tokens": 20}) + "\n")
    training(tmp_path / "b", 2)
    runs = client.get("/curves.json", headers=BEARER).json()["runs"]
    assert [(run["name"], run["points"]["tokens"]) for run in runs] == [("a", [10, 20]), ("b", [10, 20])]
    assert client.get(f"/?token={TOKEN}", follow_redirects=False).status_code == 303
    assert client.get("/curves.json").status_code == 200  # by the cookie of that link


def test_curves_are_served_while_a_training_runs(tmp_path: Path) -> None:
    training(tmp_path / "a", 2)
    with serving_curves([tmp_path]) as link:
        base, _, token = link.partition("?token=")
        request = urllib.request.Request(f"{base}curves.json", headers={"Authorization": f"Bearer {token}"})
        for _ in range(50):
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    found = json.load(answer)
                break
            except urllib.error.URLError:
                continue
    assert [run["name"] for run in found["runs"]] == ["a"]
