"""`thoughtscope report`: one HTML file of a prompt's graph, or of a graph file of any tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from thoughtscope.cli.asking import Answer, Chat, System, asked
from thoughtscope.cli.console import (
    check_out,
    emit,
    make_folder,
    printable,
    progress_bar,
    require_text,
    written,
)
from thoughtscope.cli.options import (
    Bos,
    Device,
    DictionaryName,
    DType,
    EdgeMass,
    Json,
    MaxNodes,
    ModelName,
    NodeMass,
)
from thoughtscope.cli.tracing import traced
from thoughtscope.core.errors import ThoughtscopeError


def report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT|GRAPH.json", help="A prompt, or a graph file of any tool (or --chat)."
        ),
    ] = None,
    chat: Chat = None,
    system: System = None,
    answer: Answer = None,
    title: Annotated[str | None, typer.Option(help="The report's heading (default: the prompt).")] = None,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    node_mass: NodeMass = 0.8,
    edge_mass: EdgeMass = None,
    max_nodes: MaxNodes = None,
    device: Device = None,
    dtype: DType = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Writes the page and its data. A file is shown as it is; a prompt is traced first."""
    from thoughtscope import microscope
    from thoughtscope.graphs import checked_file
    from thoughtscope.reports import build_report

    if out.suffix.lower() not in (".html", ".htm"):
        raise ThoughtscopeError(f'A report is an HTML file; "{out}" should end in .html.')
    given = asked(source, chat, system, answer)
    made_folder = make_folder(out)
    check_out(out.with_suffix(".data.json"))
    require_text(title, "--title")
    said: Sequence[str] = ()
    if source is not None and source.lower().endswith(".json"):
        made = build_report(checked_file(source), labels=microscope.user_labels(), title=title)
    else:
        with progress_bar(quiet=as_json) as progress:
            opened = microscope.open_microscope(
                model, dictionary, device=device, dtype=dtype, progress=progress
            )
        done = traced(
            opened,
            given.prompt,
            bos=bos,
            as_json=as_json,
            node_mass=node_mass,
            edge_mass=edge_mass,
            max_nodes=max_nodes,
        )
        said = done.warnings
        made = build_report(
            done.graph,
            model=opened.model,
            dictionary=opened.dictionary,
            bank=opened.bank,
            labels=opened.labels,
            title=title,
        )
    path = made.save(out)
    data = path.with_suffix(".data.json")
    if as_json:
        emit({"report": str(path), "data": str(data), "bytes": path.stat().st_size, "warnings": said})
    else:
        size = f"{path.stat().st_size / 1e6:.1f} MB; its data in {printable(data.name)}"
        print(f"{written(path, made_folder)}\n{size}")
        print("Open it in any browser; it needs no server and no network.")
