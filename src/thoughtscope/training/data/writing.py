"""`harvest_to`: a store of activations, written by one process or several, stopped and continued at will."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import exclusive, file_sha256
from thoughtscope.core.memory import memory_told
from thoughtscope.core.planned import begin_or_go_on, finished_piece
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.provenance import provenance
from thoughtscope.core.share import Share
from thoughtscope.core.site import Site
from thoughtscope.core.store import MANIFEST, Artefact, load_artefact, save_artefact
from thoughtscope.dictionaries.documents import Document, documents_digest
from thoughtscope.training.data.ahead import ahead
from thoughtscope.training.data.harvest import Feed, Lane, check_finite, in_pace, lanes_of
from thoughtscope.training.data.moments import Moments, outliers
from thoughtscope.training.data.order import LANES, generator
from thoughtscope.training.data.sources import Documents, Source, source_of
from thoughtscope.training.data.store import (
    FACT_TYPES,
    FACTS,
    KIND,
    SHARD,
    Plan,
    Store,
    load_store,
    moments_in,
    plan_of,
    well_formed,
)

if TYPE_CHECKING:
    from thoughtscope.models import Model


def harvest_to(
    folder: str | os.PathLike[str],
    model: Model,
    documents: Source | str | Iterable[Document] | Callable[[], Iterable[Document]],
    sites: Sequence[Site | str],
    *,
    n_tokens: int | None = None,
    feed: Feed | None = None,
    shard_tokens: int = 65_536,
    lanes: int = LANES,
    seed: int = 0,
    share: Share | None = None,
    progress: Progress = silent,
) -> Store | None:
    """Writes the activations at `sites` of `n_tokens` rows, or of all documents once, as the store `folder`.

    Shards that are there already are passed over, so the same call goes on where a killed one was, and ends in the same
    bytes. With `share`, each process writes shards of its own; the last one to be done closes the store, and the others
    get None. While a shard is written the next one is harvested: two of them are held in memory. `progress` counts
    rows, with rows a second and the gigabytes on disk.
    Raises `ThoughtscopeError` where `folder` holds another harvest or activations are not finite, `NotWritten` when the
    disk is full: what is there stays.
    """
    source = source_of(documents, model)
    reading, share = Documents(source), share or Share()
    plan = _plan(model, source, reading, sites, n_tokens, feed or Feed(), shard_tokens, lanes, seed)
    home = Path(folder)
    begin_or_go_on(
        home, asdict(plan), kind=KIND, noun="harvest", plan_of=partial(_read_plan, home), meta={"complete": False},
        provenance=provenance(seed=plan.seed),
    )  # fmt: skip
    open_lanes = [lane for lane in share.of(lanes) if _shards(home, plan, lane) is None]
    if open_lanes or model.pace:  # a sharded model's passes need every process
        _write(home, plan, lambda: _made(home, plan, model, reading, open_lanes), progress)
    return _closed(home, plan)


def _plan(
    model: Model,
    source: Source,
    documents: Documents,
    sites: Sequence[Site | str],
    n_tokens: int | None,
    feed: Feed,
    shard_tokens: int,
    lanes: int,
    seed: int,
) -> Plan:
    wanted = tuple(dict.fromkeys(model.site(site) for site in sites))
    if not wanted or min(shard_tokens, lanes, 1 if n_tokens is None else n_tokens) < 1:
        raise ThoughtscopeError(
            f"A store needs a site, and shard_tokens, lanes and n_tokens of 1 or more; got {len(wanted)} sites, "
            f"{shard_tokens}, {lanes} and {n_tokens}."
        )
    return Plan(
        model=model.name,
        revision=model.revision,
        sites=tuple(map(str, wanted)),
        widths=tuple(model.width(site) for site in wanted),
        source=source.name,
        documents=documents_digest(documents.peek()),
        context=feed.context,
        forward_tokens=feed.forward_tokens,
        skip_first=feed.skip_first,
        dtype=str(feed.dtype).removeprefix("torch."),
        n_tokens=n_tokens,
        shard_tokens=shard_tokens,
        lanes=lanes,
        seed=seed,
    )


def _read_plan(home: Path, meta: Mapping[str, Any]) -> Mapping[str, Any]:
    with well_formed(home):
        return asdict(plan_of(meta))


# --- shards --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A shard before it is written."""

    name: str
    n_rows: int
    rows: Mapping[Site, Tensor]
    facts: Mapping[str, Tensor]
    moments: Mapping[str, Mapping[str, Moments]]


