"""From a GGUF file to an ordinary module and tokenizer, by transformers' own reader, with what that leaves out checked.

That reader drops what it has no place for (biases, scalings of rotary positions) and takes a default for what it does
not read. Here a file is refused whose logits it would get wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from thoughtscope.core.errors import CorruptArtefact, MissingExtra, UnsupportedModel, describe_choices
from thoughtscope.core.memory import free_memory, is_allocation_failure, memory_told
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.tensors import all_finite
from thoughtscope.models.attention import wanted_implementation
from thoughtscope.models.checkpoints import first_line
from thoughtscope.models.gguf.header import Header, Listing
from thoughtscope.models.quiet import quiet

CLASSES: Mapping[str, str] = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
}
"""`general.architecture` → the class that is made of it. Mistral's files call themselves llama."""

_FACTS: Mapping[str, str] = {
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""What a file states → the field of the configuration that must say the same, where its class has one."""
_DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r")
"""Ways to split text before byte pairs are merged (`tokenizer.ggml.pre`) that are GPT-2's, but each digit by itself."""
_EXTRA = ("gguf", "accelerate")
_BAR = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Dequantised:
    """A module in float32 with a configuration without quantisation, and its tokenizer."""

    module: Any
    tokenizer: Any


def dequantise(header: Header, *, progress: Progress = silent) -> Dequantised:
    """The model of a GGUF file with its weights as float32, which hold every kind of number that a file can.

    Raises `MissingExtra`, `UnsupportedModel` for an architecture that is not in `CLASSES` or a setting that the reader
    would drop, `CorruptArtefact` for a file that its own header does not describe, and `OutOfMemory`.
    """
    check_readable(header)
    _require_extra()
    needed = 4 * header.elements
    free = free_memory()
    with memory_told(f"Reading {header.path}", "Use a smaller model, or a machine with more memory."):
        if free is not None and needed > free:
            raise MemoryError
        tokenizer = _tokenizer(header)
        config = _config(header)
        with _tensors_told(progress):
            module = _module(header, config)
    return Dequantised(module=module, tokenizer=tokenizer)


def check_readable(header: Header) -> None:
    """Raises `UnsupportedModel` for an architecture or a setting that would not be read as it is meant."""
    if header.architecture not in CLASSES:
        raise UnsupportedModel(
            f"{header.path}: "
            + describe_choices(header.architecture, CLASSES, what="supported architecture of a GGUF file")
        )
    scaling = header.fact("rope.scaling.type", "none")
    if scaling != "none" and header.fact("rope.scaling.factor", 1.0) != 1.0:
        _refuse(header, f'rotary positions are scaled ("rope.scaling.type" is {scaling!r:.40})')
    if any(tensor.name.startswith("rope_") for tensor in header.tensors):
        _refuse(header, "it states a factor for each rotary frequency, as files of Llama 3.1 and 3.2 do")
    for name in ("feed_forward_length", "attention.head_count", "attention.head_count_kv"):
        if isinstance(header.fact(name), Listing):
            _refuse(header, f'"{name}" differs from layer to layer')
    if not isinstance(header.facts.get("tokenizer.ggml.tokens"), Listing):
        raise UnsupportedModel(
            f"{header.path} holds no tokenizer. Use a file with one; most published files have it."
        )


def _refuse(header: Header, why: str) -> None:
    raise UnsupportedModel(
        f"{header.path}: {why}, which transformers' reader of GGUF files leaves out, so that the logits would be "
        "others. Use the same model in safetensors."
    )


def _require_extra() -> None:
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"Reading a GGUF file needs {' and '.join(missing)}. Install: pip install 'thoughtscope[gguf]'"
        )


