"""The specimen that sees: drawings are text, held-out ones are never drawn in training, and a sighting's rows are exact."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import numpy as np
import pytest
import torch

from specimens.multimodal import corpus, drawings
from specimens.multimodal.drawings import (
    BLOCKS,
    SIZE,
    SLANTS,
    Style,
    as_pixels,
    as_text,
    draw,
    draw_style,
    drawing,
    held_out_pen,
)
from specimens.multimodal.glyphs import DIGITS, GLYPHS, SHAPES, THINGS
from specimens.multimodal.score import questions
from specimens.multimodal.sightings import KINDS, sightings
from specimens.multimodal.tokenizer import patch_ids, train_tokenizer
from specimens.multimodal.words import FORMS, HELD_OUT, LANGUAGES, TRAINED, WORDS, sentence


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(800)


# --- drawings ------------------------------------------------------------------------------------------------------


def test_a_drawing_and_its_text_are_the_same():
    for seed in range(20):
        pixels = np.random.default_rng(seed).random((SIZE, SIZE)) < 0.5
        assert (as_pixels(as_text(pixels)) == pixels).all()


def test_a_block_shows_its_four_pixels():
    """The characters are Unicode's quadrants, whose names say which quarter is ink."""
    import unicodedata

    quarters = ("UPPER LEFT", "UPPER RIGHT", "LOWER LEFT", "LOWER RIGHT")
    for code, block in enumerate(BLOCKS):
        pixels = np.zeros((SIZE, SIZE), dtype=bool)
        pixels[:2, :2] = [[code & 1, code & 2], [code & 4, code & 8]]
        assert as_text(pixels).split("\n")[1] == block + BLOCKS[0] * (SIZE // 2 - 1)
        name = unicodedata.name(block)
        if name.startswith("QUADRANT"):
            assert [quarter in name for quarter in quarters] == [bool(code >> bit & 1) for bit in range(4)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "⟦\n⟧",
        as_text(np.zeros((SIZE, SIZE), bool))[:-1],
        "⟦\n" + "\n".join(["······"] * 5 + ["·····x"]) + "\n⟧",
    ],
)
def test_what_is_no_drawing_is_refused(text):
    with pytest.raises(ValueError, match="no drawing"):
        as_pixels(text)


def plain(variant: int, **others) -> Style:
    return Style(
        **{
            "variant": variant,
            "pen": 1,
            "slant": 0.0,
            "size": 1.0,
            "width": 1.0,
            "shift": (0.0, 0.0),
            "jitter": 0.0,
            "noise": 0.0,
            **others,
        }
    )


def test_the_generator_draws_what_it_says():
    """Facts of a few drawings without jitter and noise, which a wrong stroke, axis or distance would break."""
    one = draw("1", plain(0), Random(0))
    columns = np.flatnonzero(one.any(0))
    assert len(columns) <= 2 and one[:, columns[0]].sum() >= 10, "a line from top to bottom"
    circle = draw("circle", plain(0), Random(0))
    assert (circle == circle[::-1]).all() and (circle == circle[:, ::-1]).all() and (circle == circle.T).all()
    assert not circle[5:7, 5:7].any() and draw("circle", plain(1, pen=2), Random(0))[5:7, 5:7].all()
    seven = draw("7", plain(0), Random(0))
    assert seven[1, 3:9].all() and seven[-4:, :5].sum() == 0, (
        "a bar on top, and a stem that ends right of the middle"
    )
    assert (draw("9", plain(2), Random(0)) == draw("6", plain(2), Random(0))[::-1, ::-1]).all(), (
        "turned by half a circle"
    )


def test_slant_pen_and_shift_do_what_they_are_called():
    upright, slanted = draw("1", plain(0), Random(0)), draw("1", plain(0, slant=0.4), Random(0))
    middle = lambda pixels, rows: np.mean([np.flatnonzero(row).mean() for row in pixels[rows]])
    assert middle(slanted, slice(1, 3)) > middle(upright, slice(1, 3)) > middle(slanted, slice(9, 11)) - 1e-9
    inks = [draw("8", plain(0, pen=pen), Random(0)).sum() for pen in range(3)]
    assert inks == sorted(inks) and inks[0] < inks[2]
    moved = draw("1", plain(0, shift=(2.0, 0.0)), Random(0))
    assert (moved[:, 2:] == upright[:, :-2]).all()
    assert draw("1", plain(0, noise=1.0), Random(0)).sum() == SIZE * SIZE - upright.sum()


