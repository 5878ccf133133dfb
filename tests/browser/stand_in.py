"""The server's contract with made-up answers, so that the page can be tried and tested without a model.

`python -m tests.browser.stand_in [PORT]` serves it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

from tests.browser.fixture_graph import make_feature, make_graph

UI = Path(__file__).parents[2] / "src/thoughtscope/ui"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'"


class StandIn(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    graphs: ClassVar[dict[str, dict[str, Any]]] = {}
    labels: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[tuple[str, str, Any]]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/session":
            return self.answer(session())
        if match := re.fullmatch(r"/api/graphs/([\w.-]+)", path):
            graph = self.graphs.get(match[1])
            return (
                self.answer(graph)
                if graph
                else self.fail(404, "unknown_graph", f'There is no graph "{match[1]}".')
            )
        if match := re.fullmatch(r"/api/features/(\d+)/(\d+)", path):
            detail = make_feature(int(match[1]), int(match[2]))
            return self.answer({**detail, "label": self.labels.get(f"{match[1]}/{match[2]}", "")})
        if path.startswith("/api/reports/"):
            return self.send(200, "text/html", b"<!doctype html><title>report</title>")
        file = UI / (path.lstrip("/") or "index.html")
        if file.suffix in TYPES and file.is_file():
            return self.send(200, TYPES[file.suffix], file.read_bytes())
        return self.fail(404, "not_found", "There is nothing here.")

    def do_PUT(self) -> None:
        body = self.body()
        self.asked.append(("PUT", self.path, body))
        if match := re.fullmatch(r"/api/labels/(\d+)/(\d+)", self.path):
            self.labels[f"{match[1]}/{match[2]}"] = body["label"]
            return self.answer({"label": body["label"]})
        if match := re.fullmatch(r"/api/graphs/([\w.-]+)/(supernodes|pins)", self.path):
            query = self.graphs[match[1]]["qParams"]
            query["supernodes" if match[2] == "supernodes" else "pinnedIds"] = body[match[2]]
        self.answer({"ok": True})

    def do_POST(self) -> None:
        body = self.body()
        self.asked.append(("POST", self.path, body))
        if self.path == "/api/trace":
            return self.trace(body["prompt"])
        if self.path == "/api/graphs":
            slug = body["metadata"]["slug"]
            self.graphs[slug] = body
            return self.answer({"slug": slug})
        if self.path == "/api/intervene":
            return self.answer(outcome(body))
        return self.fail(404, "not_found", "There is nothing here.")

    def trace(self, prompt: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for done in range(1, 5):
            self.event("progress", {"stage": "expanding features", "done": done * 25, "total": 100})
            time.sleep(0.12)
        if "fail" in prompt:
            return self.event(
                "error", {"error": {"code": "limit_exceeded", "message": "The prompt is too long."}}
            )
        slug = re.sub(r"\W+", "-", prompt.lower())[:40]
        self.graphs[slug] = make_graph(len(prompt), slug=slug)
        self.graphs[slug]["metadata"]["prompt"] = prompt
        return self.event("graph", {"slug": slug})

    def event(self, kind: str, data: dict[str, Any]) -> None:
        self.wfile.write(f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()
        self.close_connection = True

    def body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null")

    def answer(self, value: Any, status: int = 200) -> None:
        self.send(status, "application/json", json.dumps(value).encode())

    def fail(self, status: int, code: str, message: str) -> None:
        self.answer({"error": {"code": code, "message": message}}, status)

    def send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)


def session() -> dict[str, Any]:
    graphs = [
        {"slug": slug, "prompt": g["metadata"]["prompt"], "created": "2026-01-05T10:00:00Z"}
        for slug, g in StandIn.graphs.items()
    ]
    return {
        "version": "0.1.0",
        "model": {
            "name": "stand-in-model",
            "n_layers": 8,
            "d_model": 256,
            "dtype": "float32",
            "device": "cpu",
            "max_tokens": 256,
        },
        "dictionary": {
            "name": "stand-in",
            "kind": "cross-layer transcoder",
            "n_features": 4096,
            "scores": {},
        },
        "graphs": graphs,
        "example_prompts": [
            "Fact: the capital of the state containing Dallas is",
            'The opposite of "small" is "',
            "calc: 36+59=",
        ],
        "problems": [],
    }


def outcome(body: dict[str, Any]) -> dict[str, Any]:
    down = all(edit["op"] == "ablate" or edit["value"] <= 1 for edit in body["edits"])
    graph = StandIn.graphs[body["slug"]]
    others = [node for node in graph["nodes"] if node["clerp"] in ("say Austin", "say a capital")][:5]
    tops = [(" Austin", 0.62), (" Texas", 0.09), (" Dallas", 0.05), (" Houston", 0.04)]
    after = (
        [(" Sacramento", 0.41), (" Albany", 0.2), (" Texas", 0.12), (" Austin", 0.04)]
        if down
        else [(" Austin", 0.7), (" Texas", 0.1)]
    )
    return {
        "before": {"top": [{"text": text, "probability": p} for text, p in tops]},
        "after": {"top": [{"text": text, "probability": p} for text, p in after]},
        "kl": 1.234, "answer": " Austin", "rank_before": 1, "rank_after": 4 if down else 1,
        "prediction": {"direction": "down", "confirmed": down, "change": -2.5, "measured": -1.9 if down else 0.4, "threshold": 0.6},
        "control": {"changes": [-0.6, 0.1, -0.2, 0.3], "largest": 0.6, "n": 4, "reason": None},
        "feature_changes": [
            {"node_id": n["node_id"], "layer": int(n["layer"]), "index": 1, "position": n["ctx_idx"], "before": n["activation"], "after": 0.4, "label": n["clerp"]}
            for n in others
        ],
        "generation_before": " Austin, and" if body["max_new_tokens"] else None,
        "generation_after": " Sacramento, and" if body["max_new_tokens"] else None,
    }  # fmt: skip


def serve(port: int = 0) -> ThreadingHTTPServer:
    """A running stand-in with one graph; close it with `shutdown()`."""
    StandIn.graphs = {"capital-of-dallas": make_graph()}
    StandIn.labels = {}
    StandIn.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", port), StandIn)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    return server


if __name__ == "__main__":
    running = serve(int(sys.argv[1]) if len(sys.argv) > 1 else 8137)
    print(f"http://127.0.0.1:{running.server_address[1]}/", flush=True)
    while True:
        time.sleep(60)
