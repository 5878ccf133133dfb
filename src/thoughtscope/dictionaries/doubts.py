"""What speaks against a dictionary that was made for another hook or scale, where nothing is on record to compare with.

A dictionary explains most where it was trained. So it is asked to explain a few dozen tokens also from other sites and
from the same site a little larger and smaller, and how much longer what it writes should be: where something else does
clearly better than what was asked for, there is reason to doubt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from thoughtscope.core.errors import UnknownSite
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.documents import counted
from thoughtscope.dictionaries.features import flat, total_by_site
from thoughtscope.dictionaries.replacement import reconstruct
from thoughtscope.dictionaries.transcoders import READ_KINDS

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens

TOKENS = 48
"""Enough to tell scales apart, few enough to cost less than the preflight itself."""
FACTORS = (0.8, 1.25)
BETTER, MARGIN = 0.75, 0.03
"""Another reading is clearly better when it leaves this share of what the asked one leaves, or less, and by so much."""
STRETCH = 1.45
"""What is written may be too short or too long by this factor: sparsity shortens it, and few tokens measure badly."""


@dataclass(frozen=True, kw_only=True)
class _Guess:
    """How well one way of reading explains what the written sites hold."""

    fvu: float
    stretch: float
    """The factor by which what is written fits best, around its mean."""


@torch.no_grad()
def reading_doubts(model: Model, dictionary: Dictionary, tokens: Tokens) -> list[str]:
    """Sentences on other readings that do clearly better on the first `TOKENS` tokens; none where all is well.

    Only for dictionaries that read one site a part, and write none that they read: what an autoencoder should give
    scales with what it is given.
    """
    from thoughtscope.models import capture

    if set(dictionary.reads) & set(dictionary.writes) or any(
        len(part.reads) > 1 for part in dictionary.parts
    ):
        return []
    others = _other_kinds(model, dictionary)
    sites = dict.fromkeys(
        [*dictionary.sites, *(site for moved in others.values() for site in moved.values())]
    )
    acts = capture(model, tokens, tuple(sites))
    keep = counted(tokens.mask, skip_first=dictionary.skip_first).to(model.device)
    held = {site: flat(acts[site][keep], 1).float()[:TOKENS] for site in sites}  # (row, width)
    asked = _guess(dictionary, held, held)
    ways: dict[str, Mapping[Site, Tensor]] = {
        f"when what it reads is multiplied by {factor:g}": {s: held[s] * factor for s in dictionary.reads}
        for factor in FACTORS
    }
    ways |= {
        f"when it reads {kind}": {site: held[moved[site]] for site in dictionary.reads}
        for kind, moved in others.items()
    }
    found = {what: _guess(dictionary, given, held).fvu for what, given in ways.items()}
    best = min(found, key=lambda what: found[what])
    doubts = []
    if found[best] < BETTER * asked.fvu and found[best] < asked.fvu - MARGIN:
        doubts.append(
            f"it leaves {asked.fvu:.2f} of the variance of some tokens, but {found[best]:.2f} {best}"
        )
    if not 1 / STRETCH < asked.stretch < STRETCH:
        doubts.append(f"what it writes would fit best multiplied by {asked.stretch:.2g}")
    return doubts


def _other_kinds(model: Model, dictionary: Dictionary) -> dict[str, dict[Site, Site]]:
    """For each other kind of site that MLPs' stand-ins may read: where each site read would move."""
    kinds = {site.kind for site in dictionary.reads}
    if len(kinds) > 1 or not kinds <= set(READ_KINDS):
        return {}
    found = {}
    for kind in READ_KINDS:
        moved = {site: Site(kind, site.layer) for site in dictionary.reads}
        try:
            same = all(model.width(new) == model.width(old) for old, new in moved.items())
        except UnknownSite:
            continue
        if kind not in kinds and same:
            found[kind] = moved
    return found


def _guess(dictionary: Dictionary, given: Mapping[Site, Tensor], held: Mapping[Site, Tensor]) -> _Guess:
    written = total_by_site([reconstruct(part, given)[0] for part in dictionary.parts])
    left, along, length = [], 0.0, 0.0
    for site, guess in written.items():
        y, y_hat = held[site] - held[site].mean(0), guess - guess.mean(0)
        variance = float(y.square().sum())
        left.append(min(float((held[site] - guess).square().sum()) / max(variance, 1e-30), 2.0))
        along, length = (
            along + float((y * y_hat).sum()) / variance,
            length + float(y_hat.square().sum()) / variance,
        )
    return _Guess(fvu=sum(left) / len(left), stretch=along / length if length else 1.0)
