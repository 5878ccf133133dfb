"""Training by its definitions: where it starts, how a step moves the weights, what it becomes, and what is written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import training_oracle
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.features import decode
from thoughtscope.training import Recipe, recipes, run, schedule, train_dictionary
from thoughtscope.training.checkpoint import load_state, save_state
from thoughtscope.training.data import Moments
from thoughtscope.training.log import Log, read_metrics
from thoughtscope.training.recipe import BatchTopK, Gated, JumpReLU, ReLU, Resampling, Schedule, TopK
from thoughtscope.training.state import State
from thoughtscope.training.step import forward, train_step

WIDTHS = {"mlp_in": 9, "mlp_out": 7}


class Fixed:
    """A stream of the same rows again and again."""

    def __init__(self, recipe: Recipe, n: int = 64, seed: int = 0) -> None:
        self.sites = recipe.sites
        self.widths = {site: WIDTHS[site.kind] for site in self.sites}
        draw = torch.Generator().manual_seed(seed)
        self.rows = {
            site: torch.randn(n, width, generator=draw) * (1.0 + 2 * site.layer) + 2
            for site, width in self.widths.items()
        }
        self.moments = {site: Moments.of(x) for site, x in self.rows.items()}

    def batches(self, start: int = 0) -> Any:
        while True:
            yield self.rows


def made(activation: Any = None, *, cross: bool = False, **values: Any) -> Recipe:
    small = dict(
        parts=recipes.cross_layer(3) if cross else recipes.per_layer(3),
        n_features=12,
        activation=activation or BatchTopK(k=3),
        schedule=Schedule(n_tokens=640, batch=64),
        dead=None,
        precision="float32",
    )
    return Recipe.of(**{**small, **values})


def begun(recipe: Recipe, *, noise: float = 0.0) -> tuple[State, Fixed]:
    stream = Fixed(recipe)
    state = run.begin(stream, recipe, stream.rows)
    draw = torch.Generator().manual_seed(1)
    for name, weight in state.weights.items():
        weight += noise * torch.randn(weight.shape, generator=draw)
        if recipe.decoder == "unit" and name.endswith("W_dec"):
            weight /= weight.norm(dim=1, keepdim=True)
    for part in state.parts:
        part.refresh(0, part.n_features)
    return state, stream


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "said"), [
    ({"n_features": 0}, "n_features"), ({"activation": BatchTopK(k=11.9)}, None), ({"activation": BatchTopK(k=12)}, "not sparse"),
    ({"activation": TopK(k=12)}, "not sparse"), ({"schedule": {"batch": 0}}, r"schedule\.batch"), ({"schedule": {"batch": 1}}, None),
    ({"schedule": {"n_tokens": 0}}, "n_tokens"), ({"schedule": {"decay": 1.1}}, "decay"), ({"data": {"context": 1}}, "context"),
    ({"data": {"passes": 0}}, "passes"), ({"tied_start": True}, "tied_start"), ({"colour": 1}, "colour"), ({"parts": ()}, "parts"),
    ({"schedule": {"learning_rate": float("nan")}}, "learning_rate"), ({"decoder": "unit", "norm": "by site"}, "one norm"),
])  # fmt: skip
def test_recipes_at_their_ends(values: dict, said: str | None) -> None:
    if said is None:
        made(**values)
    else:
        with pytest.raises(ThoughtscopeError, match=said):
            made(**values)


def test_a_value_is_replaced_where_it_is_named() -> None:
    recipe = made()
    other = recipe.replaced({"activation.k": 4, "schedule.batch": 32, "seed": 5})
    assert (other.activation.k, other.schedule.batch, other.seed) == (4.0, 32, 5)
    assert (recipe.activation.k, recipe.schedule.batch, recipe.seed) == (3.0, 64, 0)
    assert other.replaced({"activation.k": 3, "schedule.batch": 64, "seed": 0}) == recipe
    for wrong in ("colour", "schedule.colour", "schedule.batch.size", "nothing.at"):
        with pytest.raises(ThoughtscopeError, match=f'no "{wrong}"'):
            recipe.replaced({wrong: 1})
    assert Recipe.of(**json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe


@pytest.mark.parametrize(("warm_up", "decay", "step", "rate"), [
    (0.2, 0.5, 0, 0.5), (0.2, 0.5, 1, 1.0), (0.2, 0.5, 5, 1.0), (0.2, 0.5, 9, 0.2), (0.0, 0.5, 0, 1.0), (0.2, 0.0, 9, 1.0),
    (0.4, 0.8, 1, 0.5), (0.4, 0.8, 9, 0.125),
])  # fmt: skip
def test_the_learning_rate(warm_up: float, decay: float, step: int, rate: float) -> None:
    """Ten steps: the first is already a tenth of the way up."""
    plan = Schedule(n_tokens=100, batch=10, learning_rate=3.0, warm_up=warm_up, decay=decay)
    assert schedule.rate(plan, step) == pytest.approx(3 * rate)


@pytest.mark.parametrize(("step", "share", "start", "k", "wanted"), [
    (0, 0.2, 2.0, 3.0, 6.0), (1, 0.2, 2.0, 3.0, 4.5), (2, 0.2, 2.0, 3.0, 3.0), (9, 0.2, 2.0, 3.0, 3.0), (0, 0.2, 1.0, 3.0, 3.0),
    (0, 0.2, 2.0, 5.0, 6.0), (1, 0.0, 2.0, 3.0, 3.0),
])  # fmt: skip
def test_how_many_may_be_active(step: int, share: float, start: float, k: float, wanted: float) -> None:
    """From `k_start` times k down to k; never more than half of all features."""
    plan = Schedule(n_tokens=100, batch=10, sparsity_warm_up=share, k_start=start)
    assert schedule.active(plan, step, k, 12) == pytest.approx(wanted)
    assert schedule.sparsity(plan, step) == pytest.approx(min(1.0, (step + 1) / max(1, 10 * share)))


# --- the start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("centre", "scale"), [(True, True), (True, False), (False, True), (False, False)])
def test_the_units_of_a_training(centre: bool, scale: bool) -> None:
    state, stream = begun(made(centre=centre, scale=scale))
    for site, x in stream.rows.items():
        plain = x.double().numpy()
        mean = plain.mean(0) if centre else np.zeros(plain.shape[1])
        unit = np.sqrt(((plain - mean) ** 2).mean()) if scale else 1.0
        np.testing.assert_allclose(state.scaling.mean[site], mean, rtol=1e-5, atol=1e-6)
        assert state.scaling.unit[site] == pytest.approx(unit, rel=1e-5)
        inside = state.scaling.inside(site, x, torch.float32)
        np.testing.assert_allclose(inside, (plain - mean) / unit, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("cross", [False, True])
def test_where_training_starts(cross: bool) -> None:
    """Encoders are directions of real inputs, decoders small, all else nothing."""
    state, stream = begun(made(cross=cross, skip=True))
    x, _ = state.scaled(stream.rows)
    for layer in range(3):
        own = state.parts[layer].own
        assert own["W_dec"].shape == (12, 7 * (3 - layer if cross else 1))
        torch.testing.assert_close(own["W_dec"].norm(dim=1), torch.full((12,), 0.1))
        torch.testing.assert_close(own["W_enc"].norm(dim=1), torch.ones(12))
        read = x[Site("mlp_in", layer)]
        alike = own["W_enc"] @ (read / read.norm(dim=1, keepdim=True)).T
        torch.testing.assert_close(alike.max(1).values, torch.ones(12))
        assert len(set(alike.argmax(1).tolist())) > 6
        assert not own["b_enc"].any() and not own["W_skip"].any()
        assert not state.weights[f"b_dec/mlp_out.{layer}"].any()
        assert not state.parts[layer].idle.any() and state.parts[layer].threshold is None
    assert (state.step, state.seconds, state.adam.steps) == (0, 0.0, 0)


# --- a step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cross", "skip"), [(False, False), (True, True), (True, False), (False, True)])
def test_a_step_is_adams_on_the_gradient_of_the_loss(cross: bool, skip: bool) -> None:
    """Twice, against PyTorch's own optimiser on an independent loss; and the figures by their definitions."""
    recipe = made(
        cross=cross,
        skip=skip,
        schedule=Schedule(n_tokens=640, batch=64, learning_rate=0.01, warm_up=0.0, decay=0.0, k_start=1.0),
    )
    state, stream = begun(recipe, noise=0.2)
    leaves = {name: weight.clone().requires_grad_() for name, weight in state.weights.items()}
    adam = torch.optim.Adam(leaves.values(), lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    x, y = state.scaled(stream.rows)
    for number in range(2):
        k = schedule.active(recipe.schedule, number, 3.0, 12)
        loss = training_oracle.loss(recipe, leaves, x, y, k=k, sparsity=1.0)
        adam.zero_grad()
        torch.autograd.backward(loss)
        with torch.no_grad():
            done = forward(state, x, y)
            fvu = [float(done.final[site].square().sum() / y[site].square().sum()) for site in y]
        adam.step()
        figures = train_step(state, stream.rows)
        assert figures["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert figures["fvu"] == pytest.approx(np.mean(fvu), rel=1e-4)
        assert figures["l0"] == pytest.approx(round(k * 64 * 3) / 64 / 3) and figures["dead"] == 0
        for name, weight in state.weights.items():
            torch.testing.assert_close(weight, leaves[name].detach(), rtol=1e-3, atol=2e-4)
    assert state.step == 2
    for part, active in zip(state.parts, done.active, strict=True):
        fired = torch.zeros(12, dtype=torch.bool)
        fired[active.pattern.feature] = True  # type: ignore[attr-defined]
        assert not part.idle[fired].any() and (part.idle[~fired] >= 64).all()


def test_silence_is_counted_in_tokens() -> None:
    state, stream = begun(made(schedule=Schedule(n_tokens=6400, batch=64, dead_after=128)))
    part = state.parts[1]
    part.own["b_enc"][:] = -100.0  # nothing fires here but what is forced to
    part.own["b_enc"][4] = 100.0
    part.refresh(0, 12)
    dead = [train_step(state, stream.rows)["dead"] for _ in range(4)]
    assert part.idle.tolist() == [0 if n == 4 else 256 for n in range(12)]
    others = sum(int((each.idle > 128).sum()) for each in (state.parts[0], state.parts[2]))
    assert dead[:3] == [0, 0, 0] and dead[3] == pytest.approx((11 + others) / 36)


def test_a_threshold_follows_what_passes_by_a_tenth() -> None:
    part = begun(made())[0].parts[0]
    part.saw_threshold(2.0)
    assert part.threshold == 2.0
    for _ in range(3):
        part.saw_threshold(1.0)
    assert part.threshold == pytest.approx(1 + 0.9**3)


# --- what it becomes -----------------------------------------------------------------------------------------------

KINDS = {
    "topk": made(TopK(k=3)),
    "unit topk": made(TopK(k=3), decoder="unit"),
    "batchtopk": made(),
    "cross": made(cross=True),
    "skip": made(skip=True),
    "relu": made(ReLU()),
    "jumprelu": made(JumpReLU(threshold=0.3), cross=True),
    "gated": made(Gated()),
    "raw units": made(JumpReLU(threshold=0.3), centre=False, scale=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_learned_in_the_models_own_units(kind: str) -> None:
    """Features and reconstruction of the finished dictionary are the training's own, scaled back."""
    recipe = KINDS[kind].replaced({"schedule.k_start": 1.0})
    state, stream = begun(recipe, noise=0.2)
    x, y = state.scaled(stream.rows)
    with torch.no_grad():
        done = forward(state, x, y)
    for part in state.parts:  # as if it had settled on this batch, in which exactly those above it passed
        if part.threshold is not None:
            part.threshold *= 1 - 2e-6
    dictionary = run.finished(state, name="a/name", model_name="a model")
    assert (dictionary.name, dictionary.model_name) == ("a/name", "a model")
    found = [part.activations({site: stream.rows[site] for site in part.reads}) for part in dictionary.parts]
    events = []
    for number, (values, active) in enumerate(zip(found, done.active, strict=True)):
        inside = torch.zeros(64, 12)
        pattern = active.pattern
        if hasattr(pattern, "token"):
            inside[pattern.token, pattern.feature] = active.values[0]
        else:
            inside = active.values[0]
        assert torch.equal(values > 0, inside > 0)
        token, feature = values.nonzero(as_tuple=True)
        events.append((torch.full_like(token, number), token, feature, values[token, feature]))
    columns = [torch.cat(column) for column in zip(*events, strict=True)]
    ours = decode(dictionary, *columns, {site: stream.rows[site] for site in dictionary.reads})
    for site, target in y.items():
        wanted = (done.final[site] + target) * state.scaling.unit[site] + state.scaling.mean[site]
        torch.testing.assert_close(ours[site], wanted, rtol=1e-3, atol=2e-3)


# --- what is written down ------------------------------------------------------------------------------------------


def test_a_state_comes_back_to_the_bit(tmp_path: Path) -> None:
    state, stream = begun(
        made(dead=Resampling(at=(0.2,)), schedule=Schedule(n_tokens=640, batch=64, dead_after=1))
    )
    for _ in range(4):
        train_step(state, stream.rows)
    state.about = {"tested": [[1, 2]]}
    save_state(state, tmp_path / "state")
    again = load_state(tmp_path / "state", state.recipe)
    assert again is not None and again.step == 4 and again.about == state.about and again.adam.steps == 4
    for _ in range(3):
        assert train_step(state, stream.rows) == train_step(again, stream.rows)
    assert all(torch.equal(weight, again.weights[name]) for name, weight in state.weights.items())
    assert [part.threshold for part in state.parts] == [part.threshold for part in again.parts]
    assert load_state(tmp_path / "nothing", state.recipe) is None
    later = state.recipe.replaced({"checkpoint_minutes": 9.0})
    assert load_state(tmp_path / "state", later) is not None
    with pytest.raises(ThoughtscopeError, match=r"another schedule\.batch, seed"):
        load_state(tmp_path / "state", state.recipe.replaced({"seed": 1, "schedule.batch": 32}))


def test_what_a_run_writes_down(tmp_path: Path) -> None:
    """A line for every step of a short run; the caller hears of each step."""
    model = tiny_model("llama", layers=2)
    documents = torch.randint(3, 200, (40, 20), generator=torch.Generator().manual_seed(0)).tolist()
    told: list[tuple] = []
    recipe = recipes.transcoder(
        2, n_features=12, k=3, **{"schedule.n_tokens": 320, "schedule.batch": 32, "data.buffer_tokens": 192}
    )
    dictionary = train_dictionary(
        model,
        documents,
        recipe,
        folder=tmp_path,
        name="own",
        progress=lambda *one, **more: told.append((*one, more)),
    )
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, 11)) and {line["n_steps"] for line in lines} == {
        10
    }
    assert [line["tokens"] for line in lines] == list(range(32, 321, 32))
    assert [one[:3] for one in told] == [("train", n, 10) for n in range(1, 11)]
    assert (
        {"loss", "fvu", "l0", "dead", "tokens_per_second", "gigabytes"} <= told[0][3].keys() < lines[0].keys()
    )
    rows = 32 * sum(model.width(site) for site in recipe.sites) * 2 / 1e9  # bfloat16
    assert lines[-1]["gigabytes"] == pytest.approx(10 * rows, abs=1e-4)
    assert (dictionary.name, dictionary.kind) == ("own", "per-layer transcoders")
    own = dictionary.card.self_test
    assert own is not None and len(own.documents) == 16 and own.documents[0] == tuple(documents[0])


def test_a_long_run_writes_some_lines_and_takes_back_what_is_made_again(tmp_path: Path) -> None:
    recipe = made(schedule=Schedule(n_tokens=64 * 2000, batch=64))
    log = Log(recipe, name="x", folder=tmp_path, progress=lambda *one, **more: None)
    for step in range(1, 1001):
        log.write(step, {"fvu": 1.0}, n_tokens=64, n_bytes=10, seconds=1.0)
    log.close()
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(5, 1001, 5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10')  # a kill
    Log(recipe, name="x", folder=tmp_path, progress=lambda *one, **more: None, start=17)
    assert [line["step"] for line in read_metrics(tmp_path)] == [5, 10, 15]
