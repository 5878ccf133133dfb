"""`thoughtscope convert`: dictionaries between published layouts, graph files between viewers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thoughtscope.cli.console import check_out, emit, printable
from thoughtscope.cli.options import Json
from thoughtscope.core.errors import ThoughtscopeError


def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A dictionary's folder or name, or a graph's JSON file.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="What to write.")],
    to: Annotated[
        str, typer.Option("--format", "-f", help="The layout to write; an unknown one lists them all.")
    ],
    scan: Annotated[
        str | None,
        typer.Option(help="For graphs: the name of the model and dictionary at the other place."),
    ] = None,
    slug: Annotated[str | None, typer.Option(help="For graphs: the name of the graph.")] = None,
    as_json: Json = False,
) -> None:
    """A `.json` source is a graph file, anything else a dictionary."""
    if source.lower().endswith(".json"):
        from thoughtscope.graphs import convert_graph

        check_out(target)

        convert_graph(source, target, format=to, scan=scan, slug=slug)
        kind = "graph"
    else:
        if scan or slug:
            raise ThoughtscopeError("--scan and --slug are for graph files; this is a dictionary.")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ThoughtscopeError(f"{target} exists already and is not an empty folder. Name a new one.")
        from thoughtscope.dictionaries import load_dictionary, save_dictionary

        save_dictionary(load_dictionary(source), target, format=to)
        kind = "dictionary"
    if as_json:
        emit({"kind": kind, "source": source, "written": str(target), "format": to})
    else:
        print(f"Written: {printable(str(target))} ({kind}, {to})")
