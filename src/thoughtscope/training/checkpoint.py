"""A training's state on disk: saved as a whole or not at all, and read back to the bit."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.core.store import MANIFEST, Artefact, load_artefact, save_artefact
from thoughtscope.training.recipe import Recipe
from thoughtscope.training.state import State
from thoughtscope.training.weights import PartLayout, Scaling

KIND = "training"


def save_state(state: State, folder: Path) -> None:
    """Writes the state as an artefact, in place of an older one as a whole; a killed or failed save leaves that one.

    Raises `NotWritten` for a full disk.
    """
    tensors: dict[str, Mapping[str, Tensor]] = {
        "weights": state.weights,
        "mean": state.adam.mean,
        "square": state.adam.square,
        "idle": {part.name: part.idle for part in state.parts},
        "scaling": {f"mean/{site}": mean for site, mean in state.scaling.mean.items()},
    }
    meta = {
        "recipe": state.recipe.model_dump(mode="json"),
        "step": state.step,
        "seconds": state.seconds,
        "adam_steps": state.adam.steps,
        "threshold": {part.name: part.threshold for part in state.parts},
        "cut": {part.name: part.cut for part in state.parts},
        "unit": {str(site): unit for site, unit in state.scaling.unit.items()},
        "widths": {str(site): len(mean) for site, mean in state.scaling.mean.items()},
        "about": state.about,
    }
    save_artefact(folder, kind=KIND, tensors=tensors, meta=meta)


def load_state(
    folder: Path, wanted: Recipe | None = None, *, device: torch.device | str = "cpu"
) -> State | None:
    """The state in `folder`; None where there is none.

    Raises `ThoughtscopeError` naming what differs when it is of another recipe than `wanted`, `CorruptArtefact` for a
    damaged one: a training does not start over on its own.
    """
    if not os.path.lexists(folder / MANIFEST):
        return None
    artefact = load_artefact(folder, kind=KIND)
    try:
        found = Recipe.of(**artefact.meta["recipe"])
        if wanted is not None and (changed := _changed(found, wanted)):
            raise ThoughtscopeError(
                f"{folder} was trained with another {', '.join(changed)}. Use another folder, or delete it."
            )
        return _state(artefact, found, device)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ThoughtscopeError):
            raise
        raise CorruptArtefact(f"{folder} is a training with an unreadable manifest: {error!r}.") from None


def _state(artefact: Artefact, found: Recipe, device: torch.device | str) -> State:
    meta = artefact.meta

    def read(file: str) -> dict[str, Tensor]:
        return {name: tensor.clone().to(device) for name, tensor in artefact.tensors(file).items()}

    widths = {Site.parse(site): width for site, width in meta["widths"].items()}
    means = read("scaling")
    scaling = Scaling(
        mean={site: means[f"mean/{site}"] for site in widths},
        unit={Site.parse(site): unit for site, unit in meta["unit"].items()},
    )
    layouts = [PartLayout.of(part, widths) for part in found.parts]
    state = State(found, layouts, read("weights"), scaling)
    state.adam.mean, state.adam.square = read("mean"), read("square")
    state.adam.steps, state.step, state.seconds = meta["adam_steps"], meta["step"], meta["seconds"]
    state.about = meta["about"]
    for part, idle in zip(state.parts, _in_order(read("idle"), state), strict=True):
        part.idle = idle
        part.threshold, part.cut = meta["threshold"][part.name], meta["cut"][part.name]
    return state


def _in_order(by_name: Mapping[str, Tensor], state: State) -> Sequence[Tensor]:
    return [by_name[part.name] for part in state.parts]


def _changed(found: Recipe, wanted: Recipe) -> list[str]:
    """The values that two recipes differ in, but for how often they are saved."""
    a, b = _flat(found.model_dump()), _flat(wanted.model_dump())
    return sorted(
        name for name in a.keys() | b.keys() if a.get(name) != b.get(name) and name != "checkpoint_minutes"
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
