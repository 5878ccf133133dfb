"""Every gradient of a training step against autograd in float64, for every kind of dictionary and every activation."""

from __future__ import annotations

import pytest

from tests.training_oracle import ACTIVATIONS, KINDS, REMEDIES, expected, gradients, made, with_dead, worst


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
    for _, remedy, activation in REMEDIES:
        state, batch, dead = with_dead(kind, remedy, activation)
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
