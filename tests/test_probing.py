"""Probing on features that were planted, so that every figure is known beforehand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.autograd_oracle import random_dictionary
from tests.dictionary_oracle import held, random_coder, weights_of
from tests.test_scores import activations
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError
from thoughtscope.evaluation import (
    Labelled,
    Pooled,
    absorption,
    fit_probe,
    pool,
    read_labelled,
    sparse_probing,
    targeted_perturbation,
)

CLASSES = ("red", "green", "blue")


def planted(n: int = 240, noise: float = 0.02, special: bool = False) -> Pooled:
    """Features 0 to 2 say the class, each in a direction of its own; 3 and 5 to 7 fire for half of all texts.

    With `special`, feature 4 fires on a third of the red texts instead of feature 0, and writes what that would.
    """
    decoder = torch.linalg.qr(torch.randn(8, 8)).Q
    which = torch.arange(n) % 3
    features = torch.zeros(n, 8)
    features[torch.arange(n), which] = 3.0
    features[:, [3, 5, 6, 7]] = 3 * torch.rand(n, 4).round()
    if special:
        red = (which == 0).nonzero()[::3, 0]
        features[red, 0], features[red, 4] = 0.0, 3.0
        decoder[4] = decoder[0] + 0.2 * decoder[4]
    x = features @ decoder + noise * torch.randn(n, 8)
    return Pooled(
        x=x, features=features, labels=tuple(CLASSES[each] for each in which.tolist()), decoder=decoder
    )


def test_a_probe_is_the_minimum_of_its_loss() -> None:
    x, truth = torch.randn(50, 4), torch.arange(50) % 2 == 0
    x[truth] += 0.5
    probe = fit_probe(x, truth)
    weight, bias = (
        probe.weight.clone().requires_grad_(),
        torch.tensor(probe.bias, dtype=torch.float64, requires_grad=True),
    )
    sign = torch.where(truth, 1.0, -1.0).double()
    loss = 0.5 * weight @ weight + torch.nn.functional.softplus(-sign * (x.double() @ weight + bias)).sum()
    loss.backward()
    assert float(weight.grad.abs().max()) < 1e-3 and abs(float(bias.grad)) < 1e-3
    assert torch.equal(probe.predict(x), x.double() @ probe.weight + probe.bias > 0)


def test_one_feature_says_the_class_where_no_channel_does() -> None:
    found = sparse_probing(planted())
    assert found.features == {1: 1.0, 2: 1.0, 5: 1.0} and found.dense == 1.0 and found.classes == CLASSES
    assert found.channels[1] < 0.95
    # The labels say nothing of these features: chance, in as many texts of the class as of others.
    mixed = replace(planted(n=600), labels=tuple(CLASSES[int(n)] for n in torch.randint(3, (600,))))
    chance = sparse_probing(mixed)
    assert 0.35 < chance.features[1] < 0.65 and 0.35 < chance.dense < 0.65


def test_ablating_a_class_hurts_its_own_probe_alone() -> None:
    found = targeted_perturbation(planted(), top=(1, 2))
    assert found[1] > 0.3
    # Features that write nothing of the class: no probe notices.
    pooled = planted()
    assert (
        targeted_perturbation(replace(pooled, features=pooled.features.roll(1, dims=0) * 0), top=(1,))[1] == 0
    )


def test_what_a_special_feature_takes_over_is_counted() -> None:
    clean, taken = absorption(planted(), most_split=1), absorption(planted(special=True), most_split=1)
    assert clean.full == 0 and clean.fraction < 0.05 and clean.split == 1
    assert taken.full == pytest.approx(1 / 3 / 3, abs=0.06)  # a third of the words of one letter in three
    assert taken.fraction == pytest.approx(1 / 9, abs=0.06)
    split = absorption(planted(special=True))
    assert split.full == 0 and split.split == pytest.approx(4 / 3)  # seen as one letter split in two


def test_texts_are_pooled_over_their_tokens() -> None:
    model = tiny_model("llama", layers=3)
    dictionary = random_coder(model, ("resid_post.1",))
    texts = [
        Labelled(text=text, label=label)
        for text, label in (("The cat sat.", "a"), ("No", "b"), ("Rain falls down", "a"))
    ]
    pooled = pool(model, dictionary, texts)
    assert pooled.labels == ("a", "b", "a") and torch.equal(
        pooled.decoder, dictionary.parts[0].W_dec[dictionary.reads[0]]
    )
    for row, one in enumerate(texts):
        x, _ = held(model, model.tokenizer(one.text)["input_ids"], ["resid_post.1"])
        torch.testing.assert_close(pooled.x[row], x["resid_post.1"][1:].mean(0), atol=1e-5, rtol=1e-4)
        features = activations(weights_of(dictionary), x)[1:].mean(0)
        torch.testing.assert_close(pooled.features[row].double(), features, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_probed_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama", layers=3)
    with pytest.raises(DictionaryMismatch, match="Name one"):
        pool(model, random_dictionary(model), [Labelled(text="one two", label="a")])
    transcoder = pool(model, random_dictionary(model), [Labelled(text="one two", label="a")], part="1")
    for verb in (targeted_perturbation, absorption):
        with pytest.raises(DictionaryMismatch, match="autoencoder"):
            verb(transcoder)
    with pytest.raises(ThoughtscopeError, match="two classes"):
        sparse_probing(transcoder)
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "ä", "label": "b"}) + "\n\n")
    assert read_labelled(path) == [Labelled(text="ä", label="b")]
    path.write_text('{"text": "a", "label": 3}\n')
    with pytest.raises(ThoughtscopeError, match="line 1"):
        read_labelled(path)
    path.write_text("{\n")
    with pytest.raises(CorruptArtefact, match="line 1"):
        read_labelled(path)
