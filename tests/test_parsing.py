"""Limits on JSON are checked on the bytes; what is within them is read as Python reads it, or refused with the place."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoughtscope.core import parsing
from thoughtscope.core.errors import CorruptArtefact, InvalidGraph, LimitExceeded, ThoughtscopeError
from thoughtscope.core.parsing import JsonLimits, strict_json

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"))
trees = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=25,
)


@given(trees, st.booleans(), st.sampled_from([None, 1]))
def test_what_python_writes_is_read_the_same(tree: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(tree, ensure_ascii=ascii_only, indent=indent)
    assert strict_json(text, "x") == tree == strict_json(text.encode(), "x")
    assert strict_json(b"\xef\xbb\xbf" + text.encode(), "x") == tree, "with a byte-order mark"


def counted(text: str) -> tuple[int, int]:
    """Values and depth by a plain walk over the characters."""
    inside = escaped = False
    values = depth = deepest = 0
    for character in text:
        if inside:
            inside, escaped = character != '"' or escaped, character == "\\" and not escaped
        elif character == '"':
            inside = True
        else:
            values += character in "[{,"
            depth += (character in "[{") - (character in "]}")
            deepest = max(deepest, depth)
    return values, deepest


odd = st.recursive(
    st.text('a"\\[]{},', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('"\\,[', max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("chunk", [2, 3, 16, 2**20])
def test_brackets_are_counted_outside_of_strings_only(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a chunk ends: within a string, or between a backslash and what it escapes."""
    monkeypatch.setattr(parsing, "_CHUNK", chunk)

    @given(odd)
    def check(tree: Any) -> None:
        text = json.dumps([tree, tree])
        values, depth = counted(text)
        exact = {"values": values, "depth": depth, "bytes_per_value": 10**9}
        assert strict_json(text, "x", limits=JsonLimits(**exact)) == [tree, tree]
        with pytest.raises(LimitExceeded, match=f"more than {values - 1:,} values"):
            strict_json(text, "x", limits=JsonLimits(**{**exact, "values": values - 1}))
        with pytest.raises(CorruptArtefact, match=f"more than {depth - 1} deep"):
            strict_json(text, "x", limits=JsonLimits(**{**exact, "depth": depth - 1}))

    check()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "b": "x\\ud800"}', r"\\ud800 is half of a surrogate pair.*line 2 column 9 \(char 17\)"),
        ('["\\ud83d\\ude00", "\\ude00"]', r"char 18"),
        ('["\\\\ud800", "\\udc00\\ud800"]', r"\\udc00.*char 13"),
        ("[1e999]", "1e999 is too large"),
        ("[-1e400]", "-1e400 is too large"),
        ("[" + "1" * 301 + "]", "301 digits"),
        ("[NaN]", "NaN is not a JSON number"),
        ("[-Infinity]", "-Infinity is not a JSON number"),
        ('{"a": {"b": 1, "b": 2}}', "'b' occurs twice"),
        ("[" * 70 + "]" * 70, "nested more than 64 deep"),
        (b'["\xed\xa0\x80"]', "not UTF-8"),
        (b"\xff\xfe[\x00]\x00", "not UTF-8"),
        ("\ud800", "half of a surrogate pair"),
        ("", "Expecting value"),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_with_its_place(text: str | bytes, words: str) -> None:
    with pytest.raises(CorruptArtefact, match=words) as caught:
        strict_json(text, "some.json")
    assert str(caught.value).startswith("some.json ") and len(str(caught.value)) < 300
    with pytest.raises(InvalidGraph):
        strict_json(text, "some.json", error=InvalidGraph)


@pytest.mark.parametrize(
    "text", ['["\\\\ud800"]', '["\\ud83d\\ude00"]', "[1e308, 1e-999, " + "1" * 300 + "]", "[" * 64 + "]" * 64]
)
def test_what_is_odd_and_right_is_read(text: str) -> None:
    assert strict_json(text, "x") == json.loads(text)


def test_sixty_megabytes_of_lists_cost_next_to_nothing() -> None:
    data = b"[" + b"[]," * 20_000_000 + b"[]]"
    tracemalloc.start()
    started = time.thread_time()
    with pytest.raises(LimitExceeded, match="more than is read"):
        strict_json(data, "x")
    seconds, (_, peak) = time.thread_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6 and seconds < 5


def test_a_large_honest_graph_is_within_the_limits() -> None:
    """The densest file that a graph can be: links of the shortest names and weights."""
    links = ",".join(['{"source":"a","target":"b","weight":1}'] * 100_000)
    data = f'{{"nodes":[],"links":[{links}]}}'.encode()
    assert len(strict_json(data, "x")["links"]) == 100_000
    assert counted(data.decode())[0] * 8 < len(data)


def test_a_size_over_the_limit_is_not_looked_at() -> None:
    with pytest.raises(LimitExceeded, match="1,000 bytes; 999 are the limit"):
        strict_json(b" " * 1000, "x", limits=JsonLimits(size=999))


def test_damage_raises_errors_of_the_package_alone() -> None:
    draw = random.Random(0)
    text = json.dumps({"a": [1, -2.5e3, "é\n😀", None, True, {"b": []}]}).encode()
    for _ in range(3000):
        damaged = bytearray(text)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            json.dumps(strict_json(bytes(damaged), "x"), allow_nan=False).encode()
        except ThoughtscopeError:
            pass
