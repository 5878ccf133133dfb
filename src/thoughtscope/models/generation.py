"""`generate` and `stream`: continuations under edits, greedy or drawn, the same with and without a key/value cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from thoughtscope.core.errors import InvalidPlan, LimitExceeded
from thoughtscope.core.site import Site
from thoughtscope.models.edits import Edit, writes_of
from thoughtscope.models.hooks import Read, Write, hooked, in_turn, run
from thoughtscope.models.model import Model
from thoughtscope.models.pieces import decode, piece_bytes, whole_characters
from thoughtscope.models.sampling import Sampling, draw, generators
from thoughtscope.models.tokens import Tokens, append


@dataclass(frozen=True, kw_only=True, eq=False)
class NewTokens:
    """What one step of a continuation adds, by row."""

    ids: Int[Tensor, " batch"]
    texts: tuple[str, ...]
    """What is now whole of the text; bytes of a character that is not complete wait for the rest. Put together they are
    the continuation's text up to its end token."""
    ended: tuple[bool, ...]
    """True from a row's end token on; such a row is carried along until all have ended."""


def generate(
    model: Model,
    tokens: Tokens,
    *,
    max_new_tokens: int,
    edits: Iterable[Edit] = (),
    writes: Mapping[Site, Write] | None = None,
    norm_scales: Mapping[Site, Tensor] | None = None,
    cache: bool = True,
    stop_at_end: bool = True,
    sampling: Sampling | None = None,
) -> Tokens:
    """The prompt and its continuation, greedy or drawn by `sampling`; every row grows by the same number of tokens.

    Edits address absolute positions of each row, so they mean the same in the prefill, in a decode step and in a padded
    batch. `writes` and `norm_scales` are those of `hooked`, applied after the edits of the same site. With
    `stop_at_end`, generation ends once every row has produced the model's end token. Of a conversation, the new tokens
    are the assistant's turn.
    Raises `LimitExceeded` when prompt and continuation do not fit the model's positions.
    """
    steps = stream(
        model,
        tokens,
        max_new_tokens=max_new_tokens,
        edits=edits,
        writes=writes,
        norm_scales=norm_scales,
        cache=cache,
        stop_at_end=stop_at_end,
        sampling=sampling,
    )
    new = [step.ids[:, None] for step in steps]
    return append(tokens, model, torch.cat(new, dim=1), ends=end_tokens(model)) if new else tokens


def stream(
    model: Model,
    tokens: Tokens,
    *,
    max_new_tokens: int,
    edits: Iterable[Edit] = (),
    reads: Mapping[Site, Read] | None = None,
    writes: Mapping[Site, Write] | None = None,
    norm_scales: Mapping[Site, Tensor] | None = None,
    cache: bool = True,
    stop_at_end: bool = True,
    sampling: Sampling | None = None,
) -> Iterator[NewTokens]:
    """`generate` a token at a time: each step is computed when it is asked for.

    Between two steps nothing is held: no hook stays on the module and no lock is taken, so that several streams,
    steered and not, can be drawn from in turn. To stop, ask for no more. `reads` are those of `hooked`.
    Raises as `generate`, at the call, before the first step; `InvalidPlan` at a step whose logits are NaN.
    """
    longest = int(tokens.mask.sum(-1).max()) + max_new_tokens
    if longest > model.max_positions:
        raise LimitExceeded(
            f"Prompt and continuation need {longest:,} positions; {model.name} has {model.max_positions:,}. "
            f"Ask for fewer than {max_new_tokens:,} new tokens."
        )
    combined = writes_of(model, edits)
    for site, later in (writes or {}).items():
        combined[site] = in_turn(combined[site], later) if site in combined else later
    hooks = {"reads": reads, "writes": combined, "norm_scales": norm_scales}
    continuation = _Continuation(model, tokens, hooks, cache=cache, sampling=sampling)
    return _steps(continuation, max_new_tokens, end_tokens(model), stop_at_end)


def _steps(
    continuation: _Continuation, max_new_tokens: int, ends: set[int], stop_at_end: bool
) -> Iterator[NewTokens]:
    rows = range(len(continuation.tokens))
    ended = [False for _ in rows]
    spellings = [_Spelling(continuation.model) for _ in rows]
    for number in range(max_new_tokens):
        ids = continuation.step()
        listed, last = ids.tolist(), number == max_new_tokens - 1
        ending = [listed[row] in ends for row in rows]
        texts = [
            ""
            if ended[row]
            else spellings[row].add(None if ending[row] else listed[row], last=last or ending[row])
            for row in rows
        ]
        ended = [ended[row] or ending[row] for row in rows]
        yield NewTokens(ids=ids, texts=tuple(texts), ended=tuple(ended))
        if stop_at_end and all(ended):
            return


class _Spelling:
    """A row's text as its tokens come; the bytes of a character that is not complete wait for the rest."""

    def __init__(self, model: Model) -> None:
        self.bytes_of = None if model.tokenizer is None else piece_bytes(model.tokenizer)
        self.waiting = b""

    def add(self, token: int | None, *, last: bool) -> str:
        if self.bytes_of is not None and token is not None:
            self.waiting += self.bytes_of(token)
        whole = len(self.waiting) if last else whole_characters(self.waiting)
        text, self.waiting = decode(self.waiting[:whole])[0], self.waiting[whole:]
        return text


class _Continuation:
    """A prompt and what has been added to it so far; `step` adds a token to each row."""

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        hooks: Mapping[str, Any],
        *,
        cache: bool,
        sampling: Sampling | None,
    ) -> None:
        self.model, self.tokens, self.hooks, self.sampling = model, tokens, hooks, sampling
        # no config for the cache: every layer keeps all keys, so the key axis is the same with and without it
        self.cache = DynamicCache() if cache else None
        self.generators = [] if sampling is None else generators(sampling, len(tokens))
        self.ids, self.mask = tokens.ids.to(model.device), tokens.mask.to(model.device)
        self.begun = False

    @torch.no_grad()
    def step(self) -> Int[Tensor, " batch"]:
        """The next token of each row."""
        fed = self.ids[:, -1:] if self.begun and self.cache is not None else self.ids
        with hooked(self.model, **self.hooks):
            logits = run(self.model, fed, self.mask, cache=self.cache)
        assert logits is not None
        if bool(logits[:, -1].isnan().any()):
            raise InvalidPlan("The model's logits are NaN: the edits drive it too far. Use smaller values.")
        if self.sampling is None:
            chosen = logits[:, -1].argmax(-1, keepdim=True)
        else:
            chosen = draw(logits[:, -1], self.sampling, self.generators)
        self.ids = torch.cat([self.ids, chosen.to(self.ids)], dim=1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self.begun = True
        return chosen[:, 0]


def end_tokens(model: Model) -> set[int]:
    """The ids that end a text, as the model's generation configuration declares them."""
    declared = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    declared = getattr(model.family.config, "eos_token_id", None) if declared is None else declared
    if declared is None:
        return set()
    return {int(token) for token in (declared if isinstance(declared, list | tuple) else [declared])}