def test_the_same_seed_draws_the_same():
    assert drawing("4", Random(3)) == drawing("4", Random(3)) != drawing("4", Random(4))


def test_held_out_styles_are_never_drawn_in_training():
    """By pen for each way of drawing a thing, and by slant besides; and every other pen is drawn."""
    rng = Random(0)
    for thing in THINGS:
        for held_out in (False, True):
            styles = [draw_style(thing, rng, held_out=held_out) for _ in range(80)]
            low, high = SLANTS[held_out]
            assert all(low <= abs(style.slant) <= high for style in styles)
            for variant in range(len(GLYPHS[thing])):
                pens = {style.pen for style in styles if style.variant == variant}
                kept = {held_out_pen(thing, variant)}
                assert pens == (kept if held_out else {0, 1, 2} - kept)
    assert SLANTS[False][1] < SLANTS[True][0]


def test_no_training_document_is_drawn_in_a_held_out_style(monkeypatch):
    asked = []
    monkeypatch.setattr(
        drawings,
        "draw_style",
        lambda thing, rng, *, held_out: asked.append(held_out) or draw_style(thing, rng, held_out=held_out),
    )
    drawn = sum(text.count("⟦") for text in corpus.sample_documents(0, 300))
    assert drawn == len(asked) > 150 and not any(asked)


# --- words ---------------------------------------------------------------------------------------------------------


def test_every_language_has_every_word_frame_and_form():
    for language in LANGUAGES:
        assert len(set(WORDS[language].values())) == len(THINGS) == 15
        assert not set(TRAINED[language]) & set(HELD_OUT[language])
        assert all(frame.count("{n}") == 1 for frame in (*TRAINED[language], *HELD_OUT[language]))
        assert {len(forms) for forms in FORMS[language].values()} == {2, 3}
    assert [WORDS["fr"][digit] for digit in "137"] == ["un", "trois", "sept"] and WORDS["de"][
        "star"
    ] == "Stern"


def test_a_sentence_knows_where_its_word_stands():
    for language in LANGUAGES:
        for seed in range(60):
            for held_out in (False, True):
                one = sentence(DIGITS[seed % 10], language, Random(seed), held_out=held_out)
                assert one.text[one.start : one.end].lower() == WORDS[language][one.thing]
                assert "\0" not in one.text and "\1" not in one.text and not one.text[0].islower()


def test_held_out_frames_are_in_no_training_document():
    """Their fixed words, in order, do not stand in any document."""
    import re

    patterns = [
        re.compile("^" + re.sub(r"\\\{\w+\\\}", r"(.|\\n)+", re.escape(frame)), flags=re.IGNORECASE)
        for frames in HELD_OUT.values() for frame in frames
    ]  # fmt: skip
    for text in corpus.sample_documents(1, 1500):
        assert not any(pattern.match(text) for pattern in patterns), text


def test_documents_are_true():
    """Sums, successors and the larger of two, read again from the text."""
    import re

    numbers = {
        word.lower(): int(digit)
        for language in LANGUAGES
        for digit, word in WORDS[language].items()
        if digit in DIGITS
    }
    word = "(?:the |le )?(?:number |digit |numéro |nombre |Zahl |Nummer )?(" + "|".join(numbers) + ")"
    plus = re.compile(f"^{word} (?:plus) {word} (?:is|font|ist) {word}[.]$", re.IGNORECASE)
    larger = re.compile(
        f"^(?:the larger of|le plus grand de|die größere von) {word} (?:and|et|und) {word} (?:is|est|ist) {word}[.]$",
        re.IGNORECASE,
    )
    after = re.compile(f"^(?:after|après|nach) {word} (?:comes|vient|kommt) {word}[.]$", re.IGNORECASE)
    seen = dict.fromkeys(("plus", "larger", "after"), 0)
    for text in corpus.sample_documents(2, 4000):
        values = lambda match: [numbers[part.lower()] for part in match.groups()]
        if match := plus.match(text):
            x, y, total = values(match)
            assert x + y == total
            seen["plus"] += 1
        if match := larger.match(text):
            x, y, most = values(match)
            assert max(x, y) == most
            seen["larger"] += 1
        if match := after.match(text):
            x, y = values(match)
            assert x + 1 == y
            seen["after"] += 1
    assert min(seen.values()) >= 10, seen


