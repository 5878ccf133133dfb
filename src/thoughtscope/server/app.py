"""The application: routes over the verbs, one error shape, and the gate of `security` in front of everything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import thoughtscope
from thoughtscope import microscope
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.microscope import Change, Microscope
from thoughtscope.server.access import Access
from thoughtscope.server.atlas import add_atlas
from thoughtscope.server.bodies import StrictRoute, answered
from thoughtscope.server.errors import Costly, error_of, error_response
from thoughtscope.server.found import found_json, like_json, readings_json
from thoughtscope.server.gate import Gate
from thoughtscope.server.login import add_login, without_token
from thoughtscope.server.session import Session
from thoughtscope.server.streams import Send, answer_events, progress_events, progress_of, streamed
from thoughtscope.server.wire import (
    MAX_FOUND,
    ActivationsRequest,
    GenerateRequest,
    GraphRequest,
    InterveneRequest,
    LabelRequest,
    LayoutRequest,
    LikeRequest,
    PartName,
    PinsRequest,
    ReadingsRequest,
    ScoreRequest,
    SupernodesRequest,
    TraceRequest,
    Words,
)

if TYPE_CHECKING:
    from thoughtscope.graphs import Graph, Price
    from thoughtscope.models import NewTokens, Tokens

_HTTP_CODES = {
    400: "bad_request",
    401: "unauthorised",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "limit_exceeded",
    422: "invalid_request",
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


def files_of(folder: Path) -> dict[str, Path]:
    """The page's files by their paths on the server: what is not listed here cannot be asked for."""
    root = folder.resolve()
    found = (path for path in sorted(root.rglob("*")) if path.suffix in _MEDIA_TYPES and path.is_file())
    listed = {f"/{path.relative_to(root).as_posix()}": path for path in found if path.resolve() == path}
    pages = {"/": "/index.html", "/chat": "/chat.html", "/atlas": "/atlas.html"}
    return {path: listed[name] for path, name in pages.items() if name in listed} | listed


def create_app(session: Session, access: Access | None = None, *, page: Path | None = None) -> FastAPI:
    """The FastAPI application for one session. Interactive API docs are off, as they would load from a CDN;
    the description itself is at `/openapi.json`."""
    access = access or Access()
    page_files = files_of(page or page_folder())
    app = FastAPI(title="thoughtscope", version=thoughtscope.__version__, docs_url=None, redoc_url=None)
    app.router.route_class = StrictRoute
    app.add_middleware(Gate, access=access, public=frozenset({"/health", *page_files}))
    _add_error_handlers(app)
    add_login(app, access)
    _add_graph_routes(app, session)
    _add_derived_routes(app, session)
    _add_model_routes(app, session)
    _add_feature_routes(app, session)
    _add_answer_route(app, session)
    add_atlas(app, session)
    _add_viewer_routes(app, session)
    _add_page(app, page_files, access)
    return app


# --- graphs ----------------------------------------------------------------------------------------------------------


def _add_graph_routes(app: FastAPI, session: Session) -> None:
    checking = asyncio.Semaphore(1)  # a large file takes memory and Python's lock: one after the other

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"ok": True, "version": thoughtscope.__version__, "ready": session.ready}

    @app.get("/api/session")
    async def about() -> dict[str, Any]:
        return await session.describe()

    @app.get("/api/graphs/{slug}")
    async def read_graph(slug: str) -> Response:
        await session.settled(slug)
        return await answered(microscope.page_graph, session.folder, slug)

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
        async with checking:
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
                return microscope.tokens_of(opened, body.asked, bos=body.bos), said

        # A prompt that is too long is refused with a status of its own, before the stream starts.
        tokens, said = await session.run(cut)

        def approve(price: Price) -> None:
            if price.is_large and not body.costly:
                raise Costly(price)

        def verb(opened: Microscope, send: Send) -> dict[str, Any]:
            def snapshot(graph: Graph) -> None:
                send("snapshot", microscope.page_snapshot(graph))

            graph = microscope.trace(
                opened,
                tokens,
                node_mass=body.node_mass,
                edge_mass=body.edge_mass,
                max_nodes=body.max_nodes,
                influence_bound=body.influence_bound,
                approve=approve,
                on_snapshot=snapshot if body.snapshots else None,
                progress=progress_of(send),
            )
            return {"slug": microscope.keep(session.folder, graph), "warnings": said}

        return streamed(progress_events(session, verb, "graph"))

    @app.post("/api/intervene", response_model=None)
    async def intervene(body: InterveneRequest, request: Request) -> StreamingResponse | dict[str, Any]:
        """A stream of progress for who accepts one, else one answer."""
        changes = [Change(nodes=edit.nodes, op=edit.op, value=edit.value) for edit in body.edits]

        def verb(opened: Microscope, send: Send) -> dict[str, Any]:
            return microscope.intervene_kept(
                opened,
                session.folder,
                body.slug,
                changes,
                attention=body.attention,
                max_new_tokens=body.max_new_tokens,
                keep=body.keep,
                progress=progress_of(send),
            )

        if "text/event-stream" in request.headers.get("accept", ""):
            return streamed(progress_events(session, verb, "outcome"))
        return await session.run(lambda opened: verb(opened, lambda *_: session.check_open()))


