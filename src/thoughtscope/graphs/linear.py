"""`Linearised`: a model frozen at one prompt, so that everything between MLPs is a linear map.

Attention patterns and norm scales keep the prompt's values; what MLPs write comes from outside. The residual stream
is then linear in what is written into it (Ameisen et al. 2025, "Circuit Tracing", local replacement model), and
gradients are products of the weights: no autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError, describe_choices
from thoughtscope.core.site import Site
from thoughtscope.models.capture import Activations, capture
from thoughtscope.models.families import BlockFacts, NormFacts
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens

READ_KINDS = ("resid_pre", "attn_norm", "attn_in", "resid_mid", "mlp_norm", "mlp_in")


@dataclass(frozen=True, kw_only=True)
class FrozenMap:
    """`y = weight * centre(x) / scale + bias`, with `scale` one number per position; a part that is None is absent."""

    weight: Float[Tensor, " d_model"] | None = None
    bias: Float[Tensor, " d_model"] | None = None
    scale: Float[Tensor, " pos"] | None = None
    centred: bool = False

    def linear(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """The map without its bias, one row per position."""
        return self._linear(x, self.scale)

    def linear_at(
        self, x: Float[Tensor, "active d_model"], position: Int[Tensor, " active"]
    ) -> Float[Tensor, "active d_model"]:
        """The map without its bias, each row at its own position."""
        return self._linear(x, None if self.scale is None else self.scale[position])

    def transpose_at(
        self, gradient: Float[Tensor, "active d_model"], position: Int[Tensor, " active"]
    ) -> Float[Tensor, "active d_model"]:
        """Gradients with respect to `y` at `position`, carried back to gradients with respect to `x`."""
        if self.weight is not None:
            gradient = gradient * self.weight
        if self.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient if self.scale is None else gradient / self.scale[position, None]

    def transpose(self, gradient: Float[Tensor, "pos target d_model"]) -> Float[Tensor, "pos target d_model"]:
        """`transpose_at` for several targets at every position."""
        if self.weight is not None:
            gradient = gradient * self.weight
        if self.centred:
            gradient = gradient - gradient.mean(-1, keepdim=True)
        return gradient if self.scale is None else gradient / self.scale[: len(gradient), None, None]

    def _linear(self, x: Tensor, scale: Tensor | None) -> Tensor:
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        if scale is not None:
            x = x / scale[:, None]
        return x if self.weight is None else x * self.weight


@dataclass(frozen=True, kw_only=True)
class FrozenBlock:
    """One block with norm weights bound into the projections and norm scales into the pattern."""

    pattern: Float[Tensor, "head query key"]
    value: Float[Tensor, "kv_head d_model d_head"]
    output: Float[Tensor, "head d_head d_model"]
    constant: Float[Tensor, "pos d_model"]
    """What attention writes whatever the residual stream holds: its biases."""
    attn_read: FrozenMap
    mlp_read: FrozenMap
    mlp_write: FrozenMap
    """From the MLP's output to its contribution: the post-norm, where the family has one."""
    parallel: bool

    def attend(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """What attention adds to the residual stream `x`, without `constant`."""
        group = len(self.output) // len(self.value)
        values = torch.matmul(x, self.value).repeat_interleave(group, dim=0)
        return torch.matmul(torch.bmm(self.pattern, values), self.output).sum(0)

    def attend_transpose(
        self, gradient: Float[Tensor, "pos target d_model"]
    ) -> Float[Tensor, "pos target d_model"]:
        """Gradients after attention, carried back through it; `pos` may be a prefix of the prompt."""
        length, n_targets, width = gradient.shape
        heads, d_head, _ = self.output.shape
        kv_heads = len(self.value)
        flat = gradient.reshape(length * n_targets, width)
        z = torch.matmul(flat, self.output.transpose(1, 2)).view(heads, length, n_targets * d_head)
        moved = torch.bmm(self.pattern[:, :length, :length].transpose(1, 2), z)
        if heads != kv_heads:
            moved = moved.view(kv_heads, heads // kv_heads, length, n_targets * d_head).sum(1)
        moved = moved.view(kv_heads, length * n_targets, d_head)
        result = torch.mm(moved[0], self.value[0].T)
        for head in range(1, kv_heads):
            result.addmm_(moved[head], self.value[head].T)
        return result.view(length, n_targets, width)


@dataclass(frozen=True, kw_only=True)
class Linearised:
    """A model's frozen forward pass on one prompt, in float32."""

    embed: Float[Tensor, "pos d_model"]
    blocks: tuple[FrozenBlock, ...]
    final: FrozenMap
    logits: Float[Tensor, "pos vocab"]
    """The model's own, after any soft cap."""
    final_hidden: Float[Tensor, "pos d_model"]
    """What the unembedding reads."""

    @property
    def length(self) -> int:
        return len(self.embed)

    def read_map(self, site: Site) -> FrozenMap:
        """From the residual stream to what a dictionary reads at `site`."""
        block = self.blocks[site.layer or 0]
        norm = block.attn_read if site.kind.startswith("attn") else block.mlp_read
        if site.kind.endswith("_in"):
            return norm
        if site.kind.endswith("_norm"):
            return FrozenMap(scale=norm.scale, centred=norm.centred)
        return FrozenMap()

    def read_at(self, site: Site) -> tuple[int, bool, FrozenMap]:
        """Where and how `site` reads the residual stream: the block, whether after its attention, and the map.

        What is read after the last block has the number of blocks as its block. Raises `ThoughtscopeError` for a site
        that is no linear function of the residual stream at its own position.
        """
        n_layers = len(self.blocks)
        if site.kind == "final_norm":
            return n_layers, False, self.final
        if site.kind == "embed":
            return 0, False, FrozenMap()
        if site.kind == "resid_post":
            return (site.layer or 0) + 1, False, FrozenMap()
        if site.kind not in READ_KINDS:
            allowed = [*READ_KINDS, "resid_post", "embed", "final_norm"]
            raise ThoughtscopeError(
                describe_choices(site.kind, allowed, what="site whose features can be targets of a graph")
            )
        return site.layer or 0, self.reads_after_attention(site), self.read_map(site)

    def write_map(self, site: Site) -> FrozenMap:
        """From what a dictionary writes at `site` to the residual stream."""
        return self.blocks[site.layer or 0].mlp_write if site.kind == "mlp_raw" else FrozenMap()

    def reads_after_attention(self, site: Site) -> bool:
        """True when attention of the same block has written before `site` is read."""
        return site.kind in ("resid_mid", "mlp_norm", "mlp_in") and not self.blocks[site.layer or 0].parallel


def linearise(model: Model, tokens: Tokens, sites: tuple[Site, ...] = ()) -> tuple[Linearised, Activations]:
    """One forward pass on one prompt: the frozen model, and the activations at `sites` besides.

    Raises `ThoughtscopeError` for a batch of several prompts or one with padding.
    """
    if tokens.ids.shape[0] != 1 or not bool(tokens.mask.all()):
        raise ThoughtscopeError(
            f"A graph explains one prompt without padding; these tokens hold {tokens.ids.shape[0]} rows"
            f"{'' if bool(tokens.mask.all()) else ' with padding'}. Tokenize the prompt by itself."
        )
    blocks = model.family.blocks
    last = len(blocks) - 1
    wanted = [Site("embed"), Site("resid_post", last), Site("logits")]
    for layer, block in enumerate(blocks):
        wanted += [Site("pattern", layer), Site("resid_pre", layer)]
        if not block.parallel:
            wanted.append(Site("resid_mid", layer))
        if block.attn_post_norm is not None:
            wanted.append(Site("attn_raw", layer))
        if block.mlp_post_norm is not None:
            wanted.append(Site("mlp_raw", layer))
    activations = capture(model, tokens, tuple(dict.fromkeys([*wanted, *sites])))

    def at(kind: str, layer: int | None = None) -> Tensor:
        return activations[Site(kind, layer)][0].float()

    final = _frozen_norm(model.family.final_norm, at("resid_post", last))
    hidden = final.linear(at("resid_post", last))
    frozen = Linearised(
        embed=at("embed"),
        blocks=tuple(_frozen_block(block, layer, at) for layer, block in enumerate(blocks)),
        final=final,
        logits=at("logits"),
        final_hidden=hidden if final.bias is None else hidden + final.bias,
    )
    return frozen, activations


def _frozen_norm(norm: NormFacts, x: Float[Tensor, "pos d_model"]) -> FrozenMap:
    return FrozenMap(
        weight=norm.weight.detach().float(),
        bias=None if norm.bias is None else norm.bias.detach().float(),
        scale=norm.scale(x).squeeze(-1),
        centred=norm.kind == "layer",
    )


def _frozen_block(block: BlockFacts, layer: int, at) -> FrozenBlock:
    """Binds the weights: what a norm does by channel goes into the projections, by position into the pattern."""
    attn_read = _frozen_norm(block.attn_norm, at("resid_pre", layer))
    mlp_read = _frozen_norm(block.mlp_norm, at("resid_pre" if block.parallel else "resid_mid", layer))
    identity = FrozenMap()
    attn_write, mlp_write = identity, identity
    if block.attn_post_norm is not None:
        attn_write = _frozen_norm(block.attn_post_norm, at("attn_raw", layer))
    if block.mlp_post_norm is not None:
        mlp_write = _frozen_norm(block.mlp_post_norm, at("mlp_raw", layer))
    pattern, w_v, w_o = at("pattern", layer), block.W_V.detach().float(), block.W_O.detach().float()
    constant = attn_write.linear(_attention_constant(block, pattern, w_v, w_o, attn_read.bias))
    value = w_v if attn_read.weight is None else w_v * attn_read.weight[:, None]
    output = w_o
    if attn_read.centred:
        value = value - value.mean(1, keepdim=True)
    if attn_write.centred:
        output = output - output.mean(-1, keepdim=True)
    if attn_write.weight is not None:
        output = output * attn_write.weight
    scaled = pattern / attn_read.scale
    if attn_write.scale is not None:
        scaled = scaled / attn_write.scale[:, None]
    return FrozenBlock(
        pattern=scaled,
        value=value,
        output=output.contiguous(),
        constant=constant if attn_write.bias is None else constant + attn_write.bias,
        attn_read=attn_read,
        mlp_read=mlp_read,
        mlp_write=mlp_write,
        parallel=block.parallel,
    )


def _attention_constant(
    block: BlockFacts,
    pattern: Float[Tensor, "head query key"],
    w_v: Float[Tensor, "kv_head d_model d_head"],
    w_o: Float[Tensor, "head d_head d_model"],
    norm_bias: Float[Tensor, " d_model"] | None,
) -> Float[Tensor, "pos d_model"]:
    """The module's output for a norm that returns only its bias."""
    constant = torch.zeros(pattern.shape[1], w_o.shape[-1], device=w_o.device)
    values = torch.zeros(len(w_v), w_v.shape[-1], device=w_v.device)
    if norm_bias is not None:
        values = values + torch.einsum("d,kde->ke", norm_bias, w_v)
    if block.b_V is not None:
        values = values + block.b_V.detach().float().reshape(values.shape)
    if norm_bias is not None or block.b_V is not None:
        values = values.repeat_interleave(len(w_o) // len(w_v), dim=0)
        constant += torch.einsum("hq,he,hed->qd", pattern.sum(-1), values, w_o)
    return constant if block.b_O is None else constant + block.b_O.detach().float()
