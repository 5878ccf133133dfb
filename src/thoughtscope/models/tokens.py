"""`tokenize`: text to token ids, with pieces and byte offsets that are exact for any script."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError, UnsupportedModel
from thoughtscope.models.model import Model
from thoughtscope.models.pieces import decode, longest_piece, piece_bytes, show

Offsets = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokens:
    """Token ids of one or more prompts, padded on the left, with what each token covers of its text."""

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    "True for real tokens."
    texts: tuple[str, ...]
    pieces: tuple[tuple[str, ...], ...]
    "Each real token as shown to a person; bytes of partial characters as <0xE4>."
    offsets: tuple[Offsets, ...]
    "Byte offsets of each real token in `texts[row].encode()`; (0, 0) for special tokens that the tokenizer added."

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """0 from the first real token of a row; -1 for padding."""
        return positions_of(self.mask)

    def __len__(self) -> int:
        return self.ids.shape[0]

    def row(self, index: int) -> Tokens:
        """One prompt alone, without padding."""
        keep = self.mask[index]
        return Tokens(
            ids=self.ids[index : index + 1, keep],
            mask=self.mask[index : index + 1, keep],
            texts=(self.texts[index],),
            pieces=(self.pieces[index],),
            offsets=(self.offsets[index],),
        )


def positions_of(mask: Tensor) -> Int[Tensor, "batch pos"]:
    """Absolute positions from a padding mask: 0 from the first real token on, -1 for padding."""
    return torch.where(mask.bool(), mask.long().cumsum(-1) - 1, -1)


def tokenize(
    model: Model,
    text: str | Sequence[str] | Sequence[dict[str, Any]],
    *,
    special_tokens: bool = True,
    bos: bool | None = None,
    chat: bool = False,
    max_tokens: int | None = None,
) -> Tokens:
    """Token ids for one text, several texts (padded on the left), or one conversation.

    With `chat`, each text is one user message put through the model's chat template, ready for the answer; a list of
    `{"role": ..., "content": ...}` is one conversation. `special_tokens` adds what the tokenizer adds by itself
    (a template already holds them). `bos=True` puts the tokenizer's beginning-of-text token first where it is not there
    already, `bos=False` leaves it out; with neither, what the tokenizer does by itself stands, and a text that then
    begins without the token warns with `MissingBos` (see `wants_bos`). The limit is `max_tokens` or the model's own
    positions, whichever is less.
    Raises `LimitExceeded` over the limit, `UnsupportedModel` without a fast tokenizer, `ThoughtscopeError` for an
    empty prompt, a missing chat template, or `bos=True` for a tokenizer that has no such token.
    """
    _require_tokenizer(model)
    texts, templated = _texts(model, text, chat)
    limit = model.max_positions if max_tokens is None else min(max_tokens, model.max_positions)
    rows = []
    for each in texts:
        _check_text(model, each, limit)
        rows.append(_with_bos(model, _encode(model, each, special_tokens and not templated), bos))
        _check_length(len(rows[-1].ids), limit, model)
    tokens = _pad(model, texts, rows)
    if bos is None and special_tokens and not templated and (why := wants_bos(model, tokens)) is not None:
        message = f"{why} Ask for it with tokenize(..., bos=True), or say bos=False."
        listener = _LISTENER.get()
        if listener is None:
            warnings.warn(message, MissingBos, stacklevel=2)
        else:
            listener.append(message)
    return tokens


_LISTENER: ContextVar[list[str] | None] = ContextVar("missing_bos", default=None)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Collects what `MissingBos` would say in this thread, in place of warning.

    Python's own way to catch warnings is one switch for all threads, and a server has several.
    """
    said: list[str] = []
    token = _LISTENER.set(said)
    try:
        yield said
    finally:
        _LISTENER.reset(token)


class MissingBos(UserWarning):
    """A prompt begins without the beginning-of-text token that its tokenizer has."""


def wants_bos(model: Model, tokens: Tokens) -> str | None:
    """What is lost because a row begins without the tokenizer's beginning-of-text token; None where nothing is.

    Models are trained on texts that begin with the token where the tokenizer has one, and keep a large constant
    activation at position 0. Without it the first word stands there: dictionaries leave that position out or explain it
    badly. A tokenizer that names no such token (Qwen) says that its model needs none.
    """
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if bos is None or not 0 <= bos < model.vocab_size:
        return None
    first = tokens.mask.long().argmax(-1, keepdim=True)  # column of each row's first real token
    without = (tokens.ids.gather(1, first)[:, 0] != bos).nonzero()[:, 0].tolist()
    if not without:
        return None
    word = tokens.pieces[without[0]][0]
    return (
        f"The prompt begins with {word!r}, without {model.name}'s beginning-of-text token {token_text(model, bos)!r}: "
        f"{word!r} takes the place of that token, where dictionaries have no features or do not fit."
    )


