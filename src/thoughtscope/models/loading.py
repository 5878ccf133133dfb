"""`load_model` and `model_from`: from a name, a path or a loaded module to a model that is bound and proved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError, UnsupportedModel, describe_choices
from thoughtscope.models.checkpoints import check_files, locate
from thoughtscope.models.families import FAMILIES, bind
from thoughtscope.models.model import Model
from thoughtscope.models.proofs import prove

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
) -> Model:
    """Loads a causal language model unmodified, and proves the site table on it.

    `name_or_path` is "specimen", a folder, or a name on the Hugging Face hub; local files first, and without network
    the answer comes at once. `device` defaults to a GPU where there is one; `dtype` to the checkpoint's own. The
    attention implementation is the library's default, so logits are those that the same module gives elsewhere.
    Raises `UnknownModel` for a name that leads nowhere, `UnsupportedModel` for another architecture, a pickle-only
    checkpoint or a failed probe, `CorruptArtefact` for a missing or damaged file, naming it.
    """
    folder, found = locate(name_or_path, revision=revision)
    check_files(folder)
    config = _config(folder, name_or_path, trust_remote_code)
    module = _module(folder, config, _dtype(dtype), trust_remote_code)
    module.to(_device(device))
    tokenizer = _tokenizer(folder, name_or_path, trust_remote_code)
    return model_from(module, tokenizer, name=name_or_path, revision=found)


def model_from(
    module: Any, tokenizer: Any = None, *, name: str, revision: str = "local", prove_sites: bool = True
) -> Model:
    """Binds an already loaded module and proves the site table on it with a few random tokens.

    The module is put in eval mode and is otherwise left as it is.
    Raises `UnsupportedModel` for an unknown architecture, or with the probe that failed and by how much.
    """
    module.eval()
    model = Model(module=module, tokenizer=tokenizer, family=bind(module), name=name, revision=revision)
    if prove_sites:
        prove(model)
    return model


def _config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (ValueError, KeyError, OSError) as error:
        raise UnsupportedModel(f"The configuration of {name} cannot be used: {_first_line(error)}") from error
    declared = config.architectures or []
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

    with _quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
        except (RuntimeError, OSError, ValueError, ImportError) as error:
            raise CorruptArtefact(
                f"The weights in {folder} cannot be loaded: {_first_line(error)}"
            ) from error
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise CorruptArtefact(
            f"{folder} lacks {len(missing)} of the model's tensors, the first is {missing[0]}. "
            f"Download or copy the whole checkpoint again."
        )
    return module


def _tokenizer(folder: Path, name: str, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # a tokenizer file is read by a foreign parser that raises bare Exception
        raise CorruptArtefact(f"The tokenizer in {folder} cannot be loaded: {_first_line(error)}") from error
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


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or (chosen.type == "cuda" and not torch.cuda.is_available()):
        available = ["cpu"] + [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ThoughtscopeError(describe_choices(device, available, what="device on this machine"))
    return chosen


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's progress bars and its report of missing tensors, which becomes an error of ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
