"""The server as it really runs: a socket, an address, an end."""

from __future__ import annotations

import html
import http.client
import json
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.clients import BEARER, TOKEN
from tests.tiny_microscope import tiny_microscope
from thoughtscope.core.errors import UnknownModel
from thoughtscope.microscope import WorkFolder
from thoughtscope.server.access import Access
from thoughtscope.server.launch import PortTaken, address, listen, open_privately, serve_session
from thoughtscope.server.session import Session


class Running:
    """`serve_session` in a thread of its own."""

    def __init__(self, session: Session, **settings: object) -> None:
        self.links: list[str] = []
        self.error: BaseException | None = None
        self.session = session
        self.thread = threading.Thread(target=self._serve, kwargs=settings, daemon=True)
        self.thread.start()

    def _serve(self, **settings: object) -> None:
        try:
            serve_session(self.session, Access(token=TOKEN), port=0, announce=self.links.append, **settings)  # type: ignore[arg-type]
        except BaseException as error:
            self.error = error

    def link(self) -> str:
        for _ in range(500):
            if self.links:
                return self.links[0]
            time.sleep(0.02)
        raise AssertionError(self.error or "the server did not start")


def ask(link: str, path: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(urlsplit(link).netloc, timeout=120)
    connection.request("GET", path, headers=BEARER)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def test_the_server_answers_while_the_model_loads_and_ends_with_it(tmp_path: Path) -> None:
    let_it_load = threading.Event()

    def load() -> None:
        let_it_load.wait(120)
        raise UnknownModel('There is no model "nope".')

    session = Session(load, folder=WorkFolder(tmp_path))  # type: ignore[arg-type]
    session.trace_at_start("Hi", "hi")
    running = Running(session, slug="hi")
    link = running.link()
    assert link.endswith(f"/?token={TOKEN}#g=hi")
    status, body = ask(link, "/health")
    assert status == 200 and body["ready"] is False
    let_it_load.set()
    running.thread.join(120)
    assert isinstance(running.error, UnknownModel)


def test_the_first_graph_is_there_when_the_page_asks_for_it(tmp_path: Path) -> None:
    session = Session(tiny_microscope, folder=WorkFolder(tmp_path))
    session.trace_at_start("Hi", "hi")
    running = Running(session, slug="hi")
    assert ask(running.link(), "/api/graphs/hi")[1]["metadata"]["prompt"] == "Hi"
    assert ask(running.link(), "/health")[1]["ready"] is True
    session.close()


def test_a_taken_port_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"{port}.*--port"):
            listen("127.0.0.1", port)
    with pytest.raises(PortTaken):
        listen("127.0.0.1", 70_000)
    with pytest.raises(PortTaken):
        listen("no.such.name.invalid", 0)


def test_the_address_is_one_to_click_on() -> None:
    assert address("127.0.0.1", 8321) == "http://127.0.0.1:8321/"
    assert address("0.0.0.0", 80, token="a b&c", slug="x") == "http://127.0.0.1:80/?token=a%20b%26c#g=x"
    assert address("::1", 80) == "http://[::1]:80/"


def test_the_browser_is_led_here_by_a_private_file(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    ended = threading.Event()
    link = address("127.0.0.1", 80, token=TOKEN + '"&<', slug="a&b")
    thread = threading.Thread(target=open_privately, args=(link, ended))
    thread.start()
    while not opened:
        time.sleep(0.01)
    page = Path(opened[0].removeprefix("file://"))
    assert TOKEN not in opened[0] and html.escape(link) in page.read_text()
    assert (page.stat().st_mode & 0o777, page.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    ended.set()
    thread.join(10)
    assert not page.parent.exists()


def test_the_token_comes_from_a_file_the_environment_or_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thoughtscope.cli import serve

    given: list[Access] = []
    monkeypatch.setattr(
        "thoughtscope.server.launch.serve_session", lambda _session, access, **_: given.append(access)
    )
    options = {"no_model": True, "no_browser": True, "folder": tmp_path / "work"}
    monkeypatch.delenv("THOUGHTSCOPE_TOKEN", raising=False)
    serve.serve(**options)
    serve.serve(**options)
    monkeypatch.setenv("THOUGHTSCOPE_TOKEN", "from-the-environment")
    serve.serve(**options)
    (tmp_path / "token").write_text("from-the-private-file\n")
    (tmp_path / "token").chmod(0o600)
    serve.serve(**options, token_file=tmp_path / "token")
    tokens = [access.token for access in given]
    assert tokens[0] != tokens[1]
    assert tokens[2:] == ["from-the-environment", "from-the-private-file"]


def test_no_option_takes_the_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All users of a machine can read the arguments of its processes."""
    from thoughtscope.cli import app

    monkeypatch.setattr("sys.argv", ["thoughtscope", "serve", "--token", TOKEN])
    with pytest.raises(SystemExit) as end:
        app.run()
    assert end.value.code == 2 and "No such option: --token" in capsys.readouterr().err
