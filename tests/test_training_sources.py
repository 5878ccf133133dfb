"""Where documents come from: every spelling, every mistake, and the model's own samples."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.chat_templates import CHATML, chat_model
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, ThoughtscopeError
from thoughtscope.models import tokenize
from thoughtscope.training.data import parse_source, source_of
from thoughtscope.training.data.questions import questions
from thoughtscope.training.data.sources import IN_TURNS, PIECE, SOURCES, Documents


def read(spelling: str, **given):
    return list(parse_source(spelling, **given).documents())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\r\n")
    (tmp_path / "b" / "c.md").write_text("è☃")
    (tmp_path / "b" / "empty.txt").write_text("")
    (tmp_path / "b" / "image.png").write_bytes(b"\xff")
    return tmp_path


def test_texts(folder):
    assert read(f"text:{folder}") == ["one\ntwo\n\n\nthree\r\n", "è☃"]
    assert read(f"text:{folder}#lines") == ["one", "è☃", "two", "three\r"]
    assert read(f"text:{folder}/a.txt#paragraphs") == ["one\ntwo", "three\r"]
    assert parse_source(f"text:{folder}").name == f"text:{folder}"
    source = parse_source(f"text:{folder}")
    assert list(source.documents()) == list(source.documents())


def test_files_are_read_in_turns_and_each_in_its_order(tmp_path: Path) -> None:
    """Also where they are more than are open at once, and of different lengths."""
    for number in range(2 * IN_TURNS):
        (tmp_path / f"{number:03}.txt").write_text(
            "".join(f"{number}.{line}\n" for line in range(number % 5))
        )
    found = [tuple(map(int, line.split("."))) for line in read(f"text:{tmp_path}#lines")]
    assert len(found) == sum(number % 5 for number in range(2 * IN_TURNS)) == len(set(found))
    for number in range(2 * IN_TURNS):
        assert [line for file, line in found if file == number] == list(range(number % 5))
    assert len({file for file, _ in found[:20]}) == 20


def test_a_long_text_is_cut_where_it_may_be_and_nothing_is_lost(tmp_path):
    words = "some words of a line\nand a paragraph\n\n" * 4000 + "x" * (3 * PIECE) + " y" * PIECE
    (tmp_path / "long.txt").write_text(words)
    pieces = read(f"text:{tmp_path}/long.txt")
    assert "".join(pieces) == words and max(map(len, pieces)) <= PIECE
    assert all(piece.endswith("\n\n") for piece in pieces[:3])
    assert max(map(len, read(f"text:{tmp_path}/long.txt#lines"))) <= PIECE
    assert max(map(len, read(f"text:{tmp_path}/long.txt#paragraphs"))) <= 2 * PIECE


def test_a_path_may_hold_the_sign(tmp_path):
    (tmp_path / "a#b.txt").write_text("x")
    assert read(f"text:{tmp_path}/a#b.txt") == read(f"text:{tmp_path}/a#b.txt#lines") == ["x"]


def test_jsonl(tmp_path):
    records = [{"text": "é", "ids": [1, 2], "n": 1}, {"text": "b", "ids": [], "n": 2}]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert read(f"jsonl:{tmp_path}") == ["é", "b"] * 2
    assert read(f"jsonl:{tmp_path}/a.jsonl#ids") == [[1, 2], []]
    with pytest.raises(
        CorruptArtefact, match=r"a.jsonl, line 1: .*\"txt\" is not a field there.*Did you mean \"text\""
    ):
        read(f"jsonl:{tmp_path}/a.jsonl#txt")
    with pytest.raises(CorruptArtefact, match="neither a text nor a list of token ids"):
        read(f"jsonl:{tmp_path}/a.jsonl#n")


@pytest.mark.parametrize(
    ("data", "said"),
    [(b'{"text": "a"}\n{"text": ', "line 2"), (b'{"text": "\xff"}', "line 1 or after, cannot be read"), (b"[1]", "field there")],
)  # fmt: skip
def test_damaged_lines_are_named(tmp_path, data, said):
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(CorruptArtefact, match=rf"a\.jsonl.*{said}"):
        read(f"jsonl:{tmp_path}/a.jsonl")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-30])
    with pytest.raises(CorruptArtefact, match=r"b\.jsonl\.gz, line"):
        read(f"jsonl:{tmp_path}/b.jsonl.gz")
    (tmp_path / "c.txt").write_bytes(b"abc\xff")
    with pytest.raises(CorruptArtefact, match="not UTF-8"):
        read(f"text:{tmp_path}/c.txt")


@pytest.mark.parametrize(
    ("spelling", "said"),
    [
        ("nothing", "Write kind:what"),
        ("text:", "Write kind:what"),
        ("txet:x", '"txet" is not a source of documents.*Did you mean "text".*module'),
        ("text:/no/such", "no file or folder /no/such"),
        ("text:.#words", '"words" is not a way'),
        ("tests.test_training_sources:no_such", "names no function"),
        ("os:sep", "is no function but str"),
        ("hf:a/b/c", "names no data set"),
        ("samples:tokens=x", "tokens is a number"),
        ("samples:token=1", '"token" is not a setting of samples'),
        ("samples:tokens=9", "Name the model too"),
    ],
)
def test_mistakes_are_named(spelling, said):
    with pytest.raises(ThoughtscopeError, match=said):
        read(spelling)


def test_an_empty_folder_and_a_pipe(tmp_path):
    with pytest.raises(ThoughtscopeError, match=r"has no \*.txt or \*.md in it"):
        read(f"text:{tmp_path}")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(CorruptArtefact, match="named pipe"):
        read(f"text:{tmp_path}/pipe.txt")


def some_documents(n: int = 2, word: str = "a", flag: bool = False):
    return [word * (number + 1) for number in range(n)] + ["yes"] * flag


def test_functions():
    here = "tests.test_training_sources:some_documents"
    assert read(here) == ["a", "aa"]
    assert read(f"{here}?n=1&word=b&flag=true") == ["b", "yes"]
    assert source_of(some_documents).name == "some_documents"
    with pytest.raises(ThoughtscopeError, match="cannot be called so"):
        read(f"{here}?m=1")
    assert (
        len(list(islice(parse_source("specimens.corpus:sample_documents?seed=1&n=400").documents(), 3))) == 3
    )


def test_anything_that_holds_documents():
    assert list(source_of(["a", "b"]).documents()) == ["a", "b"]
    source = source_of("text:" + __file__)
    assert source_of(source) is source
    once = Documents(source_of(iter(["a", "b", "c"])))
    assert list(islice(once.peek(), 2)) == ["a", "b"] and list(islice(once.peek(), 3)) == ["a", "b", "c"]
    assert list(once.through()) == ["a", "b", "c"]
    with pytest.raises(ThoughtscopeError, match="once only"):
        once.through()
    many = Documents(source_of(["a", "b"]))
    assert list(islice(many.endless(), 5)) == ["a", "b", "a", "b", "a"] and list(many.through()) == ["a", "b"]


# --- the hub -------------------------------------------------------------------------------------------------------


def test_without_the_extra_the_fix_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ThoughtscopeError, match=r"pip install .thoughtscope\[datasets\].*jsonl:FILE"):
        parse_source("hf:org/name")


def fake(monkeypatch, load):
    module = SimpleNamespace(load_dataset=load, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_without_a_network_the_error_comes_within_seconds(monkeypatch):
    fake(monkeypatch, None)
    started = time.monotonic()
    with pytest.raises(ThoughtscopeError, match=r"hf:org/name cannot be streamed: .*Connect first"):
        parse_source("hf:org/name")
    assert time.monotonic() - started < 8


def test_data_sets_are_streamed(monkeypatch):
    asked = []

    def load(name, config, *, split, streaming):
        asked.append((name, config, split, streaming))
        yield {"text": "a", "ids": [1]}
        if config == "breaks":
            raise ConnectionError("gone")

    fake(monkeypatch, load)
    monkeypatch.setattr("thoughtscope.models.checkpoints.unreachable", lambda: None)
    monkeypatch.setattr("thoughtscope.models.checkpoints.silent", lambda: None)
    assert read("hf:org/name") == ["a"] and read("hf:name:conf@train[:5%]#ids") == [[1]]
    assert asked == [("org/name", None, "train", True), ("name", "conf", "train[:5%]", True)]
    with pytest.raises(ThoughtscopeError, match="hf:org/name:breaks cannot be read: ConnectionError: gone"):
        read("hf:org/name:breaks")
    with pytest.raises(CorruptArtefact, match=r'"body" is not a field there\. Allowed: text, ids'):
        read("hf:org/name#body")


# --- samples -------------------------------------------------------------------------------------------------------


def test_samples_are_what_the_model_writes():
    """Seeded, endless unless n is given; and with a low temperature each token is the model's first choice."""
    model = tiny_model("llama")
    first = list(islice(parse_source("samples:tokens=9", model).documents(), 96))
    assert first == list(islice(parse_source("samples:tokens=9", model).documents(), 96))
    assert first != list(islice(parse_source("samples:tokens=9,seed=1", model).documents(), 96))
    assert all(len(ids) == 9 and ids[0] == model.tokenizer.bos_token_id for ids in first)
    assert len({tuple(ids) for ids in first}) > 64
    assert read("samples:tokens=9,n=40", model=model) == first[:40]
    greedy = read("samples:tokens=12,n=1,temperature=0.0001", model=model)[0]
    logits = model.module(torch.tensor([greedy])).logits[0]
    assert logits.argmax(-1)[:-1].tolist() == greedy[1:]


