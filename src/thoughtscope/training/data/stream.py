"""`Stream`: endless batches of activations that a training takes, each a pure function of its step.

`HarvestStream` makes them from a model while the training runs. Documents are dealt to lanes, a lane's rows are cut
into pieces, and a window mixes half of a piece with half of the piece before it:

    piece    0        1        2        3
    window   A0    B0+A1    B1+A2    B2+A3          A, B: the two halves of a shuffled piece

So every row comes once, mixed over a piece and a half, and whoever enters at any step harvests two pieces. A batch is
made of the lanes' blocks in their order; a process that has some of the lanes makes its block of the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.share import Share
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.documents import Document
from thoughtscope.training.data.ahead import ahead
from thoughtscope.training.data.harvest import Feed, Harvested, Lane, check_finite, in_pace, lanes_of
from thoughtscope.training.data.moments import Moments, outliers
from thoughtscope.training.data.order import LANES, generator
from thoughtscope.training.data.sources import Documents, Source, source_of

if TYPE_CHECKING:
    from thoughtscope.models import Model

Batch = Mapping[Site, Tensor]
"""Rows by site, (row, width) each: as the model made them, not centred and not scaled."""


MOMENT_ROWS = 65_536
"""Rows from which a stream takes its moments."""
PASSES_MIXED = 8
"""Forward passes, at least, of which a lane's piece is made."""
_SLOTS = 3  # the piece that is made, and the two that a window mixes


