"""`Site`: which tensor of the forward pass. `str(site)` and `Site.parse` are exact inverses.

Around each sublayer four tensors are kept apart, because published dictionaries read and write different ones:

    attn_norm  / mlp_norm         the normalised residual, before the norm's weight and bias
    attn_in    / mlp_in           the module's input (norm weight and bias applied)
    attn_raw   / mlp_raw          the module's output
    attn_out   / mlp_out          the contribution to the residual (after a post-norm where the family has one)

so `resid_pre + attn_out + mlp_out == resid_post` holds for every family. Inside attention, heads are kept apart:

    q, k, v  ->  scores  ->  pattern  ->  z        and inside the MLP, `mlp_act` holds its neurons

`SITE_KINDS` is the one table: whatever is to be known about a kind of site is a column there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from thoughtscope.core.errors import UnknownSite, describe_choices


@dataclass(frozen=True, kw_only=True)
class SiteKind:
    """A row of the table of sites.

    `hook` is TransformerLens' name (within a block, where there is one site a block), None where it has none.
    `attribution` says whether features that attribution follows may "read" or "write" here.
    """

    name: str
    axes: tuple[str, ...]
    what: str
    hook: str | None = None
    per_layer: bool = True
    part: Literal["attn", "mlp"] | None = None
    "The sublayer that the site belongs to; None on the residual stream between them."
    attribution: Literal["read", "write"] | None = None

    @property
    def is_vector(self) -> bool:
        """True for an activation (batch, pos, ...) with one vector a position: what an edit or a dictionary acts on."""
        return self.axes[:2] == ("batch", "pos") and self.axes[-1] != "vocab"


_STREAM, _PAIRS = "batch pos d_model", "batch head query key"
_HEADS, _KV_HEADS = "batch pos head d_head", "batch pos kv_head d_head"

_Row = tuple[str, str, Literal["attn", "mlp"] | None, str | None, Literal["read", "write"] | None, str]
# fmt: off
_IN_A_BLOCK: tuple[_Row, ...] = (
    # In the order in which a forward pass makes them.
    # name, axes, sublayer, TransformerLens' hook, what attribution may do there, what it is
    ("resid_pre", _STREAM, None, "hook_resid_pre", "read", "residual stream entering the block"),
    ("attn_norm", _STREAM, "attn", "ln1.hook_normalized", "read", "normalised residual, without weight and bias"),
    ("attn_in", _STREAM, "attn", "attn.hook_in", "read", "input of the attention module"),
    ("q", _HEADS, "attn", "attn.hook_q", None, "queries as projected, before QK-norm and rotation"),
    ("k", _KV_HEADS, "attn", "attn.hook_k", None, "keys as projected, before QK-norm and rotation"),
    ("v", _KV_HEADS, "attn", "attn.hook_v", None, "values, before any repetition over query groups"),
    ("scores", _PAIRS, "attn", "attn.hook_attn_scores", None, "attention scores after scaling, soft cap and mask"),
    ("pattern", _PAIRS, "attn", "attn.hook_pattern", None, "attention weights"),
    ("z", _HEADS, "attn", "attn.hook_z", None, "attention-weighted values before the output projection"),
    ("attn_raw", _STREAM, "attn", "attn.hook_out", None, "output of the attention module"),
    ("attn_out", _STREAM, "attn", "hook_attn_out", None, "attention's contribution to the residual"),
    ("resid_mid", _STREAM, None, "hook_resid_mid", "read", "residual stream between attention and MLP"),
    ("mlp_norm", _STREAM, "mlp", "ln2.hook_normalized", "read", "normalised residual, without weight and bias"),
    ("mlp_in", _STREAM, "mlp", "mlp.hook_in", "read", "input of the MLP module"),
    ("mlp_act", "batch pos d_mlp", "mlp", "mlp.hook_post", None, "neurons: input of the MLP's last projection"),
    ("mlp_raw", _STREAM, "mlp", "mlp.hook_out", "write", "output of the MLP module"),
    ("mlp_out", _STREAM, "mlp", "hook_mlp_out", "write", "the MLP's contribution to the residual"),
    ("resid_post", _STREAM, None, "hook_resid_post", None, "residual stream leaving the block"),
)
_ONCE: tuple[_Row, ...] = (
    ("embed", _STREAM, None, "hook_embed", None, "residual stream entering the first block"),
    ("final_norm", _STREAM, None, None, None, "output of the final norm"),
    ("logits", "batch pos vocab", None, None, None, "what the model returns"),
)
# fmt: on

SITE_KINDS: dict[str, SiteKind] = {
    name: SiteKind(
        name=name,
        axes=tuple(axes.split()),
        what=what,
        hook=hook,
        per_layer=rows is _IN_A_BLOCK,
        part=part,
        attribution=attribution,
    )
    for rows in (_IN_A_BLOCK, _ONCE)
    for name, axes, part, hook, attribution, what in rows
}
LAYER_KINDS: tuple[str, ...] = tuple(name for name, kind in SITE_KINDS.items() if kind.per_layer)
GLOBAL_KINDS: tuple[str, ...] = tuple(name for name, kind in SITE_KINDS.items() if not kind.per_layer)
_OF_HOOK = {kind.hook: name for name, kind in SITE_KINDS.items() if kind.hook and kind.per_layer}


@dataclass(frozen=True, order=True)
class Site:
    """A tensor of the forward pass: a kind, and a layer for the kinds that a block has.

    >>> str(Site("resid_post", 12))
    'resid_post.12'
    >>> Site.parse("blocks.12.hook_resid_post") == Site.parse("resid_post.12")
    True
    """

    kind: str
    layer: int | None = None

    def __post_init__(self) -> None:
        row = SITE_KINDS.get(self.kind)
        if row is None:
            raise UnknownSite(describe_choices(self.kind, SITE_KINDS, what="site kind", limit=30))
        if not row.per_layer and self.layer is not None:
            raise UnknownSite(f'Site "{self.kind}" has no layer, but layer {self.layer} was given.')
        if row.per_layer and (self.layer is None or self.layer < 0):
            raise UnknownSite(
                f'Site "{self.kind}" needs a layer of 0 or more, for example "{self.kind}.0"; got {self.layer}.'
            )

    @property
    def row(self) -> SiteKind:
        """What the table says about sites of this kind."""
        return SITE_KINDS[self.kind]

    @property
    def depth(self) -> tuple[int, int]:
        """Sites in the order in which a forward pass makes them: a block's after those of the blocks below."""
        if self.layer is None:
            return (-1, 0) if self.kind == "embed" else (1 << 30, GLOBAL_KINDS.index(self.kind))
        return self.layer, LAYER_KINDS.index(self.kind)

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Reads `kind`, `kind.layer`, or a TransformerLens name such as `blocks.3.hook_mlp_out`.

        Raises `UnknownSite` for anything else; nothing is ever dropped from the text.
        """
        if text == SITE_KINDS["embed"].hook:
            return cls("embed")
        foreign = re.fullmatch(r"blocks\.(0|[1-9][0-9]*)\.(.+)", text)
        if foreign:
            kind = _OF_HOOK.get(foreign[2])
            if kind is None:
                raise UnknownSite(describe_choices(foreign[2], _OF_HOOK, what="hook of a block", limit=30))
            return cls(kind, int(foreign[1]))
        native = re.fullmatch(r"([a-z_]+)(?:\.(0|[1-9][0-9]*))?", text)
        if native is None:
            raise UnknownSite(f'"{text}" is not a site. Write kind.layer, for example "resid_post.12".')
        return cls(native[1], None if native[2] is None else int(native[2]))


def site_kind_of_hook(hook: str) -> str:
    """The site kind that a per-block hook name means (`"hook_mlp_out"` → `"mlp_out"`); our own kinds pass through.

    Raises `UnknownSite` when the name is neither.
    """
    if hook in LAYER_KINDS:
        return hook
    if hook not in _OF_HOOK:
        raise UnknownSite(describe_choices(hook, [*_OF_HOOK, *LAYER_KINDS], what="hook of a block", limit=40))
    return _OF_HOOK[hook]


def hook_of_site_kind(kind: str) -> str:
    """The per-block hook name of a site kind: the inverse of `site_kind_of_hook`. Raises `UnknownSite`."""
    row = SITE_KINDS.get(kind)
    if row is None or row.hook is None or not row.per_layer:
        raise UnknownSite(
            describe_choices(kind, _OF_HOOK.values(), what="site with a hook name of a block", limit=30)
        )
    return row.hook
