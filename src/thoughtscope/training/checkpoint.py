"""A training's state on disk: saved as a whole or not at all, and read back to the bit, by any number of processes.

    state/
      manifest.json                  step, recipe, thresholds; which features are in which file; the hash of each file
      features-0-….safetensors       rows of features: weights, Adam's moments, how long silent; one file a rank
      sites-….safetensors            what belongs to sites

A rank writes its own file, and reads the rows of its features from whichever files hold them, so what N ranks saved
goes on with M. This is no `torch.distributed.checkpoint`: its file format pickles the metadata, and its safetensors
format has no hashes and replaces nothing as a whole, so that a killed save leaves neither the old state nor the new.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.core.store import MANIFEST, Artefact, load_artefact, save_artefact
from thoughtscope.training.ranks import Ranks, rows_of
from thoughtscope.training.recipe import Recipe
from thoughtscope.training.state import State
from thoughtscope.training.weights import PartLayout, Scaling, per_feature

KIND = "training"
SITES = "sites"


def save_state(state: State, folder: Path) -> None:
    """Writes the state as an artefact, in place of an older one as a whole; a killed or failed save leaves that one.

    Every rank of the state calls it. Raises `NotWritten` for a full disk.
    """
    ranks, n = state.ranks, state.recipe.n_features
    tensors: dict[str, Mapping[str, Tensor]] = {_file(ranks.rank): _held(state, of_features=True)}
    if ranks.first:
        means = {f"scaling/{site}": mean for site, mean in state.scaling.mean.items()}
        tensors[SITES] = _held(state, of_features=False) | means
    meta = {
        "recipe": state.recipe.model_dump(mode="json"),
        "step": state.step,
        "seconds": state.seconds,
        "adam_steps": state.adam.steps,
        "threshold": {part.name: part.threshold for part in state.parts},
        "cut": {part.name: part.cut for part in state.parts},
        "unit": {str(site): unit for site, unit in state.scaling.unit.items()},
        "widths": {str(site): len(mean) for site, mean in state.scaling.mean.items()},
        "shards": [
            [rows.start, rows.stop] for rows in (rows_of(n, r, ranks.world) for r in range(ranks.world))
        ],
        "about": state.about,
    }
    save_artefact(folder, kind=KIND, tensors=tensors, meta=meta, writers=ranks)


def _file(rank: int) -> str:
    return f"features-{rank}"


def _held(state: State, *, of_features: bool) -> dict[str, Tensor]:
    """Weights and moments that have a row a feature, or those that have not; how long features are silent."""
    by_kind = {"weights": state.weights, "mean": state.adam.mean, "square": state.adam.square}
    held = {
        f"{kind}/{name}": tensor
        for kind, tensors in by_kind.items()
        for name, tensor in tensors.items()
        if per_feature(name) == of_features
    }
    return held | ({f"idle/{part.name}": part.idle for part in state.parts} if of_features else {})


def load_state(
    folder: Path,
    wanted: Recipe | None = None,
    *,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
) -> State | None:
    """The state in `folder`; None where there is none. Of several `ranks`, each reads the rows of its own features.

    Raises `ThoughtscopeError` naming what differs when it is of another recipe than `wanted`, `CorruptArtefact` for a
    damaged one: a training does not start over on its own.
    """
    if not os.path.lexists(folder / MANIFEST):
        return None
    artefact = load_artefact(folder, kind=KIND, verify="size")  # what is read is checked as it is opened
    try:
        found = Recipe.of(**artefact.meta["recipe"])
        if wanted is not None and (changed := _changed(found, wanted)):
            raise ThoughtscopeError(
                f"{folder} was trained with another {', '.join(changed)}. Use another folder, or delete it."
            )
        return _state(artefact, found, device, ranks or Ranks())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ThoughtscopeError):
            raise
        raise CorruptArtefact(f"{folder} is a training with an unreadable manifest: {error!r}.") from None


def _state(artefact: Artefact, found: Recipe, device: torch.device | str, ranks: Ranks) -> State:
    meta = artefact.meta
    sites = {name: tensor.clone() for name, tensor in artefact.checked(SITES).items()}
    held = sites | _own_rows(artefact, found, ranks.rows(found.n_features))

    def of(kind: str) -> dict[str, Tensor]:
        start = f"{kind}/"
        return {name.removeprefix(start): x.to(device) for name, x in held.items() if name.startswith(start)}

    widths = {Site.parse(site): width for site, width in meta["widths"].items()}
    means = of("scaling")
    scaling = Scaling(
        mean={site: means[str(site)] for site in widths},
        unit={Site.parse(site): unit for site, unit in meta["unit"].items()},
    )
    layouts = [PartLayout.of(part, widths) for part in found.parts]
    state = State(found, layouts, of("weights"), scaling, ranks)
    state.adam.mean, state.adam.square = of("mean"), of("square")
    state.adam.steps, state.step, state.seconds = meta["adam_steps"], meta["step"], meta["seconds"]
    state.about = meta["about"]
    idle = of("idle")
    for part in state.parts:
        part.idle = idle[part.name]
        part.threshold, part.cut = meta["threshold"][part.name], meta["cut"][part.name]
    return state


def _own_rows(artefact: Artefact, found: Recipe, own: range) -> dict[str, Tensor]:
    """The rows `own` of everything that has a row a feature, from whichever shards hold them."""
    shards = [range(*shard) for shard in artefact.meta["shards"]]
    ends = [0, *(shard.stop for shard in shards)]
    files = {_file(number) for number in range(len(shards))} | {SITES}
    if (
        [shard.start for shard in shards] != ends[:-1]
        or ends[-1] != found.n_features
        or files != set(artefact.files)
    ):
        raise CorruptArtefact(
            f"{artefact.path}: the shards {artefact.meta['shards']} in {sorted(artefact.files)} are not the "
            f"{found.n_features} features once each."
        )
    pieces: dict[str, list[Tensor]] = {}
    for number, shard in enumerate(shards):
        first, last = max(own.start, shard.start), min(own.stop, shard.stop)
        if first < last or (not own and number == 0):  # who has no rows still has their shape
            file = artefact.checked(_file(number))
            for name in file:
                rows = file.slice(name)[max(0, first - shard.start) : max(0, last - shard.start)]
                pieces.setdefault(name, []).append(rows)
    return {name: torch.cat(rows) for name, rows in pieces.items()}


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
