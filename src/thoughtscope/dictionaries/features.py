"""`Features`: the sparse answer of a dictionary for one prompt, and what it leaves unexplained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.dictionaries.dictionary import Dictionary

if TYPE_CHECKING:
    from thoughtscope.models import Activations


@dataclass(frozen=True, kw_only=True)
class Features:
    """The active features of one prompt, sorted by layer, position and index; positions count its real tokens from 0.

    At every layer and position `reconstruction + error` is what the model wrote, exactly.
    """

    layer: Int[Tensor, " active"]
    position: Int[Tensor, " active"]
    index: Int[Tensor, " active"]
    value: Float[Tensor, " active"]
    reconstruction: Float[Tensor, "layer pos d_out"]
    """Σ value · decoder + bias + skip, by write site."""
    error: Float[Tensor, "layer pos d_out"]
    inputs: Float[Tensor, "layer pos d_in"]
    """What the encoders read."""

    def __len__(self) -> int:
        return self.value.shape[0]

    @property
    def n_layers(self) -> int:
        return self.error.shape[0]

    @property
    def n_positions(self) -> int:
        return self.error.shape[1]


def encode(dictionary: Dictionary, activations: Activations, *, row: int = 0) -> Features:
    """The features of one row of a capture of `dictionary.sites`, and the reconstruction and error they leave.

    Computes in float32 or wider. Raises `DictionaryMismatch` when a site is missing or has another width.
    """
    inputs = _stacked(dictionary, activations, dictionary.reads, row)
    written = _stacked(dictionary, activations, dictionary.writes, row)
    found = []
    for layer in range(dictionary.n_layers):
        dense = dictionary.activations(layer, inputs[layer])
        if dictionary.skip_first:
            dense[0] = 0
        position, index = dense.nonzero(as_tuple=True)
        found.append((torch.full_like(position, layer), position, index, dense[position, index]))
    layers, positions, indices, values = (torch.cat(column) for column in zip(*found, strict=True))
    reconstruction = decode(dictionary, layers, positions, indices, values, inputs)
    return Features(
        layer=layers,
        position=positions,
        index=indices,
        value=values,
        reconstruction=reconstruction,
        error=written - reconstruction,
        inputs=inputs,
    )


def decode(
    dictionary: Dictionary,
    layer: Int[Tensor, " active"],
    position: Int[Tensor, " active"],
    index: Int[Tensor, " active"],
    value: Float[Tensor, " active"],
    inputs: Float[Tensor, "layer pos d_in"],
) -> Float[Tensor, "layer pos d_out"]:
    """What given features write: `Σ value · decoder + bias + skip(inputs)` at every write site."""
    n_pos = inputs.shape[1]
    written = []
    for number in range(dictionary.n_layers):
        base = dictionary.bias(number).to(inputs).expand(n_pos, -1)
        skip = dictionary.skip(number, inputs[number])
        written.append(base.clone() if skip is None else base + skip)
    result = torch.stack(written)
    for number in range(dictionary.n_layers):
        here = layer == number
        if not here.any():
            continue
        used, which = index[here].unique(return_inverse=True)
        rows = dictionary.decoder_rows(number, used).to(inputs)
        weights = inputs.new_zeros(n_pos, len(used)).index_put(
            (position[here], which), value[here].to(inputs), accumulate=True
        )
        added = torch.einsum("pu,utd->tpd", weights, rows)
        targets = dictionary.targets(number)
        result[targets.start : targets.stop] += added
    return result


def _stacked(
    dictionary: Dictionary, activations: Activations, sites: tuple, row: int
) -> Float[Tensor, "layer pos d"]:
    """The real tokens of one row at each of `sites`, in float32 or wider."""
    missing = [str(site) for site in sites if site not in activations]
    if missing:
        raise DictionaryMismatch(
            f"The capture lacks {', '.join(missing)}, which {dictionary.name} needs. Capture dictionary.sites."
        )
    tensors = [activations[site][row] for site in sites]
    if {tensor.shape[-1] for tensor in tensors} != {dictionary.d_model}:
        raise DictionaryMismatch(
            f"Dictionary {dictionary.name} has width {dictionary.d_model}, the capture {tensors[0].shape[-1]}: "
            "another model?"
        )
    stacked = torch.stack(tensors)
    tokens = getattr(activations, "tokens", None)
    if tokens is not None:
        stacked = stacked[:, tokens.mask[row].to(stacked.device)]
    return stacked.to(torch.promote_types(stacked.dtype, torch.float32))
