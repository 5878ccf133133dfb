"""The parts of `load`: a served specimen, what is thrown at it, and a meter of /health in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from _claim import ROOT, Unavailable

INTERVAL = 0.05
PATIENCE = 150.0
CLIENT_FILES = 4096


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server: its process, where it listens, and its token."""

    pid: int
    host: str
    port: int
    token: str

    def request(self, method: str, path: str, length: int = 0, *more: str) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Authorization: Bearer {self.token}",
            "Content-Type: application/json",
            *([f"Content-Length: {length}"] if length else []),
            *more,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def peak_memory(self) -> int:
        """The most memory that the process held, in bytes."""
        with open(f"/proc/{self.pid}/status") as file:
            line = next(line for line in file if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024


@contextlib.contextmanager
def process(command: list[str], *, files: int) -> Iterator[Served]:
    """A server that may open `files` files and no more; `command` prints `{"url": …}` once it listens."""
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )
    assert running.stdout is not None
    try:
        told = json.loads(running.stdout.readline() or "{}")
        if "url" not in told:
            raise Unavailable(f"the server did not start: {told}")
        link = urlsplit(told["url"])
        token = parse_qs(link.query)["token"][0]
        yield Served(pid=running.pid, host=str(link.hostname), port=int(link.port or 80), token=token)
    finally:
        running.send_signal(signal.SIGINT)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        running.stdout.close()


def ready(server: Served) -> None:
    """Waits until the model is loaded."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if health(server)[1].get("ready"):
                return
        time.sleep(0.2)
    raise Unavailable("the model was not loaded in time")


def health(server: Served) -> tuple[float, dict[str, Any]]:
    """Seconds of one /health over a new connection, and what it said."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    try:
        connection.request("GET", "/health")
        told = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return time.perf_counter() - began, told


# --- the meter -------------------------------------------------------------------------------------------------------


def _watch(server: Served, stop: Any, seen: Any) -> None:
    seconds, failed = [], Counter[str]()
    while not stop.is_set():
        began = time.perf_counter()
        try:
            seconds.append(health(server)[0])
        except (OSError, ValueError) as error:
            failed[type(error).__name__] += 1
            seconds.append(time.perf_counter() - began)
        time.sleep(max(0.0, INTERVAL - (time.perf_counter() - began)))
    seen.put((seconds, dict(failed)))


@contextlib.contextmanager
def meter(server: Served) -> Iterator[dict[str, Any]]:
    """Asks /health every 50 ms from another process; afterwards the yielded dict has `seconds` and `failed`."""
    context = multiprocessing.get_context("spawn")
    stop, seen = context.Event(), context.Queue()
    watcher = context.Process(target=_watch, args=(server, stop, seen))
    watcher.start()
    found: dict[str, Any] = {}
    try:
        time.sleep(1)
        yield found
    finally:
        stop.set()
        found["seconds"], found["failed"] = seen.get(timeout=90)
        watcher.join(10)


# --- what is thrown at it --------------------------------------------------------------------------------------------


