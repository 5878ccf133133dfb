"""Cheap proofs, on the actual module, that the facts of its family are true.

A few random tokens go through the model once, and every site is read. Each identity below holds for right facts and
fails by a large margin for wrong ones; a model that fails any is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.core.site import GLOBAL_KINDS, LAYER_KINDS, Site
from thoughtscope.models.families.facts import BlockFacts, NormFacts, wide
from thoughtscope.models.hooks import forward, reading
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import tokens_from_ids

# float64 is no tighter than 1e-6: several families take the softmax in float32 whatever the model's precision
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}

Identity = tuple[str, Tensor, Tensor]
"""Name, what the facts say, what the module did."""


@torch.no_grad()
def prove(model: Model, *, rows: int = 2, columns: int = 8, seed: int = 0) -> dict[str, float]:
    """Checks the site table on `rows × columns` random tokens; the largest relative error of each identity.

    Raises `UnsupportedModel` naming the identity, the layer and the error.
    """
    columns = min(columns, model.max_positions)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.vocab_size, (rows, columns), generator=generator)
    missing = model.family.missing
    sites = [Site(kind, n) for n in range(model.n_layers) for kind in LAYER_KINDS if kind not in missing]
    sites += [Site(kind) for kind in GLOBAL_KINDS if kind not in missing]
    held: dict[Site, Tensor] = {}
    tokens = tokens_from_ids(model, ids)
    forward(model, tokens, reads={site: reading(held, site) for site in sites})
    worst: dict[str, float] = {}
    for name, layer, got, want in _identities(model, held, tokens.positions):
        error = _relative(got, want)
        tolerance = 0.0 if name.startswith("chain") else _TOLERANCE.get(model.dtype, 6e-2)
        if not error <= tolerance:
            where = "" if layer is None else f" in layer {layer}"
            raise UnsupportedModel(
                f"{model.name}: the identity «{name}» fails{where} on this module (relative error {error:.2g}, allowed "
                f"{tolerance:.0e}), so its sites would be wrong. Is it modified, quantised, or of another family?"
            )
        worst[name] = max(worst.get(name, 0.0), error)
    return worst


def _identities(
    model: Model, held: Mapping[Site, Tensor], positions: Int[Tensor, "batch pos"]
) -> Iterator[tuple[str, int | None, Tensor, Tensor]]:
    """Every identity with the layer that it is about, None for those of the whole model."""
    family = model.family
    for layer, block in enumerate(family.blocks):
        at = {site.kind: x for site, x in held.items() if site.layer == layer}
        before = held[Site("embed")] if layer == 0 else held[Site("resid_post", layer - 1)]
        several = [
            ("chain: resid_post of a layer = resid_pre of the next", before, at["resid_pre"]),
            *_of_residual(block, at),
            *_of_reading("attn", block.attn_norm, at["resid_pre"], at),
            *_of_heads(block, at, positions),
        ]
        read = at.get("resid_pre" if block.parallel else "resid_mid")
        if block.mlp is not None and read is not None:
            several += [*_of_reading("mlp", block.mlp_norm, read, at), *_of_neurons(block, at)]
        yield from ((name, layer, got, want) for name, got, want in several)
    last = held[Site("resid_post", model.n_layers - 1)]
    if family.final_norm is not None:
        yield "final norm", None, family.final_norm.apply(last), held[Site("final_norm")]
        last = held[Site("final_norm")]
    yield "unembedding of the final norm = logits", None, family.to_logits(last), held[Site("logits")]


def _of_residual(block: BlockFacts, at: Mapping[str, Tensor]) -> Iterator[Identity]:
    """The stream is a sum, and each sublayer's contribution is its output after the post-norm."""
    total = at["resid_pre"] + at["attn_out"]
    if "resid_mid" in at and not block.parallel:
        yield "resid_pre + attn_out = resid_mid", total, at["resid_mid"]
    if "mlp_out" in at:
        total = total + at["mlp_out"]
    yield "resid_pre + attn_out + mlp_out = resid_post", total, at["resid_post"]
    for part, post in (("attn", block.attn_post_norm), ("mlp", block.mlp_post_norm)):
        raw = at.get(f"{part}_raw")
        if raw is not None:
            yield f"{part}_out from {part}_raw", raw if post is None else post.apply(raw), at[f"{part}_out"]


def _of_reading(part: str, norm: NormFacts | None, x: Tensor, at: Mapping[str, Tensor]) -> Iterator[Identity]:
    """What a sublayer reads: the residual stream `x` through the norm before it, or as it is."""
    inside = at[f"{part}_in"]
    if norm is None:
        yield f"no norm before {part}: the residual stream = {part}_in", x, inside
    else:
        yield f"norm before {part}", norm.apply(x), inside
    if norm is not None and f"{part}_norm" in at:
        yield f"{part}_norm with weight and bias = {part}_in", norm.weigh(at[f"{part}_norm"]), inside


def _of_heads(block: BlockFacts, at: Mapping[str, Tensor], positions: Tensor) -> Iterator[Identity]:
    """From the module's input to its output, a step at a time: q, k, v → scores → pattern → z → output."""
    for letter, name, projection in (
        ("Q", "q", block.queries),
        ("K", "k", block.keys),
        ("V", "v", block.values),
    ):
        yield (
            f"W_{letter} and b_{letter}: attn_in @ W + b = {name}",
            projection.project(at["attn_in"]),
            at[name],
        )
    # The mask has put the lowest number there is where a query does not see; scores stand at the others.
    scores = at["scores"]
    seen = (scores > torch.finfo(scores.dtype).min / 2).to(scores.dtype)
    sees = block.sees(scores.shape[-1]).to(scores)
    yield "window: the mask hides what a query does not see", sees.expand_as(seen), seen
    made = block.scores(at["q"], at["k"], positions.to(scores.device))
    yield (
        "scores of q and k: QK-norm, rotation, scaling and soft cap",
        made * sees,
        scores.masked_fill(sees == 0, 0),
    )
    yield "softmax of scores = pattern", wide(scores).softmax(-1), at["pattern"]
    values = at["v"].repeat_interleave(block.group, dim=2)
    yield "pattern @ v = z", torch.einsum("bhqk,bkhd->bqhd", at["pattern"], values), at["z"]
    out = torch.einsum("bqhd,hdm->bqm", at["z"], block.W_O)
    yield "W_O and b_O", out if block.b_O is None else out + block.b_O, at["attn_raw"]


def _of_neurons(block: BlockFacts, at: Mapping[str, Tensor]) -> Iterator[Identity]:
    """The MLP is a function of its input alone, and what its neurons hold is its last projection's input."""
    assert block.mlp is not None
    yield "mlp(mlp_in) = mlp_raw", block.mlp(at["mlp_in"]), at["mlp_raw"]
    if block.neurons is not None and "mlp_act" in at:
        yield (
            "W_in, W_gate and act: neurons of mlp_in = mlp_act",
            block.neurons.activate(at["mlp_in"]),
            at["mlp_act"],
        )
        yield (
            "W_out and b_out: mlp_act @ W_out + b_out = mlp_raw",
            block.neurons.project(at["mlp_act"]),
            at["mlp_raw"],
        )


def _relative(got: Tensor, want: Tensor) -> float:
    """Frobenius norm of the difference over that of `want`; NaN where either is not finite."""
    got, want = got.cpu().double(), want.cpu().double()  # not every device knows float64
    return float((got - want).norm() / want.norm().clamp(min=torch.finfo(torch.float32).tiny))
