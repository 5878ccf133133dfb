"""The contest of trainers: one problem for all, one definition of loss, a clock that counts steps and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.peer.equality import Unequal
from bench.trainers.contest import ENTRANTS, PROBLEMS, check, summary
from bench.trainers.problem import HELD_OUT, WARM_UP, Problem, build, centred, fvu, opened
from bench.trainers.shown import table
from bench.trainers.source import Done, Source

ROOT = Path(__file__).parents[1]
SAE = Problem(name="small", kind="sae", width=32, n_features=96, k=4, batch=64, turns=2, steps_a_turn=3)
CLT = Problem(name="small", kind="clt", width=16, n_features=48, layers=3, threshold=1.5, batch=64, turns=1)


@pytest.fixture
def sae(tmp_path):
    problem = replace(SAE, folder=str(tmp_path))
    build(problem, seed=0)
    return problem


def test_rows_are_centred_and_of_unit_mean_square(sae):
    rows = torch.cat(
        [sae.batch_of(step)["resid_post.0"] for step in range(sae.steps)] + [sae.held_out["resid_post.0"]]
    )
    assert len(rows) == HELD_OUT + sae.steps * sae.batch
    assert abs(float(rows.square().mean()) - 1) < 0.03 and float(rows.mean(0).abs().max()) < 0.15


def test_the_same_seed_makes_the_same_problem(sae, tmp_path_factory):
    again = replace(SAE, folder=str(tmp_path_factory.mktemp("again")))
    build(again, seed=0)
    assert torch.equal(again.batch_of(2)["resid_post.0"], sae.batch_of(2)["resid_post.0"])
    assert all(torch.equal(again.start()[name], weight) for name, weight in sae.start().items())
    assert opened(sae.folder) == sae
    assert not torch.equal(sae.batch_of(0)["resid_post.0"], sae.batch_of(1)["resid_post.0"])


def test_a_perfect_dictionary_leaves_nothing_and_an_empty_one_all(sae):
    """Features ± each axis, every one allowed to fire: x = relu(x) − relu(−x)."""
    axes = torch.cat([torch.eye(32), -torch.eye(32), torch.zeros(32, 32)])
    weights = {
        "0/W_enc": axes,
        "0/W_dec": axes,
        "0/b_enc": torch.zeros(96),
        "b_dec/resid_post.0": torch.zeros(32),
    }
    assert fvu(replace(sae, k=64), weights) < 1e-6
    nothing = weights | {
        "0/W_dec": torch.zeros(96, 32),
        "b_dec/resid_post.0": sae.held_out["resid_post.0"].mean(0),
    }
    assert fvu(sae, nothing) == pytest.approx(1, abs=1e-5)
    # Taking b_dec off the input and adding it to the output changes nothing of a perfect one.
    shifted = centred(weights | {"b_dec/resid_post.0": torch.full((32,), 0.3)}, sae)
    assert fvu(replace(sae, k=64), shifted) < 1e-6


def test_cross_layer_parts_write_to_their_own_and_later_sites(tmp_path):
    problem = replace(CLT, folder=str(tmp_path))
    build(problem, seed=0)
    weights = problem.start()
    assert weights["0/W_dec"].shape == (48, 48) and weights["2/W_dec"].shape == (48, 16)
    expected = []
    for target in range(3):
        made = torch.zeros(HELD_OUT, 16)
        for source in range(target + 1):
            z = problem.held_out[f"mlp_in.{source}"] @ weights[f"{source}/W_enc"].T
            rows = weights[f"{source}/W_dec"][:, (target - source) * 16 : (target - source + 1) * 16]
            made += (z * (z > 1.5)) @ rows
        y = problem.held_out[f"mlp_out.{target}"]
        expected.append((made - y).square().sum() / (y - y.mean(0)).square().sum())
    assert fvu(problem, weights) == pytest.approx(float(sum(expected) / 3), rel=1e-5)


def test_the_clock_runs_from_a_batch_to_the_next(sae, monkeypatch):
    """Two turns of two and one step; evaluating and waiting between them does not count."""
    said = []
    lines = iter(['{"steps": 2}\n', '{"steps": 1}\n', ""])
    monkeypatch.setattr(
        sys, "stdin", type("Lines", (), {"readline": lambda _: (time.sleep(0.3), next(lines))[1]})()
    )
    source = Source(sae, said.append, {})
    taken = []
    with pytest.raises(Done):
        for batch in source:
            taken.append(batch["resid_post.0"])
            time.sleep(0.02)
    assert len(taken) == 3 and all(
        torch.equal(x, sae.batch_of(i)["resid_post.0"]) for i, x in enumerate(taken)
    )
    assert [len(one["seconds"]) for one in said] == [0, 2, 1]
    assert all(0.02 <= seconds < 0.2 for one in said for seconds in one["seconds"])
    assert said[0]["fvu"] == said[2]["fvu"] == fvu(sae, sae.start())


def test_our_side_learns_what_the_formulas_say(sae):
    """The whole child process against Adam on autograd's gradients: unit decoders, no clipping, constant rate."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.trainers.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    asked = {"module": "ours", "folder": sae.folder, "threads": 1, "options": {"decoder": "unit"}}
    told, _ = child.communicate("\n".join(json.dumps(one) for one in (asked, {"steps": 5})), timeout=60)
    first, second = map(json.loads, told.splitlines())
    assert first["fvu"] == pytest.approx(fvu(sae, sae.start()), abs=1e-6)
    assert second["fvu"] == pytest.approx(by_autograd(sae, 5), rel=2e-3) and second["fvu"] < first["fvu"]
    assert len(second["seconds"]) == 5 and second["product_seconds"] > 0


