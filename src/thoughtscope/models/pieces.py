"""The exact bytes of each token, for byte-level and SentencePiece-style vocabularies.

Decoding tokens one by one and joining them is wrong wherever a character spans two tokens, so everything here works on
bytes: a piece is what the token contributes to the UTF-8 of the text, complete or not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

PieceBytes = Callable[[int], bytes]

_CACHE: WeakKeyDictionary[Any, PieceBytes] = WeakKeyDictionary()
_LONGEST: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def piece_bytes(tokenizer: Any) -> PieceBytes:
    """A function from a token id to the bytes that it stands for."""
    if tokenizer not in _CACHE:
        _CACHE[tokenizer] = _build(tokenizer)
    return _CACHE[tokenizer]


def longest_piece(tokenizer: Any) -> int:
    """An upper bound on the bytes of text that one token can stand for."""
    if tokenizer not in _LONGEST:
        # normalisation (NFKC, stripped accents) may shorten text before it is matched, by a small factor only
        longest = max((len(piece.encode()) for piece in tokenizer.get_vocab()), default=1)
        _LONGEST[tokenizer] = 8 * longest
    return _LONGEST[tokenizer]


def show(data: bytes) -> str:
    """Bytes as shown to a person: valid characters as they are, bytes of partial characters as `<0xE4>`.

    >>> show("é".encode()), show("é".encode()[:1])
    ('é', '<0xC3>')
    """
    return "".join(text if valid else f"<0x{data[start]:02X}>" for start, text, valid in _characters(data))


def decode(data: bytes) -> tuple[str, list[int]]:
    """The text of `data`, each invalid byte as U+FFFD, and for every byte offset (end included) its offset in that
    text's UTF-8."""
    parts: list[str] = []
    offsets: list[int] = []
    at = 0
    for _, text, valid in _characters(data):
        width = len(text.encode())
        # inside a valid character byte offsets advance one by one, so a token boundary may fall there
        offsets.extend(range(at, at + width) if valid else [at])
        parts.append(text)
        at += width
    return "".join(parts), [*offsets, at]


def whole_characters(data: bytes) -> int:
    r"""How many bytes are sure: all but the beginning of a character whose other bytes may still come.

    >>> whole_characters("aé".encode()[:-1]), whole_characters("aé".encode()), whole_characters(b"a\xff")
    (1, 3, 2)
    """
    for width in range(1, min(3, len(data)) + 1):
        tail = data[-width:]
        if tail[0] >= 0xC0:  # the first byte of a longer character: does it lack the rest?
            try:
                tail.decode()
            except UnicodeDecodeError as error:
                return len(data) - width if error.reason == "unexpected end of data" else len(data)
            return len(data)
    return len(data)


def _characters(data: bytes) -> list[tuple[int, str, bool]]:
    """Offset, text and validity of each character; an invalid byte is a U+FFFD of its own."""
    found: list[tuple[int, str, bool]] = []
    at = 0
    while at < len(data):
        first = data[at]
        width = 1 if first < 0x80 else 2 if first >> 5 == 6 else 3 if first >> 4 == 14 else 4
        try:
            found.append((at, data[at : at + width].decode(), True))
        except UnicodeDecodeError:
            width = 1
            found.append((at, "\ufffd", False))
        at += width
    return found


def _build(tokenizer: Any) -> PieceBytes:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {int(entry["id"]): entry["content"].encode() for entry in backend.get("added_tokens", ())}
    spell = _spelling(backend)
    table = tokenizer.backend_tokenizer

    @lru_cache(maxsize=1 << 16)
    def bytes_of(token: int) -> bytes:
        if token in added:
            return added[token]
        piece = table.id_to_token(token)
        return b"" if piece is None else spell(piece)  # ids beyond the vocabulary are padding of the matrix

    return bytes_of


def _spelling(backend: dict[str, Any]) -> Callable[[str], bytes]:
    """How this vocabulary writes bytes in its pieces."""
    steps = _components(backend.get("decoder")) | _components(backend.get("pre_tokenizer"))
    if "ByteLevel" in steps:
        return lambda piece: _bytes_of_byte_level(piece)
    prefix = (backend.get("model") or {}).get("continuing_subword_prefix")

    def spell(piece: str) -> bytes:
        byte = re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece)
        if byte and "ByteFallback" in steps:
            return bytes([int(byte[1], 16)])
        if prefix and "WordPiece" in steps and piece.startswith(prefix):
            piece = piece[len(prefix) :]
        return piece.replace("\u2581", " ").encode()

    return spell


def _components(part: dict[str, Any] | None) -> set[str]:
    """The names of a tokenizer component and of those inside it."""
    if part is None:
        return set()
    inner = [*part.get("decoders", ()), *part.get("pretokenizers", ())]
    return {part["type"]}.union(*(_components(each) for each in inner))


def _bytes_of_byte_level(piece: str) -> bytes:
    table = _byte_of_character()
    return b"".join(bytes([table[c]]) if c in table else c.encode() for c in piece)


@lru_cache(maxsize=1)
def characters_of_bytes() -> str:
    """The printable stand-in of each byte in byte-level vocabularies (GPT-2's table), indexed by byte.

    Bytes that print stand for themselves, the others in order for U+0100 onwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return "".join(chr(byte if byte in printable else 0x100 + hidden.index(byte)) for byte in range(256))


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(characters_of_bytes())}
