"""What is turned while a model reads, and what that does to the next tokens: features held, vectors added."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary
from thoughtscope.models import Model, Tokens, generate, tokenize
from thoughtscope.models.hooks import Write, forward

NEW_TOKENS = 16
"""Of the model's own answers."""
Turn = Callable[[Sequence[float]], Mapping[Site, Write]]
"""Writes that turn something to a strength for each row."""


def holding(dictionary: Dictionary, part: int, index: int, unit: float) -> Turn:
    """Holds a feature at multiples of `unit` at every position: the difference times its decoder is added."""
    one = dictionary.parts[part]
    (site,) = one.writes
    chosen = torch.tensor([index])
    decoder = one.decoder_rows(chosen)[site].float()

    def turn(multiples: Sequence[float]) -> Mapping[Site, Write]:
        wanted = unit * torch.tensor(list(multiples))[:, None, None]
        return {
            site: lambda x, step: x + ((wanted - one.activations_of(chosen, {site: x})) @ decoder).to(x.dtype)
        }

    return turn


def adding(site: Site, vector: Float[Tensor, " width"]) -> Turn:
    """Adds multiples of a vector at every position."""

    def turn(multiples: Sequence[float]) -> Mapping[Site, Write]:
        wanted = torch.tensor(list(multiples))[:, None, None] * vector
        return {site: lambda x, step: x + wanted.to(x.dtype)}

    return turn


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Prompts with the model's own answers, and the log chances of every next token of those, unsteered."""

    model: Model
    tokens: Tokens
    start: int
    base: Float[Tensor, "prompt pos vocab"]

    @property
    def n(self) -> int:
        return len(self.tokens)

    @torch.no_grad()
    def under(self, turn: Turn, strengths: Sequence[float]) -> Float[Tensor, "strength prompt pos vocab"]:
        """The log chances with something turned, for each strength."""
        rows = [strength for strength in strengths for _ in range(self.n)]
        ids, mask = (x.repeat(len(strengths), 1) for x in (self.tokens.ids, self.tokens.mask))
        many = Tokens(ids=ids, mask=mask, texts=(), pieces=(), offsets=())
        logits = forward(self.model, many, writes=turn(rows))
        assert logits is not None
        return self.answered(logits).unflatten(0, (len(strengths), self.n))

    def answered(self, logits: Tensor) -> Float[Tensor, "row pos vocab"]:
        return logits[:, self.start - 1 : -1].float().log_softmax(-1)

    def price(self, log_p: Float[Tensor, "strength prompt pos vocab"]) -> Float[Tensor, " strength"]:
        """KL(unsteered ‖ steered), mean over the answers."""
        return (self.base.exp() * (self.base - log_p)).sum(-1).mean((1, 2))


@torch.no_grad()
def answers_to(model: Model, prompts: Sequence[str]) -> Answers:
    """The model's own greedy answers."""
    tokens = tokenize(model, chat=[[{"role": "user", "content": prompt}] for prompt in prompts])
    longer = generate(model, tokens, max_new_tokens=NEW_TOKENS, stop_at_end=False)
    logits = forward(model, longer)
    assert logits is not None
    start = tokens.ids.shape[1]
    return Answers(
        model=model, tokens=longer, start=start, base=logits[:, start - 1 : -1].float().log_softmax(-1)
    )


def first_tokens(model: Model, words: Sequence[str]) -> Int[Tensor, " token"]:
    """The tokens by which the words begin within a text."""
    return torch.tensor(
        sorted({model.tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in words})
    )


def chance(log_p: Float[Tensor, "*row vocab"], tokens: Int[Tensor, " token"]) -> Float[Tensor, " first"]:
    """The log of the chance of any of the tokens, mean over the positions of each first index."""
    return log_p[..., tokens].logsumexp(-1).flatten(1).mean(1)
