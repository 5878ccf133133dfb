"""One sweep down the frozen model: the direct effects of every source on a batch of targets.

The residual gradients `G[position, target, d_model]` of all targets of a chunk go down the layers together. At each
layer the sources that write there are read off with one product per position, targets that read there are injected,
and attention carries the gradients to earlier positions. A target enters at its own layer, and positions after the
chunk's last are never touched, so nothing is multiplied that must be zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.features import Features
from thoughtscope.dictionaries.transcoders import MlpReplacement
from thoughtscope.graphs.linear import Linearised
from thoughtscope.graphs.targets import ReadTarget

CHUNK_BYTES = 192 * 2**20
SMALL_CHUNK = 96  # targets; fewer make products too thin to be worth a sweep of their own


@dataclass(frozen=True, kw_only=True)
class Injections:
    """Targets as gradients of the residual stream where each one reads it."""

    layer: Int[Tensor, " target"]
    """The block that reads; `n_layers` for what is read after the last one, such as logits."""
    after_attention: Bool[Tensor, " target"]
    """Whether it is read after that block's attention has written, or before."""
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


def gather_sources(
    frozen: Linearised,
    replacement: MlpReplacement,
    features: Features,
    errors: Sequence[Float[Tensor, "pos d_out"]],
) -> Sources:
    """What is written into the residual stream, by block: features, errors, constants.

    A feature f of value a_f writes `a_f W_dec[f]` at each site of its part; the block's write map (a post-norm on some
    families, at this prompt's scale) carries it into the residual stream. `errors`, by block, is what is missed.
    """
    device = frozen.embed.device
    part, position = features.part.to(device), features.position.to(device)
    value = features.value.to(device).float()
    # Columns run by position, then part, then index, so that the writers of a block at a position are one slice.
    order = torch.from_numpy(np.lexsort((features.index.cpu(), features.part.cpu(), features.position.cpu())))
    order = order.to(device)
    column_of = torch.empty_like(order)
    column_of[order] = torch.arange(len(order), device=device)
    starts = torch.arange(frozen.length + 1, device=device)
    decoders = _decoder_rows(replacement, features, device)
    skips = tuple(_skip(replacement, layer, device) for layer in range(replacement.n_layers))
    layers = []
    for layer, site in enumerate(replacement.writes):
        writes = frozen.write_map(site)
        which = order[_between_writers(replacement, site, part[order])]  # numbers of features, by column
        rows = torch.zeros(len(which), frozen.embed.shape[1], device=device)  # (source, d_out)
        for number, by_site in enumerate(decoders):
            here = (part[which] == number).nonzero()[:, 0]
            if site in by_site and len(here):
                rows[here] = by_site[site][which[here] - int((part < number).sum())]
        # a_f W_dec[f], carried into the residual stream at the feature's own position: (source, d_model)
        rows = writes.linear_at(rows * value[which, None], position[which])
        bounds = torch.searchsorted(position[which], starts).tolist()
        columns = column_of[which].tolist()
        slices = list(pairwise(bounds))
        error = writes.linear(errors[layer].to(device).float())
        extra = [error, _constant(frozen, replacement, skips[layer], layer)]  # (pos, d_model) each
        layers.append(
            LayerSources(
                features=rows,
                rows=tuple(slices),
                columns=tuple((columns[a], columns[b - 1] + 1) if b > a else (0, 0) for a, b in slices),
                extra=torch.stack(extra, dim=-1),
            )
        )
    first_column = torch.searchsorted(position[order], starts).tolist()
    return Sources(layers=tuple(layers), column_of=column_of, columns_before=tuple(first_column), skips=skips)


def _between_writers(
    replacement: MlpReplacement, site: Site, part: Int[Tensor, " active"]
) -> Bool[Tensor, " active"]:
    """Features of the parts that write to `site`, and of those that stand between them: slices stay unbroken, and a
    feature that writes nothing there has a row of zeros."""
    writers = [number for number, each in enumerate(replacement.dictionary.parts) if site in each.W_dec]
    if not writers:
        return torch.zeros_like(part, dtype=torch.bool)
    return (part >= writers[0]) & (part <= writers[-1])


