"""`thoughtscope convert`: dictionaries between published layouts, graph files between viewers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtscope.cli.console import check_out, emit, printable
from thoughtscope.cli.options import Json
from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Conversion


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
    store: Annotated[
        str | None,
        typer.Option(
            help="For dictionaries: the number type of matrices (float32, bfloat16, float16, int8)."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="For dictionaries: measure the reconstruction error in this model."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """A `.json` source is a graph file, anything else a dictionary. For a dictionary, prints what it cost."""
    lost = None
    if source.lower().endswith(".json"):
        if store or model:
            raise ThoughtscopeError("--store and --model are for dictionaries; this is a graph file.")
        from thoughtscope.graphs import convert_graph

        check_out(target)

        convert_graph(source, target, format=to, scan=scan, slug=slug)
        kind = "graph"
    else:
        if scan or slug:
            raise ThoughtscopeError("--scan and --slug are for graph files; this is a dictionary.")
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ThoughtscopeError(f"{target} exists already and is not an empty folder. Name a new one.")
        lost = _convert_dictionary(source, target, to, store=store, model=model)
        kind = "dictionary"
    if as_json:
        measured = {} if lost is None else lost.to_json()
        emit({"kind": kind, "source": source, "written": str(target), "format": to} | measured)
        return
    print(f"Written: {printable(str(target))} ({kind}, {to})")
    if lost is not None:
        print(_told(lost))


def _convert_dictionary(
    source: str, target: Path, to: str, *, store: str | None, model: str | None
) -> Conversion:
    """Writes the dictionary, reads it again, and compares the two."""
    from thoughtscope.dictionaries import compare, load_dictionary, save_dictionary

    loaded = None
    if model is not None:
        from thoughtscope.models import load_model

        loaded = load_model(model)
    before = load_dictionary(source)
    save_dictionary(before, target, format=to, store=store)
    return compare(before, load_dictionary(target, format=to), loaded)


def _told(lost: Conversion) -> str:
    if lost.fvu_before is None or lost.fvu_after is None:
        return (
            f"Its answers differ by {lost.difference:.2g} of their variance. "
            "Name --model for the reconstruction error in it."
        )
    return (
        f"Reconstruction error (FVU, {lost.n_tokens:,} tokens): {lost.fvu_before:.6f} before, {lost.fvu_after:.6f} "
        f"after ({lost.fvu_after - lost.fvu_before:+.2g}). Answers differ by {lost.difference:.2g} of their variance."
    )
