"""`intervene`: run the model with a plan's edits in place, and compare with the run without them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries.dictionary import Dictionary, check_fits
from thoughtscope.dictionaries.features import encode
from thoughtscope.graphs.targets import token_id
from thoughtscope.interventions.clean import clean_run
from thoughtscope.interventions.control import random_control
from thoughtscope.interventions.measuring import feature_changes, measure
from thoughtscope.interventions.outcome import Control, FeatureChange, Outcome
from thoughtscope.interventions.patch import Patch
from thoughtscope.interventions.plans import Plan
from thoughtscope.models.capture import capture
from thoughtscope.models.generation import end_tokens, generate
from thoughtscope.models.hooks import hooked, run
from thoughtscope.models.model import Model
from thoughtscope.models.tokens import Tokens, describe

Answer = str | int | None


def intervene(
    model: Model,
    dictionary: Dictionary,
    tokens: Tokens,
    plan: Plan,
    *,
    answer: Answer = None,
    max_new_tokens: int = 0,
    cache: bool = True,
    top: int = 10,
    changes: int = 20,
) -> Outcome:
    """What the model answers under `plan`, next to what it answers without.

    The model is the real one, with everything that the dictionary does not explain: an edited feature's change of
    activation times its decoder rows is added at each site that the feature writes to. What an edit starts from:

    - in the running model, the activation `a` that the feature has in the edited pass itself;
    - `set` and `ablate` end at their value; `add` ends at `a + value`;
    - `scale` ends at `value` times the unedited run's activation when attention is frozen, and at `value * a` when
      attention is free, and on generated tokens always;
    - in constrained layers `a` is the unedited run's activation throughout, as the MLP's output is.

    Frozen attention and constrained layers concern the prompt; generated tokens run free, and edits with `start` (or
    without positions) act on them too. `answer` is a token (text or id), the model's own first choice unless given;
    `top` tokens and `changes` features are listed.

    Raises `UnknownFeature` and `InvalidPlan` for a plan that cannot be carried out, `DictionaryMismatch` for a
    dictionary that does not fit, `LimitExceeded` for too many new tokens.
    Source: Ameisen et al. 2025, "Circuit Tracing" (constrained patching, steering by multiples of the activation).
    """
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "cache": cache,
        "top": top,
        "changes": changes,
    }
    return intervene_many(model, dictionary, tokens, [plan], answer=answer, **options)[0]


@torch.no_grad()
def intervene_many(
    model: Model,
    dictionary: Dictionary,
    tokens: Tokens,
    plans: Sequence[Plan],
    *,
    answer: Answer | Sequence[Answer] = None,
    max_new_tokens: int = 0,
    cache: bool = True,
    top: int = 10,
    changes: int = 20,
    batch: int = 32,
    progress: Progress = silent,
) -> list[Outcome]:
    """`intervene` for many plans on one prompt: one unedited run for all, and `batch` plans in a forward pass.

    `answer` may be one for all plans or a list with one for each. Batched rows agree with `intervene` up to rounding.
    `changes=0` leaves out the changes of other features, the costly part for large dictionaries.
    """
    check_fits(dictionary, model)
    _check_counts(max_new_tokens=(max_new_tokens, 0), top=(top, 1), changes=(changes, 0), batch=(batch, 1))
    answers = _answers(model, answer, len(plans))
    length = int(tokens.mask[0].sum())
    for plan in plans:
        check_plan(plan, dictionary, length, max_new_tokens, n_layers=model.n_layers)
    progress("intervene", 0, len(plans))
    clean = clean_run(model, dictionary, tokens, plans)
    (unedited,) = _continue(model, tokens, max_new_tokens, cache)
    outcomes: dict[int, Outcome] = {}
    progress("intervene", 0, len(plans))
    for numbers in _batches(plans, batch):
        together, columns = [plans[number] for number in numbers], tokens.ids.shape[1] + max_new_tokens
        patch = Patch(model, dictionary, clean, together, columns=columns, watch=changes > 0)
        logits, moved, texts = _edited(patch, max_new_tokens, cache, changes)
        for row, number in enumerate(numbers):
            outcomes[number] = measure(
                model,
                clean,
                plans[number],
                logits[row],
                answer=answers[number],
                top=top,
                changes=moved[row],
                generations=(unedited, texts[row]),
            )
        progress("intervene", len(outcomes), len(plans))
    return [outcomes[number] for number in range(len(plans))]


def intervene_controlled(
    model: Model,
    dictionary: Dictionary,
    tokens: Tokens,
    plan: Plan,
    *,
    draws: int = 4,
    answer: Answer = None,
    max_new_tokens: int = 0,
    progress: Progress = silent,
) -> Outcome:
    """`intervene` with `Outcome.control`: the same with random features of equal strength, `draws` times.

    The draws share the plan's forward pass. They are the same each time (seeds 0, 1, …). Where none can be drawn,
    `control.reason` says why. Raises what `intervene` raises.
    """
    _check_counts(draws=(draws, 1))
    check_fits(dictionary, model)
    check_plan(plan, dictionary, int(tokens.mask[0].sum()), max_new_tokens, n_layers=model.n_layers)
    controls, reason = _controls(model, dictionary, tokens, plan, draws)
    outcome, *others = intervene_many(
        model,
        dictionary,
        tokens,
        [plan, *controls],
        answer=answer,
        max_new_tokens=max_new_tokens,
        progress=progress,
    )
    changes = tuple(other.logit_change for other in others)
    return replace(outcome, control=Control(changes=changes, reason=reason))


def _controls(
    model: Model, dictionary: Dictionary, tokens: Tokens, plan: Plan, draws: int
) -> tuple[list[Plan], str | None]:
    """Random stand-ins for the plan, or none and the reason."""
    if not plan.edits:
        return [], "The plan changes nothing."
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    try:
        return [random_control(dictionary, plan, features, seed=seed) for seed in range(draws)], None
    except InvalidPlan as refusal:
        return [], str(refusal)


def check_plan(
    plan: Plan, dictionary: Dictionary, length: int, max_new_tokens: int = 0, *, n_layers: int
) -> None:
    """Refuses a plan that this dictionary or this prompt of `length` tokens cannot carry out.

    Raises `UnknownFeature` for a part or an index that does not exist, `InvalidPlan` for a position outside the text.
    """
    end = length + max_new_tokens
    for edit in plan.feature_edits:
        dictionary.check_feature(edit.part, edit.index)
        if dictionary.part(edit.part).looks_ahead and edit.op in ("set", "scale", "ablate"):
            if max_new_tokens and any(map(edit.covers, range(length, end))):
                raise InvalidPlan(
                    f"Feature {edit.part}/{edit.index} reads later than it writes, so its activation on a token that "
                    'is being generated is not known. Give positions of the prompt, or use "add".'
                )
    for each in plan.edits:
        last = max([*(each.positions or ()), each.start or 0])
        if last >= end:
            raise InvalidPlan(
                f"Position {last} is outside the text: the prompt has positions 0 to {length - 1}"
                + (f", with {max_new_tokens} new tokens up to {end - 1}." if max_new_tokens else ".")
            )
    if plan.constrained is not None and plan.constrained[1] >= n_layers:
        allowed = f"allowed are layers 0 to {n_layers - 1}"
        raise InvalidPlan(f"constrained={plan.constrained} goes past the last layer; {allowed}.")


def _check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if value < least:
            raise InvalidPlan(f"{name} must be {least} or more; got {value}.")


def _answers(model: Model, answer: Answer | Sequence[Answer], n_plans: int) -> list[int | None]:
    """One answer's id for each plan. Raises `ThoughtscopeError` for one that is not a token."""
    single = answer is None or isinstance(answer, (str, int))
    answers: list[Any] = [answer] * n_plans if single else list(answer)  # type: ignore[arg-type]
    if len(answers) != n_plans:
        raise InvalidPlan(f"{n_plans} plans need one answer, or a list of {n_plans}; got {len(answers)}.")
    return [None if each is None else token_id(model, each) for each in answers]


