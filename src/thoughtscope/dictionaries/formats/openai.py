"""The layout of OpenAI's autoencoders: `LOCATION/autoencoders/LAYER.pt`, a state dictionary each.

    pre_bias (d), encoder.weight (F, d), latent_bias (F), decoder.weight (d, F)
    activation                 "TopK", "ReLU" or "Identity"; without it ReLU
    activation_state_dict      {"k": …, "postact_fn": "ReLU"} with TopK
    stats_last_nonzero, latents_activation_frequency, latents_mean_square     from training

Those with TopK bring each vector to mean 0 and variance 1 first, and what they write back. No file says where it
belongs: the folder above does (`resid_post_mlp_v5_32k`), and the number says the layer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.formats.base import FORMATS, Format, expect_tensors
from thoughtscope.dictionaries.formats.folding import Coder, centred
from thoughtscope.dictionaries.formats.kept import Folder, files_of, write_files
from thoughtscope.dictionaries.formats.names import in_order, part_names
from thoughtscope.dictionaries.formats.one_to_one import one_to_one
from thoughtscope.dictionaries.formats.torch_files import write_torch

NAME = "openai"
_LOCATIONS = {
    "mlp_post_act": "mlp_act",
    "resid_delta_mlp": "mlp_out",
    "resid_post_mlp": "resid_post",
    "resid_delta_attn": "attn_out",
    "resid_post_attn": "resid_mid",
}
_PLACE = re.compile(rf"({'|'.join(_LOCATIONS)})(?:_\w+)?/autoencoders/(\d+)\.pt")
_FILES = re.compile(rf"({'|'.join(_LOCATIONS)})(?:_\w+)?/autoencoders/\d+\.pt")
"""What a save replaces; everything else in the folder stays."""
_NEEDED = {"pre_bias": 1, "encoder.weight": 2, "latent_bias": 1, "decoder.weight": 2}
_STATISTICS: dict[str, int | None] = {
    "stats_last_nonzero": None, "latents_activation_frequency": 1, "latents_mean_square": 1,
}  # fmt: skip
_MODEL = "gpt2"


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return bool(_names(folder))


def _names(folder: Path) -> list[str]:
    """The files within a folder that has the locations, or is one of them."""
    deep = [path.relative_to(folder).as_posix() for path in folder.glob("*/autoencoders/*.pt")]
    flat = [path.relative_to(folder).as_posix() for path in folder.glob("autoencoders/*.pt")]
    here = folder.resolve().name
    return in_order(
        [name for name in deep if _PLACE.fullmatch(name)]
        + [name for name in flat if _PLACE.fullmatch(f"{here}/{name}")]
    )


def load(folder: Path) -> Dictionary:
    """Opens every autoencoder of a folder. Raises `CorruptArtefact` naming the file."""
    source, here = Folder(folder), folder.resolve().name
    names = _names(folder)
    if not names:
        raise CorruptArtefact(f"{folder} has no LOCATION/autoencoders/LAYER.pt.")
    sites, coders = [], []
    for name in names:
        place = _PLACE.fullmatch(name) or _PLACE.fullmatch(f"{here}/{name}")
        assert place is not None
        sites.append(Site(_LOCATIONS[place[1]], int(place[2])))
        coders.append(_coder(source.torch(name), folder / name))
        if not _PLACE.fullmatch(name):  # another folder may not be named by the location
            source.files[f"{here}/{name}"] = source.files.pop(name)
    named = part_names([(site, site) for site in sites])
    parts: tuple[Part, ...] = tuple(
        coder.part(name, site, site) for name, coder, site in zip(named, coders, sites, strict=True)
    )
    return Dictionary(
        name=here,
        scan=here,
        model_name=_MODEL,
        parts=parts,
        card=Card(foreign=source.kept(NAME, parts, model_name=_MODEL)),
    )


def _coder(state: dict[str, Any], path: Path) -> Coder:
    """What a state dictionary computes."""
    weights = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    settings = {name: value for name, value in state.items() if name not in weights}
    expect_tensors(path, weights, _NEEDED, _STATISTICS)
    unknown = set(settings) - {"activation", "activation_state_dict"}
    if unknown:
        raise CorruptArtefact(
            f"{path} holds {sorted(unknown)[0]!r:.60}, whose meaning this format does not define."
        )
    kind, inner = settings.get("activation", "ReLU"), settings.get("activation_state_dict", {})
    if kind not in ("TopK", "ReLU") or not isinstance(inner, dict):
        raise CorruptArtefact(
            f"{path}: activation {kind!r:.40} cannot be read here; ReLU and TopK can. A dictionary without an "
            "activation has no sparse features."
        )
    k = inner.get("k")
    if kind == "TopK" and (type(k) is not int or k < 1 or inner.get("postact_fn", "ReLU") != "ReLU"):
        raise CorruptArtefact(f"{path}: TopK needs a whole k of 1 or more, and ReLU as its postact_fn.")
    coder = Coder(
        activation=Activation(kind="topk", k=k) if kind == "TopK" else Activation(kind="relu"),
        W_enc=weights["encoder.weight"],
        b_enc=weights["latent_bias"],
        W_dec=weights["decoder.weight"].T,
        b_dec=weights["pre_bias"],
        normalise="layer_norm" if kind == "TopK" else None,
    )
    return centred(coder, weights["pre_bias"])


# --- saving ----------------------------------------------------------------------------------------------------------


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the layout, a file for each part.

    Raises `DictionaryMismatch` for a part that the layout cannot hold, `NotWritten` for a full disk.
    """
    files = files_of(dictionary, NAME)
    written = {} if files else {_place(part): _state(part) for part in dictionary.parts}
    if not files and len(written) < len(dictionary.parts):
        raise DictionaryMismatch(f"{NAME} has one file a site; {dictionary.name} has several parts for one.")
    with replaced_folder(folder, belongs=_belongs(folder)) as fresh:
        if files:
            write_files(files, fresh)
        for name, state in written.items():
            write_torch(fresh / name, state)


