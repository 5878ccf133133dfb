"""Every figure of `evaluate_dictionary`, beside sums written out on the bare module."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from tests.autograd_oracle import random_dictionary
from tests.dictionary_oracle import KINDS, held, random_coder, touching, weights_of
from tests.tiny_models import tiny_model
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Activation,
    Dictionary,
    DictionaryScores,
    Part,
    evaluate_dictionary,
    geometry,
)
from thoughtscope.dictionaries.fit import DENSITY_EDGES, Fit
from thoughtscope.models import Model

DOCUMENTS = [[7, 84, 104, 101, 32, 99], [9, 33, 61, 120, 5, 77, 12], [200, 3, 41]]


def activations(w: Mapping[str, Any], x: Mapping[str, Tensor]) -> Tensor:
    pre = w["b_enc"] + sum(x[site].double() @ W.T for site, W in w["W_enc"].items())
    return pre * (pre > w["threshold"])


def written(w: Mapping[str, Any], a: Tensor) -> dict[str, Tensor]:
    return {site: a @ W + w["b_dec"][site] for site, W in w["W_dec"].items()}


def logits_with(model: Model, ids: list[int], change: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    with torch.no_grad(), touching(model.module, change):
        return model.module(input_ids=torch.tensor([ids])).logits[0]


def expected(model: Model, dictionary: Dictionary) -> dict[str, Any]:
    """The figures of a dictionary of one part, by their definitions."""
    w, first = weights_of(dictionary), int(dictionary.skip_first)
    sites = list(w["W_dec"])
    clean = [held(model, ids, sites) for ids in DOCUMENTS]
    a = torch.cat([activations(w, x)[first:] for x, _ in clean])
    y = {site: torch.cat([x[site][first:].double() for x, _ in clean]) for site in sites}
    guess = written(w, a)
    found: dict[str, Any] = {
        "fvu": [float((y[s] - guess[s]).square().sum() / (y[s] - y[s].mean(0)).square().sum()) for s in sites],
        "shrinkage": [float((guess[s].norm(dim=1) / y[s].norm(dim=1)).mean()) for s in sites],
        "bias": [float(guess[s].square().sum() / (guess[s] * y[s]).sum()) for s in sites],
        "cosine": [float(torch.cosine_similarity(guess[s], y[s]).mean()) for s in sites],
        "l0": float((a != 0).sum() / len(a)), "l1": float(a.sum() / len(a)),
        "dead": float((a == 0).all(0).double().mean()),
        "dense": float(((a != 0).double().mean(0) > 0.1).double().mean()),
    }  # fmt: skip

    def put(values: Callable[[str, Tensor], Tensor]) -> dict[str, Callable[[Tensor], Tensor]]:
        def at(site: str) -> Callable[[Tensor], Tensor]:
            def change(x: Tensor) -> Tensor:
                x = x.clone()
                x[0, first:] = values(site, x[0])[first:].to(x.dtype)
                return x

            return change

        return {site: at(site) for site in sites}

    def spliced(number: int) -> dict[str, Callable[[Tensor], Tensor]]:
        if len(sites) > 1:  # a crosscoder: from the unedited run
            fixed = written(w, activations(w, clean[number][0]))
            return put(lambda site, _: fixed[site])
        return put(lambda site, x: written(w, activations(w, {site: x}))[site])

    runs = {"clean": lambda _: {}, "spliced": spliced}
    runs["zero"] = lambda _: put(lambda site, x: torch.zeros_like(x))
    runs["mean"] = lambda _: put(lambda site, x: y[site].mean(0).expand(len(x), -1))
    for name, change in runs.items():
        losses, kl, same = [], [], []
        for number, ids in enumerate(DOCUMENTS):
            logits = logits_with(model, ids, change(number)).double().log_softmax(-1)
            before = clean[number][1].double().log_softmax(-1)
            losses.append(-logits[range(first, len(ids) - 1), ids[first + 1 :]])
            kl.append(kl_div(logits[first:], before[first:], reduction="none", log_target=True).sum(-1))
            same.append((logits.argmax(-1) == before.argmax(-1))[first:])
        found[name] = [float(torch.cat(each).double().mean()) for each in (losses, kl, same)]
    return found


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_what_its_definition_says(kind: str, skip_first: bool) -> None:
    model = tiny_model("gpt2", layers=3)
    dictionary = replace(random_coder(model, KINDS[kind]), skip_first=skip_first)
    scores, plain = evaluate_dictionary(model, dictionary, DOCUMENTS), expected(model, dictionary)
    assert scores.n_tokens == 16 - 3 * skip_first
    for name in ("fvu", "shrinkage", "bias", "cosine"):
        assert list(getattr(scores, f"{name}_by_site").values()) == pytest.approx(plain[name], rel=1e-4)
        assert getattr(scores, name) == pytest.approx(sum(plain[name]) / len(plain[name]), rel=1e-4)
    for name in ("l0", "l1", "dead", "dense"):
        assert getattr(scores, name) == pytest.approx(plain[name], rel=1e-5)
    near = {"rel": 1e-4, "abs": 1e-6}
    assert (scores.loss, 0.0) == pytest.approx(plain["clean"][:2], **near)
    assert (scores.loss_spliced, scores.kl, scores.agreement) == pytest.approx(plain["spliced"], **near)
    assert (scores.loss_zero, scores.kl_zero) == pytest.approx(plain["zero"][:2], **near)
    assert (scores.loss_mean, scores.kl_mean) == pytest.approx(plain["mean"][:2], **near)
    for name in ("zero", "mean"):
        lost, kept = scores.loss_spliced - scores.loss, getattr(scores, f"loss_{name}") - scores.loss
        assert getattr(scores, f"loss_recovered_{name}") == pytest.approx(1 - lost / kept)
        assert getattr(scores, f"kl_score_{name}") == pytest.approx(
            1 - scores.kl / getattr(scores, f"kl_{name}")
        )
    assert len({round(scores.loss_spliced, 5), round(scores.loss_zero, 5), round(scores.loss_mean, 5)}) == 3


@pytest.mark.parametrize("cross", [False, True])
def test_the_sums_do_not_depend_on_how_the_documents_are_cut_in_batches(cross: bool) -> None:
    model = tiny_model("llama", layers=3)
    dictionary = random_dictionary(model, cross_layer=cross)
    whole = evaluate_dictionary(model, dictionary, DOCUMENTS).to_json()
    apart = evaluate_dictionary(model, dictionary, DOCUMENTS, batch_tokens=1).to_json()
    flat = lambda scores: [
        x for value in scores.values() for x in (value.values() if isinstance(value, dict) else [value])
    ]
    for one, other in zip(flat(whole), flat(apart), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_a_dictionary_that_writes_the_mean_recovers_nothing_of_the_mean_ablation() -> None:
    """And all of what it does differently from zero: the two baselines are told apart."""
    model = tiny_model("gpt2", layers=2)
    coder = random_coder(model, KINDS["SAE on resid_post"])
    (part,) = coder.parts
    (site,) = part.writes
    mean = torch.cat([held(model, ids, [str(site)])[0][str(site)][1:] for ids in DOCUMENTS]).mean(0)
    part = replace(part, W_dec={site: torch.zeros_like(part.W_dec[site])}, b_dec={site: mean})
    scores = evaluate_dictionary(model, replace(coder, parts=(part,)), DOCUMENTS)
    assert scores.fvu == pytest.approx(1) and scores.loss_spliced == pytest.approx(scores.loss_mean)
    assert scores.loss_recovered_mean == pytest.approx(0, abs=1e-4)
    assert scores.kl_score_mean == pytest.approx(0, abs=1e-4) and abs(scores.loss_recovered_zero) > 1e-3


def test_scores_go_to_json_and_back() -> None:
    model = tiny_model("gpt2", layers=2)
    scores = evaluate_dictionary(model, random_dictionary(model), DOCUMENTS)
    assert DictionaryScores.from_json(scores.to_json()) == scores
    unknown = replace(scores, fvu=math.nan, fvu_by_site={"mlp_out.0": math.nan, "mlp_out.1": 0.25})
    data = unknown.to_json()
    assert data["fvu"] is None and data["fvu_by_site"] == {"mlp_out.0": None, "mlp_out.1": 0.25}
    assert math.isnan(DictionaryScores.from_json(data).fvu_by_site["mlp_out.0"])


def test_densities_fall_into_bins_by_their_logarithm() -> None:
    """Of 1,000 tokens on 1, 10, 100, 101 and all; one feature is dead."""
    counts = [0, 1, 10, 100, 101, 1000]
    site = Site("resid_post", 0)
    part = Part(
        name="one", activation=Activation(kind="relu"), W_enc={site: torch.eye(6)}, b_enc=torch.zeros(6),
        W_dec={site: torch.eye(6)}, b_dec={site: torch.zeros(6)},
    )  # fmt: skip
    dictionary = Dictionary(name="a/b", scan="a", model_name="m", parts=(part,))
    x = torch.zeros(1, 1000, 6)
    for feature, count in enumerate(counts):
        x[0, :count, feature] = 2.0
    fit = Fit.zeros(dictionary)
    fit.add(dictionary, {site: x}, torch.ones(1, 1000, dtype=torch.bool))
    (histogram,) = fit.density_histograms()
    assert len(histogram) == len(DENSITY_EDGES) - 1 and sum(histogram) == 5
    at = {edge: count for edge, count in zip(DENSITY_EDGES, histogram, strict=False) if count}
    assert at == {-3.0: 1, -2.0: 1, -1.0: 2, -0.25: 1}
    assert (
        fit.dead() == [1 / 6] and fit.dense() == [2 / 6] and fit.l0() == [pytest.approx(sum(counts) / 1000)]
    )
    assert fit.l1() == [pytest.approx(2 * sum(counts) / 1000)]
    assert fit.fvu() == [0] and fit.shrinkage() == [1] and fit.bias() == [pytest.approx(1)]


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    """Variances are differences of large sums; in float32 this one would be lost."""
    site = Site("resid_post", 0)
    part = Part(
        name="one", activation=Activation(kind="relu"), W_enc={site: torch.zeros(1, 4)}, b_enc=torch.zeros(1),
        W_dec={site: torch.zeros(1, 4)}, b_dec={site: torch.full((4,), 1000.0)},
    )  # fmt: skip
    dictionary = Dictionary(name="a/b", scan="a", model_name="m", parts=(part,))
    x = 1000 + torch.randn(1, 5000, 4)
    fit = Fit.zeros(dictionary)
    for rows in x.split(100, dim=1):
        fit.add(dictionary, {site: rows}, torch.ones(1, 100, dtype=torch.bool))
    y = x[0].double()
    assert fit.fvu()[0] == pytest.approx(
        float((y - 1000).square().sum() / (y - y.mean(0)).square().sum()), rel=1e-6
    )


def test_geometry_is_all_pairs_without_oneself(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import import_module

    monkeypatch.setattr(import_module("thoughtscope.dictionaries.geometry"), "BLOCK", 5)
    model = tiny_model("gpt2", layers=3)
    (part,) = random_coder(model, KINDS["crosscoder"]).parts
    found = geometry(part)
    encoder, decoder = (torch.cat(list(W.values()), 1).double() for W in (part.W_enc, part.W_dec))
    for name, rows in (("encoder", encoder), ("decoder", decoder)):
        cosine = torch.cosine_similarity(rows[:, None], rows[None], dim=-1)
        largest = [
            max(float(row[other]) for other in range(len(rows)) if other != own)
            for own, row in enumerate(cosine)
        ]
        assert getattr(found, f"max_{name}_cosine").tolist() == pytest.approx(largest, rel=1e-5)
        assert getattr(found, f"{name}_norm").tolist() == pytest.approx(rows.norm(dim=1).tolist())
    assert found.encoder_decoder_cosine is not None
    assert found.encoder_decoder_cosine.tolist() == pytest.approx(
        torch.cosine_similarity(encoder, decoder).tolist(), abs=1e-6
    )
    first = random_dictionary(model, cross_layer=True).parts[0]
    assert geometry(first).encoder_decoder_cosine is None  # it writes to more sites than it reads
