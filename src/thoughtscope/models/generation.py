"""`generate`: greedy continuation under edits, the same with and without a key/value cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import DynamicCache

from thoughtscope.core.errors import LimitExceeded
from thoughtscope.core.site import Site
from thoughtscope.models.edits import Edit, writes_of
from thoughtscope.models.hooks import Write, hooked, in_turn, run
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens, append


@torch.no_grad()
def generate(
    model: Model,
    tokens: Tokens,
    *,
    max_new_tokens: int,
    edits: Iterable[Edit] = (),
    writes: Mapping[Site, Write] | None = None,
    norm_scales: Mapping[Site, Tensor] | None = None,
    cache: bool = True,
    stop_at_end: bool = True,
) -> Tokens:
    """The prompt and its greedy continuation; every row grows by the same number of tokens.

    Edits address absolute positions of each row, so they mean the same in the prefill, in a decode step and in a padded
    batch. `writes` and `norm_scales` are those of `hooked`, applied after the edits of the same site. With
    `stop_at_end`, generation ends once every row has produced the model's end token.
    Raises `LimitExceeded` when prompt and continuation do not fit the model's positions.
    """
    longest = int(tokens.mask.sum(-1).max()) + max_new_tokens
    if longest > model.max_positions:
        raise LimitExceeded(
            f"Prompt and continuation need {longest:,} positions; {model.name} has {model.max_positions:,}. "
            f"Ask for fewer than {max_new_tokens:,} new tokens."
        )
    combined = writes_of(model, edits)
    for site, later in (writes or {}).items():
        combined[site] = in_turn(combined[site], later) if site in combined else later
    # no config for the cache: every layer keeps all keys, so the key axis is the same with and without it
    store = DynamicCache() if cache else None
    ends = end_tokens(model) if stop_at_end else set()
    ended = torch.zeros(len(tokens), dtype=torch.bool)
    ids, mask = tokens.ids.to(model.device), tokens.mask.to(model.device)
    new: list[Tensor] = []
    with hooked(model, writes=combined, norm_scales=norm_scales):
        for _ in range(max_new_tokens):
            fed = ids if store is None or not new else ids[:, -1:]
            logits = run(model, fed, mask, cache=store)
            assert logits is not None
            chosen = logits[:, -1].argmax(-1, keepdim=True)
            new.append(chosen)
            ids = torch.cat([ids, chosen.to(ids.device)], dim=1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            ended |= torch.tensor([int(token) in ends for token in chosen[:, 0]])
            if bool(ended.all()):
                break
    return append(tokens, model, torch.cat(new, dim=1)) if new else tokens


def end_tokens(model: Model) -> set[int]:
    """The ids that end a text, as the model's generation configuration declares them."""
    declared = getattr(getattr(model.module, "generation_config", None), "eos_token_id", None)
    declared = getattr(model.family.config, "eos_token_id", None) if declared is None else declared
    if declared is None:
        return set()
    return {int(token) for token in (declared if isinstance(declared, list | tuple) else [declared])}
