"""`compare`: labels scored beside those that cost nothing: the strongest tokens, and another feature's label."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from thoughtscope.assistants import Assistant, Prices, only_here
from thoughtscope.assistants.asking import Consent
from thoughtscope.atlas.explaining.baselines import shuffled, unigram_label
from thoughtscope.atlas.explaining.contexts import Contexts
from thoughtscope.atlas.explaining.inside import embedding_scores, surprisal_scores
from thoughtscope.atlas.explaining.scorers import Detection, Fuzzing, Scorer, Simulation, score
from thoughtscope.atlas.explaining.scores import Case, Score, averaged
from thoughtscope.core.errors import ThoughtscopeError, describe_choices
from thoughtscope.core.progress import Progress, silent

if TYPE_CHECKING:
    from thoughtscope.models import Model

Key = TypeVar("Key", bound=Hashable)
ASKING = {"detection": Detection, "fuzzing": Fuzzing, "simulation": Simulation}
"""Scorers that ask an assistant."""
INSIDE: Mapping[str, Callable[..., list[Score]]] = {
    "embedding": embedding_scores,
    "surprisal": surprisal_scores,
}
"""Scorers that run a model of this process."""
Scores = dict[str, dict[Key, dict[str, Score]]]
"""By what the label is (an author's, the same exchanged, `unigram`), by feature, by scorer."""


def compare(
    labels: Mapping[str, Mapping[Key, str]],
    contexts: Mapping[Key, Contexts],
    *,
    scorers: Sequence[str | Scorer] = ("detection",),
    assistant: Assistant | None = None,
    model: Model | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    prices: Prices | None = None,
    consent: Consent = only_here,
    progress: Progress = silent,
) -> Scores[Key]:
    """The scores of each author's labels, of the same labels exchanged (from two on), and of every unigram label.

    All are tested on the same contexts, in one call of `ask`. `assistant` answers the scorers that ask, `model` is
    what the others run. Raises `ThoughtscopeError` for a scorer that is unknown or has not what it needs, and as `ask`
    does.
    """
    asking, inside = _parted(scorers, assistant, model)
    kinds = {author: dict(own) for author, own in labels.items()}
    kinds |= {f"{author}, shuffled": shuffled(own, seed) for author, own in labels.items() if len(own) > 1}
    labelled = {key for own in labels.values() for key in own}
    kinds["unigram"] = {
        key: unigram_label(each.explaining)
        for key, each in contexts.items()
        if key in labelled and each.explaining
    }
    places = [(kind, key) for kind, texts in kinds.items() for key in texts]
    cases = [Case(label=kinds[kind][key], contexts=contexts[key].scoring) for kind, key in places]
    found: list[dict[str, Score]] = [{} for _ in cases]
    if asking and assistant is not None:
        found = score(
            assistant, asking, cases, folder=folder, prices=prices, consent=consent, progress=progress
        )
    for name in inside:
        for scores, each in zip(found, INSIDE[name](model, cases, progress=progress), strict=True):
            scores[name] = each
    by_kind: Scores[Key] = {kind: {} for kind in kinds}
    for (kind, key), scores in zip(places, found, strict=True):
        by_kind[kind][key] = scores
    return by_kind


def averages(scores: Scores[Key]) -> dict[str, dict[str, dict[str, Any]]]:
    """`averaged` by kind of label and scorer."""
    return {
        kind: {
            name: averaged([each[name] for each in features.values()])
            for name in next(iter(features.values()), {})
        }
        for kind, features in scores.items()
    }


def _parted(
    scorers: Sequence[str | Scorer], assistant: Assistant | None, model: Model | None
) -> tuple[list[Scorer], list[str]]:
    """The scorers that ask, and the names of those that do not."""
    asking: list[Scorer] = []
    inside: list[str] = []
    for each in scorers:
        if not isinstance(each, str):
            asking.append(each)
        elif each in ASKING:
            asking.append(ASKING[each]())
        elif each in INSIDE:
            inside.append(each)
        else:
            raise ThoughtscopeError(describe_choices(each, [*ASKING, *INSIDE], what="scorer"))
    if asking and assistant is None:
        raise ThoughtscopeError(
            f"{asking[0].name.capitalize()} asks an assistant, and none was named. Name one, or score by "
            f"{' or '.join(INSIDE)}."
        )
    if inside and model is None:
        raise ThoughtscopeError(f"{inside[0].capitalize()} runs a model, and none was given.")
    return asking, inside
