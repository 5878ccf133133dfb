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

from tests.clients import client_of, events
from tests.tiny_microscope import N_FEATURES, tiny_microscope
from thoughtscope.core.errors import UnknownModel
from thoughtscope.microscope import WorkFolder
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
    return client_of(session)


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
        "chat": False,
    }  # fmt: skip
    assert about["dictionary"] == {
        "name": "tiny/clt", "kind": "cross-layer transcoder", "n_features": N_FEATURES,
        "sites": ["mlp_in.0", "mlp_in.1", "mlp_in.2"], "layers": [0, 1, 2], "scores": {"fvu": 0.25, "l0": 12.0},
    }  # fmt: skip
    row = next(row for row in about["graphs"] if row["slug"] == slug)
    assert row["prompt"] == PROMPT and row["created"].endswith("Z")
    assert about["example_prompts"]


def test_a_trace_streams_its_progress_and_ends_with_the_graph(client: TestClient, folder: WorkFolder) -> None:
    seen = events(
        client.post("/api/trace", json={"prompt": "progress", "node_mass": 1.0, "max_nodes": 50}).text
    )
    assert [kind for kind, _ in seen[:-1]] == ["progress"] * (len(seen) - 1) and len(seen) > 3
    assert all(
        {"stage", "done", "total"} <= set(data) <= {"stage", "done", "total", "figures"}
        and 0 <= data["done"] <= data["total"]
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


def test_a_page_gets_what_only_a_page_needs(client: TestClient, slug: str, folder: WorkFolder) -> None:
    from thoughtscope.graphs import edge_influence, graph_from_json, score_curve

    shown = client.get(f"/api/graphs/{slug}").json()
    graph = graph_from_json(folder.read_graph(slug))
    curve = score_curve(graph)
    assert (
        shown["score_curve"]["stops"] == list(curve.stops)
        and shown["score_curve"]["edges"][-1] == graph.edges.nnz
    )
    assert shown["score_curve"]["replacement"][-1] == pytest.approx(graph.scores.replacement, abs=1e-5)
    assert sorted(shown["edge_influence"]) == pytest.approx(
        sorted(edge_influence(graph).tolist()), rel=1e-3, abs=1e-9
    )
    assert len(shown["edge_influence"]) == len(shown["links"]) and shown["outcomes"] == []
    for path in (f"/graph_data/{slug}.json",):  # what other viewers get is the published file
        assert not {"score_curve", "edge_influence", "outcomes"} & set(client.get(path).json())
    again = client.post("/api/graphs", json=shown).json()["slug"]
    assert not {"score_curve", "edge_influence", "outcomes"} & set(folder.read_graph(again))


def test_nodes_that_share_an_id_are_all_there(client: TestClient, folder: WorkFolder) -> None:
    from tests.test_graph_json import circuit_tracer_file

    file = circuit_tracer_file()
    assert len({node["node_id"] for node in file["nodes"]}) < len(file["nodes"])
    folder.write_graph("by-hand", file)
    for slug in ("by-hand", client.post("/api/graphs", json=file).json()["slug"]):
        shown = client.get(f"/api/graphs/{slug}").json()
        ids = [node["node_id"] for node in shown["nodes"]]
        assert len(set(ids)) == len(file["nodes"]) and "1_-1_2" in ids
        assert {link["source"] for link in shown["links"]} | {
            link["target"] for link in shown["links"]
        } <= set(ids)
        assert client.put(f"/api/graphs/{slug}/pins", json={"pins": ["1_-1_2", "0_1_2"]}).status_code == 200
        assert client.get(f"/api/graphs/{slug}").json()["qParams"]["pinnedIds"] == ["1_-1_2", "0_1_2"]


def test_a_graph_is_renamed_removed_and_brought_back(client: TestClient) -> None:
    slug = trace(client, "to be kept")
    node = features_of(client.get(f"/api/graphs/{slug}").json())[0]["node_id"]
    edit = {"slug": slug, "edits": [{"nodes": [node], "op": "ablate"}]}
    client.post("/api/intervene", json=edit)
    rows = lambda: {row["slug"]: row for row in client.get("/api/session").json()["graphs"]}
    assert client.patch(f"/api/graphs/{slug}", json={"title": " mine "}).json() == {"title": "mine"}
    assert rows()[slug]["title"] == "mine" and rows()[slug]["prompt"] == "to be kept"
    layout = {"layout": {node: [3.5, -7], "a group": [0, 1]}}
    assert client.put(f"/api/graphs/{slug}/layout", json=layout).json() == layout
    before = client.get(f"/api/graphs/{slug}").json()
    assert before["qParams"]["layout"] == {node: [3.5, -7.0], "a group": [0.0, 1.0]}
    assert client.delete(f"/api/graphs/{slug}").json() == {"removed": slug}
    assert slug not in rows() and client.get(f"/api/graphs/{slug}").status_code == 404
    assert error(client.delete(f"/api/graphs/{slug}"))[:2] == (404, "unknown_graph")
    assert client.post(f"/api/graphs/{slug}/restore").json() == {"slug": slug}
    assert client.get(f"/api/graphs/{slug}").json() == before and len(before["outcomes"]) == 1
    assert client.post(f"/api/graphs/{slug}/restore").status_code == 404
    assert client.patch(f"/api/graphs/{slug}", json={"title": ""}).status_code == 200
    assert rows()[slug]["title"] == ""


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PATCH", "", {"title": "two\nlines"}, 422),
        ("PATCH", "", {"title": "x" * 201}, 422),
        ("PATCH", "x", {"title": "a"}, 404),
        ("DELETE", "x", None, 404),
        ("POST", "/restore", None, 404),
        ("PUT", "/layout", {"layout": {"a": [1, 2, 3]}}, 422),
        ("PUT", "/layout", {"layout": {"a": [1, 1e9]}}, 422),
        ("DELETE", "/outcomes/999", None, 404),
    ],
)
def test_wrong_changes_of_a_kept_graph_are_refused(
    client: TestClient, slug: str, method: str, path: str, body: Any, status: int
) -> None:
    assert error(client.request(method, f"/api/graphs/{slug}{path}", json=body))[0] == status