def _constant(
    frozen: Linearised, replacement: MlpReplacement, skip: Tensor | None, layer: int
) -> Float[Tensor, "pos d_model"]:
    """What is written whatever the residual stream holds: decoder biases, those of the norms on the way, and the skip
    connection's share of its read's bias."""
    site = replacement.writes[layer]
    writes, read = frozen.write_map(site), replacement.read(layer)
    bias = torch.zeros(frozen.embed.shape[1], device=frozen.embed.device)
    for part in replacement.dictionary.parts:
        if site in part.b_dec:
            bias = bias + part.b_dec[site].to(bias)
    if skip is not None and read is not None:
        read_bias = frozen.read_map(read).bias
        bias = bias if read_bias is None else bias + skip @ read_bias
    constant = writes.linear(bias.expand(frozen.length, -1))
    return constant if writes.bias is None else constant + writes.bias


def inject_features(
    frozen: Linearised, replacement: MlpReplacement, features: Features, which: Int[Tensor, " target"]
) -> Injections:
    """Some active features as targets: `W_enc[f] · read(x) + b_enc[f]` is linear in the residual stream x, so its
    gradient is the encoder row carried back through the read map (the norm before the MLP, at this prompt's scale)."""
    device = frozen.embed.device
    which = which.to(features.part.device)
    part, position, index = (t[which].to(device) for t in (features.part, features.position, features.index))
    vector = torch.empty(len(which), frozen.embed.shape[1], device=device)
    constant = torch.empty(len(which), device=device)
    after_attention = torch.zeros(len(which), dtype=torch.bool, device=device)
    for number in part.unique().tolist():
        here, each = part == number, replacement.dictionary.parts[number]
        (site,), some = each.reads, index[here].cpu()
        reads, rows = frozen.read_map(site), each.encoder_rows(some)[site].to(device)
        vector[here] = reads.transpose_at(rows, position[here])
        constant[here] = each.encoder_bias(some).to(device)
        if reads.bias is not None:
            constant[here] += rows @ reads.bias
        after_attention[here] = frozen.reads_after_attention(site)
    return Injections(
        layer=torch.tensor(replacement.layer_of, device=device)[part],
        after_attention=after_attention,
        position=position,
        vector=vector,
        constant=constant,
    )


def inject_reads(
    frozen: Linearised, targets: Sequence[ReadTarget]
) -> tuple[Injections, Int[Tensor, " injection"]]:
    """Linear reads of the model as targets, an injection for each place that they read, and the target of each.

    The effects on a target are the sum of those on its injections; its constant goes with the first.
    """
    device = frozen.embed.device
    rows: list[tuple[int, bool, int, Tensor]] = []
    owner: list[int] = []
    constants: list[float] = []
    for number, target in enumerate(targets):
        own = target.bias
        for site, vector in target.vectors.items():
            found = frozen.read_transpose(site, vector.to(device).float(), target.position)
            for layer, after, position, gradient, constant in found:
                rows.append((layer, after, position, gradient))
                constants.append(own + constant)
                owner.append(number)
                own = 0.0
    layers, afters, positions, vectors = zip(*rows, strict=True)
    injections = Injections(
        layer=torch.tensor(layers, device=device),
        after_attention=torch.tensor(afters, device=device),
        position=torch.tensor(positions, device=device),
        vector=torch.stack(vectors),
        constant=torch.tensor(constants, device=device),
    )
    return injections, torch.tensor(owner)


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
        while end < len(order) and end - start < SMALL_CHUNK:
            end = int(np.searchsorted(positions, positions[end], side="right"))
        room = budget // (4 * (width * (int(positions[end - 1]) + 1) + columns))
        end = min(end, start + max(room, 1))
        chosen = order[start:end]
        yield torch.from_numpy(chosen[np.lexsort((before[chosen], depth[chosen]))])
        start = end


