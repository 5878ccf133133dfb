"""dictionary_learning's layout: a folder with `config.json` and `ae.pt` for each trainer.

    AutoEncoder                       bias (d), encoder.weight (F, d), encoder.bias, decoder.weight (d, F)
    AutoEncoderNew                    encoder.weight, encoder.bias, decoder.weight, decoder.bias
    GatedAutoEncoder                  decoder_bias, encoder.weight, r_mag, gate_bias, mag_bias, decoder.weight
    AutoEncoderTopK, BatchTopKSAE     encoder.weight, encoder.bias, decoder.weight, b_dec, k, threshold
    JumpReluAutoEncoder               W_enc (d, F), b_enc, W_dec (F, d), b_dec, threshold
    MatryoshkaBatchTopKSAE            W_enc, b_enc, W_dec, b_dec, k, threshold, group_sizes

All but AutoEncoderNew and JumpReluAutoEncoder take their decoder's bias off the input. The batch-wise ones pass by
their threshold once trained, which makes them JumpReLU ones. `config.json` has what was asked of the trainer, the class
(`dict_class`) and the submodule among it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.activation import Activation
from thoughtscope.dictionaries.card import Card
from thoughtscope.dictionaries.dictionary import Dictionary
from thoughtscope.dictionaries.formats.base import FORMATS, Format, expect_tensors, write_text
from thoughtscope.dictionaries.formats.folding import Coder, centred, gated, jumping
from thoughtscope.dictionaries.formats.kept import Folder, files_of, write_files
from thoughtscope.dictionaries.formats.names import in_order, part_names, site_of_words, words_of_site
from thoughtscope.dictionaries.formats.one_to_one import one_to_one
from thoughtscope.dictionaries.formats.torch_files import write_torch

NAME = "dictionary-learning"
CONFIG, WEIGHTS = "config.json", "ae.pt"
_FILES = re.compile(rf"([^/]+/){{0,2}}({CONFIG}|{re.escape(WEIGHTS)})")
"""What a save replaces; everything else in the folder stays."""
_LINEAR = {"encoder.weight": 2, "encoder.bias": 1, "decoder.weight": 2}
_MATRICES = {"W_enc": 2, "b_enc": 1, "W_dec": 2, "b_dec": 1, "threshold": None}
_CLASSES: dict[str, dict[str, int | None]] = {
    "AutoEncoder": {**_LINEAR, "bias": 1},
    "AutoEncoderNew": {**_LINEAR, "decoder.bias": 1},
    "GatedAutoEncoder": {
        "decoder_bias": 1, "encoder.weight": 2, "r_mag": 1, "gate_bias": 1, "mag_bias": 1, "decoder.weight": 2,
    },
    "AutoEncoderTopK": {**_LINEAR, "b_dec": 1, "k": None},
    "BatchTopKSAE": {**_LINEAR, "b_dec": 1, "k": None, "threshold": None},
    "JumpReluAutoEncoder": _MATRICES,
    "MatryoshkaBatchTopKSAE": {**_MATRICES, "k": None, "group_sizes": None},
}  # fmt: skip
_OPTIONAL: dict[str, dict[str, int | None]] = {"AutoEncoderTopK": {"threshold": None}}
_NOT_CENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")


def matches(folder: Path) -> bool:
    """Whether `folder` looks like this layout; reads no weights."""
    return bool(_folders(folder))


def _folders(folder: Path) -> list[str]:
    found = [path.parent for depth in range(3) for path in folder.glob("*/" * depth + WEIGHTS)]
    return in_order(path.relative_to(folder).as_posix() for path in found if (path / CONFIG).is_file())


def load(folder: Path) -> Dictionary:
    """Opens one trainer's dictionary, or those of the trainers inside. Raises `CorruptArtefact` naming the file."""
    source = Folder(folder)
    names = _folders(folder)
    if not names:
        raise CorruptArtefact(f"{folder / WEIGHTS} or {folder / CONFIG} is missing.")
    read = [_read(source, "" if name == "." else f"{name}/") for name in names]
    parts = tuple(
        coder.part(name, *pair)
        for name, (coder, pair, _) in zip(part_names([each[1] for each in read]), read, strict=True)
    )
    model_name = read[0][2].get("lm_name") or ""
    if not isinstance(model_name, str):
        raise CorruptArtefact(f"{folder / CONFIG}: lm_name is a text; got {model_name!r:.60}.")
    name = folder.resolve().name
    return Dictionary(
        name=name,
        scan=name,
        model_name=model_name,
        parts=parts,
        card=Card(foreign=source.kept(NAME, parts, model_name=model_name)),
    )


