"""Cheap proofs, on the actual module, that the site table of its family is true.

A few random tokens go through the model once. Each identity below holds for a right table and fails by a large margin
for a wrong one; a model that fails any is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.core.site import Site
from thoughtscope.models.hooks import Read, Step, forward
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import tokens_from_ids

# float64 is no tighter than 1e-6: several families take the softmax in float32 whatever the model's precision
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
_PER_LAYER = (
    "resid_pre", "resid_mid", "resid_post", "attn_norm", "attn_in", "attn_raw", "attn_out",
    "mlp_norm", "mlp_in", "mlp_raw", "mlp_out", "z", "v", "scores", "pattern",
)  # fmt: skip


@torch.no_grad()
def prove(model: Model, *, rows: int = 2, columns: int = 8, seed: int = 0) -> dict[str, float]:
    """Checks the site table on `rows × columns` random tokens; the largest relative error of each identity.

    Raises `UnsupportedModel` naming the identity, the layer and the error.
    """
    columns = min(columns, model.max_positions)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.vocab_size, (rows, columns), generator=generator)
    kinds = [kind for kind in _PER_LAYER if kind not in model.family.missing]
    sites = [Site(kind, layer) for layer in range(model.n_layers) for kind in kinds]
    held: dict[Site, Tensor] = {}

    def reader(site: Site) -> Read:
        def read(x: Tensor, step: Step) -> None:
            held[site] = x

        return read

    everything = [*sites, Site("embed"), Site("final_norm"), Site("logits")]
    forward(model, tokens_from_ids(model, ids), reads={site: reader(site) for site in everything})
    worst: dict[str, float] = {}
    for name, layer, got, want in _identities(model, held):
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


def _identities(model: Model, held: dict[Site, Tensor]) -> Iterator[tuple[str, int | None, Tensor, Tensor]]:
    """Name, layer, what the site table says, what the module did."""
    family = model.family
    for layer in range(model.n_layers):
        yield from ((name, layer, got, want) for name, got, want in _block_identities(model, held, layer))
    last = held[Site("resid_post", model.n_layers - 1)]
    normed = held[Site("final_norm")]
    yield "final norm", None, family.final_norm.apply(last), normed
    yield "unembedding of the final norm = logits", None, family.to_logits(normed), held[Site("logits")]


def _block_identities(
    model: Model, held: dict[Site, Tensor], layer: int
) -> Iterator[tuple[str, Tensor, Tensor]]:
    block = model.family.blocks[layer]
    at = {site.kind: x for site, x in held.items() if site.layer == layer}
    before = held[Site("embed")] if layer == 0 else held[Site("resid_post", layer - 1)]
    yield "chain: resid_post of a layer = resid_pre of the next", before, at["resid_pre"]
    yield (
        "resid_pre + attn_out + mlp_out = resid_post",
        at["resid_pre"] + at["attn_out"] + at["mlp_out"],
        at["resid_post"],
    )
    read_by_mlp = at["resid_pre"]
    if not block.parallel:
        read_by_mlp = at["resid_mid"]
        yield "resid_pre + attn_out = resid_mid", at["resid_pre"] + at["attn_out"], read_by_mlp
    for part, norm, source in (
        ("attn", block.attn_norm, at["resid_pre"]),
        ("mlp", block.mlp_norm, read_by_mlp),
    ):
        yield f"norm before {part}", norm.apply(source), at[f"{part}_in"]
        yield (
            f"{part}_norm with weight and bias = {part}_in",
            norm.weigh(at[f"{part}_norm"]),
            at[f"{part}_in"],
        )
    for part, post in (("attn", block.attn_post_norm), ("mlp", block.mlp_post_norm)):
        raw = at[f"{part}_raw"]
        yield f"{part}_out from {part}_raw", raw if post is None else post.apply(raw), at[f"{part}_out"]
    yield "mlp(mlp_in) = mlp_raw", block.mlp(at["mlp_in"]), at["mlp_raw"]
    yield "softmax of scores = pattern", _wide(at["scores"]).softmax(-1), at["pattern"]
    values = at["v"].repeat_interleave(block.group, dim=2)
    yield "pattern @ v = z", torch.einsum("bhqk,bkhd->bqhd", at["pattern"], values), at["z"]
    yield (
        "W_V and b_V",
        torch.einsum("bpm,kmd->bpkd", at["attn_in"], block.W_V) + _zero_or(block.b_V),
        at["v"],
    )
    out = torch.einsum("bqhd,hdm->bqm", at["z"], block.W_O) + _zero_or(block.b_O)
    yield "W_O and b_O", out, at["attn_raw"]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype.itemsize < 4 else x


def _zero_or(bias: Tensor | None) -> Tensor | float:
    return 0.0 if bias is None else bias


def _relative(got: Tensor, want: Tensor) -> float:
    """Frobenius norm of the difference over that of `want`; NaN where either is not finite."""
    got, want = got.double(), want.double()
    return float((got - want).norm() / want.norm().clamp(min=torch.finfo(torch.float32).tiny))
