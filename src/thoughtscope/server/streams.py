"""Server-sent events: the progress of a verb and its result, or an answer as its tokens come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastapi.responses import StreamingResponse

from thoughtscope import microscope
from thoughtscope.core.progress import Progress
from thoughtscope.microscope import Microscope
from thoughtscope.server.errors import Stopped, error_event
from thoughtscope.server.session import Session

if TYPE_CHECKING:
    from thoughtscope.models import NewTokens, Tokens

Send = Callable[[str, dict[str, Any]], None]
"""Sends an event by its kind; raises `Stopped` once nobody listens."""
Verb = Callable[[Microscope, Send], dict[str, Any]]


def streamed(events: AsyncIterator[str]) -> StreamingResponse:
    """The response that sends events as they happen."""
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def progress_events(session: Session, verb: Verb, result: str) -> AsyncIterator[str]:
    """What the verb sends, `progress` …, then the event `result`, or `error`. A client that leaves stops the work."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    gone = False

    def send(kind: str, data: dict[str, Any]) -> None:
        session.check_open()
        if gone:
            raise Stopped("The client went away.")
        # Written out here, in the verb's thread: a graph takes its time.
        loop.call_soon_threadsafe(queue.put_nowait, (kind, event(kind, data)))

    async def work() -> None:
        try:
            kind, data = result, await session.run(lambda opened: verb(opened, send))
        except Exception as error:
            kind, data = "error", error_event(error)
        queue.put_nowait((kind, event(kind, data)))

    task = asyncio.create_task(work())
    try:
        yield event("progress", {"stage": "queued", "done": 0, "total": 1})
        kind = ""
        while kind not in (result, "error"):
            kind, text = await queue.get()
            yield text
    finally:
        gone = not task.done()


def progress_of(send: Send) -> Progress:
    """The progress of a verb as events."""

    def progress(stage: str, done: int, total: int | None, **figures: float) -> None:
        said = {"stage": stage, "done": done, "total": total} | ({"figures": figures} if figures else {})
        send("progress", said)

    return progress


async def answer_events(
    session: Session, tokens: Tokens, steps: Iterator[NewTokens], warnings: list[str]
) -> AsyncIterator[str]:
    """`prompt`, then `token` …, then `answer`, or `error`.

    Each token is a piece of work of its own, so that answers to several clients come side by side, and one whose
    client has left costs no more than the token at hand.
    """
    new: list[NewTokens] = []

    def step(opened: Microscope) -> dict[str, Any] | None:
        from thoughtscope.models import token_text

        session.check_open()
        found = next(steps, None)
        if found is None:
            return None
        new.append(found)
        token = int(found.ids[0])
        told = {"text": found.texts[0], "id": token, "piece": token_text(opened.model, token)}
        return {**told, "number": len(new), "ended": found.ended[0]}

    def whole(opened: Microscope) -> dict[str, Any]:
        told = conversation_json(microscope.answered(opened, tokens, new))
        text = "".join(each.texts[0] for each in new)
        return {**told, "text": text, "ended": bool(new) and new[-1].ended[0], "warnings": warnings}

    try:
        with session.answering():
            yield event("prompt", conversation_json(tokens))
            while (said := await session.run(step)) is not None:
                yield event("token", said)
            yield event("answer", await session.run(whole))
    except Exception as error:
        yield event("error", error_event(error))


def conversation_json(tokens: Tokens) -> dict[str, Any]:
    """The tokens of one prompt, and who speaks where."""
    turns = tokens.turns[0] if tokens.turns else ()
    return {
        "tokens": list(tokens.pieces[0]),
        "token_ids": tokens.ids[0][tokens.mask[0]].tolist(),
        "turns": [turn.to_json() for turn in turns],
    }


def event(kind: str, data: dict[str, Any]) -> str:
    """One event as it travels."""
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
