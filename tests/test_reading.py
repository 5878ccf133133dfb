"""Features of tokens, by words and by example, against plain loops over what a dictionary and a bank say."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.chat_templates import CHATML, chat_model
from tests.dictionary_oracle import random_coder
from tests.test_atlas import TEXTS
from tests.tiny_microscope import N_FEATURES, random_dictionary, shared_model
from thoughtscope.atlas import FeatureBank, collect_examples, find_text
from thoughtscope.atlas.search import BESIDE
from thoughtscope.core.errors import InvalidPlan, LimitExceeded, UnknownFeature
from thoughtscope.core.ids import FeatureId
from thoughtscope.dictionaries import encode
from thoughtscope.interventions import FeatureEdit, Plan
from thoughtscope.interventions.clean import clean_run
from thoughtscope.interventions.patch import Patch
from thoughtscope.microscope import (
    Largest,
    Microscope,
    answer,
    feature,
    known,
    label,
    largest,
    like,
    readings,
    search,
    tokens_of,
    turned,
)
from thoughtscope.microscope.reading import COMMON, MOST
from thoughtscope.models import capture
from thoughtscope.models.hooks import hooked, run

TEXT = "The fée ran to Rome"
Place = tuple[str, int]


@cache
def bank() -> FeatureBank:
    return collect_examples(
        shared_model(), random_dictionary(shared_model()), TEXTS, n_top=4, n_quantile=2, window=(9, 5)
    )


def opened(*, examples: bool = True) -> Microscope:
    model = shared_model()
    found = bank() if examples else None
    return Microscope(model=model, dictionary=random_dictionary(model), bank=found, max_tokens=48)


def plainly(microscope: Microscope, text: str) -> dict[Place, dict[int, float]]:
    """Each feature's activations by position, as `encode` has them."""
    dictionary = microscope.dictionary
    found = encode(dictionary, capture(microscope.model, tokens_of(microscope, text), dictionary.sites))
    values: dict[Place, dict[int, float]] = {}
    for part, position, index, value in zip(
        found.part.tolist(),
        found.position.tolist(),
        found.index.tolist(),
        found.value.tolist(),
        strict=True,
    ):
        values.setdefault((dictionary.parts[part].name, index), {})[position] = value
    return values


def unit(microscope: Microscope, place: Place, here: dict[int, float]) -> float:
    if microscope.bank is not None:
        detail = microscope.bank.detail(int(place[0]), place[1])
        if detail["activation_frequency"]:
            return detail["act_max"]
    return max(here.values())


@pytest.mark.parametrize("examples", [True, False])
def test_readings_are_the_largest_shares(examples: bool) -> None:
    microscope = opened(examples=examples)
    values = plainly(microscope, TEXT)
    found = readings(microscope, TEXT, n=4)
    assert found.tokens.texts == (TEXT,) and len(found.at) == len(found.tokens.pieces[0])
    assert found.at[0] == (), "a dictionary that leaves the first token out says nothing of it"
    for position, here in enumerate(found.at):
        active = [(place, at[position]) for place, at in values.items() if position in at]
        shares = {place: value / unit(microscope, place, values[place]) for place, value in active}
        wanted = sorted(active, key=lambda each: (-shares[each[0]], -each[1]))[:4]
        assert [(each.feature.part, each.feature.index) for each in here] == [place for place, _ in wanted]
        assert [each.value for each in here] == pytest.approx([value for _, value in wanted])
        assert [each.share for each in here] == pytest.approx([shares[place] for place, _ in wanted])
        assert {each.position for each in here} <= {position}
    for told in found.features.values():
        place = (told.part, told.index)
        assert told.largest is not None
        assert told.largest.value == pytest.approx(unit(microscope, place, values[place]))
        assert (told.largest.measured == "examples") == (largest(microscope, *place) is not None)


def test_a_feature_without_examples_is_measured_here() -> None:
    microscope = opened()
    silent = replace(bank().layers[1], count=torch.zeros_like(bank().layers[1].count))
    silent = replace(silent, quantiles=torch.zeros_like(silent.quantiles))
    without = replace(microscope, bank=replace(bank(), layers=(bank().layers[0], silent, bank().layers[2])))
    values = plainly(without, TEXT)
    for each in readings(without, TEXT, n=100).features.values():
        assert each.largest is not None
        if each.part == "1":
            assert each.largest.measured == "here"
            assert each.largest.value == pytest.approx(max(values[each.part, each.index].values()))
        assert (each.part == "1") == (largest(without, each.part, each.index) is None)


def test_what_is_known_of_a_feature() -> None:
    microscope = opened()
    for part, index in (("0", 3), ("2", 7)):
        detail, told = bank().detail(int(part), index), known(microscope, part, index)
        top = detail["examples_quantiles"][0]["examples"]
        peaks = [example["tokens"][example["train_token_ind"]] for example in top]
        assert told.largest == Largest(value=detail["act_max"], measured="examples")
        assert told.density == detail["activation_frequency"]
        assert told.label == bank().auto_label(int(part), index)
        assert set(told.tokens) == set(peaks) and told.tokens[0] == max(peaks, key=peaks.count)
    label(microscope, "2", 7, "mine")
    assert known(microscope, "2", 7).label == "mine"
    assert known(opened(examples=False), "0", 1).to_json() == {
        "part": "0", "index": 1, "label": None, "largest": None, "measured": None, "density": None, "tokens": [],
    }  # fmt: skip
    for part, index in (("3", 0), ("0", N_FEATURES), ("x", 0)):
        with pytest.raises(UnknownFeature):
            known(microscope, part, index)