def _config(header: Header) -> Any:
    """The configuration as transformers reads it, completed by what it leaves out, and compared with the file."""
    import transformers

    read = _foreign(
        header,
        "configuration",
        lambda: transformers.AutoConfig.from_pretrained(header.path.parent, gguf_file=header.path.name),
    )
    name = CLASSES[header.architecture]
    config_class = getattr(transformers, name).config_class
    fields = {**read.to_dict(), "model_type": config_class.model_type, **_completed(header)}
    config = _foreign(header, "configuration", lambda: config_class.from_dict(fields))
    for fact, field in _FACTS.items():
        stated, taken = header.fact(fact), getattr(config, field, None)
        if stated is not None and taken is not None and stated != taken:
            _refuse(header, f'"{fact}" is {stated!r:.40} where {taken!r:.40} would be used')
    config.architectures = [name]
    config.dtype = torch.float32
    config._attn_implementation = wanted_implementation(config)
    return config


def _completed(header: Header) -> dict[str, Any]:
    """Fields for which transformers' reader takes its default whatever the file says."""
    if header.architecture == "gpt2":
        return {
            "n_positions": header.fact("context_length", 1024),
            "n_inner": header.fact("feed_forward_length"),
        }
    if header.architecture == "qwen3" and header.fact("attention.key_length"):
        return {"head_dim": header.fact("attention.key_length")}
    return {}


def _module(header: Header, config: Any) -> Any:
    """The module with every weight from the file, and every weight of the file in the module."""
    import transformers

    loaded = _foreign(
        header,
        "weights",
        lambda: getattr(transformers, CLASSES[header.architecture]).from_pretrained(
            header.path.parent,
            gguf_file=header.path.name,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
        ),
    )
    module, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise CorruptArtefact(
            f"{header.path} lacks {len(missing)} of the model's tensors, the first is {missing[0]}. "
            "Download the file again, or another one."
        )
    held = sum(parameter.numel() for parameter in module.parameters())
    if held != header.elements:
        _refuse(header, f"it holds {header.elements:,} weights where the model has {held:,}")
    for key, weight in module.state_dict().items():
        if not all_finite(weight):
            raise CorruptArtefact(
                f"{key} in {header.path} holds NaN or infinity: the file is damaged. Download or copy it again."
            )
    module.config.__dict__.pop("quantization_config", None)  # the object that every part of the module reads
    module.requires_grad_(False)
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        module.__dict__.pop(attribute, None)
    return module


def _tokenizer(header: Header) -> Any:
    """The tokenizer as transformers reads it, with digits alone where that reader does not know that they are."""
    import transformers
    from tokenizers import pre_tokenizers

    tokenizer = _foreign(
        header,
        "tokenizer",
        lambda: transformers.AutoTokenizer.from_pretrained(header.path.parent, gguf_file=header.path.name),
    )
    if header.facts.get("tokenizer.ggml.pre") in _DIGITS_ALONE:
        digits = pre_tokenizers.Digits(individual_digits=True)
        rest = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
    return tokenizer


@contextmanager
def _tensors_told(progress: Progress) -> Iterator[None]:
    """The reader's own bar, which it draws whatever it is told, becomes our progress."""
    from transformers import modeling_gguf_pytorch_utils

    reader: Any = modeling_gguf_pytorch_utils

    def told(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        for number, tensor in enumerate(tensors):
            progress("dequantise", number, len(tensors))
            yield tensor

    with _BAR:
        bar = reader.tqdm
        reader.tqdm = told
        try:
            yield
        finally:
            reader.tqdm = bar


def _foreign(header: Header, what: str, read: Any) -> Any:
    """Calls a foreign reader, which fails with any error on what it does not expect."""
    try:
        with quiet():
            return read()
    except Exception as error:
        if is_allocation_failure(error):
            raise
        if isinstance(error, NotImplementedError):
            raise UnsupportedModel(
                f"The {what} of {header.path} cannot be read: {first_line(error)}."
            ) from error
        raise CorruptArtefact(f"The {what} of {header.path} cannot be read: {first_line(error)}.") from error
