"""The bank of features against a plain recomputation, its files, and labels."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import jsonschema
import pytest
import torch

from tests.autograd_oracle import activations_at, relayered
from tests.tiny_microscope import N_FEATURES, random_dictionary, shared_model
from thoughtscope.atlas import FeatureBank, auto_label, bank_of, collect_examples
from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import FeatureId
from thoughtscope.core.labels import Label, LabelStore
from thoughtscope.dictionaries import Dictionary, layer_weights, load_dictionary, save_dictionary
from thoughtscope.models import capture, tokenize
from thoughtscope.models.tokens import describe

TEXTS = [
    f"{a} {b} went to {c}."
    for a in ("The cat", "Une fée", "我们")
    for b in ("quickly", "12+34")
    for c in ("Rome", "sea", "bed")
]

SCHEMA = {
    "type": "object",
    "required": ["index", "examples_quantiles", "top_logits", "bottom_logits", "act_min", "act_max", "quantile_values", "histogram", "activation_frequency"],
    "properties": {
        "transcoder_id": {"type": "string"},
        "index": {"type": "integer"},
        "top_logits": {"type": "array", "items": {"type": "string"}},
        "bottom_logits": {"type": "array", "items": {"type": "string"}},
        "act_min": {"type": "number"},
        "act_max": {"type": "number"},
        "quantile_values": {"type": "array", "items": {"type": "number"}},
        "histogram": {"type": "array", "items": {"type": "number"}},
        "activation_frequency": {"type": "number", "minimum": 0, "maximum": 1},
        "examples_quantiles": {"type": "array", "items": {
            "type": "object", "required": ["quantile_name", "examples"],
            "properties": {"quantile_name": {"type": "string"}, "examples": {"type": "array", "items": {
                "type": "object",
                "required": ["tokens_acts_list", "train_token_ind", "is_repeated_datapoint", "tokens"],
                "properties": {
                    "tokens_acts_list": {"type": "array", "items": {"type": "number"}},
                    "train_token_ind": {"type": "integer"},
                    "is_repeated_datapoint": {"type": "boolean"},
                    "tokens": {"type": "array", "items": {"type": "string"}},
                },
            }}},
        }},
    },
}  # fmt: skip


@cache
def dictionary() -> Dictionary:
    return random_dictionary(shared_model())


@cache
def bank() -> FeatureBank:
    return collect_examples(shared_model(), dictionary(), TEXTS, n_top=4, n_quantile=2, window=(9, 5))


@cache
def direct() -> list[tuple[list[str], torch.Tensor]]:
    """Each text's pieces and all activations (layer, pos, feature), one text at a time."""
    model, found = shared_model(), []
    for text in TEXTS:
        tokens = tokenize(model, text)
        acts = capture(model, tokens, dictionary().reads)
        values = torch.stack(
            [
                activations_at(dictionary(), layer, acts[site][0])
                for layer, site in enumerate(dictionary().reads)
            ]
        )
        values[:, 0] = 0
        found.append((list(tokens.pieces[0]), values))
    return found


def test_figures_equal_a_plain_count():
    n_tokens = sum(len(pieces) for pieces, _ in direct())
    assert bank().n_tokens == n_tokens
    for layer in range(3):
        for index in range(N_FEATURES):
            values = torch.cat([v[layer, :, index] for _, v in direct()])
            active, detail = values[values > 0], bank().detail(layer, index)
            assert detail["activation_frequency"] == pytest.approx(len(active) / n_tokens)
            assert sum(detail["histogram"]) == len(active)
            if len(active):
                assert detail["act_max"] == pytest.approx(float(active.max()), rel=2e-3)
                assert detail["act_min"] == pytest.approx(float(active.min()), rel=2e-3, abs=1e-5)
                counts = torch.histc(active, bins=30, min=0, max=float(active.max()))
                assert (counts - torch.tensor(detail["histogram"])).abs().sum() <= 0.1 * len(active) + 2


