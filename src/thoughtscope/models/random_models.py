"""Small random models of the real classes of every family, for tests, `doctor` and documentation.

Nothing is at its comfortable default: norm weights are far from 1, biases are not 0, soft caps bite, queries share
key/value heads. A mistake in a site table or in a linearisation that such defaults would hide shows at once.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from thoughtscope.core.errors import UnsupportedModel, describe_choices
from thoughtscope.models.attention import wanted_implementation
from thoughtscope.models.families import FAMILIES, Architecture
from thoughtscope.models.loading import model_from
from thoughtscope.models.model import Model

_SPECIAL = ("<|begin|>", "<|end|>", "<|pad|>")

PLAIN: dict[str, Any] = {
    "vocab_size": 260, "bos_token_id": 256, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False,
    "max_position_embeddings": 256, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32,
}  # fmt: skip
"""Fields of a tiny configuration, by the names that every family understands; a family's own come on top."""


def random_families() -> dict[str, str]:
    """Every family of which a random model can be made → the class that is made."""
    return {FAMILIES[name].family: name for name in FAMILIES if FAMILIES[name].tiny is not None}


def random_model(
    family: str,
    *,
    layers: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
    prove_sites: bool = True,
    **overrides: Any,
) -> Model:
    """A random-weight model of `family` with a byte-level tokenizer (each byte a token, a begin token first).

    `overrides` are fields of the family's transformers configuration, for example `use_parallel_residual=False` or
    `vocab_size=100` (below 259 the model comes without a tokenizer). `attention` is "sdpa" or "eager".
    Raises `UnsupportedModel` for an unknown family.
    """
    import transformers

    made = random_families()
    if family not in made:
        raise UnsupportedModel(describe_choices(family, made, what="model family"))
    module_class: Any = getattr(transformers, made[family])
    own_name = (
        module_class.config_class.attribute_map
    )  # "hidden_size" → "n_embd" on GPT-2: one field, two names
    fields = {**_fields(FAMILIES[made[family]], layers), **overrides}
    config = module_class.config_class(**{own_name.get(name, name): fields[name] for name in fields})
    config.architectures = [made[family]]
    config._attn_implementation = attention or wanted_implementation(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = module_class(config)
        _randomise(module)
    module.to(dtype).requires_grad_(False)
    tokenizer = byte_tokenizer() if config.vocab_size >= 256 + len(_SPECIAL) else None
    return model_from(
        module, tokenizer, name=f"random-{family}", revision=f"seed-{seed}", prove_sites=prove_sites
    )


@torch.no_grad()
def with_random_weights(model: Model, *, seed: int = 0) -> Model:
    """The same model with nothing learnt in it: each parameter is drawn anew, by its own mean and standard deviation.

    What is found in it as well is no sign of anything that the model has learnt (Heap et al. 2025). The tokenizer and
    the architecture are the model's own, which stays as it is.
    """
    module = copy.deepcopy(model.module)
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():  # tied ones come once
        spread, mean = torch.std_mean(parameter.float(), correction=0)
        drawn = torch.randn(parameter.shape, generator=random) * spread.cpu() + mean.cpu()
        parameter.copy_(drawn.to(parameter))
    return model_from(
        module, model.tokenizer, name=f"{model.name}-random", revision=f"{model.revision}+seed-{seed}"
    )


def byte_tokenizer(letters: str = "") -> Any:
    """A byte-level fast tokenizer: ids 0 to 255 are bytes, then `letters`, two bytes each but tokens too,
    then begin, end and padding."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    from thoughtscope.models.pieces import characters_of_bytes

    spelled = characters_of_bytes()
    merges = [(spelled[first], spelled[second]) for first, second in map(str.encode, letters)]
    vocab = {piece: number for number, piece in enumerate([*spelled, *map("".join, merges)])}
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    begin = (_SPECIAL[0], tokenizer.token_to_id(_SPECIAL[0]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_SPECIAL[0]} $A", special_tokens=[begin]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_SPECIAL[0], eos_token=_SPECIAL[1], pad_token=_SPECIAL[2]
    )


def _fields(architecture: Architecture, layers: int) -> dict[str, Any]:
    assert architecture.tiny is not None
    return {**PLAIN, "num_hidden_layers": layers, **architecture.tiny(layers)}


@torch.no_grad()
def _randomise(module: nn.Module) -> None:
    """Draws every parameter: norm weights in 0.4 to 2.2, biases of size 0.3, matrices that keep activations near 1."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            embedding = "embed" in name or "wte" in name or "wpe" in name
            parameter.normal_(0, 1.0 if embedding else parameter.shape[-1] ** -0.5)
        elif name.endswith("weight"):
            # A fresh norm multiplies by 1: its weight is 1, or 0 where the module adds the 1 (Gemma).
            parameter.copy_(torch.empty_like(parameter).uniform_(0.4, 2.2) - (1 - parameter))
        else:
            parameter.normal_(0, 0.3)
