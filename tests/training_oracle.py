"""An independent training loss under autograd: dense, in float64, written from the papers and not from the package.

`loss` takes a recipe, the weights as leaves, inputs and targets by site in training's units, and returns what one step
descends on. Derivatives that are not of the forward formula (JumpReLU's window, frozen decoders) are autograd functions
of their own here.
"""

from __future__ import annotations

import torch

from thoughtscope.core.site import Site
from thoughtscope.training import recipes
from thoughtscope.training.objective import objective
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


class Jumping(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, width):
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return z * (z > theta)

    @staticmethod
    def backward(ctx, grad):
        z, theta = ctx.saved_tensors
        window = ((z - theta).abs() < ctx.width / 2).to(z) / ctx.width
        return grad * (z > theta), -(theta * window * grad).sum(0), None


class Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, theta, width):
        ctx.save_for_backward(z, theta)
        ctx.width = width
        return (z > theta).to(z)

    @staticmethod
    def backward(ctx, grad):
        z, theta = ctx.saved_tensors
        window = ((z - theta).abs() < ctx.width / 2).to(z) / ctx.width
        return None, -(window * grad).sum(0), None


def loss(recipe, weights, x, y, *, k, sparsity, dead=None):
    """`dead` are the dead features by part; their auxiliary terms are added where the recipe has them."""
    act, n = recipe.activation, len(next(iter(x.values())))
    z, a, gates, scores = {}, {}, {}, {}
    for part in recipe.parts:
        W = {name: weights[f"{part.name}/{name}"] for name in _names(weights, part.name)}
        read = torch.cat([x[Site.parse(s)] for s in part.reads], 1)
        z[part.name] = read @ W["W_enc"].T + W["b_enc"]
        free = recipe.decoder == "free"
        scores[part.name] = (z[part.name] * (W["W_dec"].norm(dim=1) if free else 1.0)).detach()
    passed = _passed(recipe, scores, k, n)
    for part in recipe.parts:
        name = part.name
        W = {each: weights[f"{name}/{each}"] for each in _names(weights, name)}
        here = z[name]
        if act.kind in ("topk", "batchtopk"):
            a[name] = here.relu() * passed[name]
        elif act.kind == "relu":
            a[name] = here.relu()
        elif act.kind == "jumprelu":
            a[name] = Jumping.apply(here, W["log_threshold"].exp(), act.bandwidth)
        else:
            product = here - W["b_enc"]
            a[name] = (here > 0) * (W["r_mag"].exp() * product + W["b_mag"]).relu()
            gates[name] = here.relu()
    total = _reconstruction(recipe, weights, x, y, a, frozen=False)
    if gates:
        total = total + _reconstruction(recipe, weights, x, y, gates, frozen=True)
    for part in recipe.parts:
        total = total + sparsity * _sparsity(
            recipe, weights, part, gates.get(part.name, a[part.name]), z[part.name]
        )
    if dead is not None:
        total = total + _dead(recipe, weights, x, y, z, a, dead)
    return total


def _names(weights, part):
    return [name.split("/")[1] for name in weights if name.rpartition("/")[0] == part]


def _passed(recipe, scores, k, n):
    act = recipe.activation
    if act.kind == "topk":
        return {
            name: torch.zeros_like(s).scatter(1, s.topk(round(k), 1).indices, 1.0)
            for name, s in scores.items()
        }
    if act.kind == "batchtopk":
        groups = [list(scores)] if act.shared else [[name] for name in scores]
        found = {}
        for group in groups:
            flat = torch.cat([scores[name].relu().flatten() for name in group])
            lowest = flat.topk(round(k * n * len(group))).values.min()
            found |= {name: (scores[name] >= lowest).to(scores[name]) for name in group}
        return found
    return {}


def _reconstruction(recipe, weights, x, y, a, *, frozen):
    prefixes = getattr(recipe.activation, "prefixes", (1.0,))
    total = 0.0
    for share in prefixes:
        stop = round(share * recipe.n_features)
        written = {site: weights[f"b_dec/{site}"] for site in y}
        if frozen:
            written = {site: value.detach() * 0 + value for site, value in written.items()}
        for part in recipe.parts:
            decoder = weights[f"{part.name}/W_dec"]
            out = a[part.name][:, :stop] @ (decoder.detach() if frozen else decoder)[:stop]
            start = 0
            for number, site in enumerate(map(Site.parse, part.writes)):
                width = y[site].shape[1]
                written[site] = written[site] + out[:, start : start + width]
                start += width
                if recipe.skip and number == 0:
                    skip = weights[f"{part.name}/W_skip"]
                    written[site] = (
                        written[site] + x[Site.parse(part.reads[0])] @ (skip.detach() if frozen else skip).T
                    )
        if frozen:
            written = {
                s: w - weights[f"b_dec/{s}"] + weights[f"b_dec/{s}"].detach() for s, w in written.items()
            }
        total = total + sum(
            (_counted(recipe, y[site]) * (written[site] - y[site]).square()).mean() for site in y
        ) / len(prefixes)
    return total


