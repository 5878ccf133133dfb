"""`stream_under`: what the model says under a plan, a token at a time."""

from __future__ import annotations

from collections.abc import Iterator

from thoughtscope.dictionaries.dictionary import Dictionary, check_fits
from thoughtscope.interventions.clean import clean_run
from thoughtscope.interventions.patch import Patch
from thoughtscope.interventions.plans import Plan
from thoughtscope.interventions.running import check_plan
from thoughtscope.models.generation import NewTokens, stream
from thoughtscope.models.model import Model
from thoughtscope.models.sampling import Sampling
from thoughtscope.models.tokens import Tokens


def stream_under(
    model: Model,
    dictionary: Dictionary,
    tokens: Tokens,
    plan: Plan,
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    cache: bool = True,
) -> Iterator[NewTokens]:
    """The continuation of one prompt under `plan`, as `intervene` continues it and as `models.stream` gives it.

    Streams of several plans can be drawn from in turn; with one seed they differ by their plans alone.
    Raises `UnknownFeature`, `InvalidPlan`, `DictionaryMismatch` and `LimitExceeded` as `intervene` does, at the call.
    """
    check_fits(dictionary, model)
    length = int(tokens.mask[0].sum())
    check_plan(plan, dictionary, length, max_new_tokens, n_layers=model.n_layers)
    if not plan.edits:
        return stream(model, tokens, max_new_tokens=max_new_tokens, sampling=sampling, cache=cache)
    clean = clean_run(model, dictionary, tokens, [plan])
    columns = tokens.ids.shape[1] + max_new_tokens
    patch = Patch(model, dictionary, clean, [plan], columns=columns, watch=False)
    return stream(
        model,
        tokens,
        max_new_tokens=max_new_tokens,
        reads=patch.reads,
        writes=patch.writes,
        norm_scales=patch.norm_scales,
        sampling=sampling,
        cache=cache,
    )
