"""What can go wrong between a request and an answer, in its one shape: `{"error": {"code", "message"}}`."""

from __future__ import annotations

import logging

from thoughtscope.core.errors import ThoughtscopeError

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
}


class Busy(ThoughtscopeError):
    """More requests wait for the model than the queue holds."""

    code = "busy"


class Stopped(ThoughtscopeError):
    """Nobody waits for the result any more; raised inside a verb by its progress callback."""

    code = "stopped"


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": message}}


def error_of(error: BaseException) -> tuple[int, str, str]:
    """Status, code and message of any exception; what is not a user's mistake is logged, not shown."""
    if isinstance(error, ThoughtscopeError):
        return _STATUS.get(error.code, 422), error.code, str(error)
    if isinstance(error, MemoryError):
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