def test_the_same_prompt_traced_twice_makes_two_rows(client: TestClient) -> None:
    slugs = [trace(client, "twice") for _ in range(2)]
    rows = {row["slug"]: row for row in client.get("/api/session").json()["graphs"]}
    assert [rows[slug]["number"] for slug in slugs] == [1, 2]
    assert rows[slugs[0]]["created"] < rows[slugs[1]]["created"]
    client.put(f"/api/graphs/{slugs[0]}/pins", json={"pins": []})  # a change does not make it newer
    client.patch(f"/api/graphs/{slugs[1]}", json={"title": "second"})
    rows = {row["slug"]: row for row in client.get("/api/session").json()["graphs"]}
    assert [rows[slug]["number"] for slug in slugs] == [None, None]


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
    with client_of(again) as restarted:
        assert restarted.get(f"/api/features/{layer}/{index}").json()["label"] == label
    again.close()
    client.put(f"/api/labels/{layer}/{index}", json={"label": ""})
    assert client.get(f"/api/features/{layer}/{index}").json()["label"] == ""


def test_a_label_says_whose_it_is(client: TestClient, folder: WorkFolder) -> None:
    def given(**body: str) -> list[tuple[str, str]]:
        assert client.put("/api/labels/0/0", json=body).status_code == 200
        return [(one["author"], one["text"]) for one in client.get("/api/features/0/0").json()["given"]]

    assert given(label="Texas", author="anna") == [("anna", "Texas")]
    assert given(label="places", author="ben") == [("anna", "Texas"), ("ben", "places")]
    answer = client.put("/api/labels/0/0", json={"label": "", "author": "ben"})
    assert answer.json() == {"label": "Texas"}  # what another says is shown again
    assert error(client.put("/api/labels/0/0", json={"label": "a", "author": "x" * 61}))[0] == 422
    assert given(label="", author="anna") == []


