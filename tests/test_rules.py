"""Rules that can be run: what they say, where they hold, and whether planted ones are found again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope.atlas import MadeLabel, MadeLabels, Rule, Text, label_by_rules, made_labels_of, record
from thoughtscope.atlas.fitting import Ground, Part, Tally, Wanted, best_set, fit_rule, parts_of
from thoughtscope.atlas.patterns import PASSAGES, TOKENS
from thoughtscope.atlas.rule_labels import FEWEST, lift, tried_on, unigram_table
from thoughtscope.atlas.rules import Among, Condition, Early, Like, Spelt, Within
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.store import save_artefact

WORDS = [
    "The",
    " capital",
    " of",
    " the",
    " state",
    " is",
    " Aus",
    "tin",
    ".",
    " 1",
    "984",
    "\n",
    " Dallas",
    "(",
    ")",
    " x",
]


def text_of(*documents: str) -> Text:
    """Documents spelt in pieces of `WORDS`."""
    ids = [[WORDS.index(piece) for piece in document.split("|")] for document in documents]
    starts = np.cumsum([0, *map(len, ids)])
    return Text(ids=np.concatenate(ids), starts=starts, pieces=WORDS)


SHORT = text_of("The| capital| of| the| state| is| Aus|tin|.", " Dallas|.| 1|984|(| x|)|\n|The| state")


def where(condition: Condition, text: Text = SHORT) -> list[int]:
    return np.flatnonzero(condition.holds(text, np.arange(len(text)))).tolist()


@pytest.mark.parametrize(
    ("condition", "holds", "said"),
    [
        (Among(tokens=(3, 0)), [0, 3, 17], "“the”, “The”"),
        (Among(tokens=(8,), at=-1), [11], "after “.”"),  # not over the end of a document
        (Among(tokens=(12,), at=-2), [11], "two tokens after “Dallas”"),
        (Among(tokens=(8,), at=1), [7, 9], "before “.”"),
        (Spelt(words=("Austin",)), [7], "the word “Austin”"),
        (Spelt(words=("Aus", "1984")), [6, 12], "the word “Aus”, “1984”"),
        (Spelt(words=("1984",), back=1), [13], "the word after “1984”"),
        (Spelt(words=("Austin",), back=1), [8], "the word after “Austin”"),
        (Spelt(words=("state",), back=2), [6, 7], "the second word after “state”"),
        (Spelt(words=("Dallas", "never seen"), back=2), [11, 12], "the second word after “Dallas”, “never seen”"),
        (Within(tokens=(1,), last=2), [2, 3], "up to 2 tokens after “capital”"),
        (Within(tokens=(8, 12), last=64), list(range(10, 19)), "up to 64 tokens after “.”, “Dallas”"),
        (Like(pattern="a number"), [11, 12], "a number"),
        (Like(pattern="brackets"), [13, 14], "in brackets"),
        (Like(pattern="a number", at=-1), [12, 13], "after a number"),
        (Like(pattern="the first word of a line"), [0, 9, 17], "in the first word of a line"),
        (Early(n=2), [0, 1, 9, 10], "the first 2 tokens"),
    ],
)  # fmt: skip
def test_conditions(condition: Condition, holds: list[int], said: str) -> None:
    assert where(condition) == holds
    assert condition.say(WORDS) == said
    assert Rule.from_json(Rule(clauses=((condition,),)).to_json()).clauses == ((condition,),)


def test_a_rule_holds_where_all_of_one_clause_does() -> None:
    rule = Rule(
        clauses=(
            (Among(tokens=(3,)), Within(tokens=(1,), last=4)),
            (Early(n=1), Like(pattern="a Capitalised word")),
        )
    )
    assert rule.holds(SHORT, np.arange(len(SHORT))).nonzero()[0].tolist() == [0, 3, 9]
    assert rule.say(WORDS) == "“the”, up to 4 tokens after “capital”; or a Capitalised word, the first token"
    assert not Rule().holds(SHORT, np.arange(3)).any()


def test_what_is_no_rule_is_refused() -> None:
    for bad in (
        {"all": []},
        {"any": [[{"like": "a number"}]]},
        {"any": [[{"among": [1], "at": 0, "more": 1}]]},
        {"any": 3},
    ):
        with pytest.raises(ThoughtscopeError, match="Not a rule"):
            Rule.from_json(bad)
    with pytest.raises(ThoughtscopeError, match="a number"):
        Like(pattern="no such thing")


@pytest.mark.parametrize("name", [*TOKENS, *PASSAGES])
def test_every_pattern_holds_somewhere(name: str) -> None:
    """Each in a text of one token, or of the letters of a passage."""
    tokens = {"part of a character": "⟨7⟩", "a word that goes on": "ing", "an accented letter": " né", "a line break": "\n",
              "Hangul script": "한", "kana script": "の", "Chinese characters script": "的", "Greek script": "π",
              "Cyrillic script": " да", "Hebrew script": "ש", "Arabic script": "ب", "Devanagari script": "क",
              "Bengali script": "ক", "Tamil script": "த", "Thai script": "ก"}  # fmt: skip
    some = [*tokens.values(), " 7", "1984", "123", "42", " word", " Word", "CAPS", " A", " b", "  ", " .", ".", ",", ":", "\"", "'s",
            "(", ")", " -", "+", "$"]  # fmt: skip
    passages = ("One. Two\nDr. Watson said \"what is\" (to Ann Lee) in 1984, 3.14 or 1,000 for $5, 7% at 10:30 on the 3rd; "
                "2 + 2 = 4\nhttps://a.b/c me@a.org <b>bold</b>\n# Heading\n- item\n**strong** `code` call(x snake_case "
                "camelCase\nALL CAPITALS\n0x3fa9c1 dGhvdWdodHNjb3BlMTIzNA== ACGTACGT $x^2$\nAnn: yes")  # fmt: skip
    found = TOKENS[name].fullmatch if name in TOKENS else PASSAGES[name].search
    assert any(found(each) for each in (some if name in TOKENS else [passages])), name
    assert not all(found(each) for each in [*some, "a", ""])


# --- fitting -------------------------------------------------------------------------------------------------------


def drawn(n_documents: int = 1200, kinds: int = 60, seed: int = 0) -> Text:
    random = np.random.default_rng(seed)
    lengths = random.integers(20, 40, n_documents)
    names = [f" w{chr(97 + kind // 26)}{chr(97 + kind % 26)}" for kind in range(kinds)]
    return Text(ids=random.integers(0, kinds, lengths.sum()), starts=np.cumsum([0, *lengths]), pieces=names)


def evenly(ground: Ground, at: np.ndarray) -> Wanted:
    """A feature that is active at `at`, everywhere alike."""
    return Wanted.of(ground, at, np.ones(len(at), np.float32))


PLANTED = [
    Rule(clauses=((Among(tokens=(7,)),),)),
    Rule(clauses=((Among(tokens=(3, 9, 20), at=-2),),)),
    Rule(clauses=((Among(tokens=(5,)), Within(tokens=(11,), last=16)),)),
    Rule(clauses=((Among(tokens=(5, 6, 7)), Among(tokens=(1, 2, 3, 4, 10, 11), at=-1)),)),
    Rule(clauses=((Among(tokens=(8,)),), (Among(tokens=(30,), at=-3),))),
    Rule(clauses=((Early(n=1),),)),
]


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_rules_are_found_again(planted: Rule) -> None:
    text = drawn()
    ground = Ground(text=text, part=parts_of(text))
    active = np.flatnonzero(planted.holds(text, np.arange(len(text))))
    wanted = evenly(ground, active)
    found = fit_rule(ground, wanted)
    trial = tried_on(ground, found, wanted)
    assert trial is not None and trial.f1 >= 0.97, found.say(text.pieces)
    # and nothing more than that is said
    assert sum(map(len, found.clauses)) <= sum(map(len, planted.clauses))


def test_the_ground_agrees_with_the_rule_itself() -> None:
    text = drawn(60)
    ground = Ground(text=text, part=parts_of(text))
    spelt = Rule(clauses=((Spelt(words=("waj", "wbc"), back=2), Within(tokens=(1, 2, 3), last=4)),))
    for rule in [*PLANTED, spelt, Rule(clauses=((Like(pattern="a lower-case word"),),)), Rule()]:
        for part in Part:
            everywhere = ground.positions[part]
            assert sorted(ground.at(rule, part)) == everywhere[rule.holds(text, everywhere)].tolist()


def test_noise_has_no_rule_that_holds() -> None:
    """Without a pattern, what fits one half says nothing of the other."""
    text = drawn()
    ground = Ground(text=text, part=parts_of(text))
    active = np.sort(np.random.default_rng(1).choice(len(text), 400, replace=False))
    trial = tried_on(ground, fit_rule(ground, evenly(ground, active)), evenly(ground, active))
    assert trial is not None and trial.f1 < 0.15


def test_the_best_set_is_the_best_of_all() -> None:
    """Against every subset. Where each sighting is worth the same, the order by worth finds the best; less is given up
    than a smaller set is allowed to cost."""
    random = np.random.default_rng(3)
    for _ in range(20):
        there = random.integers(20, 90, 8)
        hits = random.integers(0, there + 1)
        total = float(hits.sum() + random.integers(0, 20))

        def f1(
            some: Sequence[int], hits: np.ndarray = hits, there: np.ndarray = there, total: float = total
        ) -> float:
            right = hits[list(some)].sum()
            return 2 * right / (there[list(some)].sum() + total)

        tally = Tally(worth=np.append(hits, 5) / 1.0, right=np.append(hits, 5), there=np.append(there, 9))
        value, tokens = best_set(tally, total, 8)
        subsets = [np.flatnonzero([number >> bit & 1 for bit in range(8)]) for number in range(1, 256)]
        assert value >= max(map(f1, subsets)) - 0.01 and value == pytest.approx(f1(tokens))
        assert 8 not in tokens  # the last is "no token there"


def test_each_tenth_of_the_range_counts_the_same() -> None:
    """Ninety weak activations on one token, ten strong ones on another: either is half of the label."""
    text = Text(ids=np.tile([0, 1, 2, 3], 500), starts=np.arange(0, 2001, 10), pieces=["a", "b", "c", "d"])
    ground = Ground(text=text, part=parts_of(text))
    strong, weak = np.flatnonzero(text.ids == 0)[::10], np.flatnonzero(text.ids == 1)
    at = np.sort(np.concatenate([strong, weak]))
    wanted = Wanted.of(ground, at, np.where(text.ids[at] == 0, 9.9, 1.5).astype(np.float32))
    assert set(wanted.tenth.tolist()) == {1, 9}
    for part in Part:
        here = ground.part == part
        assert wanted.worth[here & (text.ids == 0)].sum() == pytest.approx(0.5)
        assert wanted.worth[here].sum() == pytest.approx(1.0)
    trial = tried_on(ground, Rule(clauses=((Among(tokens=(1,)),),)), wanted)
    assert trial is not None and trial.recall == {1: 1.0, 9: 0.0} and trial.precision == 1.0
    assert trial.f1 == pytest.approx(2 / 3) and trial.plain_f1 > 0.9


def test_documents_are_not_parted() -> None:
    text = drawn(100)
    part = parts_of(text)
    shares = np.bincount([part[start] for start in text.starts[:-1]]) / 100
    assert shares.tolist() == [0.5, 0.2, 0.3]
    for first, end in zip(text.starts[:-1], text.starts[1:], strict=True):
        assert len(set(part[first:end].tolist())) == 1


# --- trials --------------------------------------------------------------------------------------------------------


def test_a_trial_counts_every_held_out_token() -> None:
    text = drawn(200)
    ground = Ground(text=text, part=parts_of(text))
    at = np.flatnonzero(np.isin(text.ids, [7, 8]))
    held_out = ground.part == Part.HELD_OUT
    wide = tried_on(ground, Rule(clauses=((Among(tokens=(7, 9)),),)), evenly(ground, at))
    sevens, nines = (int((text.ids[held_out] == token).sum()) for token in (7, 9))
    both = int(np.isin(text.ids[held_out], [7, 8]).sum())
    assert wide is not None and wide.n == both
    assert wide.precision == pytest.approx(sevens / (sevens + nines))
    assert wide.plain_recall == pytest.approx(sevens / both) and list(wide.recall.values()) == [
        wide.plain_recall
    ]
    assert wide.silent == pytest.approx(nines / (held_out.sum() - both))
    assert wide.even_f1 > wide.f1  # among as many silent tokens as active ones, a wrong token hardly shows
    few = at[ground.part[at] == Part.HELD_OUT][: FEWEST - 1]
    assert tried_on(ground, Rule(), evenly(ground, few)) is None


def test_the_table_of_tokens_knows_nothing_of_what_stands_around() -> None:
    text = drawn()
    ground = Ground(text=text, part=parts_of(text))
    for planted, least, most in ((PLANTED[0], 0.99, 1.0), (PLANTED[1], 0.0, 0.3)):
        wanted = evenly(ground, np.flatnonzero(planted.holds(text, np.arange(len(text)))))
        trial = tried_on(ground, unigram_table(ground, wanted), wanted)
        assert trial is not None and least <= trial.f1 <= most


def test_lift_is_how_much_oftener_a_token_follows() -> None:
    text = drawn()
    ground = Ground(text=text, part=parts_of(text))
    before = np.flatnonzero(
        np.append(text.ids[1:] == 4, False) & (text.place < np.diff(text.starts)[text.document] - 1)
    )
    everywhere = ground.positions[Part.HELD_OUT]
    share = (text.beside(everywhere, 1) == 4).mean()
    assert lift(ground, before, np.array([4])) == pytest.approx(1 / share, rel=0.01)
    assert lift(ground, before, np.array([5])) == 0.0


# --- labels of a dictionary ----------------------------------------------------------------------------------------


def documents() -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(3, 60, random.integers(10, 30)).tolist() for _ in range(120)]


def test_labels_of_a_dictionary_are_made_saved_and_gone_on_with(tmp_path) -> None:
    model, dictionary = shared_model(), random_dictionary(shared_model())
    recording = record(model, dictionary, documents())
    assert recording is not None
    chosen = {0: [0, 3, 5, 7], 2: [1, 2]}
    made = label_by_rules(model, dictionary, recording, tmp_path / "labels", features=chosen)
    assert made.labels and set(made.labels) <= {
        (part, index) for part, some in chosen.items() for index in some
    }
    for label in made.labels.values():
        assert label.author == "rules" and label.whole.startswith(label.text[:-1])
        assert (
            0 <= label.figures["f1"] <= 1
            and 0 <= label.figures["unigram_f1"] <= 1
            and label.figures["n"] >= FEWEST
        )
    there = MadeLabels.load(tmp_path / "labels")
    assert there.labels == made.labels and there.scan == dictionary.scan

    written = MadeLabel(text="by hand of a model", author="a model", side="input")
    first = next(iter(made.labels))
    (there | MadeLabels(dictionary=there.dictionary, scan=there.scan, labels={first: written})).save(
        tmp_path / "labels"
    )
    again = label_by_rules(model, dictionary, recording, tmp_path / "labels", features=chosen)
    assert again.labels[first] == written  # nobody's label is thrown away
    other = label_by_rules(model, dictionary, recording, tmp_path / "labels", features={1: [0]}, seed=1)
    assert set(other.labels) <= {
        first,
        (1, 0),
    }  # another split: rules of the old one do not count as tried on it
    with pytest.raises(DictionaryMismatch, match="name another folder"):
        random = random_dictionary(shared_model(), name="other", scan="other", seed=1)
        label_by_rules(model, random, record(model, random, documents()), tmp_path / "labels")


def test_made_labels_lie_with_their_dictionary_and_are_checked(tmp_path) -> None:
    from thoughtscope.dictionaries import load_dictionary, save_dictionary

    model, dictionary = shared_model(), random_dictionary(shared_model())
    save_dictionary(dictionary, tmp_path / "clt")
    loaded = load_dictionary(tmp_path / "clt", model, preflight=False)
    assert made_labels_of(loaded) is None
    label = MadeLabel(text="Texas", author="rules", side="input", figures={"f1": 0.5}, rule=PLANTED[3])
    MadeLabels(dictionary=loaded.name, scan=loaded.scan, labels={(1, 2): label}).save(
        tmp_path / "clt" / "labels"
    )
    found = made_labels_of(loaded)
    assert found is not None and found.get(1, 2) == label and found.get(1, 3) is None
    assert label.rule is not None and label.rule.to_json()["any"][0][0] == {"among": [5, 6, 7], "at": 0}
    rows = [[1, 2, {**label.to_json(), "side": "inside"}]]
    meta = {"dictionary": loaded.name, "scan": loaded.scan, "labels": rows, "made_of": {}}
    save_artefact(tmp_path / "clt" / "labels", kind="labels", tensors={}, meta=meta)
    with pytest.raises(CorruptArtefact, match="cannot be read"):
        made_labels_of(loaded)
