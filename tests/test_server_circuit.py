"""What the server says of parts of a graph and of long work: scores, shares, streams that stop, beginnings of prompts."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tokenizers import processors

from tests.clients import client_of, events
from tests.tiny_microscope import random_dictionary, tiny_microscope
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import LimitExceeded
from thoughtscope.graphs import graph_from_json, influence_share, score
from thoughtscope.microscope import Microscope, WorkFolder
from thoughtscope.server.errors import Stopped
from thoughtscope.server.session import Session
from thoughtscope.server.streams import progress_events, progress_of


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session(tiny_microscope, folder=WorkFolder(tmp_path_factory.mktemp("work")))
    yield session
    session.close()


@pytest.fixture(scope="module")
def client(session: Session) -> TestClient:
    return client_of(session)


def trace(client: TestClient, prompt: str = "Hello there", **settings: Any) -> dict[str, Any]:
    answer = client.post("/api/trace", json={"prompt": prompt, **settings})
    kind, data = events(answer.text)[-1]
    assert kind == "graph", data
    return data


@pytest.fixture(scope="module")
def slug(client: TestClient) -> str:
    return trace(client)["slug"]


@pytest.fixture(scope="module")
def graph(client: TestClient, slug: str) -> dict[str, Any]:
    return client.get(f"/api/graphs/{slug}").json()


def features_of(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"]


# --- parts of a graph ------------------------------------------------------------------------------------------------


def test_a_part_scores_as_python_scores_it(client: TestClient, slug: str, graph: dict[str, Any]) -> None:
    whole = graph_from_json(graph)
    names = [node["node_id"] for node in graph["nodes"]]
    inner = [node["node_id"] for node in features_of(graph)]
    seen = set()
    for part in (inner[:1], inner[::3], inner, names, []):
        picked = [tuple(map(int, name.split("_"))) for name in part if name in inner]
        nodes = [f"feature:{layer}:{position}:{index}" for layer, index, position in picked]
        wanted = score(whole, nodes)
        found = client.post(f"/api/graphs/{slug}/score", json={"nodes": part}).json()
        assert found["replacement"] == pytest.approx(wanted.replacement, abs=1e-9)
        assert found["completeness"] == pytest.approx(wanted.completeness, abs=1e-9)
        assert found["why_unscored"] is None
        seen.add(round(found["replacement"], 6))
    assert len(seen) >= 4, "each part has a score of its own"


def test_parts_that_cannot_be_scored(client: TestClient, slug: str, graph: dict[str, Any]) -> None:
    path = f"/api/graphs/{slug}/score"
    assert client.post(path, json={"nodes": ["9_9_9"]}).status_code == 404
    assert client.post(f"/api/graphs/{slug}x/score", json={"nodes": []}).status_code == 404
    assert client.post(path, json={"nodes": "all"}).status_code == 422
    bare = copy.deepcopy(graph)
    gone = {node["node_id"] for node in bare["nodes"] if "error" in node["feature_type"]}
    bare["nodes"] = [
        {key: value for key, value in node.items() if key != "absent"}
        for node in bare["nodes"]
        if node["node_id"] not in gone
    ]
    bare["links"] = [link for link in bare["links"] if link["source"] not in gone]
    bare["metadata"] = {key: value for key, value in bare["metadata"].items() if key != "thoughtscope"}
    bare["metadata"]["slug"] = "no-errors"
    other = client.post("/api/graphs", json=bare).json()["slug"]
    found = client.post(f"/api/graphs/{other}/score", json={"nodes": []}).json()
    assert found["replacement"] is None and "no error nodes" in found["why_unscored"]


def test_each_nodes_share_of_the_influence_is_pythons(graph: dict[str, Any]) -> None:
    whole = graph_from_json(graph)
    shares = influence_share(whole)
    rows = {
        f"{whole.layer[row]}_{whole.index[row]}_{whole.position[row]}": row for row in whole.rows("feature")
    }
    checked = 0
    for node, share in zip(graph["nodes"], graph["influence_share"], strict=True):
        if node["node_id"] in rows:
            checked += 1
            assert share == pytest.approx(shares[rows[node["node_id"]]], rel=1e-3)
        assert (share is None) == (node["feature_type"] == "logit")
    assert checked == len(rows) > 10
    assert sum(share or 0 for share in graph["influence_share"]) == pytest.approx(1, abs=0.01)


def test_what_is_suggested_holds_most_of_the_influence(graph: dict[str, Any]) -> None:
    held: dict[int, float] = {}
    for node, share in zip(graph["nodes"], graph["influence_share"], strict=True):
        if node in features_of(graph):
            held[node["ctx_idx"]] = held.get(node["ctx_idx"], 0) + share
    held.pop(len(graph["metadata"]["prompt_tokens"]) - 1)
    suggested = graph["suggested"]
    assert held[suggested["position"]] == max(held.values())
    there = [node["node_id"] for node in features_of(graph) if node["ctx_idx"] == suggested["position"]]
    assert sorted(suggested["nodes"]) == sorted(there)


# --- long work -------------------------------------------------------------------------------------------------------


def edit_of(graph: dict[str, Any], slug: str) -> dict[str, Any]:
    nodes = [node["node_id"] for node in features_of(graph)[:3]]
    return {"slug": slug, "edits": [{"nodes": nodes, "op": "scale", "value": -1.0}], "keep": False}


def test_an_intervention_streams_for_who_accepts_that(
    client: TestClient, slug: str, graph: dict[str, Any]
) -> None:
    body, accept = edit_of(graph, slug), {"Accept": "text/event-stream"}
    seen = events(client.post("/api/intervene", json=body, headers=accept).text)
    assert [kind for kind, _ in seen[:-1]] == ["progress"] * (len(seen) - 1) and len(seen) > 2
    assert [data["done"] for _, data in seen[1:-1]] == sorted(data["done"] for _, data in seen[1:-1])
    kind, outcome = seen[-1]
    plain = client.post("/api/intervene", json=body).json()
    assert kind == "outcome" and {**outcome, "created": 0} == {**plain, "created": 0}
    assert outcome["control"]["n"] == 4 and outcome["verdict"]["text"]
    wrong = {**body, "edits": [{"nodes": ["0_23_99"], "op": "ablate"}]}
    kind, data = events(client.post("/api/intervene", json=wrong, headers=accept).text)[-1]
    assert kind == "error" and data["error"]["code"] == "unknown_feature"


@pytest.mark.parametrize("result", ["graph", "outcome"])
def test_a_client_that_leaves_stops_the_work(session: Session, result: str) -> None:
    asked, stopped = threading.Event(), threading.Event()

    def verb(opened: Microscope, send: Any) -> dict[str, Any]:
        progress = progress_of(send)
        try:
            for step in range(10_000):
                progress("step", step, 10_000)
                asked.wait(0.01)
        except Stopped:
            stopped.set()
            raise
        return {}

    async def leave() -> None:
        stream = progress_events(session, verb, result)
        for _ in range(3):
            await anext(stream)
        await stream.aclose()
        await asyncio.to_thread(stopped.wait, 20)

    asyncio.run(leave())
    assert stopped.is_set()


# --- beginnings of prompts -------------------------------------------------------------------------------------------


def bare_microscope() -> Microscope:
    """A model whose tokenizer has a beginning-of-text token and does not put it."""
    model = tiny_model("gpt2", layers=2)
    model.tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return Microscope(model=model, dictionary=random_dictionary(model), bank=None, max_tokens=40)


def test_a_missing_beginning_is_said_and_put_when_asked(tmp_path: Path) -> None:
    session = Session(bare_microscope, folder=WorkFolder(tmp_path))
    client = client_of(session)
    first = trace(client, "ab")
    assert len(first["warnings"]) == 1 and "beginning-of-text" in first["warnings"][0]
    asked, without = trace(client, "ab", bos=True), trace(client, "ab", bos=False)
    assert asked["warnings"] == without["warnings"] == []
    tokens = {}
    for data in (first, asked, without):
        file = client.get(f"/api/graphs/{data['slug']}").json()
        tokens[data["slug"]] = file["metadata"]["prompt_tokens"]
        body = {"slug": data["slug"], "edits": [{"nodes": [features_of(file)[0]["node_id"]], "op": "ablate"}]}
        assert client.post("/api/intervene", json=body).status_code == 200, "the prompt is cut as it was"
    assert tokens[first["slug"]] == tokens[without["slug"]] == ["a", "b"]
    assert tokens[asked["slug"]] == ["<|begin|>", "a", "b"]
    session.trace_at_start("ab", "at-start")
    assert client.get("/api/graphs/at-start").status_code == 200
    session.close()


def test_only_the_missing_beginning_is_caught_and_only_in_this_thread(
    recwarn: pytest.WarningsRecorder,
) -> None:
    import warnings

    from thoughtscope.microscope import heard, tokens_of
    from thoughtscope.models import MissingBos

    warnings.simplefilter("always")
    opened = bare_microscope()
    with heard() as said:
        tokens_of(opened, "ab")
        warnings.warn("something else", UserWarning, stacklevel=1)
        assert not any(each.category is MissingBos for each in recwarn)
        other = threading.Thread(target=tokens_of, args=(opened, "cd"))
        other.start()
        other.join()
    assert len(said) == 1 and "begins with 'a'" in said[0]
    told = [str(each.message) for each in recwarn]
    assert told[0] == "something else" and "begins with 'c'" in told[1] and len(told) == 2
    with pytest.raises(LimitExceeded), heard():
        raise LimitExceeded("too long")
    tokens_of(opened, "ef")
    assert "begins with 'e'" in str(recwarn[-1].message), "what is heard ends with the block"


def test_a_bos_that_is_no_truth_value_is_refused(client: TestClient) -> None:
    assert client.post("/api/trace", json={"prompt": "a", "bos": "maybe"}).status_code == 422