def _name(piece: int, lane: int) -> str:
    return f"shard-{piece:05d}-{lane:02d}"


def _there(path: Path) -> Artefact | None:
    """A shard that is written, or None where there is none or not a whole one."""
    return finished_piece(path, kind=SHARD)


def _wanted(plan: Plan, piece: int, lane: int) -> tuple[int, bool]:
    """How many rows a shard has if the documents do not end, and whether it is then the lane's last."""
    most = plan.rows_of(lane)
    if most is None:
        return plan.shard_tokens, False
    left = most - piece * plan.shard_tokens
    return min(plan.shard_tokens, left), left <= plan.shard_tokens


def _is_last(plan: Plan, piece: int, lane: int, n_rows: int) -> bool:
    wanted, last = _wanted(plan, piece, lane)
    return last or n_rows < wanted


def _shards(home: Path, plan: Plan, lane: int) -> list[Artefact] | None:
    """The shards of a lane, or None where one is still to be written."""
    found: list[Artefact] = []
    for piece in count():
        shard = _there(home / _name(piece, lane))
        if shard is None:
            return None
        found.append(shard)
        if _is_last(plan, piece, lane, shard.meta["n_rows"]):
            return found
    raise AssertionError("count() has no end")


def _made(
    home: Path, plan: Plan, model: Model, documents: Documents, numbers: Sequence[int]
) -> Iterator[_Made]:
    """The shards of some lanes that are not written, a piece of every lane after the other."""
    sites = [Site.parse(site) for site in plan.sites]
    lanes = lanes_of(model, documents.through(), sites, _feed(plan), own=numbers, n_lanes=plan.lanes)
    going = dict(zip(numbers, lanes, strict=True))
    with in_pace(model, sites) as wait:
        for piece in count():
            for number, lane in list(going.items()):
                there = _there(home / _name(piece, number))
                if there is None:
                    made = _make(plan, lane, piece, number)
                    n_rows = made.n_rows
                    yield made
                    del made  # while it is written the next one is made; a third would be one too many
                else:
                    n_rows = there.meta["n_rows"]
                    lane.skip(n_rows)
                if _is_last(plan, piece, number, n_rows):
                    del going[number]
            if not going:
                wait()
                return


def _feed(plan: Plan) -> Feed:
    """How documents go through the model. Of a small store, a pass holds no more than a lane's rows: documents may cost
    more than passes do."""
    of_lane = plan.forward_tokens if plan.n_tokens is None else max(plan.context, plan.rows_of(0) or 0)
    return Feed(
        context=plan.context,
        forward_tokens=min(plan.forward_tokens, of_lane),
        skip_first=plan.skip_first,
        dtype=getattr(torch, plan.dtype),
    )


def _make(plan: Plan, lane: Lane, piece: int, number: int) -> _Made:
    """Harvests a shard. Every row goes straight to its place in the shuffled order, so that there is no second copy."""
    wanted, _ = _wanted(plan, piece, number)
    order = torch.randperm(wanted, generator=generator(plan.seed, "shard", piece, number))
    rows = {
        Site.parse(site): torch.empty(0, width, dtype=_feed(plan).dtype)
        for site, width in zip(plan.sites, plan.widths, strict=True)
    }
    facts = {name: torch.empty(wanted, dtype=dtype) for name, dtype in FACT_TYPES.items()}
    found = 0
    with memory_told(f"A shard of {wanted:,} rows at {len(rows)} sites", "Ask for less in shard_tokens."):
        for harvested in lane.take(wanted):
            to = order[found : found + len(harvested)]
            for site, x in harvested.rows.items():
                if not len(rows[site]):
                    rows[site] = x.new_empty(wanted, x.shape[1])
                rows[site].index_copy_(0, to.to(x.device), x)
            for name, held in facts.items():
                held.index_copy_(0, to, getattr(harvested, name).to(held.dtype))
            found += len(harvested)
        if found < wanted:  # the documents ended: the places that were filled move together
            filled = order[:found].sort().values
            rows = {site: x[filled.to(x.device)] if found else x for site, x in rows.items()}
            facts = {name: x[filled] for name, x in facts.items()}
    check_finite(rows)
    flags = {site: outliers(x) for site, x in rows.items()}
    return _Made(
        name=_name(piece, number),
        n_rows=found,
        rows=rows,
        facts=facts | {f"outliers.{site}": flag.nonzero()[:, 0].int().cpu() for site, flag in flags.items()},
        moments=_moments(rows, flags),
    )


