"""The live page of curves: trainings' figures, read anew from their folders whenever the page asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from thoughtscope.reports.curves import build_curves, curves_page, part
from thoughtscope.server.access import Access
from thoughtscope.server.gate import Gate
from thoughtscope.server.launch import Server, address, listen, open_privately
from thoughtscope.server.login import without_token
from thoughtscope.training.log import find_runs

PUBLIC = frozenset({"/", "/curves.js", "/health"})
"""What may be read without the token: the page itself, which holds no figures."""


def create_curves_app(folders: Sequence[Path], access: Access) -> FastAPI:
    """The application: a page, its script, and the figures of all trainings in `folders`."""
    app = FastAPI(title="thoughtscope curves", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Gate, access=access, public=PUBLIC)

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/", response_model=None)
    async def page(request: Request) -> Response:
        return await without_token(request, access) or HTMLResponse(
            curves_page(None), headers={"Cache-Control": "no-cache"}
        )

    @app.get("/curves.js")
    async def script() -> Response:
        return Response(part("curves.js"), media_type="text/javascript; charset=utf-8")

    @app.get("/curves.json")
    async def figures() -> Response:
        found = await asyncio.to_thread(lambda: build_curves(find_runs(folders)).to_json())
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    return app


def serve_curves(
    folders: Sequence[Path],
    *,
    port: int = 0,
    browser: bool = False,
    announce: Callable[[str], None] = print,
) -> None:
    """Serves on the loopback interface until interrupted; `announce` gets the link, with the token."""
    access = Access()
    listener = listen(access.host, port)
    link, ended = address(access.host, listener.getsockname()[1], token=access.token), threading.Event()
    opener = threading.Thread(target=open_privately, args=(link, ended), daemon=True)

    def started() -> None:
        announce(link)
        if browser:
            opener.start()

    server = Server(create_curves_app(folders, access), access.limits, started=started)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # the usual way to stop a server
    finally:
        ended.set()
        listener.close()
        if opener.is_alive():
            opener.join(2)


@contextmanager
def serving_curves(folders: Sequence[Path], *, port: int = 0) -> Iterator[str]:
    """The same in a thread, for as long as the block runs; gives the link."""
    access = Access()
    listener = listen(access.host, port)
    listening = threading.Event()
    server = Server(create_curves_app(folders, access), access.limits, started=listening.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="curves", daemon=True)
    thread.start()
    listening.wait(10)
    try:
        yield address(access.host, listener.getsockname()[1], token=access.token)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
