"""`Dictionary`: a model's features, in parts. A part is one encoder with its decoders: a transcoder of one layer, a
sparse autoencoder of one site, a crosscoder of several. Which one it is, is said by the sites it reads and writes.

The weights of a loaded dictionary are memory-mapped tensors: a page is read from disk when a row on it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, linear

from thoughtscope.core.errors import (
    CorruptArtefact,
    DictionaryMismatch,
    UnknownFeature,
    UnknownSite,
    describe_choices,
)
from thoughtscope.core.site import Site
from thoughtscope.core.tensors import all_finite
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.normalise import Normalise, Normalised, normalised

if TYPE_CHECKING:
    from thoughtscope.models import Model


SCANNED = 2 * 2**30
"""Bytes of weights that are searched for NaN as a dictionary is loaded: 0.1 s of work, and a second or two of a disk's.
Larger dictionaries open at once, since nothing of them is read."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Features that are computed together, in parts of any width, from any sites, to any sites.

        a   = activation(Σ_r W_enc[r] x_r + b_enc)                  over the sites r that it reads
        ŷ_w = W_dec[w]ᵀ a + b_dec[w] + W_skip x                     at each site w that it writes

    With `normalise`, each x_r is brought to mean 0 and variance 1 (or to mean square 1) before it is encoded, and what
    is written to a site that was read is brought back: ŷ_w = σ_w (W_decᵀ a + b_dec) + μ_w. With `offset`, each active
    feature writes `a + offset[w]` times its decoder.

    - a transcoder reads what enters an MLP and writes what leaves it (Dunefsky et al. 2024), with `W_skip` a skip
      transcoder (Paulo et al. 2025), and written to later layers too a cross-layer one (Ameisen et al. 2025);
    - a sparse autoencoder reads and writes one site (Bricken et al. 2023);
    - a crosscoder reads and writes several (Lindsey et al. 2024).

    A site's tensor is one vector a position: trailing axes (heads) are flattened. Weights may have any floating type,
    in memory or memory-mapped; arithmetic is in float32 or wider.
    """

    name: str
    """Unique within the dictionary: the layer's number for a transcoder ("3"), the site for an autoencoder."""
    activation: Activation
    W_enc: Mapping[Site, Float[Tensor, "feature _"]]
    b_enc: Float[Tensor, " feature"]
    W_dec: Mapping[Site, Float[Tensor, "feature _"]]
    b_dec: Mapping[Site, Float[Tensor, " _"]]
    """Constants, at those of the written sites that get one from this part."""
    threshold: Float[Tensor, " feature"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    """From the only site read to the first site written."""
    normalise: Normalise | None = None
    """What is done to each vector that is read, and undone where the same site is written."""
    offset: Mapping[Site, Float[Tensor, " feature"]] = field(default_factory=dict)
    """What an active feature writes there beyond its activation, in units of its decoder."""

    @property
    def reads(self) -> tuple[Site, ...]:
        return tuple(self.W_enc)

    @property
    def writes(self) -> tuple[Site, ...]:
        return tuple(self.W_dec)

    @property
    def n_features(self) -> int:
        return self.b_enc.shape[0]

    @property
    def layer(self) -> int:
        """The block of the first site read (0 for the embedding)."""
        return self.reads[0].layer or 0

    @property
    def last_read(self) -> Site:
        """The site that a forward pass reaches last among those read: behind it, the activations are known."""
        return max(self.reads, key=lambda site: site.depth)

    @property
    def looks_ahead(self) -> bool:
        """True when it writes to a site before it has read the last one: a crosscoder's activations are then not
        known while the model runs, and come from an unedited pass."""
        return self.last_read.depth > min(site.depth for site in self.writes)

    def preactivations(self, x: Mapping[Site, Float[Tensor, "*rows _"]]) -> Float[Tensor, "*rows feature"]:
        """`Σ W_enc x + b_enc` for what the sites hold, in float32 or wider."""
        return _affine(self.W_enc, self.b_enc, self._seen(x))

    def seen(self, site: Site, x: Mapping[Site, Float[Tensor, "*rows _"]]) -> Normalised | None:
        """What a site holds as the encoder sees it, and how what is written there is brought back. None where nothing
        is done: the site is not read, or the part does not normalise."""
        if self.normalise is None or site not in self.W_enc:
            return None
        return normalised(_wide(x[site]), self.normalise)

    def _seen(self, x: Mapping[Site, Tensor]) -> Mapping[Site, Tensor]:
        found = {site: self.seen(site, x) for site in self.reads}
        return {site: x[site] if each is None else each.x for site, each in found.items()}

    def activations(self, x: Mapping[Site, Float[Tensor, "*rows _"]]) -> Float[Tensor, "*rows feature"]:
        """All features for what the sites hold; dense, in float32 or wider."""
        pre = self.preactivations(x)
        return self.activation.apply(pre, None if self.threshold is None else self.threshold.to(pre))

    def activations_of(
        self, index: Int[Tensor, " active"], x: Mapping[Site, Float[Tensor, "*rows _"]]
    ) -> Float[Tensor, "*rows active"]:
        """A few features for what the sites hold; only their encoder rows are read, unless they compete (TopK)."""
        if self.activation.competes:
            return self.activations(x)[..., index.to(x[self.reads[0]].device)]
        pre = _affine(self.encoder_rows(index), self.encoder_bias(index), self._seen(x))
        threshold = None if self.threshold is None else self._rows(self.threshold, index).to(pre)
        return self.activation.apply(pre, threshold)

    def encoder_rows(self, index: Int[Tensor, " active"]) -> dict[Site, Float[Tensor, "active _"]]:
        """The encoders of some features by site, in float32. Raises `UnknownFeature`."""
        return {site: self._rows(W_enc, index).float() for site, W_enc in self.W_enc.items()}

    def encoder_bias(self, index: Int[Tensor, " active"]) -> Float[Tensor, " active"]:
        """The encoder biases of some features, in float32. Raises `UnknownFeature`."""
        return self._rows(self.b_enc, index).float()

    def decoder_rows(self, index: Int[Tensor, " active"]) -> dict[Site, Float[Tensor, "active _"]]:
        """The decoders of some features by site, in float32; no other row is read.

        Raises `UnknownFeature`, and `CorruptArtefact` for a row that is not of finite numbers.
        """
        rows = {site: self._rows(W_dec, index).float() for site, W_dec in self.W_dec.items()}
        for site, found in rows.items():
            if not all_finite(found):
                bad = torch.as_tensor(index)[(~found.isfinite().all(1)).cpu()][0].item()
                raise CorruptArtefact(
                    f"What feature {bad} of part {self.name} writes to {site} holds NaN or infinity: the file is "
                    "damaged. Download or copy it again."
                )
        return rows

    def skip(self, x: Mapping[Site, Float[Tensor, "*rows _"]]) -> Float[Tensor, "*rows d_out"] | None:
        """`W_skip x`, the part of the first written site that is linear in the input; None without one."""
        if self.W_skip is None:
            return None
        wide = _wide(x[self.reads[0]])
        return wide @ self.W_skip.to(wide).T

    def write(
        self,
        row: Int[Tensor, " active"],
        index: Int[Tensor, " active"],
        value: Float[Tensor, " active"],
        x: Mapping[Site, Float[Tensor, "row _"]],
    ) -> dict[Site, Float[Tensor, "row _"]]:
        """What the part adds at each site that it writes: `W_decᵀ a + b_dec + W_skip x`, normalised sites restored.

        The active features come as (row, index, value), sorted by row; decoders of silent ones are not read.
        """
        like = _wide(x[self.reads[0]])
        n_rows = like.shape[0]
        used, which = index.unique(return_inverse=True)
        # Where each row's features start in the list: the bags of an embedding bag.
        counts = torch.bincount(row, minlength=n_rows)
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        written = {}
        for site, rows in self.decoder_rows(used).items():
            total = like.new_zeros(n_rows, rows.shape[1])
            if len(used):
                total = embedding_bag(
                    which, rows.to(like), offsets, mode="sum", include_last_offset=True,
                    per_sample_weights=self._strength(site, index, value.to(like)),
                )  # (row, d_out): Σ_f a_f W_dec[f]  # fmt: skip
            bias = self.b_dec.get(site)
            total = total if bias is None else total + bias.to(like)
            seen = self.seen(site, x)
            written[site] = total if seen is None else seen.restore(total)
        skip = self.skip(x)
        if skip is not None:
            written[self.writes[0]] = written[self.writes[0]] + skip
        return written

    def _strength(self, site: Site, index: Tensor, value: Tensor) -> Tensor:
        """What multiplies the decoders of active features at a site."""
        return value + self._rows(self.offset[site], index).to(value) if site in self.offset else value

    def _rows(self, weight: Tensor, index: Tensor) -> Tensor:
        """Some features' rows of a weight, taken where it lies: decoders may stay on disk while encoders do not."""
        index = torch.as_tensor(index)
        if index.numel() and not (0 <= int(index.min()) and int(index.max()) < self.n_features):
            bad = index[(index < 0) | (index >= self.n_features)][0].item()
            raise UnknownFeature(
                f"Part {self.name} has features 0 to {self.n_features - 1}; got feature {bad}."
            )
        return weight[index.to(weight.device)]


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Features of a model in parts, and what they write: at a site, the sum over the parts that write there.

    Raises `DictionaryMismatch` for parts that do not fit together.
    """

    name: str
    scan: str
    """The name under which viewers find its features."""
    model_name: str
    parts: tuple[Part, ...]
    skip_first: bool = True
    """No feature counts as active at a text's first position, where the residual stream of most models is huge and
    the same for every text. What is written there is the error's."""
    card: Card = field(default_factory=Card)

    def __post_init__(self) -> None:
        check_parts(self)

    @property
    def reads(self) -> tuple[Site, ...]:
        """Every site that a part reads, in the order of the parts."""
        return tuple(dict.fromkeys(site for part in self.parts for site in part.reads))

    @property
    def writes(self) -> tuple[Site, ...]:
        """Every site that a part writes, in the order of the parts."""
        return tuple(dict.fromkeys(site for part in self.parts for site in part.writes))

    @property
    def sites(self) -> tuple[Site, ...]:
        """What `capture` must deliver for `encode`: every site read, then every site written."""
        return tuple(dict.fromkeys(self.reads + self.writes))

    @property
    def n_features(self) -> int:
        """Features of all parts together."""
        return sum(part.n_features for part in self.parts)

    @property
    def has_skip(self) -> bool:
        return any(part.W_skip is not None for part in self.parts)

    @property
    def kind(self) -> str:
        """What the literature calls it, by what its parts read and write."""
        kinds = {_kind(part) for part in self.parts}
        if kinds <= {"transcoder", "cross-layer transcoder"} and "cross-layer transcoder" in kinds:
            return "cross-layer transcoder"
        if kinds == {"transcoder"}:
            return "skip transcoders" if self.has_skip else "per-layer transcoders"
        return kinds.pop() if len(kinds) == 1 else "mixed dictionary"

    def number(self, part: str) -> int:
        """Where the part of that name stands. Raises `UnknownFeature` naming those that there are."""
        names = [each.name for each in self.parts]
        if part not in names:
            raise UnknownFeature(describe_choices(part, names, what=f"part of dictionary {self.name}"))
        return names.index(part)

    def part(self, name: str) -> Part:
        """The part of that name. Raises `UnknownFeature` naming those that there are."""
        return self.parts[self.number(name)]

    def check_feature(self, part: str, index: int) -> None:
        """Raises `UnknownFeature`, with what there is, for a feature that the dictionary lacks."""
        found = self.part(part)
        if not 0 <= index < found.n_features:
            raise UnknownFeature(
                f"There is no feature {index} in part {part} of {self.name}: it has features 0 to "
                f"{found.n_features - 1}."
            )


def check_parts(dictionary: Dictionary) -> None:
    """Raises `DictionaryMismatch` unless names, sites and shapes agree with one another."""
    names = [part.name for part in dictionary.parts]
    if not names or len(set(names)) != len(names):
        raise DictionaryMismatch(f"Dictionary {dictionary.name} needs parts of different names; got {names}.")
    widths: dict[Site, int] = {}
    for part in dictionary.parts:
        _check_part(part, dictionary.name)
        for site, weight in [*part.W_enc.items(), *part.W_dec.items()]:
            width = widths.setdefault(site, weight.shape[1])
            if weight.shape[1] != width:
                raise DictionaryMismatch(
                    f"Part {part.name} of dictionary {dictionary.name} takes {site} to be {weight.shape[1]} wide, "
                    f"another part or side {width}."
                )


def _check_part(part: Part, dictionary: str) -> None:
    where = f"part {part.name} of dictionary {dictionary}"
    if not part.name or "/" in part.name or not part.W_enc or not part.W_dec:
        raise DictionaryMismatch(
            f"A part has a name without a slash and reads and writes at least one site; got {where}, which reads "
            f"{len(part.W_enc)} and writes {len(part.W_dec)}."
        )
    _check_ranks(part, where)
    shapes = {f"W_enc[{site}]": (weight.shape[0], part.n_features) for site, weight in part.W_enc.items()}
    shapes |= {f"W_dec[{site}]": (weight.shape[0], part.n_features) for site, weight in part.W_dec.items()}
    shapes |= {
        f"b_dec[{site}]": (bias.shape[0], part.W_dec[site].shape[1] if site in part.W_dec else 0)
        for site, bias in part.b_dec.items()
    }
    shapes |= {
        f"offset[{site}]": (offset.shape[0], part.n_features if site in part.W_dec else 0)
        for site, offset in part.offset.items()
    }
    if part.threshold is not None:
        shapes["threshold"] = (part.threshold.shape[0], part.n_features)
    if part.W_skip is not None:
        shapes["W_skip (out)"] = (part.W_skip.shape[0], part.W_dec[part.writes[0]].shape[1])
        shapes["W_skip (in)"] = (part.W_skip.shape[1], part.W_enc[part.reads[0]].shape[1])
    for name, (got, wanted) in shapes.items():
        if got != wanted:
            raise DictionaryMismatch(f"{name} in {where} has size {got}, expected {wanted}.")
    if part.W_skip is not None and len(part.reads) > 1:
        raise DictionaryMismatch(f"A skip connection starts at one site; {where} reads {len(part.reads)}.")
    if (part.threshold is not None) != (part.activation.kind == "jumprelu"):
        state = "lacks" if part.threshold is None else "has"
        raise DictionaryMismatch(
            f"{where.capitalize()} {state} thresholds, but its activation is {part.activation.kind}."
        )
    if part.normalise not in (None, *get_args(Normalise)):
        raise DictionaryMismatch(
            describe_choices(str(part.normalise), get_args(Normalise), what="normalisation")
        )
    if part.activation.kind == "groupmax" and part.n_features % (part.activation.k or 1):
        raise DictionaryMismatch(
            f"{where.capitalize()} has {part.n_features} features, which are not {part.activation.k} equal groups."
        )
    if part.threshold is not None and not bool((part.threshold >= 0).all()):
        raise DictionaryMismatch(f"{where.capitalize()} has JumpReLU thresholds below 0 or not a number.")


def _check_ranks(part: Part, where: str) -> None:
    named: list[tuple[str, Tensor | None, int]] = [
        *((f"W_enc[{site}]", weight, 2) for site, weight in part.W_enc.items()),
        *((f"W_dec[{site}]", weight, 2) for site, weight in part.W_dec.items()),
        *((f"b_dec[{site}]", bias, 1) for site, bias in part.b_dec.items()),
        *((f"offset[{site}]", offset, 1) for site, offset in part.offset.items()),
        *(("b_enc", part.b_enc, 1), ("threshold", part.threshold, 1), ("W_skip", part.W_skip, 2)),
    ]
    for name, weight, rank in named:
        if weight is not None and not (weight.ndim == rank and weight.is_floating_point()):
            raise DictionaryMismatch(
                f"{name} in {where} has shape {tuple(weight.shape)} and type {weight.dtype}, expected {rank} axes of "
                "floating-point numbers."
            )


def check_finite(dictionary: Dictionary, *, encoders: bool) -> None:
    """Raises `CorruptArtefact`, with the place, for weights that are not finite numbers.

    All of them up to `SCANNED` bytes. Beyond it those that are used whole, and the encoders only if they are about to
    be read whole anyway; decoders stay on disk then, and their rows are checked as they are read.
    """
    everything = [_weights_of(part, encoders=True, decoders=True) for part in dictionary.parts]
    small = sum(W.numel() * W.element_size() for weights in everything for W in weights.values()) <= SCANNED
    for part in dictionary.parts:
        for name, weight in _weights_of(part, encoders=encoders or small, decoders=small).items():
            if not all_finite(weight):
                raise CorruptArtefact(
                    f"{name} in part {part.name} of dictionary {dictionary.name} holds NaN or infinity: the file is "
                    "damaged. Download or copy it again."
                )


def _weights_of(part: Part, *, encoders: bool, decoders: bool) -> dict[str, Tensor]:
    named = {"b_enc": part.b_enc, "threshold": part.threshold, "W_skip": part.W_skip}
    found = {name: weight for name, weight in named.items() if weight is not None}
    found |= {f"b_dec[{site}]": bias for site, bias in part.b_dec.items()}
    found |= {f"offset[{site}]": offset for site, offset in part.offset.items()}
    found |= {f"W_enc[{site}]": weight for site, weight in part.W_enc.items()} if encoders else {}
    return found | ({f"W_dec[{site}]": weight for site, weight in part.W_dec.items()} if decoders else {})


def check_fits(dictionary: Dictionary, model: Model) -> None:
    """Raises `DictionaryMismatch` unless the model has every site of the dictionary, in the dictionary's width."""
    for part in dictionary.parts:
        for site, weight in [*part.W_enc.items(), *part.W_dec.items()]:
            try:
                width = model.width(site)
            except UnknownSite as error:
                raise DictionaryMismatch(
                    f"Dictionary {dictionary.name} uses the site {site}, which {model.name} does not offer: {error}"
                ) from None
            if weight.shape[1] != width:
                raise DictionaryMismatch(
                    f"Dictionary {dictionary.name} takes {site} to be {weight.shape[1]} wide, but in {model.name} "
                    f"it is {width}: a dictionary of another model?"
                )


def resident(
    dictionary: Dictionary,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    decoders: bool = False,
) -> Dictionary:
    """The same dictionary with encoders (and decoders, if asked for) in memory on `device`, ready for many batches."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, dtype)
        return (
            {site: moved(weight) for site, weight in value.items()} if isinstance(value, Mapping) else value
        )

    def load(part: Part) -> Part:
        kept = () if decoders else ("W_dec",)
        return replace(
            part, **{f.name: moved(getattr(part, f.name)) for f in fields(part) if f.name not in kept}
        )

    return replace(dictionary, parts=tuple(load(part) for part in dictionary.parts))


def _affine(
    W_enc: Mapping[Site, Float[Tensor, "some _"]],
    b_enc: Float[Tensor, " some"],
    x: Mapping[Site, Float[Tensor, "*rows _"]],
) -> Float[Tensor, "*rows some"]:
    """`Σ_r W_enc[r] x_r + b_enc`, in float32 or wider."""
    total = None
    for site, weight in W_enc.items():
        here = _wide(x[site])
        added = linear(here, weight.to(here), b_enc.to(here) if total is None else None)  # (*rows, some)
        total = added if total is None else total + added
    assert total is not None
    return total


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _kind(part: Part) -> str:
    if part.reads == part.writes:
        return "sparse autoencoder" if len(part.reads) == 1 else "crosscoder"
    reads, writes = ({site.row.attribution for site in sites} for sites in (part.reads, part.writes))
    if len(part.reads) == 1 and reads == {"read"} and writes == {"write"}:
        return "transcoder" if len(part.writes) == 1 else "cross-layer transcoder"
    return "dictionary"
