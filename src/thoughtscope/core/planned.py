"""Folders that are filled piece by piece, by a plan that decides every byte: whoever goes on must want the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.files import exclusive, writing
from thoughtscope.core.store import Artefact, is_artefact, load_artefact, save_artefact


def begin_or_go_on(
    home: Path,
    plan: Mapping[str, Any],
    *,
    kind: str,
    noun: str,
    plan_of: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    meta: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Writes the plan (beside `meta`) as the folder's own manifest, or compares it with the one that is there.

    `plan_of` reads it from a manifest's meta. `noun` is what the folder holds, in messages.
    Raises `ThoughtscopeError` naming what differs, and `NotWritten` when the disk is full.
    """
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    with exclusive(home):
        if not is_artefact(home, kind=kind):
            whole = {"plan": dict(plan), **(meta or {})}
            save_artefact(home, kind=kind, tensors={}, meta=whole, provenance=provenance)
            return
        here = plan_of(load_artefact(home, kind=kind, verify="size").meta)
    other = [f"{name} {was!r}, now {plan[name]!r}" for name, was in here.items() if was != plan[name]]
    if other:
        raise ThoughtscopeError(
            f"{home} holds another {noun}: {'; '.join(other)}. Ask for the same, or name a new folder."
        )


def finished_piece(path: Path, *, kind: str) -> Artefact | None:
    """A piece that is written, or None where there is none or not a whole one."""
    try:
        return load_artefact(path, kind=kind, verify="size")
    except CorruptArtefact:
        return None
