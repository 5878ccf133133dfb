"""`Store`: activations on disk, in shards that are shuffled when written.

    folder/
      manifest.json               plan, counts, moments, and of each shard its rows and the hash of its manifest
      shard-00000-03/             an artefact: piece 0 of lane 3
        manifest.json             hashes, sizes, moments and outliers of this shard
        resid_post.4-….safetensors   "rows" (row, width)
        tokens-….safetensors      token, document, position, offset (row); outliers and means by site

What a shard holds depends on the plan and the documents alone, never on how many processes write or on when one of them
was killed: run the same harvest again, and what is missing is made. A row is an outlier at a site if its norm is more
than 10 times the median norm of its shard there; outliers are kept, and whoever reads may leave them out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from thoughtscope.core.errors import (
    CorruptArtefact,
    Problem,
    ThoughtscopeError,
    UnknownSite,
    describe_choices,
)
from thoughtscope.core.files import file_sha256
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.share import Share
from thoughtscope.core.site import Site
from thoughtscope.core.store import MANIFEST, Artefact, load_artefact
from thoughtscope.core.tensors import all_finite
from thoughtscope.training.data.ahead import ahead
from thoughtscope.training.data.moments import Moments
from thoughtscope.training.data.order import generator
from thoughtscope.training.data.stream import Batch

KIND, SHARD = "activation-store", "activation-shard"
FACT_TYPES = {
    "token": torch.int32,
    "document": torch.int64,
    "position": torch.int32,
    "offset": torch.int32,
}
FACTS = "tokens"
"""The file of a shard that says which tokens its rows are of."""
_DTYPES = ("bfloat16", "float16", "float32", "float64")
_SHARD_NAME = re.compile(r"shard-[0-9]{5,9}-[0-9]{2,9}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides every byte of a store's rows."""

    model: str
    revision: str
    sites: tuple[str, ...]
    widths: tuple[int, ...]
    source: str
    documents: str
    """SHA-256 of the first documents."""
    context: int
    forward_tokens: int
    skip_first: bool
    dtype: str
    n_tokens: int | None
    """Rows at most; None for all that the documents give."""
    shard_tokens: int
    lanes: int
    seed: int

    def rows_of(self, lane: int) -> int | None:
        """The most rows that a lane gives."""
        if self.n_tokens is None:
            return None
        return self.n_tokens * (lane + 1) // self.lanes - self.n_tokens * lane // self.lanes


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What the manifest says of one shard."""

    name: str
    n_rows: int
    sha256: str
    """Of the shard's own manifest, which has the hashes of its files."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Store:
    """A store that was written to its end. Rows stay on disk until they are asked for."""

    path: Path
    plan: Plan
    shards: tuple[Shard, ...]
    moments: Mapping[Site, Moments]
    moments_without_outliers: Mapping[Site, Moments]
    outliers: Mapping[Site, int]
    """How many rows are outliers at each site."""
    _sound: set[tuple[str, str]] = field(default_factory=set, repr=False)
    """Shards and files whose hashes were found right."""

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(site) for site in self.plan.sites)

    @property
    def widths(self) -> dict[Site, int]:
        return dict(zip(self.sites, self.plan.widths, strict=True))

    @property
    def n_rows(self) -> int:
        return sum(shard.n_rows for shard in self.shards)

    def rows(self, shard: Shard, site: Site) -> Tensor:
        """The rows (row, width) of a shard at a site, mapped from disk; their hash is checked when first asked for.

        Raises `CorruptArtefact` naming the file.
        """
        width = self.widths.get(site)
        if width is None:
            raise UnknownSite(describe_choices(site, self.sites, what=f"site of {self.path}"))
        return self._held(shard, str(site), "rows", (shard.n_rows, width), getattr(torch, self.plan.dtype))

    def tokens(self, shard: Shard) -> dict[str, Int[Tensor, " row"]]:
        """Of each row its `token`, the number of its `document`, its `position` in the context, and its `offset` in the
        document."""
        return {
            name: self._held(shard, FACTS, name, (shard.n_rows,), dtype) for name, dtype in FACT_TYPES.items()
        }

    def outliers_in(self, shard: Shard, site: Site) -> Int[Tensor, " outlier"]:
        """Which rows of a shard are outliers at a site."""
        found = self._held(shard, FACTS, f"outliers.{site}", None, torch.int32)
        if len(found) and not 0 <= int(found.min()) <= int(found.max()) < shard.n_rows:
            raise CorruptArtefact(f"{self.path / shard.name}: there are no rows of outliers.{site}.")
        return found

    def check(self, *, progress: Progress = silent) -> list[Problem]:
        """Reads every byte; the files that are not as they were written, each with what is wrong."""
        problems = []
        for number, shard in enumerate(self.shards):
            try:
                artefact = self._artefact(shard)
                names: Iterable[str] = artefact.files
            except CorruptArtefact as error:
                problems.append(Problem(file=shard.name, why=str(error)))
                continue
            for name in names:
                try:
                    _check_hash(artefact, name)
                except CorruptArtefact as error:
                    problems.append(Problem(file=f"{shard.name}/{artefact.files[name].path}", why=str(error)))
            progress("check", number + 1, len(self.shards))
        return problems

    def _artefact(self, shard: Shard) -> Artefact:
        folder = self.path / shard.name
        artefact = load_artefact(folder, kind=SHARD, verify="size")
        if file_sha256(folder / MANIFEST) != shard.sha256:
            raise CorruptArtefact(f"{folder / MANIFEST} is not the one that {self.path / MANIFEST} names.")
        return artefact

    def _held(
        self, shard: Shard, file: str, name: str, shape: tuple[int, ...] | None, dtype: torch.dtype
    ) -> Tensor:
        """A tensor of a shard, from a file that is as it was written. A shape of None is any with one axis."""
        artefact = self._artefact(shard)
        if (shard.name, file) not in self._sound:
            _check_hash(artefact, file)
            self._sound.add((shard.name, file))
        x = artefact.tensors(file)[name]
        if x.dtype != dtype or (x.ndim != 1 if shape is None else tuple(x.shape) != shape):
            raise CorruptArtefact(
                f"{artefact.file_path(file)} holds {name} as {x.dtype} of shape {tuple(x.shape)}, "
                "which is not what the store's manifest says."
            )
        return x


