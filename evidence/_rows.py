"""Rows that an evidence script makes or holds itself, as the trainer takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RowStream:
    """Batches of one site's rows, each by its step."""

    site: str
    first: Any
    """(row, width): what the moments are taken of."""
    batch: Callable[[int], Any]
    """The rows of a step."""

    @property
    def sites(self) -> Any:
        from thoughtscope import Site

        return (Site.parse(self.site),)

    @property
    def widths(self) -> Any:
        return dict.fromkeys(self.sites, self.first.shape[1])

    @property
    def moments(self) -> Any:
        from thoughtscope.training.data.moments import Moments

        return dict.fromkeys(self.sites, Moments.of(self.first))

    def batches(self, start: int = 0) -> Iterator[Any]:
        for step in count(start):
            yield dict.fromkeys(self.sites, self.batch(step))
