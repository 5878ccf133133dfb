"""The layout of sparsify and clt-training: a folder with `cfg.json` and `sae.safetensors` for each hookpoint.

    encoder.weight (F, d), encoder.bias (F), W_dec (F, d), b_dec (d), W_skip (d, d)

An autoencoder (`transcode: false`) takes b_dec off its input and reads what the module gives; a transcoder reads what
the module gets. The folder is named by the module (`layers.3.mlp`). clt-training adds, with N targets,

    W_decs.i (F, d), b_decs.i (d), W_skips.i (d, d)     what the i-th hookpoint from this one on gets
    post_enc(s.i) (F), post_enc_scale(s.i) (F)          (a + post_enc) · post_enc_scale is decoded, where a > 0
    in_norm, out_norm (1)                               with normalize_io: x √d / in_norm in, y out_norm / √d out
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.dictionary import Dictionary, Part
from thoughtscope.dictionaries.formats.base import FORMATS, Format, write_safetensors, write_text
from thoughtscope.dictionaries.formats.hookpoints import Hookpoint, parts_of
from thoughtscope.dictionaries.formats.kept import Folder, files_of, write_files
from thoughtscope.dictionaries.formats.names import in_order, module_of_site, part_names
from thoughtscope.dictionaries.formats.one_to_one import one_to_one

NAME = "sparsify"
CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_FILES = re.compile(rf"([^/]+/){{0,2}}({CONFIG}|{re.escape(WEIGHTS)})|config\.json")
"""What a save replaces; everything else in the folder stays."""


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return bool(_folders(folder))


def _folders(folder: Path) -> list[str]:
    found = [path.parent for depth in range(3) for path in folder.glob("*/" * depth + WEIGHTS)]
    return in_order(path.relative_to(folder).as_posix() for path in found if (path / CONFIG).is_file())


def load(folder: Path) -> Dictionary:
    """Opens one hookpoint's folder, or those inside. Raises `CorruptArtefact` naming the file."""
    source, model_name = Folder(folder), ""
    names = _folders(folder)
    if not names:
        raise CorruptArtefact(f"{folder / WEIGHTS} or {folder / CONFIG} is missing.")
    if source.has("config.json"):
        run = source.json("config.json")
        model_name = run["model"] if isinstance(run.get("model"), str) else ""
    points = []
    for name in names:
        at = "" if name == "." else f"{name}/"
        module = folder.resolve().name if name == "." else name.split("/")[0]
        config = source.json(f"{at}{CONFIG}")
        points.append(Hookpoint(module, config, source.tensors(f"{at}{WEIGHTS}"), folder / at / CONFIG))
    made = parts_of(points)
    called = part_names([(part.reads[0], part.writes[0]) for part in made])
    parts = tuple(replace(part, name=each) for part, each in zip(made, called, strict=True))
    name = folder.resolve().name
    return Dictionary(
        name=name,
        scan=name,
        model_name=model_name,
        parts=parts,
        card=Card(foreign=source.kept(NAME, parts, model_name=model_name)),
    )


# --- saving ----------------------------------------------------------------------------------------------------------


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the layout: a folder for each part, named by the module whose input or output it reads.

    Raises `DictionaryMismatch` for a part that the layout cannot hold, `NotWritten` for a full disk.
    """
    files = files_of(dictionary, NAME)
    written = {} if files else _written(dictionary)
    with replaced_folder(folder, belongs=_FILES.fullmatch) as fresh:
        if files:
            write_files(files, fresh)
        for at, (config, tensors) in written.items():
            write_safetensors(fresh / at / WEIGHTS, tensors)
            write_text(fresh / at / CONFIG, json.dumps(config))
        if not files and dictionary.model_name:
            write_text(fresh / "config.json", json.dumps({"model": dictionary.model_name}, indent=2))


def _written(dictionary: Dictionary) -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    found: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {}
    for part in dictionary.parts:
        _, read, write = one_to_one(part, NAME)
        module = module_of_site(write, output=True)
        if read != write and module_of_site(read, output=False) != module:
            raise DictionaryMismatch(
                f"{NAME} has transcoders of one module, from its input to its output; part {part.name} goes from "
                f"{read} to {write}."
            )
        if module in found:
            raise DictionaryMismatch(f"{NAME} has one folder a module, and two parts belong to {module}.")
        found[module] = _state(part, read, write)
    return found


def _state(part: Part, read: Site, write: Site) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A part as the library's configuration and tensors. An autoencoder has b_dec taken off its input there, which
    encoder.bias gives back."""
    coder, _, _ = one_to_one(part, NAME)
    kind, transcode = coder.activation.kind, read != write
    width = coder.W_enc.shape[1]
    if kind not in ("topk", "groupmax") or coder.normalise or coder.W_dec.shape[1] != width:
        what = (
            f"normalises ({coder.normalise})"
            if coder.normalise
            else f"is {kind} from {width} to {coder.W_dec.shape[1]}"
        )
        raise DictionaryMismatch(
            f"{NAME} has TopK and GroupMax, as wide in as out; part {part.name} {what}. Use the native format."
        )
    bias = coder.b_enc
    if not transcode:
        back = bias.double() + coder.W_enc.double() @ coder.b_dec.double()
        bias = back.to(torch.promote_types(bias.dtype, torch.float32))
    tensors = {
        "encoder.weight": coder.W_enc,
        "encoder.bias": bias,
        "W_dec": coder.W_dec,
        "b_dec": coder.b_dec,
    }
    if coder.W_skip is not None:
        tensors["W_skip"] = coder.W_skip
    config = {
        "activation": kind,
        "expansion_factor": 32,
        "normalize_decoder": False,
        "num_latents": coder.W_enc.shape[0],
        "k": coder.activation.k,
        "multi_topk": False,
        "skip_connection": coder.W_skip is not None,
        "transcode": transcode,
        "d_in": width,
    }
    return config, tensors


FORMATS.register(NAME)(Format(matches=matches, load=load, save=save))
