"""`thoughtscope trace`: a prompt's graph in words, as JSON, as a file, or on the page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from thoughtscope.cli.asking import Answer, Chat, System, asked
from thoughtscope.cli.console import emit, make_folder, progress_bar, shell_quoted, written
from thoughtscope.cli.options import (
    Bos,
    Device,
    DictionaryName,
    DType,
    EdgeMass,
    Folder,
    InfluenceBound,
    Json,
    KeepPartial,
    MaxNodes,
    ModelName,
    NodeMass,
    Port,
)
from thoughtscope.cli.tracing import traced

TESTED = 4
"""Features in the intervention that `trace` suggests: one alone seldom changes an answer."""


def trace(
    prompt: Annotated[
        str | None, typer.Argument(help="The text whose next token is traced (or --chat).")
    ] = None,
    chat: Chat = None,
    system: System = None,
    answer: Answer = None,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the pruned graph as JSON, for this page and other viewers."),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Serve the page and open the graph in the browser.")
    ] = False,
    node_mass: NodeMass = 0.8,
    edge_mass: EdgeMass = None,
    max_nodes: MaxNodes = None,
    influence_bound: InfluenceBound = None,
    keep_partial: KeepPartial = False,
    device: Device = None,
    dtype: DType = None,
    port: Port = 8321,
    folder: Folder = None,
    bos: Bos = None,
    as_json: Json = False,
) -> None:
    """Traces, prints the summary and the next commands; writes and opens what was asked for."""
    from thoughtscope import microscope
    from thoughtscope.cli.summary import summary_data, summary_text
    from thoughtscope.core.ids import plain_name
    from thoughtscope.graphs.json_write import write_text
    from thoughtscope.reports.payload import graph_file

    given = asked(prompt, chat, system, answer)
    made = None if out is None else make_folder(out)
    if open_page:
        microscope.WorkFolder(folder)  # what is wrong with where it will be kept is told before the work
    started = time.perf_counter()
    with progress_bar(quiet=as_json) as progress:
        opened = microscope.open_microscope(model, dictionary, device=device, dtype=dtype, progress=progress)
    done = traced(
        opened,
        given.prompt,
        bos=bos,
        as_json=as_json,
        node_mass=node_mass,
        edge_mass=edge_mass,
        max_nodes=max_nodes,
        influence_bound=influence_bound,
        keep_partial=keep_partial,
    )
    graph = done.graph
    seconds = time.perf_counter() - started
    if out is not None:
        write_text(graph_file(graph, plain_name(out.stem, 100) or None), out)
    options = _model_options(model, dictionary)
    commands = next_commands(graph, given.words, options, out)
    if as_json:
        told = {
            "seconds": round(seconds, 3),
            "out": None if out is None else str(out),
            "made_folder": None if made is None else str(made),
            "next": commands,
            "price": done.price.to_json(),
            "warnings": done.warnings,
        }
        emit({**summary_data(graph), **told})
    else:
        print(summary_text(graph, seconds=seconds))
        if out is not None:
            print("\n" + written(out, made))
        if not open_page:
            print("\nNext:\n" + "\n".join(f"  {command}" for command in commands))
    if open_page:
        from thoughtscope.cli.serve import serve_traced

        serve_traced(opened, graph, folder=folder, port=port, as_json=as_json)


def next_commands(graph: Any, words: str, options: str, out: Path | None) -> list[str]:
    """The exact commands that follow naturally: see it, test the strongest features, write it down.

    `words` are those by which a command line names the prompt.
    """
    from thoughtscope.cli.summary import strongest_features

    commands = [f"thoughtscope trace {words}{options} --open"]
    group = next((supernode.label for supernode in graph.supernodes), None)
    strongest = " ".join(f"--node {graph.node_id(row)}" for row in strongest_features(graph, TESTED))
    if group is not None:
        commands.append(
            f"thoughtscope intervene {words}{options} --supernode {shell_quoted(group)} --scale -1"
        )
    elif strongest:
        commands.append(f"thoughtscope intervene {words}{options} {strongest} --scale -1")
    source = words if out is None else shell_quoted(str(out))
    commands.append(f"thoughtscope report {source}{options} --out report.html")
    return commands


def _model_options(model: str, dictionary: str | None) -> str:
    chosen = "" if model == "specimen" else f" --model {shell_quoted(model)}"
    return chosen + ("" if dictionary is None else f" --dictionary {shell_quoted(dictionary)}")