def test_examples_show_the_text_and_its_activations():
    shown = 0
    for layer in range(3):
        for index in range(N_FEATURES):
            for group in bank().detail(layer, index)["examples_quantiles"]:
                for example in group["examples"]:
                    shown += 1
                    assert is_somewhere(example, layer, index), example
                    assert example["tokens_acts_list"][example["train_token_ind"]] > 0
    assert shown > 100


def is_somewhere(example: dict, layer: int, index: int) -> bool:
    n = len(example["tokens"])
    for pieces, values in direct():
        for start in range(len(pieces) - n + 1):
            if pieces[start : start + n] == example["tokens"]:
                there = values[layer, start : start + n, index]
                if torch.allclose(there, torch.tensor(example["tokens_acts_list"]), rtol=3e-3, atol=2e-3):
                    return True
    return False


def test_top_examples_are_the_strongest_distinct_texts():
    for index in range(N_FEATURES):
        detail = bank().detail(1, index)
        if not detail["examples_quantiles"]:
            continue
        top = detail["examples_quantiles"][0]
        peaks = [e["tokens_acts_list"][e["train_token_ind"]] for e in top["examples"]]
        assert (
            top["quantile_name"] == "Top activations"
            and peaks == sorted(peaks, reverse=True)
            and len(peaks) <= 4
        )
        assert peaks[0] == pytest.approx(detail["act_max"], rel=1e-3)
        everything = [str(e["tokens"]) for group in detail["examples_quantiles"] for e in group["examples"]]
        assert len(set(everything)) == len(everything)


def test_outputs_follow_the_decoder():
    model, norm = shared_model(), shared_model().family.final_norm
    for index in (0, 5):
        direction = layer_weights(dictionary())[1].decoder[index].sum(0) * norm.weight
        logits = model.family.unembed @ direction
        order = logits.argsort(descending=True).tolist()
        detail = bank().detail(1, index)
        assert detail["top_logits"] == [describe(model, [token])[1][0] for token in order[:10]]
        assert detail["bottom_logits"] == [describe(model, [token])[1][0] for token in order[::-1][:10]]
        assert detail["output_strength"] == pytest.approx(
            float((logits.max() - logits.mean()) / logits.std()), rel=1e-2
        )


def test_details_follow_the_published_schema():
    for index in range(N_FEATURES):
        detail = bank().detail(0, index)
        jsonschema.validate(detail, SCHEMA)
        json.dumps(detail, allow_nan=False)


def test_a_bank_lies_with_its_dictionary(tmp_path):
    assert bank_of(dictionary()) is None
    save_dictionary(dictionary(), tmp_path / "clt")
    bank().save(tmp_path / "clt" / "features")
    loaded = load_dictionary(tmp_path / "clt")
    found = bank_of(loaded)
    assert found is not None and found.dictionary_name == loaded.name
    for layer in range(3):
        for index in range(N_FEATURES):
            assert found.detail(layer, index) == bank().detail(layer, index)
    manifest = tmp_path / "clt" / "features" / "manifest.json"
    whole = manifest.read_bytes()
    for place in range(0, len(whole), 211):
        manifest.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptArtefact, match=r"manifest\.json|features"):
            bank_of(loaded)
    manifest.write_bytes(whole)
    next((tmp_path / "clt" / "features").glob("layer_1-*")).unlink()
    with pytest.raises(CorruptArtefact, match="layer_1"):
        bank_of(loaded)


@pytest.mark.parametrize(("layer", "index"), [(3, 0), (-1, 0), (0, N_FEATURES), (0, -1)])
def test_unknown_features_are_refused(layer, index):
    with pytest.raises(UnknownFeature, match="layers 0 to 2"):
        bank().detail(layer, index)


def test_no_text_is_refused():
    with pytest.raises(ThoughtscopeError, match="no text"):
        collect_examples(shared_model(), dictionary(), [])


# --- labels -----------------------------------------------------------------------------------------------------------


