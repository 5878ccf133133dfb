"""What users get wrong, on purpose or not: each a clear error in the terminal and over HTTP, and the server lives on."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.tiny_microscope import N_FEATURES, random_dictionary, shared_model, tiny_microscope
from tests.tiny_models import tiny_model
from thoughtscope.cli import app as command_line
from thoughtscope.dictionaries import save_dictionary
from thoughtscope.microscope import WorkFolder, open_microscope
from thoughtscope.server.app import create_app
from thoughtscope.server.session import Session

EVIL = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and dictionaries on disk: one that fits, one that does not, one cut short, one altered, one with a file missing."""
    root = tmp_path_factory.mktemp("files")
    model = tiny_model("llama", layers=3, max_position_embeddings=64, eos_token_id=257, pad_token_id=258)
    model.module.save_pretrained(root / "model")
    model.tokenizer.save_pretrained(root / "model")
    save_dictionary(random_dictionary(shared_model()), root / "fits")
    save_dictionary(random_dictionary(tiny_model("llama", layers=2)), root / "wrong")
    for name, damage in (("cut", cut), ("altered", alter), ("missing", Path.unlink)):
        shutil.copytree(root / "fits", root / name)
        damage(largest(root / name))
    return root


def largest(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_size)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-16])


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[str, str]]:
    """Runs a command that must fail as a user's mistake, both ways; the error's code and message."""

    def failed(*arguments: str | Path) -> tuple[str, str]:
        words = [str(argument) for argument in arguments]
        monkeypatch.setattr(sys, "argv", ["thoughtscope", *words, "--json"])
        with pytest.raises(SystemExit) as end:
            command_line.run()
        out, err = capsys.readouterr()
        assert end.value.code == 2, (out, err)
        error = json.loads(out)["error"]
        monkeypatch.setattr(sys, "argv", ["thoughtscope", *words])
        with pytest.raises(SystemExit) as end:
            command_line.run()
        out, err = capsys.readouterr()
        assert end.value.code == 2 and out == "" and err.count("\n") == 1 and "Traceback" not in err
        assert error["message"].split()[0] in err
        return error["code"], error["message"]

    return failed


def answer_of(load: Callable[[], Any], folder: Path) -> tuple[int, dict[str, str]]:
    """What the server says to a trace when its model is loaded by `load`; it must still answer /health."""
    session = Session(load, folder=WorkFolder(folder))
    client = TestClient(create_app(session), base_url="http://localhost", raise_server_exceptions=False)
    answer = client.post("/api/trace", json={"prompt": "Hi"})
    assert client.get("/health").json()["ok"] is True
    assert client.get("/api/session").status_code == answer.status_code
    session.close()
    return answer.status_code, answer.json()["error"]


# --- models and dictionaries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["no-such-model", "./no/such/folder", "../../etc", "", "spezimen", "a" * 300, "org/\0"]
)
def test_an_unknown_model(run, files: Path, tmp_path: Path, name: str) -> None:
    if "\0" not in name:
        code, message = run("trace", "Hi", "--model", name, "--dictionary", files / "fits")
        assert code == "unknown_model" and (name[:40] in message)
    status, error = answer_of(lambda: open_microscope(name, str(files / "fits")), tmp_path)
    assert (status, error["code"]) == (404, "unknown_model")


def test_a_server_without_its_model_ends_with_the_reason(run, files: Path, tmp_path: Path) -> None:
    command = (
        "serve",
        "--model",
        "no-such-model",
        "--dictionary",
        files / "fits",
        "--no-browser",
        "--port",
        "0",
        "--folder",
        tmp_path,
    )
    monkeyed = pytest.MonkeyPatch()
    monkeyed.setattr("thoughtscope.cli.serve._announcer", lambda as_json: lambda link: None)
    try:
        assert run(*command)[0] == "unknown_model"
    finally:
        monkeyed.undo()


def test_no_dictionary_was_named(run, files: Path) -> None:
    assert run("trace", "Hi", "--model", files / "model")[0] == "dictionary_mismatch"


def test_a_dictionary_of_another_model(run, files: Path, tmp_path: Path) -> None:
    code, message = run("trace", "Hi", "--model", files / "model", "--dictionary", files / "wrong")
    assert code == "dictionary_mismatch" and "wrong hook, model or scale" in message
    status, error = answer_of(lambda: open_microscope(str(files / "model"), str(files / "wrong")), tmp_path)
    assert (status, error["code"]) == (409, "dictionary_mismatch")


@pytest.mark.parametrize("damaged", ["cut", "altered", "missing"])
def test_a_shard_that_is_missing_or_corrupt_is_named(run, files: Path, tmp_path: Path, damaged: str) -> None:
    name = largest(files / "fits").name
    code, message = run("trace", "Hi", "--model", files / "model", "--dictionary", files / damaged)
    assert code == "corrupt_artefact" and name in message
    status, error = answer_of(lambda: open_microscope(str(files / "model"), str(files / damaged)), tmp_path)
    assert (status, error["code"]) == (500, "corrupt_artefact") and name in error["message"]


