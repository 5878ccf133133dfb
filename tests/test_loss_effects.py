"""What is lost with a feature: the effects in a bank beside a loop that runs one example at a time, and identities."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.tiny_microscope import N_FEATURES, random_dictionary, shared_model
from tests.tiny_models import tiny_model
from thoughtscope.atlas import FeatureBank, ablations, collect_examples, loss_effects
from thoughtscope.cli import app as command_line
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError, UnknownFeature
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Activation, Dictionary, Part, encode, save_dictionary
from thoughtscope.models import capture, tokens_from_ids
from thoughtscope.models.edits import Edit, writes_of
from thoughtscope.models.hooks import forward

N = 3


@cache
def documents() -> list[list[int]]:
    random = torch.Generator().manual_seed(4)
    lengths = torch.randint(2, 30, (40,), generator=random).tolist()
    return [torch.randint(3, 250, (length,), generator=random).tolist() for length in lengths]


def autoencoder(kind: str) -> Dictionary:
    """On the residual stream, in one of the shapes that are written differently."""
    model, draw = shared_model(), torch.Generator().manual_seed(1)
    sites = (
        (Site("resid_post", 0), Site("resid_post", 1)) if kind == "crosscoder" else (Site("resid_post", 1),)
    )
    width = model.d_model

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw) / shape[-1] ** 0.5

    part = Part(
        name="one",
        activation=Activation(kind="topk", k=5) if kind == "topk" else Activation(kind="relu"),
        W_enc={site: 3 * random(N_FEATURES, width) for site in sites},
        b_enc=random(N_FEATURES),
        W_dec={site: random(N_FEATURES, width) for site in sites},
        b_dec={site: random(width) for site in sites},
        normalise="layer_norm" if kind == "normalised" else None,
        offset={sites[0]: random(N_FEATURES)} if kind == "offset" else {},
    )
    return Dictionary(name="tiny/sae", scan="tiny-sae", model_name=model.name, parts=(part,))


def made(kind: str) -> tuple[Dictionary, FeatureBank]:
    dictionary = random_dictionary(shared_model()) if kind == "clt" else autoencoder(kind)
    bank = collect_examples(shared_model(), dictionary, documents(), n_top=4, n_quantile=1, window=(9, 5))
    return dictionary, bank


def losses(ids: list[int], writes=None) -> torch.Tensor:
    model = shared_model()
    with torch.no_grad():
        logits = forward(model, tokens_from_ids(model, ids), writes=writes or {})
    assert logits is not None
    said = logits[0, :-1].log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    return torch.cat([torch.zeros(1), -said])


def one_at_a_time(dictionary: Dictionary, ids: list[int], number: int, index: int) -> torch.Tensor:
    """By `Edit`s: at each token where the feature is active, what it writes is added with the opposite sign."""
    model, part = shared_model(), dictionary.parts[number]
    activations = capture(model, tokens_from_ids(model, ids), dictionary.sites)
    features = encode(dictionary, activations)
    edits = []
    for at in ((features.part == number) & (features.index == index)).nonzero()[:, 0].tolist():
        position = int(features.position[at])
        for site in part.writes:
            strength = float(features.value[at]) + (
                float(part.offset[site][index]) if site in part.offset else 0.0
            )
            if part.normalise is not None:  # the decoder's units are those of the vector that was read
                x = activations[site][0, position]
                strength *= float((x - x.mean()).std())
            vector = part.W_dec[site][index]
            edits.append(Edit(site=site, op="add", vector=vector, value=-strength, positions=(position,)))
    return losses(ids, writes_of(model, edits)) - losses(ids)


@pytest.mark.parametrize("kind", ["relu", "topk", "normalised", "offset", "crosscoder", "clt"])
def test_effects_are_those_of_editing_one_example_at_a_time(kind):
    dictionary, bank = made(kind)
    found = loss_effects(shared_model(), dictionary, bank, n=N, batch_tokens=70)
    checked, largest = 0, 0.0
    for number, records in enumerate(found.layers):
        assert records.effect_offsets is not None and records.effect_value is not None
        for index in range(0, N_FEATURES, 2 * len(found.layers)):
            first, end = records.example_offsets[index : index + 2].tolist()
            for example in range(first, end):
                effects = records.effect_value[slice(*records.effect_offsets[example : example + 2].tolist())]
                if example - first >= N:
                    assert len(effects) == 0
                    continue
                peak = int(records.example_token[example])
                document = int(np.searchsorted(bank.starts.numpy(), peak, side="right")) - 1
                begin, after = bank.starts[document : document + 2].tolist()
                wanted = one_at_a_time(dictionary, bank.ids[begin:after].tolist(), number, index)
                shown = slice(max(0, peak - 9 - begin), min(after, peak + 6) - begin)
                torch.testing.assert_close(effects.float(), wanted[shown], rtol=2e-3, atol=2e-5)
                largest = max(largest, float(wanted[shown].abs().max()))
                checked += 1
    assert checked > 20 and largest > 0.01


def test_a_feature_that_writes_nothing_costs_nothing():
    dictionary, bank = made("relu")
    (part,) = dictionary.parts
    (site,) = part.writes
    W_dec = part.W_dec[site].clone()
    W_dec[::2] = 0
    mute = replace(dictionary, parts=(replace(part, W_dec={site: W_dec}),))
    (records,) = loss_effects(shared_model(), mute, bank, n=N).layers
    assert records.effect_value is not None and records.effect_offsets is not None
    feature = torch.repeat_interleave(torch.arange(N_FEATURES), records.example_offsets.diff().long())
    of_token = feature.repeat_interleave(records.effect_offsets.diff().long())
    assert (records.effect_value[of_token % 2 == 0] == 0).all() and (of_token % 2 == 0).any()
    assert (records.effect_value[of_token % 2 == 1] != 0).any()


def test_nothing_is_lost_up_to_the_first_active_token():
    dictionary, bank = made("relu")
    found = loss_effects(shared_model(), dictionary, bank, n=N)
    shown = later = 0
    for index in range(N_FEATURES):
        for group in found.detail(0, index)["examples_quantiles"]:
            for example in group["examples"]:
                if "loss_effects_list" not in example:
                    continue
                effects, values = example["loss_effects_list"], example["tokens_acts_list"]
                assert len(effects) == len(values) == len(example["tokens"])
                shown += 1
                if example["train_token_ind"] < 9:  # it begins with its document: what is before is shown
                    first = next(at for at, value in enumerate(values) if value)
                    assert not any(effects[: first + 1])
                    later += any(effects[first + 1 :])
    assert shown > N_FEATURES and later > 10


def test_batches_and_the_other_features_do_not_matter():
    dictionary, bank = made("clt")
    whole = loss_effects(shared_model(), dictionary, bank, n=1, batch_tokens=10_000)
    split = loss_effects(shared_model(), dictionary, bank, n=1, batch_tokens=40)
    some = loss_effects(shared_model(), dictionary, bank, n=1, features=[(1, 5), (2, 0)])
    for number in range(len(bank.layers)):
        a, b, c = (each.layers[number] for each in (whole, split, some))
        assert torch.equal(a.effect_offsets, b.effect_offsets)
        torch.testing.assert_close(a.effect_value, b.effect_value, rtol=2e-3, atol=2e-5)
        kept = {1: 5, 2: 0}.get(number)
        spans = [] if kept is None else range(*a.example_offsets[kept : kept + 2].tolist())
        wanted = torch.cat(
            [a.effect_value[slice(*a.effect_offsets[at : at + 2].tolist())] for at in spans]
            or [torch.zeros(0, dtype=torch.float16)]
        )
        torch.testing.assert_close(c.effect_value, wanted, rtol=2e-3, atol=2e-5)


def test_the_price_is_what_is_run():
    dictionary, bank = made("relu")
    price = ablations(bank, n=N)
    counts = bank.layers[0].example_offsets.diff()
    assert price.n_examples == int(counts.clamp(max=N).sum())
    seen = []
    loss_effects(shared_model(), dictionary, bank, n=N, batch_tokens=100,
                 progress=lambda stage, done, total, **_: seen.append((done, total)))  # fmt: skip
    assert seen[-1] == (price.n_tokens, price.n_tokens)


def test_a_bank_keeps_its_effects_and_one_without_stays_readable(tmp_path):
    dictionary, bank = made("relu")
    found = loss_effects(shared_model(), dictionary, bank, n=N)
    found.save(tmp_path / "with")
    bank.save(tmp_path / "without")
    (a,), (b,) = found.layers, FeatureBank.load(tmp_path / "with").layers
    assert torch.equal(a.effect_value, b.effect_value) and torch.equal(a.effect_offsets, b.effect_offsets)
    (plain,) = FeatureBank.load(tmp_path / "without").layers
    assert plain.effect_value is None
    assert "loss_effects_list" not in str(FeatureBank.load(tmp_path / "without").detail(0, 0))


@pytest.mark.parametrize(
    "damage",
    [
        lambda records: {"effect_offsets": records.effect_offsets.clamp(max=3)},
        lambda records: {"effect_value": records.effect_value[:-1]},
        lambda records: {"effect_offsets": None},
        lambda records: {"effect_value": records.effect_value * float("nan")},
    ],
)
def test_effects_that_do_not_fit_are_refused(tmp_path, damage):
    dictionary, bank = made("relu")
    (records,) = loss_effects(shared_model(), dictionary, bank, n=N).layers
    replace(bank, layers=(replace(records, **damage(records)),)).save(tmp_path / "bank")
    with pytest.raises(CorruptArtefact):
        FeatureBank.load(tmp_path / "bank")


def test_mistakes():
    _, bank = made("relu")
    with pytest.raises(DictionaryMismatch, match="tiny/sae"):
        loss_effects(shared_model(), random_dictionary(shared_model()), bank, n=1)
    with pytest.raises(UnknownFeature):
        ablations(bank, n=1, features=[(0, N_FEATURES)])
    with pytest.raises(ThoughtscopeError, match="n=0"):
        ablations(bank, n=0)


def test_heads_and_attention_outputs_are_sites_like_others():
    """A site with an axis of heads: the whole vector is taken away, heads side by side."""
    model = tiny_model("llama", layers=2)
    site, draw = Site("z", 0), torch.Generator().manual_seed(2)
    W = torch.randn(8, model.width(site), generator=draw)
    part = Part(name="z", activation=Activation(kind="relu"), W_enc={site: W}, b_enc=torch.zeros(8),
                W_dec={site: W}, b_dec={})  # fmt: skip
    dictionary = Dictionary(name="tiny/z", scan="z", model_name=model.name, parts=(part,))
    bank = collect_examples(model, dictionary, documents(), n_top=2, n_quantile=0)
    (records,) = loss_effects(model, dictionary, bank, n=1).layers
    assert records.effect_value is not None and bool((records.effect_value != 0).any())


def test_the_command_says_the_price_and_writes_the_effects(tmp_path, monkeypatch, capsys):
    dictionary = autoencoder("relu")
    save_dictionary(dictionary, tmp_path / "sae")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("The cat went to Rome. The bed is by the sea.")
    monkeypatch.setattr("thoughtscope.models.load_model", lambda *_, **__: shared_model())
    monkeypatch.chdir(tmp_path)
    arguments = [
        "features",
        "collect",
        "sae",
        "--data",
        "text:texts",
        "--context",
        "20",
        "--loss-effects",
        "2",
    ]
    monkeypatch.setattr("sys.argv", ["thoughtscope", *arguments])
    with pytest.raises(SystemExit) as end:
        command_line.run()
    said = capsys.readouterr().out
    bank = FeatureBank.load(tmp_path / "sae" / "features")
    (records,) = bank.layers
    assert not end.value.code and records.effect_offsets is not None
    measured = int((records.effect_offsets.diff() > 0).sum())
    price = ablations(bank, n=2)
    assert f"{measured:,} examples: {price.n_tokens:,} tokens" in said and measured == price.n_examples > 10
