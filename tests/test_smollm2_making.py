"""How the real model's dictionaries are made: documents of a folder, conversations, training, saving; on a tiny model."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from itertools import islice, pairwise

import pytest

from specimens.smollm2 import dictionaries, text
from specimens.smollm2.concepts import CONCEPTS
from specimens.smollm2.prompts import PROMPTS
from tests.chat_templates import CHATML, chat_model
from thoughtscope.atlas import bank_of
from thoughtscope.dictionaries import load_dictionary
from thoughtscope.training import recipes

BOOKS = 30


@pytest.fixture
def folder(tmp_path):
    """Files of three kinds, each of words of its own, and what is no text."""
    made = tmp_path / "texts"
    made.mkdir()
    for number in range(100, 100 + BOOKS):
        (made / f"book{number}.txt").write_text(
            "\n\n".join(f"paragraph book{number} {n}" * 9 for n in range(10))
        )
    (made / "LICENSE.txt").write_text("nobody trains on this")
    (made / "facts.json").write_text(json.dumps({"a": ["<p>facts " + "word " * 20 + "</p>", "short"]}))
    (made / "table.tsv").write_text("a sentence of the table\t1\nword\t2\n")
    return made


def test_text_is_taken_whole_and_files_are_held_out_whole(folder):
    train, held = (text.documents(folder, held_out=out) for out in (False, True))
    trained, kept_out = (set(re.findall(r"book\d+", "".join(found))) for found in (train, held))
    assert len(trained | kept_out) == BOOKS and not trained & kept_out and trained and kept_out
    everything = "".join(sorted(train + held))
    assert "nobody" not in everything and "short" not in everything and "<p>" not in everything
    assert "facts word" in everything and "a sentence of the table" in everything
    assert max(map(len, train)) <= 2 * text.PIECE
    assert text.documents(folder, held_out=False) == train != text.documents(folder, held_out=False, seed=1)


def test_conversations_stand_between_texts_without_a_rhythm():
    texts, asked = [f"text {n}" for n in range(1000)], [[n] for n in range(100)]
    found = dictionaries.mixed(texts, asked)
    assert [each for each in found if isinstance(each, str)] == texts
    places = [place for place, each in enumerate(found) if isinstance(each, list)]
    assert len(places) == 100 and places[-1] > 300 and max(places) < 100 * (dictionaries.EVERY + 1)
    for lanes in (2, 4, 8, 16):  # each share of the documents has some of both
        assert min(sum(place % lanes == lane for place in places) for lane in range(lanes)) > 0
    assert sorted(dictionaries.mixed([], [[1], [2]])) == [[1], [2]]


@pytest.mark.parametrize("kind", ["transcoders", "sae"])
def test_one_command_makes_a_dictionary_that_can_be_opened(kind, folder, tmp_path, monkeypatch):
    model = chat_model(CHATML)
    small = {"schedule.n_tokens": 2000, "schedule.batch": 100, "data.buffer_tokens": 600, "data.passes": 1}
    makes = {
        "transcoders": lambda n: recipes.skip_transcoder(n, n_features=32, k=4, **small),
        "sae": lambda n: recipes.batchtopk_sae(["resid_post.0", "resid_post.1"], n_features=32, k=4, **small),
    }
    monkeypatch.setattr(dictionaries, "recipe", lambda kind, n_layers: makes[kind](n_layers))
    monkeypatch.setattr(dictionaries, "CONVERSATIONS", {"with text": 6, "alone": 6})
    monkeypatch.setattr(dictionaries, "HELD_OUT_CONVERSATIONS", 3)
    monkeypatch.setattr(dictionaries, "CONVERSATION_TOKENS", 120)
    monkeypatch.setattr(dictionaries, "L0", {"transcoders": 2.0})
    monkeypatch.setattr("thoughtscope.models.load_model", lambda name, **options: model)
    chosen = Namespace(kind=kind, model="smollm2", text=folder, work=tmp_path / "work", out=tmp_path / "made",
                       score_tokens=500, bank_tokens=400, int8=kind == "sae", own_words=True)  # fmt: skip
    dictionaries.make(chosen)
    made = load_dictionary(tmp_path / "made", model)
    assert made.model_name == "smollm2" and made.name == f"smollm2/{kind}"
    assert set(made.card.declared) >= {"fvu", "l0", "loss_change"} and made.card.self_test is not None
    assert kind == "sae" or made.card.declared["l0"] == pytest.approx(2 * len(made.parts), rel=0.3)
    bank = bank_of(made)
    assert bank is not None and len(bank.layers) == len(made.parts)
    train = list(dictionaries.lines(tmp_path / "work" / "text" / "train.jsonl"))
    spoken = list(dictionaries.conversations(tmp_path / "work" / "text" / "train.jsonl"))
    assert len(spoken) == 6 and len(train) > 20
    shown = {tuple(ids) for ids in bank_texts(bank)}
    assert shown <= {tuple(ids[:128]) for ids in spoken} and shown, "examples are the model's own words"
    held = list(islice(dictionaries.lines(tmp_path / "work" / "text" / "held_out.jsonl"), 3))
    assert all(isinstance(each, list) for each in held) and not any(each in spoken for each in held)
    before = (tmp_path / "work" / "text" / "train.jsonl").stat().st_mtime_ns
    dictionaries.make(chosen)  # all of it is there already
    assert (tmp_path / "work" / "text" / "train.jsonl").stat().st_mtime_ns == before


def bank_texts(bank):
    """The texts that examples are windows of."""
    starts = bank.starts.tolist()
    return [bank.ids[left:right].tolist() for left, right in pairwise(starts)]


def test_lists_of_prompts_and_concepts_are_what_the_figures_say_of_them():
    assert all(len(prompts) >= 20 for prompts in PROMPTS.values()) and len(PROMPTS) == 3
    assert len({str(prompt) for prompts in PROMPTS.values() for prompt in prompts}) >= 60
    assert len(CONCEPTS) >= 20 and all(len(words) >= 10 for words in CONCEPTS.values())
    assert all(len(set(words)) == len(words) and all(words) for words in CONCEPTS.values())