def _read(source: Folder, at: str) -> tuple[Coder, tuple[Site, Site], dict[str, Any]]:
    path = source.path / f"{at}{CONFIG}"
    config = source.json(f"{at}{CONFIG}")
    trainer, buffer = config.get("trainer"), config.get("buffer", {})
    if not isinstance(trainer, dict) or not isinstance(buffer, dict):
        raise CorruptArtefact(f"{path} has no object trainer.")
    written = site_of_words(trainer.get("submodule_name"), trainer.get("layer"), path)
    reads_input = isinstance(buffer.get("io"), str) and buffer["io"] == "in_and_out"
    if reads_input and written.kind not in _INPUTS:
        raise CorruptArtefact(f"{path} says io: in_and_out, and what goes into {written} is not known here.")
    read = Site(_INPUTS[written.kind], written.layer) if reads_input else written
    weights = source.torch(f"{at}{WEIGHTS}")
    return _coder(weights, trainer, source.path / f"{at}{WEIGHTS}", path), (read, written), trainer


_INPUTS = {"mlp_out": "mlp_in", "attn_out": "attn_in", "resid_post": "resid_pre"}


def _coder(weights: dict[str, Any], trainer: Mapping[str, Any], path: Path, config: Path) -> Coder:
    """What the weights of a class compute."""
    name = trainer.get("dict_class")
    if not isinstance(name, str) or name not in _CLASSES:
        raise CorruptArtefact(f"{config}: dict_class {name!r:.60} is not one of {', '.join(_CLASSES)}.")
    bad = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if bad:
        raise CorruptArtefact(f"{path} holds {bad[0]!r:.60}, which is no tensor.")
    expect_tensors(path, weights, _CLASSES[name], _OPTIONAL.get(name))
    matrices = "W_enc" in weights
    bias = next(weights[key] for key in ("b_dec", "bias", "decoder_bias", "decoder.bias") if key in weights)
    coder = Coder(
        activation=Activation(kind="topk", k=_one(weights["k"], path, "k"))
        if name == "AutoEncoderTopK"
        else Activation(kind="relu"),
        W_enc=weights["W_enc"].T if matrices else weights["encoder.weight"],
        b_enc=weights["b_enc" if matrices else "mag_bias" if "mag_bias" in weights else "encoder.bias"],
        W_dec=weights["W_dec"] if matrices else weights["decoder.weight"].T,
        b_dec=bias,
    )
    if name == "GatedAutoEncoder":
        coder = gated(coder, weights["r_mag"], weights["gate_bias"])
    if name not in _NOT_CENTRED:
        coder = centred(coder, bias)
    if name == "JumpReluAutoEncoder":
        expect_tensors(path, {"threshold": weights["threshold"]}, {"threshold": 1})
        coder = jumping(coder, weights["threshold"])
    elif name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        threshold = weights["threshold"]
        if threshold.numel() != 1 or not threshold.is_floating_point():
            raise CorruptArtefact(f"{path}: threshold is one number; got shape {tuple(threshold.shape)}.")
        coder = jumping(coder, torch.full((coder.W_enc.shape[0],), float(threshold)))
    return coder


def _one(value: Tensor, path: Path, name: str) -> int:
    if value.numel() != 1 or value.is_floating_point() or int(value) < 1:
        raise CorruptArtefact(
            f"{path}: {name} is one whole number of 1 or more; got shape {tuple(value.shape)}."
        )
    return int(value)


