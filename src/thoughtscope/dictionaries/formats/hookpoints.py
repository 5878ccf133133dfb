"""What the weights of sparsify and clt-training compute, hookpoint by hookpoint and across them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact
from thoughtscope.core.site import Site
from thoughtscope.core.tensors import TensorFile
from thoughtscope.dictionaries.activation import Activation, Kind
from thoughtscope.dictionaries.dictionary import Part
from thoughtscope.dictionaries.formats.base import expect_tensors
from thoughtscope.dictionaries.formats.folding import Coder, centred, rescaled
from thoughtscope.dictionaries.formats.names import site_of_module

_ACTIVATIONS: dict[str, Kind] = {"topk": "topk", "groupmax": "groupmax"}
MAX_NUMBER, MAX_TARGETS = 2**24, 512
_PER_TARGET = ("W_decs", "b_decs", "W_skips", "post_encs", "post_enc_scales")
_COALESCED = ("none", "concat", "per-layer")


@dataclass(frozen=True)
class Hookpoint:
    """One folder: the module, the configuration, the tensors."""

    module: str
    config: Mapping[str, Any]
    file: TensorFile
    path: Path
    """Of the configuration, for messages."""

    def flag(self, key: str) -> bool:
        value = self.config.get(key, False)
        if not isinstance(value, bool):
            raise CorruptArtefact(f"{self.path}: {key} is true or false; got {value!r:.40}.")
        return value

    def number(self, key: str, default: int) -> int:
        value = self.config.get(key, default)
        if type(value) is not int or not 0 <= value <= MAX_NUMBER:
            raise CorruptArtefact(
                f"{self.path}: {key} is a whole number from 0 to {MAX_NUMBER}; got {value!r:.40}."
            )
        return value

    @property
    def n_targets(self) -> int:
        found = self.number("n_targets", 0) if self.flag("transcode") else 0
        if found > MAX_TARGETS:
            raise CorruptArtefact(f"{self.path}: n_targets is {MAX_TARGETS} at most; got {found}.")
        return found

    @property
    def coalesce(self) -> str:
        return str(self.config.get("coalesce_topk", "none"))

    def of_target(self, name: str, target: int) -> Tensor | None:
        """A tensor for the `target`-th hookpoint from this one on, or the one for all; None where there is none."""
        for key in (f"{name}s.{target}", name):
            if key in self.file:
                return self.file[key]
        return None


def parts_of(points: Sequence[Hookpoint]) -> list[Part]:
    """A part for each hookpoint, in their order; one with several targets writes to those that follow it.

    Raises `CorruptArtefact` naming the file for what no part computes.
    """
    for point in points:
        _check(point)
    crossing = any(point.n_targets > 1 for point in points)
    modules = [point.module for point in points]
    if crossing and len(set(modules)) < len(modules):
        raise CorruptArtefact(
            f"{points[0].path.parent.parent} holds several seeds of a cross-layer transcoder. Give the folder of one."
        )
    return [
        _crossing(points, number) if point.n_targets else _single(point)
        for number, point in enumerate(points)
    ]


def _check(point: Hookpoint) -> None:
    """Raises `CorruptArtefact` for configurations and tensors that mean something that a part is not."""
    activation = point.config.get("activation", "topk")
    wrong = [
        f'activation "{activation!s:.40}" depends on the batch or is not known'
        if activation not in _ACTIVATIONS
        else "",
        f'coalesce_topk "{point.coalesce:.40}" is not {", ".join(_COALESCED)}'
        if point.coalesce not in _COALESCED
        else "",
        "features of several layers compete (topk_coalesced)" if point.flag("topk_coalesced") else "",
        "what is decoded is decoded a second time (secondary_target_tied)"
        if point.flag("secondary_target_tied")
        else "",
    ]
    for reason in filter(None, wrong):
        raise CorruptArtefact(f"{point.path} cannot be read here: {reason}.")
    several = {
        f"{name}.{number}": 2 if name.startswith("W_") else 1
        for name in _PER_TARGET
        for number in range(point.n_targets)
    }
    expect_tensors(
        point.file.path,
        point.file,
        {"encoder.weight": 2, "encoder.bias": 1},
        {
            "W_dec": 2,
            "b_dec": 1,
            "W_skip": 2,
            "post_enc": 1,
            "post_enc_scale": 1,
            "in_norm": 1,
            "out_norm": 1,
            **several,
        },
    )
    for target in range(max(1, point.n_targets)):
        for name in ("W_dec", "b_dec"):
            if point.of_target(name, target) is None:
                raise CorruptArtefact(f"{point.file.path} lacks {name}.")
    if point.flag("normalize_io") and not {"in_norm", "out_norm"} <= set(point.file):
        raise CorruptArtefact(f"{point.file.path} lacks in_norm or out_norm.")


def _activation(point: Hookpoint) -> Activation:
    k = point.number("k", 32)
    if k < 1:
        raise CorruptArtefact(f"{point.path}: k is 1 or more; got {k}.")
    return Activation(kind=_ACTIVATIONS[point.config.get("activation", "topk")], k=k)


def _sites(point: Hookpoint) -> tuple[Site, Site]:
    write = site_of_module(point.module, output=True, path=point.path)
    transcode = point.flag("transcode")
    return (site_of_module(point.module, output=False, path=point.path) if transcode else write), write


def _norms(point: Hookpoint) -> tuple[float, float]:
    """What inputs are multiplied by, and what outputs are."""
    if not point.flag("normalize_io"):
        return 1.0, 1.0
    width = math.sqrt(point.file["encoder.weight"].shape[1])
    into, out = float(point.file["in_norm"][0]), float(point.file["out_norm"][0])
    if not into > 0:
        raise CorruptArtefact(f"{point.file.path}: in_norm is a number over 0; got {into}.")
    return width / into, out / width


def _single(point: Hookpoint) -> Part:
    """An autoencoder, or a transcoder that writes what its own module gives."""
    read, write = _sites(point)
    W_dec, b_dec = point.of_target("W_dec", 0), point.of_target("b_dec", 0)
    assert W_dec is not None and b_dec is not None
    coder = Coder(
        activation=_activation(point),
        W_enc=point.file["encoder.weight"],
        b_enc=point.file["encoder.bias"],
        W_dec=W_dec,
        b_dec=b_dec,
        W_skip=point.of_target("W_skip", 0),
    )
    if not point.flag("transcode"):
        coder = centred(coder, b_dec)
    factor_in, factor_out = _norms(point)
    if (factor_in, factor_out) != (1.0, 1.0):
        coder = rescaled(coder, read=factor_in, write=factor_out)
    part = coder.part(point.module, read, write)
    return _with_post_encoder(part, point, {write: 0})


def _crossing(points: Sequence[Hookpoint], source: int) -> Part:
    """A source of a cross-layer transcoder: what it reads, and its decoders to this and the following hookpoints."""
    point = points[source]
    if source + point.n_targets > len(points):
        raise CorruptArtefact(
            f"{point.path} has {point.n_targets} targets, and only {len(points) - source} hookpoints are here from "
            "there on. Give the folder of the whole run."
        )
    read, _ = _sites(point)
    into, _ = _norms(point)
    W_enc = point.file["encoder.weight"]
    writes = {_sites(points[source + target])[1]: target for target in range(point.n_targets)}
    W_dec, b_dec = {}, {}
    for site, target in writes.items():
        W_dec[site], bias = _decoder(points, source, target)
        if bias is not None:
            b_dec[site] = bias
    for target in range(1, point.n_targets):
        skip = point.of_target("W_skip", target) if f"W_skips.{target}" in point.file else None
        if skip is not None and bool(skip.any()):
            raise CorruptArtefact(
                f"{point.file.path}: W_skips.{target} skips to a later layer, which no part does."
            )
    skip = point.of_target("W_skip", 0)
    if skip is not None:
        skip = skip if _norms(point) == (1.0, 1.0) else skip.float() * (into * _norms(point)[1])
    part = Part(
        name=point.module,
        activation=_activation(point),
        W_enc={read: W_enc if into == 1 else W_enc.float() * into},
        b_enc=point.file["encoder.bias"],
        W_dec=W_dec,
        b_dec=b_dec,
        W_skip=skip,
    )
    return _with_post_encoder(part, point, writes)


def _decoder(points: Sequence[Hookpoint], source: int, target: int) -> tuple[Tensor, Tensor | None]:
    """The decoder from a source to its `target`-th hookpoint, and the constant that comes with it."""
    point, goal = points[source], points[source + target]
    n = point.file["encoder.weight"].shape[0]
    writing = [each for each in range(source + target + 1) if each + points[each].n_targets > source + target]
    bias: Tensor | None
    if point.coalesce == "none":
        weight, bias = point.of_target("W_dec", target), point.of_target("b_dec", target)
    else:
        # The target decodes what all sources give it, with decoders of its own: the same for all, or one each.
        weight, bias = goal.of_target("W_dec", 0), goal.of_target("b_dec", 0) if target == 0 else None
        if point.coalesce == "per-layer" and weight is not None:
            place = writing.index(source)
            weight = weight[place * n : (place + 1) * n]
    if weight is None or weight.shape[0] != n:
        raise CorruptArtefact(f"{goal.file.path} has no decoder of {n} features for {point.module}.")
    factor = _norms(goal)[1]
    if point.coalesce == "none" and goal.flag("divide_cross_layer") and target > 0:
        factor /= max(1, len(writing) - 1)
    if factor == 1:
        return weight, bias
    return weight.float() * factor, None if bias is None else bias.float() * factor


def _with_post_encoder(part: Part, point: Hookpoint, writes: Mapping[Site, int]) -> Part:
    """With what is added to active features, and what they are multiplied by, on their way to each target."""
    offset, W_dec = {}, dict(part.W_dec)
    for site, target in writes.items():
        added = point.of_target("post_enc", target)
        scale = point.of_target("post_enc_scale", target) if point.flag("post_encoder_scale") else None
        if added is not None and bool(added.any()):
            offset[site] = added
        if scale is not None and not bool((scale == 1).all()):
            W_dec[site] = W_dec[site].float() * scale.float()[:, None]
    return replace(part, W_dec=W_dec, offset=offset)
