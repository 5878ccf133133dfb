"""Documents → contexts → forward passes → rows of activations, with the token that each row belongs to.

A document is cut into contexts of one length, so that no token is lost; contexts of similar length share a forward
pass, so that little is padding. What passes a document is in, and which row of them a token is, depends on the
documents alone: rows can be counted and passed over without running the model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError, UnsupportedModel
from thoughtscope.core.site import Site
from thoughtscope.core.tensors import all_finite
from thoughtscope.dictionaries.documents import Document, counted
from thoughtscope.dictionaries.features import flat

if TYPE_CHECKING:
    from thoughtscope.models import Model

POOL = 32
"""Forward passes whose contexts are sorted by length together, once a source has given that many: the first pool is one
pass, and each is twice the last, so that the first rows of a slow source do not wait for a hundred thousand tokens."""
_GROUP = 64
"""Documents that are tokenised together."""
_EMPTY = 16_384
"""Documents in a row without a row, after which a source counts as empty: one that starts over would go round for
ever."""
_WIDE = (torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Feed:
    """How documents go through the model, and which rows are kept."""

    context: int = 128
    """Tokens that the model sees at once; the rest of a document is in further contexts. Where a document begins with
    the tokenizer's beginning-of-text token, so does each of them."""
    forward_tokens: int = 4096
    """Tokens of one forward pass, padding included."""
    skip_first: bool = True
    """Leaves out the first position of a context, whose activations are large and the same everywhere."""
    dtype: torch.dtype = torch.bfloat16
    """The type of the rows."""

    def __post_init__(self) -> None:
        least = 2 if self.skip_first else 1
        if self.context < least or self.forward_tokens < self.context:
            raise ThoughtscopeError(
                f"context is at least {least} and forward_tokens at least context; got {self.context} and "
                f"{self.forward_tokens}."
            )
        if not self.dtype.is_floating_point:
            raise ThoughtscopeError(
                f"Rows are kept in a floating type, for example bfloat16; got {self.dtype}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """A stretch of a document that the model sees at once."""

    document: int
    """Number of the document, from 0 as they came."""
    offset: int
    """Where in the document its first token is. A repeated beginning-of-text token is in the place of the token before
    the stretch."""
    ids: Int[np.ndarray, " pos"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """The contexts of one forward pass. Nothing has been computed yet."""

    contexts: tuple[Context, ...]
    skip_first: bool

    def __len__(self) -> int:
        """Rows that the pass will give."""
        return sum(len(context.ids) for context in self.contexts) - self.skip_first * len(self.contexts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Harvested:
    """Rows of activations by site, heads side by side, and of which token each is."""

    rows: Mapping[Site, Tensor]
    """(row, width) each, on the device that made them."""
    token: Int[Tensor, " row"]
    document: Int[Tensor, " row"]
    position: Int[Tensor, " row"]
    """In the context, from 0."""
    offset: Int[Tensor, " row"]
    """In the document, from 0: see `Context.offset`."""

    def __len__(self) -> int:
        return self.token.shape[0]

    def slice(self, start: int, end: int) -> Harvested:
        """Rows `start` to `end`."""
        return Harvested(
            rows={site: x[start:end] for site, x in self.rows.items()},
            token=self.token[start:end],
            document=self.document[start:end],
            position=self.position[start:end],
            offset=self.offset[start:end],
        )


def harvest(
    model: Model, documents: Iterable[Document], sites: Sequence[Site | str], feed: Feed | None = None
) -> Iterator[Harvested]:
    """The rows of all documents, a forward pass at a time; one pass serves all sites.

    Raises `UnknownSite`, and `ThoughtscopeError` for activations that are not finite or documents without text.
    """
    feed = feed or Feed()
    wanted = tuple(dict.fromkeys(model.site(site) for site in sites))
    bos = getattr(model.tokenizer, "bos_token_id", None)
    for packed in packed_contexts(encoder(model), enumerate(documents), feed, bos=bos):
        found = run_packed(model, packed, wanted, feed.dtype)
        check_finite(found.rows)
        yield found


# --- documents to forward passes -----------------------------------------------------------------------------------

Encoder = Callable[[list[Document]], list[Sequence[int]]]


def encoder(model: Model) -> Encoder:
    """Whole documents to token ids, special tokens as the tokenizer adds them; lists of ids pass as they are.

    It has a tokenizer of its own: a setting that another thread changes on the model's (a length to cut at) is without
    effect here. Raises `ThoughtscopeError` for an id outside the vocabulary, and for texts where the model has no
    tokenizer.
    """
    own = _own_tokenizer(model)
    size = model.vocab_size

    def encode(documents: list[Document]) -> list[Sequence[int]]:
        texts = [document for document in documents if isinstance(document, str)]
        if texts and own is None:
            raise ThoughtscopeError(f"{model.name} has no tokenizer: give documents as lists of token ids.")
        written = iter(own.encode_batch_fast(texts, add_special_tokens=True) if texts else ())
        return [next(written).ids if isinstance(each, str) else _checked(each, size) for each in documents]

    return encode


def _checked(document: Sequence[int], size: int) -> list[int]:
    """A document that is a list of token ids."""
    try:
        ids = [int(token) for token in document]
    except (TypeError, ValueError):
        raise ThoughtscopeError("A document is a text or a list of token ids.") from None
    bad = next((token for token in ids if not 0 <= token < size), None)
    if bad is not None:
        raise ThoughtscopeError(
            f"Token id {bad} is outside the vocabulary: allowed 0 to {size - 1}. Another model's tokens?"
        )
    return ids


def _own_tokenizer(model: Model) -> Any:
    from tokenizers import Tokenizer

    if model.tokenizer is None:
        return None
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedModel(
            f"{model.name} has a {type(model.tokenizer).__name__}, which is no fast tokenizer. "
            "Convert it with transformers' AutoTokenizer, or give documents as lists of token ids."
        )
    own = Tokenizer.from_str(backend.to_str())
    own.no_truncation()
    own.no_padding()
    own.encode_special_tokens = backend.encode_special_tokens
    return own


def packed_contexts(
    encode: Encoder, documents: Iterable[tuple[int, Document]], feed: Feed, *, bos: int | None = None
) -> Iterator[Packed]:
    """Numbered documents as forward passes: contexts of similar length together, passes in a fixed random order."""
    contexts = cut_contexts(encode, documents, feed, bos=bos)
    rest: list[Context] = []
    for number in range(1 << 62):
        pool, size = rest, sum(len(context.ids) for context in rest)
        full = min(POOL, 2 ** min(number, 30)) * feed.forward_tokens
        while size < full and (context := next(contexts, None)) is not None:
            pool.append(context)
            size += len(context.ids)
        if not pool:
            return
        over = size < full
        batches, rest = _grouped(pool, feed, whole=over)
        # Not from long to short: whoever stops early should have seen both.
        Random(number).shuffle(batches)
        yield from batches
        if over:
            return


def _grouped(pool: list[Context], feed: Feed, *, whole: bool) -> tuple[list[Packed], list[Context]]:
    """Contexts as passes, the longest together, and the shortest that fill none; with `whole` those are a pass too."""
    pool = sorted(pool, key=lambda context: -len(context.ids))  # stable: equally long ones stay in order
    batches = []
    start = 0
    while start < len(pool):
        size = max(1, feed.forward_tokens // len(pool[start].ids))  # the longest decides how wide a pass is
        if start + size > len(pool) and not whole:
            break
        batches.append(Packed(contexts=tuple(pool[start : start + size]), skip_first=feed.skip_first))
        start += size
    return batches, pool[start:]


def cut_contexts(
    encode: Encoder, documents: Iterable[tuple[int, Document]], feed: Feed, *, bos: int | None = None
) -> Iterator[Context]:
    """Every document as contexts of at most `feed.context` tokens; one without any row is left out.

    Raises `ThoughtscopeError` when very many documents in a row have no text.
    """
    least = 2 if feed.skip_first else 1
    numbered = iter(documents)
    empty = 0
    while group := list(islice(numbered, _GROUP)):
        for (number, _), ids in zip(group, encode([document for _, document in group]), strict=True):
            found = 0
            # four bytes a token: a pool of them, as Python's own numbers, would weigh ten times as much
            for offset, stretch in _stretches(np.asarray(ids, dtype=np.int32), feed.context, bos):
                if len(stretch) >= least:
                    found += 1
                    yield Context(document=number, offset=offset, ids=stretch)
            empty = 0 if found else empty + 1
        if empty >= _EMPTY:
            raise ThoughtscopeError(
                f"{empty:,} documents in a row hold no text of {least} tokens or more. Name another source."
            )


def _stretches(
    ids: Int[np.ndarray, " pos"], context: int, bos: int | None
) -> Iterator[tuple[int, Int[np.ndarray, " _"]]]:
    """A document's ids in stretches, each with where its first token is."""
    repeated = bos is not None and len(ids) > 0 and ids[0] == bos and context > 1
    yield 0, ids[:context]
    step = context - repeated
    for start in range(context, len(ids), step):
        stretch = ids[start : start + step]
        yield (start - 1, np.concatenate([ids[:1], stretch])) if repeated else (start, stretch)


# --- forward passes to rows ----------------------------------------------------------------------------------------


def run_packed(model: Model, packed: Packed, sites: Sequence[Site], dtype: torch.dtype) -> Harvested:
    """One forward pass, and its rows: of each context all tokens, without the first if it is to be skipped."""
    from thoughtscope.models import capture, pad_left

    tokens = pad_left([context.ids.tolist() for context in packed.contexts])
    keep = counted(tokens.mask, skip_first=packed.skip_first).flatten().nonzero()[:, 0]
    acts = capture(model, tokens, sites)
    length = tokens.ids.shape[1]
    row, column = keep // length, keep % length
    lengths = torch.tensor([len(context.ids) for context in packed.contexts])
    position = column - (length - lengths)[row]
    offsets = torch.tensor([context.offset for context in packed.contexts])
    return Harvested(
        rows={site: _rows(acts[site], keep, dtype) for site in sites},
        token=tokens.ids.flatten()[keep],
        document=torch.tensor([context.document for context in packed.contexts])[row],
        position=position,
        offset=position + offsets[row],
    )


@contextmanager
def in_pace(model: Model, sites: Sequence[Site]) -> Iterator[Callable[[], object]]:
    """Of a model that is spread over processes, keeps their passes in step while each makes its own rows.

    The value is to be called where this process has the rows that it needs: it waits for the others, and runs a pass
    over one token as often as one of them runs a pass. For other models it does nothing.
    """
    from thoughtscope.models import capture, pad_left

    if model.pace is None:
        yield lambda: None
        return
    token = pad_left([[0]])
    with model.pace.kept(lambda: capture(model, token, sites)) as wait:
        yield wait


def _rows(x: Tensor, keep: Int[Tensor, " row"], dtype: torch.dtype) -> Tensor:
    # chosen by index, not by mask: a mask makes an accelerator wait for its count
    return flat(x, 2).flatten(0, 1).index_select(0, keep.to(x.device)).to(dtype)


def check_finite(rows: Mapping[Site, Tensor]) -> None:
    """Raises `ThoughtscopeError` naming the first site that holds NaN or infinity, and what to do."""
    for site, x in rows.items():
        if not all_finite(x):
            fix = (
                "The model itself makes them: load it in a wider type (bfloat16, float32)."
                if x.dtype in _WIDE
                else "Keep them in a wider type (bfloat16, float32)."
            )
            raise ThoughtscopeError(f"Activations at {site} are not finite in {x.dtype}. {fix}")


# --- lanes: what makes rows addressable ----------------------------------------------------------------------------


class Dealer:
    """Deals one sequence of documents to lanes: document `n` to lane `n` modulo their number.

    Whoever wants some of the lanes reads all documents, and tokenises those of its own lanes alone.
    """

    def __init__(self, documents: Iterator[Document], *, own: Sequence[int], n_lanes: int) -> None:
        self._documents = enumerate(documents)
        self._n_lanes = n_lanes
        self._waiting: dict[int, deque[tuple[int, Document]]] = {lane: deque() for lane in own}

    def lane(self, number: int) -> Iterator[tuple[int, Document]]:
        """The numbered documents of one lane."""
        waiting = self._waiting[number]
        while True:
            while not waiting:
                dealt = next(self._documents, None)
                if dealt is None:
                    return
                lane = dealt[0] % self._n_lanes
                if lane in self._waiting:
                    self._waiting[lane].append(dealt)
            yield waiting.popleft()


class Lane:
    """The rows of one lane in their order: some can be passed over, and the next ones taken."""

    def __init__(
        self, model: Model, batches: Iterator[Packed], sites: Sequence[Site], dtype: torch.dtype
    ) -> None:
        self._model = model
        self._batches = batches
        self._sites = sites
        self._dtype = dtype
        self._open: tuple[Packed, int] | None = None
        """A pass of which some rows were passed over or taken, and how many."""
        self._rows: Harvested | None = None
        """The rows of that pass, once the model has run."""

    def skip(self, n_rows: int) -> int:
        """Passes over rows without running the model; how many there were."""
        return sum(end - start for _, start, end in self._stretches(n_rows))

    def take(self, n_rows: int) -> Iterator[Harvested]:
        """The next rows, as they come out of forward passes; fewer where the documents end."""
        for packed, start, end in self._stretches(n_rows):
            if self._rows is None:
                self._rows = run_packed(self._model, packed, self._sites, self._dtype)
            yield self._rows.slice(start, end)

    def _stretches(self, n_rows: int) -> Iterator[tuple[Packed, int, int]]:
        while n_rows > 0:
            if self._open is None:
                packed = next(self._batches, None)
                if packed is None:
                    return
                self._open, self._rows = (packed, 0), None
            packed, start = self._open
            end = min(len(packed), start + n_rows)
            yield packed, start, end
            n_rows -= end - start
            self._open = (packed, end)
            if end == len(packed):
                self._open, self._rows = None, None


def lanes_of(
    model: Model,
    documents: Iterator[Document],
    sites: Sequence[Site],
    feed: Feed,
    *,
    own: Sequence[int],
    n_lanes: int,
) -> list[Lane]:
    """The lanes `own` of `n_lanes` over one sequence of documents."""
    dealer = Dealer(documents, own=own, n_lanes=n_lanes)
    encode, bos = encoder(model), getattr(model.tokenizer, "bos_token_id", None)
    return [
        Lane(model, packed_contexts(encode, dealer.lane(number), feed, bos=bos), sites, feed.dtype)
        for number in own
    ]
