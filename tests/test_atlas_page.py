"""The atlas as a folder and on a server: its pieces hold what the bank holds, labels are of this moment, effects are true."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from tests.clients import BEARER, TOKEN, client_of, events
from tests.dictionary_oracle import random_coder
from tests.tiny_atlas import atlas, bank, dictionary, microscope, places, recorded
from tests.tiny_microscope import shared_model, tiny_microscope
from thoughtscope.atlas import Atlas, FamilyTree, MadeLabel, MadeLabels, Splits, bank_required
from thoughtscope.atlas.exports import export_features
from thoughtscope.core.errors import DictionaryMismatch, UnknownFeature
from thoughtscope.core.files import default_folder
from thoughtscope.core.labels import LabelStore
from thoughtscope.dictionaries import save_dictionary
from thoughtscope.interventions import FeatureEdit, Plan
from thoughtscope.interventions import intervene as run_plan
from thoughtscope.microscope import WorkFolder, effects, tokens_of, user_labels
from thoughtscope.reports import AtlasPage
from thoughtscope.server import Session, create_app
from thoughtscope.server.access import Access

KINDS = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i2": np.int16, "i4": np.int32, "f4": np.float32}
PROMPT = "ab cd ef"


def page(**changes: Any) -> AtlasPage:
    return AtlasPage(atlas=replace(atlas(), **changes), labels={"1/5": "mine"})


def column(told: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(told["data"]), KINDS[told["kind"]])


# --- pieces --------------------------------------------------------------------------------------------------------


def test_there_is_a_piece_for_each_128_features():
    assert page().pieces == ("index", "text", "0-0", "1-0", "2-0")
    with pytest.raises(UnknownFeature, match="no piece"):
        page().piece("3-0")
    with pytest.raises(UnknownFeature, match="no piece"):
        page().piece("0-1")


def test_the_index_says_of_each_feature_what_the_bank_says():
    index = page().piece("index")
    assert [(part["name"], part["first"], part["n"]) for part in index["parts"]] == [
        ("0", 0, 24),
        ("1", 24, 24),
        ("2", 48, 24),
    ]
    assert index["labels"] == [bank().auto_label(layer, i) or "" for layer in range(3) for i in range(24)]
    assert index["people"] == {"1/5": "mine"}
    count, largest = column(index["count"]), column(index["largest"])
    assert (count / bank().n_tokens).tolist() == [
        bank().density(layer, i) for layer in range(3) for i in range(24)
    ]
    assert largest[29] == np.float32(bank().largest(1, 5)) and count[0] == largest[0] == 0
    ends = np.cumsum(column(index["peak_count"]))
    text = column(page().piece("text")["text"])
    peaks = [index["pieces"][text[at]] for at in column(index["peak_token"])[ends[28] : ends[29]]]
    assert set(peaks) == set(bank().peaks(1, 5, 100))
    raised = column(index["raised"]).reshape(72, -1)
    assert [index["pieces"][token] for token in raised[29]] == bank().detail(1, 5)["top_logits"]
    assert np.array_equal(column(index["place"]).reshape(-1, 2), places().place, equal_nan=True)


def test_a_piece_holds_every_example():
    """Read as the page reads them: tokens within the document, values where the feature is active, groups in order."""
    index, text, shard = (page().piece(name) for name in ("index", "text", "1-0"))
    words, ids, starts = index["pieces"], column(text["text"]), column(text["starts"])
    ends = np.cumsum([0, *column(shard["examples"]).tolist()])
    active = np.cumsum([0, *column(shard["active"]).tolist()])
    peak, group, offset, value = (column(shard[name]) for name in ("peak", "group", "offset", "value"))
    for feature in range(24):
        found: dict[int, list[Any]] = {}
        for number in range(ends[feature], ends[feature + 1]):
            document = int(np.searchsorted(starts, peak[number], side="right")) - 1
            first = max(int(starts[document]), int(peak[number]) - index["window"][0])
            end = min(int(starts[document + 1]), int(peak[number]) + index["window"][1] + 1)
            values = np.zeros(end - first)
            here = slice(active[number], active[number + 1])
            values[int(peak[number]) - first + offset[here].astype(int)] = value[here]
            found.setdefault(int(group[number]), []).append(
                (
                    [words[token] for token in ids[first:end]],
                    [round(v, 4) for v in values.tolist()],
                    int(peak[number]) - first,
                )
            )
        detail = bank().detail(1, feature)
        told = [found[number] for number in sorted(found)]
        wanted = [
            [(each["tokens"], each["tokens_acts_list"], each["train_token_ind"]) for each in one["examples"]]
            for one in detail["examples_quantiles"]
        ]
        assert told == wanted
        assert column(shard["histogram"]).reshape(24, -1)[feature].tolist() == detail["histogram"]
        assert column(shard["quantiles"]).reshape(24, -1)[feature].tolist() == detail["quantile_values"]
        assert [words[t] for t in column(shard["bottom_logits"]).reshape(24, -1)[feature]] == detail[
            "bottom_logits"
        ]


def test_labels_that_were_made_come_with_their_figures():
    made = {(1, 5): MadeLabel(text="“ab”", author="rules", side="input", figures={"f1": 0.75}),
            (0, 3): MadeLabel(text="a port", author="a model", side="input")}  # fmt: skip
    labels = MadeLabels(dictionary=dictionary().name, scan=dictionary().scan, labels=made)
    told = page(bank=bank().called(labels))
    index, first = told.piece("index"), int(atlas().firsts[1])
    held = column(index["held"])
    assert held[first + 5] == 0.75 and np.isfinite(held).sum() == 1
    assert index["labels"][first + 5] == "“ab”" and index["labels"][3] == "a port"
    assert told.piece("1-0")["made"][5] == {"author": "rules", "side": "input", "text": "“ab”", "f1": 0.75}
    assert told.piece("1-0")["made"][4] is None and page().piece("index")["held"] is None


def test_what_lies_beside_features_is_numbered_over_all_parts():
    shard = page().piece("2-0")
    near = column(shard["near"]["index"]).reshape(24, -1)
    assert np.array_equal(near, places().near.index[48:, :10])
    together = column(shard["together"]["index"]).reshape(24, -1)
    own = recorded().together[2].index
    assert np.array_equal(together, np.where(own < 0, -1, own + 48))
    assert np.array_equal(
        column(shard["specific"]).reshape(24, -1), recorded().specific[2].astype(np.float32), equal_nan=True
    )
    bare = AtlasPage(atlas=Atlas(dictionary=dictionary(), bank=bank()), labels={}).piece("2-0")
    assert bare["near"] is bare["together"] is bare["specific"] is bare["family"] is None


def test_a_family_is_told_from_the_features_side():
    tree = FamilyTree(
        names=("small", dictionary().name, "large"),
        splits=(
            Splits(parent=np.array([3]), child=np.array([29]), cosine=np.array([0.9]), given=np.array([0.5])),
            Splits(
                parent=np.array([29, 29]), child=np.array([70, 71]), cosine=np.array([0.6, 0.8]), given=None
            ),
        ),
    )
    labels = [[[name] * 24 for name in "abc"], [[""] * 24] * 3, [[name] * 24 for name in "xyz"]]
    family = page(families=tree, generation=1, relatives=labels).piece("1-0")["family"]
    assert family[5] == [
        {"role": "parent", "dictionary": "small", "id": "0/3", "label": "a", "cosine": 0.9, "given": 0.5},
        {"role": "child", "dictionary": "large", "id": "2/23", "label": "z", "cosine": 0.8, "given": None},
        {"role": "child", "dictionary": "large", "id": "2/22", "label": "z", "cosine": 0.6, "given": None},
    ]
    assert family[6] == []


# --- the folder ----------------------------------------------------------------------------------------------------


def test_the_folder_opens_from_disk_and_loads_nothing_else(tmp_path):
    (tmp_path / "atlas").mkdir()
    (tmp_path / "atlas" / "notes.txt").write_text("mine")
    index = page().save(tmp_path / "atlas")
    html = index.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"].split()[1:] == ["'self'", "file:"]
    assert "connect-src" not in rules and "http" not in policy[1]
    files = {str(path.relative_to(index.parent)) for path in index.parent.rglob("*") if path.is_file()}
    assert files == {"index.html", "notes.txt", *(f"data/{name}.js" for name in page().pieces)}
    for name in page().pieces:
        script = (index.parent / "data" / f"{name}.js").read_text()
        found = re.fullmatch(r"thoughtscopeAtlas\((\"[a-z0-9-]+\"),(\{.*\})\);\n", script, re.DOTALL)
        assert found is not None and json.loads(found[1]) == name
        assert json.loads(found[2]) == json.loads(json.dumps(page().piece(name)))


def test_a_smaller_atlas_leaves_nothing_of_a_larger_one(tmp_path):
    page().save(tmp_path / "atlas")
    data = tmp_path / "atlas" / "data"
    (data / "9-9.js").write_text("old")
    (data / "mine.csv").write_text("1,2")
    page().save(tmp_path / "atlas")
    assert not (data / "9-9.js").exists() and (data / "mine.csv").read_text() == "1,2"


def test_without_examples_the_command_that_makes_them_is_told():
    with pytest.raises(DictionaryMismatch, match="thoughtscope features collect"):
        bank_required(dictionary())


# --- on the server -------------------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(lambda: microscope(), folder=WorkFolder(tmp_path))
    yield made
    made.close()


@pytest.fixture
def client(session: Session, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr("thoughtscope.atlas.mapping.EPOCHS", 3)
    app = create_app(session, Access(token=TOKEN))
    with TestClient(app, base_url="http://127.0.0.1:8321", headers=BEARER) as running:
        yield running


def test_a_label_is_everywhere_at_once(client, session, tmp_path):
    """In the atlas, the feature's own page, another process's store, and an export."""
    assert client.get("/api/atlas/index").json()["people"] == {}
    assert client.put("/api/labels/1/5", json={"label": "seaside towns"}).status_code == 200
    assert client.get("/api/atlas/index").json()["people"] == {"1/5": "seaside towns"}
    assert client.get("/api/features/1/5").json()["label"] == "seaside towns"
    assert client.get("/api/search", params={"text": "seaside"}).json()["features"][0]["index"] == 5
    labels = LabelStore(session.folder.root / "labels.json").of(dictionary().name)
    written = export_features(atlas(), tmp_path / "out", format="circuit-tracer", labels=labels, parts=["1"])
    assert sum('"label":"seaside towns"' in path.read_text() for path in written) == 1
    client.put("/api/labels/1/5", json={"label": ""})
    assert client.get("/api/atlas/index").json()["people"] == {}


def test_a_label_of_the_page_is_in_the_graph_the_report_and_the_command_line(
    command: Any, tmp_path: Path
) -> None:
    """Given over HTTP; the command line has a process's own store, in the same folder."""
    root = default_folder()
    session = Session(lambda: microscope(), folder=WorkFolder(root))
    try:
        running = client_of(session)
        slug = events(running.post("/api/trace", json={"prompt": PROMPT}).text)[-1][1]["slug"]
        graph = running.get(f"/api/graphs/{slug}").json()
        node = next(
            each["node_id"] for each in graph["nodes"] if each["feature_type"] == "cross layer transcoder"
        )
        part, index, _ = node.split("_")
        assert running.put(
            f"/api/labels/{part}/{index}", json={"label": "seaside", "author": "anna"}
        ).is_success
        shown = {
            each["node_id"]: each["clerp"] for each in running.get(f"/api/graphs/{slug}").json()["nodes"]
        }
        assert shown[node] == "seaside"
        assert "seaside" in running.get(f"/api/reports/{slug}").text
        command("report", str(session.folder.graph_path(slug)), "--out", "report.html")
    finally:
        session.close()
    data = json.loads((tmp_path / "report.data.json").read_text())
    assert {each["node_id"]: each["clerp"] for each in data["graph"]["nodes"]}[node] == "seaside"
    assert user_labels().given(f"{dictionary().name}/{part}/{index}")[0].author == "anna"


