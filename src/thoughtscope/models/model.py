"""`Model`: a Hugging Face causal language model, unmodified, with the facts that were proved about it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from thoughtscope.core.errors import UnknownSite
from thoughtscope.core.site import LAYER_KINDS, Site
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
        if site.kind in LAYER_KINDS and (site.layer or 0) >= self.n_layers:
            raise UnknownSite(
                f'{self.name} has no "{site}": it has {self.n_layers} layers, so layers 0 to {self.n_layers - 1}.'
            )
        return site

    def width(self, site: Site | str) -> int:
        """How many numbers `site` holds for one position. Raises `UnknownSite` where it holds no vector a position."""
        kind = self.site(site).kind
        if kind in ("scores", "pattern", "logits"):
            raise UnknownSite(f'"{kind}" holds no vector a position.')
        return {"z": self.n_heads * self.d_head, "v": self.n_kv_heads * self.d_head}.get(kind, self.d_model)

    def __repr__(self) -> str:
        return (
            f"Model({self.name!r}, {self.family.name}, {self.n_layers} layers, d_model {self.d_model}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )
