"""The facts about one model that capture, edits and the linear algebra of attribution need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, eq=False)
class NormFacts:
    """A normalisation: what it divides by, what it multiplies by, and the module that does it.

    `weight` is the effective factor (`1 + w` on Gemma), so `apply(x)` equals the module's output for every family.
    Arithmetic runs in float32 or better and returns the dtype of `x`, as the modules do.
    """

    kind: Literal["layer", "rms"]
    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    module: nn.Module

    def centre(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """`x` less its mean for a layer norm, `x` itself for an RMS norm."""
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x

    def scale(self, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... 1"]:
        """What the centred (layer) or raw (rms) input is divided by: the root of its mean square plus eps."""
        return (self.centre(_wide(x)).pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    def normalise(
        self, x: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"] | None = None
    ) -> Float[Tensor, "... d_model"]:
        """The normalised input before weight and bias; a given `scale` is used in place of the input's own."""
        scale = self.scale(x) if scale is None else scale
        return (self.centre(_wide(x)) / scale).to(x.dtype)

    def weigh(self, normalised: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Weight and bias, applied to a normalised input."""
        out = _wide(normalised) * self.weight
        out = out if self.bias is None else out + self.bias
        return out.to(normalised.dtype)

    def apply(
        self, x: Float[Tensor, "... d_model"], scale: Float[Tensor, "... 1"] | None = None
    ) -> Float[Tensor, "... d_model"]:
        """The norm's output; with a given `scale` it is linear (layer: affine) in `x`."""
        scale = self.scale(x) if scale is None else scale
        out = self.centre(_wide(x)) / scale * self.weight
        out = out if self.bias is None else out + self.bias
        return out.to(x.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockFacts:
    """One transformer block: its modules, its norms, and its value and output matrices per head.

    Query head `h` reads key/value head `h // (head // kv_head)`. `W_V` and `W_O` are views into the module's own
    weights, so they follow an optimiser step.
    """

    module: nn.Module
    attn: nn.Module
    mlp: nn.Module
    attn_norm: NormFacts
    mlp_norm: NormFacts
    attn_post_norm: NormFacts | None = None
    mlp_post_norm: NormFacts | None = None
    parallel: bool = False
    "True where attention and MLP both read `resid_pre` (NeoX)."
    W_V: Float[Tensor, "kv_head d_model d_head"]
    b_V: Float[Tensor, "kv_head d_head"] | None
    W_O: Float[Tensor, "head d_head d_model"]
    b_O: Float[Tensor, " d_model"] | None
    v_module: nn.Module
    "The module whose output holds the values (a fused projection on GPT-2 and NeoX)."
    v_view: Callable[[Tensor], Float[Tensor, "batch pos kv_head d_head"]]
    "A view of `v_module`'s output that shows the values."
    o_module: nn.Module
    "The output projection; its input is `z`, heads concatenated."

    @property
    def group(self) -> int:
        """How many query heads share one key/value head."""
        return self.W_O.shape[0] // self.W_V.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """A model family bound to one module: where each site is, and what linearisation needs to know."""

    name: str
    architectures: tuple[str, ...]
    blocks: tuple[BlockFacts, ...]
    final_norm: NormFacts
    unembed: Float[Tensor, "vocab d_model"]
    unembed_bias: Float[Tensor, " vocab"] | None
    logit_soft_cap: float | None
    embed_module: nn.Module
    unembed_module: nn.Module
    config: Any
    "The text model's configuration, the object that the attention modules read."
    missing: Mapping[str, str] = field(default_factory=dict)
    "Site kind → why this family lacks it."

    def soft_cap(self, logits: Float[Tensor, "... vocab"]) -> Float[Tensor, "... vocab"]:
        """The final soft cap (Gemma), or the logits themselves."""
        if self.logit_soft_cap is None:
            return logits
        return torch.tanh(logits / self.logit_soft_cap) * self.logit_soft_cap

    def to_logits(self, normed: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """What the model returns for an output of the final norm: unembedding, then the soft cap."""
        return self.soft_cap(nn.functional.linear(normed, self.unembed, self.unembed_bias))


def _wide(x: Tensor) -> Tensor:
    """Half precision is widened to float32, as the modules themselves do inside a norm."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
