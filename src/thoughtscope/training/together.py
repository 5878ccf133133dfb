"""`train_together`: several dictionaries from one pass of the model over the text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries import Dictionary, with_self_test
from thoughtscope.dictionaries.documents import Document
from thoughtscope.training.data.sources import Source, source_of
from thoughtscope.training.ranks import Ranks, ranks_here
from thoughtscope.training.recipe import Recipe
from thoughtscope.training.run import Run, finished, harvest_stream, whole_batches, with_head

if TYPE_CHECKING:
    from thoughtscope.models import Model


def train_together(
    model: Model,
    documents: Source | str | Iterable[Document] | Callable[[], Iterable[Document]],
    recipes: Mapping[str, Recipe],
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
    ranks: Ranks | None = None,
) -> dict[str, Dictionary]:
    """Trains a dictionary for each recipe on the same batches: the model runs once for all. By name, as `recipes` is.

    Each has its own folder in `folder` and is what `train_dictionary` makes of its recipe alone, as far as the batches
    are the same: recipes share `schedule.batch`, `data` and `seed`. What was killed goes on, each from its own step.
    Raises `ThoughtscopeError` where recipes differ in these, and as `train_dictionary` does.
    """
    first = _alike(recipes)
    ranks = ranks or ranks_here(model.device)
    sites = tuple(dict.fromkeys(model.site(site) for recipe in recipes.values() for site in recipe.sites))
    source, tested = with_head(source_of(documents, model))
    stream = harvest_stream(model, source, sites, first, ranks)
    with ExitStack() as stack:
        runs = {
            name: Run(
                stack, stream, recipe, folder=None if folder is None else Path(folder) / name, name=name,
                trackers=(), progress=progress, device=model.device, about=lambda: {"tested": tested()}, ranks=ranks,
            )
            for name, recipe in recipes.items()
        }  # fmt: skip
        open_runs = [run for run in runs.values() if not run.over]
        if any(run.state is None for run in open_runs):
            _ = stream.moments  # before the first batch: of documents that come once, this is a look ahead
        step = min((run.step for run in open_runs), default=0)
        for batch in whole_batches(stream, ranks, step, model.device) if open_runs else ():
            for run in open_runs:
                if run.step == step and not run.over:
                    run.take(batch)
            step += 1
            if all(run.over for run in open_runs):
                break
    made = {}
    for name, run in runs.items():
        assert run.state is not None
        dictionary = finished(run.state, name=name, model_name=model.name)
        made[name] = with_self_test(model, dictionary, run.state.about["tested"])
    return made


def _alike(recipes: Mapping[str, Recipe]) -> Recipe:
    """The first recipe, if the others take the same batches."""
    if not recipes:
        raise ThoughtscopeError("There is no recipe to train. Give one or more, by name.")
    (name, first), *others = recipes.items()
    for other, recipe in others:
        for what in ("schedule.batch", "data", "seed"):
            mine, its = (_value(each, what) for each in (first, recipe))
            if mine != its:
                raise ThoughtscopeError(
                    f"Dictionaries that are trained together take the same batches, but {what} is {mine} for {name} "
                    f"and {its} for {other}."
                )
    return first


def _value(recipe: Recipe, what: str) -> object:
    value: object = recipe
    for name in what.split("."):
        value = getattr(value, name)
    return value