def test_a_dictionary_that_is_not_there(run, files: Path) -> None:
    assert (
        run("trace", "Hi", "--model", files / "model", "--dictionary", "./nowhere")[0]
        == "dictionary_mismatch"
    )
    assert run("convert", "./nowhere", files / "out", "--format", "native")[0] == "dictionary_mismatch"
    assert run("convert", files / "model", files / "out", "--format", "native")[0] == "corrupt_artefact"


# --- prompts, features, labels, graphs, paths ------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: tiny_microscope())


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    session = Session(tiny_microscope, folder=WorkFolder(tmp_path_factory.mktemp("work")))
    yield TestClient(create_app(session), base_url="http://localhost", raise_server_exceptions=False)
    session.close()


@pytest.fixture(autouse=True)
def server_lives_on(client: TestClient) -> Iterator[None]:
    yield
    assert client.get("/health").json()["ok"] is True


@pytest.fixture(scope="module")
def graph(client: TestClient) -> dict[str, Any]:
    text = client.post("/api/trace", json={"prompt": "Hi you"}).text
    slug = json.loads(text.rsplit("data: ", 1)[1])["slug"]
    return client.get(f"/api/graphs/{slug}").json()


def refused(answer: Any) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error"} and body["error"]["message"]
    return answer.status_code, body["error"]["code"]


@pytest.mark.usefixtures("tiny")
def test_a_prompt_over_the_limit(run, client: TestClient) -> None:
    code, message = run("trace", "x" * 100)
    assert code == "limit_exceeded" and "48" in message
    assert refused(client.post("/api/trace", json={"prompt": "x" * 100})) == (422, "limit_exceeded")
    assert refused(client.post("/api/trace", content=b'{"prompt": "' + b"x" * 2_000_000 + b'"}')) == (
        413,
        "limit_exceeded",
    )


@pytest.mark.usefixtures("tiny")
def test_an_empty_prompt(run, client: TestClient) -> None:
    code, message = run("trace", "")
    assert message and code
    assert refused(client.post("/api/trace", json={"prompt": ""}))[0] == 422


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "node",
    [
        "feature:0:1:9999",
        "feature:99:1:1",
        "feature:0:999:1",
        "feature:0:1",
        "9_9_9",
        "token:0",
        "x",
        "",
        "feature:-1:1:1",
    ],
)
def test_a_feature_that_does_not_exist(run, client: TestClient, graph: dict[str, Any], node: str) -> None:
    assert run("intervene", "Hi you", "--node", node, "--scale", "-1")[0] in (
        "unknown_feature",
        "invalid_plan",
    )
    body = {"slug": graph["metadata"]["slug"], "edits": [{"nodes": [node], "op": "scale", "value": -1}]}
    assert refused(client.post("/api/intervene", json=body))[0] in (404, 422)
    assert refused(client.get(f"/api/features/0/{N_FEATURES}")) == (404, "unknown_feature")


def test_a_malicious_label_is_kept_as_plain_text(client: TestClient, graph: dict[str, Any]) -> None:
    node = next(node for node in graph["nodes"] if node["feature_type"] == "cross layer transcoder")
    layer, index, _ = node["node_id"].split("_")
    assert client.put(f"/api/labels/{layer}/{index}", json={"label": EVIL}).status_code == 200
    slug = graph["metadata"]["slug"]
    assert client.get(f"/api/features/{layer}/{index}").headers["content-type"] == "application/json"
    assert EVIL not in client.get(f"/api/reports/{slug}").text
    for label in ("\x1b]0;owned\x07", "\u202egnp.exe", "a\nb", "\ud800", "x" * 300):
        raw = json.dumps({"label": label})
        assert refused(client.put(f"/api/labels/{layer}/{index}", content=raw))[0] in (400, 422)
    assert client.get(f"/api/features/{layer}/{index}").json()["label"] == EVIL


