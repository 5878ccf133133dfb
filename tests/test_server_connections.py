"""Clients that are slow, silent, many or malformed, against a real socket with short deadlines."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients import TOKEN
from thoughtscope.microscope import WorkFolder
from thoughtscope.server import Session, connections, create_app
from thoughtscope.server.access import Access
from thoughtscope.server.errors import ANSWER_HEADERS
from thoughtscope.server.launch import Server, listen
from thoughtscope.server.limits import Limits

LIMITS = Limits(
    max_head=4096, head_seconds=0.3, body_seconds=0.3, body_rate=1e6, unread_seconds=0.3, max_connections=20
)
BEARER = f"Authorization: Bearer {TOKEN}\r\n"
Address = tuple[str, int]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    session = Session(None, folder=WorkFolder(tmp_path_factory.mktemp("work")))
    listener = listen("127.0.0.1", 0)
    app = create_app(session, Access(token=TOKEN, limits=LIMITS))

    @app.get("/large")
    async def large() -> str:
        return "x" * 40_000_000

    @app.get("/busy")
    async def busy() -> None:
        await asyncio.sleep(0.5)

    own = [app.router.routes.pop() for _ in range(2)]
    app.router.routes[:0] = own  # before the page, which answers for every path
    server = Server(app, LIMITS)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "GRACE", 0.3)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()
        server.should_exit = True
        thread.join(10)
    session.close()


def connect(address: Address, *sent: str | bytes) -> socket.socket:
    client = socket.create_connection(address, timeout=10)
    for part in sent:
        client.sendall(part.encode("latin-1") if isinstance(part, str) else part)
    return client


def head(method: str, path: str, *lines: str, token: bool = True) -> str:
    given = BEARER if token else ""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{given}"
        + "".join(f"{line}\r\n" for line in lines)
        + "\r\n"
    )


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while True:
        try:
            part = client.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def parsed(answer: bytes) -> tuple[int, dict[str, str], Any]:
    top, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, json.loads(body) if body else None


def refused(answer: bytes) -> tuple[int, str]:
    """Status and code of an error that has its shape and its headers."""
    status, headers, body = parsed(answer)
    assert {name.lower(): value for name, value in ANSWER_HEADERS.items()}.items() <= headers.items()
    assert set(body) == {"error"} and set(body["error"]) == {"code", "message"}
    return status, body["error"]["code"]


def healthy(address: Address) -> bool:
    with connect(address, head("GET", "/health", "Connection: close", token=False)) as client:
        return parsed(rest(client))[2]["ok"]


def trickle(client: socket.socket, piece: bytes, seconds: float = 6.0) -> bytes:
    """Sends a piece every tenth of a second until the server closes; what it said, or fails."""
    end, said = time.monotonic() + seconds, b""
    client.settimeout(0.1)
    while time.monotonic() < end:
        try:
            part = client.recv(65536)
            if not part:
                return said
            said += part
        except TimeoutError:
            try:
                client.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                return said
        except ConnectionResetError:
            return said
    raise AssertionError("the connection was still open")


def test_silence_is_closed_without_a_word(address: Address) -> None:
    began = time.monotonic()
    with connect(address) as client:
        assert rest(client) == b""
    with connect(address, head("GET", "/health", token=False)) as client:
        status, headers, body = parsed(rest(client))
        assert status == 200 and body["ok"] is True and "connection" not in headers
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("start", ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_slow_headers_are_answered_and_closed(address: Address, start: str) -> None:
    with connect(address, start) as client:
        assert refused(trickle(client, b"a")) == (408, "too_slow")


@pytest.mark.parametrize("path", ["/api/graphs", "/api/trace", "/save_graph/a"])
@pytest.mark.parametrize("length", ["Content-Length: 900000", "Transfer-Encoding: chunked"])
def test_slow_bodies_are_answered_and_closed(address: Address, path: str, length: str) -> None:
    with connect(address, head("POST", path, length)) as client:
        assert refused(trickle(client, b"1\r\na\r\n" if "chunked" in length else b"a")) == (408, "too_slow")


def test_a_body_that_nobody_needs_does_not_hold_the_connection(address: Address) -> None:
    with connect(address, head("POST", "/api/trace", "Content-Length: 900000", token=False)) as client:
        assert refused(trickle(client, b"a")) == (401, "token_needed")


def test_a_body_is_asked_for_only_from_those_with_the_token(address: Address) -> None:
    lines = (
        "Content-Length: 2",
        "Content-Type: application/json",
        "Expect: 100-continue",
        "Connection: close",
    )
    with connect(address, head("POST", "/api/trace", *lines, token=False)) as client:
        assert rest(client).startswith(b"HTTP/1.1 401 ")
    with connect(address, head("POST", "/api/trace", *lines)) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"{}")
        assert refused(rest(client)) == (422, "invalid_request")


def test_who_does_not_read_is_not_waited_for(address: Address) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        client.sendall(head("GET", "/large").encode())
        time.sleep(1.5)
        client.settimeout(10)
        assert len(rest(client)) < 20_000_000


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ("nonsense\r\n\r\n", 400, "bad_request"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (head("POST", "/api/trace", "Content-Length: x"), 400, "bad_request"),
        (head("POST", "/api/trace", "Content-Length: -1"), 400, "bad_request"),
        (head("POST", "/api/trace", "Transfer-Encoding: chunked") + "zz\r\n", 400, "bad_request"),
        (head("GET", "/" + "a" * 9000), 431, "limit_exceeded"),
        (head("GET", "/", "X-A: " + "a" * 9000), 431, "limit_exceeded"),
        (head("GET", "/" + "a" * 3000 + ".js"), 404, "not_found"),
        (head("GET", "/%00%ff%ed%a0%80.js"), 404, "not_found"),
        (head("BREW", "/api/session"), 405, "method_not_allowed"),
        (head("POST", "/api/trace", f"Content-Length: {10**9}"), 413, "limit_exceeded"),
    ],
)
def test_what_is_malformed_is_refused_in_the_one_shape(
    address: Address, sent: str, status: int, code: str
) -> None:
    with connect(address, sent) as client:
        assert refused(rest(client)) == (status, code)
    assert healthy(address)


def test_the_oldest_idle_connections_make_room(address: Address) -> None:
    idle = [connect(address) for _ in range(60)]
    began = time.monotonic()
    assert healthy(address)
    assert time.monotonic() - began < 2
    idle[0].settimeout(0.1)
    assert rest(idle[0]) == b"", "the first to come is the first to go"
    for client in idle:
        client.close()


def test_slow_bodies_make_room_where_nobody_is_idle(address: Address) -> None:
    sending = [connect(address, head("POST", "/api/trace", "Content-Length: 9")) for _ in range(25)]
    assert healthy(address)
    sending[-1].sendall(b"123456789")
    assert sending[-1].recv(12) == b"HTTP/1.1 422"
    assert rest(sending[0]) == b""
    for client in sending:
        client.close()


def test_connections_at_work_are_not_closed_for_new_ones(address: Address) -> None:
    working = [connect(address, head("GET", "/busy")) for _ in range(20)]
    time.sleep(0.1)
    with connect(address, head("GET", "/health", token=False)) as client:
        assert refused(rest(client)) == (503, "busy")
    for client in working:
        assert client.recv(12) == b"HTTP/1.1 200"
        client.close()


def test_connections_leave_descriptors_for_files(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    for soft, hard, limit, wanted in (
        (256, 256, 128, []),
        (256, 1_000_000, 3968, [(4096, 1_000_000)]),
        (1024, resource.RLIM_INFINITY, 3968, [(4096, resource.RLIM_INFINITY)]),
        (100, 100, 25, []),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 4096, []),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, now=(soft, hard): now)
        assert connections.room() == limit
        assert asked == wanted
        asked.clear()
