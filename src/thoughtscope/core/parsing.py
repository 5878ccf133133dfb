"""What may come in as JSON, and what it may cost: limits are checked on the bytes, before any object is made of them.

A file that breaks no limit is parsed strictly: each key once, every number finite, every text writable as UTF-8.
Python's parser calls a function of ours for each object, so that other threads get their turn while it reads.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, ThoughtscopeError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class JsonLimits:
    """What a JSON text may cost. Graph files are the largest that are read, and these are made for them."""

    size: int = 256 * 2**20
    """Bytes. The largest graph that is written, 5,000,000 links, has some 300 MB as text; with fewer it is smaller."""
    depth: int = 64
    """Lists and objects within one another. Our files have at most 10; Python's own limit is some 900, and what is
    read has to be written again."""
    values: int = 200_000
    """Values of any kind (numbers, texts, lists, objects) that a text may hold however short it is: some 15 MB."""
    bytes_per_value: int = 8
    """Beyond them, a value for so many bytes. A link, the smallest thing in graph files, has 4 values in 38 bytes or
    more; 60 MB of empty lists are 20 million values, which take 1.3 GB."""


DIGITS = 300
"""Digits of a whole number: a larger one has no double that is near to it, and arithmetic with it would raise."""

_CHUNK = 1 << 18
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'"'[0], b"\\"[0], b"[{", b"]}"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Everything up to the first escape that is half of a surrogate pair; possessive, so that it runs once over the text.
_WELL_FORMED = re.compile(
    r"(?:[^\\]++|\\(?!u[dD][89a-fA-F]).|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*+",
    flags=re.DOTALL,
)


def strict_json(
    data: bytes | str,
    where: str | os.PathLike[str],
    *,
    limits: JsonLimits | None = None,
    error: type[ThoughtscopeError] = CorruptArtefact,
) -> Any:
    """Parses UTF-8 JSON of a bounded size, depth and number of values; `where` names it in messages.

    Raises `error` for duplicate keys, NaN, Infinity, numbers too large for a double, halves of surrogate pairs and
    anything that is not JSON, with the place; `LimitExceeded` for more than `limits` allow.
    """
    limits, name = limits or JsonLimits(), os.fspath(where)
    try:
        if isinstance(data, str):
            data = data.encode()
        if len(data) > limits.size:
            raise LimitExceeded(f"{name} has {len(data):,} bytes; {limits.size:,} are the limit.")
        _check_cost(data, name, limits)
        text = data.decode("utf-8-sig")
        _check_escapes(text)
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_float, parse_int=_int
        )
    except ThoughtscopeError:
        raise
    except UnicodeError as problem:
        raise error(f"{name} is not valid JSON: {_told(problem)}.") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{name} is not valid JSON: {str(problem).rstrip('.')}.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return result


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large to be finite")
    return value


def _int(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"the number {text[:20]}… has {len(text)} digits; {DIGITS} are the limit")
    return int(text)


def _told(problem: UnicodeError) -> str:
    if isinstance(problem, UnicodeEncodeError):
        return f"character {problem.start} is half of a surrogate pair, which is no text"
    return f"it is not UTF-8 ({problem})"


def _check_escapes(text: str) -> None:
    """Raises `ValueError` for an escaped half of a surrogate pair: it could be read, but never written again."""
    if _SURROGATE.search(text) is None:
        return
    match = _WELL_FORMED.match(text)
    end = 0 if match is None else match.end()
    if end < len(text):
        line, column = text.count("\n", 0, end) + 1, end - text.rfind("\n", 0, end)
        raise ValueError(
            f"{text[end : end + 6]} is half of a surrogate pair, which is no text: line {line} column {column} "
            f"(char {end})"
        )


# --- what it would cost ----------------------------------------------------------------------------------------------


def _check_cost(data: bytes, name: str, limits: JsonLimits) -> None:
    """Raises for text that is too deep or holds too many values, having read it in chunks and kept nothing.

    Only brackets and commas outside of strings count. A value follows an opening bracket or a comma, so their number
    bounds that of the values. What is not JSON may be miscounted; the parser refuses it.
    """
    allowed = max(limits.values, len(data) // limits.bytes_per_value)
    if len(data) <= limits.depth:
        return
    values = depth = start = 0
    in_string = False
    while start < len(data):
        found = _structure(data[start : start + _CHUNK], in_string)
        steps = found.steps
        values += int((steps >= 0).sum())
        if len(steps):
            running = depth + steps.cumsum()
            if int(running.max()) > limits.depth:
                raise ValueError(f"it is nested more than {limits.depth} deep")
            depth = int(running[-1])
        if values > allowed:
            raise LimitExceeded(
                f"{name} holds more than {allowed:,} values in {len(data):,} bytes, which is more than is read."
            )
        # An escape that a chunk's end cuts in two is seen again, whole, at the start of the next.
        in_string = found.in_string
        start += min(_CHUNK, len(data) - start) - (found.cut and start + _CHUNK < len(data))


@dataclass(frozen=True)
class _Structure:
    """What one chunk of text holds outside of strings."""

    steps: np.ndarray
    """+1 for each opening bracket, -1 for each closing one, 0 for each comma, in order."""
    in_string: bool
    """Whether the chunk ends within a string."""
    cut: bool
    """Whether it ends on a backslash that escapes the next character."""


def _structure(chunk: bytes, in_string: bool) -> _Structure:
    import numpy as np

    everything = np.frombuffer(chunk, dtype=np.uint8)
    at = np.flatnonzero(_structural()[everything])
    kind = everything[at]  # Shape: (sign,), the brackets, commas, quotes and backslashes among the bytes
    slash = kind == _BACKSLASH
    escaped = np.zeros(len(at), dtype=bool)
    cut = False
    if slash.any():
        # Backslashes come in runs; what follows one is escaped if the run is odd. Only quotes matter here.
        follows = np.zeros(len(at), dtype=bool)
        follows[1:] = slash[:-1] & (np.diff(at) == 1)
        first = np.maximum.accumulate(np.where(slash & ~follows, at, -1))  # where the latest run began
        escaped[1:] = follows[1:] & ~slash[1:] & ((at[1:] - first[:-1]) % 2 == 1)
        cut = bool(slash[-1] and at[-1] == len(chunk) - 1 and (len(chunk) - first[-1]) % 2 == 1)
    quote = (kind == _QUOTE) & ~escaped
    inside = (np.cumsum(quote) + in_string) % 2 == 1
    sign = kind[~inside & ~quote & ~slash]
    steps = _step_of()[sign]
    return _Structure(steps=steps, in_string=bool(inside[-1]) if len(inside) else in_string, cut=cut)


@cache
def _structural() -> np.ndarray:
    import numpy as np

    table = np.zeros(256, dtype=bool)
    table[list(_OPEN + _CLOSE + b',"\\')] = True
    return table


@cache
def _step_of() -> np.ndarray:
    import numpy as np

    table = np.zeros(256, dtype=np.int64)
    table[list(_OPEN)], table[list(_CLOSE)] = 1, -1
    return table