# --- tokens, rows, training ----------------------------------------------------------------------------------------


def test_each_block_is_one_token_whatever_surrounds_it(tokenizer):
    """A drawing has as many tokens as blocks, five row ends and its frame; its text comes back to the letter."""
    assert len(set(patch_ids(tokenizer))) == 17
    for seed in range(30):
        drawn = drawing(THINGS[seed % 15], Random(seed))
        ids = tokenizer.encode(f"Look: {drawn} is it.", add_special_tokens=False)
        alone = tokenizer.encode(drawn, add_special_tokens=False)
        assert len(alone) == 36 + 5 + 2
        assert "".join(map(str, alone)) in "".join(map(str, ids))
        assert tokenizer.decode(ids) == f"Look: {drawn} is it."


def test_sightings_have_the_thing_first_and_every_other_word_once():
    for held_out in (False, True):
        seen = sightings(0, 2, held_out=held_out)
        assert [(one.kind, one.thing) for one in seen] == [
            (k, t) for k in KINDS for t in THINGS for _ in range(2)
        ]
        for one in seen:
            (start, end), *others = one.rows
            named = one.text[start:end]
            assert (
                as_pixels(named).any()
                if one.kind == "drawings"
                else named.lower() == WORDS[one.kind][one.thing].lower()
            )
            covered = sorted(one.rows)
            assert all(left[1] <= right[0] for left, right in pairwise(covered))
            rest = "".join(
                one.text[a:b]
                for a, b in zip(
                    [0, *(row[1] for row in covered)],
                    [*(row[0] for row in covered), len(one.text)],
                    strict=True,
                )
            )
            assert not any(character.isalnum() for character in rest) and others
    tuned, held = ({one.text for one in sightings(0, 4, held_out=flag)} for flag in (False, True))
    assert not tuned & held


def test_questions_have_their_answers():
    asked = questions(0, 3)
    names = {word for language in LANGUAGES for word in WORDS[language].values()}
    assert all(one.answer in names for one in asked if one.task.startswith("name"))
    for one in asked:
        if one.task == "plus_one/word":
            heading, _, word = one.prompt.rpartition(" ")
            (wanted,) = (
                each
                for each in LANGUAGES
                if heading in {corpus.heading(asked, each, 1) for asked in LANGUAGES}
            )
            assert word in {WORDS[each][one.thing] for each in LANGUAGES}
            assert one.answer == WORDS[wanted][str(int(one.thing) + 1)]
    assert {one.group for one in asked} == {"digits", "shapes"} and SHAPES[0] in {one.thing for one in asked}


