"""JSON in and out, without holding up the event loop: what is parsed or written takes its time in another thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import HTTPException
from fastapi.responses import Response
from fastapi.routing import APIRoute

from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError
from thoughtscope.core.parsing import strict_json

STEP = 2_000
"""Elements that are written at a time. `json` holds Python's lock from a call's first element to its last."""


class StrictRequest(Request):
    """A request whose JSON is parsed off the event loop, and strictly."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            try:
                self._json = await asyncio.to_thread(strict_json, await self.body(), "The body")
            except ThoughtscopeError as error:
                status = 413 if isinstance(error, LimitExceeded) else 422
                raise HTTPException(status, str(error)) from None
        return self._json


class StrictRoute(APIRoute):
    """A route that gets a `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


async def answered(verb: Callable[..., Any], *arguments: Any) -> Response:
    """The answer of a verb that may be large, made and written in another thread."""

    def made() -> bytes:
        return b"".join(in_steps(verb(*arguments)))

    return Response(await asyncio.to_thread(made), media_type="application/json")


def in_steps(value: Any) -> Iterator[bytes]:
    """JSON, of which no step takes long: the long lists of an object are written a few elements at a time.

    Raises `ValueError` for NaN and infinity.
    """
    if not isinstance(value, dict):
        yield _written(value)
        return
    opening = b"{"
    for key, part in value.items():
        yield opening + _written(str(key)) + b":"
        opening = b","
        if isinstance(part, list) and len(part) > STEP:
            for start in range(0, len(part), STEP):
                piece = _written(part[start : start + STEP])[1:-1]
                yield (b"[" if start == 0 else b",") + piece
            yield b"]"
        else:
            yield _written(part)
    yield b"}" if value else b"{}"


def _written(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(
        "utf-8", "replace"
    )  # half of a surrogate pair, which an older file may hold, becomes "?"
