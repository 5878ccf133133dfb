"""Dictionaries that stand in for a model's MLPs: built from weights by layer, taken apart again, and found to fit.

Published transcoders keep one set of weights a layer. `transcoders` makes a `Dictionary` of them, one part a layer,
named by the layer's number; `layer_weights` is its inverse. `replace_mlps` is what attribution asks of any dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.site import SITE_KINDS, Site
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.features import Features

if TYPE_CHECKING:
    from thoughtscope.models import Model


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer of a set of transcoders. Stored in any floating type, in memory or memory-mapped."""

    W_enc: Float[Tensor, "feature d_in"]
    b_enc: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature write d_out"]
    """Entry 0 writes at this layer; a cross-layer decoder goes on to the last layer."""
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " feature"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None


def transcoders(
    *,
    name: str,
    layers: Sequence[LayerWeights],
    activation: Activation,
    read: str = "mlp_in",
    write: str = "mlp_out",
    scan: str | None = None,
    model_name: str = "",
    skip_first: bool = True,
    card: Card | None = None,
) -> Dictionary:
    """A per-layer or cross-layer set of transcoders, one part a layer; which of the two, the decoders' shapes say.

    Raises `DictionaryMismatch` for a decoder that writes to neither its own layer only nor all layers from there on.
    """
    reads, writes = (parse_sites(kind, len(layers)) for kind in (read, write))
    parts = []
    for layer, weights in enumerate(layers):
        n_writes = weights.decoder.shape[1]
        if n_writes not in (1, len(layers) - layer):
            raise DictionaryMismatch(
                f"The decoder of layer {layer} in dictionary {name} has {n_writes} writes; of {len(layers)} layers it "
                f"has 1 (per-layer) or {len(layers) - layer} (cross-layer)."
            )
        parts.append(
            Part(
                name=str(layer),
                activation=activation,
                W_enc={reads[layer]: weights.W_enc},
                b_enc=weights.b_enc,
                W_dec={writes[layer + ahead]: weights.decoder[:, ahead] for ahead in range(n_writes)},
                b_dec={writes[layer]: weights.b_dec},
                threshold=weights.threshold,
                W_skip=weights.W_skip,
            )
        )
    return Dictionary(
        name=name,
        scan=scan or name,
        model_name=model_name,
        parts=tuple(parts),
        skip_first=skip_first,
        card=card or Card(),
    )


def layer_weights(dictionary: Dictionary) -> tuple[LayerWeights, ...]:
    """The inverse of `transcoders`. Raises `DictionaryMismatch` for a dictionary of another shape."""
    found = []
    for layer, part in enumerate(dictionary.parts):
        one_read = len(part.reads) == 1 and part.reads[0].layer == part.writes[0].layer == layer
        consecutive = [site.layer for site in part.writes] == [*range(layer, layer + len(part.writes))]
        own_bias = tuple(part.b_dec) == part.writes[:1]
        if not (one_read and consecutive and own_bias and part.name == str(layer)):
            raise DictionaryMismatch(
                f"Dictionary {dictionary.name} ({dictionary.kind}) is not one transcoder for each layer from 0 on: "
                f"part {part.name} reads {', '.join(map(str, part.reads))} and writes "
                f"{', '.join(map(str, part.writes))}."
            )
        if part.normalise or part.offset:
            raise DictionaryMismatch(
                f"Part {part.name} of {dictionary.name} {'writes offsets' if part.offset else 'normalises'}, which no "
                "set of transcoders does. Use the native format."
            )
        rows = tuple(part.W_dec.values())
        found.append(
            LayerWeights(
                W_enc=part.W_enc[part.reads[0]],
                b_enc=part.b_enc,
                decoder=rows[0].unsqueeze(1) if len(rows) == 1 else torch.stack(rows, dim=1),
                b_dec=part.b_dec[part.writes[0]],
                threshold=part.threshold,
                W_skip=part.W_skip,
            )
        )
    return tuple(found)


def is_cross_layer(dictionary: Dictionary) -> bool:
    """True when features of a layer write to later layers too."""
    return any(len(part.writes) > 1 for part in dictionary.parts)


def parse_sites(kind: str, n_layers: int) -> tuple[Site, ...]:
    """One site of a kind per layer. Raises `UnknownSite`."""
    return tuple(Site(kind, layer) for layer in range(n_layers))