def _counted(recipe, y):
    """How much each row counts: one over the limit as much as one that is at it."""
    square = y.square().mean(1, keepdim=True)
    if recipe.outliers is None:
        return torch.ones_like(square)
    return torch.minimum(torch.ones_like(square), recipe.outliers**2 / square)


def _norms(recipe, weights, part, y):
    decoder = weights[f"{part.name}/W_dec"]
    widths = [y[Site.parse(site)].shape[1] for site in part.writes]
    if recipe.norm == "joint":
        return decoder.norm(dim=1) / decoder.shape[1] ** 0.5
    return sum(piece.norm(dim=1) / piece.shape[1] ** 0.5 for piece in decoder.split(widths, dim=1))


def _sparsity(recipe, weights, part, a, z):
    act, n = recipe.activation, len(a)
    widths = {Site.parse(s): torch.empty(0, w) for s, w in _widths(weights, part)}
    if act.kind in ("topk", "batchtopk"):
        return 0.0
    u = a * _norms(recipe, weights, part, widths)
    if act.kind == "gated" or (act.kind == "relu" and act.penalty == "l1"):
        return act.coefficient * u.sum() / n
    if act.penalty == "tanh":
        return act.coefficient * torch.tanh(act.steepness * u).sum() / n
    l0 = Step.apply(z, weights[f"{part.name}/log_threshold"].exp(), act.bandwidth).sum() / n
    return act.coefficient * (l0 if act.target_l0 is None else (l0 / act.target_l0 - 1) ** 2)


def _widths(weights, part):
    return [(site, weights[f"b_dec/{site}"].shape[0]) for site in part.writes]


def _dead(recipe, weights, x, y, z, a, dead):
    remedy, total = recipe.dead, 0.0
    left = {site: value.detach() for site, value in _left(recipe, weights, x, y, a).items()}
    for part in recipe.parts:
        index = dead[part.name]
        if not len(index):
            continue
        here = z[part.name][:, index]
        decoder = weights[f"{part.name}/W_dec"][index]
        if remedy.kind == "pre-activation":
            theta = weights[f"{part.name}/log_threshold"].exp()[index].detach()
            sizes = {Site.parse(s): torch.empty(0, w) for s, w in _widths(weights, part)}
            norm = _norms(recipe, weights, part, sizes)[index].detach()
            total = total + remedy.coefficient * ((theta - here).relu() * norm).sum() / len(here)
            continue
        free = recipe.decoder == "free"
        order = (here * (weights[f"{part.name}/W_dec"].norm(dim=1)[index] if free else 1.0)).detach()
        best = torch.zeros_like(here).scatter(1, order.topk(min(remedy.k, len(index)), 1).indices, 1.0)
        out, start = (here.relu() * best) @ decoder, 0
        for site in map(Site.parse, part.writes):
            width = y[site].shape[1]
            rest = left[site] - out[:, start : start + width]
            counted = _counted(recipe, y[site])
            explained = (counted * rest.square()).sum() / (counted * left[site].square()).sum()
            total = total + remedy.coefficient * explained
            start += width
    return total


def _left(recipe, weights, x, y, a):
    written = {site: weights[f"b_dec/{site}"].expand_as(target) for site, target in y.items()}
    for part in recipe.parts:
        out, start = a[part.name] @ weights[f"{part.name}/W_dec"], 0
        for number, site in enumerate(map(Site.parse, part.writes)):
            width = y[site].shape[1]
            written[site] = written[site] + out[:, start : start + width]
            start += width
            if recipe.skip and number == 0:
                written[site] = (
                    written[site] + x[Site.parse(part.reads[0])] @ weights[f"{part.name}/W_skip"].T
                )
    return {site: y[site] - written[site] for site in y}


# --- cases, what a step finds for them, and what autograd does ------------------------------------------------------

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
        **KINDS[kind],
        activation=activation,
        n_features=n_features,
        dead=dead,
        precision="float32",
        outliers=1.1,
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
        total, _ = backward(state, x, forward(state, x, y), sink)
    return total, found


def expected(state, batch, dead=None):
    leaves = {name: weight.clone().requires_grad_() for name, weight in state.weights.items()}
    x, y = state.scaled(batch)
    k = state.k if hasattr(state.recipe.activation, "k") else None
    found = loss(state.recipe, leaves, x, y, k=k, sparsity=state.sparsity, dead=dead)
    found.backward()
    return float(found.detach()), {name: leaf.grad for name, leaf in leaves.items()}


def worst(found, wanted):
    return max(float((found[n] - wanted[n]).norm() / wanted[n].norm().clamp(min=1e-12)) for n in found)


REMEDIES = (
    ("auxiliary", Auxiliary(k=3, coefficient=0.5), TopK(k=4)),
    ("auxiliary", Auxiliary(k=3, coefficient=0.5), BatchTopK(k=4)),
    ("pre-activation", PreActivation(coefficient=0.5), JumpReLU(threshold=0.6, bandwidth=0.5)),
)


def with_dead(kind, remedy, activation, seed=0):
    """A state whose every third feature has long been silent, its batch, and those features by part."""
    state, batch = made(kind, activation, dead=remedy, seed=seed)
    for part in state.parts:
        part.idle[::3] = 10**9
    return state, batch, {part.name: torch.arange(0, part.n_features, 3) for part in state.parts}
