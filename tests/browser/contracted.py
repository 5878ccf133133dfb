"""What the page asks of a server beyond what this one answers: each route or field is made up only where it is missing."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from tests.browser.fixture_graph import add_curve, add_influence


def add_contracted(app: FastAPI, folder: Any) -> None:
    """Adds what is missing: fields of a graph, `PUT …/layout`, `PATCH`, `DELETE` and `POST …/restore`."""
    have = {(method, route.path) for route in app.routes for method in getattr(route, "methods", None) or ()}
    kept: dict[str, dict[str, Any]] = {}
    gone: dict[str, bytes] = {}
    titles: dict[str, str] = {}

    def missing(method: str, path: str) -> bool:
        return (method, path) not in have

    async def enrich(slug: str) -> JSONResponse:
        answer = await read_graph(slug)
        if "score_curve" in answer:
            return JSONResponse(answer)
        graph = {**answer, "qParams": {**answer.get("qParams", {}), **kept.get(slug, {})}}
        add_influence(graph)
        add_curve(graph)
        return JSONResponse(graph)

    async def read_graph(slug: str) -> dict[str, Any]:
        import json

        return json.loads((await original(slug)).body)

    original = next(
        route.endpoint
        for route in app.routes
        if getattr(route, "path", "") == "/api/graphs/{slug}" and "GET" in route.methods
    )
    app.get("/api/graphs/{slug}")(enrich)
    app.router.routes.insert(0, app.router.routes.pop())

    if missing("PUT", "/api/graphs/{slug}/layout"):

        @app.put("/api/graphs/{slug}/layout")
        async def keep_layout(slug: str, body: dict[str, Any]) -> dict[str, Any]:
            kept[slug] = body
            return body

    if missing("PATCH", "/api/graphs/{slug}"):

        @app.patch("/api/graphs/{slug}")
        async def rename(slug: str, body: dict[str, Any]) -> dict[str, Any]:
            titles[slug] = body["title"]
            return body

    if missing("DELETE", "/api/graphs/{slug}"):
        add_bin(app, folder, gone)
    if missing("POST", "/api/graphs/{slug}/score"):

        @app.post("/api/graphs/{slug}/score")
        async def score_of(slug: str, body: dict[str, Any]) -> dict[str, float]:
            from thoughtscope.graphs import graph_from_json, score

            graph = graph_from_json(await read_graph(slug))
            names = [
                name.split("_") for name in body["nodes"] if "-" not in name and not name.startswith("E")
            ]
            chosen = [f"feature:{layer}:{position}:{index}" for layer, index, position in names]
            present = {str(node) for node in graph.node_ids()}
            found = score(graph, [name for name in chosen if name in present])
            return {"replacement": found.replacement, "completeness": found.completeness}

    add_session(app, titles)


def add_bin(app: FastAPI, folder: Any, gone: dict[str, bytes]) -> None:
    def file_of(slug: str) -> Any:
        return next(iter(folder.rglob(f"{slug}.json")))

    @app.delete("/api/graphs/{slug}")
    async def remove(slug: str) -> dict[str, Any]:
        path = file_of(slug)
        gone[slug] = (path, path.read_bytes())
        path.unlink()
        return {"slug": slug}

    @app.post("/api/graphs/{slug}/restore")
    async def restore(slug: str) -> dict[str, Any]:
        path, content = gone.pop(slug)
        path.write_bytes(content)
        return {"slug": slug}


def add_session(app: FastAPI, titles: dict[str, str]) -> None:
    """The session with the titles that graphs were given, and what this server offers."""
    original = next(route.endpoint for route in app.routes if getattr(route, "path", "") == "/api/session")
    from fastapi import Request

    async def about(request: Request) -> dict[str, Any]:
        session = {"offers": ["score"], **await original(request)}
        for graph in session["graphs"]:
            if graph["slug"] in titles:
                graph["title"] = titles[graph["slug"]]
        return session

    about.__annotations__ = {"request": Request, "return": dict[str, Any]}
    app.get("/api/session")(about)
    app.router.routes.insert(0, app.router.routes.pop())