@pytest.mark.parametrize(
    ("place", "status"),
    [("3/0", 404), (f"0/{N_FEATURES}", 404), ("-1/0", 404), ("x/0", 404), ("0/x", 422), (f"0/{10**12}", 422)],
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


def test_what_was_tried_stays_with_the_graph(client: TestClient, folder: WorkFolder) -> None:
    slug = trace(client, "tried out")
    names = [node["node_id"] for node in features_of(client.get(f"/api/graphs/{slug}").json())[:2]]
    body = {"slug": slug, "edits": [{"nodes": names, "op": "scale", "value": -1.5}], "max_new_tokens": 2}
    first, second = (client.post("/api/intervene", json=body).json() for _ in range(2))
    passing = client.post("/api/intervene", json={**body, "keep": False}).json()
    assert passing["id"] is None and (first["id"], second["id"]) == (1, 2)
    kept = client.get(f"/api/graphs/{slug}").json()["outcomes"]
    assert kept == [first, second]
    assert kept[0]["changes"] == [{"nodes": names, "op": "scale", "value": -1.5}] and kept[0][
        "created"
    ].endswith("Z")
    layer, index, _ = names[0].split("_")
    client.put(f"/api/labels/{layer}/{index}", json={"label": "named since"})
    assert WorkFolder(folder.root).outcomes(slug)[0][1]["outcome"]["kl"] == first["kl"]
    page = client.get(f"/api/reports/{slug}").text
    data = json.loads(page.split('id="thoughtscope-data">')[1].split("</script>")[0])
    assert [row["id"] for row in data["outcomes"]] == [1, 2] and "score_curve" in data["graph"]
    assert client.delete(f"/api/graphs/{slug}/outcomes/1").json() == {"removed": 1}
    (folder.root / "outcomes" / slug / "7.json").write_text('{"outcome": {"of": "another version"}}')
    assert [row["id"] for row in client.get(f"/api/graphs/{slug}").json()["outcomes"]] == [2]
    client.put(f"/api/labels/{layer}/{index}", json={"label": ""})


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
    told = [
        {key: row[key] for key in row if key not in ("id", "created")} for row in (*together.values(), *alone)
    ]
    first = {k: told[list(together).index(k)] for k in together}
    assert [first[k] for k in range(len(threads))] == told[-len(alone) :] * 3
    assert len({row["id"] for row in (*together.values(), *alone)}) == len(threads) + len(alone)


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
    client = client_of(session)
    about = client.get("/api/session").json()
    assert about["model"] is None and about["example_prompts"] == []
    assert client.get(f"/api/graphs/{slug}").status_code == 200
    assert error(client.post("/api/trace", json={"prompt": "a"}))[:2] == (409, "no_model")
    session.close()


def test_a_model_that_fails_to_load_is_an_answer_not_a_crash(folder: WorkFolder) -> None:
    def load() -> Any:
        raise UnknownModel('There is no model "nope".')

    session = Session(load, folder=folder)
    client = client_of(session)
    assert error(client.get("/api/session"))[:2] == (404, "unknown_model")
    assert error(client.post("/api/trace", json={"prompt": "a"}))[:2] == (404, "unknown_model")
    assert client.get("/health").json() == {"ok": True, "version": "0.1.0", "ready": False}
    session.close()


def test_too_many_waiting_requests_are_sent_away(folder: WorkFolder) -> None:
    session, held = Session(tiny_microscope, folder=folder), threading.Event()
    client = client_of(session)
    waiting = [session.submit(lambda _: held.wait(20)) for _ in range(MAX_WAITING)]
    assert error(client.post("/api/trace", json={"prompt": "a"}))[:2] == (503, "busy")
    held.set()
    assert all(future.result(20) for future in waiting)
    assert client.post("/api/trace", json={"prompt": "a"}).status_code == 200
    session.close()


def test_a_graph_that_is_being_made_is_waited_for(tmp_path: Path) -> None:
    session = Session(tiny_microscope, folder=WorkFolder(tmp_path))
    session.trace_at_start("At the start", "first")
    client = client_of(session)
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