def test_labels_are_kept(tmp_path):
    store = LabelStore(tmp_path / "deep" / "labels.json")
    texas = FeatureId("org/clt", "2", 7)
    assert store.get(texas) is None
    assert store.set(texas, "  Texas\n places\x00 ") == "Texas places"
    store.set("sae/resid_post.12/1", "<script>alert(1)</script>")
    again = LabelStore(tmp_path / "deep" / "labels.json")
    assert again.all() == {"org/clt/2/7": "Texas places", "sae/resid_post.12/1": "<script>alert(1)</script>"}
    assert again.of("org/clt") == {"2/7": "Texas places"} and again.of("org") == {}
    again.set(texas, "")
    assert store.get(texas) is None  # another's change is seen


def test_each_author_has_a_label_and_the_newest_is_shown(tmp_path):
    path = tmp_path / "labels.json"
    store = LabelStore(path)
    store.adopt("d", {"0/0": "unsigned"})
    assert store.set("d/0/0", "Texas", author="anna") == "Texas"  # in place of what nobody signed
    assert store.set("d/0/0", "places", author="ben\u202e") == "places"
    assert store.set("d/0/0", "Texan places", author="anna") == "Texan places"
    again = LabelStore(path)
    assert [(label.author, label.text) for label in again.given("d/0/0")] == [
        ("ben", "places"),
        ("anna", "Texan places"),
    ]
    assert all(label.when.endswith("+00:00") for label in again.given("d/0/0"))
    assert again.of("d") == {"0/0": "Texan places"} and again.given_of("d")["0/0"] == store.given("d/0/0")
    assert again.set("d/0/0", "", author="anna") == "places"  # one takes back one's own only
    assert again.set("d/0/0", "", author="ben") == "" and again.all() == {}
    with pytest.raises(LimitExceeded, match="60 characters; got 61"):
        store.set("d/0/0", "a", author="x" * 61)


def test_labels_of_the_old_kind_are_read(tmp_path):
    (tmp_path / "labels.json").write_text('{"d/0/0": "before authors"}')
    store = LabelStore(tmp_path / "labels.json")
    assert store.given("d/0/0") == (Label(text="before authors"),)
    store.set("d/0/1", "since", author="anna")
    assert LabelStore(tmp_path / "labels.json").all() == {"d/0/0": "before authors", "d/0/1": "since"}


def test_the_author_is_who_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("THOUGHTSCOPE_AUTHOR", "Ada\nLovelace")
    store = LabelStore(tmp_path / "labels.json")
    store.set("d/0/0", "sums")
    assert store.given("d/0/0")[0].author == "Ada Lovelace"


WRITER = """
import sys
from thoughtscope.core.labels import Label, LabelStore
store = LabelStore(sys.argv[1])
for number in range(40):
    store.set(f"d/0/{number}", f"{sys.argv[2]} {number}", author=sys.argv[2])
"""


def test_two_people_at_once_lose_nothing(tmp_path):
    """Two processes name the same forty features."""
    path = tmp_path / "labels.json"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, name]) for name in ("anna", "ben")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    store = LabelStore(path)
    for number in range(40):
        assert {(label.author, label.text) for label in store.given(f"d/0/{number}")} == {
            ("anna", f"anna {number}"),
            ("ben", f"ben {number}"),
        }


def test_two_stores_on_one_file_do_not_lose_labels(tmp_path):
    one, two = LabelStore(tmp_path / "labels.json"), LabelStore(tmp_path / "labels.json")
    one.set("d/0/0", "a")
    two.set("d/0/1", "b")
    assert LabelStore(tmp_path / "labels.json").all() == one.all() == {"d/0/0": "a", "d/0/1": "b"}


def test_labels_without_a_file_live_as_long_as_the_store():
    store = LabelStore()
    store.set("d/0/0", "a")
    store.adopt("d", {"0/0": "older", "1/1": "taken over"})
    assert store.all() == {"d/0/0": "a", "d/1/1": "taken over"}


