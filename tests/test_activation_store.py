"""The store: every row once, the same bytes however it was written, damage named, a full disk survived."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_training_stream import SMALL, documents, same
from tests.tiny_models import tiny_model
from thoughtscope.core import files
from thoughtscope.core.errors import CorruptArtefact, NotWritten, ThoughtscopeError, UnknownSite
from thoughtscope.core.site import Site
from thoughtscope.core.store import load_artefact, save_artefact
from thoughtscope.training.data import Feed, Moments, Share, StoreStream, harvest, harvest_to, load_store
from thoughtscope.training.data.moments import OUTLIER

SITES = ("resid_post.0", "z.1")
DOCS = documents(150, seed=5)
N_ROWS = sum(max(0, len(d) - len(range(0, len(d), 16))) for d in DOCS)
SETTINGS: dict[str, Any] = {"feed": SMALL, "shard_tokens": 300, "lanes": 3, "seed": 2}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    made = harvest_to(tmp_path_factory.mktemp("store") / "s", model, DOCS, SITES, **SETTINGS)
    assert made is not None
    return made


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- what is in it -------------------------------------------------------------------------------------------------


def test_a_store_holds_what_was_harvested(model, store):
    """Bit for bit: a shard's rows are those of the forward passes of its lane, found by document and place."""
    assert store.n_rows == N_ROWS and store.sites == tuple(map(Site.parse, SITES))
    held: dict[str, list[torch.Tensor]] = {}
    for shard in store.shards:
        for name, x in [*store.tokens(shard).items(), *((str(s), store.rows(shard, s)) for s in store.sites)]:
            held.setdefault(name, []).append(x)
    whole = {name: torch.cat(parts) for name, parts in held.items()}
    keys = list(zip(whole["document"].tolist(), whole["offset"].tolist(), strict=True))
    where = {key: row for row, key in enumerate(keys)}
    assert len(where) == len(keys) == N_ROWS
    assert [DOCS[n][place] for n, place in keys] == whole["token"].tolist()
    for lane in range(3):
        for batch in harvest(model, DOCS[lane::3], SITES, SMALL):
            documents = (3 * batch.document + lane).tolist()
            rows = torch.tensor([where[key] for key in zip(documents, batch.offset.tolist(), strict=True)])
            assert torch.equal(whole["token"][rows].long(), batch.token)
            assert torch.equal(whole["position"][rows].long(), batch.position)
            assert all(torch.equal(whole[str(site)][rows], x) for site, x in batch.rows.items())


def test_rows_are_shuffled_and_typed(store):
    shard = store.shards[0]
    facts = store.tokens(shard)
    assert shard.n_rows == 300 and len(facts["document"].unique()) > 10
    assert (facts["document"].diff() != 0).float().mean() > 0.7
    assert all(store.rows(shard, site).dtype == torch.bfloat16 for site in store.sites)


def test_the_manifest_has_the_moments(store):
    for site in store.sites:
        rows = torch.cat([store.rows(shard, site) for shard in store.shards])
        expected = Moments.of(rows)
        got = store.moments[site]
        torch.testing.assert_close(got.mean, expected.mean, rtol=1e-12, atol=1e-14)
        assert got.mean_square == pytest.approx(expected.mean_square, rel=1e-12) and got.n_rows == N_ROWS


def test_n_tokens_ends_it(model, tmp_path):
    made = harvest_to(tmp_path / "s", model, DOCS, SITES, n_tokens=1000, **SETTINGS)
    assert made is not None and made.n_rows == 1000
    assert sorted(shard.n_rows for shard in made.shards) == [33, 33, 34, 300, 300, 300]
    none = harvest_to(tmp_path / "none", model, [[5]], SITES, **SETTINGS)
    assert none is not None and none.n_rows == 0
    with pytest.raises(ThoughtscopeError, match="0 rows, less than a batch"):
        StoreStream(none)


