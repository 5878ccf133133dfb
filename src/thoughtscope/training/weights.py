"""The weights of a dictionary in training: their layout, their start, and the finished `Dictionary` made of them.

Training sees inputs and targets in units of its own, centred and scaled, with the sites of a part side by side: one
encoder matrix and one decoder matrix a part, so that a cross-layer decoder is one gather for all its targets. `folded`
takes all that back: means, scales, running thresholds and gates go into the weights that are saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Activation, Dictionary, Part
from thoughtscope.training.ranks import Ranks
from thoughtscope.training.recipe import PartSites, Recipe, TopK


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """By site, the constant that is taken off and the unit that is divided by while training."""

    mean: Mapping[Site, Float[Tensor, " _"]]
    unit: Mapping[Site, float]

    def inside(self, site: Site, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What a site holds, in training's units."""
        return torch.sub(x.to(dtype), self.mean[site].to(x.device, dtype)).div_(self.unit[site])


@dataclass(frozen=True, kw_only=True)
class PartLayout:
    """Which columns of a part's matrices belong to which site."""

    name: str
    reads: Mapping[Site, slice]
    writes: Mapping[Site, slice]

    @property
    def d_in(self) -> int:
        return max(columns.stop for columns in self.reads.values())

    @property
    def d_out(self) -> int:
        return max(columns.stop for columns in self.writes.values())

    @classmethod
    def of(cls, part: PartSites, widths: Mapping[Site, int]) -> PartLayout:
        """Lays the sites of a part side by side."""
        return cls(name=part.name, reads=_columns(part.reads, widths), writes=_columns(part.writes, widths))


def side_by_side(columns: Mapping[Site, slice], held: Mapping[Site, Tensor]) -> Tensor:
    """The sites of a part as one matrix, in the part's order."""
    return (
        held[next(iter(columns))] if len(columns) == 1 else torch.cat([held[site] for site in columns], dim=1)
    )


def _columns(names: Sequence[str], widths: Mapping[Site, int]) -> dict[Site, slice]:
    found, start = {}, 0
    for site in map(Site.parse, names):
        found[site] = slice(start, start + widths[site])
        start += widths[site]
    return found


SAMPLE = 1024
"""Rows from which first thresholds are taken."""


_DRAWN = 4096
"""Rows of start values that are drawn at a time."""

Weights = dict[str, Tensor]
"""By name: `part/W_enc` (feature d_in), `part/b_enc`, `part/W_dec` (feature d_out), `part/W_skip`, per-feature extras
of the objective such as `part/log_threshold`, and `b_dec/site`."""


def per_feature(name: str) -> bool:
    """Whether a weight has a row a feature; the others belong to sites."""
    owner, _, kind = name.rpartition("/")
    return owner != "b_dec" and kind != "W_skip"


def start(
    recipe: Recipe,
    layouts: Sequence[PartLayout],
    rows: Mapping[Site, Tensor],
    extras: Mapping[str, float],
    ranks: Ranks | None = None,
    **like: Any,
) -> Weights:
    """Encoders start as directions of real inputs (`rows`, in training's units), so that each fires on something.

    Tied ones start as random directions: of inputs that resemble one another, k together would write k times too much.
    `extras` are per-feature weights with their start values, `like` the type and device. Every rank draws for all
    features and keeps its own rows, so that the start is the same for any number of them.
    """
    random = torch.Generator().manual_seed(recipe.seed)
    own = (ranks or Ranks()).rows(recipe.n_features)
    n = len(own)
    weights: Weights = {}
    first_l0 = getattr(recipe.activation, "start_l0", None)
    for layout in layouts:
        decoder = _unit_rows(_normal_rows(recipe.n_features, layout.d_out, own, random).to(**like))
        if recipe.tied_start:
            encoder = decoder.clone()
        else:
            drawn = torch.randint(len(next(iter(rows.values()))), (recipe.n_features,), generator=random)
            drawn = drawn[own.start : own.stop]
            encoder = _unit_rows(
                side_by_side(layout.reads, {s: x[drawn.to(x.device)] for s, x in rows.items()}).to(**like)
            )
        name = layout.name
        weights[f"{name}/W_enc"] = encoder
        weights[f"{name}/b_enc"] = torch.zeros(n, **like)
        weights[f"{name}/W_dec"] = decoder if recipe.decoder == "unit" else 0.1 * decoder
        for extra, value in extras.items():
            weights[f"{name}/{extra}"] = torch.full((n,), value, **like)
        if first_l0 is not None:
            read = side_by_side(layout.reads, {site: x[:SAMPLE] for site, x in rows.items()})
            bar = _bars(encoder, read.to(**like), first_l0 / recipe.n_features)
            if "log_threshold" in extras:
                weights[f"{name}/log_threshold"] = bar.clamp(min=1e-3).log()
            else:
                weights[f"{name}/b_enc"] = -bar
        if recipe.skip:
            width = next(iter(layout.writes.values())).stop
            weights[f"{name}/W_skip"] = torch.zeros(width, layout.d_in, **like)
        for site, columns in layout.writes.items():
            weights.setdefault(f"b_dec/{site}", torch.zeros(columns.stop - columns.start, **like))
    return weights


