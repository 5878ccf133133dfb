"""Scaling Monosemanticity: its fits find what was planted, its figures are what hand says, and a quick run ends."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.dictionary_oracle import random_coder
from tests.tiny_models import tiny_model
from thoughtscope import capture, encode
from thoughtscope.core.site import Site
from thoughtscope.models import tokens_from_ids
from thoughtscope.models.hooks import forward
from thoughtscope.replications import REPLICATIONS, replicate
from thoughtscope.replications.scaling import completeness, influence, laws, multilingual, pairs, turning
from thoughtscope.replications.scaling.fits import auroc, frontier, power_law, sigmoid
from thoughtscope.replications.scaling.material import Material
from thoughtscope.training import train
from thoughtscope.training.data import Moments

# --- fits ------------------------------------------------------------------------------------------------------------


def test_a_planted_exponent_is_found_and_lies_in_its_interval_about_as_often_as_said():
    x = 2.0 ** np.arange(20, 30)
    inside = 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0, 0.03, len(x))
        fit = power_law(x.tolist(), (7 * x**-0.11 * np.exp(noise)).tolist(), seed=seed)
        assert fit.exponent == pytest.approx(-0.11, abs=0.03)
        inside += fit.low <= -0.11 <= fit.high
    assert 85 <= inside <= 99


def test_an_exact_power_law_has_no_doubt():
    fit = power_law([1.0, 2.0, 4.0, 8.0], [3.0, 6.0, 12.0, 24.0])
    assert (fit.exponent, fit.factor, fit.r2) == (pytest.approx(1), pytest.approx(3), pytest.approx(1))
    assert fit.low == pytest.approx(fit.high)


def test_the_frontier_of_a_planted_surface_has_its_exponents():
    """Of A/n^a + B/t^b, the best n grows as compute^(b/(a+b)) (Hoffmann et al. 2022, 3.3)."""
    a, b = 0.3, 0.5
    losses = {(n, t): 9 / n**a + 40 / t**b for n in 2.0 ** np.arange(5, 13) for t in 2.0 ** np.arange(10, 18)}
    best = frontier(losses)
    assert len(best) >= 6
    for field, exponent in (("size", b / (a + b)), ("steps", a / (a + b)), ("loss", -a * b / (a + b))):
        fit = power_law([one.compute for one in best], [getattr(one, field) for one in best])
        assert fit.exponent == pytest.approx(exponent, abs=0.03)


def test_a_budget_whose_best_is_at_the_edge_has_no_optimum():
    assert frontier({(n, 64 / n): 1 / n for n in (1.0, 2.0, 4.0, 8.0)}) == []
    assert frontier({(1.0, 4.0): 1.0, (4.0, 1.0): 1.0}) == []


def test_the_sigmoid_finds_half_and_slope():
    x = 10 ** np.random.default_rng(0).uniform(-5, -1, 4000)
    chance = 1 / (1 + np.exp(-4 * (np.log10(x) + 3)))
    fit = sigmoid(x, (np.random.default_rng(1).random(len(x)) < chance).astype(int))
    assert fit.half == pytest.approx(1e-3, rel=0.15)
    assert fit.slope == pytest.approx(4, rel=0.1)
    assert sigmoid(x, np.zeros(len(x), int)) is None


def test_auroc_by_hand():
    assert auroc(np.array([3.0, 1, 2, 0]), np.array([1, 0, 1, 0])) == 1
    assert auroc(np.array([1.0, 1, 1, 0]), np.array([1, 0, 1, 0])) == pytest.approx((0.5 + 1 + 0.5 + 1) / 4)
    assert auroc(np.array([1.0, 2]), np.array([1, 1])) == 0.5


# --- training --------------------------------------------------------------------------------------------------------


class Rows:
    """A stream that gives the same rows in every batch."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x, site = x, Site.parse(laws.SITE)
        self.sites, self.widths, self.moments = (site,), {site: x.shape[1]}, {site: Moments.of(x)}

    def batches(self, start: int = 0):
        while True:
            yield {self.sites[0]: self.x}


def test_the_loss_on_held_out_rows_is_the_loss_that_training_lowers():
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(0)) + 3
    recipe = laws.recipe_of(32, 256, 0).replaced(
        {"schedule.batch": 256, "schedule.learning_rate": 1e-12, "schedule.sparsity_warm_up": 0.0,
         "precision": "float32", "outliers": None}
    )  # fmt: skip
    figures: dict[str, float] = {}
    state = train(Rows(x), recipe, progress=lambda *_, **found: figures.update(found))
    dictionary = laws.finished(state, name="one", model_name="none")
    found = laws.evaluated(dictionary, x, next(iter(state.scaling.unit.values())))
    assert found["loss"] == pytest.approx(figures["loss"], rel=1e-4)
    assert found["l0"] == pytest.approx(figures["l0"], rel=0.02)  # first thresholds lie on entries
    assert found["variance"] == pytest.approx(1 - figures["fvu"], abs=1e-4)


