"""Small damages to real files: of bytes, of the values in JSON, of the headers and numbers in weights."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

NUMBERS = (
    b"0", b"-1", b"1e999", b"-1e999", b"1e308", b"1e39", b"-1e39", b"NaN", b"Infinity", b"-Infinity", b"1e-400", b"2147483648", b"-2147483649",
    b"9007199254740993", b"18446744073709551616", b"9" * 400, b"9" * 5000, b"0.1", b"1" + b"0" * 30, b"true", b"null",
)  # fmt: skip
TEXTS = (
    "", " ", "\0", "\ud800", "\udfff", "\u202e", "\ufeff", "é" * 50, "𝔘" * 20, "../../x", "/etc/passwd", "a/b", "x" * 5000,
    '"' * 3000, "\\", "\n", "<script>", "nan", "inf", "1e999", "9" * 400, "-1", "__proto__", "feature:0:0:0", "0_0_0",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**64, -(2**31), 10**30, 10**400, 0.5, 1e39, 1e308, float("nan"), float("inf"), [], {},
    [[]], [None], [0], {"a": 1}, [[0]] * 3, [""], "",
)  # fmt: skip
ODD_FLOATS = (
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\x7f",
    b"\x00\x00\x80\xff",
    b"\xff\xff\x7f\x7f",
    b"\x01\x00\x00\x00",
)


def mutate(name: str, data: bytes, others: list[bytes], random: Random) -> bytes:
    """One to three damages of a file of that name; `others` lend pieces."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(_ways(name))(data, others, random)
    return data


Way = Callable[[bytes, list[bytes], Random], bytes]


def _ways(name: str) -> tuple[Way, ...]:
    raw: tuple[Way, ...] = (flip, truncate, duplicate, drop, splice, overwrite)
    if name.endswith(".json"):
        return (*raw, *(values,) * 6, nest, number, number, text, twice)
    if name.endswith(".safetensors"):
        return (*raw, header, header, header, floats, floats)
    if name.endswith(".npz"):
        return (*raw, *(archive,) * 5, floats)
    return (*raw, number, number, text, nest, lines, lines)


def _place(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + int(2 ** random.uniform(0, 9)))


