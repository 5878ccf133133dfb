"""`train_into`: a training in a folder of its own, from the recipe to the saved dictionary, and what lies there.

folder/
  recipe.json      the recipe; `thoughtscope train folder/recipe.json` trains by it again
  run.json         the model and the documents or the store that it is trained on
  metrics.jsonl    figures, some hundred lines
  state/           the last checkpoint
  dictionary/      at the end, in the native layout
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.files import atomic_write_text, exclusive, read_file, writing
from thoughtscope.core.parsing import strict_json
from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries import Dictionary, load_dictionary, save_dictionary
from thoughtscope.dictionaries.formats import FORMATS
from thoughtscope.models.loading import device_named
from thoughtscope.training.data.store import Store, StoreStream
from thoughtscope.training.recipe import Recipe
from thoughtscope.training.run import CHECKPOINT, finished, train, train_dictionary

if TYPE_CHECKING:
    from thoughtscope.models import Model

RECIPE, RUN, DICTIONARY = "recipe.json", "run.json", "dictionary"
_LARGEST = 2**20  # bytes of run.json


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a training is of: a state goes on with the same alone."""

    model: str
    data: str
    """The spelling of the source of documents, or "store:FOLDER"."""


def train_into(
    folder: str | os.PathLike[str],
    recipe: Recipe,
    *,
    model: Model | None = None,
    data: str | None = None,
    store: Store | None = None,
    name: str | None = None,
    trackers: Iterable[str] = (),
    progress: Progress = silent,
    device: str | None = None,
) -> Dictionary:
    """Trains by a recipe on documents (`data`, a spelling of `parse_source`) or on a store, and saves the dictionary.

    The same call goes on where a stopped one was, and reads a finished one.
    Raises what `train_dictionary` does, and `ThoughtscopeError` where the folder holds another training.
    """
    home = Path(folder)
    if store is not None:
        origin = Origin(model=store.plan.model, data=f"store:{store.path}")
        recipe = fitted(recipe, store)
    elif model is not None and data is not None:
        origin = Origin(model=model.name, data=data)
    else:
        raise ThoughtscopeError("A training needs a model and documents, or a store of activations.")
    _claim(home, recipe, origin)
    made = home / DICTIONARY
    if store is not None:
        trained = train_on_store(
            store, recipe, folder=home, name=name, trackers=trackers, progress=progress, device=device
        )
    else:
        assert model is not None and data is not None
        trained = train_dictionary(
            model, data, recipe, folder=home, name=name, trackers=trackers, progress=progress
        )
    if FORMATS["native"].matches(made):
        return load_dictionary(made)
    save_dictionary(trained, made)
    return trained


def train_on_store(
    store: Store,
    recipe: Recipe,
    *,
    folder: str | os.PathLike[str] | None = None,
    name: str | None = None,
    trackers: Iterable[str] = (),
    progress: Progress = silent,
    device: torch.device | str | None = None,
) -> Dictionary:
    """`train_dictionary` on the activations in a store: no model runs; on the best device unless one is named.

    Contexts, first positions and the type of the rows are the store's, whatever the recipe says of them. There is no
    self-test, for which the model is needed: see `with_self_test`.
    """
    recipe = fitted(recipe, store)
    chosen = device_named(device)
    stream = StoreStream(store, recipe.sites, batch=recipe.schedule.batch, seed=recipe.seed, device=chosen)
    name = name or f"{store.plan.model}/{recipe.parts[0].name}"
    state = train(
        stream, recipe, folder=folder, name=name, trackers=trackers, progress=progress, device=chosen
    )
    return finished(state, name=name, model_name=store.plan.model)


def fitted(recipe: Recipe, store: Store) -> Recipe:
    """The recipe with what a store has decided already."""
    plan = store.plan
    return recipe.replaced(
        {"data.context": plan.context, "data.skip_first": plan.skip_first, "data.rows": plan.dtype}
    )


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Whether a training's folder holds its dictionary."""
    return FORMATS["native"].matches(Path(folder) / DICTIONARY)


def origin_of(folder: str | os.PathLike[str]) -> Origin | None:
    """What the training in a folder is of; None where there is none. Raises `CorruptArtefact`."""
    path = Path(folder) / RUN
    try:
        data = strict_json(read_file(path, limit=_LARGEST), str(path))
        return Origin(**data)
    except FileNotFoundError:
        return None
    except TypeError:
        raise CorruptArtefact(f"{path} does not say what was trained. Name another folder.") from None


def _claim(home: Path, recipe: Recipe, origin: Origin) -> None:
    """Writes what is trained here, or compares it with what is."""
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    with exclusive(home, patience=0.0):
        here = origin_of(home)
        if here is None or not os.path.lexists(home / CHECKPOINT):  # nothing of it was kept
            atomic_write_text(home / RECIPE, json.dumps(recipe.model_dump(mode="json"), indent=1) + "\n")
            atomic_write_text(home / RUN, json.dumps(asdict(origin), indent=1) + "\n")
        elif here != origin:
            raise ThoughtscopeError(
                f"{home} holds a training of {here.model} on {here.data}; this one is of {origin.model} on "
                f"{origin.data}. Name another folder."
            )