def test_the_map_comes_when_somebody_waits_for_it(client, session):
    assert client.get("/api/atlas/index").json()["place"] is None
    assert client.get("/api/atlas/0-0").json()["near"] is None
    assert client.get("/api/atlas/map").json() == {"made": True}
    assert client.get("/api/atlas/index").json()["place"] is not None
    assert client.get("/api/atlas/0-0").json()["near"] is not None
    assert len(list((session.folder.root / "maps").glob("*/manifest.json"))) == 1


def test_without_examples_the_page_is_told_what_to_run(tmp_path):
    session = Session(tiny_microscope, folder=WorkFolder(tmp_path))
    answer = client_of(session).get("/api/atlas/index")
    session.close()
    assert answer.status_code == 409 and "thoughtscope features collect" in answer.json()["error"]["message"]


def test_pieces_that_are_not_there_are_refused(client):
    for name in ("9-9", "text2", "-"):
        assert client.get(f"/api/atlas/{name}").json()["error"]["code"] == "unknown_feature"
    assert client.get("/api/atlas/..%2Findex").status_code in (404, 422)


def test_effects_are_answered_and_checked(client):
    answer = client.post("/api/effects", json={"prompt": PROMPT, "n": 5}).json()
    assert len(answer["features"]) == 5 and answer["answer"]
    sizes = [abs(feature["attribution"]) for feature in answer["features"]]
    assert sizes == sorted(sizes, reverse=True) and all(
        feature["ablation"] is not None for feature in answer["features"]
    )
    assert client.post("/api/effects", json={"prompt": PROMPT, "n": 0}).status_code == 422