def tokens_from_ids(model: Model, ids: Tensor | Sequence[int] | Sequence[Sequence[int]]) -> Tokens:
    """Tokens from ids: one row, several rows of any lengths (padded on the left), or a tensor (batch, pos).

    Texts are the ids' bytes read as UTF-8; without a tokenizer they are empty and pieces are `⟨id⟩`.
    Raises `ThoughtscopeError` for no ids or an id outside the vocabulary, `LimitExceeded` over the model's positions.
    """
    listed = ids.tolist() if isinstance(ids, Tensor) else [*ids]
    rows: list[list[int]] = [[*row] if isinstance(row, Sequence) else [row] for row in listed]
    if listed and not isinstance(listed[0], Sequence):
        rows = [[*listed]]
    if not rows or not all(rows):
        raise ThoughtscopeError("There are no token ids. Give at least one id in every row.")
    for row in rows:
        _check_length(len(row), model.max_positions, model)
        bad = next((token for token in row if not 0 <= token < model.vocab_size), None)
        if bad is not None:
            raise ThoughtscopeError(
                f"Token id {bad} is outside the vocabulary: allowed 0 to {model.vocab_size - 1}."
            )
    described = [describe(model, row) for row in rows]
    texts = [text for text, _, _ in described]
    return _pad(model, texts, [_Row(row, p, o) for row, (_, p, o) in zip(rows, described, strict=True)])


def pad_left(sequences: Sequence[Sequence[int]], *, filler: int = 0) -> Tokens:
    """Token ids of several rows as one batch, padded on the left; texts and pieces stay empty.

    For runs over many documents, where nobody reads the tokens. `filler` is the id at padded places.
    """
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), filler, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, longest - len(sequence) :] = True
    nothing = tuple(() for _ in sequences)
    return Tokens(ids=ids, mask=mask, texts=("",) * len(sequences), pieces=nothing, offsets=nothing)


def token_text(model: Model, token: int) -> str:
    """A token as it is shown everywhere: its text with its space, `<0xE4>` for a byte of a partial character.

    Without a tokenizer it is `⟨id⟩`.
    """
    return describe(model, [token])[1][0]


def describe(model: Model, ids: Sequence[int]) -> tuple[str, list[str], list[tuple[int, int]]]:
    """The text that ids spell, each id's piece, and its byte offsets in that text."""
    if model.tokenizer is None:
        return "", [f"⟨{token}⟩" for token in ids], [(0, 0)] * len(ids)
    bytes_of = piece_bytes(model.tokenizer)
    data = [bytes_of(token) for token in ids]
    text, where = decode(b"".join(data))
    offsets, at = [], 0
    for piece in data:
        offsets.append((where[at], where[at + len(piece)]))
        at += len(piece)
    return text, [show(piece) for piece in data], offsets


def append(tokens: Tokens, model: Model, new: Int[Tensor, "batch pos"]) -> Tokens:
    """Tokens with generated columns on the right; texts, pieces and offsets grow with them."""
    texts, pieces, offsets = [], [], []
    for row in range(len(tokens)):
        text, more, spans = describe(model, new[row].tolist())
        shift = len(tokens.texts[row].encode())
        texts.append(tokens.texts[row] + text)
        pieces.append((*tokens.pieces[row], *more))
        offsets.append((*tokens.offsets[row], *((shift + start, shift + end) for start, end in spans)))
    return Tokens(
        ids=torch.cat([tokens.ids, new.to(tokens.ids)], dim=1),
        mask=torch.cat(
            [tokens.mask, torch.ones_like(new, dtype=torch.bool, device=tokens.mask.device)], dim=1
        ),
        texts=tuple(texts),
        pieces=tuple(pieces),
        offsets=tuple(offsets),
    )


def _require_tokenizer(model: Model) -> None:
    if model.tokenizer is None:
        raise UnsupportedModel(
            f"{model.name} was bound without a tokenizer. Use tokens_from_ids(model, ids)."
        )
    if getattr(model.tokenizer, "backend_tokenizer", None) is None:
        raise UnsupportedModel(
            f"{model.name} has a {type(model.tokenizer).__name__}, which keeps no exact offsets. "
            f"Only fast tokenizers (tokenizer.json) are supported; convert it with transformers' AutoTokenizer."
        )


def _texts(model: Model, text: Any, chat: bool) -> tuple[list[str], bool]:
    """The texts to encode, and whether a chat template (with its own special tokens) wrote them."""
    several: list[Any] = [text] if isinstance(text, str) else [*text]
    if not several:
        raise ThoughtscopeError("The prompt is empty. Give at least one text.")
    if all(isinstance(each, dict) for each in several):
        return [_template(model, several)], True
    if not all(isinstance(each, str) for each in several):
        raise ThoughtscopeError(
            "A prompt is a text, a list of texts, or a list of chat messages, not a mixture."
        )
    for each in several:
        if not each:
            raise ThoughtscopeError("The prompt is empty. Type at least one character.")
    if chat:
        return [_template(model, [{"role": "user", "content": each}]) for each in several], True
    return several, False


