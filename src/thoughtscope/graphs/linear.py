"""`Linearised`: a model frozen at one prompt, so that everything between MLPs is a linear map.

A transformer is non-linear in three places: the softmax of attention, the scale that a norm divides by, and the MLPs.
The local replacement model (Ameisen et al. 2025, "Circuit Tracing") takes the first two at the values that they have
on this prompt, and lets a dictionary say what the MLPs write, with an error for what it misses. What is left, from
anything written into the residual stream to anything that reads it, is linear:

    r_0 = embed                                                              (pos, d_model)
    r_mid  = r_l   + A_l(r_l)   + c_l        A_l(r) = sum over heads h of  P_h  N(r)  V_h  O_h
    r_l+1  = r_mid + w_l                     w_l: what the MLP writes, from outside
    logits = U final(r_L)

with P_h the frozen pattern, N the norm with its frozen scale, V_h and O_h the head's value and output matrices, and
c_l what attention writes whatever the stream holds: its biases and those of its norms. So the direct effect of a
source that writes vector s at layer l and position p, on a target that reads along vector t at layer m and position
q, is t · J s, with J the product of the (1 + A) between them: a gradient, which `sweep.py` gets by transposes, no
autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError, describe_choices
from thoughtscope.core.site import SITE_KINDS, Site
from thoughtscope.models.capture import Activations, capture
from thoughtscope.models.families import BlockFacts, NormFacts
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class FrozenMap:
    """A norm at this prompt: `y = weight * centre(x) / scale + bias`, with `scale` one number a position.

    A part that is None is absent; with none at all it is the identity. Its transpose takes a gradient with respect to
    `y` to one with respect to `x`: all factors are diagonal, and centring, `1 - 11ᵀ/d`, is its own transpose.
    """

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
    """One block with norm weights bound into the projections and norm scales into the pattern.

    `P_h N(r) V_h O_h` mixes positions only by `P_h` and channels only by the others, so a norm's two parts can move:
    the factor of a channel into the rows of `V_h`, the divisor of a position into the columns of `P_h` (for a norm
    after attention: into the columns of `O_h` and the rows of `P_h`). What is left is three products, without a norm.
    """

    pattern: Float[Tensor, "head query key"]
    value: Float[Tensor, "kv_head d_model d_head"]
    output: Float[Tensor, "head d_head d_model"]
    constant: Float[Tensor, "pos d_model"]
    """What attention writes whatever the residual stream holds: its biases."""
    value_bias: Float[Tensor, "kv_head d_head"]
    """What the values hold whatever the residual stream holds: their biases, and those of the norm before."""
    attn_read: FrozenMap
    attn_write: FrozenMap
    mlp_read: FrozenMap
    mlp_write: FrozenMap
    """From the MLP's output to its contribution: the post-norm, where the family has one."""
    parallel: bool

    def attend(self, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos d_model"]:
        """What attention adds to the residual stream `x`, without `constant`."""
        group = len(self.output) // len(self.value)
        values = torch.matmul(x, self.value).repeat_interleave(group, dim=0)  # (head, pos, d_head)
        z = torch.bmm(self.pattern, values)  # (head, pos, d_head): each query's mixture of its keys' values
        return torch.matmul(z, self.output).sum(0)  # (pos, d_model)

    def heads_transpose(
        self, gradient: Float[Tensor, "head d_head"], position: int
    ) -> Float[Tensor, "pos d_model"]:
        """The gradient of a read of the heads' outputs z at one position, by position of what they looked at:
        `P_h[q, k] V_h g_h`, summed over heads h."""
        looked = self.pattern[:, position, : position + 1]  # (head, key)
        if self.attn_write.scale is not None:  # z comes before the norm after attention
            looked = looked * self.attn_write.scale[position]
        group = len(self.output) // len(self.value)
        values = self.value.repeat_interleave(group, dim=0)  # (head, d_model, d_head)
        return torch.einsum("hk,hde,he->kd", looked, values, gradient)

    def attend_transpose(
        self, gradient: Float[Tensor, "pos target d_model"]
    ) -> Float[Tensor, "pos target d_model"]:
        """Gradients after attention, carried back through it: `sum over h of  P_hᵀ G O_hᵀ V_hᵀ`.

        A gradient at a query goes to the keys that it looked at, in proportion to its pattern, through the head's
        output and value matrices read backwards. `pos` may be a prefix of the prompt: what a later position reads has
        no part in it, and no earlier one looks ahead.
        """
        length, n_targets, width = gradient.shape
        heads, d_head, _ = self.output.shape
        kv_heads, group = len(self.value), heads // len(self.value)
        # G O_hᵀ: the gradient with respect to each head's z, all heads in one product. (head, pos, target * d_head)
        z = gradient.reshape(length * n_targets, width) @ self.output.reshape(heads * d_head, width).T
        z = z.view(length, n_targets, heads, d_head).permute(2, 0, 1, 3).reshape(heads, length, -1)
        # P_hᵀ: from queries to keys, all targets at once. (head, pos, target * d_head)
        moved = torch.bmm(self.pattern[:, :length, :length].transpose(1, 2), z)
        # Query heads that share a value head add up there. (pos * target, kv_head * d_head)
        moved = moved.view(kv_heads, group, length, n_targets, d_head).sum(1)
        moved = moved.permute(1, 2, 0, 3).reshape(length * n_targets, kv_heads * d_head)
        # V_hᵀ, all value heads in one product, which also adds them up: (pos, target, d_model)
        return (moved @ self.value.transpose(1, 2).reshape(kv_heads * d_head, width)).view(gradient.shape)


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

    def read_transpose(
        self, site: Site, vector: Float[Tensor, " _"], position: int
    ) -> Iterator[tuple[int, bool, int, Float[Tensor, " d_model"], float]]:
        """The read `vector · x_site` at one position as reads of the residual stream: for each one its block, whether
        it is behind that block's attention, its position, the gradient there, and the constant that comes with it.

        What is read after the last block has the number of blocks as its block. Raises `ThoughtscopeError` for a site
        that is no linear function of the residual stream once patterns and norm scales are frozen.
        """
        n_layers, layer = len(self.blocks), site.layer or 0
        if site.kind == "z":
            yield from self._heads_read(layer, vector, position)
            return
        places = {
            "embed": (0, False, FrozenMap()),
            "resid_post": (layer + 1, False, FrozenMap()),
            "final_norm": (n_layers, False, self.final),
        }
        if site.row.attribution == "read":
            places[site.kind] = (layer, self.reads_after_attention(site), self.read_map(site))
        if site.kind not in places:
            linear = [name for name, kind in SITE_KINDS.items() if kind.attribution == "read"]
            allowed = [*linear, "z", "resid_post", "embed", "final_norm"]
            raise ThoughtscopeError(
                describe_choices(site.kind, allowed, what="site whose features can be targets of a graph")
            )
        block, after, reads = places[site.kind]
        at = torch.tensor([position], device=vector.device)
        constant = 0.0 if reads.bias is None else float(vector @ reads.bias)
        yield block, after, position, reads.transpose_at(vector[None], at)[0], constant

    def _heads_read(
        self, layer: int, vector: Float[Tensor, " _"], position: int
    ) -> Iterator[tuple[int, bool, int, Float[Tensor, " d_model"], float]]:
        """A read of the heads' outputs: attention of the same block has made them from every position looked at."""
        block = self.blocks[layer]
        by_head = vector.view(len(block.output), -1)  # (head, d_head)
        group = len(block.output) // len(block.value)
        constant = float((by_head * block.value_bias.repeat_interleave(group, dim=0)).sum())
        for key, gradient in enumerate(block.heads_transpose(by_head, position)):
            yield layer, False, key, gradient, constant if key == position else 0.0

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
    blocks, norms = model.family.blocks, model.family.norms
    last = Site("resid_post", len(blocks) - 1)
    # One pass keeps all that is frozen: each layer's pattern, and what each norm reads, which gives its scale.
    patterns = [Site("pattern", layer) for layer in range(len(blocks))]
    wanted = [Site("embed"), last, Site("logits"), *patterns, *(read for read, _ in norms.values())]
    activations = capture(model, tokens, tuple(dict.fromkeys([*wanted, *sites])))

    def at(site: Site) -> Tensor:
        return activations[site][0].float()  # one row: (pos, d_model), or (head, query, key) for a pattern

    maps = {made: _frozen_norm(norm, at(read)) for made, (read, norm) in norms.items()}
    final = maps.get(Site("final_norm"), FrozenMap())
    hidden = final.linear(at(last))
    frozen = Linearised(
        embed=at(Site("embed")),
        blocks=tuple(
            _frozen_block(block, at(pattern), partial(_norm_at, maps, layer))
            for layer, (block, pattern) in enumerate(zip(blocks, patterns, strict=True))
        ),
        final=final,
        logits=at(Site("logits")),
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


def _norm_at(maps: Mapping[Site, FrozenMap], layer: int, made: str) -> FrozenMap:
    """The norm of this layer that makes the site, or the identity where the family has none there."""
    return maps.get(Site(made, layer), FrozenMap())


def _frozen_block(
    block: BlockFacts, pattern: Float[Tensor, "head query key"], norm_at: Callable[[str], FrozenMap]
) -> FrozenBlock:
    """Binds the weights: what a norm does by channel goes into the projections, by position into the pattern."""
    read, write = norm_at("attn_norm"), norm_at("attn_out")
    w_v, w_o = block.W_V.detach().float(), block.W_O.detach().float()
    # The norm before: centre(x) * weight / scale, then V_h. Centring its input or the rows of V_h is the same, since
    # (x - mean(x)) · v = x · (v - mean(v)); the divisor belongs to the key's position: the pattern's columns.
    value = w_v if read.weight is None else w_v * read.weight[:, None]
    if read.centred:
        value = value - value.mean(1, keepdim=True)
    scaled = pattern if read.scale is None else pattern / read.scale
    # The norm after, likewise: its channels are the columns of O_h, its divisor belongs to the query: the rows.
    output = w_o - w_o.mean(-1, keepdim=True) if write.centred else w_o
    if write.weight is not None:
        output = output * write.weight
    if write.scale is not None:
        scaled = scaled / write.scale[:, None]
    # The constant goes through the norm after attention too, whose own bias comes last.
    value_bias = _value_bias(block, w_v, read.bias)
    constant = write.linear(_attention_constant(block, pattern, value_bias, w_o))
    return FrozenBlock(
        pattern=scaled,
        value=value,
        output=output.contiguous(),
        constant=constant if write.bias is None else constant + write.bias,
        value_bias=value_bias,
        attn_read=read,
        attn_write=write,
        mlp_read=norm_at("mlp_norm"),
        mlp_write=norm_at("mlp_out"),
        parallel=block.parallel,
    )


def _value_bias(
    block: BlockFacts,
    w_v: Float[Tensor, "kv_head d_model d_head"],
    norm_bias: Float[Tensor, " d_model"] | None,
) -> Float[Tensor, "kv_head d_head"]:
    """What the values are over a stream of zeros: `b_norm V_h + b_V`."""
    values = torch.zeros(len(w_v), w_v.shape[-1], device=w_v.device)
    if norm_bias is not None:
        values = values + torch.einsum("d,kde->ke", norm_bias, w_v)
    return values if block.b_V is None else values + block.b_V.detach().float().reshape(values.shape)


def _attention_constant(
    block: BlockFacts,
    pattern: Float[Tensor, "head query key"],
    value_bias: Float[Tensor, "kv_head d_head"],
    w_o: Float[Tensor, "head d_head d_model"],
) -> Float[Tensor, "pos d_model"]:
    """What attention writes into a stream of zeros: `sum over h of  P_h 1 (b_norm V_h + b_V) O_h  +  b_O`.

    Rows of a pattern add up to 1 (under a mask too), so every position gets the same; they are summed, not believed.
    """
    values = value_bias.repeat_interleave(len(w_o) // len(value_bias), dim=0)  # (head, d_head)
    constant = torch.einsum("hq,he,hed->qd", pattern.sum(-1), values, w_o)  # (pos, d_model)
    return constant if block.b_O is None else constant + block.b_O.detach().float()
