"""Our own layout: an artefact of kind "dictionary", with one file for each layer's encoder and one for its decoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.core.store import is_artefact, load_artefact, save_artefact
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.dictionary import Dictionary, LayerWeights, Probe
from thoughtscope.dictionaries.formats.base import FORMATS, Format

KIND = "dictionary"
_PLAIN = ("name", "scan", "model_name", "cross_layer", "skip_first")


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return is_artefact(folder, kind=KIND)


def load(folder: Path) -> Dictionary:
    """Opens a dictionary; weights stay on disk until they are used. Raises `CorruptArtefact` naming the file."""
    artefact = load_artefact(folder, kind=KIND)
    meta = artefact.meta
    try:
        layers = []
        for number in range(meta["n_layers"]):
            encoder, decoder = artefact.tensors(f"encoder_{number}"), artefact.tensors(f"decoder_{number}")
            layers.append(LayerWeights(decoder=decoder["decoder"], **dict(encoder.items())))
        return Dictionary(
            **{name: meta[name] for name in _PLAIN},
            reads=tuple(Site.parse(site) for site in meta["reads"]),
            writes=tuple(Site.parse(site) for site in meta["writes"]),
            activation=Activation(**meta["activation"]),
            layers=tuple(layers),
            declared=meta["declared"],
            probe=_probe(meta["probe"]),
        )
    except ThoughtscopeError:
        raise
    except (KeyError, TypeError) as error:
        raise CorruptArtefact(f"{folder} is a dictionary with an unreadable manifest: {error!r}.") from None


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the artefact; each tensor keeps its type."""
    d = dictionary
    meta: dict[str, Any] = {name: getattr(d, name) for name in _PLAIN}
    meta |= {
        "n_layers": d.n_layers,
        "reads": [str(site) for site in d.reads],
        "writes": [str(site) for site in d.writes],
        "activation": vars(d.activation),
        "declared": dict(d.declared),
        "probe": None if d.probe is None else vars(d.probe),
    }
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for number, weights in enumerate(d.layers):
        given = {name: tensor for name, tensor in vars(weights).items() if tensor is not None}
        tensors[f"decoder_{number}"] = {"decoder": given.pop("decoder")}
        tensors[f"encoder_{number}"] = given
    save_artefact(folder, kind=KIND, tensors=tensors, meta=meta)


def _probe(stored: Mapping[str, Any] | None) -> Probe | None:
    if stored is None:
        return None
    documents: Any = tuple(entry if isinstance(entry, str) else tuple(entry) for entry in stored["documents"])
    return Probe(
        documents=documents, context=stored["context"], fvu=tuple(stored["fvu"]), l0=tuple(stored["l0"])
    )


FORMATS.register("native")(Format(matches=matches, load=load, save=save))
