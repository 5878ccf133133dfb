"""Promises of docs/security.md that no single package keeps: nothing is contacted, no secret is written, results repeat."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.autograd_oracle import random_dictionary
from tests.tiny_models import tiny_model
from thoughtscope import attribute, encode
from thoughtscope.models import capture, tokens_from_ids

ROOT = Path(__file__).parents[1]
PROMPT = "Fact: the capital of the state containing Dallas is"

# Runs a command with every look-up of a name and every connection written down; nothing is held back, so that what
# would go out does try.
WATCHED = """
import sys
seen = []
def hook(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.sendto", "socket.gethostbyname"):
        place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        seen.append((event, str(place)))
sys.addaudithook(hook)
sys.argv = ["thoughtscope", *sys.argv[1:]]
try:
    from thoughtscope.cli import main
    main()
finally:
    print("asked:", seen, file=sys.stderr)
"""

COMMANDS = (
    ("trace", PROMPT, "--out", "graph.json"),
    ("report", "graph.json", "--out", "report.html"),
    ("intervene", PROMPT, "--at", "Dallas", "--scale", "-1"),
    ("convert", "specimen/plt", "plt", "--format", "circuit-tracer"),
    ("study",),
    ("doctor",),
)


@pytest.mark.slow
def test_no_command_asks_the_network_for_anything(tmp_path: Path) -> None:
    """With the hub allowed, on the model that ships: no name is looked up, nothing is connected to."""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "XDG_DATA_HOME": str(tmp_path / "data")}
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-c", WATCHED, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.rstrip().endswith("asked: []"), command


def test_the_watch_sees_a_connection() -> None:
    look = WATCHED.replace(
        "from thoughtscope.cli import main\n    main()",
        "import socket\n    socket.create_connection(('127.0.0.1', 9), 1)",
    )
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