# --- effects -------------------------------------------------------------------------------------------------------


def test_an_attribution_is_the_slope_of_the_answers_logit():
    """Scaling a feature a little changes the logit by its attribution: the definition, by finite differences."""
    opened = microscope()
    tokens = tokens_of(opened, PROMPT)
    found = effects(opened, PROMPT, n=6, ablated=2)
    step = 0.02
    for each in found.found:
        changes = []
        for sign in (1, -1):
            edit = FeatureEdit(
                part=each.feature.part, index=each.feature.index, op="scale", value=1 + sign * step
            )
            plan = Plan(edits=(edit,), attention="free")
            changes.append(run_plan(opened.model, opened.dictionary, tokens, plan).logit_change)
        assert (changes[0] - changes[1]) / (2 * step) == pytest.approx(each.attribution, rel=0.03, abs=2e-4)
    assert [each.ablation is not None for each in found.found] == [True, True, False, False, False, False]


def test_an_ablation_is_the_intervention():
    opened = microscope()
    found = effects(opened, PROMPT, n=1)
    (each,) = found.found
    plan = Plan(
        edits=(FeatureEdit(part=each.feature.part, index=each.feature.index, op="ablate"),), attention="free"
    )
    outcome = run_plan(opened.model, opened.dictionary, tokens_of(opened, PROMPT), plan)
    assert each.ablation == pytest.approx(outcome.logit_change, abs=1e-5)
    assert outcome.answer == found.answer or outcome.answer.strip() == found.answer.strip()


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`command("atlas", …)`: what a command says with `--json`, in a folder with a model, two dictionaries and texts."""
    from thoughtscope.cli import app

    model = shared_model()
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "texts").mkdir()
    for number in range(8):
        (tmp_path / "texts" / f"{number}.txt").write_text("The cat sees the dog. " * (2 + number))
    for name, n_features in (("small", 12), ("large", 24)):
        save_dictionary(random_coder(model, ["resid_post.1"], n_features=n_features), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("thoughtscope.atlas.mapping.EPOCHS", 3)

    def run(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr("sys.argv", ["thoughtscope", *arguments, "--json"])
        with pytest.raises(SystemExit) as end:
            app.run()
        told = json.loads(capsys.readouterr().out)
        assert bool(end.value.code) == ("error" in told), told
        return told

    return run


def test_an_atlas_of_a_family_is_written(command: Any, tmp_path: Path) -> None:
    """Without examples it is refused; a person's label is in the page and in the export that is made next."""
    text = ("--data", "text:texts", "--model", "./model")
    assert "features collect" in command("atlas", "./large", "--out", "./page")["error"]["message"]
    for name in ("small", "large"):
        command("features", "collect", f"./{name}", *text, "--max-tokens", "500")
    user_labels().set("random/coder/resid_post.1/3", "a name")
    told = command("atlas", "./large", "--out", "./page", *text, "--max-tokens", "500", "--family", "./small")
    assert (told["features"], told["labels"]) == (24, 1)
    index, shard = (
        json.loads(
            (tmp_path / "page" / "data" / f"{name}.js").read_text().split(",", 1)[1].removesuffix(");\n")
        )
        for name in ("index", "0-0")
    )
    assert index["people"] == {"resid_post.1/3": "a name"} and index["place"] is not None
    assert shard["together"] is not None and len(shard["family"]) == 24
    told = command("features", "export", "./large", "--format", "circuit-tracer", "--out", "./out")
    assert told["labels"] == 1 and told["files"] == len(list((tmp_path / "out").rglob("*.json")))
    assert (
        "circuit-tracer"
        in command("features", "export", "./large", "--format", "x", "--out", "./o")["error"]["message"]
    )