@pytest.mark.parametrize("examples", [True, False])
def test_an_example_finds_what_is_strongest_on_it(examples: bool) -> None:
    microscope = opened(examples=examples)
    values = plainly(microscope, TEXT)
    length = len(tokens_of(microscope, TEXT).pieces[0])

    def row(place: Place) -> tuple[bool, float, float]:
        at = values[place]
        share = max(at.values()) / unit(microscope, place, at)
        seen = bank().detail(int(place[0]), place[1])["activation_frequency"] if examples else 0.0
        common = seen > COMMON if seen else len(at) / length > MOST
        return common, -share, -max(at.values())

    found = like(microscope, TEXT, n=30)
    assert [(each.feature.part, each.feature.index) for each in found] == sorted(values, key=row)[:30]
    for each in found:
        at = values[each.feature.part, each.feature.index]
        assert at[each.position] == pytest.approx(max(at.values())) == pytest.approx(each.value)


def test_of_a_conversation_only_what_is_said_counts() -> None:
    model = chat_model(CHATML)
    microscope = Microscope(model=model, dictionary=random_dictionary(model), bank=None, max_tokens=200)
    chat = [{"role": "user", "content": "Hello"}]
    tokens = tokens_of(microscope, chat)
    said = {position for turn in tokens.turns[0] if not turn.added for position in range(*turn.content)}
    found = like(microscope, chat, n=100)
    assert found and {each.position for each in found} <= said and len(said) == 5
    assert [here for here in readings(microscope, chat).at[1:] if not here] == []


def plain_score(place: Place, phrase: str) -> tuple[float, float, float]:
    """How much of a feature's strongest examples peaks on a phrase and right after it, and how it raises it."""
    detail = bank().detail(int(place[0]), place[1])
    groups = detail["examples_quantiles"]
    examples = groups[0]["examples"] if groups else []
    on, after = 0, 0
    for example in examples:
        text, peak = "".join(example["tokens"]).casefold(), example["train_token_ind"]
        start = len("".join(example["tokens"][:peak]))
        spans = [match.span() for match in re.finditer(rf"(?<![0-9a-z]){re.escape(phrase)}", text)]
        inside = any(a <= start < b for a, b in spans)
        on += inside
        after += not inside and any(a <= start - 1 < b for a, b in spans)
    ranks = [rank for rank, piece in enumerate(detail["top_logits"]) if piece.casefold().startswith(phrase)]
    n = max(1, len(examples))
    return on / n, after / n, 1 / (1 + ranks[0]) if ranks and examples else 0.0


@pytest.mark.parametrize("phrase", ["went", "to", "cat", "12+3", "sea"])
def test_words_find_what_fires_on_them(phrase: str) -> None:
    """Every character is a token here, so words are of several tokens; and "to" is not in "cat" turned around."""
    found = find_text(bank(), phrase.upper(), n=1000)
    scores = {(str(layer), index): plain_score((str(layer), index), phrase)
              for layer in range(3) for index in range(N_FEATURES)}  # fmt: skip
    expected = {place: max(on, BESIDE * max(after, raised)) for place, (on, after, raised) in scores.items()}
    assert {(str(each.layer), each.index): each.score for each in found} == pytest.approx(
        {place: score for place, score in expected.items() if score}
    )
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
    assert len(found) > 3
    for each in found:
        on, after, raised = scores[str(each.layer), each.index]
        if each.what == phrase.upper():
            assert on == each.score
        else:
            wanted = after if each.what == f"after {phrase.upper()}" else raised
            assert wanted * BESIDE == pytest.approx(each.score)


def test_several_words_are_all_there() -> None:
    whole, went, to = ({(each.layer, each.index): each.score for each in find_text(bank(), text, n=1000)}
                       for text in ("went to", "went", "to"))  # fmt: skip
    assert whole
    for place, score in whole.items():
        apart = min(went.get(place, 0.0), to.get(place, 0.0))
        assert score >= apart
    for place in set(went) & set(to):
        assert whole[place] >= min(went[place], to[place])
    assert (
        find_text(bank(), "ent", n=9) == [] == find_text(bank(), "  ", n=9) == find_text(bank(), "zebra", n=9)
    )
    with pytest.raises(LimitExceeded, match="at most 8 words"):
        find_text(bank(), "a " * 9, n=9)


