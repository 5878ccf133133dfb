"""What can go wrong between a request and an answer, in its one shape: `{"error": {"code", "message"}}`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

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
    "stopped": 503,
    "out_of_memory": 507,
}


class Busy(ThoughtscopeError):
    """More requests wait for the model than the queue holds."""

    code = "busy"


class Stopped(ThoughtscopeError):
    """Nobody waits for the result any more; raised inside a verb by its progress callback."""

    code = "stopped"


class Costly(ThoughtscopeError):
    """A trace that is large, and that nobody has said yes to; `price` says what it takes, as plain JSON values."""

    code = "costly"

    def __init__(self, price: Price) -> None:
        super().__init__(f'This trace would be large: {price}. Send it again with "costly": true to make it.')
        self.price = price.to_json()


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": message}}


def error_event(error: BaseException) -> dict[str, dict[str, Any]]:
    """The body for an error in a stream, with the price of what was too costly to be made unasked."""
    _, code, message = error_of(error)
    body: dict[str, dict[str, Any]] = {**error_body(code, message)}
    if isinstance(error, Costly):
        body["error"] |= {"price": error.price}
    return body


def error_of(error: BaseException) -> tuple[int, str, str]:
    """Status, code and message of any exception; what is not a user's mistake is logged, not shown."""
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