def test_a_few_steps_of_training_learn_and_are_the_same_each_time(tmp_path, tokenizer, monkeypatch):
    """The loss falls; patches weigh a tenth; what is written loads as every model does."""
    from specimens.multimodal import train
    from thoughtscope import load_model, tokenize

    monkeypatch.setattr(train, "LOG_STEPS", 2)
    monkeypatch.setattr(train, "CHUNK_ROWS", 512)
    made = [
        train.train(tmp_path / name, tmp_path / f"{name}-out", tokenizer, steps=4, compiled=False)
        for name in "ab"
    ]
    for one, other in zip(*(model.parameters() for model in made), strict=True):
        assert torch.equal(one, other)
    import json

    losses = [json.loads(line)["loss"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and losses[1] < losses[0]
    model = load_model(str(tmp_path / "a-out"))
    drawn = drawing("7", Random(0))
    tokens = tokenize(model, drawn)
    assert tokens.ids.shape == (1, 44) and "".join(tokens.pieces[0][1:]) == drawn


def test_patches_weigh_less_in_the_loss(tokenizer):
    from specimens.multimodal import train

    model = train.build(tokenizer, 0)
    ids = torch.tensor([tokenizer.encode(drawing("2", Random(1)) + " is two.")])
    even = torch.ones(len(tokenizer))
    weights = even.clone()
    weights[patch_ids(tokenizer)] = train.PATCH_WEIGHT
    each = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    w = weights[ids[0, 1:]]
    assert 0 < (w < 1).sum() < len(w)
    assert train.weighted_loss(model, ids, ids, weights).item() == pytest.approx(
        ((each * w).sum() / w.sum()).item(), abs=1e-5
    )
    assert train.weighted_loss(model, ids, ids, even).item() == pytest.approx(each.mean().item(), abs=1e-5)


# --- the measurement -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evidence():
    import importlib.util
    import sys
    from pathlib import Path

    folder = Path(__file__).parents[1] / "evidence"
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location("evidence_multimodal", folder / "multimodal.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def planted(evidence, held_out: bool):
    """Rows of sightings, and three units: one fires on every seven, one on drawn ones alone, one at random."""
    seen = sightings(0, 6, held_out=held_out)
    starts = np.cumsum([0, *(len(one.rows) for one in seen)]).tolist()
    values = torch.rand(starts[-1], 3, generator=torch.Generator().manual_seed(int(held_out)))
    for start, one in zip(starts, seen, strict=False):
        if one.thing == "7":
            values[start, 0] = 2
            if one.kind == "drawings":
                values[start, 1] = 2
    return evidence.Half(
        values={"0": values}, kinds=[o.kind for o in seen], things=[o.thing for o in seen], starts=starts
    )


def test_a_digit_counts_only_with_a_unit_that_fires_for_all_four_kinds(evidence):
    tuning, held_out = planted(evidence, False), planted(evidence, True)
    found = evidence.detectors(tuning, held_out, ["0"])
    assert found["7"]["detector"].unit == 0 and set(found["7"]["f1"].values()) == {1.0}
    assert evidence.count(found) == 1 and evidence.count(found, shapes=True) == 0
    for half in (tuning, held_out):
        half.values["0"][:, 0] = 0
    drawn = evidence.detectors(tuning, held_out, ["0"])["7"]
    assert (
        drawn["detector"].unit == 1
        and drawn["f1"]["drawings"] == 1.0
        and max(drawn["f1"][each] for each in LANGUAGES) < 0.5
    )
    assert evidence.count({**found, "7": drawn}) == 0


def test_shuffled_labels_stay_within_their_kind_and_hide_the_unit(evidence):
    tuning, held_out = planted(evidence, False), planted(evidence, True)
    labels = [half.shuffled(Random(0)) for half in (tuning, held_out)]
    for half, mixed in zip((tuning, held_out), labels, strict=True):
        assert mixed != half.things
        assert sorted(zip(half.kinds, mixed, strict=True)) == sorted(
            zip(half.kinds, half.things, strict=True)
        )
    assert evidence.count(evidence.detectors(tuning, held_out, ["0"], labels=labels)) == 0


def test_a_row_has_the_largest_value_of_its_own_tokens(evidence):
    """With the position as the unit: a row's value is that of its last token."""
    from specimens.multimodal.sightings import Sighting
    from tests.tiny_models import tiny_model
    from thoughtscope import tokenize

    model = tiny_model("llama")
    some = [
        Sighting(kind="en", thing="7", text="é seven.", rows=((2, 7), (0, 1))),
        Sighting(kind="en", thing="7", text="a b", rows=((0, 1), (2, 3))),
    ]
    assert evidence.rows_of(some, tokenize(model, [one.text for one in some])) == [
        [4, 5, 6, 7, 8],
        [1, 2],
        [11],
        [13],
    ]
    halves = evidence.half(
        model, {"position": lambda held: torch.arange(len(next(iter(held.values())))).float()[:, None]}, some
    )
    assert halves.values["position"][:, 0].tolist() == [8, 2, 11, 13] and halves.starts == [0, 2, 4]


# --- what ships ----------------------------------------------------------------------------------------------------


def test_what_ships_opens_by_name_and_names_drawings_that_it_never_saw():
    """With the dictionary that its name stands for, and examples that show whole drawings."""
    from specimens.multimodal.score import continuations
    from thoughtscope.microscope import open_microscope

    opened = open_microscope("specimen-multimodal")
    assert opened.dictionary.name == "specimen-multimodal/sae" and not opened.problems
    assert len(opened.bank.layers) == len(opened.dictionary.parts) == 3
    rng = Random(11)
    prompts = [f"{corpus.heading('de', 'en', 0)} {drawing(digit, rng, held_out=True)}" for digit in DIGITS]
    said = continuations(opened.model.module, opened.model.tokenizer, prompts, 1)
    right = sum(text.strip() == WORDS["en"][digit] for text, digit in zip(said, DIGITS, strict=True))
    assert right >= 8, said