def test_dead_features_are_those_that_never_fire():
    model = tiny_model("llama", layers=3)
    dictionary = random_coder(model, [laws.SITE])
    (part,) = dictionary.parts
    part.b_enc[:6] = -1e6
    found = laws.evaluated(dictionary, torch.randn(4096, model.d_model) * 9, 1.0)
    assert found["dead"] == pytest.approx(6 / part.n_features)


# --- completeness ----------------------------------------------------------------------------------------------------


def test_a_word_is_covered_by_a_feature_that_fires_on_it_alone():
    model = tiny_model("llama", layers=3)
    site = Site.parse(laws.SITE)
    token = torch.tensor([5, 6, 7, 8] * 200)
    rows = torch.nn.functional.one_hot(token - 5, model.d_model).float()
    rows[:, 1] = (token == 5).float()  # 6 is not told from anything: what would say so says 5 again
    material = Material(
        model=model,
        stream=lambda seed: Rows(rows),
        counts=torch.bincount(token, minlength=260),
        rows=rows,
        token=token,
    )
    part = random_coder(model, [laws.SITE]).parts[0]
    eye = torch.eye(model.d_model)
    identity = type(part)(name=laws.SITE, activation=type(part.activation)(kind="relu"), W_enc={site: eye},
                          b_enc=torch.zeros(model.d_model), W_dec={site: eye}, b_dec={})  # fmt: skip
    run = laws.Trained(size=model.d_model, length=1, seed=0, n=1, loss=0.0, variance=0.0, l0=0.0, dead=0.0,
                       dictionary=type(random_coder(model, [laws.SITE]))(
                           name="id", scan="id", model_name=model.name, parts=(identity,)))  # fmt: skip
    half = len(token) // 2
    at = tuple((token[:half] == each).nonzero()[:, 0] for each in (5, 6, 7, 8))
    words = [
        completeness.Word(text=str(each), frequency=0.25, tuning=rows, judging=rows)
        for each, rows in enumerate(at)
    ]
    assert completeness.covered(material, run, words).tolist() == [True, False, True, True]


def test_the_families_that_come_along_hold_every_word_once():
    words = [word for family in completeness.shipped_families().values() for word in family]
    assert len(words) == len(set(words)) > 1000


# --- influence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", [("resid_post.1",), ("mlp_act.1",)])
def test_attribution_is_the_slope_of_what_ablation_changes(sites):
    """Scaled by 1 − ε, a feature takes ε times its attribution from the difference of logits."""
    model = tiny_model("llama", layers=3)
    dictionary = random_coder(model, sites)
    tokens = tokens_from_ids(model, [3, 9, 27, 81, 12])
    found = influence.influences(model, dictionary, tokens)
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    assert len(found.attribution) == len(features)
    logits = forward(model, tokens)[0, -1]
    answer, rival = logits.topk(2).indices.tolist()
    (site,), row = dictionary.writes, int(np.argmax(abs(found.attribution)))
    at, epsilon = int(features.position[row]), 1e-2
    push = epsilon * features.value[row] * dictionary.parts[0].W_dec[site][features.index[row]]

    def write(sign):
        def change(x, step):
            y = x.clone()
            y[0, at] += sign * push
            return y

        return change

    ends = [forward(model, tokens, writes={site: write(sign)})[0, -1].double() for sign in (-1, 1)]
    low, high = (float(end[answer] - end[rival]) for end in ends)
    assert found.attribution[row] == pytest.approx((high - low) / (2 * epsilon), rel=0.02)


def test_ablation_of_a_linear_readout_is_its_attribution_in_the_limit():
    """Where a feature is weak, what is lost without it is what attribution gives it."""
    model = tiny_model("llama", layers=3)
    dictionary = random_coder(model, ("resid_post.2",))
    for weights in dictionary.parts[0].W_dec.values():
        weights.mul_(1e-3)
    found = influence.influences(model, dictionary, tokens_from_ids(model, [3, 9, 27, 81, 12]))
    assert influence.agreement(found).attribution > 0.99