def _check_hash(artefact: Artefact, name: str) -> None:
    """Reads one file of a shard from its start to its end, which also brings it into the page cache."""
    path = artefact.file_path(name)
    try:
        actual = file_sha256(path)
    except OSError as error:
        raise CorruptArtefact(f"{path} cannot be read: {error.strerror or error}.") from None
    if actual != artefact.files[name].sha256:
        raise CorruptArtefact(
            f"{path} was altered: its SHA-256 is {actual[:12]}…, the manifest says "
            f"{artefact.files[name].sha256[:12]}…. Delete {path.parent} and run the same harvest again."
        )


def load_store(path: str | os.PathLike[str]) -> Store:
    """Opens a store. Raises `CorruptArtefact` for none, or a damaged one, or one that is not written to its end."""
    artefact = load_artefact(path, kind=KIND)
    with well_formed(artefact.path):
        meta, plan = artefact.meta, plan_of(artefact.meta)
        if meta["complete"] is not True:
            raise CorruptArtefact(
                f"{path} is not written to its end. Run the same harvest again: it goes on where it was."
            )
        held = artefact.tensors("moments")
        return Store(
            path=artefact.path,
            plan=plan,
            shards=tuple(_shard(entry) for entry in meta["shards"]),
            moments={Site.parse(site): moments_in(meta, held, "all", site) for site in plan.sites},
            moments_without_outliers={
                Site.parse(site): moments_in(meta, held, "plain", site) for site in plan.sites
            },
            outliers={Site.parse(site): int(meta["outliers"][site]) for site in plan.sites},
        )


@contextmanager
def well_formed(path: Path) -> Iterator[None]:
    """Turns the traces of a manifest that lacks a field, or has one of another kind, into `CorruptArtefact`."""
    try:
        yield
    except CorruptArtefact:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptArtefact(
            f"{path / MANIFEST} does not have the fields of a store of activations ({error})."
        ) from None


def plan_of(meta: Mapping[str, Any]) -> Plan:
    """The plan in a store's manifest. Raises `CorruptArtefact` for one that cannot be."""
    given = dict(meta["plan"])
    plan = Plan(**{**given, "sites": tuple(given["sites"]), "widths": tuple(given["widths"])})
    numbers = [*plan.widths, plan.context, plan.forward_tokens, plan.shard_tokens, plan.lanes]
    numbers += [] if plan.n_tokens is None else [plan.n_tokens]
    if (
        not plan.sites
        or len(plan.sites) != len(plan.widths)
        or any(str(Site.parse(site)) != site for site in plan.sites)
        or any(type(number) is not int or number < 1 for number in numbers)
        or plan.dtype not in _DTYPES
    ):
        raise CorruptArtefact(f"A store's manifest holds a plan that cannot be: {given}.")
    return plan


def _shard(entry: Mapping[str, Any]) -> Shard:
    shard = Shard(**entry)
    n_rows = shard.n_rows
    if not _SHARD_NAME.fullmatch(shard.name) or type(n_rows) is not int or not 0 <= n_rows < 2**31:
        raise CorruptArtefact(f"A store's manifest names a shard that cannot be: {entry}.")
    return shard


def moments_in(meta: Mapping[str, Any], held: Mapping[str, Tensor], kind: str, site: str) -> Moments:
    """The moments of a site's rows, "all" or the "plain" ones, as a manifest and the file beside it hold them."""
    figures, mean = meta["moments"][kind][site], held[f"{kind}.{site}"]
    if (
        mean.dtype != torch.float64
        or mean.ndim != 1
        or not all_finite(mean)
        or not figures["mean_square"] >= 0
    ):
        raise CorruptArtefact(f"A store's moments of {site} are no mean and mean square.")
    return Moments(mean=mean, mean_square=float(figures["mean_square"]), n_rows=int(figures["n_rows"]))


# --- batches -------------------------------------------------------------------------------------------------------


