"""Training by its definitions: what a step minimises against dense algebra, where it starts, and what it writes down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_models import tiny_model
from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError
from thoughtscope.dictionaries import TrainConfig, encode, layer_weights, train_dictionary, training
from thoughtscope.dictionaries.documents import Rows
from thoughtscope.models import capture, tokens_from_ids


def config(**changes: Any) -> TrainConfig:
    small = {
        "cross_layer": False,
        "n_features": 12,
        "l0": 3.0,
        "n_tokens": 320,
        "chunk_tokens": 64,
        "batch": 32,
    }
    return TrainConfig(**(small | changes))


def rows(n: int = 64, *, layers: int = 3, seed: int = 0) -> Rows:
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, layers, 8, generator=draw) * torch.tensor([1.0, 3.0, 0.5])[:layers, None] + 2
    return Rows(inputs=inputs, outputs=torch.randn(n, layers, 8, generator=draw) * 4 - 1)


def started(settings: TrainConfig, *, layers: int = 3) -> training.Trainer:
    trainer = training._start(settings, rows(layers=layers))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # biases and skips away from nothing, decoders of a size that shows
        for weight in trainer.weights.values():
            weight += 0.3 * torch.randn(weight.shape, generator=draw)
    trainer.optimiser = torch.optim.SGD(trainer.weights.values(), lr=1.0)
    return trainer


@pytest.mark.parametrize(("changes", "fits"), [
    ({}, True), ({"n_features": 4}, True), ({"n_features": 3}, False), ({"l0": 0.0}, False), ({"l0": 1e-9}, True),
    ({"l0": 11.99}, True), ({"l0": 12.0}, False), ({"batch": 0}, False), ({"batch": 1}, True), ({"batch": 64}, True),
    ({"batch": 65}, False), ({"passes": 0}, False), ({"passes": 1}, True), ({"n_tokens": 0}, False), ({"n_tokens": 1}, True),
])  # fmt: skip
def test_configurations_at_their_ends(changes: dict, fits: bool) -> None:
    if fits:
        config(**changes)
    else:
        with pytest.raises(ThoughtscopeError, match=r"at least 1, 0 < l0|holds no batch of 65"):
            config(**changes)


def test_steps_and_batches() -> None:
    made = config(passes=2, chunk_tokens=70, n_tokens=335)
    assert (made.n_steps, made.steps_per_chunk) == (10, 4) and config(n_tokens=1).n_steps == 1
    orders = {}
    for number in (0, 1):
        found = list(training._batches(made, number))
        assert [step for _, step in found] == list(range(4 * number, 4 * number + 4))
        for turn in (0, 1):
            index = torch.cat([each for each, _ in found[2 * turn : 2 * turn + 2]]).tolist()
            assert len(set(index)) == 64 and min(index) >= 0 and max(index) < 70 and index != sorted(index)
            orders[number, turn] = tuple(index)
    assert len(set(orders.values())) == 4
    again, other = (
        list(training._batches(config(passes=2, chunk_tokens=70, seed=seed), 0)) for seed in (0, 1)
    )
    assert torch.cat([each for each, _ in again[:2]]).tolist() == list(orders[0, 0])
    assert torch.cat([each for each, _ in other[:2]]).tolist() != list(orders[0, 0])


def test_the_scale_of_what_is_read_and_written() -> None:
    held = rows()
    scaling = training.Scaling.of(held)
    for x, scaled, mean, scale in ((held.inputs, scaling.inputs, scaling.mean_in, scaling.scale_in),
                                   (held.outputs, scaling.outputs, scaling.mean_out, scaling.scale_out)):  # fmt: skip
        plain = x.double().numpy()
        np.testing.assert_allclose(mean, plain.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scale, np.sqrt(((plain - plain.mean(0)) ** 2).mean((0, 2))), rtol=1e-4)
        made = scaled(x)
        assert made.shape == (3, 64, 8) and float(made.mean(1).abs().max()) < 1e-5
        torch.testing.assert_close(made.square().mean((1, 2)), torch.ones(3))
    constant = training.Scaling.of(Rows(inputs=torch.ones(4, 1, 2), outputs=torch.ones(4, 1, 2)))
    assert constant.scale_in.tolist() == pytest.approx([1e-8])


@pytest.mark.parametrize("cross", [False, True])
def test_where_training_starts(cross: bool) -> None:
    """Encoders are directions of real inputs, decoders small, all else nothing."""
    trainer = training._start(
        config(cross_layer=cross, skip=True, learning_rate=0.5, betas=(0.1, 0.2)), rows()
    )
    x = trainer.scaling.inputs(rows().inputs)
    for layer in range(3):
        w = {
            name: trainer.weights[f"{name}_{layer}"]
            for name in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")
        }
        assert w["W_dec"].shape == (12, 8 * (3 - layer if cross else 1)) and all(
            one.requires_grad for one in w.values()
        )
        torch.testing.assert_close(w["W_dec"].norm(dim=1), torch.full((12,), 0.1))
        torch.testing.assert_close(w["W_enc"].norm(dim=1), torch.ones(12))
        alike = w["W_enc"] @ (x[layer] / x[layer].norm(dim=1, keepdim=True)).T
        torch.testing.assert_close(alike.max(1).values, torch.ones(12))
        assert len(set(alike.argmax(1).tolist())) > 6
        assert not any(w[name].any() for name in ("b_enc", "b_dec", "W_skip"))
        assert trainer.n_targets(layer) == (3 - layer if cross else 1)
    (group,) = trainer.optimiser.param_groups
    assert (
        (group["lr"], group["betas"]) == (0.5, (0.1, 0.2))
        and trainer.idle.shape == (3, 12)
        and not trainer.idle.any()
    )
    assert (trainer.step, trainer.threshold, trainer.seconds, trainer.n_layers) == (0, 0.0, 0.0, 3)


@pytest.mark.parametrize(("limit", "step", "seconds", "share"), [
    (None, 0, 99.0, 0.0), (None, 5, 0.0, 0.5), (None, 10, 0.0, 1.0), (None, 12, 0.0, 1.0), (2.0, 1, 60.0, 0.5), (2.0, 9, 60.0, 0.9),
    (2.0, 1, 300.0, 1.0),
])  # fmt: skip
def test_how_much_is_done(limit: float | None, step: int, seconds: float, share: float) -> None:
    trainer = training._start(config(max_minutes=limit), rows())
    trainer.step, trainer.seconds = step, seconds
    assert trainer.progress == pytest.approx(share)


@pytest.mark.parametrize(("warm_up", "decay", "progress", "rate"), [
    (0.2, 0.5, 0.0, 0.5), (0.2, 0.5, 0.1, 1.0), (0.2, 0.5, 0.5, 1.0), (0.2, 0.5, 0.75, 0.5), (0.2, 0.5, 1.0, 0.0), (0.0, 0.5, 0.0, 1.0),
    (0.2, 0.0, 1.0, 1.0), (0.4, 0.8, 0.1, 0.5), (0.4, 0.8, 0.9, 0.125),
])  # fmt: skip
def test_the_learning_rate(warm_up: float, decay: float, progress: float, rate: float) -> None:
    """Ten steps: the first is already a tenth of the way up."""
    assert training._rate(config(warm_up=warm_up, decay=decay), progress) == pytest.approx(rate)


@pytest.mark.parametrize(("step", "settle", "l0", "factor"), [
    (0, 0.2, 3.0, 2.0), (1, 0.2, 3.0, 1.5), (2, 0.2, 3.0, 1.0), (9, 0.2, 3.0, 1.0), (0, 0.0, 3.0, 1.0), (0, 0.2, 9.0, 11 / 9),
])  # fmt: skip
def test_the_threshold_lets_the_wanted_number_pass(
    step: int, settle: float, l0: float, factor: float
) -> None:
    trainer = training._start(config(l0=l0, l0_settle=settle), rows())
    trainer.step, trainer.threshold = step, 0.25
    scores = [torch.rand(200, 12) for _ in range(3)]
    training._move_threshold(trainer, scores)
    ordered = torch.cat([one[:128].flatten() for one in scores]).sort(descending=True).values
    k = round(factor * l0 / 12 * len(ordered))
    wanted = float(ordered[k])
    assert (ordered > wanted).sum() == k
    assert trainer.threshold == pytest.approx(wanted if step == 0 else 0.9 * 0.25 + 0.1 * wanted)


@pytest.mark.parametrize(
    ("cross", "skip", "dead"), [(False, False, 0), (True, True, 0), (True, False, 5), (False, True, 2)]
)
def test_a_step_goes_down_the_gradient_of_the_loss(cross: bool, skip: bool, dead: int) -> None:
    """Σ_t mean (y_t − ŷ_t)², and of what is left a share of the share that dead features leave too; all dense."""
    settings = config(
        cross_layer=cross,
        skip=skip,
        learning_rate=0.5,
        warm_up=0.0,
        decay=0.0,
        l0=1.0,
        aux=0.25,
        aux_k=2,
        dead_after=10,
    )
    trainer, batch = started(settings), rows(32, seed=5)
    trainer.idle[:, :dead] = 11
    trainer.idle[:, dead:] = 10
    before = {name: weight.detach().clone().requires_grad_() for name, weight in trainer.weights.items()}
    metrics = training._step(trainer, batch)

    x, y = trainer.scaling.inputs(batch.inputs), trainer.scaling.outputs(batch.outputs)
    pre = [x[n] @ before[f"W_enc_{n}"].T + before[f"b_enc_{n}"] for n in range(3)]
    passes = [p.relu() * before[f"W_dec_{n}"].norm(dim=1) > trainer.threshold for n, p in enumerate(pre)]

    def written(masks: list[torch.Tensor]) -> list[torch.Tensor]:
        total = [torch.zeros(32, 8) for _ in range(3)]
        for n, mask in enumerate(masks):
            for ahead, part in enumerate(((pre[n] * mask) @ before[f"W_dec_{n}"]).split(8, dim=1)):
                total[n + ahead] = total[n + ahead] + part
        return total

    guess = [one + before[f"b_dec_{n}"] for n, one in enumerate(written(passes))]
    if skip:
        guess = [one + x[n] @ before[f"W_skip_{n}"].T for n, one in enumerate(guess)]
    left = [y[n] - guess[n] for n in range(3)]
    loss = sum(one.square().mean() for one in left)
    if dead:
        masks = []
        for p in pre:
            best = p[:, :dead].topk(min(2, dead), dim=1).indices
            masks.append(torch.zeros(32, 12).scatter(1, best, 1.0) * (p > 0))
        helped = written(masks)
        loss = loss + 0.25 * sum(
            (r.detach() - h).square().mean() / r.detach().square().mean()
            for r, h in zip(left, helped, strict=True)
        )
    torch.autograd.backward(loss)
    for name, weight in trainer.weights.items():
        torch.testing.assert_close(weight, before[name] - 0.5 * before[name].grad, rtol=1e-3, atol=1e-5)
    errors = [float(one.detach().square().mean() / y[n].square().mean()) for n, one in enumerate(left)]
    active = [float(mask.sum()) / 32 for mask in passes]
    assert metrics["fvu_by_layer"] == pytest.approx(errors, rel=1e-4) and metrics[
        "l0_by_layer"
    ] == pytest.approx(active)
    assert metrics["fvu"] == pytest.approx(np.mean(errors), rel=1e-4) and metrics["l0"] == pytest.approx(
        np.mean(active)
    )
    assert (metrics["step"], metrics["tokens"], metrics["dead"]) == (1, 32, pytest.approx(dead / 12))
    assert metrics["threshold"] == trainer.threshold > 0
    for n, mask in enumerate(passes):
        earlier = torch.tensor([11] * dead + [10] * (12 - dead))
        assert trainer.idle[n].tolist() == torch.where(mask.any(0), 0, earlier + 32).tolist()


@pytest.mark.parametrize(("cross", "skip"), [(False, True), (True, False)])
def test_what_was_learned_in_the_models_own_units(cross: bool, skip: bool) -> None:
    """Features and reconstruction of the folded dictionary are the trainer's own, scaled back."""
    model = tiny_model("llama", layers=3)
    trainer = started(config(cross_layer=cross, skip=skip, saved="float32"), layers=3)
    trainer = training._start(config(cross_layer=cross, skip=skip, saved="float32"),
                              Rows(inputs=torch.randn(64, 3, 16) * 2 + 1, outputs=torch.randn(64, 3, 16) * 3 - 2))  # fmt: skip
    with torch.no_grad():
        for weight in trainer.weights.values():
            weight += 0.2 * torch.randn(weight.shape)
    trainer.threshold = 0.3
    made = training._folded(trainer, model, "a/name")
    assert (made.name, made.model_name) == ("a/name", model.name)
    assert [str(site) for site in made.sites] == [
        f"{kind}.{n}" for kind in ("mlp_in", "mlp_out") for n in range(3)
    ]
    acts = capture(model, tokens_from_ids(model, [1, 2, 3, 4, 5]), made.sites)
    features = encode(made, acts)
    x = trainer.scaling.inputs(torch.stack([acts[f"mlp_in.{n}"][0] for n in range(3)], dim=1))
    total = [trainer.weights[f"b_dec_{n}"].expand(5, -1) for n in range(3)]
    for n in range(3):
        w = {name: trainer.weights[f"{name}_{n}"] for name in ("W_enc", "b_enc", "W_dec")}
        pre = x[n] @ w["W_enc"].T + w["b_enc"]
        values = pre.relu() * (pre.relu() * w["W_dec"].norm(dim=1) > 0.3)
        values[0] = 0
        here = features.part == n
        found = torch.zeros(5, 12)
        found[features.position[here], features.index[here]] = features.value[here]
        torch.testing.assert_close(found, values.detach(), rtol=1e-3, atol=1e-4)
        for ahead, part in enumerate((values @ w["W_dec"]).split(16, dim=1)):
            total[n + ahead] = total[n + ahead] + part
        if skip:
            total[n] = total[n] + x[n] @ trainer.weights[f"W_skip_{n}"].T
    for n, one in enumerate(total):
        own = one * trainer.scaling.scale_out[n] + trainer.scaling.mean_out[n]
        torch.testing.assert_close(
            features.reconstruction[made.writes[n]], own.detach(), rtol=1e-3, atol=1e-3
        )
    rough = training._folded(trainer, model, "x")
    assert {one.W_enc.dtype for one in layer_weights(rough)} == {torch.float32}
    assert training.TrainConfig(cross_layer=False, n_features=20).saved == "float16"


