"""The one-layer transformer: an ordinary GPT-2 of one block whose neurons are ReLUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.models import Model, model_from
from thoughtscope.models.quiet import quiet
from thoughtscope.models.random_models import byte_tokenizer
from thoughtscope.replications.towards.corpus import BEGIN, LENGTH, LETTERS, VOCAB, Corpus

NEURONS = Site("mlp_act", 0)
"""Where dictionaries read and write: the neurons after their ReLU."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the model and of its training."""

    d_model: int = 64
    d_mlp: int = 256
    n_heads: int = 4
    batch: int = 32
    """Documents a step."""
    learning_rate: float = 3e-3


def untrained(shape: Shape, *, seed: int) -> Any:
    """The module as it starts, with transformers' own initial weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCAB, n_positions=LENGTH, n_embd=shape.d_model, n_layer=1, n_head=shape.n_heads,
        n_inner=shape.d_mlp, activation_function="relu", tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=BEGIN, eos_token_id=None, initializer_range=0.04,
    )  # fmt: skip
    config.architectures = ["GPT2LMHeadModel"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def trained_module(folder: Path) -> Any:
    """A module that was saved."""
    from transformers import GPT2LMHeadModel

    with quiet():
        return GPT2LMHeadModel.from_pretrained(folder, local_files_only=True)


def as_model(module: Any, *, name: str, seed: int) -> Model:
    """The module, bound and proved."""
    module.requires_grad_(False)
    return model_from(module, byte_tokenizer(LETTERS), name=name, revision=f"seed-{seed}")


def train_model(corpus: Corpus, shape: Shape, *, seed: int, progress: Progress = silent) -> Any:
    """A module that has read every document of the corpus once."""
    module = untrained(shape, seed=seed)
    ids = torch.from_numpy(corpus.ids).long()
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=shape.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
    )
    batches = ids.split(shape.batch)
    module.train()
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = shape.learning_rate * min(1.0, (step + 1) / 100) * (1 - step / len(batches))
        logits = module(batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            progress("model", step, len(batches), loss=loss.item())
    return module
