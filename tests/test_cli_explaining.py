"""`features explain` and `features score`: what is shown, what is sent, what is kept, from the command line."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.chat_templates import CHATML, chat_model
from tests.dictionary_oracle import random_coder
from tests.test_assistants import SECRET, VARIABLE, Reply, ok, serving
from thoughtscope.assistants import Local
from thoughtscope.assistants.endpoint import Endpoint
from thoughtscope.atlas import MadeLabels
from thoughtscope.cli import app
from thoughtscope.dictionaries import save_dictionary

PART = "resid_post.1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a chat model, an autoencoder of it, and text."""
    folder = tmp_path_factory.mktemp("place")
    model = chat_model(CHATML, layers=3, max_position_embeddings=4096)
    model.module.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    coder = random_coder(model, [PART])
    (part,) = coder.parts
    sparse = replace(part, threshold=part.threshold + 4.5)  # else every feature is active on every excerpt
    save_dictionary(replace(coder, parts=(sparse,)), folder / "sae")
    random, words = Random(0), "the cat sees a dog in one park and sings about trees".split()
    (folder / "texts").mkdir()
    for number in range(30):
        (folder / "texts" / f"{number}.txt").write_text(" ".join(random.choices(words, k=25)))
    return folder


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def run(place, monkeypatch, capsys, tmp_path):
    def ran(what: str, *more: object) -> Ran:
        given = ["features", what, place / "sae", "--model", place / "model", "--folder", tmp_path / "work"]
        given += ["--data", f"text:{place / 'texts'}", "--max-tokens", 3000, *more]
        monkeypatch.setattr(sys, "argv", ["thoughtscope", *map(str, given)])
        with pytest.raises(SystemExit) as end:
            app.run()
        out, err = capsys.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return ran


