"""Documents in, activations out: batches with little padding, and chunks of shuffled rows for training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.features import flat

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens

Document = str | Sequence[int]
"""A text, or its token ids."""

POOL = 1024
"""Documents that are sorted by length together, so that a batch holds equally long ones."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Activations of many tokens, one row each: what encoders read and what was written, by layer."""

    inputs: Float[Tensor, "pos layer d_in"]
    outputs: Float[Tensor, "pos layer d_out"]

    def __len__(self) -> int:
        return self.inputs.shape[0]


def document_batches(
    model: Model, documents: Iterable[Document], *, context: int = 128, batch_tokens: int = 4096
) -> Iterator[Tokens]:
    """Left-padded batches of at most `batch_tokens`, each document cut to `context` tokens.

    Every document comes once, except those of a single token. Raises `ThoughtscopeError` when there are only such.
    """
    for _, tokens in numbered_batches(model, documents, context=context, batch_tokens=batch_tokens):
        yield tokens


def numbered_batches(
    model: Model, documents: Iterable[Document], *, context: int = 128, batch_tokens: int = 4096
) -> Iterator[tuple[list[int], Tokens]]:
    """`document_batches` with the number of each row's document, counted from 0 as they came."""
    from thoughtscope.models.tokens import pad_left

    stream = iter(documents)
    start = 0
    while pool := list(islice(stream, POOL)):
        encoded = _encoded(model, pool, context)
        order = sorted((n for n in range(len(pool)) if len(encoded[n]) > 1), key=lambda n: len(encoded[n]))
        if not order and len(pool) == POOL:  # else a source that starts over would go round for ever
            raise ThoughtscopeError(f"{POOL:,} documents in a row hold no text of two tokens or more.")
        batches = []
        while order:
            # The longest of a batch decides its width: as many documents as fit when the shortest is widened to it.
            size = max(1, batch_tokens // len(encoded[order[0]]))
            while size > 1 and size * len(encoded[order[:size][-1]]) > batch_tokens:
                size -= 1
            batches.append(order[:size])
            order = order[size:]
        # Not from short to long: whoever stops early should have seen both.
        Random(start).shuffle(batches)
        for batch in batches:
            yield [start + n for n in batch], pad_left([encoded[n] for n in batch])
        start += len(pool)


def _encoded(model: Model, pool: list[Document], context: int) -> list[list[int]]:
    texts = [document for document in pool if isinstance(document, str)]
    if not texts:
        return [[int(token) for token in document[:context]] for document in pool]
    if len(texts) < len(pool):
        raise ThoughtscopeError("Documents are either all texts or all lists of token ids.")
    if model.tokenizer is None:
        raise ThoughtscopeError(f"{model.name} has no tokenizer: give documents as lists of token ids.")
    return model.tokenizer(texts, truncation=True, max_length=context, verbose=False)["input_ids"]


def counted(mask: Bool[Tensor, "batch pos"], *, skip_first: bool) -> Bool[Tensor, "batch pos"]:
    """The real tokens; without each row's first one if `skip_first`."""
    return mask & (mask.cumsum(-1) > 1) if skip_first else mask


def read_rows(
    model: Model,
    batches: Iterator[Tokens],
    reads: Sequence[Site],
    writes: Sequence[Site],
    *,
    n_tokens: int,
    skip_first: bool = True,
    dtype: torch.dtype = torch.float16,
) -> Rows:
    """Takes batches until there are `n_tokens` rows (or no batch is left); shape (pos, layer, width) each.

    Raises `ThoughtscopeError` when an activation does not fit `dtype`.
    """
    from thoughtscope.models import capture

    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    found = 0
    while found < n_tokens and (tokens := next(batches, None)) is not None:
        acts = capture(model, tokens, (*reads, *writes))
        keep = counted(tokens.mask, skip_first=skip_first)
        inputs.append(_gather(acts, reads, keep, dtype))
        outputs.append(_gather(acts, writes, keep, dtype))
        found += int(keep.sum())
    if not inputs:
        read, wrote = (torch.zeros(0, len(s), model.width(s[0]), dtype=dtype) for s in (reads, writes))
        return Rows(inputs=read, outputs=wrote)
    return Rows(inputs=torch.cat(inputs)[:n_tokens], outputs=torch.cat(outputs)[:n_tokens])


def skip_rows(batches: Iterator[Tokens], *, n_tokens: int, skip_first: bool = True) -> None:
    """Passes over the batches that `read_rows` would take, without running the model."""
    found = 0
    while found < n_tokens and (tokens := next(batches, None)) is not None:
        found += int(counted(tokens.mask, skip_first=skip_first).sum())


def _gather(
    acts: Mapping[Site, Tensor], sites: Sequence[Site], keep: Bool[Tensor, "batch pos"], dtype: torch.dtype
) -> Tensor:
    held = [flat(acts[site][keep.to(acts[site].device)], 1).to("cpu", dtype) for site in sites]
    rows = torch.stack(held, dim=1)
    if not rows.isfinite().all():
        raise ThoughtscopeError(
            f"Activations at {sites[0].kind} are not finite in {dtype}; keep them in a wider type (bfloat16, float32)."
        )
    return rows
