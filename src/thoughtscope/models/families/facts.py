"""The facts about one model that capture, edits and the linear algebra of attribution need.

A family file states them; `proofs.py` checks each of them on the module at load, so that nothing here is believed.
"""

# ruff: noqa: N802 (W_Q, b_Q: the names of the papers)
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from thoughtscope.core.site import SITE_KINDS, Site


@dataclass(frozen=True, kw_only=True, eq=False)
class NormFacts:
    """A normalisation: what it divides by, what it multiplies by, and the module that does it.

    `weight` is the effective factor (`1 + w` on Gemma), so `apply(x)` equals the module's output for every family.
    Arithmetic runs in float32 or better and returns the dtype of `x`, as the modules do.
    """

    kind: Literal["layer", "rms"]
    weight: Float[Tensor, " d_in"]
    bias: Float[Tensor, " d_in"] | None
    eps: float
    module: nn.Module

    def centre(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """`x` less its mean for a layer norm, `x` itself for an RMS norm."""
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x

    def scale(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... 1"]:
        """What the centred (layer) or raw (rms) input is divided by: the root of its mean square plus eps."""
        return (self.centre(wide(x)).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def normalise(
        self, x: Float[Tensor, "... d_in"], scale: Float[Tensor, "... 1"] | None = None
    ) -> Float[Tensor, "... d_in"]:
        """The normalised input before weight and bias; a given `scale` is used in place of the input's own."""
        scale = self.scale(x) if scale is None else scale
        return (self.centre(wide(x)) / scale).to(x.dtype)

    def weigh(self, normalised: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        """Weight and bias, applied to a normalised input."""
        out = wide(normalised) * self.weight
        out = out if self.bias is None else out + self.bias
        return out.to(normalised.dtype)

    def apply(
        self, x: Float[Tensor, "... d_in"], scale: Float[Tensor, "... 1"] | None = None
    ) -> Float[Tensor, "... d_in"]:
        """The norm's output; with a given `scale` it is linear (layer: affine) in `x`."""
        scale = self.scale(x) if scale is None else scale
        out = self.centre(wide(x)) / scale * self.weight
        out = out if self.bias is None else out + self.bias
        return out.to(x.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadProjection:
    """Queries, keys or values: one affine map per head, from the attention module's input.

    `weight` and `bias` are views into the module's own weights, so they follow an optimiser step. GPT-2 and NeoX make
    all three in one fused module; `view` shows this one's part of its output.
    """

    weight: Float[Tensor, "head d_model d_head"]
    bias: Float[Tensor, "head d_head"] | None
    module: nn.Module
    view: Callable[[Tensor], Float[Tensor, "batch pos head d_head"]]
    norm: NormFacts | None = None
    "QK-norm: over each head (Qwen3, Gemma 3) or over all heads together (OLMo 2); its width tells which."

    def project(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos head d_head"]:
        """`x @ W + b`, head by head: what the module makes, before any norm."""
        out = torch.einsum("bpm,hmd->bphd", x, self.weight)
        return out if self.bias is None else out + self.bias

    def normed(self, x: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        """The projection after its QK-norm; the projection itself where there is none."""
        if self.norm is None:
            return x
        per_head = len(self.norm.weight) == x.shape[-1]
        return self.norm.apply(x) if per_head else self.norm.apply(x.flatten(-2)).unflatten(-1, x.shape[-2:])


@dataclass(frozen=True, kw_only=True, eq=False)
class Rotary:
    """Rotary positions (Su et al. 2021): channel `i` and channel `i + n/2` turn together by an angle of position.

    `angles(x, positions)` gives the cosines and sines (batch, pos, n) in the dtype that the model uses for `x`; only
    the first `n` channels of a head turn (NeoX turns a part of them). Gemma 3 has other angles in its local layers.
    """

    angles: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def rotate(
        self, x: Float[Tensor, "batch pos head d_head"], positions: Int[Tensor, "batch pos"]
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Queries or keys as they meet in the scores."""
        cos, sin = (
            each[:, :, None] for each in self.angles(x, positions)
        )  # (batch, pos, 1, n): all heads alike
        turning, still = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turning.chunk(2, dim=-1)
        turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned.to(x.dtype), still], dim=-1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Neurons:
    """What an MLP computes: `act(x @ W_in + b_in) @ W_out + b_out`, or with a gate

    `(act(x @ W_gate + b_gate) * (x @ W_in + b_in)) @ W_out + b_out`. Weights are views of the module's own.
    """

    act: Callable[[Tensor], Tensor]
    W_in: Float[Tensor, "d_model d_mlp"]
    b_in: Float[Tensor, " d_mlp"] | None
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    b_gate: Float[Tensor, " d_mlp"] | None = None
    W_out: Float[Tensor, "d_mlp d_model"]
    b_out: Float[Tensor, " d_model"] | None
    out_module: nn.Module
    "The last projection; its input is `mlp_act`."

    def activate(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_mlp"]:
        """The neurons' activations for an input of the MLP."""
        up = _affine(x, self.W_in, self.b_in)
        return self.act(up) if self.W_gate is None else self.act(_affine(x, self.W_gate, self.b_gate)) * up

    def project(self, activations: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP writes for given activations of its neurons."""
        return _affine(activations, self.W_out, self.b_out)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockFacts:
    """One transformer block: its modules, its norms, and the matrices of its heads and neurons.

    Query head `h` reads key/value head `h // group`. A block without an MLP, or without a norm before a sublayer
    (OLMo 2 has norms after it only), has None there.
    """

    module: nn.Module
    attn: nn.Module
    mlp: nn.Module | None
    attn_norm: NormFacts | None
    mlp_norm: NormFacts | None
    attn_post_norm: NormFacts | None = None
    mlp_post_norm: NormFacts | None = None
    parallel: bool = False
    "True where attention and MLP both read `resid_pre` (NeoX)."

    queries: HeadProjection
    keys: HeadProjection
    values: HeadProjection
    rotary: Rotary | None
    scaling: float
    "What `q · k` is multiplied by."
    soft_cap: float | None = None
    "Scores become `cap * tanh(score / cap)` before the mask (Gemma 2)."
    window: int | None = None
    "How many positions a query sees, itself included; None for all up to itself."
    W_O: Float[Tensor, "head d_head d_model"]
    b_O: Float[Tensor, " d_model"] | None
    o_module: nn.Module
    "The output projection; its input is `z`, heads concatenated."
    neurons: Neurons | None = None

    @property
    def group(self) -> int:
        """How many query heads share one key/value head."""
        return self.W_O.shape[0] // self.W_V.shape[0]

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self.queries.weight

    @property
    def b_Q(self) -> Float[Tensor, "head d_head"] | None:
        return self.queries.bias

    @property
    def W_K(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self.keys.weight

    @property
    def b_K(self) -> Float[Tensor, "kv_head d_head"] | None:
        return self.keys.bias

    @property
    def W_V(self) -> Float[Tensor, "kv_head d_model d_head"]:
        return self.values.weight

    @property
    def b_V(self) -> Float[Tensor, "kv_head d_head"] | None:
        return self.values.bias

    @property
    def q_norm(self) -> NormFacts | None:
        return self.queries.norm

    @property
    def k_norm(self) -> NormFacts | None:
        return self.keys.norm

    def turned(
        self, projection: HeadProjection, x: Float[Tensor, "batch pos head d_head"], positions: Tensor
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Projected queries or keys after QK-norm and rotation."""
        x = projection.normed(x)
        return x if self.rotary is None else self.rotary.rotate(x, positions)

    def scores(
        self,
        q: Float[Tensor, "batch query head d_head"],
        k: Float[Tensor, "batch key kv_head d_head"],
        positions: Int[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch head query key"]:
        """Scores before the mask, from the sites `q` and `k`: `cap(rot(norm(q)) · rot(norm(k)) * scaling)`."""
        queries = self.turned(self.queries, q, positions)
        keys = self.turned(self.keys, k, positions).repeat_interleave(self.group, dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", queries, keys) * self.scaling
        return scores if self.soft_cap is None else torch.tanh(scores / self.soft_cap) * self.soft_cap

    def sees(self, n_pos: int) -> Bool[Tensor, "query key"]:
        """The keys that each query of an unpadded prompt may attend to."""
        position = torch.arange(n_pos)
        distance = position[:, None] - position[None, :]  # (query, key)
        return (distance >= 0) & (distance < (n_pos if self.window is None else self.window))


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A model family bound to one module: where each site is, and what linearisation needs to know."""

    name: str
    blocks: tuple[BlockFacts, ...]
    final_norm: NormFacts | None
    unembed: Float[Tensor, "vocab d_model"]
    unembed_bias: Float[Tensor, " vocab"] | None
    logit_soft_cap: float | None = None
    embed_module: nn.Module
    config: Any
    "The text model's configuration, the object that the attention modules read."

    @cached_property
    def missing(self) -> Mapping[str, str]:
        """Site kind → why this model lacks it, as its facts imply."""
        return {kind: why for kind in SITE_KINDS if (why := _why_missing(self, kind)) is not None}

    @cached_property
    def norms(self) -> Mapping[Site, tuple[Site, NormFacts]]:
        """Every norm of the residual stream: the site that it makes → the site that it reads, and its facts."""
        found: dict[Site, tuple[Site, NormFacts]] = {}
        for layer, block in enumerate(self.blocks):
            middle = "resid_pre" if block.parallel else "resid_mid"
            for made, read, norm in (
                ("attn_norm", "resid_pre", block.attn_norm),
                ("attn_out", "attn_raw", block.attn_post_norm),
                ("mlp_norm", middle, block.mlp_norm),
                ("mlp_out", "mlp_raw", block.mlp_post_norm),
            ):
                if norm is not None:
                    found[Site(made, layer)] = (Site(read, layer), norm)
        if self.final_norm is not None:
            found[Site("final_norm")] = (Site("resid_post", len(self.blocks) - 1), self.final_norm)
        return found

    def soft_cap(self, logits: Float[Tensor, "... vocab"]) -> Float[Tensor, "... vocab"]:
        """The final soft cap (Gemma), or the logits themselves."""
        if self.logit_soft_cap is None:
            return logits
        return torch.tanh(logits / self.logit_soft_cap) * self.logit_soft_cap

    def to_logits(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """What the model returns for an output of the final norm: unembedding, then the soft cap."""
        return self.soft_cap(nn.functional.linear(normed, self.unembed, self.unembed_bias))


def _why_missing(family: Family, kind: str) -> str | None:
    """Why no block, or not every block, has a site of this kind; None where all have it."""
    blocks = family.blocks
    if kind == "final_norm" and family.final_norm is None:
        return "no norm stands before the unembedding, which reads resid_post of the last layer"
    if any(block.mlp is None for block in blocks):
        if SITE_KINDS[kind].part == "mlp":
            return "its blocks have attention only, no MLP"
        if kind == "resid_mid":
            return "its blocks have no MLP, so nothing lies between; see resid_post"
    if kind == "resid_mid" and any(block.parallel for block in blocks):
        return "attention and MLP both read resid_pre (parallel residual), so nothing lies between them"
    if kind == "attn_norm" and any(block.attn_norm is None for block in blocks):
        return "no norm stands before attention, which reads the residual stream as it is; see attn_in"
    if kind == "mlp_norm" and any(block.mlp_norm is None for block in blocks):
        return "no norm stands before the MLP, which reads the residual stream as it is; see mlp_in"
    if kind == "mlp_act" and any(block.neurons is None for block in blocks):
        return "its MLPs are not a plain or gated pair of projections, so they have no one layer of neurons"
    return None


def wide(x: Tensor) -> Tensor:
    """Half precision is widened to float32, as the modules themselves do inside a norm or a softmax."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x @ weight if bias is None else x @ weight + bias
