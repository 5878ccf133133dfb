"""The application: routes over the verbs, one error shape, and the gate of `security` in front of everything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

import thoughtscope
from thoughtscope import microscope
from thoughtscope.core.errors import PathOutsideRoot, ThoughtscopeError
from thoughtscope.core.progress import Progress
from thoughtscope.microscope import Change, Microscope
from thoughtscope.server.errors import Stopped, error_body, error_of
from thoughtscope.server.security import Access, Gate
from thoughtscope.server.session import Session
from thoughtscope.server.wire import (
    GraphRequest,
    InterveneRequest,
    LabelRequest,
    LayoutRequest,
    PinsRequest,
    ScoreRequest,
    SupernodesRequest,
    TraceRequest,
)

if TYPE_CHECKING:
    from thoughtscope.models import Tokens

_HTTP_CODES = {
    400: "bad_request",
    401: "unauthorised",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
Number = Annotated[int, PathParameter(ge=0, le=2**31)]


def page_folder() -> Path:
    """Where the page's files lie in the installed package."""
    return Path(str(files(thoughtscope))) / "ui"


def create_app(session: Session, access: Access | None = None, *, page: Path | None = None) -> FastAPI:
    """The FastAPI application for one session. Interactive API docs are off, as they would load from a CDN;
    the description itself is at `/openapi.json`."""
    app = FastAPI(title="thoughtscope", version=thoughtscope.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, access=access or Access())
    _add_error_handlers(app)
    _add_graph_routes(app, session)
    _add_derived_routes(app, session)
    _add_model_routes(app, session)
    _add_viewer_routes(app, session)
    _add_page(app, page or page_folder())
    return app


# --- graphs ----------------------------------------------------------------------------------------------------------


def _add_graph_routes(app: FastAPI, session: Session) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"ok": True, "version": thoughtscope.__version__, "ready": session.ready}

    @app.get("/api/session")
    async def about(request: Request) -> dict[str, Any]:
        return await session.describe(read_only=not request.state.may_write)

    @app.get("/api/graphs/{slug}")
    async def read_graph(slug: str) -> JSONResponse:
        await session.settled(slug)
        return JSONResponse(await asyncio.to_thread(microscope.page_graph, session.folder, slug))

    @app.patch("/api/graphs/{slug}")
    async def rename(slug: str, body: GraphRequest) -> dict[str, str]:
        await asyncio.to_thread(session.folder.rename, slug, body.title)
        return {"title": body.title}

    @app.delete("/api/graphs/{slug}")
    async def remove(slug: str) -> dict[str, str]:
        await asyncio.to_thread(session.folder.remove, slug)
        return {"removed": slug}

    @app.post("/api/graphs/{slug}/restore")
    async def restore(slug: str) -> dict[str, str]:
        await asyncio.to_thread(session.folder.restore, slug)
        return {"slug": slug}

    @app.delete("/api/graphs/{slug}/outcomes/{number}")
    async def drop_outcome(slug: str, number: Number) -> dict[str, int]:
        await asyncio.to_thread(session.folder.drop_outcome, slug, number)
        return {"removed": number}

    @app.put("/api/graphs/{slug}/layout")
    async def keep_layout(slug: str, body: LayoutRequest) -> dict[str, Any]:
        await asyncio.to_thread(microscope.lay_out, session.folder, slug, body.layout)
        return {"layout": body.layout}

    @app.post("/api/graphs")
    async def keep_graph(request: Request) -> dict[str, str]:
        body = await request.body()
        return {"slug": await asyncio.to_thread(microscope.keep_file, session.folder, body)}

    @app.put("/api/graphs/{slug}/supernodes")
    async def keep_supernodes(slug: str, body: SupernodesRequest) -> dict[str, Any]:
        await asyncio.to_thread(microscope.arrange, session.folder, slug, body.supernodes)
        return {"supernodes": body.supernodes}

    @app.put("/api/graphs/{slug}/pins")
    async def keep_pins(slug: str, body: PinsRequest) -> dict[str, Any]:
        await asyncio.to_thread(microscope.pin, session.folder, slug, body.pins)
        return {"pins": body.pins}


def _add_derived_routes(app: FastAPI, session: Session) -> None:
    """What is made of a kept graph when somebody asks."""

    @app.post("/api/graphs/{slug}/score")
    async def score(slug: str, body: ScoreRequest) -> dict[str, Any]:
        return await asyncio.to_thread(microscope.score_part, session.folder, slug, body.nodes)

    @app.get("/api/reports/{slug}")
    async def report(slug: str) -> HTMLResponse:
        opened = await session.microscope() if session.loading else None
        html = await asyncio.to_thread(microscope.report, session.folder, slug, opened)
        # A file for the disk: its one inline script is allowed by its own hash, here it is only ever downloaded.
        return HTMLResponse(html, headers={"Content-Disposition": f'attachment; filename="{slug}.html"'})


# --- model -----------------------------------------------------------------------------------------------------------


