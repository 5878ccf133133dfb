"""The gate in front of every route: who may ask, how much they may send and how slowly, the headers on every answer.

Plain ASGI, so that streams pass through untouched. Order: Host, Origin, token, body.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thoughtscope.server.access import Access, host_name
from thoughtscope.server.errors import ANSWER_HEADERS, Busy, Refused, error_of, error_response

READS = frozenset({"GET", "HEAD", "OPTIONS"})
LOGIN = "/login"


class Gate:
    """The ASGI middleware that applies an `Access` and adds the headers to every answer, errors included.

    `public` are the paths that may be read without the token; a login asks for it itself.
    """

    def __init__(self, app: ASGIApp, access: Access, public: frozenset[str]) -> None:
        self.app = app
        self.access = access
        self.public = public
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the answer to GET without its body
        try:
            headers = Headers(scope=scope)
            self._admit(scope, headers)
            async with self._body(scope, headers, receive) as received:
                await self.app(scope, received, answer)
        except ClientDisconnect:
            return
        except Exception as error:
            refusal = error_of(error)
            if not answer.begun:
                await error_response(*refusal)(scope, receive, answer)

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Raises `Refused` for a head that is too large, a foreign Host, a foreign page that wants to write, and a
        request without the token."""
        told = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if (
            told + sum(len(name) + len(value) + 4 for name, value in scope["headers"])
            > self.access.limits.max_head
        ):
            raise Refused(431, "limit_exceeded", "The request's line and headers are too long.")
        name = host_name(headers.get("host", ""))
        if name is None or not self.access.knows(name):
            raise Refused(
                403,
                "unknown_host",
                "The Host header is not this server's. Open it as localhost, or use --allow-host.",
            )
        reads = scope["method"] in READS
        origin = headers.get("origin")
        same = origin is None or urlsplit(origin).netloc.lower() == headers["host"].lower()
        if not reads and not (
            same and headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        ):
            raise Refused(403, "foreign_origin", "Only this server's own page may change things.")
        path = scope["path"]
        open_to_all = (
            path in self.public if scope["method"] == "GET" else (scope["method"], path) == ("POST", LOGIN)
        )
        if not open_to_all and not self.access.admits(headers):
            raise Refused(
                401,
                "token_needed",
                "This server asks for its token: open the link that it printed, or send the token as a bearer header.",
            )

    @asynccontextmanager
    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> AsyncIterator[Receive]:
        """Reads the whole body, so that nothing behind the gate waits for a client; what then hands it out.

        Raises `Refused` for a body that is too large or too slow, `Busy` when too many graph files are read already.
        """
        if "content-length" not in headers and "transfer-encoding" not in headers:
            yield receive
            return
        limits = self.access.limits
        is_graph = (scope["method"], scope["path"]) == ("POST", "/api/graphs")
        limit = limits.max_graph if is_graph else limits.max_body
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > limit:
            raise _too_large(limit)
        if is_graph and self._uploads >= limits.max_uploads:
            raise Busy(f"{limits.max_uploads} graph files are being read already. Try again in a moment.")
        self._uploads += is_graph
        try:
            yield _replayed(await self._read(receive, limit), receive)
        finally:
            self._uploads -= is_graph

    async def _read(self, receive: Receive, limit: int) -> bytes:
        body, began = bytearray(), asyncio.get_running_loop().time()
        more = True
        while more:
            try:
                async with asyncio.timeout_at(began + self.access.limits.body_time(len(body))):
                    message = await receive()
            except TimeoutError:
                raise Refused(408, "too_slow", "The body came too slowly. Send it again.") from None
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
            if len(body) + len(part) > limit:
                raise _too_large(limit)
            if not body and not more:
                return part  # the usual case, without a copy
            body += part
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body which is already here, and then what the connection says."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


class _Answer:
    """A `send` that adds the headers, leaves out the body where only the head was asked for, and knows if it began."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.begun = False
        self._send = send
        self._head_only = scope["method"] == "HEAD"

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            headers = MutableHeaders(scope=message)
            for name, value in ANSWER_HEADERS.items():
                headers[name] = value
        elif self._head_only:
            message = {**message, "body": b""}
        await self._send(message)


def _too_large(limit: int) -> Refused:
    return Refused(413, "limit_exceeded", f"The body is larger than the {limit:,} bytes allowed here.")
