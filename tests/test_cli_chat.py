# ruff: noqa: F811
"""Conversations on the command line: given in options or as a file, traced, tested, written and served."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer

from tests.chat_templates import CHATML, chat_model
from tests.test_cli import Ran, run  # noqa: F401 (a fixture)
from tests.tiny_microscope import random_dictionary
from thoughtscope.cli.asking import asked
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.graphs import read_json
from thoughtscope.microscope import Microscope


@pytest.fixture(autouse=True)
def chatting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = chat_model(CHATML)
    opened = Microscope(model=model, dictionary=random_dictionary(model), bank=None, max_tokens=200)
    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: opened)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "none"))


def test_what_is_asked(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    file.write_text(json.dumps(talk))
    assert asked("Hi", None).prompt == "Hi"
    assert asked(None, "it's").words == "--chat 'it'\"'\"'s'"
    assert asked(None, str(file)).prompt == talk
    given = asked(None, "a", system="s", answer="b")
    assert given.prompt == [{"role": "system", "content": "s"}, *talk]
    assert given.words == "--chat a --system s --answer b"
    for neither_or_both in ((None, None), ("a", "b")):
        with pytest.raises(typer.BadParameter, match="one of the two"):
            asked(*neither_or_both)
    for arguments, why in (
        (("a", None, "s"), "go with --chat"),
        ((None, str(tmp_path / "none.json")), "There is no file"),
    ):
        with pytest.raises(ThoughtscopeError, match=why):
            asked(*arguments)
    for content in ('{"role": "user", "content": "a"}', "[1]", '[{"role": "user"}]', "[]", "not JSON"):
        file.write_text(content)
        with pytest.raises(ThoughtscopeError):
            asked(None, str(file))


def test_a_conversation_is_traced_and_read_again(run, tmp_path: Path) -> None:
    out = tmp_path / "talk.graph.json"
    done: Ran = run("trace", "--chat", "Hello there", "--system", "Be brief.", "--answer", "It", "--out", out)
    assert done.code == 0, done.err
    assert done.out.startswith("system: Be brief. · user: Hello there · assistant: It\n")
    assert "--chat 'Hello there' --system 'Be brief.' --answer It" in done.out
    graph = read_json(out)
    assert [turn.role for turn in graph.turns] == ["system", "user", "assistant"]
    assert graph.prompt.endswith("<|im_start|>assistant\nIt")
    node = graph.node_id(int(graph.rows("feature")[0]))
    tested = run("intervene", "--graph", out, "--node", str(node), "--json")
    assert tested.code == 0 and tested.json["turns"] == [turn.to_json() for turn in graph.turns]
    again = run(
        "intervene",
        "--chat",
        "Hello there",
        "--system",
        "Be brief.",
        "--answer",
        "It",
        "--node",
        str(node),
        "--json",
    )
    assert again.json["kl"] == pytest.approx(tested.json["kl"], rel=1e-4)
    page = tmp_path / "talk.html"
    assert run("report", out, "--out", page).code == 0
    assert "<title>system: Be brief. · user: Hello there" in page.read_text()


def test_a_report_of_a_conversation(run, tmp_path: Path) -> None:
    page = tmp_path / "talk.html"
    assert run("report", "--chat", "Hello", "--out", page, "--max-nodes", "20").code == 0
    assert "<title>user: Hello" in page.read_text()
    assert run("trace", "--chat", "Hello", "--max-nodes", "20", "--json").json["turns"][1]["text"] == "Hello"


def test_mistakes_are_told_before_any_work(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: pytest.fail("loaded"))
    for arguments in (
        ("trace",),
        ("trace", "a", "--chat", "b"),
        ("trace", "a", "--system", "b"),
        ("report", "--out", "x.html"),
        ("intervene", "--node", "feature:0:0:0"),
        ("intervene", "--chat", "a", "--graph", "g.json", "--node", "feature:0:0:0"),
        ("serve", "--trace", "a", "--chat", "b"),
        ("serve", "--system", "b"),
        ("serve", "g.json", "--chat", "b"),
    ):
        done = run(*arguments)
        assert done.code == 2 and done.err.startswith("thoughtscope: "), (arguments, done.err)


def test_serve_traces_a_conversation_at_the_start(
    run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served = []
    monkeypatch.setattr(
        "thoughtscope.server.launch.serve_session",
        lambda session, access, **options: served.append((session, options["slug"])),
    )
    assert run("serve", "--chat", "Hello", "--folder", tmp_path, "--no-browser").code == 0
    (session, slug), *_ = served
    try:
        session._pending[slug].result(timeout=60)
        assert session.folder.read_graph(slug)["metadata"]["thoughtscope"]["turns"][1]["text"] == "Hello"
        assert slug.startswith("hello-")
    finally:
        session.close()
    assert "thoughtscope" in sys.argv[0]