def everything_below(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def says(served: Any, number: int) -> str:
    return served.bodies[number]["messages"][0]["content"]


def features(*numbers: int) -> list[str]:
    return [word for number in numbers for word in ("--feature", f"{PART}/{number}")]


def test_labels_are_asked_for_kept_and_scored(run, tmp_path, monkeypatch):
    """Explained and scored by a server on this machine: one request a feature, then verdicts; nothing twice."""
    monkeypatch.setenv(VARIABLE, SECRET)

    def reply(number: int) -> Reply:
        if "reacts to:" not in says(served, number):
            return ok("Label: the letter e" if number else "I cannot say.")
        return ok(str([1] * len(re.findall(r"^\d+\. ", says(served, number), re.MULTILINE))))

    with serving(reply) as served:
        asked = [
            "--assistant",
            served.url,
            "--assistant-model",
            "tiny",
            "--key-from",
            VARIABLE,
            "--price",
            "1,2",
        ]
        ran = run("explain", "--sample", 3, *asked)
        assert ran.code == 0, ran.err
        assert "3 requests to tiny at http://127.0.0.1" in ran.out and "at the prices given" in ran.out
        assert "2 labelled, 1 unparsed, 0 refused, 0 failed" in ran.out and len(served.bodies) == 3
        assert run("explain", "--sample", 3, *asked, "--json").json["estimate"] is None
        assert len(served.bodies) == 3
        told = run("score", *asked, "--scorer", "detection", "--scorer", "embedding", "--json").json
    kept = json.loads((tmp_path / "work" / "labels.json").read_text())
    labels = [each["label"] for each in kept["features"].values()]
    assert sorted(labels, key=str) == [None, "the letter e", "the letter e"]
    assert set(told["averages"]) == {"given", "given, shuffled", "unigram"}
    for kind in told["averages"].values():
        assert kind["detection"]["balanced_accuracy"] == 0.5 and kind["detection"]["unparsed"] == 0
        assert kind["embedding"]["n"] == kind["detection"]["n"] == kind["detection"]["asked"] > 0
    assert told["estimate"]["requests"] == len(served.bodies) - 3
    assert SECRET not in everything_below(tmp_path / "work") + ran.out + ran.err + json.dumps(told)


def test_another_machine_gets_nothing_until_it_is_agreed_to(run, monkeypatch):
    sent: list[object] = []
    monkeypatch.setattr(Endpoint, "_post", lambda *more: sent.append(more) or ok("Label: x"))
    asked = ["--assistant", "https://api.example.com/v1", "--assistant-model", "big", "--price", "3,15"]
    ran = run("explain", *features(0, 1), *asked)
    assert ran.code == 2 and sent == []
    assert (
        "api.example.com, not this machine" in ran.err
        and "--yes" in ran.err
        and "at the prices given" in ran.err
    )
    ran = run("explain", *features(0, 1), *asked, "--json")
    assert ran.json["error"]["code"] == "not_agreed" and sent == []
    monkeypatch.setattr(
        Endpoint, "_post", lambda *more: (sent.append(more), (200, None, ok("Label: x")[2]))[1]
    )
    ran = run("explain", *features(0, 1), *asked, "--yes", "--json")
    assert "2 requests to big at https://api.example.com/v1 (api.example.com, not this machine)" in ran.err
    assert len(sent) == 2 and ran.json["outcomes"]["labelled"] == 2
    assert ran.json["estimate"]["destination"] == {"host": "api.example.com", "is_here": False}


def test_a_model_of_this_machine_is_asked_too(run, place, tmp_path):
    """The random model says nothing of sense; each answer is a label by its form, or counted as none."""
    ran = run(
        "explain",
        "--sample",
        2,
        "--assistant",
        place / "model",
        "--explainer",
        "levels",
        "--n-examples",
        3,
        "--json",
    )
    assert ran.code == 0, ran.out + ran.err
    outcomes, labels = ran.json["outcomes"], [each["label"] for each in ran.json["features"].values()]
    assert outcomes["labelled"] == 2 - labels.count(None) and outcomes["unparsed"] == labels.count(None)
    assert (outcomes["refused"], outcomes["failed"], len(labels)) == (0, 0, 2) and ran.json["estimate"][
        "exact"
    ]


def test_without_labels_nothing_is_scored(run, tmp_path):
    (tmp_path / "none.json").write_text(json.dumps({"features": {f"{PART}/0": {"label": None}}}))
    ran = run("score", "--labels", tmp_path / "none.json", "--scorer", "embedding")
    assert ran.code == 2 and "holds no labels" in ran.err


def test_labels_of_ones_own_are_scored_without_asking(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Local, "answers", lambda *_: pytest.fail("nobody is to be asked"))
    (tmp_path / "mine.json").write_text(json.dumps({f"{PART}/0": "cats", f"{PART}/3": "dogs"}))
    ran = run("score", "--labels", tmp_path / "mine.json", "--scorer", "embedding", "--scorer", "surprisal")
    assert ran.code == 0, ran.err
    assert (
        len(re.findall(r"^(given|unigram|given, shuffled) +(embedding|surprisal) ", ran.out, re.MULTILINE))
        == 6
    )
    scores = json.loads((tmp_path / "work" / "scores.json").read_text())
    assert set(scores["scores"]["given"]) == {f"{PART}/0", f"{PART}/3"} and scores["judge"] is None


def test_labels_that_were_scored_are_kept_where_pages_find_them(run, place, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({f"{PART}/0": "cats", f"{PART}/3": "dogs"}))
    ran = run("score", "--labels", tmp_path / "mine.json", "--scorer", "embedding", "--keep", "--json")
    assert ran.code == 0, ran.err
    made = MadeLabels.load(place / "sae" / "labels")
    assert {place: (label.text, label.author) for place, label in made.labels.items()} == {
        (0, 0): ("cats", "mine.json"),
        (0, 3): ("dogs", "mine.json"),
    }
    told = ran.json["scores"]["given"][f"{PART}/0"]["embedding"]
    assert dict(made.labels[0, 0].figures) == {
        f"embedding {name}": told[name]
        for name in ("balanced_accuracy", "f1", "auroc", "pearson")
        if told[name] is not None
    }


@pytest.mark.parametrize(
    ("what", "more", "told"),
    [("explain", [], "--feature PART/INDEX, or --sample N"),
     ("explain", ["--sample", 1], "--assistant URL"),
     ("explain", ["--sample", 1, "--assistant", "http://127.0.0.1:1"], "--assistant-model"),
     ("explain", ["--sample", 1, "--assistant", "http://127.0.0.1:1", "--assistant-model", "m", "--fields", "[1]"], "JSON object"),
     ("explain", ["--sample", 1, "--assistant", "m", "--key-from", "X"], "go with an address"),
     ("explain", ["--feature", "resid_post.9/0", "--assistant", "http://127.0.0.1:1", "--assistant-model", "m"], "resid_post.1"),
     ("explain", ["--sample", 1, "--assistant", "http://127.0.0.1:1", "--assistant-model", "m", "--price", "1"], "0.15,0.60"),
     ("explain", ["--sample", 1, "--assistant", "http://127.0.0.1:1", "--assistant-model", "m", "--recording", "x"], "one of the two"),
     ("score", [], "Run features explain")],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(run, what, more, told):
    ran = run(what, *more)
    assert ran.code == 2 and told in ran.err and ran.err.count("\n") == 1
