"""Running the model on a dictionary, or on a constant: what stands at the written sites in place of the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.features import flat, total_by_site

if TYPE_CHECKING:
    from thoughtscope.models import Step


class Replacement:
    """The reads and writes that run the model on the dictionary: each write site gets, at the positions of `keep`, the
    reconstruction from what the encoders read in this very pass. Elsewhere it keeps the model's own output.

    At a site that is both read and written, the write encodes what it finds there. A part that reads later than it
    writes (a crosscoder) cannot be encoded in the running pass: its inputs are those of the unedited one, `clean`.
    """

    def __init__(
        self, dictionary: Dictionary, keep: Bool[Tensor, "batch pos"], clean: Mapping[Site, Tensor]
    ) -> None:
        self.dictionary = dictionary
        self.keep = keep
        self.held: dict[Site, Tensor] = {}
        """What the sites read so far hold at the kept tokens, (row, width)."""
        self.pending: dict[Site, list[Mapping[Site, Tensor]]] = {site: [] for site in dictionary.writes}
        """By write site: what the parts encoded so far write."""
        ahead = [part for part in dictionary.parts if part.looks_ahead]
        for part in ahead:
            self._encode(part, {site: flat(clean[site][self.keep], 1) for site in part.reads})
        self.waiting = [part for part in dictionary.parts if not part.looks_ahead]
        written = set(dictionary.writes)
        read = {site for part in self.waiting for site in part.reads}
        self.reads = {site: partial(self._read, site) for site in dictionary.reads if site in read - written}
        self.writes = {site: partial(self._write, site) for site in dictionary.writes}

    def _read(self, site: Site, x: Tensor, step: Step) -> None:
        """Notes what a site holds, and encodes the parts that have then read everything."""
        self.held[site] = flat(x[self.keep], 1)
        ready = [part for part in self.waiting if all(each in self.held for each in part.reads)]
        self.waiting = [part for part in self.waiting if part not in ready]
        for part in ready:
            self._encode(part, self.held)

    def _encode(self, part: Part, x: Mapping[Site, Tensor]) -> None:
        written = reconstruct(part, x)[0]
        for site, value in written.items():
            self.pending[site].append({site: value})

    def _write(self, site: Site, y: Tensor, step: Step) -> Tensor:
        if any(site in part.reads for part in self.waiting):
            self._read(site, y, step)
        y = y.clone()
        rows = total_by_site(self.pending.pop(site))[site]  # (row, width)
        y[self.keep] = rows.view(rows.shape[0], *y.shape[2:]).to(y.dtype)
        return y


def reconstruct(part: Part, x: Mapping[Site, Tensor]) -> tuple[dict[Site, Tensor], Tensor]:
    """What a part writes for rows that its sites hold, by site, and its features (row, feature)."""
    values = part.activations(x)
    row, index = values.nonzero(as_tuple=True)
    return part.write(row, index, values[row, index], x), values


class Constant:
    """The writes of an ablation: at the positions of `keep`, each site gets the same vector whatever the text."""

    def __init__(self, values: Mapping[Site, Float[Tensor, " _"]], keep: Bool[Tensor, "batch pos"]) -> None:
        self.keep = keep
        self.writes = {site: partial(self._write, value) for site, value in values.items()}

    def _write(self, value: Tensor, y: Tensor, step: Step) -> Tensor:
        y = y.clone()
        y[self.keep] = value.to(y).view(y.shape[2:])
        return y
