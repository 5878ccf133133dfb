"""One sweep down the frozen model: the direct effects of every source on a batch of targets.

The residual gradients `G[position, target, d_model]` of all targets of a chunk go down the layers together. At each
layer the sources that write there are read off with one product per position, targets that read there are injected,
and attention carries the gradients to earlier positions. A target enters at its own layer, and positions after the
chunk's last are never touched, so nothing is multiplied that must be zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.features import Features
from thoughtscope.graphs.linear import Linearised

CHUNK_BYTES = 192 * 2**20
_SMALL_CHUNK = 96  # targets; fewer make products too thin to be worth a sweep of their own


@dataclass(frozen=True, kw_only=True)
class Injections:
    """Targets as gradients of the residual stream where each one reads it. `layer` is `n_layers` for logits."""

    layer: Int[Tensor, " target"]
    after_attention: Tensor
    position: Int[Tensor, " target"]
    vector: Float[Tensor, "target d_model"]
    constant: Float[Tensor, " target"]
    """The part of each target's value that no source brings: its own bias and those of the norm it reads through."""

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, which: Tensor) -> Injections:
        return Injections(**{name: tensor[which] for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class LayerSources:
    """What writes into the residual stream at one layer: feature rows by column, errors and constants by position."""

    features: Float[Tensor, "source d_model"]
    rows: tuple[tuple[int, int], ...]
    """By position: the slice of `features`."""
    columns: tuple[tuple[int, int], ...]
    """By position: the slice of columns that those rows stand for."""
    extra: Float[Tensor, "pos d_model 2"]
    """The error, and the constant part."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """All sources of one prompt. Feature columns run by position, then layer, then index, so that both the features
    of a position up to a layer and those of all positions up to one are slices."""

    layers: tuple[LayerSources, ...]
    column_of: Int[Tensor, " active"]
    """Of each active feature, in the order of `Features`."""
    columns_before: tuple[int, ...]
    """Feature columns at positions before each position, and after the last."""
    skips: tuple[Float[Tensor, "d_out d_in"] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Effects:
    """Direct effects on the targets of one chunk."""

    features: Float[Tensor, "target column"]
    errors: Float[Tensor, "target layer pos"]
    tokens: Float[Tensor, "target pos"]
    bias: Float[Tensor, " target"]


def gather_sources(frozen: Linearised, dictionary: Dictionary, features: Features) -> Sources:
    """Decoder rows of the active features, scaled by their activations and brought to the residual stream."""
    device = frozen.embed.device
    layer, position = features.layer.to(device), features.position.to(device)
    value = features.value.to(device).float()
    order = torch.from_numpy(
        np.lexsort((features.index.cpu(), features.layer.cpu(), features.position.cpu()))
    )
    order = order.to(device)
    column_of = torch.empty_like(order)
    column_of[order] = torch.arange(len(order), device=device)
    first_column = torch.searchsorted(
        position[order], torch.arange(frozen.length + 1, device=device)
    ).tolist()
    decoders = _decoder_rows(dictionary, features, device)
    skips = tuple(None if w.W_skip is None else w.W_skip.to(device).float() for w in dictionary.layers)
    layers = []
    for target in range(dictionary.n_layers):
        writes = frozen.write_map(dictionary.writes[target])
        writers = order[(layer <= target)[order] if dictionary.cross_layer else (layer == target)[order]]
        rows = torch.empty(len(writers), dictionary.d_model, device=device)
        for source in range(target + 1 if len(writers) else 0):
            here = (layer[writers] == source).nonzero()[:, 0]
            if len(here):
                local = writers[here] - int((layer < source).sum())
                rows[here] = decoders[source][local, target - source]
        rows = writes.linear_at(rows * value[writers, None], position[writers])
        bounds = torch.searchsorted(
            position[writers], torch.arange(frozen.length + 1, device=device)
        ).tolist()
        columns = column_of[writers].tolist()
        slices = list(pairwise(bounds))
        error = writes.linear(features.error[target].to(device).float())
        bias = dictionary.bias(target).to(device)
        skip, read_bias = skips[target], frozen.read_map(dictionary.reads[target]).bias
        if skip is not None and read_bias is not None:
            bias = bias + skip @ read_bias
        constant = writes.linear(bias.expand(frozen.length, -1))
        constant = constant if writes.bias is None else constant + writes.bias
        layers.append(
            LayerSources(
                features=rows,
                rows=tuple(slices),
                columns=tuple((columns[a], columns[b - 1] + 1) if b > a else (0, 0) for a, b in slices),
                extra=torch.stack([error, constant], dim=-1),
            )
        )
    return Sources(layers=tuple(layers), column_of=column_of, columns_before=tuple(first_column), skips=skips)


def inject_features(
    frozen: Linearised, dictionary: Dictionary, features: Features, which: Int[Tensor, " target"]
) -> Injections:
    """Encoder rows of some active features as targets."""
    device = frozen.embed.device
    which = which.to(features.layer.device)
    layer, position, index = (
        t[which].to(device) for t in (features.layer, features.position, features.index)
    )
    vector = torch.empty(len(which), dictionary.d_model, device=device)
    constant = torch.empty(len(which), device=device)
    after_attention = torch.zeros(len(which), dtype=torch.bool, device=device)
    for number in layer.unique().tolist():
        here = layer == number
        site, rows = dictionary.reads[number], dictionary.encoder_rows(number, index[here].cpu()).to(device)
        reads = frozen.read_map(site)
        vector[here] = reads.transpose_at(rows, position[here])
        constant[here] = dictionary.encoder_bias(number, index[here].cpu()).to(device)
        if reads.bias is not None:
            constant[here] += rows @ reads.bias
        after_attention[here] = frozen.reads_after_attention(site)
    return Injections(
        layer=layer, after_attention=after_attention, position=position, vector=vector, constant=constant
    )


def chunks(
    targets: Injections, *, width: int, columns: int, budget: int = CHUNK_BYTES
) -> Iterator[Int[Tensor, " target"]]:
    """Targets in chunks of neighbouring positions that fit the byte budget, within each by layer from the top.

    `width` is what one target needs per position, in floats; `columns` what its row needs.
    """
    before = ~targets.after_attention.cpu().numpy()
    depth, at = -targets.layer.cpu().numpy(), targets.position.cpu().numpy()
    order = np.lexsort((before, depth, at))
    positions = at[order]
    start = 0
    while start < len(order):
        end = int(np.searchsorted(positions, positions[start], side="right"))
        while end < len(order) and end - start < _SMALL_CHUNK:
            end = int(np.searchsorted(positions, positions[end], side="right"))
        room = budget // (4 * (width * (int(positions[end - 1]) + 1) + columns))
        end = min(end, start + max(room, 1))
        chosen = order[start:end]
        yield torch.from_numpy(chosen[np.lexsort((before[chosen], depth[chosen]))])
        start = end


def sweep(frozen: Linearised, dictionary: Dictionary, sources: Sources, targets: Injections) -> Effects:
    """Direct effects of every source on `targets`, which come sorted by layer from the top, as `chunks` gives them."""
    n_layers, device = len(frozen.blocks), frozen.embed.device
    length = int(targets.position.max()) + 1
    effects = Effects(
        features=torch.zeros(len(targets), sources.columns_before[length], device=device),
        errors=torch.zeros(len(targets), n_layers, length, device=device),
        tokens=torch.zeros(len(targets), length, device=device),
        bias=targets.constant.clone(),
    )
    order = 2 * targets.layer + (targets.after_attention | (targets.layer == n_layers))
    gradient = _inject(
        torch.zeros(length, 0, frozen.embed.shape[1], device=device), targets, order >= 2 * n_layers
    )
    for layer in range(min(n_layers - 1, int(targets.layer[0])), -1, -1):
        block = frozen.blocks[layer]
        skipped = None
        if gradient.shape[1]:
            _read_sources(effects, sources.layers[layer], gradient, layer)
            skipped = _through_skip(frozen, dictionary, sources.skips[layer], gradient, layer)
        after = frozen.reads_after_attention(dictionary.reads[layer])
        if skipped is not None and after:
            gradient = gradient + skipped
        gradient = _inject(gradient, targets, order > 2 * layer)
        if gradient.shape[1]:
            effects.bias[: gradient.shape[1]] += torch.einsum("pnd,pd->n", gradient, block.constant[:length])
            attended = block.attend_transpose(gradient)
            gradient = attended.add_(gradient)
        if skipped is not None and not after:
            gradient[:, : skipped.shape[1]] += skipped
        gradient = _inject(gradient, targets, order >= 2 * layer)
    effects.tokens[:] = torch.bmm(gradient, frozen.embed[:length, :, None])[:, :, 0].T
    return effects


def _decoder_rows(dictionary: Dictionary, features: Features, device: torch.device) -> list[Tensor]:
    """By layer: the decoder rows of its active features, in their order; each row is read from disk once."""
    result = []
    for layer in range(dictionary.n_layers):
        used, where = features.index[features.layer == layer].cpu().unique(return_inverse=True)
        result.append(dictionary.decoder_rows(layer, used).to(device)[where.to(device)])
    return result


def _read_sources(effects: Effects, sources: LayerSources, gradient: Tensor, layer: int) -> None:
    """Adds the effects of everything that writes at this layer."""
    length, n_targets, _ = gradient.shape
    for position in range(length):
        (start, end), (first, last) = sources.rows[position], sources.columns[position]
        if end > start:
            effects.features[:n_targets, first:last].addmm_(gradient[position], sources.features[start:end].T)
    extra = torch.bmm(gradient, sources.extra[:length])
    effects.errors[:n_targets, layer] = extra[:, :, 0].T
    effects.bias[:n_targets] += extra[:, :, 1].sum(0)


def _through_skip(
    frozen: Linearised, dictionary: Dictionary, skip: Tensor | None, gradient: Tensor, layer: int
) -> Tensor | None:
    """Gradients carried back through the linear path of a skip transcoder; None without one."""
    if skip is None:
        return None
    written = frozen.write_map(dictionary.writes[layer]).transpose(gradient)
    return frozen.read_map(dictionary.reads[layer]).transpose(written @ skip)


def _inject(gradient: Tensor, targets: Injections, present: Tensor) -> Tensor:
    """Widens the gradients to the targets that are present from here on: a prefix, since they are sorted."""
    before, now = gradient.shape[1], int(present.sum())
    if now == before:
        return gradient
    wider = gradient.new_zeros(gradient.shape[0], now, gradient.shape[2])
    wider[:, :before] = gradient
    new = torch.arange(before, now, device=gradient.device)
    wider[targets.position[new], new] = targets.vector[new]
    return wider
