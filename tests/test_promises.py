"""Promises of docs/security.md that no single package keeps: nothing is contacted, no secret is written, results repeat."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from tests.autograd_oracle import random_dictionary
from tests.browser.fixture_graph import make_graph
from tests.command_lines import run_commands
from tests.tiny_models import tiny_model
from thoughtscope import attribute, encode
from thoughtscope.models import capture, tokens_from_ids

ROOT = Path(__file__).parents[1]
PROMPT = "Fact: the capital of the state containing Dallas is"

# Writes down every look-up of a name and every connection, and says them in the end; nothing is held back, so that what
# would go out does try.
WATCH = """
import atexit, sys
seen = []
def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto", "socket.gethostbyname"):
        place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        seen.append((event, str(place)))
sys.addaudithook(hook)
atexit.register(lambda: print("asked:", seen, file=sys.stderr))
"""

COMMANDS = (
    ("trace", PROMPT, "--out", "graph.json"),
    ("report", "graph.json", "--out", "report.html"),
    ("intervene", PROMPT, "--at", "Dallas", "--scale", "-1"),
    ("convert", "specimen/plt", "plt", "--format", "circuit-tracer"),
    ("study",),
    ("doctor",),
    ("fetch", "--list"),
)
"""Every kind of command that is not asked for anything of the network; `fetch NAME` is the one that is."""


@pytest.mark.slow
def test_no_command_asks_the_network_for_anything(tmp_path: Path) -> None:
    """With the hub allowed, on the model that ships: no name is looked up, nothing is connected to."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "XDG_DATA_HOME": str(tmp_path / "data")}
    told = run_commands(COMMANDS, tmp_path, environment, before=WATCH)
    assert told.rstrip().endswith("asked: []"), told


def test_the_watch_sees_a_connection() -> None:
    look = WATCH + "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60)
    assert "socket.getaddrinfo" in done.stderr and "socket.connect" in done.stderr


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3"])
def test_the_same_trace_twice_is_the_same_to_the_bit(family: str) -> None:
    model = tiny_model(family)
    dictionary = random_dictionary(model)
    tokens = tokens_from_ids(model, [[3, 1, 4, 1, 5, 9, 2, 6]])
    one, two = (attribute(model, dictionary, tokens) for _ in range(2))
    assert (one.edges != two.edges).nnz == 0 and one.edges.nnz > 20
    for name in ("kind", "layer", "position", "index", "value", "bias", "absent"):
        first, second = getattr(one, name), getattr(two, name)
        assert first.tobytes() == second.tobytes(), name


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma3"])
def test_a_prompt_in_a_batch_of_eight_has_the_features_that_it_has_alone(family: str) -> None:
    model = tiny_model(family)
    dictionary = random_dictionary(model)
    random = torch.Generator().manual_seed(5)
    rows = [torch.randint(model.vocab_size, (4 + n,), generator=random).tolist() for n in range(8)]
    together = capture(model, tokens_from_ids(model, rows), dictionary.sites)
    for number, ids in enumerate(rows):
        alone = capture(model, tokens_from_ids(model, [ids]), dictionary.sites)
        for site in dictionary.sites:
            batched = together[site][number, -len(ids) :]
            torch.testing.assert_close(batched, alone[site][0], rtol=1e-5, atol=1e-5)
        assert len(encode(dictionary, alone)) > 0


@dataclass(frozen=True)
class Running:
    """A server of its own process, without a model, whose token is a word to look for."""

    process: subprocess.Popen[str]
    port: int
    home: Path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, float]:
        """Status, and seconds until the answer was there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        start = time.perf_counter()
        connection.request(method, path, body, {"Authorization": f"Bearer {CANARY}", **headers})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, time.perf_counter() - start

    def kilobytes(self) -> int:
        told = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True
        )
        return int(told.stdout)


CANARY = "canary-3f9c2ab41d7e6058"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "THOUGHTSCOPE_TOKEN": CANARY,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    command = [
        sys.executable,
        "-m",
        "thoughtscope",
        "serve",
        "--no-model",
        "--no-browser",
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url = urlsplit(json.loads(process.stdout.readline())["url"])
        yield Running(process, url.port, tmp_path)
        process.kill()


OVER = {
    "a body": ("PUT", "/api/graphs/a/pins", b" " * 1_000_001),
    "pins": ("PUT", "/api/graphs/a/pins", json.dumps({"pins": ["x"] * 5000}).encode()),
    "groups": ("PUT", "/api/graphs/a/supernodes", json.dumps({"supernodes": [["a", "b"]] * 5000}).encode()),
    "a prompt": ("POST", "/api/trace", json.dumps({"prompt": "a " * 20_000}).encode()),
    "nodes": ("POST", "/api/trace", json.dumps({"prompt": "a", "max_nodes": 10**9}).encode()),
    "edits": (
        "POST",
        "/api/intervene",
        json.dumps({"slug": "a", "edits": [{"nodes": ["x"], "op": "ablate"}] * 500}).encode(),
    ),
    "depth": ("PUT", "/api/graphs/a/layout", b"[" * 100_000 + b"]" * 100_000),
}


@pytest.mark.slow
def test_what_is_over_a_limit_costs_next_to_nothing(running: Running) -> None:
    """Refused within a tenth of a second each, and twenty at once within 50 MB."""
    for name, (method, path, body) in OVER.items():
        answers = [running.ask(method, path, body, **{"Content-Type": "application/json"}) for _ in range(3)]
        assert {status for status, _ in answers} <= {413, 422}, name
        assert min(seconds for _, seconds in answers) < 0.1, name
    before = running.kilobytes()
    with ThreadPoolExecutor(20) as pool:
        sent = [pool.submit(running.ask, *list(OVER.values())[number % len(OVER)]) for number in range(20)]
        assert {answer.result()[0] for answer in sent} <= {413, 422}
    assert running.kilobytes() - before < 50_000
    assert running.ask("GET", "/health")[0] == 200


@pytest.mark.slow
def test_the_token_is_in_no_file_log_or_argument(running: Running) -> None:
    graph = json.dumps(make_graph(layers=3, features=24)).encode()
    assert running.ask("POST", "/api/graphs", graph)[0] == 200
    assert running.ask("GET", f"/?token={CANARY}")[0] == 303
    assert running.ask("GET", "/api/session")[0] == 200
    assert running.ask("GET", "/nothing?token=wrong")[0] in (401, 404)
    assert running.ask("PUT", "/api/graphs/a/pins", b"{")[0] in (400, 422)
    told = subprocess.run(
        ["ps", "-o", "args=", "-p", str(running.process.pid)], capture_output=True, text=True
    )
    assert "serve" in told.stdout and CANARY not in told.stdout
    running.process.terminate()
    out, err = running.process.communicate(timeout=30)
    assert CANARY not in out + err
    written = [path for path in running.home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".json" for path in written)
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
