"""`thoughtscope curves`: the figures of trainings against tokens, as a page that follows them or as one HTML file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from thoughtscope.cli.console import emit, make_folder, printable, written
from thoughtscope.cli.options import Json, NoBrowser, Port
from thoughtscope.core.errors import ThoughtscopeError


def curves(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER…", help="Folders of trainings, or of folders of trainings."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the curves to this HTML file; serve nothing.")
    ] = None,
    port: Port = 8322,
    no_browser: NoBrowser = False,
    as_json: Json = False,
) -> None:
    """Serves the page until Ctrl-C, or writes the file."""
    from thoughtscope.reports import build_curves
    from thoughtscope.training.log import find_runs

    for folder in folders:
        if not folder.is_dir():
            raise ThoughtscopeError(f'There is no folder "{printable(str(folder))}".')
    if out is not None:
        if out.suffix.lower() not in (".html", ".htm"):
            raise ThoughtscopeError(f'The curves are an HTML file; "{out}" should end in .html.')
        made = make_folder(out)
        page = build_curves(find_runs(folders))
        path = page.save(out)
        if as_json:
            emit({"curves": str(path), "runs": [run["name"] for run in page.runs]})
        else:
            print(f"{written(path, made)}\n{len(page.runs)} trainings. Open it in any browser.")
        return
    from thoughtscope.server.curves import serve_curves

    logging.basicConfig(level=logging.WARNING, format="thoughtscope: %(message)s")

    def announce(link: str) -> None:
        if as_json:
            emit({"url": link})
        else:
            print(f"Curves at  {printable(link)}\nStop it with Ctrl-C.", flush=True)

    serve_curves(folders, port=port, browser=not no_browser, announce=announce)
