"""The synthetic model fires as its parameters say, and recovery is what is counted by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Activation, Dictionary, Part
from thoughtscope.evaluation import (
    Hierarchy,
    Spread,
    SyntheticModel,
    SyntheticSpec,
    score_recovery,
    synth_sae_bench_16k,
    synthetic_model,
)

FLAT = SyntheticSpec(n_features=12, width=8, probability=Spread(kind="linear", first=0.4, last=0.05))
ROWS = 40_000


@pytest.mark.parametrize(("spread", "expected"), [
    (Spread(kind="constant", first=2.0), [2, 2, 2, 2]),
    (Spread(kind="linear", first=4.0, last=1.0), [4, 3, 2, 1]),
    (Spread(kind="exponential", first=8.0, last=1.0), [8, 4, 2, 1]),
    # 1, 1/2, 1/3, 1/4 from 0.4 to 0.1: (r - 1/4) / (3/4) * 0.3 + 0.1
    (Spread(kind="zipf", first=0.4, last=0.1), [0.4, 0.2, 0.1 + 0.3 / 9, 0.1]),
])  # fmt: skip
def test_spreads(spread: Spread, expected: list[float]) -> None:
    assert spread.over(4, torch.Generator()).tolist() == pytest.approx(expected, abs=1e-6)


def test_random_spreads_stay_where_they_belong() -> None:
    random = torch.Generator().manual_seed(0)
    uniform = Spread(kind="uniform", first=0.5, last=0.1).over(2000, random)
    assert 0.1 <= uniform.min() < 0.11 and 0.49 < uniform.max() <= 0.5
    folded = Spread(kind="folded_normal", first=0.5, last=0.5).over(50_000, random)
    assert folded.min() >= 0 and float(folded.mean()) == pytest.approx(0.5833, abs=0.01)  # of |N(½, ½²)|


def test_features_fire_as_often_and_as_strongly_as_is_said() -> None:
    spec = replace(
        FLAT, mean=Spread(kind="linear", first=5.0, last=4.0), deviation=Spread(kind="constant", first=0.5)
    )
    model = synthetic_model(spec)
    x, features = model.batch(0, ROWS)
    torch.testing.assert_close((features > 0).float().mean(0), model.probability, atol=0.012, rtol=0)
    for feature in range(12):
        values = features[features[:, feature] > 0, feature]
        assert float(values.mean()) == pytest.approx(float(model.mean[feature]), abs=0.05)
        assert float(values.std()) == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(x, features @ model.vectors + model.bias)
    assert model.vectors.norm(dim=1).tolist() == pytest.approx([1] * 12) and float(
        model.bias.norm()
    ) == pytest.approx(1)
    fires = (features > 0).float()
    assert float((torch.corrcoef(fires.T) - torch.eye(12)).abs().max()) < 0.03


def test_a_step_is_the_same_whatever_was_drawn_before() -> None:
    model = synthetic_model(FLAT)
    first = model.batch(7, 50)[0]
    model.batch(3, 10)
    assert torch.equal(model.batch(7, 50)[0], first) and not torch.equal(model.batch(8, 50)[0], first)
    assert torch.equal(synthetic_model(FLAT).batch(7, 50)[0], first)
    assert not torch.equal(synthetic_model(replace(FLAT, seed=1)).vectors, model.vectors)


def test_correlations_are_those_of_the_factor() -> None:
    """At a probability of one half the correlation of signs is 2/π·arcsin of the Gaussians' (Sheppard 1899)."""
    spec = replace(
        FLAT, probability=Spread(kind="constant", first=0.5), correlation_rank=2, correlation_scale=0.5
    )
    model = synthetic_model(spec)
    gaussian = model.factor @ model.factor.T
    assert float(gaussian.diagonal().max()) <= 0.99 + 1e-5
    expected = (2 / torch.pi * gaussian.clamp(-1, 1).asin()).fill_diagonal_(1)
    found = torch.corrcoef((model.batch(0, ROWS)[1] > 0).float().T)
    torch.testing.assert_close(found, expected, atol=0.025, rtol=0)
    assert float(expected.triu(1).abs().max()) > 0.2


