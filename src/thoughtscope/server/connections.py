"""Connections that take too long or are too many. uvicorn's protocol, which has no such bounds, with deadlines, a
number, and errors in this server's shape."""

from __future__ import annotations

import asyncio
import resource
import sys
from http import HTTPStatus
from typing import Any, Literal

from uvicorn.protocols.http.h11_impl import H11Protocol

from thoughtscope.server.errors import ANSWER_HEADERS, error_bytes
from thoughtscope.server.limits import Limits

Phase = Literal["head", "body", "answer", "unread", "rest", "closing"]
"""What a connection waits for: the client's request, or its body; the server's answer; the client to read it; the rest
of a body that nobody needs; the last bytes to leave."""

GRACE = 5.0
"""Seconds after which a connection is closed without a word: where the answer was told, or a word is not heard."""
WANTED_FILES = 4096
RESERVED_FILES = 128
"""Descriptors that stay free for the model's and the folder's files."""


class Connection(H11Protocol):
    """One connection of a browser or a program. `check` is called now and then, and ends what takes too long."""

    def __init__(self, *arguments: Any, limits: Limits, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.limits = limits
        self.since = self.loop.time()  # of this phase
        self.heard = self.since
        self._got = 0  # bytes in this phase
        self._surplus = False
        self._seen: tuple[Phase, object] = ("head", None)

    @property
    def phase(self) -> Phase:
        if self.transport.is_closing():
            return "closing"
        if self.flow.write_paused:
            return "unread"
        if self.cycle is None or self.cycle.response_complete:
            return "rest" if self.cycle is not None and self.cycle.more_body else "head"
        return "body" if self.cycle.more_body else "answer"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        if self._surplus:
            self.refuse(503, "busy", "Too many connections are open. Try again in a moment.")
            return
        self.heard = self.loop.time()
        self._got += len(data)
        super().data_received(data)

    def check(self, now: float) -> None:
        """Ends the connection if its phase has lasted longer than that may."""
        seen = (self.phase, self.cycle)
        if seen != self._seen:
            self._seen, self.since, self._got = seen, now, 0
        phase = self.phase
        allowed = {
            "head": self.limits.head_seconds,
            "body": self.limits.body_time(self._got) + GRACE,  # the gate refuses it first, in words
            "unread": self.limits.unread_seconds,
            "rest": GRACE,
            "closing": GRACE,
        }
        if now - self.since <= allowed.get(phase, float("inf")):
            return
        if phase in ("closing", "unread"):
            self.transport.abort()
        elif phase == "head" and self._got:
            self.refuse(408, "too_slow", "The request came too slowly.")
        else:
            self.transport.close()

    def refuse(self, status: int, code: str, message: str) -> None:
        """Answers without the application, and closes."""
        started = False
        if self.cycle is not None and not self.cycle.response_complete:
            started = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not started:
            body = error_bytes(code, message)
            lines = {
                **ANSWER_HEADERS,
                "Content-Type": "application/json",
                "Content-Length": len(body),
                "Connection": "close",
            }
            head = [
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                *(f"{name}: {value}" for name, value in lines.items()),
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this while it handles h11's refusal of a malformed request, which knows its status."""
        if getattr(sys.exc_info()[1], "error_status_hint", 400) == 431:
            self.refuse(431, "limit_exceeded", "The request's line and headers are too long.")
        else:
            self.refuse(400, "bad_request", "This is not a well-formed HTTP request.")

    def _make_room(self) -> None:
        """Ends the connection that waits for a client which has been silent longest. Where all others are at work,
        this one is refused as soon as it asks for something."""
        others = [one for one in self.connections if isinstance(one, Connection) and one is not self]
        waiting = [one for one in others if one.phase in ("head", "body")]
        if not waiting:
            self._surplus = True
            return
        silent = min(waiting, key=lambda one: one.heard)
        self.connections.discard(silent)
        silent.transport.abort()


def room() -> int:
    """How many connections this process has descriptors for. Raises the soft limit as far as is useful and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return WANTED_FILES
    most = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError):
            pass  # the system has a lower limit of its own
    return max(soft - RESERVED_FILES, soft // 4)