def test_progress_counts_rows(model, tmp_path):
    told = []
    harvest_to(
        tmp_path / "s", model, DOCS, SITES, n_tokens=900, **SETTINGS,
        progress=lambda *given, **figures: told.append((*given, figures)),
    )  # fmt: skip
    assert [(stage, done, total) for stage, done, total, _ in told] == [
        ("harvest", n, 900) for n in (300, 600, 900)
    ]
    assert (
        told[-1][3]["gigabytes"] == pytest.approx(900 * 32 * 2 / 1e9) and told[0][3]["tokens_per_second"] > 0
    )

    def stop(*_: object, **figures: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest_to(tmp_path / "t", model, DOCS, SITES, n_tokens=900, progress=stop, **SETTINGS)
    assert len(list((tmp_path / "t").glob("shard-*"))) == 1


# --- the same bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_write_the_same_store(model, store, tmp_path, world):
    for rank in reversed(range(world)):
        made = harvest_to(tmp_path / "s", model, DOCS, SITES, share=Share(rank=rank, world=world), **SETTINGS)
        assert (made is None) == (rank > 0)
        if rank:
            with pytest.raises(CorruptArtefact, match="Run the same harvest again"):
                load_store(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(store.path)


HARVEST = """
import sys
from tests.test_activation_store import *
harvest_to(sys.argv[1], tiny_model("llama"), DOCS, SITES, **SETTINGS,
           progress=lambda *given, **figures: print(given[1], flush=True))
"""


@pytest.mark.slow
def test_a_killed_harvest_goes_on_to_the_same_bytes(model, store, tmp_path):
    """Killed at several moments, in the middle of anything, with a process that begins anew each time."""
    folder, kills = tmp_path / "s", 0
    for delay in (0.0, 0.002, 0.011, 0.03):
        running = subprocess.Popen(
            [sys.executable, "-c", HARVEST, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert running.stdout is not None
        line = running.stdout.readline()  # a shard is on disk
        time.sleep(delay)
        running.send_signal(signal.SIGKILL)
        running.wait()
        running.stdout.close()
        kills += bool(line)
    assert kills >= 2
    again = harvest_to(folder, model, DOCS, SITES, **SETTINGS)
    assert again is not None and contents(folder) == contents(store.path)


def test_a_harvest_is_stopped_between_any_two_writes(model, store, tmp_path, monkeypatch):
    """The n-th write fails, as on a disk that is full: what was whole stays, and the next run ends in the same bytes."""
    write_new, left = files.write_new, [0]

    def write(path: Path, chunks: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_new(path, chunks)

    for module in ("core.files", "core.store"):
        monkeypatch.setattr(f"thoughtscope.{module}.write_new", write)
    before: dict[str, str] = {}
    for allowed in (0, 1, 3, 4, 5, 7, 9):
        left[0] = allowed
        with pytest.raises(NotWritten, match=r"No space left.*Make room"):
            harvest_to(tmp_path / "s", model, DOCS, SITES, **SETTINGS)
        now = contents(tmp_path / "s")
        assert {name: now.get(name) for name in before if "tmp" not in name} == before
        before = {name: value for name, value in now.items() if "manifest" in name}
    left[0] = 10**6
    assert harvest_to(tmp_path / "s", model, DOCS, SITES, **SETTINGS) is not None
    assert contents(tmp_path / "s") == contents(store.path)


def test_a_finished_harvest_is_only_read(model, store, monkeypatch):
    monkeypatch.setattr("thoughtscope.training.data.writing._made", None)
    before = contents(store.path)
    again = harvest_to(store.path, model, DOCS, SITES, **SETTINGS)
    assert again is not None and again.n_rows == N_ROWS and contents(store.path) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 3}, "seed 2, now 3"),
        ({"n_tokens": 50}, "n_tokens None, now 50"),
        ({"feed": Feed(context=8, forward_tokens=128)}, "context 16, now 8"),
        ({"docs": DOCS[1:]}, "documents '"),
    ],
)
def test_another_harvest_is_refused(model, store, changes, said):
    changes = dict(changes)
    docs = changes.pop("docs", DOCS)
    with pytest.raises(ThoughtscopeError, match=f"another harvest: {said}.*name a new folder"):
        harvest_to(store.path, model, docs, SITES, **(SETTINGS | changes))


def test_a_folder_of_something_else_is_refused(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ThoughtscopeError, match="not an artefact"):
        harvest_to(tmp_path, model, DOCS, SITES, **SETTINGS)
    with pytest.raises(ThoughtscopeError, match="shard_tokens, lanes and n_tokens of 1 or more"):
        harvest_to(tmp_path / "s", model, DOCS, SITES, n_tokens=0)


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(model, tmp_path):
    made = harvest_to(tmp_path / "s", model, DOCS, SITES, **SETTINGS)
    assert made is not None
    return made


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_is_named(copy):
    """Wherever it is: by `check`, and by the stream when it comes to the file; not before, and no other file."""
    shard = copy.shards[4]
    for damaged in sorted((copy.path / shard.name).iterdir()):
        for at in (-1, damaged.stat().st_size // 2):
            flip(damaged, at)
            (problem,) = load_store(copy.path).check()
            assert shard.name in problem.file and (damaged.name in problem.file or "manifest" in damaged.name)
            assert shard.name in problem.why
            flip(damaged, at)
    assert load_store(copy.path).check() == []
    (rows,) = (copy.path / shard.name).glob("z.1-*")
    flip(rows, -1)
    made = StoreStream(copy.path, batch=50, window=2)
    with pytest.raises(
        CorruptArtefact, match=rf"{shard.name}/z.1-.* was altered.*run the same harvest again"
    ):
        for number, _ in enumerate(made.batches()):
            assert number < N_ROWS
    fine = StoreStream(copy.path, ["resid_post.0"], batch=50, window=2)  # another file, and that one is sound
    assert len(list(islice(fine.batches(), N_ROWS // 50))) == N_ROWS // 50


def test_what_is_missing_is_made_again(model, store, copy):
    import shutil

    shutil.rmtree(copy.path / copy.shards[2].name)
    (problem,) = copy.check()
    assert problem.file == copy.shards[2].name
    (copy.path / copy.shards[3].name / "manifest.json").write_text("{")
    assert harvest_to(copy.path, model, DOCS, SITES, **SETTINGS) is not None
    assert contents(copy.path) == contents(store.path)


def test_the_stores_own_manifest_is_checked(copy):
    flip(copy.path / "manifest.json", 500)
    with pytest.raises(CorruptArtefact, match=r"manifest.json"):
        load_store(copy.path)


# --- outliers ------------------------------------------------------------------------------------------------------


def test_outliers_are_flagged_counted_and_left_out_on_request(tmp_path):
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.module.transformer.wte.weight[7] *= 300
    docs = [[*ids[:5], 7, *ids[5:]] if n % 9 == 0 else ids for n, ids in enumerate(DOCS)]
    made = harvest_to(tmp_path / "s", model, docs, ["embed", "z.1"], **SETTINGS)
    assert made is not None
    site = Site("embed")
    expected = 0
    for shard in made.shards:
        norms = made.rows(shard, site).float().norm(dim=1)
        flagged = (norms > OUTLIER * norms.median()).nonzero()[:, 0]
        assert torch.equal(made.outliers_in(shard, site).long(), flagged)
        assert bool((made.tokens(shard)["token"][flagged] == 7).all())
        expected += len(flagged)
    assert made.outliers[site] == expected > 10
    rows = torch.cat([made.rows(shard, site) for shard in made.shards])
    plain = rows[rows.float().norm(dim=1) < 100]
    got = StoreStream(made, [site], batch=50, without_outliers=True)
    assert got.n_rows == len(plain) == made.n_rows - expected
    assert got.moments[site].mean_square == pytest.approx(Moments.of(plain).mean_square, rel=1e-9)
    whole = StoreStream(made, [site], batch=50)
    assert whole.moments[site].mean_square == got.moments[site].mean_square  # those of typical rows
    assert made.moments[site].mean_square > 100 * got.moments[site].mean_square
    seen = torch.cat([batch[site] for batch in islice(got.batches(), 3 * got.n_rows // 50)])
    assert float(seen.float().norm(dim=1).max()) < 100
    assert len(got._without_outliers()) < len(made.shards)


# --- batches -------------------------------------------------------------------------------------------------------


def test_a_round_gives_every_row_once_in_a_new_order(store):
    made = StoreStream(store, batch=37, seed=1, window=2)
    site = Site("resid_post", 0)
    three = torch.cat([batch[site] for batch in islice(made.batches(), 3 * N_ROWS // 37)]).float()
    rows = torch.cat([store.rows(shard, site) for shard in store.shards]).float()
    rounds = [three[:N_ROWS], three[N_ROWS : 2 * N_ROWS]]
    for each in rounds:
        assert torch.equal(sort_rows(each), sort_rows(rows))
    assert not torch.equal(*rounds)
    assert not same(next(made.batches()), next(StoreStream(store, batch=37, seed=2, window=2).batches()))


def sort_rows(x: torch.Tensor) -> torch.Tensor:
    return torch.tensor(sorted(x.tolist()))


def test_sites_of_a_batch_belong_to_the_same_tokens(store):
    """What a pair of sites holds in a row of a batch is a pair of the store."""
    one, other = store.sites
    pairs = {
        (tuple(a.tolist()), tuple(b.tolist()))
        for shard in store.shards
        for a, b in zip(store.rows(shard, one), store.rows(shard, other), strict=True)
    }
    batch = next(StoreStream(store, batch=200).batches())
    assert all(
        (tuple(a.tolist()), tuple(b.tolist())) in pairs for a, b in zip(batch[one], batch[other], strict=True)
    )


def test_store_batches_depend_on_their_step_alone(store):
    whole = list(islice(StoreStream(store, batch=64, window=3).batches(), 200))
    random = torch.Generator().manual_seed(1)
    for step in torch.randint(0, 198, (20,), generator=random).tolist():
        again = StoreStream(store, batch=64, window=3).batches(step)
        assert all(same(next(again), whole[step + k]) for k in range(2))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_read_blocks_of_the_same_batches(store, world):
    each = [StoreStream(store, batch=64, share=Share(rank=r, world=world)).batches(3) for r in range(world)]
    for expected in islice(StoreStream(store, batch=64).batches(3), 60):
        parts = [next(batches) for batches in each]
        assert same({site: torch.cat([part[site] for part in parts]) for site in expected}, expected)


def test_mistakes_of_a_reader_are_named(store, tmp_path):
    with pytest.raises(UnknownSite, match=r"resid_post.1.* is not a site of .*resid_post.0"):
        StoreStream(store, ["resid_post.1"])
    with pytest.raises(ThoughtscopeError, match="batch and window are 1 or more"):
        StoreStream(store, batch=0)
    with pytest.raises(UnknownSite, match="is not a site of"):
        store.rows(store.shards[0], Site("v", 0))
    with pytest.raises(CorruptArtefact, match="no artefact"):
        load_store(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.pop("shards"),
        lambda meta: meta.update(shards=[{"name": "../../etc", "n_rows": 1, "sha256": ""}]),
        lambda meta: meta["shards"][0].update(n_rows=-1),
        lambda meta: meta["plan"].update(dtype="load"),
        lambda meta: meta["plan"].update(sites=["nowhere.0", "z.1"]),
        lambda meta: meta["plan"].update(widths=[16]),
        lambda meta: meta["plan"].update(lanes="3"),
        lambda meta: meta["plan"].update(extra=1),
        lambda meta: meta["moments"]["all"]["z.1"].update(mean_square=-1),
        lambda meta: meta.update(outliers=[]),
        lambda meta: meta.update(complete=1),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(store, tmp_path, change):
    """Also one whose checksums agree: somebody else may have written it."""
    import copy as copies

    held = load_artefact(store.path, kind="activation-store")
    meta = copies.deepcopy(dict(held.meta))
    change(meta)
    save_artefact(
        tmp_path / "s", kind="activation-store", tensors={"moments": dict(held.tensors("moments"))}, meta=meta
    )
    with pytest.raises(CorruptArtefact):
        load_store(tmp_path / "s")


def test_a_shard_of_another_shape_is_refused(copy):
    """Its hashes agree, but its rows are not those that the store's manifest speaks of."""
    shard = copy.shards[0]
    held = load_artefact(copy.path / shard.name, kind="activation-shard")
    tensors = {name: dict(held.tensors(name)) for name in held.files}
    tensors["z.1"]["rows"] = tensors["z.1"]["rows"][:, :8]
    save_artefact(
        copy.path / shard.name, kind="activation-shard", tensors=tensors, meta=held.meta, provenance={}
    )
    with pytest.raises(CorruptArtefact, match=f"{shard.name}/manifest.json is not the one"):
        copy.rows(shard, Site("z", 1))
    named = replace(shard, sha256=files.file_sha256(copy.path / shard.name / "manifest.json"))
    with pytest.raises(CorruptArtefact, match=r"holds rows as torch.bfloat16 of shape \(300, 8\)"):
        copy.rows(named, Site("z", 1))