def hostile(size: int) -> dict[str, bytes]:
    """Graph files of `size` bytes that cost much more than their size, or are meant to."""
    start = b'{"metadata":{"slug":"a","scan":"b","prompt_tokens":["a"],"prompt":"a"},"qParams":{},"links":[],"nodes":'
    return {
        "empty lists": start + b"[" + b"[]," * ((size - 200) // 3) + b"[]]}",
        "deep nesting": b"[" * size,
        "long chain": chain(min(100_000, size // 220)),
        "huge strings": start + b'["' + b"x" * (size - 200) + b'"]}',
    }


def chain(n: int) -> bytes:
    """A well-formed graph in which every feature feeds the next one only."""
    nodes: list[dict[str, Any]] = [
        {
            "node_id": "E_1_0",
            "feature": 0,
            "layer": "E",
            "ctx_idx": 0,
            "feature_type": "embedding",
            "clerp": "a",
        }
    ]
    nodes += [
        {
            "node_id": f"0_{i}_0",
            "feature": i,
            "layer": "0",
            "ctx_idx": 0,
            "feature_type": "cross layer transcoder",
        }
        for i in range(n)
    ]
    nodes.append({"node_id": "1_7_0", "feature": 7, "layer": "1", "ctx_idx": 0, "feature_type": "logit",
                  "token_prob": 0.9, "is_target_logit": True, "clerp": "a"})  # fmt: skip
    defaults = {"activation": 1.0, "influence": 0.5, "jsNodeId": "a-0", "reverse_ctx_idx": 0, "clerp": "",
                "token_prob": 0.0, "is_target_logit": False, "run_idx": 0}  # fmt: skip
    nodes = [{**defaults, **node} for node in nodes]
    names = [node["node_id"] for node in nodes]
    links = [{"source": a, "target": b, "weight": 0.5} for a, b in itertools.pairwise(names)]
    metadata = {"slug": "chain", "scan": "b", "prompt_tokens": ["a"], "prompt": "a"}
    return json.dumps({"metadata": metadata, "qParams": {}, "nodes": nodes, "links": links}).encode()


async def traced(server: Served, number: int) -> str:
    """One trace by a client: "done", "refused" in words, or what else came."""
    body = json.dumps({"prompt": f"calc: {number}+59="}).encode()
    status, answer = await asked(server, server.request("POST", "/api/trace", len(body)) + body)
    if status == 200 and "event: graph" in answer:
        return "done"
    if (status == 503 or "event: error" in answer) and '"busy"' in answer:
        return "refused"
    return f"{status} {answer[-80:]}"


async def uploaded(server: Served, body: bytes) -> str:
    status, answer = await asked(server, server.request("POST", "/api/graphs", len(body)), body)
    return f"{status} {answer[:100]}"


async def asked(server: Served, head: bytes, body: bytes = b"") -> tuple[int, str]:
    """Status and body of an answer; status 0 where there was none."""
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port)
    except OSError as error:
        return 0, type(error).__name__
    try:
        writer.write(head)
        for start in range(0, len(body), 1_000_000):
            writer.write(body[start : start + 1_000_000])
            await writer.drain()
        async with asyncio.timeout(PATIENCE):
            top = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, answer = int(top.split()[1]), b""
            while b"event: graph" not in answer and b'"error"' not in answer and b'"slug"' not in answer:
                part = await reader.read(65536)
                if not part:
                    break
                answer += part
        return status, answer.decode("utf-8", "replace")
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        return 0, type(error).__name__
    finally:
        writer.close()


async def half_open(server: Served, number: int, until: asyncio.Event) -> str:
    """A client that never finishes: silent, slow in its headers, or slow in its body; who ended it, and how."""
    kind = ("silent", "slow head", "slow body")[number % 3]
    start = {"silent": b"", "slow head": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
             "slow body": server.request("POST", "/api/trace", 900_000)}[kind]  # fmt: skip
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(start)
        reading = asyncio.create_task(reader.read(2000))
        while not until.is_set():
            done, _ = await asyncio.wait([reading], timeout=1)
            if done:
                said = reading.result()
                writer.close()
                return f"{kind}: closed by the server{f' ({said[9:12].decode()})' if said else ''}"
            if kind != "silent":
                writer.write(b"a")
        writer.close()
        return f"{kind}: open to the end"
    except OSError as error:
        return f"{kind}: {type(error).__name__}"


def more_files() -> None:
    """Lets this process open as many connections as the attack has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CLIENT_FILES if hard == resource.RLIM_INFINITY else min(CLIENT_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def blocked_command(seconds: float) -> list[str]:
    """A server whose event loop is held up for `seconds` by every request to /block: what the meter must see."""
    code = (
        "import json, sys, tempfile, time; from pathlib import Path\n"
        "from thoughtscope.microscope import WorkFolder; from thoughtscope.server import Session, create_app\n"
        "from thoughtscope.server.access import Access\n"
        "from thoughtscope.server.launch import Server, address, listen\n"
        "access, socket = Access(), listen('127.0.0.1', 0)\n"
        "session = Session(None, folder=WorkFolder(Path(tempfile.mkdtemp())))\n"
        "app = create_app(session, access)\n"
        "async def block():\n"
        f"    time.sleep({seconds})\n"
        "app.add_api_route('/block', block, methods=['POST'])\n"
        "link = address('127.0.0.1', socket.getsockname()[1], token=access.token)\n"
        "said = lambda: print(json.dumps({'url': link}), flush=True)\n"
        "try: Server(app, access.limits, started=said).run(sockets=[socket])\n"
        "except KeyboardInterrupt: pass\n"
    )
    return [sys.executable, "-c", code]
