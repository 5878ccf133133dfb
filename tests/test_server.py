"""The HTTP interface on a tiny model: every route, and that requests do not disturb one another."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.tiny_microscope import N_FEATURES, tiny_microscope
from thoughtscope.core.errors import UnknownModel
from thoughtscope.microscope import WorkFolder
from thoughtscope.server.app import create_app
from thoughtscope.server.session import MAX_WAITING, Session

PROMPT = "Hello <b>there</b> é"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> WorkFolder:
    return WorkFolder(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def session(folder: WorkFolder) -> Iterator[Session]:
    session = Session(tiny_microscope, folder=folder)
    yield session
    session.close()


@pytest.fixture(scope="module")
def client(session: Session) -> TestClient:
    return TestClient(create_app(session), base_url="http://localhost", raise_server_exceptions=False)


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


def trace(client: TestClient, prompt: str = PROMPT, **settings: Any) -> str:
    answer = client.post("/api/trace", json={"prompt": prompt, **settings})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    kind, data = events(answer.text)[-1]
    assert kind == "graph", data
    return data["slug"]


@pytest.fixture(scope="module")
def slug(client: TestClient) -> str:
    return trace(client)


@pytest.fixture(scope="module")
def graph(client: TestClient, slug: str) -> dict[str, Any]:
    return client.get(f"/api/graphs/{slug}").json()


def features_of(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]


def error(answer: Any) -> tuple[int, str, str]:
    body = answer.json()["error"]
    return answer.status_code, body["code"], body["message"]


# --- session and tracing ---------------------------------------------------------------------------------------------


def test_the_session_says_what_is_loaded(client: TestClient, slug: str) -> None:
    about = client.get("/api/session").json()
    assert about["model"] == {
        "name": "random-llama", "n_layers": 3, "d_model": 16, "dtype": "float32", "device": "cpu", "max_tokens": 48,
    }  # fmt: skip
    assert about["dictionary"] == {
        "name": "tiny/clt", "kind": "cross-layer transcoder", "n_features": N_FEATURES, "scores": {"fvu": 0.25, "l0": 12.0},
    }  # fmt: skip
    row = next(row for row in about["graphs"] if row["slug"] == slug)
    assert row["prompt"] == PROMPT and row["created"].endswith("Z")
    assert about["read_only"] is False and about["example_prompts"]


def test_a_trace_streams_its_progress_and_ends_with_the_graph(client: TestClient, folder: WorkFolder) -> None:
    seen = events(
        client.post("/api/trace", json={"prompt": "progress", "node_mass": 1.0, "max_nodes": 50}).text
    )
    assert [kind for kind, _ in seen[:-1]] == ["progress"] * (len(seen) - 1) and len(seen) > 3
    assert all(
        set(data) == {"stage", "done", "total"} and 0 <= data["done"] <= data["total"]
        for _, data in seen[:-1]
    )
    kept = folder.read_graph(seen[-1][1]["slug"])
    assert kept["metadata"]["thoughtscope"]["certificate"]["expanded"] == 50


def test_a_kept_graph_is_the_graph_that_python_makes(client: TestClient, graph: dict[str, Any]) -> None:

    from thoughtscope.graphs import graph_to_json
    from thoughtscope.microscope import trace as traced

    made = graph_to_json(traced(tiny_microscope(), PROMPT), slug=graph["metadata"]["slug"])
    assert made["nodes"] == graph["nodes"] and made["links"] == graph["links"]
    assert graph["metadata"]["thoughtscope"]["scores"] == made["metadata"]["thoughtscope"]["scores"]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"prompt": ""}, {"prompt": 3}, {"prompt": None}, {"prompt": "a", "more": 1}, {"prompt": "a", "node_mass": 0},
        {"prompt": "a", "node_mass": 1.5}, {"prompt": "a", "edge_mass": "x"}, {"prompt": "a", "max_nodes": 0},
        {"prompt": "a", "max_nodes": 10**9}, {"prompt": "nul \0"}, {"prompt": "x" * 20_001}, [], "text", 7, None,
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_before_any_work(client: TestClient, body: Any) -> None:
    status, code, message = error(client.post("/api/trace", json=body))
    assert (status, code) == (422, "invalid_request") and message
    assert client.get("/health").json()["ok"] is True


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b'{"prompt": "a", "node_mass": NaN}', b'{"prompt": "a", "node_mass": 1e999}', b'{"prompt": "\\ud800"}', b"\xff\xfe", b"[" * 100_000],
)  # fmt: skip
def test_broken_json_is_refused(client: TestClient, raw: bytes) -> None:
    answer = client.post("/api/trace", content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert error(answer)[2]
    assert client.get("/health").json()["ok"] is True


def test_a_prompt_over_the_limit_is_refused_with_the_limit(client: TestClient) -> None:
    for prompt in ("x" * 49, "x" * 19_999):
        status, code, message = error(client.post("/api/trace", json={"prompt": prompt}))
        assert (status, code) == (422, "limit_exceeded") and "48" in message


# --- kept graphs -----------------------------------------------------------------------------------------------------


def test_pins_and_supernodes_are_kept_in_the_file(
    client: TestClient, slug: str, graph: dict[str, Any]
) -> None:
    names = [node["node_id"] for node in features_of(graph)[:3]]
    assert client.put(f"/api/graphs/{slug}/pins", json={"pins": names}).json() == {"pins": names}
    groups = [["<i>mine</i>", *names[:2]]]
    assert client.put(f"/api/graphs/{slug}/supernodes", json={"supernodes": groups}).json() == {
        "supernodes": groups
    }
    query = client.get(f"/api/graphs/{slug}").json()["qParams"]
    assert query["pinnedIds"] == names and query["supernodes"] == groups


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("pins", {"pins": ["9_9_9"]}, 404),
        ("pins", {"pins": "a"}, 422),
        ("pins", {"pins": ["a"] * 201}, 422),
        ("supernodes", {"supernodes": [["alone"]]}, 422),
        ("supernodes", {"supernodes": [["label", "9_9_9"]]}, 404),
        ("supernodes", {"supernodes": [["\u202edisguised", "0_0_0"]]}, 422),
        ("supernodes", {"supernodes": [["two\nlines", "0_0_0"]]}, 422),
    ],
)
def test_wrong_pins_and_supernodes_are_refused(
    client: TestClient, slug: str, path: str, body: Any, status: int
) -> None:
    assert error(client.put(f"/api/graphs/{slug}/{path}", json=body))[0] == status


def test_a_graph_that_is_not_there_says_which_are(client: TestClient, slug: str) -> None:
    for method, path in (("GET", ""), ("PUT", "/pins"), ("PUT", "/supernodes")):
        body = {"pins": []} if path == "/pins" else {"supernodes": []}
        answer = client.request(method, f"/api/graphs/{slug}x{path}", json=None if method == "GET" else body)
        status, code, message = error(answer)
        assert (status, code) == (404, "unknown_graph") and slug in message


def test_an_uploaded_graph_gets_a_slug_of_its_own(client: TestClient, graph: dict[str, Any]) -> None:
    uploaded = copy.deepcopy(graph)
    uploaded["metadata"]["slug"] = "theirs"
    first, second = (client.post("/api/graphs", json=uploaded).json()["slug"] for _ in range(2))
    assert (first, second) == ("theirs", "theirs-2")
    assert client.get(f"/api/graphs/{second}").json()["nodes"] == graph["nodes"]
    uploaded["metadata"]["slug"] = "../../etc/passwd"
    third = client.post("/api/graphs", json=uploaded).json()["slug"]
    assert third.startswith("hello-b-there-b-e-")


# --- features and labels ---------------------------------------------------------------------------------------------


def test_a_label_is_kept_and_shown_wherever_the_feature_is(
    client: TestClient, slug: str, graph: dict[str, Any], folder: WorkFolder
) -> None:
    node = features_of(graph)[0]
    layer, index, _ = node["node_id"].split("_")
    label = '<img src=x onerror="alert(1)">'
    assert client.put(f"/api/labels/{layer}/{index}", json={"label": label}).json() == {"label": label}
    assert client.get(f"/api/features/{layer}/{index}").json()["label"] == label
    shown = {node["node_id"]: node["clerp"] for node in client.get(f"/api/graphs/{slug}").json()["nodes"]}
    assert shown[node["node_id"]] == label
    again = Session(tiny_microscope, folder=WorkFolder(folder.root))
    with TestClient(create_app(again), base_url="http://localhost") as restarted:
        assert restarted.get(f"/api/features/{layer}/{index}").json()["label"] == label
    again.close()
    client.put(f"/api/labels/{layer}/{index}", json={"label": ""})
    assert client.get(f"/api/features/{layer}/{index}").json()["label"] == ""


@pytest.mark.parametrize(
    ("place", "status"),
    [("3/0", 404), (f"0/{N_FEATURES}", 404), ("-1/0", 422), ("0/x", 422), (f"0/{10**12}", 422)],
)
def test_a_feature_that_does_not_exist(client: TestClient, place: str, status: int) -> None:
    assert error(client.get(f"/api/features/{place}"))[0] == status
    assert error(client.put(f"/api/labels/{place}", json={"label": "a"}))[0] == status


@pytest.mark.parametrize("label", ["a" * 201, "two\nlines", "\u202etxt", "\x1b[31m", "\0", 3, None])
def test_a_label_that_could_deceive_is_refused(client: TestClient, label: Any) -> None:
    assert error(client.put("/api/labels/0/0", json={"label": label}))[0] == 422


# --- interventions ---------------------------------------------------------------------------------------------------


def test_an_intervention_reports_before_and_after(
    client: TestClient, slug: str, graph: dict[str, Any]
) -> None:
    node = max(features_of(graph), key=lambda node: node["activation"])["node_id"]
    body = {"slug": slug, "edits": [{"nodes": [node], "op": "scale", "value": -2.0}], "max_new_tokens": 3}
    outcome = client.post("/api/intervene", json=body).json()
    assert set(outcome) >= {
        "before", "after", "kl", "answer", "rank_before", "rank_after", "prediction", "feature_changes", "generation_before", "generation_after",
    }  # fmt: skip
    assert outcome["kl"] > 0 and outcome["before"] != outcome["after"]
    assert outcome["prediction"] is None or outcome["prediction"]["direction"] in ("up", "down")
    present = {node["node_id"] for node in graph["nodes"]}
    assert all(row["node_id"] is None or row["node_id"] in present for row in outcome["feature_changes"])
    assert isinstance(outcome["generation_after"], str)


def test_no_edit_changes_nothing(client: TestClient, slug: str) -> None:
    outcome = client.post("/api/intervene", json={"slug": slug, "edits": []}).json()
    assert outcome["kl"] == 0 and outcome["before"] == outcome["after"]
    assert outcome["generation_before"] is None


def test_several_edits_are_one_plan(client: TestClient, slug: str, graph: dict[str, Any]) -> None:
    first, second = (node["node_id"] for node in features_of(graph)[-2:])
    edits = [{"nodes": [first], "op": "ablate"}, {"nodes": [second], "op": "set", "value": 9.0}]
    both = client.post("/api/intervene", json={"slug": slug, "edits": edits, "attention": "free"}).json()
    alone = client.post("/api/intervene", json={"slug": slug, "edits": edits[:1], "attention": "free"}).json()
    assert both["kl"] != alone["kl"] and both["attention"] == "free"


@pytest.mark.parametrize(
    ("edit", "status", "code"),
    [
        ({"nodes": ["0_23_99"], "op": "ablate"}, 404, "unknown_feature"),
        ({"nodes": ["feature:0:1:99"], "op": "ablate"}, 404, "unknown_feature"),
        ({"nodes": ["nonsense"], "op": "ablate"}, 404, "unknown_feature"),
        ({"nodes": ["token:1"], "op": "ablate"}, 422, "invalid_plan"),
        ({"nodes": [], "op": "ablate"}, 422, "invalid_request"),
        ({"nodes": ["0_1_1"], "op": "scale"}, 422, "invalid_plan"),
        ({"nodes": ["0_1_1"], "op": "scale", "value": 1e30}, 422, "invalid_request"),
        ({"nodes": ["0_1_1"], "op": "explode", "value": 1}, 422, "invalid_request"),
    ],
)
def test_an_edit_that_cannot_be_made(
    client: TestClient, slug: str, graph: dict[str, Any], edit: dict[str, Any], status: int, code: str
) -> None:
    if edit["nodes"] == ["0_1_1"]:
        edit = {**edit, "nodes": [features_of(graph)[0]["node_id"]]}
    assert error(client.post("/api/intervene", json={"slug": slug, "edits": [edit]}))[:2] == (status, code)


def test_a_graph_of_another_model_cannot_be_tested(client: TestClient, graph: dict[str, Any]) -> None:
    other = copy.deepcopy(graph)
    other["metadata"] |= {"slug": "other-model"}
    other["metadata"]["thoughtscope"] |= {"model": "gpt2"}
    slug = client.post("/api/graphs", json=other).json()["slug"]
    assert error(client.post("/api/intervene", json={"slug": slug, "edits": []}))[:2] == (409, "no_model")


def test_more_tokens_than_the_model_reads(client: TestClient, slug: str) -> None:
    body = {"slug": slug, "edits": [], "max_new_tokens": 60}
    assert error(client.post("/api/intervene", json=body))[:2] == (422, "limit_exceeded")


def test_interleaved_requests_never_see_each_others_edits(
    client: TestClient, slug: str, graph: dict[str, Any]
) -> None:
    names = [node["node_id"] for node in features_of(graph)]
    bodies = [
        {
            "slug": slug,
            "edits": [{"nodes": [names[k % len(names)]], "op": "scale", "value": float(k % 5 - 2)}],
        }
        for k in range(4)
    ]
    alone = [client.post("/api/intervene", json=body).json() for body in bodies]
    together: dict[int, Any] = {}

    def ask(k: int) -> None:
        together[k] = client.post("/api/intervene", json=bodies[k % len(bodies)]).json()

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(3 * len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[k] for k in range(len(threads))] == alone * 3


# --- other viewers ---------------------------------------------------------------------------------------------------


def test_other_viewers_find_their_paths(client: TestClient, slug: str, graph: dict[str, Any]) -> None:
    listed = client.get("/data/graph-metadata.json").json()["graphs"]
    row = next(row for row in listed if row["slug"] == slug)
    assert row["prompt_tokens"] and row["scan"] == graph["metadata"]["scan"]
    assert client.get(f"/graph_data/{slug}.json").json()["nodes"] == graph["nodes"]
    node = features_of(graph)[0]
    found = client.get(f"/features/{row['scan']}/{node['feature']}.json").json()
    assert f"{found['layer']}_{found['index']}_{node['ctx_idx']}" == node["node_id"]
    assert isinstance(found["examples_quantiles"], list)
    assert error(client.get("/features/other/0.json"))[0] == 404


def test_what_circuit_tracers_save_sends_is_mended(
    client: TestClient, slug: str, graph: dict[str, Any]
) -> None:
    names = [node["node_id"] for node in features_of(graph)[:2]]
    sent = {
        "qParams": {
            "pinnedIds": ",".join(names),
            "supernodes": json.dumps([["pair", *names]]),
            "clickedId": None,
            "linkType": None,
        }
    }
    assert client.post(f"/save_graph/{slug}", json=sent).json() == {"status": "success"}
    query = client.get(f"/api/graphs/{slug}").json()["qParams"]
    assert (
        query["pinnedIds"] == names
        and query["supernodes"] == [["pair", *names]]
        and query["linkType"] is not None
    )
    for body in ({}, {"qParams": None}, {"qParams": {"pinnedIds": [1]}}, {"qParams": {"supernodes": "["}}):
        assert client.post(f"/save_graph/{slug}", json=body).status_code == 422


# --- the session as a whole ------------------------------------------------------------------------------------------


def test_without_a_model_graphs_can_still_be_read(folder: WorkFolder, slug: str) -> None:
    session = Session(None, folder=folder)
    client = TestClient(create_app(session), base_url="http://localhost")
    about = client.get("/api/session").json()
    assert about["model"] is None and about["example_prompts"] == []
    assert client.get(f"/api/graphs/{slug}").status_code == 200
    assert error(client.post("/api/trace", json={"prompt": "a"}))[:2] == (409, "no_model")
    session.close()


def test_a_model_that_fails_to_load_is_an_answer_not_a_crash(folder: WorkFolder) -> None:
    def load() -> Any:
        raise UnknownModel('There is no model "nope".')

    session = Session(load, folder=folder)
    client = TestClient(create_app(session), base_url="http://localhost")
    assert error(client.get("/api/session"))[:2] == (404, "unknown_model")
    assert error(client.post("/api/trace", json={"prompt": "a"}))[:2] == (404, "unknown_model")
    assert client.get("/health").json() == {"ok": True, "version": "0.1.0", "ready": False}
    session.close()


def test_too_many_waiting_requests_are_sent_away(folder: WorkFolder) -> None:
    session, held = Session(tiny_microscope, folder=folder), threading.Event()
    client = TestClient(create_app(session), base_url="http://localhost")
    waiting = [session.submit(lambda _: held.wait(20)) for _ in range(MAX_WAITING)]
    assert error(client.post("/api/trace", json={"prompt": "a"}))[:2] == (503, "busy")
    held.set()
    assert all(future.result(20) for future in waiting)
    assert client.post("/api/trace", json={"prompt": "a"}).status_code == 200
    session.close()


def test_a_graph_that_is_being_made_is_waited_for(tmp_path: Path) -> None:
    session = Session(tiny_microscope, folder=WorkFolder(tmp_path))
    session.trace_at_start("At the start", "first")
    client = TestClient(create_app(session), base_url="http://localhost")
    assert client.get("/api/graphs/first").json()["metadata"]["prompt"] == "At the start"
    session.close()


def test_a_verb_that_runs_out_of_memory_leaves_the_server_well(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("thoughtscope.microscope.trace", exhausted)
    kind, data = events(client.post("/api/trace", json={"prompt": "a"}).text)[-1]
    assert kind == "error" and data["error"]["code"] == "out_of_memory"
    assert client.get("/health").json()["ok"] is True