def _batches(plans: Sequence[Plan], size: int) -> Iterator[list[int]]:
    """Numbers of plans that can share a forward pass: of one kind, and those without edits by themselves."""
    kinds: dict[object, list[int]] = {}
    for number, plan in enumerate(plans):
        kinds.setdefault((plan.attention, plan.constrained) if plan.edits else None, []).append(number)
    for kind, numbers in kinds.items():
        step = size if kind is not None else 1
        yield from (numbers[at : at + step] for at in range(0, len(numbers), step))


def _edited(
    patch: Patch, max_new_tokens: int, cache: bool, changes: int
) -> tuple[Float[Tensor, "batch vocab"], list[tuple[FeatureChange, ...]], list[str | None]]:
    """The logits after the prompt, the changed features, and the continuations, a row for each plan."""
    model, tokens, rows = patch.model, patch.clean.tokens, len(patch.plans)
    many = replace(
        tokens,
        ids=tokens.ids.expand(rows, -1),
        mask=tokens.mask.expand(rows, -1),
        texts=tokens.texts * rows,
        pieces=tokens.pieces * rows,
        offsets=tokens.offsets * rows,
        turns=tokens.turns * rows,
    )
    with hooked(model, reads=patch.reads, writes=patch.writes, norm_scales=patch.norm_scales):
        logits = run(model, many.ids, many.mask)
        assert logits is not None
        logits = logits[:, -1]
        if not bool(logits.isfinite().all()):
            raise InvalidPlan("The edits drive the model's logits to infinity or NaN. Use smaller values.")
        moved = feature_changes(patch, changes)
        texts = _continue(model, many, max_new_tokens, cache)
    return logits, moved, texts


def _continue(model: Model, tokens: Tokens, max_new_tokens: int, cache: bool) -> list[str | None]:
    """The greedy continuation of each row, up to its own end token: rows that end early are carried along."""
    if max_new_tokens == 0:
        return [None] * len(tokens)
    longer = generate(model, tokens, max_new_tokens=max_new_tokens, cache=cache)
    ends = end_tokens(model)
    told = [
        takewhile(lambda token: token not in ends, ids)
        for ids in longer.ids[:, tokens.ids.shape[1] :].tolist()
    ]
    return [describe(model, list(ids))[0] for ids in told]
