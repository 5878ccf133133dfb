"""Capture and edits: bit-identical logits when nothing is changed, no difference under a cache, no hook left.

Runs on random models of the real classes of every family (and NeoX with sequential blocks), each with the
library's default attention and with eager attention, in float32 on the CPU, and on the specimen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from _claim import Measured, main

from thoughtscope.core.site import SITE_KINDS, Site
from thoughtscope.models import Edit, Model, Tokens, capture, forward, generate, load_model, tokens_from_ids
from thoughtscope.models.edits import writes_of
from thoughtscope.models.random_models import random_families, random_model

NEW_TOKENS = 32


@dataclass
class Tally:
    """Cases and differences of each check."""

    cases: dict[str, int] = field(default_factory=dict)
    differences: dict[str, int] = field(default_factory=dict)

    def count(self, check: str, same: bool) -> None:
        self.cases[check] = self.cases.get(check, 0) + 1
        self.differences[check] = self.differences.get(check, 0) + (not same)


def models(seed: int) -> Iterator[Model]:
    """Every family with both kinds of attention, then the specimen."""
    for attention in (None, "eager"):
        for family in random_families():
            yield random_model(family, layers=3, seed=seed, attention=attention)
        yield random_model("gpt_neox", layers=3, seed=seed, attention=attention, use_parallel_residual=False)
    yield load_model("specimen", device="cpu", dtype="float32")


def prompts(model: Model, seed: int) -> list[Tokens]:
    """One prompt alone, and two of different lengths padded together."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length: int) -> list[int]:
        return torch.randint(0, min(250, model.vocab_size), (length,), generator=generator).tolist()

    return [tokens_from_ids(model, [draw(12)]), tokens_from_ids(model, [draw(14), draw(9)])]


def every_site(model: Model) -> list[Site]:
    here = [kind for kind in SITE_KINDS if kind not in model.family.missing]
    return [
        Site(kind, layer) for layer in range(model.n_layers) for kind in here if SITE_KINDS[kind].per_layer
    ] + [Site(kind) for kind in here if not SITE_KINDS[kind].per_layer]


def real_edits(model: Model, seed: int, *, strength: float = 1.0) -> list[Edit]:
    """Additions and scalings at several sites: everywhere, at chosen positions, and from a position on."""
    generator = torch.Generator().manual_seed(seed)
    last = model.n_layers - 1

    def added(kind: str, layer: int, **where: Any) -> Edit:
        site = Site(kind, layer)
        vector = torch.randn(model.width(site), generator=generator)
        return Edit(site=site, op="add", vector=vector, value=strength, **where)

    return [
        added("resid_pre", 1),
        Edit(site=Site("mlp_out", last), op="scale", value=1 + strength, start=5),
        added("attn_in" if "attn_norm" in model.family.missing else "attn_norm", 1, positions=(2, 5, 15)),
        added("resid_post", 0, start=12),
        added("k", 1, start=3),
        added("mlp_act", last, positions=(1, 13)),
    ]


def hooks_left(model: Model) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.module.modules())


class Interrupted(BaseException):
    """What a user's interrupt is: not an `Exception`."""


def check_model(model: Model, seed: int, tally: Tally) -> Iterator[float]:
    """Counts every check on one model; yields how far the real edits moved the logits (the control)."""
    attention = model.family.config._attn_implementation
    for tokens in prompts(model, seed):
        plain = model.module(
            input_ids=tokens.ids, attention_mask=tokens.mask, position_ids=tokens.positions.clamp(min=0)
        ).logits
        same = partial(torch.equal, plain)
        tally.count("every site captured", same(capture(model, tokens, every_site(model))["logits"]))
        for site in every_site(model):
            tally.count("one site captured", same(capture(model, tokens, [site, "logits"])["logits"]))
        tally.count("empty plan", same(forward(model, tokens)))
        copies = {site: lambda x, step: x.clone() for site in every_site(model)}
        tally.count("every value written back", same(forward(model, tokens, writes=copies)))
        idle = real_edits(model, seed, strength=0.0)
        tally.count("edits of strength zero", same(forward(model, tokens, writes=writes_of(model, idle))))
        edits = real_edits(model, seed)
        yield float((forward(model, tokens, writes=writes_of(model, edits)) - plain).abs().max())
        cached = generate(model, tokens, max_new_tokens=NEW_TOKENS, edits=edits, stop_at_end=False)
        whole = generate(
            model, tokens, max_new_tokens=NEW_TOKENS, edits=edits, cache=False, stop_at_end=False
        )
        tally.count("edited generation, cached = uncached", torch.equal(cached.ids, whole.ids))
        for site in every_site(model):

            def interrupt(x: torch.Tensor, step: object) -> torch.Tensor:
                raise Interrupted

            try:
                forward(
                    model,
                    tokens,
                    reads=dict.fromkeys(every_site(model), lambda x, step: None),
                    writes={site: interrupt},
                )
            except Interrupted:
                clean = hooks_left(model) == 0 and model.family.config._attn_implementation == attention
                tally.count("interrupted at a site, nothing left", clean)
        tally.count("plain call after all of it", same(forward(model, tokens)))


@torch.no_grad()
def measure(seed: int) -> Measured:
    tally = Tally()
    moved: dict[str, list[float]] = {}
    for model in models(seed):
        label = f"{model.name} ({model.family.config._attn_implementation})"
        moved.setdefault(label, []).extend(check_model(model, seed, tally))
    shifts = [shift for found in moved.values() for shift in found]
    return Measured(
        value=sum(tally.differences.values()),
        n=sum(tally.cases.values()),
        control={
            "real edits that change the logits": sum(shift > 0 for shift in shifts),
            "of": len(shifts),
            "smallest change": round(min(shifts), 4),
        },
        details={
            "cases": tally.cases,
            "differences": tally.differences,
            "models": list(moved),
            "new_tokens": NEW_TOKENS,
        },
    )


if __name__ == "__main__":
    main(
        measure,
        claim="Capture and empty edits change no bit of the logits, edits mean the same with and without a cache, and "
        "exceptions leave no hook: number of differences.",
    )
