"""The model's own samples as documents: what it writes after its beginning-of-text token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError
from thoughtscope.training.data.order import generator

if TYPE_CHECKING:
    from thoughtscope.models import Model

TOGETHER = 32
"""Documents that are written side by side."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How documents are written."""

    tokens: int = 128
    """Of the longest document, the first one included."""
    temperature: float = 1.0
    seed: int = 0
    n: int = 0
    """Documents before the source ends; 0 for one that never does."""

    def __post_init__(self) -> None:
        if self.tokens < 2 or self.temperature <= 0 or self.n < 0:
            raise ThoughtscopeError(
                f"Samples have 2 tokens or more, a temperature above 0 and n of 0 or more; got {self}."
            )


def samples(model: Model, sampling: Sampling) -> Iterator[list[int]]:
    """Documents as token ids, up to the model's end token; the same ones each time.

    Document i depends on the seed and i alone, but is written along with the others of its group. Raises
    `LimitExceeded` for documents longer than the model's positions, `ThoughtscopeError` for a model that has no token
    to begin with.
    """
    if sampling.tokens > model.max_positions:
        raise LimitExceeded(
            f"Samples of {sampling.tokens:,} tokens do not fit {model.name}, which has {model.max_positions:,} "
            "positions. Ask for shorter ones."
        )
    number = 0
    while not sampling.n or number < sampling.n:
        group = _written(model, sampling, number // TOGETHER)
        yield from group[: sampling.n - number if sampling.n else None]
        number += TOGETHER


@torch.no_grad()
def _written(model: Model, sampling: Sampling, group: int) -> list[list[int]]:
    """One group of documents, drawn token by token with a cache."""
    from transformers import DynamicCache

    from thoughtscope.models.generation import end_tokens
    from thoughtscope.models.hooks import run

    ends = end_tokens(model)
    ends_at = torch.tensor(sorted(ends), dtype=torch.long)
    random = generator("samples", sampling.seed, group)
    ids = torch.full((TOGETHER, 1), _first_token(model, ends))
    cache, fed = DynamicCache(), ids
    over = torch.zeros(TOGETHER, dtype=torch.bool)
    while ids.shape[1] < sampling.tokens and not bool(over.all()):
        logits = run(model, fed, torch.ones_like(ids, dtype=torch.bool), cache=cache)
        assert logits is not None
        odds = (logits[:, -1].float().cpu() / sampling.temperature).softmax(-1)
        fed = torch.multinomial(odds, 1, generator=random)
        ids = torch.cat([ids, fed], dim=1)
        over |= torch.isin(fed[:, 0], ends_at)
    return [_until_end(row, ends_at) for row in ids]


def _until_end(row: Int[Tensor, " pos"], ends: Int[Tensor, " end"]) -> list[int]:
    """A document up to its end token, which stays. The first token may be the same one."""
    at = torch.isin(row[1:], ends).nonzero()
    return row[: int(at[0]) + 2 if len(at) else None].tolist()


def _first_token(model: Model, ends: set[int]) -> int:
    """What documents begin with: the tokenizer's own token for it, or the one that ends them."""
    token = getattr(model.tokenizer, "bos_token_id", None)
    token = getattr(model.family.config, "bos_token_id", None) if token is None else token
    token = min(ends, default=None) if token is None else token
    if token is None or not 0 <= token < model.vocab_size:
        raise ThoughtscopeError(f"{model.name} names no token that texts begin with, so it writes none.")
    return int(token)
