"""Checkpoints of any number of ranks go on with any other; a run's ranks make one batch; damage is named."""

from __future__ import annotations

import json
import shutil
from itertools import count

import pytest
import torch

from tests.ranks_beside import beside
from thoughtscope.core.errors import CorruptArtefact, NotWritten, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.training import recipes
from thoughtscope.training.checkpoint import load_state, save_state
from thoughtscope.training.data import Moments, Share
from thoughtscope.training.ranks import Ranks
from thoughtscope.training.run import finished, train
from thoughtscope.training.weights import per_feature

SITE = Site.parse("resid_post.0")
WIDTH, BATCH, STEPS = 12, 32, 12


class Rows:
    """Batches of random rows, of which each rank makes its share, if it has one."""

    sites, widths = (SITE,), {SITE: WIDTH}

    def __init__(self, share=None):
        self.share = share or Share()
        self.moments = {
            SITE: Moments(mean=torch.zeros(WIDTH, dtype=torch.float64), mean_square=1.0, n_rows=9)
        }

    def batches(self, start=0):
        for step in count(start):
            rows = torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(step))
            own = self.share.of(BATCH)
            yield {SITE: rows[own.start : own.stop]}


def recipe(steps=STEPS, **changes):
    return recipes.sae(
        "resid_post.0", n_features=50, k=4, precision="float32",
        **{"schedule.n_tokens": BATCH * STEPS, "schedule.batch": BATCH, "schedule.dead_after": 3 * BATCH} | changes,
    )  # fmt: skip


def run(world, folder, *, stop=None, shared=True, **changes):
    """Trains with `world` ranks, as far as step `stop`; losses by step and the whole weights."""
    losses = {}

    def work(ranks):
        def progress(stage, done, total, **figures):
            losses[done] = figures["loss"]

        share = Share(rank=ranks.rank, world=world) if shared else None
        made = recipe(**changes)
        stream = Rows(share)
        if stop is not None:
            stream = Until(stream, stop)
        try:
            state = train(stream, made, folder=folder, progress=progress, ranks=ranks)
        except StopHere:
            return None
        return finished(state, name="d", model_name="m")

    found = beside(world, work) if world > 1 else [work(Ranks())]
    return losses, found[0]


class StopHere(Exception):
    pass


class Until(Rows):
    """The same batches, and then an end as of a killed process."""

    def __init__(self, rows, stop):
        super().__init__(rows.share)
        self._stop = stop

    def batches(self, start=0):
        for step, batch in enumerate(super().batches(start), start):
            if step == self._stop:
                raise StopHere
            yield batch


def difference(a, b):
    a, b = a.parts[0], b.parts[0]
    pairs = [(a.W_enc[SITE], b.W_enc[SITE]), (a.W_dec[SITE], b.W_dec[SITE]), (a.b_enc, b.b_enc)]
    return max(float((x - y).norm() / x.norm()) for x, y in pairs)


@pytest.mark.parametrize("shared", [True, False])
def test_ranks_train_what_one_trains(shared):
    wanted, alone = run(1, None)
    losses, together = run(3, None, shared=shared)
    assert losses.keys() == wanted.keys() == set(range(1, STEPS + 1))
    assert max(abs(losses[step] - wanted[step]) for step in wanted) < 1e-6
    assert difference(alone, together) < 1e-4


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2), (2, 2), (1, 1), (2, 7)])
def test_what_n_ranks_saved_goes_on_with_m(tmp_path, before, after):
    wanted, alone = run(1, None)
    run(before, tmp_path, stop=7, checkpoint_minutes=1e-9)
    losses, trained = run(after, tmp_path)
    assert min(losses) == 8
    assert max(abs(losses[step] - wanted[step]) for step in losses) < 1e-6
    assert difference(alone, trained) < 1e-4
    if before == after == 1:
        assert difference(alone, trained) == 0