def _moments(rows: Mapping[Site, Tensor], flags: Mapping[Site, Tensor]) -> dict[str, dict[str, Moments]]:
    """Of all rows by site, and of the plain ones."""
    found: dict[str, dict[str, Moments]] = {"all": {}, "plain": {}}
    for site, x in rows.items():
        some = bool(flags[site].any())
        plain = Moments.of(x[~flags[site]] if some else x)
        found["plain"][str(site)] = plain
        found["all"][str(site)] = plain.merged(Moments.of(x[flags[site]])) if some else plain
    return found


# --- writing -------------------------------------------------------------------------------------------------------


def _write(home: Path, plan: Plan, made: Callable[[], Iterator[_Made]], progress: Progress) -> None:
    """Writes shards as a thread makes them."""
    row = sum(plan.widths) * _feed(plan).dtype.itemsize
    there = sum(shard.meta["n_rows"] for path in home.glob("shard-*") if (shard := _there(path)) is not None)
    done, started = there, time.monotonic()
    for fresh in ahead(made):
        _save(home, fresh)
        done += fresh.n_rows
        del fresh
        seconds = max(time.monotonic() - started, 1e-9)
        progress(
            "harvest",
            done,
            plan.n_tokens,
            tokens_per_second=(done - there) / seconds,
            gigabytes=done * row / 1e9,
        )


def _save(home: Path, made: _Made) -> None:
    tensors = {str(site): {"rows": x} for site, x in made.rows.items()}
    meta = {"n_rows": made.n_rows, "moments": _figures(made.moments)}
    save_artefact(
        home / made.name,
        kind=SHARD,
        tensors={**tensors, FACTS: {**made.facts, **_means(made.moments)}},
        meta=meta,
        provenance={},
    )


def _means(moments: Mapping[str, Mapping[str, Moments]]) -> dict[str, Tensor]:
    return {f"{kind}.{site}": x.mean for kind, by_site in moments.items() for site, x in by_site.items()}


def _figures(moments: Mapping[str, Mapping[str, Moments]]) -> dict[str, dict[str, dict[str, float]]]:
    """What is JSON of moments: all but the means, which are tensors."""
    return {
        kind: {site: {"mean_square": x.mean_square, "n_rows": x.n_rows} for site, x in by_site.items()}
        for kind, by_site in moments.items()
    }


def _closed(home: Path, plan: Plan) -> Store | None:
    """The store, once every shard of every lane is written; its manifest is then the last thing to be written."""
    lanes = [_shards(home, plan, lane) for lane in range(plan.lanes)]
    if any(lane is None for lane in lanes):
        return None
    shards = [
        lane[piece] for piece in range(max(len(lane or ()) for lane in lanes)) for lane in lanes
        if lane and piece < len(lane)
    ]  # fmt: skip
    moments = reduce(_merged, map(_moments_of, shards))
    meta = {
        "plan": asdict(plan),
        "complete": True,
        "n_rows": sum(shard.meta["n_rows"] for shard in shards),
        "shards": [
            {
                "name": shard.path.name,
                "n_rows": shard.meta["n_rows"],
                "sha256": file_sha256(shard.path / MANIFEST),
            }
            for shard in shards
        ],
        "moments": _figures(moments),
        "outliers": {
            site: moments["all"][site].n_rows - moments["plain"][site].n_rows for site in plan.sites
        },
    }
    made_of = provenance(seed=plan.seed)
    with exclusive(home):
        if load_artefact(home, kind=KIND).meta != _plain(meta):
            save_artefact(
                home, kind=KIND, tensors={"moments": _means(moments)}, meta=meta, provenance=made_of
            )
    return load_store(home)


def _moments_of(shard: Artefact) -> dict[str, dict[str, Moments]]:
    held = shard.tensors(FACTS)
    return {
        kind: {site: moments_in(shard.meta, held, kind, site) for site in by_site}
        for kind, by_site in shard.meta["moments"].items()
    }


def _merged(
    one: dict[str, dict[str, Moments]], other: dict[str, dict[str, Moments]]
) -> dict[str, dict[str, Moments]]:
    return {
        kind: {site: moments.merged(other[kind][site]) for site, moments in by_site.items()}
        for kind, by_site in one.items()
    }


def _plain(meta: dict[str, Any]) -> Any:
    """As it comes back from JSON: tuples are lists there."""
    import json

    return json.loads(json.dumps(meta))
