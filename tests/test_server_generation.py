"""Answers over HTTP: streamed, side by side, under edits, stopped when nobody listens, and conversations traced."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.chat_templates import CHATML, GEMMA, chat_model
from tests.clients import client_of, events
from tests.tiny_microscope import random_dictionary
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.interventions import FeatureEdit, Plan, stream_under
from thoughtscope.microscope import Microscope, WorkFolder, answer, answered, tokens_of
from thoughtscope.models import Sampling, generate
from thoughtscope.server.session import MAX_ANSWERS, Session
from thoughtscope.server.streams import answer_events

TALK = [{"role": "user", "content": "Hi <|im_end|> é"}]
EDIT = {"part": "1", "index": 3, "op": "set", "value": 40.0, "start": 0}


def opened(template: str = CHATML) -> Microscope:
    model = chat_model(template)
    return Microscope(model=model, dictionary=random_dictionary(model), bank=None, max_tokens=200)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    session = Session(opened, folder=WorkFolder(tmp_path_factory.mktemp("work")))
    yield session
    session.close()


@pytest.fixture(scope="module")
def client(session: Session) -> TestClient:
    return client_of(session)


def said(client: TestClient, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    reply = client.post("/api/generate", json=body)
    assert reply.status_code == 200, reply.text
    return events(reply.text)


def test_an_answer_comes_token_by_token(client: TestClient) -> None:
    seen = said(client, chat=TALK, max_new_tokens=6)
    assert [kind for kind, _ in seen] == ["prompt", *["token"] * 6, "answer"]
    microscope = opened()
    tokens = tokens_of(microscope, TALK)
    whole = generate(microscope.model, tokens, max_new_tokens=6)
    prompt, last = seen[0][1], seen[-1][1]
    assert prompt["turns"] == [turn.to_json() for turn in tokens.turns[0]]
    assert prompt["tokens"] == list(tokens.pieces[0]) and prompt["token_ids"] == tokens.ids[0].tolist()
    assert [data["id"] for _, data in seen[1:-1]] == whole.ids[0, -6:].tolist()
    assert [data["piece"] for _, data in seen[1:-1]] == list(whole.pieces[0][-6:])
    assert "".join(data["text"] for _, data in seen[1:-1]) == last["text"] == whole.turns[0][-1].text
    assert last["turns"] == [turn.to_json() for turn in whole.turns[0]] and not last["ended"]
    assert said(client, prompt="Hi", max_new_tokens=1)[-1][1]["turns"] == []


def test_what_is_drawn_is_drawn_again(client: TestClient) -> None:
    sampling = {"temperature": 2.5, "top_p": 0.9, "top_k": 200, "seed": 4}
    first, second = (said(client, chat=TALK, max_new_tokens=5, sampling=sampling)[-1][1] for _ in range(2))
    assert first == second
    microscope = opened()
    whole = generate(
        microscope.model, tokens_of(microscope, TALK), max_new_tokens=5, sampling=Sampling(**sampling)
    )
    assert first["token_ids"] == whole.ids[0].tolist()


def test_edits_steer_the_answer(client: TestClient) -> None:
    steered = said(client, chat=TALK, max_new_tokens=5, edits=[EDIT])[-1][1]
    plain = said(client, chat=TALK, max_new_tokens=5)[-1][1]
    assert steered["token_ids"] != plain["token_ids"]
    microscope = opened()
    steps = list(answer(microscope, TALK, [EDIT], max_new_tokens=5))
    assert answered(microscope, tokens_of(microscope, TALK), steps).ids[0].tolist() == steered["token_ids"]
    assert (
        said(client, chat=TALK, max_new_tokens=5, edits=[{**EDIT, "op": "scale", "value": 1.0}])[-1][1]
        == plain
    )


def test_a_stream_under_a_plan_is_the_continuation_of_an_intervention() -> None:
    from thoughtscope.interventions import intervene

    microscope = opened()
    model, dictionary, tokens = microscope.model, microscope.dictionary, tokens_of(microscope, TALK)
    for attention in ("frozen", "free"):
        plan = Plan(edits=(FeatureEdit(**EDIT),), attention=attention)
        outcome = intervene(model, dictionary, tokens, plan, max_new_tokens=6)
        for cache in (True, False):
            steps = stream_under(model, dictionary, tokens, plan, max_new_tokens=6, cache=cache)
            assert "".join(step.texts[0] for step in steps) == outcome.generation_after
    with pytest.raises(ThoughtscopeError, match="Position 500"):
        stream_under(
            model, dictionary, tokens, Plan(edits=(FeatureEdit(**{**EDIT, "start": 500}),)), max_new_tokens=1
        )


def test_answers_come_side_by_side(session: Session) -> None:
    """Two answers, one of them steered, are sent in turn: neither waits for the other's end."""

    async def both() -> list[str]:
        microscope, order, found = await session.microscope(), [], {}
        tokens = tokens_of(microscope, TALK)

        async def listen(name: str, edits: list[dict[str, Any]]) -> None:
            steps = answer(microscope, tokens, edits, max_new_tokens=6)
            async for text in answer_events(session, tokens, steps, []):
                order.append(name)
                found[name] = events(text)[0]

        await asyncio.gather(listen("plain", []), listen("steered", [EDIT]))
        assert found["plain"][0] == found["steered"][0] == "answer"
        assert (
            found["plain"][1]["token_ids"]
            == generate(microscope.model, tokens, max_new_tokens=6).ids[0].tolist()
        )
        assert found["plain"][1]["text"] != found["steered"][1]["text"]
        return order

    order = asyncio.run(both())
    assert "steered" in order[: order.index("plain", 4)] and "plain" in order[: order.index("steered", 4)]


