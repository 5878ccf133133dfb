"""`CleanRun`: the unedited forward pass that plans are compared with, and what they hold on to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.interventions.plans import Plan
from thoughtscope.models.hooks import forward, reading
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class CleanRun:
    """One prompt without edits: its logits, what encoders read, and what the plans at hand need held."""

    tokens: Tokens
    logits: Float[Tensor, " vocab"]
    """Of the token after the prompt."""
    inputs: dict[Site, Tensor]
    """What the dictionary's encoders read: (batch, pos, ...)."""
    written: dict[Site, Tensor]
    """What MLPs write, (batch, pos, d_model). Only of constrained blocks."""
    patterns: dict[Site, Float[Tensor, "batch head query key"]]
    """Only when a plan freezes attention."""
    norm_scales: dict[Site, Float[Tensor, "batch pos 1"]]
    """Only when a plan constrains every layer."""

    @property
    def padding(self) -> int:
        """Columns of padding before the first real token."""
        return int((~self.tokens.mask[0]).sum())


@torch.no_grad()
def clean_run(model: Model, dictionary: Dictionary, tokens: Tokens, plans: Sequence[Plan]) -> CleanRun:
    """One forward pass that keeps what `plans` need. Raises `InvalidPlan` for tokens of more than one prompt."""
    if len(tokens) != 1:
        raise InvalidPlan(f"An intervention acts on one prompt; got {len(tokens)}. Pass tokens.row(i).")
    acting = [plan for plan in plans if plan.edits]
    blocks = range(model.n_layers)
    held = [mlp_site(dictionary, layer) for layer in blocks if any(plan.constrains(layer) for plan in acting)]
    frozen = any(plan.attention == "frozen" for plan in acting)
    everywhere = any(all(plan.constrains(layer) for layer in blocks) for plan in acting)
    norms = model.family.norms if everywhere else {}
    wanted = {
        *dictionary.reads,
        *held,
        *(Site("pattern", layer) for layer in blocks if frozen),
        *(read for read, _ in norms.values()),
    }
    found: dict[Site, Tensor] = {}

    logits = forward(model, tokens, reads={site: reading(found, site) for site in wanted})
    assert logits is not None
    return CleanRun(
        tokens=tokens,
        logits=logits[0, -1],
        inputs={site: found[site] for site in dictionary.reads},
        written={site: found[site] for site in held},
        patterns={site: x for site, x in found.items() if site.kind == "pattern"},
        norm_scales={site: norm.scale(found[read]) for site, (read, norm) in norms.items()},
    )


def mlp_site(dictionary: Dictionary, layer: int) -> Site:
    """Where the MLP of a block is held: the site at which the dictionary writes it, else its contribution."""
    raw = Site("mlp_raw", layer)
    return raw if raw in dictionary.writes else Site("mlp_out", layer)