def sweep(frozen: Linearised, replacement: MlpReplacement, sources: Sources, targets: Injections) -> Effects:
    """Direct effects of every source on `targets`, which come sorted by layer from the top, as `chunks` gives them.

    The gradient G of the targets with respect to the residual stream goes down block by block. The effect of a source
    is its row times G where it writes; behind attention, `G += Aᵀ G`, with A the block's frozen attention, a linear map
    from positions to later ones (Ameisen et al. 2025: an edge is a_s W_decᵀ J W_enc, J over all frozen paths).
    """
    n_layers, device = len(frozen.blocks), frozen.embed.device
    length = int(targets.position.max()) + 1
    effects = Effects(
        features=torch.zeros(len(targets), sources.columns_before[length], device=device),
        errors=torch.zeros(len(targets), n_layers, length, device=device),
        tokens=torch.zeros(len(targets), length, device=device),
        bias=targets.constant.clone(),
    )
    # Where a target joins: 2 l before the attention of block l, 2 l + 1 after it. Descending, so that the targets
    # present at any height are a prefix.
    height = 2 * targets.layer + targets.after_attention
    gradient = torch.zeros(length, 0, frozen.embed.shape[1], device=device)  # (pos, target, d_model)
    gradient = _inject(gradient, targets, height >= 2 * n_layers)
    for layer in range(min(n_layers - 1, int(targets.layer[0])), -1, -1):
        block, read = frozen.blocks[layer], replacement.read(layer)
        # The MLP's place: what is written there acts on every target above, and a skip connection hands the gradient
        # on to where its part reads, beside the residual stream.
        skipped = None
        if gradient.shape[1]:
            _read_sources(effects, sources.layers[layer], gradient, layer)
            skipped = _through_skip(frozen, replacement, sources.skips[layer], gradient, layer)
        after = read is not None and frozen.reads_after_attention(read)
        if skipped is not None and after:
            gradient = gradient + skipped
        gradient = _inject(gradient, targets, height > 2 * layer)
        # Attention: its constants act on the targets above, and the gradient spreads to earlier positions.
        if gradient.shape[1]:
            effects.bias[: gradient.shape[1]] += torch.einsum("pnd,pd->n", gradient, block.constant[:length])
            attended = block.attend_transpose(gradient)
            gradient = attended.add_(gradient)
        if skipped is not None and not after:
            gradient[:, : skipped.shape[1]] += skipped
        gradient = _inject(gradient, targets, height >= 2 * layer)
    # What enters the first block: one source a position.
    effects.tokens[:] = torch.bmm(gradient, frozen.embed[:length, :, None])[:, :, 0].T
    return effects


def _decoder_rows(
    replacement: MlpReplacement, features: Features, device: torch.device
) -> list[dict[Site, Tensor]]:
    """By part: the decoder rows of its active features at each site, in their order; each is read from disk once."""
    result = []
    for number, part in enumerate(replacement.dictionary.parts):
        used, where = features.index[features.part == number].cpu().unique(return_inverse=True)
        where = where.to(device)
        result.append({site: rows.to(device)[where] for site, rows in part.decoder_rows(used).items()})
    return result


def _skip(
    replacement: MlpReplacement, layer: int, device: torch.device
) -> Float[Tensor, "d_out d_in"] | None:
    number = replacement.part_of[layer]
    W_skip = None if number is None else replacement.dictionary.parts[number].W_skip
    return None if W_skip is None else W_skip.to(device).float()


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
    frozen: Linearised, replacement: MlpReplacement, skip: Tensor | None, gradient: Tensor, layer: int
) -> Tensor | None:
    """Gradients carried back through the linear path of a skip transcoder; None without one."""
    read = replacement.read(layer)
    if skip is None or read is None:
        return None
    written = frozen.write_map(replacement.writes[layer]).transpose(gradient)
    return frozen.read_map(read).transpose(written @ skip)


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