# --- saving ----------------------------------------------------------------------------------------------------------


def save(dictionary: Dictionary, folder: Path) -> None:
    """Writes the layout: one part into the folder itself, several into `trainer_0`, `trainer_1`, …

    Raises `DictionaryMismatch` for a part that the layout cannot hold, `NotWritten` for a full disk.
    """
    files = files_of(dictionary, NAME)
    written = [] if files else [_written(dictionary, number) for number in range(len(dictionary.parts))]
    with replaced_folder(folder, belongs=_FILES.fullmatch) as fresh:
        if files:
            write_files(files, fresh)
        for number, (config, weights) in enumerate(written):
            at = fresh / (f"trainer_{number}" if len(written) > 1 else "")
            write_torch(at / WEIGHTS, weights)
            write_text(at / CONFIG, json.dumps(config, indent=4))


def _written(dictionary: Dictionary, number: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a part, as the class that computes the same."""
    coder, read, write = one_to_one(dictionary.parts[number], NAME)
    kind = coder.activation.kind
    names = {"relu": "AutoEncoderNew", "jumprelu": "JumpReluAutoEncoder", "topk": "AutoEncoderTopK"}
    words = words_of_site(write)
    into = site_of_words(words, write.layer, Path(words))
    if kind not in names or coder.W_skip is not None or coder.normalise:
        what = coder.normalise or ("a skip connection" if coder.W_skip is not None else kind)
        raise DictionaryMismatch(
            f"{NAME} has no class with {what}, which part {dictionary.parts[number].name} has. Use the native format."
        )
    fits = read == write or (read.kind == _INPUTS.get(into.kind) and read.layer == write.layer)
    if not fits or coder.W_enc.shape[1] != coder.W_dec.shape[1]:
        raise DictionaryMismatch(
            f"{NAME} has transcoders from a module's input to its output, equally wide; part "
            f"{dictionary.parts[number].name} goes from {read} ({coder.W_enc.shape[1]}) to {write} "
            f"({coder.W_dec.shape[1]})."
        )
    trainer: dict[str, Any] = {
        "trainer_class": None,
        "dict_class": names[kind],
        "activation_dim": coder.W_enc.shape[1],
        "dict_size": coder.W_enc.shape[0],
        "layer": write.layer,
        "lm_name": dictionary.model_name,
        "submodule_name": words,
    }
    if kind == "topk":
        trainer["k"] = coder.activation.k
    buffer = {"d_submodule": coder.W_enc.shape[1], "io": "out" if read == write else "in_and_out"}
    return {"trainer": trainer, "buffer": buffer}, _weights(coder)


def _weights(coder: Coder) -> dict[str, Tensor]:
    plain = {key: value.contiguous() for key, value in {"enc": coder.W_enc, "dec": coder.W_dec.T}.items()}
    if coder.activation.kind == "jumprelu":
        assert coder.threshold is not None
        found = {"W_enc": plain["enc"].T, "b_enc": coder.b_enc, "W_dec": coder.W_dec, "b_dec": coder.b_dec,
                 "threshold": coder.threshold}  # fmt: skip
        return {key: value.contiguous() for key, value in found.items()}
    found = {"encoder.weight": plain["enc"], "encoder.bias": coder.b_enc, "decoder.weight": plain["dec"]}
    if coder.activation.kind == "relu":
        return found | {"decoder.bias": coder.b_dec}
    # The library takes b_dec off the input; the encoder's bias gives back what that takes.
    back = coder.b_enc.double() + coder.W_enc.double() @ coder.b_dec.double()
    found["encoder.bias"] = back.to(torch.promote_types(coder.b_enc.dtype, torch.float32))
    k = torch.tensor(coder.activation.k, dtype=torch.int)
    return {"k": k, "threshold": torch.tensor(-1.0), **found, "b_dec": coder.b_dec}


FORMATS.register(NAME)(Format(matches=matches, load=load, save=save))
