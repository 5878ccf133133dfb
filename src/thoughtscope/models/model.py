"""`Model`: a Hugging Face causal language model, unmodified, with the facts that were proved about it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from thoughtscope.core.errors import UnknownSite
from thoughtscope.core.site import SITE_KINDS, Site
from thoughtscope.models.families import Family


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """The user's own module in eval mode, its tokenizer, and its family's facts.

    Hooks live on a shared module, so every forward pass holds `lock`: concurrent calls never see each other's edits.
    """

    module: Any
    tokenizer: Any
    family: Family
    name: str
    revision: str
    lock: Any = field(default_factory=threading.RLock, repr=False)
    pace: Any = field(default=None, repr=False)
    "Of a model spread over processes (`shard_model`): what keeps their passes in step."

    @property
    def n_layers(self) -> int:
        return len(self.family.blocks)

    @property
    def d_model(self) -> int:
        return self.family.unembed.shape[1]

    @property
    def n_heads(self) -> int:
        return self.family.blocks[0].W_O.shape[0]

    @property
    def n_kv_heads(self) -> int:
        return self.family.blocks[0].W_V.shape[0]

    @property
    def d_head(self) -> int:
        return self.family.blocks[0].W_O.shape[1]

    @property
    def vocab_size(self) -> int:
        return self.family.unembed.shape[0]

    @property
    def device(self) -> torch.device:
        """Where token ids go in; a model spread over devices keeps the rest itself."""
        return next(self.family.embed_module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.family.unembed.dtype

    @property
    def has_chat_template(self) -> bool:
        """Whether its tokenizer puts conversations in a form of the model's own."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @property
    def max_positions(self) -> int:
        return int(self.family.config.max_position_embeddings)

    def site(self, site: Site | str) -> Site:
        """`site` as a `Site` that this model has.

        Raises `UnknownSite` for a layer out of range or a kind that the family lacks, with the reason.
        """
        site = Site.parse(site) if isinstance(site, str) else site
        if site.kind in self.family.missing:
            raise UnknownSite(
                f'{self.name} ({self.family.name}) has no "{site}": {self.family.missing[site.kind]}.'
            )
        if site.layer is not None and site.layer >= self.n_layers:
            raise UnknownSite(
                f'{self.name} has no "{site}": it has {self.n_layers} layers, so layers 0 to {self.n_layers - 1}.'
            )
        return site

    def shape(self, site: Site | str) -> tuple[int, ...]:
        """The trailing axes of a site's tensor: what one position holds, for example (head, d_head) at `z`.

        Raises `UnknownSite` for a site that the model lacks, or with no vector a position (scores, logits).
        """
        site = self.site(site)
        if not site.row.is_vector:
            raise UnknownSite(
                f'"{site}" has no vector a position: its axes are {", ".join(site.row.axes)}. '
                f"Allowed: {', '.join(name for name, kind in SITE_KINDS.items() if kind.is_vector)}."
            )
        block = self.family.blocks[site.layer or 0]
        sizes = {"d_model": self.d_model, "d_mlp": 0 if block.neurons is None else len(block.neurons.W_out)}
        sizes |= {"head": len(block.W_O), "kv_head": len(block.W_V), "d_head": block.W_O.shape[1]}
        return tuple(sizes[axis] for axis in site.row.axes[2:])

    def width(self, site: Site | str) -> int:
        """How many numbers one position holds at a site. Raises `UnknownSite` as `shape` does."""
        return prod(self.shape(site))

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.family.name}, {self.n_layers} layers, d_model {self.d_model}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )
