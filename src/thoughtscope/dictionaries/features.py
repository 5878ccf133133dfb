"""`Features`: the sparse answer of a dictionary for one prompt, and what it leaves unexplained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.memory import in_halves
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary, Part

if TYPE_CHECKING:
    from thoughtscope.models import Activations


@dataclass(frozen=True, kw_only=True)
class Features:
    """The active features of one prompt, sorted by part, position and index; positions count its real tokens from 0.

    At every written site and position `reconstruction + error` is what the model held there, exactly.
    """

    part: Int[Tensor, " active"]
    """Number of the part in `dictionary.parts`."""
    position: Int[Tensor, " active"]
    index: Int[Tensor, " active"]
    value: Float[Tensor, " active"]
    reconstruction: Mapping[Site, Float[Tensor, "pos _"]]
    """Σ value · decoder + bias + skip, by write site."""
    error: Mapping[Site, Float[Tensor, "pos _"]]
    inputs: Mapping[Site, Float[Tensor, "pos _"]]
    """What the encoders read."""

    def __len__(self) -> int:
        return self.value.shape[0]

    @property
    def n_positions(self) -> int:
        return next(iter(self.inputs.values())).shape[0]


def encode(dictionary: Dictionary, activations: Activations, *, row: int = 0) -> Features:
    """The features of one row of a capture of `dictionary.sites`, and the reconstruction and error they leave.

    Computes in float32 or wider. Raises `DictionaryMismatch` when a site is missing or has another width.
    """
    held = _held(dictionary, activations, row)
    inputs = {site: held[site] for site in dictionary.reads}
    found = []
    for number, part in enumerate(dictionary.parts):
        found += [
            (torch.full_like(position, number), position, index, value)
            for position, index, value in _active(part, inputs, skip_first=dictionary.skip_first)
        ]
    parts, positions, indices, values = (torch.cat(column) for column in zip(*found, strict=True))
    reconstruction = decode(dictionary, parts, positions, indices, values, inputs)
    return Features(
        part=parts,
        position=positions,
        index=indices,
        value=values,
        reconstruction=reconstruction,
        error={site: held[site] - reconstruction[site] for site in dictionary.writes},
        inputs=inputs,
    )


def _active(
    part: Part, inputs: Mapping[Site, Float[Tensor, "pos _"]], *, skip_first: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Position, index and value of a part's active features, a stretch of positions at a time where memory is short."""

    def active(rows: range) -> tuple[Tensor, Tensor, Tensor]:
        dense = part.activations(
            {site: inputs[site][rows.start : rows.stop] for site in part.reads}
        )  # (pos, feature)
        if skip_first and rows.start == 0:
            dense[0] = 0
        position, index = dense.nonzero(as_tuple=True)
        return position + rows.start, index, dense[position, index]

    return in_halves(range(len(inputs[part.reads[0]])), active)


def decode(
    dictionary: Dictionary,
    part: Int[Tensor, " active"],
    position: Int[Tensor, " active"],
    index: Int[Tensor, " active"],
    value: Float[Tensor, " active"],
    inputs: Mapping[Site, Float[Tensor, "pos _"]],
) -> dict[Site, Float[Tensor, "pos _"]]:
    """What given features write: `Σ value · decoder + bias + skip(inputs)` at every write site."""
    written: list[dict[Site, Tensor]] = []
    for number, each in enumerate(dictionary.parts):
        here = (part == number).nonzero()[:, 0]
        here = here[position[here].argsort(stable=True)]
        written.append(each.write(position[here], index[here], value[here], inputs))
    return total_by_site(written)


def total_by_site(written: Sequence[Mapping[Site, Tensor]]) -> dict[Site, Tensor]:
    """What several parts write, added up at each site."""
    total: dict[Site, Tensor] = {}
    for part in written:
        for site, x in part.items():
            total[site] = total[site] + x if site in total else x
    return total


def flat(x: Tensor, rows: int) -> Tensor:
    """A site's tensor with everything after its first `rows` axes in one: one vector a position, heads side by side."""
    return x.flatten(rows) if x.ndim > rows + 1 else x


def _held(dictionary: Dictionary, activations: Activations, row: int) -> dict[Site, Float[Tensor, "pos _"]]:
    """The real tokens of one row at each of the dictionary's sites, in float32 or wider."""
    missing = [str(site) for site in dictionary.sites if site not in activations]
    if missing:
        raise DictionaryMismatch(
            f"The capture lacks {', '.join(missing)}, which {dictionary.name} needs. Capture dictionary.sites."
        )
    widths = {
        site: weight.shape[1]
        for part in dictionary.parts
        for site, weight in [*part.W_enc.items(), *part.W_dec.items()]
    }
    tokens = getattr(activations, "tokens", None)
    held = {}
    for site, width in widths.items():
        x = flat(activations[site][row], 1)
        if x.shape[-1] != width:
            raise DictionaryMismatch(
                f"Dictionary {dictionary.name} takes {site} to be {width} wide, the capture has {x.shape[-1]}: "
                "another model?"
            )
        x = x if tokens is None else x[tokens.mask[row].to(x.device)]
        held[site] = x.to(torch.promote_types(x.dtype, torch.float32))
    return held
