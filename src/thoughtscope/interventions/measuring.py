"""From logits and encoder inputs of the unedited and the edited run to the figures of an `Outcome`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.graphs.targets import token_id
from thoughtscope.interventions.clean import CleanRun
from thoughtscope.interventions.outcome import Distribution, FeatureChange, Outcome, confirms
from thoughtscope.interventions.patch import Patch
from thoughtscope.interventions.plans import Plan
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import describe


def measure(
    model: Model,
    clean: CleanRun,
    plan: Plan,
    logits: Float[Tensor, " vocab"],
    *,
    answer: str | int | None,
    top: int,
    changes: tuple[FeatureChange, ...],
    generations: tuple[str | None, str | None],
) -> Outcome:
    """Everything that an outcome says, from the logits after the prompt without and with the plan.

    Raises `ThoughtscopeError` for an answer that is not one token of the model.
    """
    before, after = (x.double().log_softmax(-1) for x in (clean.logits, logits))
    chosen = int(before.argmax()) if answer is None else token_id(model, answer)
    start, end = (float(_centred(model, x)[chosen]) for x in (clean.logits, logits))
    likeliest = [x.topk(min(top, len(x))).indices.tolist() for x in (before, after)]
    shown = list(dict.fromkeys(likeliest[0] + likeliest[1]))
    return Outcome(
        plan=plan,
        prompt=clean.tokens.texts[0],
        before=_distribution(model, before, shown),
        after=_distribution(model, after, shown),
        kl=max(float((before.exp() * (before - after)).sum()), 0.0),
        answer=_text(model, chosen),
        answer_id=chosen,
        rank_before=1 + int((before > before[chosen]).sum()),
        rank_after=1 + int((after > after[chosen]).sum()),
        probability_before=float(before[chosen].exp()),
        probability_after=float(after[chosen].exp()),
        logit_change=end - start,
        feature_changes=changes,
        generation_before=generations[0],
        generation_after=generations[1],
        prediction_confirmed=confirms(plan, chosen, end - start),
    )


def feature_changes(patch: Patch, limit: int) -> list[tuple[FeatureChange, ...]]:
    """For each plan of the patch, the largest changes of activation among the features that it does not edit."""
    rows = len(patch.plans)
    found: list[list[tuple[float, FeatureChange]]] = [[] for _ in range(rows)]
    for layer in range(patch.dictionary.n_layers) if limit else ():
        before, after = _activations(patch, layer)
        difference = (after - before).abs() * _unedited(patch, layer, after)
        top = difference.flatten(1).topk(min(limit, difference[0].numel()))
        for row in range(rows):
            for place, size in zip(top.indices[row].tolist(), top.values[row].tolist(), strict=True):
                if size > 0:
                    position, index = divmod(place, difference.shape[2])
                    old, new = float(before[0, position, index]), float(after[row, position, index])
                    change = FeatureChange(layer=layer, position=position, index=index, before=old, after=new)
                    found[row].append((size, change))
    ordered = (sorted(several, key=lambda pair: -pair[0]) for several in found)
    return [tuple(change for _, change in several[:limit]) for several in ordered]


def _activations(
    patch: Patch, layer: int
) -> tuple[Float[Tensor, "1 pos feature"], Float[Tensor, "batch pos feature"]]:
    """All features of a layer on the prompt's real tokens, without and with the plans."""
    dictionary, padding = patch.dictionary, patch.clean.padding
    inputs = (patch.clean.inputs[layer], patch.inputs[layer])
    before, after = (dictionary.activations(layer, x[:, padding:]) for x in inputs)
    if dictionary.skip_first:
        before[:, 0], after[:, 0] = 0, 0
    return before, after


def _unedited(patch: Patch, layer: int, like: Float[Tensor, "batch pos feature"]) -> Float[Tensor, "batch pos feature"]:
    """1 where a plan leaves a feature alone, 0 where it edits it."""
    mask = torch.ones_like(like)
    if layer in patch.edits:
        edits = patch.edits[layer]
        columns = slice(patch.clean.padding, patch.clean.padding + like.shape[1])
        own = ((edits.factor != 1) | (edits.offset != 0))[:, columns]
        mask[:, :, edits.index.to(mask.device)] = (~own).to(mask)
    return mask


def _centred(model: Model, logits: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
    """Logits before any soft cap, less their mean: what a graph's logit nodes stand for."""
    cap = model.family.logit_soft_cap
    logits = logits.double()
    if cap is not None:
        logits = cap * torch.atanh((logits / cap).clamp(-1 + 1e-12, 1 - 1e-12))
    return logits - logits.mean()


def _distribution(model: Model, log_probabilities: Float[Tensor, " vocab"], ids: list[int]) -> Distribution:
    ordered = sorted(ids, key=lambda token: (-float(log_probabilities[token]), token))
    return Distribution(
        tokens=tuple(_text(model, token) for token in ordered),
        ids=tuple(ordered),
        probabilities=tuple(float(log_probabilities[token].exp()) for token in ordered),
    )


def _text(model: Model, token: int) -> str:
    return describe(model, [token])[1][0]