def test_bad_labels_are_refused(tmp_path):
    store = LabelStore(tmp_path / "labels.json")
    with pytest.raises(LimitExceeded, match="200 characters; got 201"):
        store.set("d/0/0", "x" * 201)
    with pytest.raises(UnknownFeature, match="feature id"):
        store.set("0/0", "a")
    for damaged in (
        '["not a table"]',
        '{"0/0": "a"',
        '{"0/0": 7}',
        '{"0/0": [{"words": "a"}]}',
        '{"0/0": [{"text": 7}]}',
    ):
        (tmp_path / "labels.json").write_text(damaged)
        for one in (store, LabelStore(tmp_path / "labels.json")):
            assert one.all() == {} and one.get("d/0/0") is None and len(one) == 0
            assert one.problem.file.endswith("labels.json") and "Mend the file, or move it" in one.problem.why
            with pytest.raises(CorruptArtefact, match=r"not kept: .*labels\.json .*Mend the file"):
                one.set("d/0/0", "a")
        assert (tmp_path / "labels.json").read_text() == damaged
    (tmp_path / "labels.json").unlink()
    assert store.set("d/0/0", "a") == "a" and store.all() == {"d/0/0": "a"} and store.problem is None


def detail_of(examples: list[tuple[list[str], int]], top: list[str], strength: float = 3.0) -> dict:
    shown = [
        {"tokens": tokens, "train_token_ind": at, "tokens_acts_list": [0.0] * len(tokens)}
        for tokens, at in examples
    ]
    return {
        "examples_quantiles": [{"quantile_name": "Top", "examples": shown}],
        "top_logits": top,
        "output_strength": strength,
    }


CITIES = [["of", f" {city}"] for city in ("Dallas", "Houston", "Austin", "Dallas")]
MIXED = [["the", " capital", f" {word}"] for word in "abcdefgh"]


@pytest.mark.parametrize(
    ("examples", "top", "strength", "label"),
    [
        ([(["in", " Dallas"], 1)] * 5 + [([" x", " dallas"], 1)], [" a"], 3, "in Dallas"),
        ([([f"{n}", " Dallas"], 1) for n in range(5)], [" a"], 3, "Dallas"),
        ([(tokens, 1) for tokens in CITIES], [" Texas"], 3, "Dallas, Houston, Austin"),
        ([(tokens, 1) for tokens in CITIES], [" Texas"], 9, "Dallas, Houston, Austin → Texas"),
        ([(tokens, 2) for tokens in MIXED], [" Texas"], 3, "after capital"),
        (
            [([f"{n}", f" {n * n}"], 1) for n in range(9)],
            [" Texas", " Austin", " Texas"],
            3,
            "raises Texas, Austin",
        ),
        ([(['"', "petit", '"'], 1)] * 4, ['"'], 3, 'petit → "'),
        ([([f"{n}", " is", " Austin"], 1) for n in range(5)], [" Texas", " Austin"], 3, "is → Austin"),
        ([([f"{n}", " is", " Austin"], 1) for n in range(5)], [" Texas", " Utah"], 3, "is"),
        ([], [" Texas"], 9, ""),
        ([(["\n"], 0)] * 3, [" a"], 3, "↵"),
    ],
)
def test_auto_labels(examples, top, strength, label):
    assert auto_label(detail_of(examples, top, strength)) == label


def test_every_feature_that_fires_has_a_label():
    for index in range(N_FEATURES):
        fires = bank().detail(2, index)["activation_frequency"] > 0
        assert bool(bank().auto_label(2, index)) == fires


def test_activations_beyond_half_precision_stay_finite():
    """Kept as float16, they stop at its largest number; an infinity would spoil the feature's histogram."""
    layers = tuple(
        replace(weights, W_enc=weights.W_enc * 1e6, b_enc=weights.b_enc * 1e6)
        for weights in layer_weights(dictionary())
    )
    bank = collect_examples(shared_model(), relayered(dictionary(), layers), TEXTS[:4])
    largest = max(float(layer.quantiles.max()) for layer in bank.layers)
    assert largest == torch.finfo(torch.float16).max