@runtime_checkable
class Stream(Protocol):
    """What a training takes its batches from."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of every batch."""

    @property
    def widths(self) -> Mapping[Site, int]:
        """How wide the rows of each site are."""

    @property
    def moments(self) -> Mapping[Site, Moments]:
        """Mean and mean square about it, by site; the same in every process that shares the batches."""

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batches from step `start` on: the same, bit for bit, whatever was drawn before."""


class HarvestStream:
    """Batches that a model makes of documents, while the training runs; see the module's text for their order.

    `buffer_tokens` rows are held in all: the two pieces that are mixed and the one that a thread makes meanwhile. With
    `passes`, a window is gone through several times, each time in another order. `lanes` decides what is mixed: it is
    the same for every number of processes that share the batches (`share`), and at least that number. Documents start
    over when they run out, but for those of a source that can be read once only.
    """

    def __init__(
        self,
        model: Model,
        documents: Source | str | Iterable[Document] | Callable[[], Iterable[Document]],
        sites: Sequence[Site | str],
        *,
        batch: int = 4096,
        feed: Feed | None = None,
        buffer_tokens: int = 3 * 2**17,
        seed: int = 0,
        passes: int = 1,
        lanes: int = LANES,
        share: Share | None = None,
        moments: Mapping[Site, Moments] | None = None,
    ) -> None:
        self.model = model
        self.source = source_of(documents, model)
        self.sites: tuple[Site, ...] = tuple(dict.fromkeys(model.site(site) for site in sites))
        self.widths: Mapping[Site, int] = {site: model.width(site) for site in self.sites}
        feed = feed or Feed()
        self.seed, self.passes, self.batch = seed, passes, batch
        self.share = share or Share()
        lanes = min(lanes, batch)
        if min(batch, passes, lanes, len(self.sites)) < 1 or buffer_tokens < 2 * _SLOTS * batch:
            raise ThoughtscopeError(
                f"A stream needs a site, a batch and passes of 1 or more, and buffer_tokens of {2 * _SLOTS} batches or "
                f"more; got batch {batch}, passes {passes}, buffer_tokens {buffer_tokens}, {len(self.sites)} sites."
            )
        if self.share.world > lanes:
            raise ThoughtscopeError(
                f"{lanes} lanes cannot be shared by {self.share.world} processes: more lanes."
            )
        self._cuts = [lane * batch // lanes for lane in range(lanes + 1)]
        self._steps = buffer_tokens // (2 * _SLOTS * batch) * 2
        """Steps of a window, in one pass: even, so that a piece has halves."""
        # The documents of a forward pass are about equally long, and so of a kind: a piece mixes many passes.
        piece = self._steps * batch // lanes
        self.feed = replace(
            feed, forward_tokens=max(feed.context, min(feed.forward_tokens, piece // PASSES_MIXED))
        )
        self._own = self.share.of(lanes)
        self._documents = Documents(self.source)
        self._moments = moments

    @property
    def rows(self) -> range:
        """Which rows of each batch this process makes."""
        return range(self._cuts[self._own.start], self._cuts[self._own.stop])

    @property
    def moments(self) -> Mapping[Site, Moments]:
        """Those of the first rows of every lane without outliers, whatever this process's share is."""
        if self._moments is None:
            n_lanes = len(self._cuts) - 1
            each = min(-(-MOMENT_ROWS // n_lanes), self._steps * -(-self.batch // n_lanes))
            lanes = self._lanes(self._documents.peek(), range(n_lanes))
            found: dict[Site, Moments] = {}
            for lane in lanes:
                for harvested in lane.take(each):
                    check_finite(harvested.rows)
                    for site, x in harvested.rows.items():
                        here = Moments.of(x[~outliers(x)])
                        found[site] = found[site].merged(here) if site in found else here
            if not found:
                raise ThoughtscopeError(f"{self.source.name} holds no documents.")
            self._moments = found
        return self._moments

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batches from step `start` on. Raises `ThoughtscopeError` when a source that is read once has run out."""
        window, turn = self._window_of(start)
        documents = self._documents.endless()
        for piece, ring in ahead(lambda: self._pieces(documents, max(window - 1, 0))):
            if piece < window:
                continue
            order = self._order(piece)
            for index in order[turn:]:
                yield {site: x.index_select(0, index.to(x.device)) for site, x in ring.items()}
            turn = 0

    # --- the order of the rows ---

    def _window_of(self, step: int) -> tuple[int, int]:
        """The window in which a step is, and its number there. The first window is half as long."""
        first = self._steps // 2 * self.passes
        if step < first:
            return 0, step
        window, turn = divmod(step - first, self._steps * self.passes)
        return 1 + window, turn

    def _order(self, window: int) -> Int[Tensor, "step row"]:
        """Rows of the ring for each step of a window."""
        passes = []
        for turn in range(self.passes):
            blocks = []
            for lane in self._own:
                pool = self._half(window, lane, first=True)
                if window:
                    pool = torch.cat([pool, self._half(window - 1, lane, first=False)])
                order = torch.randperm(
                    len(pool), generator=generator(self.seed, "window", window, turn, lane)
                )
                blocks.append(pool[order].view(-1, self._cuts[lane + 1] - self._cuts[lane]))
            passes.append(torch.cat(blocks, dim=1))
        return torch.cat(passes)

    def _half(self, piece: int, lane: int, *, first: bool) -> Int[Tensor, " row"]:
        """Rows of the ring that hold one half of a lane's shuffled piece."""
        start, size = self._place(piece, lane)
        order = torch.randperm(size, generator=generator(self.seed, "piece", piece, lane))
        return start + (order[: size // 2] if first else order[size // 2 :])

    def _place(self, piece: int, lane: int) -> tuple[int, int]:
        """Where in the ring a lane's rows of a piece begin, and how many they are."""
        per_piece = len(self.rows) * self._steps
        before = (self._cuts[lane] - self.rows.start) * self._steps
        return piece % _SLOTS * per_piece + before, (self._cuts[lane + 1] - self._cuts[lane]) * self._steps

    # --- the making of the rows ---

    def _lanes(self, documents: Iterator[Document], own: Sequence[int]) -> list[Lane]:
        n_lanes = len(self._cuts) - 1
        return lanes_of(self.model, documents, self.sites, self.feed, own=own, n_lanes=n_lanes)

    def _pieces(self, documents: Iterator[Document], first: int) -> Iterator[tuple[int, dict[Site, Tensor]]]:
        """Pieces from `first` on, each written into the ring, which holds the two before it too."""
        lanes = self._lanes(documents, self._own)
        ring: dict[Site, Tensor] = {}
        for lane, number in zip(lanes, self._own, strict=True):
            lane.skip(first * self._place(0, number)[1])
        with in_pace(self.model, self.sites) as wait:
            for piece in count(first):
                for lane, number in zip(lanes, self._own, strict=True):
                    self._fill(ring, lane, *self._place(piece, number), piece)
                wait()
                yield piece, ring

    def _fill(self, ring: dict[Site, Tensor], lane: Lane, start: int, size: int, piece: int) -> None:
        end = start + size
        at = start
        for harvested in lane.take(size):
            for site, x in self._ring(ring, harvested).items():
                x[at : at + len(harvested)] = harvested.rows[site]
            at += len(harvested)
        if at < end:
            raise ThoughtscopeError(
                f"The documents of {self.source.name} ran out in piece {piece}, after about "
                f"{piece * self._steps * self.batch:,} rows. Give more, or a list or a function, which start over."
            )
        check_finite({site: x[start:end] for site, x in ring.items()})

    def _ring(self, ring: dict[Site, Tensor], harvested: Harvested) -> dict[Site, Tensor]:
        if not ring:
            n_rows = _SLOTS * len(self.rows) * self._steps
            ring |= {site: x.new_empty(n_rows, x.shape[1]) for site, x in harvested.rows.items()}
        return ring
