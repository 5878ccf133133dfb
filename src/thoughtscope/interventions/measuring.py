"""From logits and encoder inputs of the unedited and the edited run to the figures of an `Outcome`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Part
from thoughtscope.dictionaries.features import flat
from thoughtscope.interventions.clean import CleanRun
from thoughtscope.interventions.outcome import Distribution, FeatureChange, Outcome, confirms
from thoughtscope.interventions.patch import Patch
from thoughtscope.interventions.plans import Plan
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import token_text

_CELLS = 1 << 25
"""Activations held at once when features are compared: 128 MiB in float32."""


def measure(
    model: Model,
    clean: CleanRun,
    plan: Plan,
    logits: Float[Tensor, " vocab"],
    *,
    answer: int | None,
    top: int,
    changes: tuple[FeatureChange, ...],
    generations: tuple[str | None, str | None],
) -> Outcome:
    """Everything that an outcome says, from the logits after the prompt without and with the plan."""
    before, after = (x.double().log_softmax(-1) for x in (clean.logits, logits))
    chosen = int(before.argmax()) if answer is None else answer
    start, end = (centred(model, x) for x in (clean.logits, logits))
    moved = float(end[chosen]) - float(start[chosen])
    others = before.clone()
    others[chosen] = -torch.inf
    rival = int(others.argmax())
    likeliest = [x.topk(min(top, len(x))).indices.tolist() for x in (before, after)]
    shown = list(dict.fromkeys(likeliest[0] + likeliest[1]))
    return Outcome(
        plan=plan,
        prompt=clean.tokens.texts[0],
        before=_distribution(model, before, shown),
        after=_distribution(model, after, shown),
        kl=max(float((before.exp() * (before - after)).sum()), 0.0),
        answer=token_text(model, chosen),
        answer_id=chosen,
        rank_before=1 + int((before > before[chosen]).sum()),
        rank_after=1 + int((after > after[chosen]).sum()),
        probability_before=float(before[chosen].exp()),
        probability_after=float(after[chosen].exp()),
        logit_change=moved,
        rival=token_text(model, rival),
        rival_id=rival,
        difference_before=float(start[chosen] - start[rival]),
        difference_after=float(end[chosen] - end[rival]),
        feature_changes=changes,
        generation_before=generations[0],
        generation_after=generations[1],
        prediction_confirmed=confirms(plan, chosen, moved),
    )


def feature_changes(patch: Patch, limit: int) -> list[tuple[FeatureChange, ...]]:
    """For each plan of the patch, the largest changes of activation among the features that it does not edit."""
    found: list[list[FeatureChange]] = [[] for _ in patch.plans]
    padding = patch.clean.padding
    for part in patch.dictionary.parts if limit else ():
        clean = {site: flat(patch.clean.inputs[site], 2)[:, padding:] for site in part.reads}
        before = _activations(patch, part, clean)  # (1, pos, feature)
        rows_at_once = max(_CELLS // before.numel(), 1)
        for first in range(0, len(found), rows_at_once):
            rows = slice(first, first + rows_at_once)
            after = _activations(
                patch, part, {site: patch.inputs[site][rows, padding:] for site in part.reads}
            )
            difference = (after - before).abs() * _unedited(patch, part, rows, like=after)
            top = difference.flatten(1).topk(min(limit, difference[0].numel()))
            for row, (sizes, places) in enumerate(
                zip(top.values.tolist(), top.indices.tolist(), strict=True)
            ):
                for place in places[: sum(size > 0 for size in sizes)]:
                    position, index = divmod(place, difference.shape[2])
                    values = {
                        "before": float(before[0, position, index]),
                        "after": float(after[row, position, index]),
                    }
                    change = FeatureChange(part=part.name, position=position, index=index, **values)
                    found[first + row].append(change)
    return [tuple(sorted(several, key=_size, reverse=True)[:limit]) for several in found]


def _size(change: FeatureChange) -> float:
    return abs(change.after - change.before)


def _activations(
    patch: Patch, part: Part, inputs: Mapping[Site, Float[Tensor, "batch pos _"]]
) -> Float[Tensor, "batch pos feature"]:
    """All features of a part, for the inputs of real tokens."""
    values = part.activations(inputs)
    if patch.dictionary.skip_first:
        values[:, 0] = 0
    return values


def _unedited(
    patch: Patch, part: Part, rows: slice, *, like: Float[Tensor, "batch pos feature"]
) -> Float[Tensor, "batch pos feature"]:
    """1 where a plan leaves a feature alone, 0 where it edits it."""
    mask = torch.ones_like(like)
    if part.name in patch.edits:
        edits = patch.edits[part.name]
        columns = slice(patch.clean.padding, patch.clean.padding + like.shape[1])
        own = ((edits.factor != 1) | (edits.offset != 0))[rows, columns]
        mask[:, :, edits.index.to(mask.device)] = (~own).to(mask)
    return mask


def centred(model: Model, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
    """Logits before any soft cap, less their mean: what a graph's logit nodes stand for."""
    cap = model.family.logit_soft_cap
    logits = logits.double()
    if cap is not None:
        logits = cap * torch.atanh((logits / cap).clamp(-1 + 1e-12, 1 - 1e-12))
    return logits - logits.mean()


def _distribution(model: Model, log_probabilities: Float[Tensor, " vocab"], ids: list[int]) -> Distribution:
    ordered = sorted(ids, key=lambda token: (-float(log_probabilities[token]), token))
    return Distribution(
        tokens=tuple(token_text(model, token) for token in ordered),
        ids=tuple(ordered),
        probabilities=tuple(float(log_probabilities[token].exp()) for token in ordered),
    )