def test_peoples_names_come_first() -> None:
    microscope = opened()
    label(microscope, "1", 5, "Where one went")
    label(microscope, "0", 2, "elsewhere")
    microscope.labels.set(FeatureId("tiny/clt", "9", 2), "went out of range")
    found = search(microscope, "Went", n=8)
    assert (found[0].feature.id, found[0].matched, found[0].what) == ("1/5", "label", "Where one went")
    assert [match.feature.id for match in found].count("1/5") == 1
    assert "0/2" not in [match.feature.id for match in found[:1]]
    for match in found[1:]:
        by_label = match.feature.label is not None and "went" in match.feature.label.casefold()
        assert (match.matched == "label") == by_label
    kinds = [match.matched for match in search(microscope, "c", n=50)]
    assert kinds == sorted(kinds), "labels before tokens"
    assert {"label", "token"} == set(kinds)
    assert [match.feature.id for match in search(opened(examples=False), "went")] == []


def test_turning_sets_multiples_of_the_largest() -> None:
    microscope = opened()
    edits = turned(microscope, {"1/3": 4.0, "0/2": -0.5, "2/9": 0.0})
    tops = [bank().detail(layer, index)["act_max"] for layer, index in ((1, 3), (0, 2))]
    assert edits == (
        FeatureEdit(part="1", index=3, op="set", value=4 * tops[0]),
        FeatureEdit(part="0", index=2, op="set", value=-0.5 * tops[1]),
        FeatureEdit(part="2", index=9, op="set", value=0.0),
    )
    for bad in ("1", "1/x", "/3", "1/-3", f"1/{N_FEATURES}", "7/1", "1/" + "9" * 30):
        with pytest.raises(UnknownFeature):
            turned(microscope, {bad: 1.0})


def test_without_examples_the_prompt_is_the_measure() -> None:
    microscope = opened(examples=False)
    values = plainly(microscope, TEXT)
    part, index = next(iter(values))
    name, at = f"{part}/{index}", values[part, index]
    (edit,) = turned(microscope, {name: 3.0}, prompt=TEXT)
    assert edit.value == pytest.approx(3 * max(at.values()))
    assert turned(microscope, {name: 0.0})[0].value == 0.0
    alone = tokens_of(microscope, "T", bos=False)
    assert readings(microscope, alone).at == ((),) and like(microscope, alone) == []
    for prompt in (alone, None):
        with pytest.raises(InvalidPlan, match="no examples, and is silent"):
            turned(microscope, {name: 1.0}, prompt=prompt)


def test_a_feature_that_is_turned_is_that_strong_while_the_model_speaks() -> None:
    """Where it writes first, the difference of its activation times its decoder is added, and nothing else."""
    microscope = opened()
    (edit,) = turned(microscope, {"1/3": 2.5})
    part = microscope.dictionary.part("1")
    site = part.writes[0]
    seen: dict[bool, torch.Tensor] = {}
    tokens = tokens_of(microscope, TEXT)
    for steered in (False, True):
        plan = Plan(edits=(edit,) if steered else (), attention="free")
        clean = clean_run(microscope.model, microscope.dictionary, tokens, [plan])
        patch = Patch(
            microscope.model, microscope.dictionary, clean, [plan], columns=tokens.ids.shape[1], watch=False
        )
        reads = {**patch.reads, site: lambda x, step, steered=steered: seen.update({steered: x.clone()})}
        with hooked(microscope.model, reads=reads, writes=patch.writes):
            run(microscope.model, tokens.ids, tokens.mask)
    before = plainly(microscope, TEXT).get(("1", 3), {})
    change = torch.tensor([edit.value - before.get(position, 0.0) for position in range(seen[True].shape[1])])
    wanted = change[:, None] * part.decoder_rows(torch.tensor([3]))[site]
    torch.testing.assert_close(seen[True][0] - seen[False][0], wanted, rtol=1e-3, atol=1e-4)


def test_parts_that_are_no_layers_are_asked_by_their_names() -> None:
    """An autoencoder's parts are sites, in no order of layers; examples, labels and readings belong to the part."""
    model = shared_model()
    first, second = (random_coder(model, [site]) for site in ("resid_post.2", "resid_post.0"))
    dictionary = replace(first, parts=first.parts + second.parts)
    microscope = Microscope(
        model=model, dictionary=dictionary, bank=collect_examples(model, dictionary, TEXTS), max_tokens=48
    )
    parts = [part.name for part in dictionary.parts]
    assert parts == ["resid_post.2", "resid_post.0"]
    for number, part in enumerate(parts):
        told = feature(microscope, part, 4)
        assert told["part"] == part and told["layer"] == dictionary.parts[number].layer
        assert told["act_max"] == microscope.bank.detail(number, 4)["act_max"]
        assert label(microscope, part, 4, f"of {part}") == f"of {part}"
        assert feature(microscope, part, 4)["label"] == f"of {part}"
        assert search(microscope, f"of {part}")[0].feature.id == f"{part}/4"
    names = set(readings(microscope, TEXT).features)
    assert {name.rpartition("/")[0] for name in names} <= set(parts) and names
    steps = list(answer(microscope, TEXT, [edit.to_json() for edit in turned(microscope, {f"{parts[-1]}/4": 30.0})],
                        max_new_tokens=3))  # fmt: skip
    assert len(steps) == 3