@pytest.mark.usefixtures("tiny")
def test_a_malicious_label_cannot_command_the_terminal(
    client: TestClient, graph: dict[str, Any], tmp_path: Path, capsys
) -> None:
    evil = copy.deepcopy(graph)
    for node in evil["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            node["clerp"] = "\x1b[2Jgone \u202e"
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(evil))
    node = next(node["node_id"] for node in evil["nodes"] if node["feature_type"] == "cross layer transcoder")
    patched = pytest.MonkeyPatch()
    patched.setattr(
        sys, "argv", ["thoughtscope", "intervene", "--graph", str(path), "--node", node, "--scale", "-3"]
    )
    with pytest.raises(SystemExit):
        command_line.run()
    patched.undo()
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\u202e" not in out + err


def broken_graphs() -> dict[str, Callable[[dict[str, Any]], Any]]:
    def change(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda graph: graph | changes

    def node(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda graph: graph | {"nodes": [graph["nodes"][0] | changes, *graph["nodes"][1:]]}

    def link(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda graph: graph | {"links": [graph["links"][0] | changes, *graph["links"][1:]]}

    return {
        "not an object": lambda graph: [graph],
        "empty": lambda graph: {},
        "no nodes": lambda graph: {key: value for key, value in graph.items() if key != "nodes"},
        "nodes of another kind": change(nodes="many"),
        "a node of another kind": change(nodes=[3]),
        "a node twice": lambda graph: graph | {"nodes": [*graph["nodes"], graph["nodes"][0]]},
        "a position outside": node(ctx_idx=10**6),
        "a negative position": node(ctx_idx=-1),
        "a layer that is none": node(layer="../../etc"),
        "a huge layer": node(layer="99999999999999999999"),
        "a name of another kind": node(node_id={"a": 1}),
        "a link to nowhere": link(target="nowhere"),
        "a weight that is a text": link(weight="1"),
        "a weight that is huge": link(weight=1e300),
        "a link to itself": lambda graph: (
            graph | {"links": [graph["links"][0] | {"source": graph["links"][0]["target"]}]}
        ),
        "metadata of another kind": change(metadata=[]),
        "no prompt": lambda graph: (
            graph
            | {"metadata": {key: value for key, value in graph["metadata"].items() if key != "prompt_tokens"}}
        ),
    }


@pytest.mark.parametrize("name", broken_graphs())
def test_a_broken_graph_file(
    run, client: TestClient, graph: dict[str, Any], tmp_path: Path, name: str
) -> None:
    content = json.dumps(broken_graphs()[name](graph))
    before = client.get("/data/graph-metadata.json").json()
    assert refused(client.post("/api/graphs", content=content)) == (422, "invalid_graph")
    assert client.get("/data/graph-metadata.json").json() == before
    path = tmp_path / "broken.json"
    path.write_text(content)
    code, message = run("report", path, "--out", tmp_path / "page.html")
    assert code == "invalid_graph" and path.name in message
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 50_000,
        b'{"nodes": NaN}',
        b'{"a": Infinity}',
        b"PK\x03\x04",
        b"\x80\x04\x95.",
    ],
)
def test_a_file_that_is_no_json(run, client: TestClient, tmp_path: Path, content: bytes) -> None:
    assert refused(client.post("/api/graphs", content=content)) == (422, "invalid_graph")
    path = tmp_path / "no.json"
    path.write_bytes(content)
    assert run("report", path, "--out", tmp_path / "page.html")[0] == "invalid_graph"
    assert run("convert", path, tmp_path / "out.json", "--format", "neuronpedia")[0] == "invalid_graph"


def test_a_graph_whose_texts_attack_is_kept_and_harmless(client: TestClient, graph: dict[str, Any]) -> None:
    evil = copy.deepcopy(graph)
    evil["metadata"] |= {
        "slug": "../../../tmp/owned",
        "prompt": EVIL,
        "prompt_tokens": [EVIL] * len(graph["metadata"]["prompt_tokens"]),
    }
    slug = client.post("/api/graphs", json=evil).json()["slug"]
    assert "/" not in slug and ".." not in slug
    answer = client.get(f"/api/reports/{slug}")
    assert answer.status_code == 200 and EVIL not in answer.text
    assert "attachment" in answer.headers["content-disposition"]


@pytest.mark.usefixtures("tiny")
def test_a_path_outside_the_root(run, client: TestClient, tmp_path: Path) -> None:
    for slug in ("..%2f..%2fetc%2fpasswd", "%2e%2e", "..%5c..%5cwindows"):
        assert refused(client.get(f"/api/graphs/{slug}"))[0] in (403, 404)
        assert refused(client.put(f"/api/graphs/{slug}/pins", json={"pins": []}))[0] in (403, 404, 405)
        assert refused(client.get(f"/graph_data/{slug}.json"))[0] in (403, 404)
    assert refused(client.post("/api/intervene", json={"slug": "../../etc/passwd", "edits": []})) == (
        403,
        "path_outside_root",
    )
    assert run("trace", "Hi", "--out", tmp_path / ("x" * 300) / "graph.json")[0] == "file"
    assert run("report", tmp_path / "nowhere.json", "--out", tmp_path / "page.html")[0] in (
        "file",
        "invalid_graph",
    )
    (tmp_path / "a file").write_text("")
    assert run("serve", "--no-model", "--no-browser", "--folder", tmp_path / "a file")[0] == "invalid"
    assert run("serve", "--no-model", "--host", "0.0.0.0", "--folder", tmp_path)[0] == "unsafe_binding"
