"""Autoencoders and crosscoders written out once more, on the bare module: plain hooks, plain sums.

Nothing here uses the package's sites, hooks or decoding; a site is found by the names of the Hugging Face classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.autograd_oracle import find_modules
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Activation, Dictionary, Part
from thoughtscope.models import Model

KINDS: dict[str, tuple[str, ...]] = {
    "SAE on resid_post": ("resid_post.1",),
    "SAE on z": ("z.1",),
    "SAE on neurons": ("mlp_act.1",),
    "crosscoder": ("resid_post.0", "resid_post.1", "resid_post.2"),
}
OUTPUT_PROJECTIONS = ("o_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h")


def random_coder(model: Model, sites: Sequence[str], *, n_features: int = 24, seed: int = 0) -> Dictionary:
    """An autoencoder of one site, or a crosscoder of several, with random weights; some features are active."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, size: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * size

    places = [Site.parse(site) for site in sites]
    widths = {site: model.width(site) for site in places}
    part = Part(
        name=sites[0] if len(sites) == 1 else "crosscoder",
        activation=Activation(kind="jumprelu"),
        W_enc={site: draw(n_features, width, size=2 * width**-0.5) for site, width in widths.items()},
        b_enc=draw(n_features, size=0.2),
        W_dec={site: draw(n_features, width, size=0.3 * width**-0.5) for site, width in widths.items()},
        b_dec={site: draw(width, size=0.1) for site, width in widths.items()},
        threshold=draw(n_features, size=0.2).abs(),
    )
    return Dictionary(name="random/coder", scan="random", model_name=model.name, parts=(part,))


def weights_of(dictionary: Dictionary) -> dict[str, Any]:
    """The one part's weights, sites by name, in float64."""
    (part,) = dictionary.parts
    assert part.threshold is not None
    return {
        "W_enc": {str(site): w.double() for site, w in part.W_enc.items()},
        "W_dec": {str(site): w.double() for site, w in part.W_dec.items()},
        "b_dec": {str(site): b.double() for site, b in part.b_dec.items()},
        "b_enc": part.b_enc.double(),
        "threshold": part.threshold.double(),
    }


def find_site(module: nn.Module, site: str) -> tuple[nn.Module, bool]:
    """The module that holds a site, and whether it is its input (else its output)."""
    kind, _, layer = site.partition(".")
    parts = find_modules(module)
    block = parts.blocks[int(layer)]
    if kind == "resid_post":
        return block, False
    owner = (
        parts.mlps[int(layer)]
        if kind == "mlp_act"
        else next(
            child for name, child in block.named_children() if name in ("attn", "attention", "self_attn")
        )
    )
    last = [child for name, child in owner.named_children() if name in OUTPUT_PROJECTIONS]
    return last[-1], True


