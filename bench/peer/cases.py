"""The models, dictionaries and prompts that both sides are given: drawn at random, saved in layouts that both read.

Weights are random, so nothing is downloaded; what attribution costs depends on shapes and on how many features are
active, and those are real models'. Norm weights lie between 0.4 and 2.2: a side that reads a neighbouring tensor
cannot pass for right.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BEGIN = 256  # the id of the begin token of every case; circuit-tracer puts one before a prompt that lacks it


@dataclass(frozen=True, kw_only=True)
class Case:
    """One shape: a model family with sizes, a per-layer dictionary, a prompt's length."""

    name: str
    about: str
    family: str
    sizes: Mapping[str, Any]
    layers: int
    reads: str
    """The hook that encoders read, in circuit-tracer's words; they write to `hook_mlp_out`."""
    activation: str
    """"relu" or "jumprelu"."""
    n_features: int
    """By layer."""
    active: int
    """How many of them are active at a position, on average."""
    length: int
    """Tokens, the begin token included."""
    rounds: int | None = None
    """Measured turns with every feature expanded, at most; None for no limit."""


SMALL = Case(
    name="small",
    about="Llama class, 4 layers, width 128, vocabulary 1,024",
    family="llama",
    sizes={
        "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 512,
        "vocab_size": 1024,
    },
    layers=4,
    reads="ln2.hook_normalized",
    activation="relu",
    n_features=1024,
    active=25,
    length=32,
)  # fmt: skip
GPT2 = Case(
    name="gpt2",
    about="GPT-2 small's shape: 12 layers, width 768, 12 heads; vocabulary 8,192",
    family="gpt2",
    sizes={"n_embd": 768, "n_head": 12, "n_inner": 3072, "vocab_size": 8192, "n_ctx": 256},
    layers=12,
    reads="hook_resid_mid",
    activation="jumprelu",
    n_features=2048,
    active=16,
    length=16,
)
SMOLLM2 = Case(
    name="smollm2",
    about="SmolLM2-135M's shape: 30 layers, width 576, 9 query and 3 key/value heads; vocabulary 8,192",
    family="llama",
    sizes={
        "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
        "vocab_size": 8192, "tie_word_embeddings": True,
    },
    layers=30,
    reads="mlp.hook_in",
    activation="jumprelu",
    n_features=2048,
    active=10,
    length=12,
    rounds=2,
)  # fmt: skip
CASES = {case.name: case for case in (SMALL, GPT2, SMOLLM2)}


def build(case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """Writes `model/` and `dictionary/` into `folder`; returns what a side has to know to open them."""
    import torch

    from thoughtscope.models import random_model

    model = random_model(case.family, layers=case.layers, seed=seed, **case.sizes)
    if case.family == "gpt2":
        # Token nodes are the embedding alone for one side, with the positional one for the other: without the
        # latter they are the same thing, and can be compared.
        model.module.transformer.wpe.weight.zero_()
    draw = torch.Generator().manual_seed(seed)
    prompt = torch.randint(300, model.vocab_size, (case.length - 1,), generator=draw).tolist()
    ids = [BEGIN, *prompt]
    _save_model(model.module, folder / "model")
    _save_dictionary(case, model, ids, folder / "dictionary", draw)
    return {
        "model": str(folder / "model"),
        "dictionary": str(folder / "dictionary"),
        "ids": ids,
        **asdict(case),
    }


def _save_model(module: Any, folder: Path) -> None:
    """Weights and configuration, and a tokenizer of one word for each id, which only circuit-tracer asks for."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers.utils import logging

    logging.disable_progress_bar()
    module.save_pretrained(folder)
    words = {f"w{number}": number for number in range(module.config.vocab_size)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": f"w{BEGIN}", "add_bos_token": True,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _save_dictionary(case: Case, model: Any, ids: list[int], folder: Path, draw: Any) -> None:
    """Per-layer transcoders in circuit-tracer's layout, thresholds such that `case.active` features fire.

    Each feature's threshold is the layer's level times a factor of its own; the level stands in the middle of a gap
    between two pre-activations, so that rounding on either side cannot change which features are active.
    """
    import torch
    import yaml
    from safetensors.torch import save_file

    from thoughtscope.core.site import Site, site_kind_of_hook
    from thoughtscope.models import capture, tokens_from_ids

    kind, layers = site_kind_of_hook(case.reads), range(case.layers)
    sites = [Site(name, layer) for name in (kind, "mlp_out") for layer in layers]
    seen = capture(model, tokens_from_ids(model, ids), sites)
    folder.mkdir(parents=True)
    for layer in layers:
        x, written = (seen[Site(name, layer)][0, 1:].float() for name in (kind, "mlp_out"))
        n, width = case.n_features, x.shape[-1]
        W_enc = torch.randn(n, width, generator=draw) / x.norm(dim=-1).mean()
        factor = 0.8 + 0.4 * torch.rand(n, generator=draw)
        ranked = ((x @ W_enc.T) / factor).flatten().sort(descending=True).values
        level = _level(ranked, case.active * len(x))
        pre = x @ W_enc.T
        values = pre[pre > level * factor]
        strength = values.mean() if case.activation == "jumprelu" else (values.mean() - level)
        size = written.norm(dim=-1).mean() / (strength * case.active**0.5 * width**0.5)
        tensors = {
            "W_enc": W_enc,
            "W_dec": torch.randn(n, width, generator=draw) * size,
            "b_enc": torch.zeros(n) if case.activation == "jumprelu" else -level * factor,
            "b_dec": written.mean(dim=0),
        }
        if case.activation == "jumprelu":
            tensors["activation_function.threshold"] = level * factor
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    config = {
        "model_name": case.name,
        "model_kind": "transcoder_set",
        "feature_input_hook": case.reads,
        "feature_output_hook": "hook_mlp_out",
        "scan": f"bench/{case.name}",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _level(ranked: Any, count: int) -> Any:
    """The middle of the widest gap among the ranked values within 2 % of place `count`."""
    around = max(count // 50, 2)
    part = ranked[count - around : count + around + 1]
    place = int((part[:-1] - part[1:]).argmax())
    return (part[place] + part[place + 1]) / 2
