"""Many ranks make the steps that one makes: as threads for every kind, as processes for those that matter most."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.ranks_beside import beside
from tests.test_training_gradients import ACTIVATIONS, KINDS, gradients, made, worst
from thoughtscope.training.ranks import Ranks, rows_of
from thoughtscope.training.recipe import Auxiliary, PreActivation, Resampling
from thoughtscope.training.selection import among_all
from thoughtscope.training.state import State
from thoughtscope.training.step import train_step
from thoughtscope.training.weights import per_feature


def shard(state, ranks):
    """This rank's part of a state."""
    rows = ranks.rows(state.recipe.n_features)
    own = {
        name: (weight[rows.start : rows.stop] if per_feature(name) else weight).clone()
        for name, weight in state.weights.items()
    }
    layouts = [part.layout for part in state.parts]
    local = State(state.recipe, layouts, own, state.scaling, ranks)
    local.step = state.step
    for mine, part in zip(local.parts, state.parts, strict=True):
        mine.idle = part.idle[rows.start : rows.stop].clone()
    return local


def joined(shards):
    """Sharded tensors by name as one; those that every rank holds have to be the same."""
    for name in (name for name in shards[0] if not per_feature(name)):
        assert all(torch.equal(shards[0][name], each[name]) for each in shards)
    return {
        name: torch.cat([each[name] for each in shards]) if per_feature(name) else shards[0][name]
        for name in shards[0]
    }


@pytest.mark.parametrize("world", [2, 5])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["skip transcoders", "cross-layer", "crosscoder"])
def test_ranks_make_the_gradients_of_one(kind, activation, world):
    state, batch = made(kind, ACTIVATIONS[activation])
    loss, wanted = gradients(state, batch)
    shards = beside(world, lambda ranks: gradients(shard(state, ranks), batch))
    assert [each for each, _ in shards] == pytest.approx([loss] * world, rel=1e-10)
    assert worst(joined([found for _, found in shards]), wanted) < 1e-10


@pytest.mark.parametrize(
    ("remedy", "activation"),
    [
        (Auxiliary(k=3, coefficient=0.5), "topk"),
        (Auxiliary(k=3, coefficient=0.5), "batchtopk by part"),
        (PreActivation(coefficient=0.5), "jumprelu"),
    ],
)
@pytest.mark.parametrize("dead", [slice(0, None, 3), slice(30, 45), slice(0, 0)])
def test_dead_features_learn_alike(remedy, activation, dead):
    """Also where all of them are on one rank, or there are fewer than a token may have."""
    state, batch = made("cross-layer", ACTIVATIONS[activation], dead=remedy)
    for part in state.parts:
        part.idle[dead] = 10**9
    loss, wanted = gradients(state, batch)
    shards = beside(3, lambda ranks: gradients(shard(state, ranks), batch))
    assert [each for each, _ in shards] == pytest.approx([loss] * 3, rel=1e-10)
    assert worst(joined([found for _, found in shards]), wanted) < 1e-10


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "jumprelu target", "gated"])
def test_steps_with_resampling_stay_together(activation):
    state, batch = made("transcoders", ACTIVATIONS[activation], dead=Resampling(at=(0.0,)), step=0)
    for part in state.parts:
        part.idle[[1, 2, 20, 40]] = 10**9
        part.own["b_enc"][[1, 2, 20, 40]] = -100.0
        part.refresh(0, part.n_features)
    before = copy.deepcopy(state.weights)

    def steps(ranks):
        local = shard(state, ranks) if ranks.world > 1 else state
        figures = [train_step(local, batch) for _ in range(3)]
        return figures, local.weights, {part.name: part.idle for part in local.parts}

    shards = beside(2, steps)
    figures, weights, idle = steps(Ranks())
    assert figures[0]["resampled"] == 8
    for got, *_ in shards:
        for step, wanted in zip(got, figures, strict=True):
            assert step == pytest.approx(wanted, rel=1e-9)
    assert worst(joined([each for _, each, _ in shards]), weights) < 1e-7
    assert all(torch.equal(torch.cat([each[name] for *_, each in shards]), idle[name]) for name in idle)
    assert worst(before, weights) > 1e-4  # the steps did something


def test_exactly_k_pass_also_among_equals():
    scores = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])

    def chosen(ranks):
        rows = ranks.rows(6)
        value, index = scores[:, rows.start : rows.stop].topk(min(3, len(rows)), dim=1)
        kept = among_all(value, 3, ranks)
        return torch.zeros(2, len(rows)).scatter(1, index, kept.float())

    for world in (1, 2, 3, 4):
        passed = torch.cat(beside(world, chosen), dim=1).bool()
        assert passed.sum(1).tolist() == [3, 3]
        assert scores[0][passed[0]].sort().values.tolist() == [2, 2, 3]


@pytest.mark.parametrize(("n", "world"), [(7, 3), (8, 2), (3, 5), (9, 4)])
def test_rows_are_cut_as_torch_cuts_shards(n, world):
    cut = [len(chunk) for chunk in torch.arange(n).chunk(world)]
    found = [rows_of(n, rank, world) for rank in range(world)]
    assert [len(rows) for rows in found] == cut + [0] * (world - len(cut))
    assert [row for rows in found for row in rows] == list(range(n))


def test_kinds_here_are_those_of_the_gradients():
    assert {"skip transcoders", "cross-layer", "crosscoder"} <= KINDS.keys()