@contextmanager
def touching(module: nn.Module, touch: Mapping[str, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Each function sees its site's tensor (batch, pos, width) and may return another."""
    handles = []
    for site, function in touch.items():
        owner, is_input = find_site(module, site)

        def before(m: nn.Module, args: tuple[Any, ...], function: Any = function) -> Any:
            changed = function(args[0])
            return None if changed is None else (changed, *args[1:])

        def after(m: nn.Module, args: Any, out: Any, function: Any = function) -> Any:
            x = out[0] if isinstance(out, tuple) else out
            changed = function(x)
            if changed is None:
                return None
            return (changed, *out[1:]) if isinstance(out, tuple) else changed

        register = owner.register_forward_pre_hook if is_input else owner.register_forward_hook
        handles.append(register(before if is_input else after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def held(model: Model, ids: Sequence[int], sites: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """What the sites hold on one prompt, (pos, width), and the logits."""
    seen: dict[str, Tensor] = {}

    def note(site: str) -> Callable[[Tensor], None]:
        return lambda x: seen.__setitem__(site, x[0].clone())

    with torch.no_grad(), touching(model.module, {site: note(site) for site in sites}):
        logits = model.module(input_ids=torch.tensor([list(ids)])).logits[0]
    return seen, logits


def encode_plainly(w: Mapping[str, Any], x: Mapping[str, Tensor]) -> Tensor:
    """All features, position by position and feature by feature; none at the first position. (pos, feature)"""
    n_pos = len(next(iter(x.values())))
    found = torch.zeros(n_pos, len(w["b_enc"]), dtype=torch.float64)
    for p in range(1, n_pos):
        for f in range(len(w["b_enc"])):
            pre = w["b_enc"][f] + sum(w["W_enc"][site][f] @ x[site][p].double() for site in x)
            found[p, f] = pre if pre > w["threshold"][f] else 0.0
    return found


def decode_plainly(w: Mapping[str, Any], features: Tensor) -> dict[str, Tensor]:
    """What the features write at each site, (pos, width)."""
    return {
        site: torch.stack(
            [b + sum(row[f] * w["W_dec"][site][f] for f in range(len(row))) for row in features]
        )
        for site, b in w["b_dec"].items()
    }


def splice_plainly(model: Model, w: Mapping[str, Any], ids: Sequence[int]) -> Tensor:
    """Logits with every written site replaced by the reconstruction, but at the first position.

    An autoencoder encodes what the running model holds; a crosscoder writes before it has read everything, so it
    encodes what the model holds without it.
    """
    clean, _ = held(model, ids, list(w["W_enc"]))
    fixed = decode_plainly(w, encode_plainly(w, clean)) if len(w["W_enc"]) > 1 else None

    def replace(site: str) -> Callable[[Tensor], Tensor]:
        def put(x: Tensor) -> Tensor:
            rows = fixed if fixed is not None else decode_plainly(w, encode_plainly(w, {site: x[0]}))
            x = x.clone()
            x[0, 1:] = rows[site][1:].to(x.dtype)
            return x

        return put

    with torch.no_grad(), touching(model.module, {site: replace(site) for site in w["W_dec"]}):
        return model.module(input_ids=torch.tensor([list(ids)])).logits[0]


def edit_plainly(
    model: Model, w: Mapping[str, Any], ids: Sequence[int], feature: int, position: int, value: float
) -> Tensor:
    """Logits with one feature set to a value at one position: `(value − a) W_dec` added at every site written."""
    clean, _ = held(model, ids, list(w["W_enc"]))
    change = value - float(encode_plainly(w, clean)[position, feature])

    def add(site: str) -> Callable[[Tensor], Tensor]:
        def put(x: Tensor) -> Tensor:
            x = x.clone()
            x[0, position] += (change * w["W_dec"][site][feature]).to(x.dtype)
            return x

        return put

    with torch.no_grad(), touching(model.module, {site: add(site) for site in w["W_dec"]}):
        return model.module(input_ids=torch.tensor([list(ids)])).logits[0]


def scores_plainly(model: Model, w: Mapping[str, Any], documents: Sequence[Sequence[int]]) -> dict[str, Any]:
    """FVU by site, L0, the loss and the loss with the reconstruction spliced in, over all but first positions."""
    rows: dict[str, list[Tensor]] = {site: [] for site in w["W_dec"]}
    guesses: dict[str, list[Tensor]] = {site: [] for site in w["W_dec"]}
    active, n, losses, spliced = 0, 0, [], []
    for ids in documents:
        x, logits = held(model, ids, list(w["W_enc"]))
        features = encode_plainly(w, x)
        active, n = active + int((features[1:] != 0).sum()), n + len(ids) - 1
        for site, guess in decode_plainly(w, features).items():
            rows[site].append(x[site][1:].double())
            guesses[site].append(guess[1:])
        following = torch.tensor(list(ids)[2:])
        losses.append(cross_entropy(logits[1:-1], following, reduction="none"))
        spliced.append(cross_entropy(splice_plainly(model, w, ids)[1:-1], following, reduction="none"))
    fvu = {}
    for site in rows:
        y, guess = torch.cat(rows[site]), torch.cat(guesses[site])
        fvu[site] = float((y - guess).square().sum() / (y - y.mean(0)).square().sum())
    return {
        "fvu": fvu,
        "l0": active / n,
        "loss": float(torch.cat(losses).double().mean()),
        "loss_spliced": float(torch.cat(spliced).double().mean()),
    }


@contextmanager
def noting(module: nn.Module, seen: dict[str, Tensor], *, sites: Sequence[str]) -> Iterator[None]:
    """Keeps what the sites hold while open, with the gradient's way to it."""

    def note(site: str) -> Callable[[Tensor], None]:
        return lambda x: seen.__setitem__(site, x[0])

    with touching(module, {site: note(site) for site in sites}):
        yield
