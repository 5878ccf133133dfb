"""`tokenize`: text to token ids, with pieces and byte offsets that are exact for any script."""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from thoughtscope.core.errors import LimitExceeded, ThoughtscopeError, UnsupportedModel
from thoughtscope.core.turns import Message, Turn
from thoughtscope.models.chat import Rendered, render, turns_over
from thoughtscope.models.encoding import Row, encode_chat, encode_text
from thoughtscope.models.model import Model
from thoughtscope.models.pieces import decode, longest_piece, piece_bytes, show

Offsets = tuple[tuple[int, int], ...]
Turns = tuple[Turn, ...]


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
    turns: tuple[Turns, ...] = ()
    "Of a conversation, by row: who speaks at which tokens. A plain text has none."

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
            turns=self.turns[index : index + 1],
        )


def positions_of(mask: Tensor) -> Int[Tensor, "batch pos"]:
    """Absolute positions from a padding mask: 0 from the first real token on, -1 for padding."""
    return torch.where(mask.bool(), mask.long().cumsum(-1) - 1, -1)


def tokenize(
    model: Model,
    text: str | Sequence[str] | None = None,
    *,
    chat: str | Sequence[Message] | Sequence[Sequence[Message]] | None = None,
    special_tokens: bool = True,
    bos: bool | None = None,
    max_tokens: int | None = None,
) -> Tokens:
    """Token ids for one text or several, or for one conversation or several (padded on the left).

    `chat` is a conversation: a list of `{"role": ..., "content": ...}`, put through the model's own chat template and
    ready for the answer; a text alone is one message of the user's. Where the last message is the assistant's, the
    answer goes on from it. `Tokens.turns` says who speaks at each token. What somebody says stays what is said: a
    message that spells a token of the template gets it as plain text.

    `special_tokens` adds what the tokenizer adds by itself (a template already holds them). `bos=True` puts the
    tokenizer's beginning-of-text token first where it is not there already, `bos=False` leaves it out; with neither,
    what the tokenizer does by itself stands, and a text that then begins without the token warns with `MissingBos` (see
    `wants_bos`). The limit is `max_tokens` or the model's own positions, whichever is less.
    Raises `LimitExceeded` over the limit, `UnsupportedModel` without a fast tokenizer, `ThoughtscopeError` for an
    empty prompt, a missing chat template or one that refuses the messages, or `bos=True` for a tokenizer that has no
    such token.
    """
    _require_tokenizer(model)
    limit = model.max_positions if max_tokens is None else min(max_tokens, model.max_positions)
    texts, rows, turns = [], [], []
    for each, row, rendered in _encoded(model, text, chat, special_tokens, limit):
        texts.append(each)
        rows.append(_with_bos(model, row, bos))
        _check_length(len(rows[-1].ids), limit, model)
        turns.append(() if rendered is None else turns_over(rendered, rows[-1].offsets))
    tokens = _pad(model, texts, rows, turns)
    if bos is None and special_tokens and chat is None and (why := wants_bos(model, tokens)) is not None:
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
    return _pad(model, texts, [Row(row, p, o) for row, (_, p, o) in zip(rows, described, strict=True)])


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


def append(
    tokens: Tokens, model: Model, new: Int[Tensor, "batch pos"], *, ends: Container[int] = ()
) -> Tokens:
    """Tokens with generated columns on the right; texts, pieces, offsets and turns grow with them.

    In a conversation they are the assistant's turn, up to the first of `ends`, which is the template's.
    """
    texts, pieces, offsets, turns = [], [], [], []
    for row in range(len(tokens)):
        text, more, spans = describe(model, new[row].tolist())
        shift = len(tokens.texts[row].encode())
        texts.append(tokens.texts[row] + text)
        pieces.append((*tokens.pieces[row], *more))
        offsets.append((*tokens.offsets[row], *((shift + start, shift + end) for start, end in spans)))
        if tokens.turns and tokens.turns[row]:
            said = list(takewhile(lambda token: token not in ends, new[row].tolist()))
            answer = _answer(tokens.turns[row], describe(model, said)[0], len(said), new.shape[1])
            turns.append(answer)
        else:
            turns.append(())
    return Tokens(
        ids=torch.cat([tokens.ids, new.to(tokens.ids)], dim=1),
        mask=torch.cat(
            [tokens.mask, torch.ones_like(new, dtype=torch.bool, device=tokens.mask.device)], dim=1
        ),
        texts=tuple(texts),
        pieces=tuple(pieces),
        offsets=tuple(offsets),
        turns=tuple(turns) if any(turns) else (),
    )


def _answer(turns: Turns, text: str, said: int, new: int) -> Turns:
    """The turns with the answer's `new` tokens, of which the first `said` hold its text."""
    last = turns[-1]
    if last.role == "assistant" and last.content[1] == last.end:  # it has begun, and nothing has ended it
        grown = (last.content[0], last.end + said)
        return (*turns[:-1], replace(last, text=last.text + text, end=last.end + new, content=grown))
    begun = (last.end, last.end + said)
    return (*turns, Turn(role="assistant", text=text, start=last.end, end=last.end + new, content=begun))


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


def _encoded(
    model: Model, text: Any, chat: Any, special_tokens: bool, limit: int
) -> list[tuple[str, Row, Rendered | None]]:
    """Each text to be read with its row, and with its turns if a chat template wrote it."""
    if (text is None) == (chat is None):
        raise ThoughtscopeError("Give a text or a conversation (chat=[…]), one of the two.")
    if chat is not None:
        several = not isinstance(chat, str) and bool(chat) and not isinstance(chat[0], Mapping)
        found = [render(model, each) for each in (chat if several else [chat])]
        for each in found:
            _check_text(model, each.text, limit)
        return [(each.text, encode_chat(model, each), each) for each in found]
    texts: list[Any] = [text] if isinstance(text, str) else [*text]
    for each in texts:
        if not isinstance(each, str):
            raise ThoughtscopeError(
                "A prompt is a text or a list of texts; messages are given as chat=[…], not in its place."
            )
    if not texts or not all(texts):
        raise ThoughtscopeError("The prompt is empty. Type at least one character.")
    for each in texts:
        _check_text(model, each, limit)
    return [(each, encode_text(model, each, special_tokens), None) for each in texts]


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


def _with_bos(model: Model, row: Row, bos: bool | None) -> Row:
    """The row with or without its beginning-of-text token, as asked."""
    token = getattr(model.tokenizer, "bos_token_id", None)
    if token is None:
        if bos:
            raise ThoughtscopeError(
                f"The tokenizer of {model.name} names no beginning-of-text token. Call tokenize without bos=True."
            )
        return row
    if bos and row.ids[0] != token:
        return Row([token, *row.ids], [token_text(model, token), *row.pieces], [(0, 0), *row.offsets])
    # only one that the tokenizer added is left out: it has no place in the text
    if bos is False and row.ids[0] == token and row.offsets[0] == (0, 0) and len(row.ids) > 1:
        return Row(row.ids[1:], row.pieces[1:], row.offsets[1:])
    return row


def _pad(model: Model, texts: Sequence[str], rows: Sequence[Row], turns: Sequence[Turns] = ()) -> Tokens:
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
        turns=tuple(turns) if any(turns) else (),
    )
