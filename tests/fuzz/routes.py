"""Every route of the server, in process: a valid request, damaged."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from random import Random
from typing import Any

from tests.fuzz.mutations import TEXTS, mutate
from tests.fuzz.targets import graph_files

SLUG, NODE = "kept", "NODE"
REQUESTS: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/health", None),
    ("GET", "/api/session", None),
    ("GET", "/api/graphs/kept", None),
    ("PATCH", "/api/graphs/kept", {"title": "mine"}),
    ("DELETE", "/api/graphs/none", None),
    ("POST", "/api/graphs/none/restore", None),
    ("DELETE", "/api/graphs/kept/outcomes/1", None),
    ("PUT", "/api/graphs/kept/layout", {"layout": {NODE: [1.5, -2]}}),
    ("POST", "/api/graphs", "graph"),
    ("POST", "/api/graphs", "graph"),
    ("POST", "/api/graphs", "graph"),
    ("PUT", "/api/graphs/kept/supernodes", {"supernodes": [["both", NODE, NODE]]}),
    ("PUT", "/api/graphs/kept/pins", {"pins": [NODE]}),
    ("POST", "/api/graphs/kept/score", {"nodes": [NODE]}),
    ("GET", "/api/reports/kept", None),
    ("POST", "/api/trace", {"prompt": "Hi", "node_mass": 0.5, "edge_mass": 0.5, "max_nodes": 5, "bos": None}),
    ("POST", "/api/generate", {"prompt": "Hi", "max_new_tokens": 2, "sampling": {"temperature": 0.5, "top_p": 0.9, "seed": 1},
                               "edits": [{"part": "0", "index": 1, "op": "set", "value": 2, "start": 1}]}),
    ("POST", "/api/intervene", {"slug": "kept", "edits": [{"nodes": [NODE], "op": "scale", "value": -1}], "attention": "frozen",
                                "max_new_tokens": 1, "keep": False}),
    ("POST", "/api/readings", {"prompt": "Hi", "n": 2, "bos": None}),
    ("POST", "/api/activations", {"prompt": "Hi", "features": ["1/3"], "bos": None}),
    ("POST", "/api/like", {"prompt": "Hi", "n": 3}),
    ("GET", "/api/atlas/index", None),
    ("POST", "/api/effects", {"prompt": "Hi", "n": 2, "bos": None}),
    ("GET", "/api/search?text=Hi&n=2", None),
    ("GET", "/api/features/0/1", None),
    ("PUT", "/api/labels/0/1", {"label": "Texas"}),
    ("GET", "/data/graph-metadata.json", None),
    ("GET", "/graph_data/kept.json", None),
    ("POST", "/save_graph/kept", {"qParams": {"pinnedIds": NODE, "supernodes": [["both", NODE]]}}),
    ("GET", "/features/tiny-clt/1.json", None),
    ("GET", "/index.html", None),
)  # fmt: skip


def request(random: Random) -> dict[str, Any]:
    """A damaged request: its method, its path, its body in base64's place as latin-1 text."""
    method, path, body = random.choice(REQUESTS)
    name = "body.json"
    if body == "graph":
        data = graph_files(random.choice(("ours", "neuronpedia", "circuit-tracer")))["graph.json"]
    else:
        data = b"" if body is None else json.dumps(body).replace(NODE, node()).encode()
    if data:
        data = mutate(name, data, [], random)
    if random.random() < (0.1 if data else 0.7):
        parts = path.split("/")
        at = random.randrange(1, len(parts))
        parts[at] = random.choice((*TEXTS, "%00", "%2e%2e", "a" * 3000, "1e999", "-1", "9" * 30, "a.js"))
        path = "/".join(parts)
    if random.random() < 0.05:
        method = random.choice(("GET", "POST", "PUT", "PATCH", "DELETE"))
    if random.random() < 0.1:
        path += "?" + random.choice(("token=x", "a[b]=1", "%ff=%fe", "x" * 2000))
    return {"method": method, "path": path, "body": data}


@cache
def client() -> Any:
    """The application on a folder with one graph, and its model loaded."""
    from tests.clients import client_of
    from tests.tiny_microscope import tiny_microscope
    from thoughtscope.microscope import WorkFolder, keep, trace
    from thoughtscope.server.session import Session

    folder = WorkFolder(tempfile.mkdtemp(prefix="fuzz-"))
    keep(folder, trace(tiny_microscope(), "Hi you"), SLUG)
    made = client_of(Session(tiny_microscope, folder=folder))
    made.get("/api/features/0/1")
    return made, folder


@cache
def node() -> str:
    made, _ = client()
    nodes = made.get(f"/api/graphs/{SLUG}").json()["nodes"]
    return next(node["node_id"] for node in nodes if node["feature_type"] == "cross layer transcoder")


def ask(method: str, path: str, body: bytes) -> Any:
    """Sends a request; what came back. Raises `ServerFailed` for a 5xx, and whatever the application let through."""
    from urllib.parse import quote

    from thoughtscope.core.errors import ThoughtscopeError

    made, folder = client()
    url = quote(path.encode("utf-8", "surrogatepass"), safe="/%?=&[]")
    answer = made.request(method, url, content=body)
    for slug in folder.slugs():
        if slug != SLUG:
            folder.graph_path(slug).unlink()
    if answer.status_code >= 500:
        raise ServerFailed(f"{answer.status_code}: {answer.text[:300]}")
    if answer.status_code >= 400:
        raise ThoughtscopeError(answer.text[:300])
    if made.get("/api/session").status_code != 200:
        raise ServerFailed("the session is broken by what was accepted")
    kind = answer.headers.get("content-type", "")
    texts = (
        [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        if "event-stream" in kind
        else []
    )
    if "json" in kind:
        texts = [answer.text]
    found = [json.loads(text) for text in texts]
    if any(isinstance(each, dict) and each.get("error", {}).get("code") == "internal" for each in found):
        raise ServerFailed(str(found)[:300])
    return found


class ServerFailed(Exception):
    """An answer that is the server's fault."""