def test_shared_top_by_hand():
    assert influence.shared_top(np.array([9.0, 8, 1, 0]), np.array([0.0, 5, 4, 1]), n=2) == 1
    assert influence.shared_top(np.array([-9.0, 8, 1, 0]), np.array([-5.0, 5, 4, 1]), n=3) == 3


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_a_planted_difference_is_found_and_shuffled_labels_find_nothing():
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.rand(24, 300, generator=draw) for _ in range(2))
    first[:, 17] += 0.7
    x = [torch.randn(24, 8, generator=draw) for _ in range(2)]
    found = pairs.judged(pairs.Paired(first=first, second=second, x_first=x[0], x_second=x[1]))
    assert found.chosen[0][0] == 17
    assert found.feature > 0.9
    for chance in (found.shuffled, found.channel, found.direction, found.random):
        assert 0.35 < chance < 0.65


def test_aurocs_of_columns_are_those_of_scores():
    draw = torch.Generator().manual_seed(1)
    first, second = (
        torch.randint(0, 4, (6, 5), generator=draw).float(),
        torch.randint(0, 4, (7, 5), generator=draw).float(),
    )
    labels = np.array([1] * 6 + [0] * 7)
    expected = [auroc(torch.cat([first, second])[:, column].numpy(), labels) for column in range(5)]
    assert pairs.aurocs(first, second).tolist() == pytest.approx(expected)


def test_there_are_24_pairs_of_every_kind_and_none_twice():
    kinds = pairs.shipped_pairs()
    assert set(kinds) == {"harm", "refusal", "deception", "sycophancy", "bias", "self", "code"}
    for kind, rows in kinds.items():
        assert len(rows) >= 24, kind
        assert len({text for row in rows for text in row}) == 2 * len(rows), kind


def test_columns_are_named_by_part():
    model = tiny_model("llama", layers=3)
    coders = [random_coder(model, [f"resid_post.{layer}"]) for layer in range(2)]
    both = type(coders[0])(
        name="two", scan="two", model_name=model.name, parts=(coders[0].parts[0], coders[1].parts[0])
    )
    assert [pairs.named(both, column) for column in (0, 23, 24, 72)] == [
        (0, 0, "mean"),
        (0, 23, "mean"),
        (1, 0, "mean"),
        (1, 0, "maximum"),
    ]


# --- languages and steering ------------------------------------------------------------------------------------------


def test_shared_is_intersection_over_union_on_and_off_the_diagonal():
    one = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()
    other = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0]]).bool()
    same, different = multilingual.shared(one, other)
    assert same == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert different == pytest.approx((1 / 3 + 0) / 2)


def test_facts_are_in_three_languages():
    rows = multilingual.shipped_facts()
    assert len(rows) >= 20
    assert {len(row) for row in rows} == {3}


def test_holding_adds_the_missing_activation_and_leaves_the_rest():
    model = tiny_model("llama", layers=3)
    dictionary = random_coder(model, ("resid_post.1",))
    (part,), (site,) = dictionary.parts, dictionary.writes
    x = torch.randn(2, 4, model.d_model)
    write = turning.holding(dictionary, 0, 5, unit=2.0)([1.0, -3.0])[site]
    held = write(x, None)
    missing = torch.tensor([2.0, -6.0])[:, None] - part.activations({site: x})[..., 5]
    torch.testing.assert_close(held - x, missing[..., None] * part.W_dec[site][5])


def test_a_turn_of_nothing_costs_nothing_and_larger_ones_cost_more():
    model = tiny_model("llama", layers=3)
    tokens = tokens_from_ids(model, [[3, 9, 27, 81, 12], [4, 8, 16, 32, 64]])
    base = forward(model, tokens)[:, 1:-1].log_softmax(-1).detach()
    answers = turning.Answers(model=model, tokens=tokens, start=2, base=base)
    turn = turning.adding(Site("resid_post", 1), torch.ones(model.d_model))
    prices = answers.price(answers.under(turn, [0.0, 0.1, 10.0])).tolist()
    assert prices[0] == pytest.approx(0, abs=1e-6)
    assert all(one < other for one, other in pairwise(prices))


# --- the whole -------------------------------------------------------------------------------------------------------


def test_every_measurement_has_its_claim_and_a_quick_run_ends_with_verdicts():
    found = replicate("scaling", quick=True)
    outcomes = {verdict.claim.name: verdict.outcome for verdict in found.verdicts}
    assert len(outcomes) == len(REPLICATIONS["scaling"].claims()) >= 12
    assert outcomes["specimen_attribution"] != "not measured"
    assert outcomes["coverage_by_frequency"] != "not measured"
    assert outcomes["multilingual_layers"] != "not measured"
    assert outcomes["harm"] == "not measured"
