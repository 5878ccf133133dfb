"""`Dictionary`: encoders at the sites it reads, decoders at the sites it writes. One type for per-layer transcoders,
skip transcoders and cross-layer transcoders; which one is said by flags and shapes, not by class.

The weights of a loaded dictionary are memory-mapped tensors: a page is read from disk when a row on it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch, UnknownFeature, UnknownSite
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.activation import Activation

if TYPE_CHECKING:
    from thoughtscope.models import Model


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """What a dictionary knows about one layer. Stored in any floating type, in memory or memory-mapped."""

    W_enc: Float[Tensor, "feature d_in"]
    b_enc: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature target d_out"]
    """Target 0 is this layer's own write site; a cross-layer decoder goes on to the last layer's."""
    b_dec: Float[Tensor, " d_out"]
    threshold: Float[Tensor, " feature"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    """Adds `W_skip @ input` to this layer's own write site."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A few documents, and what the dictionary does on them when all is right: a load can be checked against it."""

    documents: tuple[str, ...] | tuple[tuple[int, ...], ...]
    """Texts, or token ids for a model without a tokenizer."""
    context: int
    fvu: tuple[float, ...]
    l0: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """Features of a model, by layer, and what they write.

        a_l = activation(W_enc_l x_l + b_enc_l)
        y_t = b_dec_t + W_skip_t x_t + Σ_{l≤t} W_dec_{l→t} a_l

    A per-layer dictionary has only the term l = t. Source: Dunefsky et al. 2024 (transcoders), Paulo et al. 2025
    (skip), Ameisen et al. 2025 (cross-layer). Raises `DictionaryMismatch` for layers that do not fit together.
    """

    name: str
    scan: str
    model_name: str
    cross_layer: bool
    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    activation: Activation
    layers: tuple[LayerWeights, ...]
    skip_first: bool = True
    """No feature counts as active at a text's first position, where the residual stream of most models is huge and
    the same for every text. What is written there is the error's."""
    declared: Mapping[str, float] = field(default_factory=dict)
    """Scores as published, or as measured at training: "fvu", "l0", …"""
    probe: Probe | None = None
    foreign: Mapping[str, Any] = field(default_factory=dict)
    """What a published format carries beyond the above; kept so that it can be written back unchanged."""
    folder: Path | None = None
    """Where it was loaded from, if it was."""

    def __post_init__(self) -> None:
        check_layers(self)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_features(self) -> int:
        """Features of each layer."""
        return self.layers[0].W_enc.shape[0]

    @property
    def d_model(self) -> int:
        return self.layers[0].b_dec.shape[0]

    @property
    def has_skip(self) -> bool:
        return any(weights.W_skip is not None for weights in self.layers)

    @property
    def sites(self) -> tuple[Site, ...]:
        """What `capture` must deliver for `encode`: every site read, then every site written."""
        return tuple(dict.fromkeys(self.reads + self.writes))

    def targets(self, layer: int) -> range:
        """The layers that features of `layer` write to."""
        return range(layer, self.n_layers if self.cross_layer else layer + 1)

    def preactivations(self, layer: int, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows feature"]:
        """`W_enc x + b_enc`, in float32 or wider."""
        weights = self.layers[self._layer(layer)]
        dtype = torch.promote_types(x.dtype, torch.float32)
        W_enc, b_enc = (w.to(x.device, dtype) for w in (weights.W_enc, weights.b_enc))
        return torch.nn.functional.linear(x.to(dtype), W_enc, b_enc)

    def activations(self, layer: int, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows feature"]:
        """The features of one layer for what its encoder reads; dense, in float32 or wider."""
        pre = self.preactivations(layer, x)
        threshold = self.layers[layer].threshold
        return self.activation.apply(pre, None if threshold is None else threshold.to(pre.device, pre.dtype))

    def encoder_rows(self, layer: int, index: Int[Tensor, " active"]) -> Float[Tensor, "active d_in"]:
        """The encoders of some features of a layer, in float32. Raises `UnknownFeature`."""
        return self._rows(layer, index, "W_enc").float()

    def encoder_bias(self, layer: int, index: Int[Tensor, " active"]) -> Float[Tensor, " active"]:
        """The encoder biases of some features of a layer, in float32. Raises `UnknownFeature`."""
        return self._rows(layer, index, "b_enc").float()

    def decoder_rows(self, layer: int, index: Int[Tensor, " active"]) -> Float[Tensor, "active target d_out"]:
        """The decoders of some features to each of `targets(layer)`, in float32; no other row is read from disk.

        Raises `UnknownFeature`.
        """
        return self._rows(layer, index, "decoder").float()

    def bias(self, layer: int) -> Float[Tensor, " d_out"]:
        """What is written at `layer` whatever the input, in float32."""
        return self.layers[self._layer(layer)].b_dec.float()

    def skip(self, layer: int, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"] | None:
        """The part of layer's output that is linear in its input, if the dictionary has one."""
        W_skip = self.layers[self._layer(layer)].W_skip
        dtype = torch.promote_types(x.dtype, torch.float32)
        return None if W_skip is None else x.to(dtype) @ W_skip.to(x.device, dtype).T

    def _layer(self, layer: int) -> int:
        if not 0 <= layer < self.n_layers:
            raise UnknownFeature(
                f"Dictionary {self.name} has layers 0 to {self.n_layers - 1}; got layer {layer}."
            )
        return layer

    def _rows(self, layer: int, index: Tensor, name: str) -> Tensor:
        """Some features' rows of one weight, taken where it lies: decoders may stay on disk while encoders do not."""
        weight: Tensor = getattr(self.layers[self._layer(layer)], name)
        index = torch.as_tensor(index)
        if index.numel() and not (0 <= int(index.min()) and int(index.max()) < self.n_features):
            bad = index[(index < 0) | (index >= self.n_features)][0].item()
            raise UnknownFeature(
                f"Layer {layer} of dictionary {self.name} has features 0 to {self.n_features - 1}; got {bad}."
            )
        return weight[index.to(weight.device)]


def check_layers(dictionary: Dictionary) -> None:
    """Raises `DictionaryMismatch` unless sites, layers and shapes agree with one another."""
    d, layers = dictionary, dictionary.layers
    if not layers or not len(layers) == len(d.reads) == len(d.writes):
        raise DictionaryMismatch(
            f"Dictionary {d.name} has {len(layers)} layers of weights, reads {len(d.reads)} sites and writes "
            f"{len(d.writes)}; it needs one of each per layer."
        )
    features, d_in = layers[0].W_enc.shape
    d_out = layers[0].b_dec.shape[0]
    for number, weights in enumerate(layers):
        n_targets = len(d.targets(number))
        expected = {
            "W_enc": (features, d_in), "b_enc": (features,), "b_dec": (d_out,), "threshold": (features,),
            "decoder": (features, n_targets, d_out), "W_skip": (d_out, d_in),
        }  # fmt: skip
        for name, shape in expected.items():
            tensor = getattr(weights, name)
            if tensor is not None and tuple(tensor.shape) != shape:
                raise DictionaryMismatch(
                    f"{name} of layer {number} in dictionary {d.name} has shape {tuple(tensor.shape)}, expected "
                    f"{shape}; all layers need the same number of features and the same width."
                )
        if (weights.threshold is not None) != (d.activation.kind == "jumprelu"):
            state = "lacks" if weights.threshold is None else "has"
            raise DictionaryMismatch(
                f"Layer {number} of {d.name} {state} thresholds, but its activation is {d.activation.kind}."
            )
        if weights.threshold is not None and not bool((weights.threshold >= 0).all()):
            raise DictionaryMismatch(
                f"Layer {number} of {d.name} has JumpReLU thresholds below 0 or not a number."
            )


def check_fits(dictionary: Dictionary, model: Model) -> None:
    """Raises `DictionaryMismatch` unless the dictionary's layers, width and sites are the model's."""
    d = dictionary
    if d.n_layers != model.n_layers:
        raise DictionaryMismatch(
            f"Dictionary {d.name} has {d.n_layers} layers, but {model.name} has {model.n_layers}."
        )
    for width in (d.layers[0].W_enc.shape[1], d.d_model):
        if width != model.d_model:
            raise DictionaryMismatch(
                f"Dictionary {d.name} is for a residual width of {width}, but {model.name} has {model.d_model}."
            )
    for site in d.sites:
        if site.layer is None or site.layer >= model.n_layers:
            raise DictionaryMismatch(
                f"Dictionary {d.name} uses the site {site}, which {model.name} does not have."
            )
        if site.kind in model.family.missing:
            raise DictionaryMismatch(
                f"Dictionary {d.name} uses the site {site}, which {model.name} lacks: {model.family.missing[site.kind]}"
            )


def resident(
    dictionary: Dictionary,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    decoders: bool = False,
) -> Dictionary:
    """The same dictionary with encoders (and decoders, if asked for) in memory on `device`, ready for many batches."""

    def load(weights: LayerWeights) -> LayerWeights:
        moved: dict[str, Any] = {
            name: tensor
            if tensor is None or (name == "decoder" and not decoders)
            else tensor.to(device, dtype)
            for name, tensor in vars(weights).items()
        }
        return LayerWeights(**moved)

    layers = tuple(load(weights) for weights in dictionary.layers)
    return replace(dictionary, layers=layers)


def parse_sites(kind: str, n_layers: int) -> tuple[Site, ...]:
    """One site of a kind per layer. Raises `UnknownSite`."""
    sites = tuple(Site(kind, layer) for layer in range(n_layers))
    if any(site.layer is None for site in sites):
        raise UnknownSite(f'"{kind}" is not a site of a block.')
    return sites
