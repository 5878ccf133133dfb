"""Features of tokens, by words and by example, over HTTP: what the verbs say, within limits, mistakes in one shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.clients import client_of
from tests.test_cli_talk import OPENED, TALK
from thoughtscope.microscope import WorkFolder, feature, like, readings, search
from thoughtscope.server.session import Session


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    session = Session(lambda: OPENED, folder=WorkFolder(tmp_path_factory.mktemp("work")))
    yield client_of(session)
    session.close()


def test_readings_are_told_once_for_each_feature(client: TestClient) -> None:
    told = client.post("/api/readings", json={"chat": TALK, "n": 3}).json()
    found = readings(OPENED, TALK, n=3)
    assert (
        told["tokens"] == list(found.tokens.pieces[0]) and told["token_ids"] == found.tokens.ids[0].tolist()
    )
    assert told["turns"] == [turn.to_json() for turn in found.tokens.turns[0]]
    assert told["at"] == [
        [{"id": each.feature.id, "value": each.value, "share": each.share} for each in here]
        for here in found.at
    ]
    assert {row["id"] for here in told["at"] for row in here} == set(told["features"])
    assert told["features"] == {name: each.to_json() for name, each in found.features.items()}
    assert max(map(len, told["at"])) == 3
    assert max(map(len, client.post("/api/readings", json={"prompt": "Hello"}).json()["at"])) == 5


def test_features_like_an_example(client: TestClient) -> None:
    told = client.post("/api/like", json={"prompt": "The cat", "n": 7}).json()
    found = like(OPENED, "The cat", n=7)
    assert told == {
        "features": [
            {**each.feature.to_json(), "value": each.value, "share": each.share, "token": each.position}
            for each in found
        ]
    }
    assert len(told["features"]) == 7


def test_features_by_words(client: TestClient) -> None:
    told = client.get("/api/search", params={"text": "went to", "n": 4}).json()["features"]
    assert told == [match.to_json() for match in search(OPENED, "went to", n=4)] and len(told) == 4
    assert {"matched", "what", "part", "index", "label", "largest", "measured", "density", "tokens"} == set(
        told[0]
    )
    place = f"{told[0]['part']}/{told[0]['index']}"
    assert client.put(f"/api/labels/{place}", json={"label": "the way to somewhere"}).status_code == 200
    (named,) = client.get("/api/search", params={"text": "Somewhere"}).json()["features"]
    assert (named["label"], named["matched"]) == ("the way to somewhere", "label")
    assert client.put(f"/api/labels/{place}", json={"label": ""}).json() == {"label": ""}
    assert client.get("/api/search", params={"text": "zebra"}).json() == {"features": []}


def test_a_feature_by_its_parts_name(client: TestClient) -> None:
    told = client.get("/api/features/1/3").json()
    assert told == feature(OPENED, "1", 3) and (told["part"], told["layer"], told["index"]) == ("1", 1, 3)
    assert client.get("/api/session").json()["dictionary"]["sites"] == ["mlp_in.0", "mlp_in.1"]
    assert client.get("/api/session").json()["dictionary"]["layers"] == [0, 1]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/api/readings", {}, 422, "invalid_request"),
        ("POST", "/api/readings", {"prompt": "a", "chat": TALK}, 422, "invalid_request"),
        ("POST", "/api/readings", {"prompt": "a", "n": 0}, 422, "invalid_request"),
        ("POST", "/api/readings", {"prompt": "a", "n": 21}, 422, "invalid_request"),
        ("POST", "/api/readings", {"prompt": "a", "edits": []}, 422, "invalid_request"),
        ("POST", "/api/readings", {"prompt": "a" * 300}, 422, "limit_exceeded"),
        ("POST", "/api/like", {"prompt": "a", "n": 101}, 422, "invalid_request"),
        ("POST", "/api/like", {"prompt": "\0"}, 422, "invalid_request"),
        ("GET", "/api/search", None, 422, "invalid_request"),
        ("GET", "/api/search?text=", None, 422, "invalid_request"),
        ("GET", "/api/search?text=a&n=101", None, 422, "invalid_request"),
        ("GET", "/api/search?text=" + "a" * 201, None, 422, "invalid_request"),
        ("GET", "/api/search?text=" + "a+" * 9, None, 422, "limit_exceeded"),
        ("GET", "/api/features/resid_post.1/3", None, 404, "unknown_feature"),
        ("PUT", "/api/labels/none/3", {"label": "a"}, 404, "unknown_feature"),
    ],
)
def test_mistakes_have_one_shape(
    client: TestClient, method: str, path: str, body: Any, status: int, code: str
) -> None:
    answer = client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


def test_spaces_alone_find_nothing(client: TestClient) -> None:
    assert client.get("/api/search", params={"text": "  "}).json() == {"features": []}