def _add_feature_routes(app: FastAPI, session: Session) -> None:
    """One feature by its part's name (of transcoders, the layer's number) and index, and ways to find some."""

    @app.get("/api/features/{part}/{index}")
    async def feature(part: PartName, index: Number) -> Response:
        return await answered(microscope.feature, await session.microscope(), part, index)

    @app.put("/api/labels/{part}/{index}")
    async def label(part: PartName, index: Number, body: LabelRequest) -> dict[str, str]:
        opened = await session.microscope()
        kept = await asyncio.to_thread(microscope.label, opened, part, index, body.label, author=body.author)
        return {"label": kept}

    @app.get("/api/search")
    async def search(text: Words, n: Annotated[int, Query(ge=1, le=MAX_FOUND)] = 20) -> Response:
        return await answered(found_json, await session.microscope(), text, n)

    @app.post("/api/like")
    async def like(body: LikeRequest) -> Response:
        def verb(opened: Microscope) -> list[microscope.Strength]:
            with microscope.heard():
                tokens = microscope.tokens_of(opened, body.asked, bos=body.bos)
            return microscope.like(opened, tokens, n=body.n)

        return await answered(like_json, await session.run(verb))

    @app.post("/api/readings")
    async def readings(body: ReadingsRequest) -> Response:
        def verb(opened: Microscope) -> microscope.Readings:
            with microscope.heard():
                tokens = microscope.tokens_of(opened, body.asked, bos=body.bos)
            return microscope.readings(opened, tokens, n=body.n)

        return await answered(readings_json, await session.run(verb))

    @app.post("/api/activations")
    async def activations(body: ActivationsRequest) -> Response:
        def verb(opened: Microscope) -> dict[str, list[float]]:
            with microscope.heard():
                tokens = microscope.tokens_of(opened, body.asked, bos=body.bos)
            return microscope.activations(opened, tokens, body.features)

        return await answered(lambda values: {"values": values}, await session.run(verb))


def _add_answer_route(app: FastAPI, session: Session) -> None:
    @app.post("/api/generate", response_class=StreamingResponse)
    async def generate(body: GenerateRequest) -> StreamingResponse:
        """What the model says next, a token at a time, with features changed or not."""

        def begin(opened: Microscope) -> tuple[Tokens, list[str], Iterator[NewTokens]]:
            from thoughtscope.models import Sampling

            with microscope.heard() as said:
                tokens = microscope.tokens_of(opened, body.asked, bos=body.bos)
            sampling = None if body.sampling is None else Sampling(**body.sampling.model_dump())
            steps = microscope.answer(
                opened,
                tokens,
                [edit.model_dump() for edit in body.edits],
                max_new_tokens=body.max_new_tokens,
                sampling=sampling,
                attention=body.attention,
            )
            return tokens, said, steps

        # What cannot be answered is refused with a status of its own, before the stream starts.
        tokens, said, steps = await session.run(begin)
        return streamed(answer_events(session, tokens, steps, said))


# --- other viewers, the page, errors ---------------------------------------------------------------------------------


def _add_viewer_routes(app: FastAPI, session: Session) -> None:
    """The paths that Anthropic's viewer and circuit-tracer's ask for, so that either can be pointed at this server."""

    @app.get("/data/graph-metadata.json")
    async def graph_list() -> Response:
        def listed() -> dict[str, Any]:
            rows = session.folder.summaries()
            return {"graphs": [{**row["metadata"], "slug": row["slug"]} for row in rows]}

        return await answered(listed)

    @app.get("/graph_data/{slug}.json")
    async def graph_data(slug: str) -> Response:
        await session.settled(slug)
        return await answered(microscope.kept_file, session.folder, slug)

    @app.post("/save_graph/{slug}")
    async def save_graph(slug: str, request: Request) -> dict[str, str]:
        body = await request.body()
        await asyncio.to_thread(microscope.keep_query, session.folder, slug, body)
        return {"status": "success"}

    @app.get("/features/{scan}/{number}.json")
    async def feature_of_viewer(scan: str, number: Number) -> Response:
        return await answered(microscope.feature_of_viewer, await session.microscope(), scan, number)


def _add_page(app: FastAPI, page: Mapping[str, Path], access: Access) -> None:
    @app.get("/", include_in_schema=False, response_model=None)
    @app.get("/chat", include_in_schema=False, response_model=None)
    @app.get("/atlas", include_in_schema=False, response_model=None)
    async def start(request: Request) -> Response:
        return await without_token(request, access) or await page_file(request.url.path.removeprefix("/"))

    @app.get("/{path:path}", include_in_schema=False)
    async def page_file(path: str) -> FileResponse:
        file = page.get(f"/{path}")
        if file is None:
            raise HTTPException(404, "There is nothing here.")
        kind = _MEDIA_TYPES[file.suffix]
        return FileResponse(file, media_type=kind, headers={"Cache-Control": "no-cache"})


def _add_error_handlers(app: FastAPI) -> None:
    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "path", "query"))
        message = str(first["msg"]).removeprefix("Value error, ")
        return error_response(422, "invalid_request", f"{where}: {message}" if where else message)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _HTTP_CODES.get(error.status_code, "http_error")
        return error_response(error.status_code, code, str(error.detail), error.headers)

    async def failed(request: Request, error: Exception) -> Response:
        return error_response(*error_of(error))

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        RequestValidationError: invalid,
        HTTPException: refused,
        ThoughtscopeError: failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
