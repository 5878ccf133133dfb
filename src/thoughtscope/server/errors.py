"""What can go wrong between a request and an answer, in its one shape: `{"error": {"code", "message"}}`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.memory import is_allocation_failure

if TYPE_CHECKING:
    from thoughtscope.graphs import Price

log = logging.getLogger("thoughtscope.server")

_STATUS = {
    "unknown_graph": 404,
    "unknown_feature": 404,
    "unknown_model": 404,
    "path_outside_root": 403,
    "dictionary_mismatch": 409,
    "corrupt_artefact": 500,
    "no_model": 409,
    "busy": 503,
    "not_written": 507,
    "stopped": 503,
    "out_of_memory": 507,
}
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
"""On every answer, whoever makes it."""


class Busy(ThoughtscopeError):
    """More requests wait for the model, or more files are being read, than there is room for."""

    code = "busy"


class Stopped(ThoughtscopeError):
    """Nobody waits for the result any more; raised inside a verb by its progress callback."""

    code = "stopped"


class Refused(Exception):
    """A request that goes no further, with the status of its answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Costly(ThoughtscopeError):
    """A trace that is large, and that nobody has said yes to; `price` says what it takes, as plain JSON values."""

    code = "costly"

    def __init__(self, price: Price) -> None:
        super().__init__(f'This trace would be large: {price}. Send it again with "costly": true to make it.')
        self.price = price.to_json()


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": message}}


def error_bytes(code: str, message: str) -> bytes:
    """The body as it travels: plain ASCII, so that a message may quote whatever was sent."""
    return json.dumps(error_body(code, message)).encode()


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return Response(
        error_bytes(code, message),
        status_code=status,
        media_type="application/json",
        headers={**more, **(headers or {})},
    )


def error_event(error: BaseException) -> dict[str, dict[str, Any]]:
    """The body for an error in a stream, with the price of what was too costly to be made unasked."""
    _, code, message = error_of(error)
    body: dict[str, dict[str, Any]] = {**error_body(code, message)}
    if isinstance(error, Costly):
        body["error"] |= {"price": error.price}
    return body


def error_of(error: BaseException) -> tuple[int, str, str]:
    """Status, code and message of any exception; what is not a user's mistake is logged, not shown."""
    if isinstance(error, Refused):
        return error.status, error.code, str(error)
    if isinstance(error, ThoughtscopeError):
        return _STATUS.get(error.code, 422), error.code, str(error)
    if is_allocation_failure(error):
        return (
            507,
            "out_of_memory",
            "This needs more memory than there is. Use a shorter prompt or fewer nodes.",
        )
    log.error("a request failed", exc_info=error)
    return (
        500,
        "internal",
        f"The server failed on this request ({type(error).__name__}); its log has the details.",
    )