TREE = SyntheticSpec(
    n_features=30, width=8, probability=Spread(kind="constant", first=0.5),
    hierarchy=Hierarchy(roots=2, branching=3, depth=2, exclusive=1.0),
)  # fmt: skip


def relations(model: SyntheticModel) -> dict[int, int]:
    pairs = ((g.children.tolist(), g.parents.tolist()) for g in model.generations)
    return {
        child: parent for children, parents in pairs for child, parent in zip(children, parents, strict=True)
    }


def test_children_fire_under_their_parents_alone_and_one_at_a_time() -> None:
    model = synthetic_model(TREE)
    parent_of = relations(model)
    assert [parent_of[child] for child in range(2, 26)] == [0] * 3 + [1] * 3 + [n // 3 for n in range(6, 24)]
    assert set(parent_of) == set(
        range(2, 26)
    )  # 2 roots, 6 children, 18 grandchildren; four features stand alone
    _, features = model.batch(0, 4000)
    fires = features > 0
    for child, parent in parent_of.items():
        assert not (fires[:, child] & ~fires[:, parent]).any() and fires[:, child].any()
    for parent in set(parent_of.values()):
        siblings = [child for child, above in parent_of.items() if above == parent]
        assert int(fires[:, siblings].sum(1).max()) == 1
    free = synthetic_model(replace(TREE, hierarchy=replace(TREE.hierarchy, exclusive=0.0)))
    assert int((free.batch(0, 4000)[1][:, 2:5] > 0).sum(1).max()) == 3


def test_half_of_the_families_exclude() -> None:
    model = synthetic_model(replace(TREE, hierarchy=replace(TREE.hierarchy, exclusive=0.5)))
    assert sum(len(group) for g in model.generations for group in g.exclusive) == 4
    deep = synthetic_model(replace(TREE, hierarchy=replace(TREE.hierarchy, exclusive_depths=(1, None))))
    assert [len(g.exclusive) for g in deep.generations] == [0, 1]


def test_compensation_makes_up_for_the_hierarchy() -> None:
    shape = replace(TREE.hierarchy, exclusive=0.0, compensate=True)
    spec = replace(TREE, probability=Spread(kind="linear", first=0.4, last=0.01), hierarchy=shape)
    wanted = spec.probability.over(30, torch.Generator())
    found = (synthetic_model(spec).batch(0, ROWS)[1] > 0).float().mean(0)
    torch.testing.assert_close(found, wanted, atol=0.012, rtol=0)
    plain = synthetic_model(replace(spec, hierarchy=replace(shape, compensate=False)))
    assert float((plain.batch(0, ROWS)[1] > 0).float().mean(0)[8:26].sum()) < 0.3 * float(wanted[8:26].sum())


def test_siblings_that_exclude_each_other_compete() -> None:
    """Feature 2 is wanted at p₂ under its parent's p₀, beside 3 and 4: raised by 1 + (p₃ + p₄) / p₀."""
    shape = replace(TREE.hierarchy, compensate=True)
    spec = replace(TREE, probability=Spread(kind="exponential", first=0.4, last=1e-9), hierarchy=shape)
    p = spec.probability.over(30, torch.Generator())
    raised = synthetic_model(spec).probability
    assert float(raised[5]) == pytest.approx(float(p[5] / p[1] * (1 + (p[6] + p[7]) / p[1])), rel=1e-4)
    assert float(raised[2]) == pytest.approx(
        min(1.0, float(p[2] / p[0] * (1 + (p[3] + p[4]) / p[0]))), rel=1e-4
    )
    assert raised[26:].tolist() == pytest.approx(p[26:].tolist())


def test_children_can_grow_with_their_parents() -> None:
    spec = replace(
        TREE,
        deviation=Spread(kind="constant", first=0.3),
        hierarchy=replace(TREE.hierarchy, scale_by_parent=True),
    )
    _, features = synthetic_model(spec).batch(0, ROWS)
    both = features[features[:, 2] > 0]
    assert float(torch.corrcoef(both[:, [0, 2]].T)[0, 1]) > 0.5


def test_vectors_are_pushed_apart() -> None:
    spec = SyntheticSpec(n_features=24, width=16, seed=3)
    before, after = (synthetic_model(replace(spec, orthogonal_steps=n)).vectors for n in (0, 200))
    overlap = [float((v @ v.T).fill_diagonal_(0).square().sum()) for v in (before, after)]
    # No 24 unit vectors in 16 dimensions overlap less than 24²/16 − 24 in all (Welch 1974).
    assert 24**2 / 16 - 24 <= overlap[1] < 0.6 * overlap[0]
    assert after.norm(dim=1).tolist() == pytest.approx([1] * 24)


def test_the_published_settings_have_the_published_sparsity() -> None:
    """The stated L0 is about 34, of 16,384 features; thin vectors, since they do not matter to it."""
    model = synthetic_model(replace(synth_sae_bench_16k(width=2), orthogonal_steps=0))
    assert len(relations(model)) + 128 == 10_880
    features = model.batch(0, 400)[1]
    assert 30 < float((features > 0).sum(1).float().mean()) < 40


def autoencoder(decoder: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor, b_enc: float) -> Dictionary:
    site = Site("resid_post", 0)
    part = Part(
        name="resid_post.0", activation=Activation(kind="relu"), W_enc={site: encoder}, W_dec={site: decoder},
        b_enc=torch.full((len(decoder),), b_enc) - encoder @ bias, b_dec={site: bias},
    )  # fmt: skip
    return Dictionary(name="a/b", scan="a", model_name="synthetic", parts=(part,))


def test_the_true_features_recover_everything() -> None:
    model = synthetic_model(
        SyntheticSpec(n_features=8, width=8, probability=Spread(kind="constant", first=0.3))
    )
    inverse = torch.linalg.inv(model.vectors).T
    scores = score_recovery(model, autoencoder(model.vectors, inverse, model.bias, -1e-3), n_rows=5000)
    assert scores.n_rows == 5000 and scores.recovered == scores.uniqueness == 1
    assert (scores.mcc, scores.precision, scores.recall, scores.f1, scores.accuracy) == pytest.approx(
        (1,) * 5
    )
    assert scores.fvu < 1e-4 and scores.l0 == pytest.approx(scores.true_l0) and scores.dead == 0


def test_what_is_missed_is_counted() -> None:
    """Six of eight features, one of them twice, one upside down, and a decoder between two."""
    model = synthetic_model(
        SyntheticSpec(n_features=8, width=8, probability=Spread(kind="constant", first=0.3))
    )
    eye = torch.linalg.qr(model.vectors).Q
    model = replace(model, vectors=eye, bias=0 * model.bias)
    decoder = torch.stack([eye[0], eye[1], eye[2], eye[2], -eye[3], normalize(0.9 * eye[4] + eye[5], dim=0)])
    scores = score_recovery(model, autoencoder(decoder, decoder, model.bias, -1e-3), n_rows=2000)
    assert scores.recovered == 3 / 8  # the sign counts, and the one between two is not like either
    assert scores.uniqueness == 5 / 6
    nearest = 1 / (1 + 0.9**2) ** 0.5
    assert scores.mcc == pytest.approx((1 + 1 + 1 + 0 + 1 + nearest) / 6, abs=1e-5)
    _, features = model.batch(2**31, 2000)
    active = features @ eye @ decoder.T > 1e-3
    truth = features[:, [0, 1, 2, 2, 3, 5]] > 0
    hits = (active & truth).sum(0) / active.sum(0).clamp(min=1)
    assert scores.precision == pytest.approx(float(hits.mean()), abs=1e-3)
    assert scores.accuracy == pytest.approx(float((active == truth).float().mean()), abs=1e-3)


def test_what_has_no_true_features_is_refused() -> None:
    model = synthetic_model(FLAT)
    with pytest.raises(DictionaryMismatch, match="width 8"):
        score_recovery(model, autoencoder(torch.eye(6), torch.eye(6), torch.zeros(6), 0.0))
    with pytest.raises(ThoughtscopeError, match="zip"):
        Spread.__post_init__(SimpleNamespace(kind="zip"))
    with pytest.raises(ThoughtscopeError, match="branching=1"):
        Hierarchy(branching=1)
    with pytest.raises(ThoughtscopeError, match="width=0"):
        SyntheticSpec(n_features=3, width=0)
