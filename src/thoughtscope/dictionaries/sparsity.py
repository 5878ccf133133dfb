"""`with_l0`: a dictionary whose thresholds are raised until only so many features a token are active."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Dictionary, Part, check_fits
from thoughtscope.dictionaries.documents import Document, counted, document_batches

if TYPE_CHECKING:
    from thoughtscope.models import Model


@torch.no_grad()
def with_l0(
    model: Model,
    dictionary: Dictionary,
    documents: Iterable[Document],
    *,
    l0: float,
    max_tokens: int = 20_000,
    context: int = 128,
    batch_tokens: int = 2048,
    progress: Progress = silent,
) -> Dictionary:
    """The dictionary with all thresholds raised by one factor, so that `l0` features a token are active in a part.

    `l0` is the mean over the parts and over the first `max_tokens` tokens of the documents. After BatchTopK, whose
    running threshold makes a JumpReLU (Bussmann et al. 2024), this is the dictionary with a smaller k; its weights stay
    as they are. Scores and a self-test on its card were another dictionary's and are left out.
    Raises `ThoughtscopeError` where fewer features are active already, and for thresholds of zero.
    """
    from thoughtscope.models import capture

    check_fits(dictionary, model)
    for part in dictionary.parts:
        if not bool((_thresholds(part) > 0).all()):
            raise ThoughtscopeError(f"Part {part.name} has thresholds of 0, which no factor raises.")
    found, n_tokens = [], 0
    for tokens in document_batches(model, documents, context=context, batch_tokens=batch_tokens):
        keep = counted(tokens.mask, skip_first=dictionary.skip_first)
        acts = capture(model, tokens, dictionary.reads)
        for part in dictionary.parts:
            found.append(_margins(part, {site: acts[site][keep] for site in part.reads}))
        n_tokens += int(keep.sum())
        progress("thresholds", n_tokens, max_tokens)
        if n_tokens >= max_tokens:
            break
    margins, places = torch.cat(found), n_tokens * len(dictionary.parts)
    wanted, there = round(l0 * places), len(margins)
    if not 0 < wanted < there:
        raise ThoughtscopeError(
            f"{l0:g} active features cannot be reached by raising thresholds: {there / places:.1f} are active as "
            "it is. Ask for fewer, and for more than 0."
        )
    # The last of those that stay passes, the next one does not: a threshold is exceeded, not met.
    factor = float(margins.kthvalue(there - wanted).values)
    parts = tuple(replace(part, threshold=_thresholds(part) * factor) for part in dictionary.parts)
    card = replace(dictionary.card, declared={}, self_test=None)
    return replace(dictionary, parts=parts, card=card)


def _margins(part: Part, states: Mapping[Site, Tensor]) -> Float[Tensor, " active"]:
    """How far above its threshold each active feature is, as a ratio."""
    values = part.activations(states)
    row, index = values.nonzero(as_tuple=True)
    return (values[row, index] / _thresholds(part)[index].to(values)).float().cpu()


def _thresholds(part: Part) -> Float[Tensor, " feature"]:
    if part.threshold is None:
        raise ThoughtscopeError(f"Part {part.name} has no thresholds to raise: only JumpReLU does.")
    return part.threshold
