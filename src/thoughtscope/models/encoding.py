"""One text to token ids: what each token covers of it, and what somebody says kept apart from the template's tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.models.chat import Rendered, Span
from thoughtscope.models.model import Model
from thoughtscope.models.pieces import piece_bytes, show


class Row(NamedTuple):
    """One encoded text, a token each."""

    ids: list[int]
    pieces: list[str]
    offsets: list[Span]


def encode_text(model: Model, text: str, special_tokens: bool) -> Row:
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
    return Row(ids, [show(piece) for piece in data], offsets)


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


# --- conversations ---------------------------------------------------------------------------------------------------


def encode_chat(model: Model, rendered: Rendered) -> Row:
    """Ids, pieces and byte offsets of a rendered conversation, where no message becomes a token of the template.

    transformers reads the rendered text as one, so that a message which spells "<|im_end|>" would end its own turn.
    Here such a message is plain text. Everything else is encoded as transformers does it, to the id.
    Raises `ThoughtscopeError` where this tokenizer does not allow that.
    """
    row, spans = encode_text(model, rendered.text, False), rendered.contents
    controls = _controls(model.tokenizer, rendered)
    spelt = [span for _, span in _found(rendered.text, row, controls) if _said(span, spans)]
    if not spelt:
        return row
    plain = _plain(model.tokenizer, controls)
    harmless = _replaced(rendered.text, spelt)
    usual = encode_text(model, harmless, False)
    # The same way of encoding, tried on a text where transformers' own is right: the two must agree.
    if _apart(model, plain, harmless, usual, controls, spans) != usual.ids:
        words = rendered.text[slice(*spelt[0])]
        raise ThoughtscopeError(
            f'A message holds "{words}", which is a token of the template, and the tokenizer of {model.name} cannot '
            "take it as plain text. Leave it out."
        )
    ids = _apart(model, plain, rendered.text, row, controls, spans)
    bytes_of = piece_bytes(model.tokenizer)
    data = [bytes_of(token) for token in ids]
    offsets = _laid_along(rendered.text.encode(), data, [False] * len(ids))
    if offsets is None:
        raise ThoughtscopeError(
            f"The tokenizer of {model.name} rewrites the text that it reads, so a message that spells a token of the "
            "template cannot be kept apart from it. Leave that out."
        )
    return Row(ids, [show(piece) for piece in data], offsets)


def _controls(tokenizer: Any, rendered: Rendered) -> set[int]:
    """The tokens that steer: special ones, and others of the tokenizer's own that this template writes."""
    around, at = [], 0
    for start, end in rendered.contents:
        around.append(rendered.text[at:start])
        at = end
    written = "\0".join([*around, rendered.text[at:]])
    return {
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content.strip() and token.content in written)
    }


_PLAIN: WeakKeyDictionary[Any, dict[frozenset[int], Any]] = WeakKeyDictionary()


def _plain(tokenizer: Any, controls: set[int]) -> Any:
    """A copy of the tokenizer that does not know these tokens; the user's own stays as it is."""
    from tokenizers import Tokenizer

    known, wanted = _PLAIN.setdefault(tokenizer, {}), frozenset(controls)
    if wanted not in known:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend["added_tokens"] = [entry for entry in backend["added_tokens"] if entry["id"] not in controls]
        backend["post_processor"] = None
        known[wanted] = Tokenizer.from_str(json.dumps(backend))
    return known[wanted]


def _apart(
    model: Model, plain: Any, text: str, row: Row, controls: set[int], spans: Sequence[Span]
) -> list[int]:
    """The ids of a text cut at the template's own tokens, with everything between them read as plain text.

    A tokenizer splits a text at such tokens before anything else, and reads what is between piece by piece.
    """
    ids: list[int] = []
    at = 0
    for token, (start, end) in _found(text, row, controls):
        if not _said((start, end), spans):
            ids += [*plain.encode(text[at:start], add_special_tokens=False).ids, token]
            at = end
    return [*ids, *plain.encode(text[at:], add_special_tokens=False).ids]


def _found(text: str, row: Row, controls: set[int]) -> Iterator[tuple[int, Span]]:
    """Each token of `controls` in a row, with the characters that it stands for."""
    encoded = text.encode()
    for token, (start, end) in zip(row.ids, row.offsets, strict=True):
        if token in controls:
            yield token, (len(encoded[:start].decode()), len(encoded[:end].decode()))


def _said(span: Span, contents: Sequence[Span]) -> bool:
    """Whether a span holds any of what somebody says."""
    return any(span[0] < end and span[1] > start for start, end in contents)


def _replaced(text: str, spans: Sequence[Span]) -> str:
    """The text with `x` for each character of the spans."""
    for start, end in spans:
        text = text[:start] + "x" * (end - start) + text[end:]
    return text