def flip(data: bytes, others: list[bytes], random: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4))):
        if changed:
            changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def truncate(data: bytes, others: list[bytes], random: Random) -> bytes:
    return data[: random.choice((0, 1, 8, len(data) // 2, random.randrange(len(data) + 1)))]


def duplicate(data: bytes, others: list[bytes], random: Random) -> bytes:
    start, end = _place(data, random)
    return data[:end] + data[start:end] * random.choice((1, 1, 2, 50)) + data[end:]


def drop(data: bytes, others: list[bytes], random: Random) -> bytes:
    start, end = _place(data, random)
    return data[:start] + data[end:]


def splice(data: bytes, others: list[bytes], random: Random) -> bytes:
    other = random.choice(others) if others else data
    start, end = _place(other, random)
    at, until = _place(data, random)
    return data[:at] + other[start:end] + data[random.choice((at, until)) :]


def overwrite(data: bytes, others: list[bytes], random: Random) -> bytes:
    start, end = _place(data, random)
    return (
        data[:start]
        + random.choice((b"\0", b"\xff", b"\xed\xa0\x80", b"[", b'"')) * (end - start)
        + data[end:]
    )


def nest(data: bytes, others: list[bytes], random: Random) -> bytes:
    depth = random.choice((20, 70, 500, 2000, 100_000))
    deep = random.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth, b"[" * depth))
    found = list(re.finditer(rb"-?\d+|null|true", data))
    if not found:
        return deep
    chosen = random.choice(found)
    return data[: chosen.start()] + deep + data[chosen.end() :]


def number(data: bytes, others: list[bytes], random: Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?([eE]-?\d+)?", data))
    if not found:
        return data
    chosen = random.choice(found)
    return data[: chosen.start()] + random.choice(NUMBERS) + data[chosen.end() :]


def text(data: bytes, others: list[bytes], random: Random) -> bytes:
    found = list(re.finditer(rb'"([^"\\]*)"', data)) or list(re.finditer(rb"()", data))
    chosen = random.choice(found)
    odd = random.choice(TEXTS)
    written = random.choice((json.dumps(odd)[1:-1].encode(), odd.encode("utf-8", "surrogatepass")))
    return data[: chosen.start(1)] + written + data[chosen.end(1) :]


def twice(data: bytes, others: list[bytes], random: Random) -> bytes:
    """An entry of an object once more."""
    found = list(re.finditer(rb'"\w+"\s*:\s*("[^"]*"|-?[\d.]+)\s*,', data))
    if not found:
        return data
    chosen = random.choice(found)
    return data[: chosen.end()] + chosen[0] + data[chosen.end() :]


def lines(data: bytes, others: list[bytes], random: Random) -> bytes:
    rows = data.split(b"\n")
    at = random.randrange(len(rows))
    key = rows[at].partition(b":")[0]
    odd = (b"[1, 2]", b"{}", b"~", b".nan", b".inf", b"*a", b"&a [*a, *a]", b"!!python/name:os.system x", b"2001-99-99", b"0x", b"1:2:3", b"yes",
           b"|", b">", b"? x", b"- a", b"!!binary x", b"'", b"12345678901234567890")  # fmt: skip
    rows[at] = random.choice(
        (key + b": " + random.choice(odd), rows[at] + b"\n" + rows[at], random.choice(rows), b"")
    )
    return b"\n".join(rows)


def values(data: bytes, others: list[bytes], random: Random) -> bytes:
    """A value in JSON exchanged for one of another type or size, its key renamed, or it moved elsewhere."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return flip(data, others, random)
    holders: list[Any] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict | list) and value:
            holders.append(value)
            for child in list(value.values() if isinstance(value, dict) else value):
                walk(child)

    try:
        walk(tree)
        if not holders:
            return json.dumps(random.choice(VALUES)).encode()
        holder = random.choice(holders)
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key, other = random.choice(keys), random.choice(keys)
        way = random.randrange(6)
        if way == 0:
            del holder[key]
        elif way == 1:
            holder[key], holder[other] = holder[other], holder[key]
        elif way == 2 and isinstance(holder, dict):
            holder[random.choice(TEXTS)] = holder.pop(key)
        elif way == 3:
            holder[key] = random.choice(TEXTS)
        elif way == 4:
            source = random.choice(holders)
            holder[key] = json.loads(json.dumps(source))
        else:
            holder[key] = random.choice(VALUES)
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    except (RecursionError, ValueError, OverflowError):
        return data


def header(data: bytes, others: list[bytes], random: Random) -> bytes:
    """The header of a safetensors file, changed as JSON, with its length put right or not."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= len(data) - 8:
        return flip(data, others, random)
    head = random.choice((values, values, number, twice, text))(data[8 : 8 + length], others, random)
    stated = len(head) if random.random() < 0.9 else random.choice((0, 2**63, 2**40, len(data)))
    return stated.to_bytes(8, "little") + head + data[8 + length :]


def floats(data: bytes, others: list[bytes], random: Random) -> bytes:
    """Four bytes near the end, where weights are, turned into an odd float."""
    at = random.randrange(max(1, len(data) // 2)) + len(data) // 2
    at -= at % 4
    return data[:at] + random.choice(ODD_FLOATS) + data[at + 4 :]


def archive(data: bytes, others: list[bytes], random: Random) -> bytes:
    """An .npz with one array's header or bytes changed, compressed or not."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            members = {entry.filename: packed.read(entry) for entry in packed.infolist()}
    except Exception:
        return flip(data, others, random)
    if not members:
        return data
    name = random.choice(list(members))
    content = members[name]
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: re.sub(rb"\((\d+)", lambda m: b"(" + random.choice((b"0", b"-1", b"9999999", b"1180591620717411303424", b"1, 1")), content, count=1),
        lambda: content.replace(b"<f4", random.choice((b"|O", b"<f8", b">f4", b"<f2", b"<i4", b"<c8", b"|V4", b"<U1", b"|b1"))),
        lambda: content.replace(b"False", b"True "),
        lambda: content[: random.randrange(len(content) + 1)],
        lambda: flip(content, others, random),
        lambda: content[:-4] + random.choice(ODD_FLOATS),
        lambda: content[:8] + b"\xff\xff" + content[10:],
        lambda: content + b"\0" * 20_000_000,
    )  # fmt: skip
    members[name] = random.choice(ways)()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as packed:
        for each, content in members.items():
            packed.writestr(random.choice((each, each, each, each, each, each, "../" + each)), content)
    return buffer.getvalue()