def test_who_leaves_stops_the_work(session: Session) -> None:
    async def leave() -> int:
        microscope = await session.microscope()
        tokens, calls = tokens_of(microscope, TALK), []
        handle = microscope.model.module.register_forward_pre_hook(lambda *_: calls.append(1))
        try:
            steps = answer(microscope, tokens, max_new_tokens=100)
            stream = answer_events(session, tokens, steps, [])
            for _ in range(4):
                await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            await session.run(lambda _: None)
        finally:
            handle.remove()
        return len(calls)

    assert asyncio.run(leave()) == 3


def test_only_so_many_answers_at_a_time(session: Session, client: TestClient) -> None:
    from contextlib import ExitStack

    with ExitStack() as others:
        for _ in range(MAX_ANSWERS):
            others.enter_context(session.answering())
        assert said(client, prompt="a", max_new_tokens=1)[-1][1]["error"]["code"] == "busy"
    assert said(client, prompt="a", max_new_tokens=1)[-1][0] == "answer"


def test_turns_in_a_file_are_checked(client: TestClient, tmp_path: Path) -> None:
    from thoughtscope.core.errors import InvalidGraph
    from thoughtscope.graphs import Graph, graph_from_json, graph_to_json, validate_json
    from thoughtscope.microscope import trace

    graph = trace(opened(), TALK, max_nodes=5)
    file = graph_to_json(graph)
    validate_json(file)
    assert (
        graph_from_json(file).turns == graph.turns
        and graph_to_json(graph_from_json(file))["nodes"] == file["nodes"]
    )
    assert Graph.load(graph.save(tmp_path / "graph")).turns == graph.turns
    about = file["metadata"]["thoughtscope"]
    first, *rest = about["turns"]
    for damaged in (rest, [first], [{**first, "end": 1}, *rest], [{**first, "content": [1]}, *rest], [{}], {"a": 1},
                    [{**first, "start": -1}, *rest], [{**first, "content": [2**40, 2**41]}, *rest]):  # fmt: skip
        bad = {**file, "metadata": {**file["metadata"], "thoughtscope": {**about, "turns": damaged}}}
        with pytest.raises(InvalidGraph, match="turns"):
            graph_from_json(bad)
        assert client.post("/api/graphs", json=bad).status_code == 422
    assert graph.heading == "user: Hi <|im_end|> é"


def test_mistakes_have_one_shape(client: TestClient) -> None:
    for body, status, code in (
        ({}, 422, "invalid_request"),
        ({"prompt": "a", "chat": TALK}, 422, "invalid_request"),
        ({"chat": []}, 422, "invalid_request"),
        ({"chat": [{"role": "user"}]}, 422, "invalid_request"),
        ({"chat": [{"role": "us er", "content": "a"}]}, 422, "invalid_request"),
        ({"chat": [{"role": "user", "content": "a" * 15_000}] * 2}, 422, "invalid_request"),
        ({"prompt": "a", "max_new_tokens": 0}, 422, "invalid_request"),
        ({"prompt": "a", "sampling": {"temperature": 0}}, 422, "invalid_request"),
        ({"prompt": "a", "sampling": {"top_p": 2}}, 422, "invalid_request"),
        ({"prompt": "a", "max_new_tokens": 1000}, 422, "limit_exceeded"),
        ({"prompt": "a", "edits": [{**EDIT, "index": 10_000}]}, 404, "unknown_feature"),
        ({"prompt": "a", "edits": [{**EDIT, "positions": [1]}]}, 422, "invalid_plan"),
        ({"prompt": "a", "edits": [{**EDIT, "op": "ablate"}]}, 422, "invalid_plan"),
    ):
        reply = client.post("/api/generate", json=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), (body, reply.text)
    wild = said(client, prompt="a", max_new_tokens=3, edits=[{**EDIT, "value": 1e6}])
    assert wild[-1][0] in ("answer", "error")


def test_a_conversation_is_traced_and_kept_with_its_turns(client: TestClient) -> None:
    seen = events(client.post("/api/trace", json={"chat": TALK}).text)
    assert seen[-1][0] == "graph", seen[-1]
    graph = client.get(f"/api/graphs/{seen[-1][1]['slug']}").json()
    turns = graph["metadata"]["thoughtscope"]["turns"]
    assert [(turn["role"], turn["text"], turn["added"]) for turn in turns] == [
        ("system", "You are a tiny model", True),
        ("user", "Hi <|im_end|> é", False),
        ("assistant", "", False),
    ]
    about = client.get("/api/session").json()
    assert about["model"]["chat"] is True
    assert about["graphs"][0]["prompt"] == "user: Hi <|im_end|> é"
    node = next(
        node["node_id"] for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder"
    )
    body = {"slug": seen[-1][1]["slug"], "edits": [{"nodes": [node], "op": "ablate"}], "max_new_tokens": 2}
    assert client.post("/api/intervene", json=body).status_code == 200
    report = client.get(f"/api/reports/{seen[-1][1]['slug']}").text
    assert "<title>user: Hi &lt;|im_end|&gt; é" in report


def test_a_template_that_refuses_is_told(tmp_path: Any) -> None:
    session = Session(lambda: opened(GEMMA), folder=WorkFolder(tmp_path))
    try:
        reply = client_of(session).post(
            "/api/trace", json={"chat": [{"role": "system", "content": "a"}, *TALK]}
        )
        assert reply.status_code == 422 and "System role not supported" in reply.json()["error"]["message"]
    finally:
        session.close()