def by_autograd(problem, steps):
    given = problem.start()
    names = ["0/W_enc", "0/b_enc", "0/W_dec", "b_dec/resid_post.0"]
    own = [given[name].requires_grad_() for name in names]
    adam = torch.optim.Adam(own, lr=problem.rate)
    for step in range(steps):
        x = problem.batch_of(step)["resid_post.0"]
        value, index = (x @ own[0].T + own[1]).topk(problem.k)
        z = torch.zeros(len(x), problem.n_features).scatter(1, index, value.relu())
        adam.zero_grad()
        (z @ own[2] + own[3] - x).square().mean().backward()
        with torch.no_grad():
            own[2].grad -= (own[2].grad * own[2]).sum(1, keepdim=True) * own[2]
        adam.step()
        with torch.no_grad():
            own[2] /= own[2].norm(dim=1, keepdim=True)
    return fvu(problem, {name: weight.detach() for name, weight in zip(names, own, strict=True)})


def test_unequal_losses_are_seen():
    rivals = {"SAELens": "ours"}
    check({"ours": 0.5, "SAELens": 0.504}, rivals)
    for theirs in (0.494, 0.506, float("nan")):
        with pytest.raises(Unequal, match=r"SAELens .*ours 0\.5000"):
            check({"ours": 0.5, "SAELens": theirs}, rivals)


def turns_of(seconds, **more):
    return [{"seconds": each, "cpu_seconds": [2 * s for s in each], "peak": 2**20, "peak_of": "turn"} | more for each in seconds]  # fmt: skip


def test_medians_and_ratios():
    turns = {
        "ours": turns_of([[0.1, 0.1, 0.4], [0.2, 0.1, 0.1]], product_seconds=0.04),
        "SAELens": turns_of([[1.0, 1.0, 1.0], [3.0, 1.2, 1.2]]),
    }
    curves = {"ours": [1.0, 0.5], "SAELens": [1.0, 0.501]}
    found = summary(SAE, turns, curves, {"SAELens": "ours"})
    side = found["sides"]["SAELens"]
    assert side["ratio"] == pytest.approx(11) and side["ratio_range"] == pytest.approx([10, 12])
    assert side["cpu_ratio"] == pytest.approx(11) and side["tokens_per_second"] == pytest.approx(64 / 1.1)
    assert found["product_share"]["ours"] == pytest.approx(0.4) and "ratio" not in found["sides"]["ours"]
    told = table(found | {"threads": 2, "peers": {"SAELens": "SAELens 6"}})
    assert "SAELens 6" in told and "11.0" in told and "40%" in told


def test_every_peer_has_a_rival_and_every_problem_its_entrants():
    for problem in PROBLEMS.values():
        entrants = ENTRANTS[problem.kind]
        ours = {one.name for one in entrants if one.peer is None}
        assert ours and all(one.rival in ours for one in entrants if one.peer)
        assert problem.steps == WARM_UP + problem.turns * problem.steps_a_turn
        assert (ROOT / "bench" / "trainers" / f"{entrants[-1].module}.py").is_file()