def test_what_a_run_writes_down(tmp_path: Path) -> None:
    """A line for every step of a short run, for each 200th of a long one and its last; the state comes back as it was."""
    model = tiny_model("llama", layers=2)
    documents = torch.randint(3, 200, (40, 20)).tolist()
    told: list[tuple] = []
    settings = config(chunk_tokens=128, n_tokens=320)
    made = train_dictionary(
        model, documents, settings, folder=tmp_path, progress=lambda *one, **more: told.append((*one, more))
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11)) and {line["n_steps"] for line in lines} == {
        10
    }
    assert [line["progress"] for line in lines] == pytest.approx([n / 10 for n in range(1, 11)])
    assert [one[:3] for one in told] == [("train", n, 10) for n in range(1, 11)] and set(told[0][3]) == {
        "fvu",
        "l0",
        "dead",
    }
    assert (made.name, made.kind) == (
        f"{model.name}/plt",
        "per-layer transcoders",
    ) and made.card.self_test is not None
    assert len(made.card.self_test.documents) == 16 and made.card.self_test.documents[0] == tuple(
        documents[0]
    )
    assert train_dictionary(model, documents, config(cross_layer=True, n_tokens=32), name="own").name == "own"
    assert (
        train_dictionary(model, documents, config(cross_layer=True, n_tokens=32)).name == f"{model.name}/clt"
    )

    trainer = training._resume(tmp_path, settings, 2)
    assert (
        trainer is not None
        and trainer.step == 10
        and trainer.threshold == lines[-1]["threshold"]
        and trainer.seconds > 0
    )
    training._save(trainer, tmp_path)
    again = training._resume(tmp_path, settings, 2)
    assert (
        again is not None
        and torch.equal(again.idle, trainer.idle)
        and list(again.weights) == list(trainer.weights)
    )
    for one, other in zip(trainer.optimiser.state.values(), again.optimiser.state.values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    assert training._resume(tmp_path / "nothing", settings, 2) is None
    with pytest.raises(DictionaryMismatch, match="2 layers, not 3"):
        training._resume(tmp_path, settings, 3)
    with pytest.raises(ThoughtscopeError, match="another seed"):
        training._resume(tmp_path, config(chunk_tokens=128, n_tokens=320, seed=1), 2)

    (tmp_path / "log").mkdir()
    log = training._Log(tmp_path / "log", lambda *one, **more: None, config(n_tokens=32 * 1000))
    long = training._start(config(n_tokens=32 * 1000), rows())
    for step in range(1, 1001):
        long.step = step
        log.write({"step": step, "fvu": 1.0, "l0": 1.0, "dead": 0.0}, long)
    kept = [
        json.loads(line)["step"] for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()
    ]
    assert kept == list(range(5, 1001, 5))
