"""`Site`: which tensor of the forward pass. `str(site)` and `Site.parse` are exact inverses.

Around each sublayer four tensors are kept apart, because published dictionaries read and write different ones:

    attn_norm  / mlp_norm         the normalised residual, before the norm's weight and bias
    attn_in    / mlp_in           the module's input (norm weight and bias applied)
    attn_raw   / mlp_raw          the module's output
    attn_out   / mlp_out          the contribution to the residual (after a post-norm where the family has one)

so `resid_pre + attn_out + mlp_out == resid_post` holds for every family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from thoughtscope.core.errors import UnknownSite, describe_choices

LAYER_KINDS: dict[str, str] = {
    "resid_pre": "residual stream entering the block (batch, pos, d_model)",
    "resid_mid": "residual stream between attention and MLP; sequential blocks only (batch, pos, d_model)",
    "resid_post": "residual stream leaving the block (batch, pos, d_model)",
    "attn_norm": "normalised residual before attention, without weight and bias (batch, pos, d_model)",
    "attn_in": "input of the attention module (batch, pos, d_model)",
    "attn_raw": "output of the attention module (batch, pos, d_model)",
    "attn_out": "attention's contribution to the residual (batch, pos, d_model)",
    "mlp_norm": "normalised residual before the MLP, without weight and bias (batch, pos, d_model)",
    "mlp_in": "input of the MLP module (batch, pos, d_model)",
    "mlp_raw": "output of the MLP module (batch, pos, d_model)",
    "mlp_out": "the MLP's contribution to the residual (batch, pos, d_model)",
    "z": "attention-weighted values before the output projection (batch, pos, head, d_head)",
    "v": "values, before any repetition over query groups (batch, pos, kv_head, d_head)",
    "scores": "attention scores after scaling, soft cap and mask (batch, head, query, key)",
    "pattern": "attention weights (batch, head, query, key)",
}
GLOBAL_KINDS: dict[str, str] = {
    "embed": "residual stream entering the first block (batch, pos, d_model)",
    "final_norm": "output of the final norm (batch, pos, d_model)",
    "logits": "what the model returns (batch, pos, vocab)",
}

_TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "ln1.hook_normalized": "attn_norm",
    "ln2.hook_normalized": "mlp_norm",
    "attn.hook_z": "z",
    "attn.hook_v": "v",
    "attn.hook_attn_scores": "scores",
    "attn.hook_pattern": "pattern",
    "mlp.hook_in": "mlp_in",
    "mlp.hook_out": "mlp_raw",
    "attn.hook_in": "attn_in",
    "attn.hook_out": "attn_raw",
}


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
        if self.kind in GLOBAL_KINDS:
            if self.layer is not None:
                raise UnknownSite(f'Site "{self.kind}" has no layer, but layer {self.layer} was given.')
        elif self.kind in LAYER_KINDS:
            if self.layer is None or self.layer < 0:
                raise UnknownSite(
                    f'Site "{self.kind}" needs a layer of 0 or more, for example "{self.kind}.0"; got {self.layer}.'
                )
        else:
            raise UnknownSite(
                describe_choices(self.kind, [*LAYER_KINDS, *GLOBAL_KINDS], what="site kind", limit=30)
            )

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Reads `kind`, `kind.layer`, or a TransformerLens name such as `blocks.3.hook_mlp_out`.

        Raises `UnknownSite` for anything else; nothing is ever dropped from the text.
        """
        if text == "hook_embed":
            return cls("embed")
        foreign = re.fullmatch(r"blocks\.(0|[1-9][0-9]*)\.(.+)", text)
        if foreign:
            kind = _TRANSFORMER_LENS.get(foreign[2])
            if kind is None:
                raise UnknownSite(
                    describe_choices(foreign[2], _TRANSFORMER_LENS, what="hook of a block", limit=30)
                )
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
    if hook not in _TRANSFORMER_LENS:
        raise UnknownSite(
            describe_choices(hook, [*_TRANSFORMER_LENS, *LAYER_KINDS], what="hook of a block", limit=40)
        )
    return _TRANSFORMER_LENS[hook]


def hook_of_site_kind(kind: str) -> str:
    """The per-block hook name of a site kind: the inverse of `site_kind_of_hook`. Raises `UnknownSite`."""
    hooks = {site: hook for hook, site in _TRANSFORMER_LENS.items()}
    if kind not in hooks:
        raise UnknownSite(describe_choices(kind, hooks, what="site with a hook name", limit=30))
    return hooks[kind]
