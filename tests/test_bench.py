"""The comparison that a benchmark rests on: it sees what differs, and forgives what is a definition."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.peer import environment
from bench.peer.equality import ERROR, FEATURE, LOGIT, TOKEN, Unequal, compare

ROOT = Path(__file__).parents[1]


def tables(seed: int = 0) -> tuple[dict, dict]:
    """Ours and theirs, equal: theirs in another order, without first errors, with a feature that leads nowhere."""
    rng = np.random.default_rng(seed)
    active = np.array([(layer, position, 7 + position) for layer in range(2) for position in (1, 2)])
    nodes = [(FEATURE, *place) for place in active.tolist()]
    nodes += [(ERROR, layer, position, -1) for layer in range(2) for position in range(3)]
    nodes += [(TOKEN, -1, position, -1) for position in range(3)] + [(LOGIT, -1, 2, 40), (LOGIT, -1, 2, 41)]
    edges = (
        rng.normal(size=(len(nodes), len(nodes)))
        * np.isin([node[0] for node in nodes], (FEATURE, LOGIT))[:, None]
    )
    edges[:, -2:] = 0
    dead = nodes.index((FEATURE, 1, 1, 8))
    edges[:, dead] = 0
    theirs = edges.copy()
    theirs[:, [nodes.index((ERROR, layer, 0, -1)) for layer in range(2)]] = 0
    order, kept = rng.permutation(len(nodes)), [row for row in range(len(nodes)) if row != dead]
    activation = rng.uniform(1, 2, len(active))
    mine = dict(
        active=active, activation=activation, nodes=np.array(nodes)[kept], edges=edges[np.ix_(kept, kept)]
    )
    other = dict(
        active=active[::-1],
        activation=activation[::-1],
        nodes=np.array(nodes)[order],
        edges=theirs[np.ix_(order, order)],
    )
    return mine, other


def test_the_same_graph_in_another_order_is_equal():
    found = compare(*tables(), whole=True)
    assert found["edge_error"] == found["activation_error"] == found["edges_left_out"] == 0
    assert found["overlap"] == 1 and found["features"] == {"thoughtscope": 3, "circuit-tracer": 4}
    assert found["targets_compared"] == 5


def wrong_edge(theirs):
    row = theirs["nodes"].tolist().index([LOGIT, -1, 2, 40])
    column = theirs["nodes"].tolist().index([TOKEN, -1, 0, -1])
    theirs["edges"][row, column] += 1e-3 * np.abs(theirs["edges"][row]).max()


def wrong_activation(theirs):
    theirs["activation"] = theirs["activation"] * 1.001


def other_feature(theirs):
    theirs["active"] = theirs["active"] + [0, 0, 1]


def other_target(theirs):
    theirs["nodes"][:, 3] += theirs["nodes"][:, 0] == LOGIT


def an_edge_we_lack(theirs):
    dead = theirs["nodes"].tolist().index([FEATURE, 1, 1, 8])
    theirs["edges"][theirs["nodes"].tolist().index([LOGIT, -1, 2, 40]), dead] = 0.5


def swapped_sources(theirs):
    rows = theirs["nodes"].tolist()
    pair = [rows.index([TOKEN, -1, 0, -1]), rows.index([TOKEN, -1, 1, -1])]
    theirs["edges"][:, pair] = theirs["edges"][:, pair[::-1]]


@pytest.mark.parametrize(
    "change", [wrong_edge, wrong_activation, other_feature, other_target, an_edge_we_lack, swapped_sources]
)
def test_what_differs_is_seen(change):
    ours, theirs = tables()
    change(theirs)
    with pytest.raises(Unequal):
        compare(ours, theirs, whole=True)


def test_what_only_one_side_chose_is_no_difference():
    ours, theirs = tables()
    an_edge_we_lack(theirs)
    found = compare(ours, theirs, whole=False)
    assert found["overlap"] == 1 and found["edges_left_out"] == 0


def test_a_peer_that_cannot_be_installed_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "HOME", environment.ROOT / "runs" / "bench" / "nowhere")
    monkeypatch.setattr(
        environment, "_run", lambda *_: (_ for _ in ()).throw(environment.NoPeer("no network"))
    )
    with pytest.raises(environment.NoPeer, match="no network"):
        environment.interpreter()


def test_a_child_answers_and_says_what_went_wrong():
    code = (
        "from bench.peer.child import measured, serve\n"
        "def run(n):\n    print('noise')\n    return measured(lambda: bytearray(n))[1]\n"
        "serve({'run': run})"
    )
    asked = "\n".join(json.dumps(one) for one in ({"do": "run", "n": 40_000_000}, {"do": "run", "n": -1}))
    done = subprocess.run(
        [sys.executable, "-c", code], input=asked, capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["seconds"] > 0 and first["peak"] > 40_000_000 and "noise" in done.stderr
    assert second["error"].startswith("ValueError")