def _template(model: Model, messages: list[dict[str, Any]]) -> str:
    if not getattr(model.tokenizer, "chat_template", None):
        raise ThoughtscopeError(
            f"{model.name} has no chat template. Call tokenize with chat=False and a plain text."
        )
    try:
        return model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program of the checkpoint: any exception is its refusal
        raise ThoughtscopeError(
            f"The chat template of {model.name} refuses these messages: {error}"
        ) from error


def _check_text(model: Model, text: str, limit: int) -> None:
    """Refuses what cannot be UTF-8, and what is over the limit whatever the tokens, before any work on it."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ThoughtscopeError(
            f"The prompt holds half of a surrogate pair at character {error.start}: not valid Unicode. Remove it."
        ) from None
    longest = longest_piece(model.tokenizer)
    if size > limit * longest:
        raise LimitExceeded(
            f"The prompt has {size:,} bytes, over {size // longest:,} tokens; "
            f"{model.name} allows {limit:,}. Shorten it."
        )


def _check_length(length: int, limit: int, model: Model) -> None:
    if length > limit:
        raise LimitExceeded(f"The prompt has {length:,} tokens; {model.name} allows {limit:,}. Shorten it.")


class _Row(NamedTuple):
    """One encoded text, a token each."""

    ids: list[int]
    pieces: list[str]
    offsets: list[tuple[int, int]]


def _with_bos(model: Model, row: _Row, bos: bool | None) -> _Row:
    """The row with or without its beginning-of-text token, as asked."""
    token = getattr(model.tokenizer, "bos_token_id", None)
    if token is None:
        if bos:
            raise ThoughtscopeError(
                f"The tokenizer of {model.name} names no beginning-of-text token. Call tokenize without bos=True."
            )
        return row
    if bos and row.ids[0] != token:
        return _Row([token, *row.ids], [token_text(model, token), *row.pieces], [(0, 0), *row.offsets])
    # only one that the tokenizer added is left out: it has no place in the text
    if bos is False and row.ids[0] == token and row.offsets[0] == (0, 0) and len(row.ids) > 1:
        return _Row(row.ids[1:], row.pieces[1:], row.offsets[1:])
    return row


def _encode(model: Model, text: str, special_tokens: bool) -> _Row:
    """Ids, pieces and byte offsets of one text."""
    encoded = model.tokenizer(
        text,
        add_special_tokens=special_tokens,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        return_token_type_ids=False,
        verbose=False,
    )
    ids = encoded["input_ids"]
    if not ids:
        raise ThoughtscopeError(f"The prompt {text!r} has no tokens for {model.name}. Type some text.")
    bytes_of = piece_bytes(model.tokenizer)
    data = [bytes_of(token) for token in ids]
    added = [bool(flag) for flag in encoded["special_tokens_mask"]]
    offsets = byte_offsets(text, data, encoded["offset_mapping"], added)
    return _Row(ids, [show(piece) for piece in data], offsets)


def byte_offsets(
    text: str, data: Sequence[bytes], spans: Sequence[tuple[int, int]], added: Sequence[bool]
) -> list[tuple[int, int]]:
    """Each token's byte range in `text`; (0, 0) for tokens that the tokenizer added.

    Where the tokens' own bytes spell the text, they are laid along it, which is exact for pieces of characters too.
    Where the tokenizer rewrote the text (normalisation), a token gets the range of the characters that it came from.
    """
    exact = _laid_along(text.encode(), data, added)
    if exact is not None:
        return exact
    starts = [0]
    for character in text:
        starts.append(starts[-1] + len(character.encode()))
    return [
        (0, 0) if new else (starts[start], starts[end])
        for (start, end), new in zip(spans, added, strict=True)
    ]


def _laid_along(encoded: bytes, data: Sequence[bytes], added: Sequence[bool]) -> list[tuple[int, int]] | None:
    """Byte ranges of tokens that spell `encoded` one after another, or None if they do not.

    A space that the tokenizer put before a word (SentencePiece's dummy prefix) takes no place in the text.
    """
    ranges: list[tuple[int, int]] = []
    at = 0
    for piece, new in zip(data, added, strict=True):
        if new:
            ranges.append((0, 0))
            continue
        if not encoded.startswith(piece, at) and piece.startswith(b" "):
            piece = piece[1:]
        if not encoded.startswith(piece, at):
            return None
        ranges.append((at, at + len(piece)))
        at += len(piece)
    return ranges if at == len(encoded) else None


def _pad(model: Model, texts: Sequence[str], rows: Sequence[_Row]) -> Tokens:
    """Rows as one batch on the model's device, with what each token covers of its text."""
    filler = getattr(model.tokenizer, "pad_token_id", None)
    filler = filler if filler is not None and filler < model.vocab_size else 0
    padded = pad_left([row.ids for row in rows], filler=filler)
    return Tokens(
        ids=padded.ids.to(model.device),
        mask=padded.mask.to(model.device),
        texts=tuple(texts),
        pieces=tuple(tuple(row.pieces) for row in rows),
        offsets=tuple(tuple(row.offsets) for row in rows),
    )
