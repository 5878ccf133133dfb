"""The gate in front of every route: who may ask, how much they may send, and the headers on every answer.

Plain ASGI, so that streams pass through untouched. Order: size, Host, Origin, token.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.server.errors import error_body, error_of

COOKIE = "thoughtscope_token"
READS = frozenset({"GET", "HEAD", "OPTIONS"})
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'self'",
        "img-src 'self' data:",
        "style-src 'self' 'unsafe-inline'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
ANSWER_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class UnsafeBinding(ThoughtscopeError):
    """The server would be reachable from other machines without a token."""

    code = "unsafe_binding"


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may talk to the server. `token` guards writes; without one the server stays on the loopback interface."""

    host: str = "127.0.0.1"
    token: str | None = None
    allowed_hosts: frozenset[str] = frozenset()
    """Extra names a browser may use for this machine; loopback names and `host` are always allowed."""
    max_body: int = 1_000_000
    """Bytes; a graph upload may be larger."""
    max_graph: int = 64_000_000
    """Bytes of an uploaded graph file."""

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token:
            raise UnsafeBinding(
                f'Host "{self.host}" is reachable from other machines. '
                "Give --token SECRET as well, or stay on 127.0.0.1."
            )
        if self.token is not None and len(self.token) < 16:
            raise UnsafeBinding("The token is too short to be a secret: give 16 characters or more.")

    def knows(self, name: str) -> bool:
        """Whether `name` (a Host header without its port) may be used for this server.

        A rebound DNS name betrays itself only here. Bound to every interface, an address is as good as a name,
        since an attacker's page cannot make the browser send one.
        """
        known = {"localhost", "127.0.0.1", "::1", self.host.lower(), *self.allowed_hosts}
        if name in known:
            return True
        if is_loopback(self.host):
            return False
        return _is_address(name) or name == socket.gethostname().lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """`localhost`, 127.0.0.0/8 and ::1; every other name or address counts as reachable."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _host_name(header: str) -> str | None:
    """The name in a Host header, lower case, without port and brackets; None when it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    plain = not (parts.path or parts.query or parts.fragment or parts.username is not None)
    return parts.hostname if plain else None


class Gate:
    """The ASGI middleware that applies an `Access` and adds the headers to every answer, errors included."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = _with_headers(send)
        refusal = self._refuse(scope, headers)
        if refusal is not None:
            await _answer(*refusal)(scope, receive, send)
            return
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if scope["path"] == "/" and token and self._token_fits(token):
            # The link with the token is opened once; from then on a cookie, which scripts cannot read, carries it.
            answer = RedirectResponse("/", status_code=303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, send)
            return
        scope.setdefault("state", {})["may_write"] = self.may_write(headers)
        await self._limited(scope, receive, send)

    def may_write(self, headers: Headers) -> bool:
        """Whether the request carries the token (always true where none is needed)."""
        if self.access.token is None:
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._token_fits(bearer.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._token_fits(cookie.value)

    def _token_fits(self, given: str) -> bool:
        return self.access.token is not None and hmac.compare_digest(
            given.encode(), self.access.token.encode()
        )

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self._body_limit(scope):
            return _too_large(self._body_limit(scope))
        name = _host_name(headers.get("host", ""))
        if name is None or not self.access.knows(name):
            return (
                403,
                "unknown_host",
                "The Host header is not this server's. Open it as localhost, or use --allow-host.",
            )
        if scope["method"] in READS:
            return None
        origin = headers.get("origin")
        same = origin is None or urlsplit(origin).netloc.lower() == headers["host"].lower()
        if not same or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "foreign_origin", "Only this server's own page may change things."
        if not self.may_write(headers):
            return (
                401,
                "token_needed",
                "Writes need the token: open the link that the server printed, or send a bearer token.",
            )
        return None

    def _body_limit(self, scope: Scope) -> int:
        upload = scope["method"] == "POST" and scope["path"] == "/api/graphs"
        return self.access.max_graph if upload else self.access.max_body

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application; cuts off a body that came without a length, and answers for what it did not catch."""
        limit, seen, started = self._body_limit(scope), 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _BodyTooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except _BodyTooLarge:
            refusal = _too_large(limit)
        except Exception as error:
            refusal = error_of(error)
        else:
            return
        if not started:
            await _answer(*refusal)(scope, receive, send)


class _BodyTooLarge(BaseException):
    """Passes through the application's own `except Exception`."""


def _answer(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse(error_body(code, message), status_code=status)


def _too_large(limit: int) -> tuple[int, str, str]:
    return 413, "limit_exceeded", f"The body is larger than the {limit:,} bytes allowed here."


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in ANSWER_HEADERS.items():
                headers[name] = value
        await send(message)

    return wrapped