def test_a_checkpoint_is_the_same_rows_for_any_number_of_ranks(tmp_path):
    """What 2 ranks saved is read by 1 and by 3, to the bit, moments and silence with it."""
    run(2, tmp_path, checkpoint_minutes=1e-9)
    whole = load_state(tmp_path / "state")
    assert whole.step == STEPS and len(whole.parts[0].idle) == 50
    shards = beside(3, lambda ranks: load_state(tmp_path / "state", ranks=ranks))
    assert [len(shard.parts[0].idle) for shard in shards] == [17, 17, 16]
    for kind in (lambda s: s.weights, lambda s: s.adam.mean, lambda s: s.adam.square):
        for name, tensor in kind(whole).items():
            pieces = [kind(shard)[name] for shard in shards]
            assert torch.equal(torch.cat(pieces) if per_feature(name) else pieces[0], tensor)
    assert torch.equal(torch.cat([shard.parts[0].idle for shard in shards]), whole.parts[0].idle)
    assert float(whole.adam.square["resid_post.0/W_enc"].abs().max()) > 0


def test_a_flipped_byte_in_any_file_is_named(tmp_path):
    run(2, tmp_path / "run")
    state = tmp_path / "run" / "state"
    files = sorted(path for path in state.iterdir() if path.suffix == ".safetensors")
    assert [path.name.rpartition("-")[0] for path in files] == ["features-0", "features-1", "sites"]
    for path in [*files, state / "manifest.json"]:
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[len(sound) // 2] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(CorruptArtefact, match=path.name):
            load_state(state)
        with pytest.raises(ThoughtscopeError, match=path.name):
            beside(2, lambda ranks: ranks.together(lambda: load_state(state, ranks=ranks)))
        path.write_bytes(sound)
    assert load_state(state).step == STEPS


def test_missing_and_doubled_shards_are_noticed(tmp_path, monkeypatch):
    from thoughtscope.core import store

    run(2, tmp_path / "run")
    state = tmp_path / "run" / "state"
    manifest = json.loads((state / "manifest.json").read_text())
    for shards in ([[0, 25]], [[0, 25], [0, 25]], [[0, 25], [25, 49]]):
        changed = manifest | {"meta": manifest["meta"] | {"shards": shards}}
        changed["sha256"] = store._manifest_digest(changed)
        (state / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(CorruptArtefact, match="not the 50 features once each"):
            load_state(state)
    next(state.glob("features-1-*")).unlink()
    (state / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtefact, match="features-1"):
        load_state(state)


@pytest.mark.parametrize(
    "ranks_shares", [[(0, 2), (0, 2)], [(1, 2), (0, 2)], [(0, 3), (1, 3)], [(0, 1), (1, 2)]]
)
def test_shares_that_make_no_whole_batch_are_refused(ranks_shares):
    def work(ranks):
        rank, world = ranks_shares[ranks.rank]
        train(Rows(Share(rank=rank, world=world)), recipe(), ranks=ranks)

    with pytest.raises(ThoughtscopeError, match="shares of each batch should be 0 of 2, 1 of 2"):
        beside(2, work)


def test_ranks_with_different_recipes_are_refused():
    def work(ranks):
        train(Rows(), recipe(seed=ranks.rank), ranks=ranks)

    with pytest.raises(ThoughtscopeError, match=r"differ in recipe.seed: 0, 1"):
        beside(2, work)


def test_a_save_that_fails_on_one_rank_leaves_the_state_before(tmp_path, monkeypatch):
    """Also its files are gone, and no rank waits for the other."""
    from thoughtscope.core import store

    run(2, tmp_path / "run")
    state = tmp_path / "run" / "state"
    before = sorted(path.name for path in state.iterdir())
    wrote = store._store

    def full(folder, name, *rest):
        if name == "features-1":
            raise OSError(28, "No space left on device")
        return wrote(folder, name, *rest)

    def work(ranks):
        local = load_state(state, ranks=ranks)
        local.step += 1
        local.adam.mean["resid_post.0/W_enc"] += 1
        try:
            save_state(local, state)
        except ThoughtscopeError as error:
            return error
        return None

    monkeypatch.setattr(store, "_store", full)
    told = beside(2, work)
    assert isinstance(told[1], NotWritten) and "Rank 1 failed: OSError" in str(told[0])
    assert sorted(path.name for path in state.iterdir()) == before
    assert load_state(state).step == STEPS


def test_a_folder_in_use_stops_every_rank(tmp_path):
    from thoughtscope.core.files import exclusive

    with exclusive(tmp_path), pytest.raises(ThoughtscopeError, match="Another process is writing"):
        run(2, tmp_path)
    shutil.rmtree(tmp_path)