def test_samples_end_with_the_end_token():
    model = tiny_model("llama", eos_token_id=[65, 66, 67, 68])
    found = read("samples:tokens=200,n=64,temperature=3", model=model)
    assert all(set(ids[1:-1]).isdisjoint({65, 66, 67, 68}) for ids in found)
    assert len({len(ids) for ids in found}) > 10
    assert all(ids[-1] in {65, 66, 67, 68} or len(ids) == 200 for ids in found)
    with pytest.raises(LimitExceeded, match="256 positions"):
        read("samples:tokens=257,n=1", model=model)
    with pytest.raises(ThoughtscopeError, match="temperature above 0"):
        read("samples:temperature=-1", model=model)


def test_conversations_are_questions_in_the_models_template_and_its_answers():
    """Each as if it had been asked alone: what stands left of it as padding is no part of it."""
    model = chat_model(CHATML)
    asked = list(islice(questions(3), 40))
    found = read("samples:chat=1,tokens=120,n=40,seed=3,temperature=0.0001", model=model)
    assert len({len(ids) for ids in found}) > 5 and len(set(asked)) > 35
    for question, ids in zip(asked, found, strict=True):
        prompt = tokenize(model, chat=[{"role": "user", "content": question}]).ids[0].tolist()
        assert ids[: len(prompt)] == prompt and len(prompt) < len(ids) <= 120
    shortest = min(found, key=len)
    logits = model.module(torch.tensor([shortest])).logits[0]
    n = len(tokenize(model, chat=[{"role": "user", "content": asked[found.index(shortest)]}]).ids[0])
    assert logits.argmax(-1)[n - 1 : -1].tolist() == shortest[n:]
    with pytest.raises(LimitExceeded, match="no room for an answer"):
        read("samples:chat=1,tokens=20,n=1", model=model)
    assert list(islice(questions(3), 40)) == asked != list(islice(questions(4), 40))


def test_the_table_names_what_there_is():
    assert set(SOURCES) >= {"text", "jsonl", "hf", "samples"}
