"""Our own layout: an artefact of kind "dictionary", with one file for each part's encoder and one for its decoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.core.store import Artefact, is_artefact, load_artefact, save_artefact
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.card import Card, SelfTest
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.formats.base import FORMATS, Format
from thoughtscope.dictionaries.formats.rows import from_rows, to_rows
from thoughtscope.dictionaries.transcoders import LayerWeights, transcoders

KIND = "dictionary"
_NAMES = ("name", "scan", "model_name", "skip_first")
_PLAIN = ("b_enc", "threshold", "W_skip")
_SCALE = ".scale"


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return is_artefact(folder, kind=KIND)


def load(folder: Path) -> Dictionary:
    """Opens a dictionary; weights stay on disk until they are used. Raises `CorruptArtefact` naming the file."""
    artefact = load_artefact(folder, kind=KIND)
    try:
        return _by_parts(artefact) if "parts" in artefact.meta else _by_layers(artefact)
    except ThoughtscopeError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise CorruptArtefact(f"{folder} is a dictionary with an unreadable manifest: {error!r}.") from None


def _by_parts(artefact: Artefact) -> Dictionary:
    meta = artefact.meta
    parts = []
    for number, about in enumerate(meta["parts"]):
        stored = _restored({**artefact.tensors(f"encoder_{number}"), **artefact.tensors(f"decoder_{number}")})
        W_enc, W_dec, b_dec, offset = (
            {Site.parse(site): stored[f"{name}.{site}"] for site in about.get(sites, ())}
            for name, sites in (
                ("W_enc", "reads"),
                ("W_dec", "writes"),
                ("b_dec", "biased"),
                ("offset", "offset"),
            )
        )
        parts.append(
            Part(
                name=about["name"],
                activation=Activation(**about["activation"]),
                W_enc=W_enc,
                b_enc=stored["b_enc"],
                W_dec=W_dec,
                b_dec=b_dec,
                threshold=stored.get("threshold"),
                W_skip=stored.get("W_skip"),
                normalise=about.get("normalise"),
                offset=offset,
            )
        )
    return Dictionary(
        **{name: meta[name] for name in _NAMES}, parts=tuple(parts), card=_card(meta, "self_test")
    )


def _restored(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, those in eight bits as float32."""
    scales = {name: tensor for name, tensor in stored.items() if name.endswith(_SCALE)}
    return {
        name: from_rows(tensor, scales[name + _SCALE]) if name + _SCALE in scales else tensor
        for name, tensor in stored.items()
        if name not in scales
    }


def _by_layers(artefact: Artefact) -> Dictionary:
    """The layout before there were parts: one transcoder a layer, its decoders in one tensor."""
    meta = artefact.meta
    layers = []
    for number in range(meta["n_layers"]):
        encoder, decoder = artefact.tensors(f"encoder_{number}"), artefact.tensors(f"decoder_{number}")
        layers.append(LayerWeights(decoder=decoder["decoder"], **dict(encoder.items())))
    return transcoders(
        **{name: meta[name] for name in _NAMES},
        read=Site.parse(meta["reads"][0]).kind,
        write=Site.parse(meta["writes"][0]).kind,
        activation=Activation(**meta["activation"]),
        layers=layers,
        card=_card(meta, "probe"),
    )


def _card(meta: Mapping[str, Any], key: str) -> Card:
    stored, declared = meta[key], meta["declared"]
    if not isinstance(declared, dict) or not all(type(value) in (int, float) for value in declared.values()):
        raise TypeError(f"declared scores are numbers by name; got {declared!r:.60}")
    if not all(isinstance(meta[name], str) for name in ("name", "scan", "model_name")):
        raise TypeError("name, scan and model_name are texts")
    return Card(declared=meta["declared"], self_test=None if stored is None else SelfTest.from_json(stored))


def save(dictionary: Dictionary, folder: Path, *, int8: bool = False) -> None:
    """Writes the artefact; each tensor keeps its type, or matrices become whole numbers with a scale a row."""
    meta: dict[str, Any] = {name: getattr(dictionary, name) for name in _NAMES}
    own = dictionary.card.self_test
    meta |= {
        "parts": [
            {
                "name": part.name,
                "reads": [str(site) for site in part.reads],
                "writes": [str(site) for site in part.writes],
                "biased": [str(site) for site in part.b_dec],
                "activation": vars(part.activation),
                **({"normalise": part.normalise} if part.normalise else {}),
                **({"offset": [str(site) for site in part.offset]} if part.offset else {}),
            }
            for part in dictionary.parts
        ],
        "declared": dict(dictionary.card.declared),
        "self_test": None if own is None else own.to_json(),
    }
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for number, part in enumerate(dictionary.parts):
        given = {name: getattr(part, name) for name in _PLAIN if getattr(part, name) is not None}
        given |= {f"W_enc.{site}": weight for site, weight in part.W_enc.items()}
        given |= {f"b_dec.{site}": bias for site, bias in part.b_dec.items()}
        given |= {f"offset.{site}": offset for site, offset in part.offset.items()}
        decoders = {f"W_dec.{site}": weight for site, weight in part.W_dec.items()}
        tensors[f"encoder_{number}"] = _in_rows(given) if int8 else given
        tensors[f"decoder_{number}"] = _in_rows(decoders) if int8 else decoders
    save_artefact(folder, kind=KIND, tensors=tensors, meta=meta)


def _in_rows(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as whole numbers and scales, the rest as it is."""
    found: dict[str, Tensor] = {}
    for name, tensor in given.items():
        found |= (
            dict(zip((name, name + _SCALE), to_rows(tensor), strict=True))
            if tensor.ndim == 2
            else {name: tensor}
        )
    return found


FORMATS.register("native")(Format(matches=matches, load=load, save=save))