READ_KINDS = tuple(name for name, kind in SITE_KINDS.items() if kind.attribution == "read")
WRITE_KINDS = tuple(name for name, kind in SITE_KINDS.items() if kind.attribution == "write")


@dataclass(frozen=True, kw_only=True)
class MlpReplacement:
    """How a dictionary stands in for a model's MLPs, block by block (Ameisen et al. 2025, replacement model).

    A block without a part keeps its MLP's output as error.
    """

    dictionary: Dictionary
    part_of: tuple[int | None, ...]
    """By block: the number of the part whose encoder reads there."""
    writes: tuple[Site, ...]
    """By block: where the MLP's output is replaced."""

    @property
    def n_layers(self) -> int:
        return len(self.part_of)

    @property
    def layer_of(self) -> tuple[int, ...]:
        """By part: the block in which it reads."""
        return tuple(part.layer for part in self.dictionary.parts)

    @property
    def sites(self) -> tuple[Site, ...]:
        """What has to be captured: the dictionary's own sites, and the outputs of the MLPs that it leaves alone."""
        return tuple(dict.fromkeys(self.dictionary.sites + self.writes))

    def errors(
        self, features: Features, activations: Mapping[Site, Tensor]
    ) -> tuple[Float[Tensor, "pos d_out"], ...]:
        """By block, what the MLP wrote beyond the reconstruction; all of it where no part stands in."""
        return tuple(
            features.error[site] if site in features.error else activations[site][0] for site in self.writes
        )

    def read(self, layer: int) -> Site | None:
        """The site that the part of a block reads."""
        number = self.part_of[layer]
        return None if number is None else self.dictionary.parts[number].reads[0]


def _check_linear(part: Part, dictionary: str) -> None:
    """Raises `DictionaryMismatch` for a part that is not linear between what it reads and its active features, or
    between those and what it writes."""
    reasons = [
        f"normalises each vector that it reads ({part.normalise})" if part.normalise else "",
        "writes a constant for each active feature beside its activation" if part.offset else "",
    ]
    found = [reason for reason in reasons if reason]
    if found:
        raise DictionaryMismatch(
            f"Attribution needs features that read and write linearly. Part {part.name} of {dictionary} "
            f"{' and '.join(found)}. It can be encoded, evaluated and edited, not traced."
        )


def replace_mlps(dictionary: Dictionary, model: Model) -> MlpReplacement:
    """Sees a dictionary as what stands in for the model's MLPs, in all or some of its blocks.

    Raises `DictionaryMismatch`, with the part, when it cannot: a part has to read one site of its block before the MLP
    and to write what MLPs of this or later blocks write; parts come in the order of the layers, one a block.
    """
    n_layers = model.n_layers
    part_of: list[int | None] = [None] * n_layers
    writes: dict[int, Site] = {}
    for number, part in enumerate(dictionary.parts):
        fits = (
            len(part.reads) == 1
            and part.reads[0].kind in READ_KINDS
            and all(site.kind in WRITE_KINDS and (site.layer or 0) >= part.layer for site in part.writes)
            and (part.W_skip is None or part.writes[0].layer == part.layer)
        )
        if not fits:
            raise DictionaryMismatch(
                f"Attribution needs features that stand in for MLPs: they read one of {', '.join(READ_KINDS)} and "
                f"write {' or '.join(WRITE_KINDS)} of the same and later blocks. Part {part.name} of {dictionary.name} "
                f"({dictionary.kind}) reads {', '.join(map(str, part.reads))} and writes "
                f"{', '.join(map(str, part.writes))}. Such features can be targets of a graph, not its nodes."
            )
        _check_linear(part, dictionary.name)
        if any(taken is not None for taken in part_of[part.layer :]):
            raise DictionaryMismatch(
                f"The parts of {dictionary.name} stand in another order than the blocks, or two of them read in block "
                f"{part.layer}; attribution needs one a block, in order."
            )
        part_of[part.layer] = number
        for site in part.writes:
            if writes.setdefault(site.layer or 0, site) != site:
                raise DictionaryMismatch(
                    f"{dictionary.name} writes both {writes[site.layer or 0]} and {site}; attribution needs one."
                )
    return MlpReplacement(
        dictionary=dictionary,
        part_of=tuple(part_of),
        writes=tuple(writes.get(layer, Site("mlp_out", layer)) for layer in range(n_layers)),
    )