def _belongs(folder: Path) -> Any:
    here = folder.resolve().name
    return lambda name: _FILES.fullmatch(name) or _FILES.fullmatch(f"{here}/{name}")


def _place(part: Part) -> str:
    locations = {kind: location for location, kind in _LOCATIONS.items()}
    site = part.reads[0]
    kind = {"mlp_raw": "mlp_out", "attn_raw": "attn_out"}.get(site.kind, site.kind)
    if part.reads != part.writes or kind not in locations:
        raise DictionaryMismatch(
            f"{NAME} has autoencoders of {', '.join(_LOCATIONS.values())}; part {part.name} reads {site} and writes "
            f"{part.writes[0]}."
        )
    return f"{locations[kind]}/autoencoders/{site.layer}.pt"


def _state(part: Part) -> dict[str, Any]:
    """A part as a state dictionary: the library takes pre_bias off the input, so latent_bias gives that back."""
    coder, _, _ = one_to_one(part, NAME)
    wanted = {"topk": "layer_norm", "relu": None}
    kind = coder.activation.kind
    if kind not in wanted or coder.normalise != wanted[kind] or coder.W_skip is not None:
        raise DictionaryMismatch(
            f"{NAME} has TopK with layer_norm, and ReLU without; part {part.name} is {kind} with "
            f"{coder.normalise or 'none'}{' and a skip connection' if coder.W_skip is not None else ''}."
        )
    back = coder.b_enc.double() + coder.W_enc.double() @ coder.b_dec.double()
    n = coder.W_enc.shape[0]
    state: dict[str, Any] = {
        "pre_bias": coder.b_dec,
        "latent_bias": back.to(torch.promote_types(coder.b_enc.dtype, torch.float32)),
        "stats_last_nonzero": torch.zeros(n, dtype=torch.long),
        "latents_activation_frequency": torch.ones(n),
        "latents_mean_square": torch.zeros(n),
        "encoder.weight": coder.W_enc.contiguous(),
        "decoder.weight": coder.W_dec.T.contiguous(),
        "activation": "TopK" if kind == "topk" else "ReLU",
    }
    inner = {"k": coder.activation.k, "postact_fn": "ReLU"}
    return state | {"activation_state_dict": inner if kind == "topk" else {}}


FORMATS.register(NAME)(Format(matches=matches, load=load, save=save))
