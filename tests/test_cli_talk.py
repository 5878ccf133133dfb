# ruff: noqa: F811
"""`thoughtscope chat`: one answer or a conversation, as the model is and turned; features listed; the page opened."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.chat_templates import CHATML, chat_model
from tests.test_atlas import TEXTS
from tests.test_cli import Ran, run  # noqa: F401 (a fixture)
from tests.tiny_microscope import random_dictionary
from thoughtscope.atlas import collect_examples
from thoughtscope.cli.chat import view_of
from thoughtscope.cli.options import multiple_of
from thoughtscope.core.errors import InvalidPlan
from thoughtscope.microscope import Microscope, answer, readings, tokens_of, turned
from thoughtscope.models import Sampling

MODEL = chat_model(CHATML)
DICTIONARY = random_dictionary(MODEL)
BANK = collect_examples(MODEL, DICTIONARY, TEXTS[:4], n_top=3, n_quantile=1)
OPENED = Microscope(model=MODEL, dictionary=DICTIONARY, bank=BANK, max_tokens=250)
TALK = [{"role": "user", "content": "Hello"}]
TURN = "1/3=20"
MULTIPLES = {"1/3": 20.0}
SHORT = ("--max-new-tokens", "5")


@pytest.fixture(autouse=True)
def talking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: OPENED)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "none"))


@pytest.fixture
def piped(run: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def said(*lines: str, options: tuple[str, ...] = ()) -> Ran:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
        return run("chat", *SHORT, *options)

    return said


def spoken(prompt: Any, multiples: dict[str, float] | None = None, **options: Any) -> str:
    edits = turned(OPENED, multiples or {}, prompt=prompt)
    steps = answer(OPENED, prompt, [edit.to_json() for edit in edits], max_new_tokens=5, **options)
    return "".join(step.texts[0] for step in steps)


def test_both_answers_stand_under_each_other(run: Any) -> None:
    done = run("chat", "Hello", "--feature", TURN, *SHORT)
    assert done.code == 0, done.err
    first, second = done.out.index("── as it is ──"), done.out.index("── turned: 1/3")
    assert first < second and "×20" in done.out
    assert spoken(TALK) != spoken(TALK, MULTIPLES)
    table = done.out.index("Strongest features of the last tokens")
    assert second < table
    found = readings(OPENED, TALK, n=3)
    assert found.at[-1][0].feature.id in done.out[table:]
    assert "as it is" not in run("chat", "Hello", *SHORT).out


def test_an_answer_for_scripts(run: Any) -> None:
    told = run("chat", "Hello", "-f", TURN, "-f", "0/2=0", "--json", *SHORT).json
    assert told["chat"] == TALK and told["dictionary"] == "tiny/clt"
    assert told["plain"] == {"text": spoken(TALK), "ended": False}
    assert told["turned"]["text"] == spoken(TALK, {**MULTIPLES, "0/2": 0.0})
    first, second = told["features"]
    assert (first["part"], first["index"], first["multiple"]) == ("1", 3, 20.0)
    assert first["value"] == 20 * first["largest"] and second["value"] == 0
    found = readings(OPENED, TALK, n=3)
    for row in told["last_tokens"]:
        here = found.at[row["position"]]
        assert row["token"] == found.tokens.pieces[0][row["position"]]
        assert [(each["part"], each["index"], each["share"]) for each in row["features"]] == [
            (each.feature.part, each.feature.index, each.share) for each in here
        ]
    assert [row["token"] for row in told["last_tokens"]][:-1] == list("Hello")
    assert told["sampling"] is None and run("chat", "Hello", "--json", *SHORT).json["turned"] is None


def test_answers_are_drawn_with_one_seed_and_with_a_system_prompt(run: Any) -> None:
    options = ("--sample", "--temperature", "3", "--top-p", "0.9", "--seed", "4", "--system", "Be brief.")
    told = run("chat", "Hello", "-f", "1/3=1", "--json", *options, *SHORT).json
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    sampling = Sampling(temperature=3.0, top_p=0.9, seed=4)
    assert told["chat"] == talk and told["sampling"] == {"temperature": 3, "top_p": 0.9, "seed": 4}
    assert told["plain"]["text"] == spoken(talk, sampling=sampling)
    assert told["turned"]["text"] == spoken(talk, {"1/3": 1.0}, sampling=sampling)
    plain = run("chat", "Hello", "--plain-only", "--json", *SHORT).json
    assert plain["prompt"] == "Hello" and plain["plain"]["text"] == spoken("Hello")


def test_a_conversation_keeps_each_sides_own_answers(piped: Any) -> None:
    lines = (
        "Hello",
        f"/turn {TURN}",
        "So",
        "/features",
        "/again",
        "/off",
        "Well",
        "/new",
        "Hello",
        "/quit",
        "never",
    )
    done = piped(*lines, options=("--json",))
    assert done.code == 0, done.err
    told = [json.loads(line) for line in done.out.splitlines()]
    assert [next(iter(each)) for each in told] == [
        "chat", "turned", "chat", "last_tokens", "chat", "turned", "chat", "chat"
    ]  # fmt: skip
    one, turn, two, features, again, off, three, four = told
    assert turn == {"turned": MULTIPLES} and off == {"turned": {}}
    talk = [*TALK, {"role": "assistant", "content": spoken(TALK)}, {"role": "user", "content": "So"}]
    assert two["chat"] == talk
    assert two["plain"]["text"] == spoken(talk) and two["turned"]["text"] == spoken(talk, MULTIPLES)
    assert again == two and four == one
    said = [*talk, {"role": "assistant", "content": two["plain"]["text"]}]
    tokens = tokens_of(OPENED, said)
    own = [place for turn in tokens.turns[0] if not turn.added for place in range(*turn.content)]
    assert [row["position"] for row in features["last_tokens"]] == sorted(
        {*own[-5:], len(tokens.pieces[0]) - 1}
    )
    assert three["chat"] == [*said, {"role": "user", "content": "Well"}] and three["turned"] is None


def test_the_turned_side_goes_on_from_what_it_said(piped: Any) -> None:
    told = [
        json.loads(line) for line in piped("Hello", "So", options=("--json", "-f", TURN)).out.splitlines()
    ]
    first = told[0]["turned"]["text"]
    talk = [*TALK, {"role": "assistant", "content": first}, {"role": "user", "content": "So"}]
    assert told[1]["turned"]["text"] == spoken(talk, MULTIPLES)
    assert told[1]["chat"][1]["content"] == told[0]["plain"]["text"] != first


def test_again_draws_with_the_next_seed(piped: Any) -> None:
    told = [
        json.loads(line)
        for line in piped("Hello", "/again", options=("--json", "--sample", "--seed", "7")).out.splitlines()
    ]
    assert [each["sampling"]["seed"] for each in told] == [7, 8]
    assert told[1]["plain"]["text"] == spoken(TALK, sampling=Sampling(temperature=0.7, top_p=0.9, seed=8))
    assert told[1]["chat"] == told[0]["chat"] == TALK


class Typed(io.StringIO):
    """What somebody types, until Ctrl-D."""

    def isatty(self) -> bool:
        return True


def test_somebody_types(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Typed("Hello\n\n/turn 1/3=0\n/search went\n"))
    done = run("chat", "--plain-only", *SHORT)
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("Talking with tiny-chat.") and "/again" in done.out
    assert (
        spoken("Hello").strip()[:1] in done.out and "Turned: 1/3" in done.out and "Features with" in done.out
    )


def test_a_mistake_does_not_end_a_conversation(piped: Any) -> None:
    lines = (
        "/features",
        "/again",
        "/off 1/3",
        "/turn 1/3",
        "/turn 9/9=1",
        "/nothing",
        "/search",
        "/like",
        "x" * 300,
        "//Hello",
    )
    done = piped(*lines, options=("--plain-only",))
    assert done.code == 0
    assert done.err.count("thoughtscope: ") == len(lines) - 1, done.err
    for why in ("Nothing was said yet", "is not a feature that is turned", "turns no feature", "is not a part of",
                "is not a command here", "Write /search WORDS", "Write /like TEXT"):  # fmt: skip
        assert why in done.err
    assert "Strongest features" in done.out and "/turn PART/INDEX=MULTIPLE" in piped("/help").out
    told = [json.loads(line) for line in piped(*lines, options=("--plain-only", "--json")).out.splitlines()]
    assert [next(iter(each)) for each in told] == ["error"] * (len(lines) - 1) + ["prompt"]
    assert told[-1]["prompt"] == "/Hello" and told[4]["error"]["code"] == "unknown_feature"


def test_features_are_listed(run: Any, piped: Any) -> None:
    done = run("chat", "--search", "went", "--like", "The cat")
    assert (
        done.code == 0
        and "Features with “went”" in done.out
        and "Features that are strong on “The cat”" in done.out
    )
    assert "Turn one up:  --feature " in done.out
    found = [
        json.loads(line)
        for line in run("chat", "--search", "went", "--like", "The cat", "--json").out.splitlines()
    ]
    assert found[0]["search"] == "went" and {each["matched"] for each in found[0]["features"]} <= {
        "label",
        "token",
    }
    assert found[1]["like"] == "The cat" and found[1]["features"][0]["share"] > 0
    assert "No feature's label, examples or outputs have" in run("chat", "--search", "zebra").out
    told = [
        json.loads(line)
        for line in piped("/search went", "/like The cat", options=("--json",)).out.splitlines()
    ]
    assert told == found


def test_mistakes_are_told_before_any_work(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thoughtscope.microscope.open_microscope", lambda *_, **__: pytest.fail("loaded"))
    for arguments in (
        ("a", "--feature", "1/3"),
        ("a", "--feature", "1/3=x"),
        ("a", "--feature", "1/3=inf"),
        ("a", "--feature", "=1"),
        ("a", "--seed", "1"),
        ("a", "--temperature", "1"),
        ("a", "--sample", "--temperature", "0"),
        ("a", "--page", "--plain-only"),
        ("--page", "--search", "a"),
        ("--search", " "),
        ("",),
    ):
        done = run("chat", *arguments)
        assert done.code == 2 and done.err.startswith("thoughtscope: "), (arguments, done.err)
    assert multiple_of("resid_post.3/12=-.5") == ("resid_post.3/12", -0.5)
    with pytest.raises(InvalidPlan, match="turns no feature"):
        multiple_of("nan=nan")


def test_a_system_prompt_needs_a_speaker(run: Any) -> None:
    done = run("chat", "a", "--plain-only", "--system", "b")
    assert done.code == 2 and "no speakers" in done.err


def test_what_a_model_says_cannot_command_a_terminal(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoughtscope.cli.answers import printable_lines

    assert printable_lines("a\x1b[2Jb\n\u202ec\n") == "a<U+001B>[2Jb\n<U+202E>c\n"


def test_the_page_is_opened_as_it_was_asked_for(
    run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from urllib.parse import parse_qs

    from thoughtscope.server.launch import address

    served = []
    monkeypatch.setattr(
        "thoughtscope.server.launch.serve_session",
        lambda session, access, **options: served.append((session, options)),
    )
    done = run("chat", "Hi", "--page", "-f", TURN, "-f", "resid_post.1/4=-0.5", "--system", "Be & brief", "--folder", tmp_path,
               "--no-browser", "--sample", "--seed", "3", *SHORT)  # fmt: skip
    assert done.code == 0, done.err
    ((session, options),) = served
    session.close()
    assert options["path"] == "chat" and options["browser"] is False
    view = parse_qs(options["view"])
    assert view == {"f": ["1/3:20,resid_post.1/4:-0.5"], "s": ["Be & brief"], "t": ["0.7"], "p": ["0.9"], "seed": ["3"],
                    "n": ["5"], "c": ['[["Hi", ""]]']}  # fmt: skip
    link = address("127.0.0.1", 8321, token="a b", path="chat", view=options["view"])
    assert link.startswith("http://127.0.0.1:8321/chat?token=a%20b#n=5&f=1%2F3%3A20")
    assert address("127.0.0.1", 1, path="chat") == "http://127.0.0.1:1/chat"
    assert view_of(None, {}, None, None, 128) == "n=128"
    assert json.loads(parse_qs(view_of('a "b" &', {}, None, None, 1))["c"][0]) == [['a "b" &', ""]]
