"""The model's own samples as documents: what it writes after its beginning-of-text token, or answers to questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError
from thoughtscope.training.data.order import generator
from thoughtscope.training.data.questions import questions

if TYPE_CHECKING:
    from thoughtscope.models import Model


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How documents are written."""

    tokens: int = 128
    """Of the longest document, the first one included."""
    temperature: float = 1.0
    seed: int = 0
    n: int = 0
    """Documents before the source ends; 0 for one that never does."""
    chat: int = 0
    """1 for conversations: a question of `questions` in the model's chat template, and what the model answers."""
    together: int = 32
    """Documents that are written side by side, as a group: more are faster, and take more memory."""

    def __post_init__(self) -> None:
        counts = self.tokens < 2 or self.n < 0 or self.chat not in (0, 1) or self.together < 1
        if counts or self.temperature <= 0:
            raise ThoughtscopeError(
                "Samples have 2 tokens or more, a temperature above 0, n of 0 or more, chat of 0 or 1 and 1 or more "
                f"together; got {self}."
            )


def samples(model: Model, sampling: Sampling) -> Iterator[list[int]]:
    """Documents as token ids, up to the model's end token; the same ones each time.

    Document i depends on the seed, on i and on how many are written together. Raises
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
        group = _written(model, sampling, number // sampling.together)
        yield from group[: sampling.n - number if sampling.n else None]
        number += sampling.together


@torch.no_grad()
def _written(model: Model, sampling: Sampling, group: int) -> list[list[int]]:
    """One group of documents, drawn token by token with a cache."""
    from transformers import DynamicCache

    from thoughtscope.models.generation import end_tokens
    from thoughtscope.models.hooks import run

    ends = end_tokens(model)
    ends_at = torch.tensor(sorted(ends), dtype=torch.long)
    random = generator("samples", sampling.seed, group)
    ids, mask = _asked(model, sampling, group) if sampling.chat else _begun(model, ends, sampling.together)
    begun, cache, fed = ids.shape[1], DynamicCache(), ids
    over = torch.zeros(sampling.together, dtype=torch.bool)
    while ids.shape[1] < sampling.tokens and not bool(over.all()):
        logits = run(model, fed, mask, cache=cache)
        assert logits is not None
        odds = (logits[:, -1].float().cpu() / sampling.temperature).softmax(-1)
        fed = torch.multinomial(odds, 1, generator=random)
        ids = torch.cat([ids, fed], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        over |= torch.isin(fed[:, 0], ends_at)
    return [_until_end(row, kept, begun, ends_at) for row, kept in zip(ids, mask, strict=True)]


def _begun(model: Model, ends: set[int], n: int) -> tuple[Int[Tensor, "doc 1"], Bool[Tensor, "doc 1"]]:
    """The first token of each document."""
    ids = torch.full((n, 1), _first_token(model, ends))
    return ids, torch.ones_like(ids, dtype=torch.bool)


def _asked(
    model: Model, sampling: Sampling, group: int
) -> tuple[Int[Tensor, "doc pos"], Bool[Tensor, "doc pos"]]:
    """A question in each row, ready for the answer. Raises `LimitExceeded` where no room is left for one."""
    from thoughtscope.models import tokenize

    first = group * sampling.together
    asked = islice(questions(sampling.seed), first, first + sampling.together)
    tokens = tokenize(model, chat=[[{"role": "user", "content": question}] for question in asked])
    if tokens.ids.shape[1] >= sampling.tokens:
        raise LimitExceeded(
            f"Conversations of {sampling.tokens} tokens leave no room for an answer: a question takes up to "
            f"{tokens.ids.shape[1]} in the chat template of {model.name}. Ask for longer ones: chat=1,tokens=256."
        )
    return tokens.ids, tokens.mask


def _until_end(
    row: Int[Tensor, " pos"], kept: Bool[Tensor, " pos"], begun: int, ends: Int[Tensor, " end"]
) -> list[int]:
    """A document without its padding, up to the end token that was drawn, which stays."""
    at = torch.isin(row[begun:], ends).nonzero()
    stop = begun + int(at[0]) + 1 if len(at) else len(row)
    return row[:stop][kept[:stop]].tolist()


def _first_token(model: Model, ends: set[int]) -> int:
    """What documents begin with: the tokenizer's own token for it, or the one that ends them."""
    token = getattr(model.tokenizer, "bos_token_id", None)
    token = getattr(model.family.config, "bos_token_id", None) if token is None else token
    token = min(ends, default=None) if token is None else token
    if token is None or not 0 <= token < model.vocab_size:
        raise ThoughtscopeError(f"{model.name} names no token that texts begin with, so it writes none.")
    return int(token)
