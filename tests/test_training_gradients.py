"""Every gradient of a training step against autograd in float64, for every kind of dictionary and every activation."""

from __future__ import annotations

import pytest
import torch

from tests import training_oracle
from thoughtscope.core.site import Site
from thoughtscope.training import recipes
from thoughtscope.training.recipe import (
    Auxiliary,
    BatchTopK,
    Gated,
    JumpReLU,
    PreActivation,
    Recipe,
    ReLU,
    TopK,
)
from thoughtscope.training.state import State
from thoughtscope.training.step import backward, forward
from thoughtscope.training.weights import PartLayout, Scaling, start

KINDS = {
    "autoencoder": dict(parts=recipes.autoencoders("resid_post.0"), tied_start=True),
    "unit autoencoder": dict(parts=recipes.autoencoders("resid_post.0"), decoder="unit"),
    "transcoders": dict(parts=recipes.per_layer(2)),
    "skip transcoders": dict(parts=recipes.per_layer(2), skip=True),
    "cross-layer": dict(parts=recipes.cross_layer(3)),
    "crosscoder": dict(parts=recipes.crosscoder(3).parts, norm="by site"),
}
ACTIVATIONS = {
    "relu": ReLU(coefficient=0.3),
    "relu tanh": ReLU(penalty="tanh", coefficient=0.3),
    "topk": TopK(k=4),
    "batchtopk": BatchTopK(k=4),
    "batchtopk by part": BatchTopK(k=4, shared=False),
    "matryoshka": BatchTopK(k=4, prefixes=(0.25, 0.5, 1.0)),
    "jumprelu": JumpReLU(threshold=0.6, bandwidth=0.5, coefficient=0.2),
    "jumprelu target": JumpReLU(threshold=0.6, bandwidth=0.5, coefficient=0.7, target_l0=3),
    "jumprelu tanh": JumpReLU(penalty="tanh", threshold=0.6, bandwidth=0.5, coefficient=0.3),
    "gated": Gated(coefficient=0.3),
}
WIDTHS = {"resid_post": 10, "mlp_in": 9, "mlp_out": 7}


def made(kind, activation, *, dead=None, n_features=48, seed=0, step=3):
    """A state with weights in float64 far from their start, and a batch."""
    recipe = Recipe.of(
        **KINDS[kind], activation=activation, n_features=n_features, dead=dead, precision="float32"
    )
    random = torch.Generator().manual_seed(seed)
    widths = {site: WIDTHS[site.kind] for site in recipe.sites}
    batch = {
        site: torch.randn(33, width, generator=random, dtype=torch.float64) for site, width in widths.items()
    }
    scaling = Scaling(
        mean={site: torch.zeros(width, dtype=torch.float64) for site, width in widths.items()},
        unit=dict.fromkeys(widths, 1.0),
    )
    layouts = [PartLayout.of(part, widths) for part in recipe.parts]
    from thoughtscope.training.objective import objective

    weights = start(recipe, layouts, batch, objective(activation).extras, dtype=torch.float64)
    for name, weight in weights.items():
        noise = torch.randn(weight.shape, generator=random, dtype=torch.float64)
        weight += (0.05 if name.endswith("threshold") else 0.2) * noise
        if recipe.decoder == "unit" and name.endswith("W_dec"):
            weight /= weight.norm(dim=1, keepdim=True)
    state = State(recipe, layouts, weights, scaling)
    state.step = step
    return state, batch


def gradients(state, batch):
    """What one step hands to the optimiser, put together."""
    x, y = state.scaled(batch)
    found = {name: torch.full_like(weight, torch.nan) for name, weight in state.weights.items()}

    def sink(name, grad, first, last):
        found[name][first:last] = grad

    with torch.no_grad():
        loss, _ = backward(state, x, forward(state, x, y), sink)
    return loss, found


def expected(state, batch, dead=None):
    leaves = {name: weight.clone().requires_grad_() for name, weight in state.weights.items()}
    x, y = state.scaled(batch)
    k = state.k if hasattr(state.recipe.activation, "k") else None
    loss = training_oracle.loss(state.recipe, leaves, x, y, k=k, sparsity=state.sparsity, dead=dead)
    loss.backward()
    return float(loss.detach()), {name: leaf.grad for name, leaf in leaves.items()}


def worst(found, wanted):
    return max(float((found[n] - wanted[n]).norm() / wanted[n].norm().clamp(min=1e-12)) for n in found)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_autograd(kind, activation):
    state, batch = made(kind, ACTIVATIONS[activation])
    loss, found = gradients(state, batch)
    wanted_loss, wanted = expected(state, batch)
    assert loss == pytest.approx(wanted_loss, rel=1e-10)
    assert worst(found, wanted) < 1e-10
    assert all(float(w.norm()) > 0 for w in wanted.values())  # no gradient is right by being nothing


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_dead_features(kind):
    for remedy, activation in (
        (Auxiliary(k=3, coefficient=0.5), TopK(k=4)),
        (Auxiliary(k=3, coefficient=0.5), BatchTopK(k=4)),
        (PreActivation(coefficient=0.5), JumpReLU(threshold=0.6, bandwidth=0.5)),
    ):
        state, batch = made(kind, activation, dead=remedy)
        dead = {}
        for part in state.parts:
            part.idle[::3] = 10**9
            dead[part.name] = torch.arange(0, part.n_features, 3)
        loss, found = gradients(state, batch)
        wanted_loss, wanted = expected(state, batch, dead)
        assert loss == pytest.approx(wanted_loss, rel=1e-10)
        assert worst(found, wanted) < 1e-10


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated"])
def test_pairs_and_whole_matrices_give_the_same(activation, monkeypatch):
    from thoughtscope.training import step

    results = []
    for share in (0.0, 2.0):
        monkeypatch.setattr(step, "DENSE", share)
        results.append(gradients(*made("cross-layer", ACTIVATIONS[activation])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    assert worst(results[0][1], results[1][1]) < 1e-12


def test_a_wrong_gradient_is_noticed():
    state, batch = made("transcoders", ACTIVATIONS["topk"])
    _, found = gradients(state, batch)
    _, wanted = expected(state, batch)
    found["0/W_enc"] = found["0/W_enc"] * (1 + 1e-6)
    assert worst(found, wanted) > 1e-10
    assert Site.parse("mlp_out.0") in state.scaling.mean
