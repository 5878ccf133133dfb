"""Documents in, batches of tokens with little padding out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

from jaxtyping import Bool
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens

Document = str | Sequence[int]
"""A text, or its token ids."""

NAMED = 64
"""Documents whose hash tells one text from another."""
POOL = 1024
"""Documents that are sorted by length together, so that a batch holds equally long ones."""


def documents_digest(documents: Iterable[Document]) -> str:
    """SHA-256 of the first `NAMED` documents."""
    digest = hashlib.sha256()
    for document in islice(documents, NAMED):
        digest.update(repr(document if isinstance(document, str) else [*document]).encode())
    return digest.hexdigest()


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
    if texts and model.tokenizer is None:
        raise ThoughtscopeError(f"{model.name} has no tokenizer: give documents as lists of token ids.")
    cut = {"truncation": True, "max_length": context, "verbose": False}
    written = iter(model.tokenizer(texts, **cut)["input_ids"] if texts else ())
    return [
        next(written) if isinstance(document, str) else [int(token) for token in document[:context]]
        for document in pool
    ]


def counted(mask: Bool[Tensor, "batch pos"], *, skip_first: bool) -> Bool[Tensor, "batch pos"]:
    """The real tokens; without each row's first one if `skip_first`."""
    return mask & (mask.cumsum(-1) > 1) if skip_first else mask