def _bars(encoder: Tensor, read: Tensor, share: float) -> Float[Tensor, " feature"]:
    """The pre-activation that each feature exceeds on this share of the rows."""
    k = len(read) - min(len(read) - 1, max(1, round(share * len(read))))
    return torch.cat([(read @ rows.T).kthvalue(k, dim=0).values for rows in encoder.split(4096)])


def _normal_rows(n: int, width: int, own: range, random: torch.Generator) -> Float[Tensor, "own width"]:
    """Rows `own` of a matrix of normal numbers, which is drawn some rows at a time and never held as a whole."""
    kept = torch.empty(len(own), width, dtype=torch.float32)
    for first in range(0, n, _DRAWN):
        drawn = torch.randn(min(_DRAWN, n - first), width, generator=random, dtype=torch.float32)
        start, stop = max(own.start, first), min(own.stop, first + len(drawn))
        if start < stop:
            kept[start - own.start : stop - own.start] = drawn[start - first : stop - first]
    return kept


def _unit_rows(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-6)


# --- the finished dictionary ---------------------------------------------------------------------------------------


def folded(
    recipe: Recipe,
    layouts: Sequence[PartLayout],
    weights: Weights,
    scaling: Scaling,
    thresholds: Mapping[str, float],
    *,
    name: str,
    model_name: str,
) -> Dictionary:
    """The dictionary in the model's own units. `thresholds` are the running ones of BatchTopK, by part."""
    bias_owner = _bias_owners(layouts)
    parts = []
    for layout in layouts:
        own = {key.removeprefix(f"{layout.name}/"): value for key, value in weights.items()
               if key.startswith(f"{layout.name}/")}  # fmt: skip
        encoder, bias, decoder, threshold, activation = _inference(
            recipe, own, thresholds.get(layout.name, 0.0)
        )
        dtype = getattr(torch, recipe.saved)
        # The stored encoder is the rounded one, so its bias is made for that.
        W_enc = {s: (encoder[:, c] / scaling.unit[s]).to(dtype) for s, c in layout.reads.items()}
        for site in layout.reads:
            bias = bias - W_enc[site].to(bias) @ scaling.mean[site].to(bias)
        W_dec = {s: (decoder[:, c] * scaling.unit[s]).to(dtype) for s, c in layout.writes.items()}
        b_dec = {
            site: weights[f"b_dec/{site}"] * scaling.unit[site] + scaling.mean[site].to(bias)
            for site in layout.writes
            if bias_owner[site] == layout.name
        }
        W_skip = None
        if recipe.skip:
            read, wrote = next(iter(layout.reads)), next(iter(layout.writes))
            W_skip = (own["W_skip"] * (scaling.unit[wrote] / scaling.unit[read])).to(dtype)
            b_dec[wrote] = b_dec[wrote] - W_skip.to(bias) @ scaling.mean[read].to(bias)
        parts.append(
            Part(
                name=layout.name,
                activation=activation,
                W_enc=W_enc,
                b_enc=bias.float(),
                W_dec=W_dec,
                b_dec={site: each.float() for site, each in b_dec.items()},
                threshold=None if threshold is None else threshold.float(),
                W_skip=W_skip,
            )
        )
    return Dictionary(
        name=name, scan=name, model_name=model_name, parts=tuple(parts), skip_first=recipe.data.skip_first
    )


def _inference(
    recipe: Recipe, own: Mapping[str, Tensor], running: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Activation]:
    """Encoder, bias, decoder, thresholds and activation of a part as it is used after training."""
    encoder, bias, decoder = own["W_enc"], own["b_enc"], own["W_dec"]
    norm = decoder.norm(dim=1).clamp(min=1e-9)
    kind = recipe.activation.kind
    if isinstance(recipe.activation, TopK):
        # Scores are activation times decoder norm; so are the activations, once the norms have moved into the encoder.
        return (
            encoder * norm[:, None],
            bias * norm,
            decoder / norm[:, None],
            None,
            Activation(kind="topk", k=recipe.activation.k),
        )
    if kind == "relu":
        return encoder, bias, decoder, None, Activation(kind="relu")
    if kind == "gated":
        # With z = e^r W x + b_mag the gate opens where z > b_mag − e^r b_gate: a JumpReLU of z, exactly.
        gain = own["r_mag"].exp()
        threshold = (own["b_mag"] - gain * bias).clamp(min=0)
        return encoder * gain[:, None], own["b_mag"], decoder, threshold, Activation(kind="jumprelu")
    threshold = own["log_threshold"].exp() if kind == "jumprelu" else running / norm
    return encoder, bias, decoder, threshold, Activation(kind="jumprelu")


def _bias_owners(layouts: Sequence[PartLayout]) -> dict[Site, str]:
    """Which part holds the constant of each written site: one that writes there first, or else the first to write."""
    owners: dict[Site, str] = {}
    for layout in layouts:
        owners.setdefault(next(iter(layout.writes)), layout.name)
    for layout in layouts:
        for site in layout.writes:
            owners.setdefault(site, layout.name)
    return owners