def _add_model_routes(app: FastAPI, session: Session) -> None:
    @app.post("/api/trace", response_class=StreamingResponse)
    async def trace(body: TraceRequest) -> StreamingResponse:
        def cut(opened: Microscope) -> tuple[Tokens, list[str]]:
            with microscope.heard() as said:
                return microscope.tokens_of(opened, body.prompt, bos=body.bos), said

        # A prompt that is too long is refused with a status of its own, before the stream starts.
        tokens, said = await session.run(cut)

        def verb(opened: Microscope, progress: Progress) -> dict[str, Any]:
            graph = microscope.trace(
                opened,
                tokens,
                node_mass=body.node_mass,
                edge_mass=body.edge_mass,
                max_nodes=body.max_nodes,
                progress=progress,
            )
            return {"slug": microscope.keep(session.folder, graph), "warnings": said}

        return _stream(session, verb, "graph")

    @app.post("/api/intervene", response_model=None)
    async def intervene(body: InterveneRequest, request: Request) -> StreamingResponse | dict[str, Any]:
        """A stream of progress for who accepts one, else one answer."""
        changes = [Change(nodes=edit.nodes, op=edit.op, value=edit.value) for edit in body.edits]

        def verb(opened: Microscope, progress: Progress) -> dict[str, Any]:
            return microscope.intervene_kept(
                opened,
                session.folder,
                body.slug,
                changes,
                attention=body.attention,
                max_new_tokens=body.max_new_tokens,
                keep=body.keep,
                progress=progress,
            )

        if "text/event-stream" in request.headers.get("accept", ""):
            return _stream(session, verb, "outcome")
        return await session.run(lambda opened: verb(opened, lambda *_, **__: session.check_open()))

    @app.get("/api/features/{layer}/{index}")
    async def feature(layer: Number, index: Number) -> JSONResponse:
        opened = await session.microscope()
        return JSONResponse(await asyncio.to_thread(microscope.feature, opened, layer, index))

    @app.put("/api/labels/{layer}/{index}")
    async def label(layer: Number, index: Number, body: LabelRequest) -> dict[str, str]:
        opened = await session.microscope()
        return {"label": await asyncio.to_thread(microscope.label, opened, layer, index, body.label)}


Verb = Callable[[Microscope, Progress], dict[str, Any]]


def _stream(session: Session, verb: Verb, result: str) -> StreamingResponse:
    """The events of one verb, as they happen."""
    return StreamingResponse(
        _events(session, verb, result), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


async def _events(session: Session, verb: Verb, result: str) -> AsyncIterator[str]:
    """Server-sent events: `progress` …, then the event `result`, or `error`. A client that leaves stops the work."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    gone = False

    def progress(stage: str, done: int, total: int | None, **figures: float) -> None:
        session.check_open()
        if gone:
            raise Stopped("The client went away.")
        said = {"stage": stage, "done": done, "total": total} | ({"figures": figures} if figures else {})
        loop.call_soon_threadsafe(queue.put_nowait, ("progress", said))

    async def work() -> None:
        try:
            queue.put_nowait((result, await session.run(lambda opened: verb(opened, progress))))
        except Exception as error:
            _, code, message = error_of(error)
            queue.put_nowait(("error", error_body(code, message)))

    task = asyncio.create_task(work())
    try:
        yield _event("progress", {"stage": "queued", "done": 0, "total": 1})
        kind = ""
        while kind not in (result, "error"):
            kind, data = await queue.get()
            yield _event(kind, data)
    finally:
        gone = not task.done()


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


# --- other viewers, the page, errors ---------------------------------------------------------------------------------


def _add_viewer_routes(app: FastAPI, session: Session) -> None:
    """The paths that Anthropic's viewer and circuit-tracer's ask for, so that either can be pointed at this server."""

    @app.get("/data/graph-metadata.json")
    async def graph_list() -> JSONResponse:
        rows = await asyncio.to_thread(session.folder.summaries)
        return JSONResponse({"graphs": [{**row["metadata"], "slug": row["slug"]} for row in rows]})

    @app.get("/graph_data/{slug}.json")
    async def graph_data(slug: str) -> JSONResponse:
        await session.settled(slug)
        return JSONResponse(await asyncio.to_thread(microscope.kept_file, session.folder, slug))

    @app.post("/save_graph/{slug}")
    async def save_graph(slug: str, request: Request) -> dict[str, str]:
        body = await request.body()
        await asyncio.to_thread(microscope.keep_query, session.folder, slug, body)
        return {"status": "success"}

    @app.get("/features/{scan}/{number}.json")
    async def feature_of_viewer(scan: str, number: Number) -> JSONResponse:
        opened = await session.microscope()
        return JSONResponse(await asyncio.to_thread(microscope.feature_of_viewer, opened, scan, number))


def _add_page(app: FastAPI, page: Path) -> None:
    root = page.resolve()

    @app.get("/{path:path}", include_in_schema=False)
    async def page_file(path: str) -> FileResponse:
        if "\0" in path:
            raise PathOutsideRoot("A path has no NUL character.")
        if len(path) > 200:  # no file of the page; the file system would raise
            raise HTTPException(404, "There is nothing here.")
        target = (root / (path or "index.html").replace("\\", "/").lstrip("/")).resolve()
        if not target.is_relative_to(root):
            raise PathOutsideRoot("This path leads outside the page's folder.")
        if target.suffix not in _MEDIA_TYPES or not target.is_file():
            raise HTTPException(404, "There is nothing here.")
        return FileResponse(
            target, media_type=_MEDIA_TYPES[target.suffix], headers={"Cache-Control": "no-cache"}
        )


def _add_error_handlers(app: FastAPI) -> None:
    def answer(status: int, code: str, message: str) -> JSONResponse:
        return JSONResponse(error_body(code, message), status_code=status)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "path", "query"))
        message = str(first["msg"]).removeprefix("Value error, ")
        return answer(422, "invalid_request", f"{where}: {message}" if where else message)

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return answer(error.status_code, _HTTP_CODES.get(error.status_code, "http_error"), str(error.detail))

    async def failed(request: Request, error: Exception) -> JSONResponse:
        return answer(*error_of(error))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[JSONResponse]]] = {
        RequestValidationError: invalid,
        HTTPException: refused,
        ThoughtscopeError: failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