class StoreStream:
    """Batches from a store: every row once in each round, never the same order twice.

    A round takes the shards in a random order, `window` at a time, and the rows of those in a random order. Files are
    read as a whole when their window begins (their hash is then checked, once), so the disk is read from start to end.
    A thread makes batches a little ahead, and puts them on `device`. With `without_outliers`, rows that are outliers at
    any of `sites` are left out; `moments` are always those of the rows that are none.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        sites: Sequence[Site | str] | None = None,
        *,
        batch: int = 4096,
        seed: int = 0,
        window: int = 8,
        without_outliers: bool = False,
        share: Share | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.store = store if isinstance(store, Store) else load_store(store)
        wanted = [Site.parse(site) if isinstance(site, str) else site for site in sites or self.store.sites]
        held = self.store.widths
        unknown = next((site for site in wanted if site not in held), None)
        if unknown is not None:
            raise UnknownSite(describe_choices(unknown, held, what=f"site of {self.store.path}"))
        if min(batch, window) < 1:
            raise ThoughtscopeError(f"batch and window are 1 or more; got {batch} and {window}.")
        self.sites: tuple[Site, ...] = tuple(dict.fromkeys(wanted))
        self.widths: Mapping[Site, int] = {site: held[site] for site in self.sites}
        self.batch, self.seed, self.window, self.device = batch, seed, window, device
        self.share = share or Share()
        self.rows = self.share.of(batch)
        """Which rows of each batch this process makes."""
        self._kept = self._without_outliers() if without_outliers else {}
        self._sizes = [len(self._kept.get(number, range(shard.n_rows))) for number, shard in self._numbered]
        self.n_rows = sum(self._sizes)
        """Rows of a round."""
        if self.n_rows < batch:
            raise ThoughtscopeError(
                f"{self.store.path} has {self.n_rows:,} rows, less than a batch of {batch:,}."
            )
        moments = self.store.moments_without_outliers
        self.moments: Mapping[Site, Moments] = {site: moments[site] for site in self.sites}

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batches from step `start` on. Raises `CorruptArtefact` naming a file that is not as it was written."""
        return ahead(lambda: self._batches(start), n=4)

    @property
    def _numbered(self) -> list[tuple[int, Shard]]:
        return list(enumerate(self.store.shards))

    def _without_outliers(self) -> dict[int, Int[Tensor, " row"]]:
        """The rows that are left, of each shard that has outliers at one of the sites."""
        kept = {}
        for number, shard in self._numbered:
            flags = torch.zeros(shard.n_rows, dtype=torch.bool)
            for site in self.sites:
                flags[self.store.outliers_in(shard, site).long()] = True
            if bool(flags.any()):
                kept[number] = (~flags).nonzero()[:, 0]
        return kept

    def _batches(self, start: int) -> Iterator[Batch]:
        opened: dict[tuple[int, Site], Tensor] = {}
        round_, skipped = divmod(start * self.batch, self.n_rows)
        rest = torch.empty(0, dtype=torch.int64)
        for shards, places in self._windows(round_):
            if skipped >= len(places):
                skipped -= len(places)
                continue
            for key in [key for key in opened if key[0] not in shards]:
                del opened[key]
            rest = torch.cat([rest, places[skipped:]])
            skipped = 0
            whole = len(rest) // self.batch * self.batch
            for batch in rest[:whole].view(-1, self.batch):
                yield self._gathered(batch[self.rows.start : self.rows.stop], opened)
            rest = rest[whole:]

    def _windows(self, round_: int) -> Iterator[tuple[list[int], Int[Tensor, " row"]]]:
        """The shards of each window from a round on, and the places of their rows in the order in which they come."""
        for turn in count(round_):
            order = torch.randperm(len(self._sizes), generator=generator(self.seed, "shards", turn)).tolist()
            for number, start in enumerate(range(0, len(order), self.window)):
                shards = order[start : start + self.window]
                places = torch.cat([self._places(shard) for shard in shards])
                random = generator(self.seed, "rows", turn, number)
                yield shards, places[torch.randperm(len(places), generator=random)]

    def _places(self, shard: int) -> Int[Tensor, " row"]:
        """The rows of a shard that are read: its number in the upper half of the bits, the row in the lower."""
        rows = self._kept.get(shard)
        rows = torch.arange(self._sizes[shard]) if rows is None else rows
        return rows + (shard << 32)

    def _gathered(self, places: Int[Tensor, " row"], opened: dict[tuple[int, Site], Tensor]) -> Batch:
        """The rows at some places, in that order."""
        shards, rows = places >> 32, places & 0xFFFFFFFF
        found: dict[Site, Tensor] = {}
        for number in shards.unique().tolist():
            here = (shards == number).nonzero()[:, 0]
            for site in self.sites:
                if (number, site) not in opened:
                    opened[number, site] = self.store.rows(self.store.shards[number], site)
                x = opened[number, site]
                to = found.setdefault(site, x.new_empty(len(places), x.shape[1]))
                to.index_copy_(0, here, x.index_select(0, rows[here]))
        return {site: x.to(self.device) for site, x in found.items()}
