"""Ranks as processes: torchrun, gloo, and one of them killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "evidence" / "_ranks.py"
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "lo",
}
KINDS = ("TopK autoencoder", "BatchTopK cross-layer transcoder", "JumpReLU autoencoder")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(PROGRAM), str(folder)], env=ENVIRONMENT, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_and_one_have_the_same_losses(found, kind):
    """Also where one saved and two go on, and the other way round."""
    made = found[kind]
    assert found["ranks"] == 2
    assert {name: len(steps) for name, steps in made["steps"].items()} == {
        "2 ranks": 24,
        "1 to 2": 12,
        "2 to 1": 12,
    }
    assert max(made[name] for name in ("2 ranks", "1 to 2", "2 to 1")) < 1e-6
    first, last = made["first and last loss"]
    assert abs(last - first) > 0.05  # the steps did something


@pytest.mark.slow
def test_a_sharded_model_gives_the_rows_of_the_whole_one(found):
    assert found["sharded model"] is True


@pytest.mark.slow
def test_when_a_rank_is_killed_the_other_ends(tmp_path):
    """Without a launcher that would see to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path), "forever"],
            env=ENVIRONMENT | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        began = time.monotonic()
        line = ranks[0].stdout.readline()
        assert line.strip() == "1", ranks[0].stderr.read()
        started = time.monotonic() - began
        ranks[1].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        _, told = ranks[0].communicate(timeout=400)
        assert ranks[0].returncode != 0 and "Connection" in told
        assert time.monotonic() - killed < max(30, started)  # a machine that is busy is slow at both
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
