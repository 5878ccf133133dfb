"""The commands and their options. Each body is one call; what it does lives in the module of its name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="thoughtscope",
    help="See which features a language model computes with, trace them to its answer, change them.",
    epilog="Start here:  thoughtscope demo",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

ModelName = Annotated[
    str,
    typer.Option("--model", "-m", help="A Hugging Face causal LM by name or path, or the shipped specimen."),
]
DictionaryName = Annotated[
    str | None,
    typer.Option(
        "--dictionary",
        "-d",
        help="A dictionary's folder or name. The specimen has specimen/clt and specimen/plt.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps … (default: the best there is).")]
DType = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, float16 (default: as stored).")
]
NodeMass = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Keep the nodes that carry this share of the influence.")
]
EdgeMass = Annotated[float, typer.Option(min=0.0, max=1.0, help="Keep the edges that carry this share.")]
MaxNodes = Annotated[
    int | None,
    typer.Option(min=1, help="Expand at most this many features; the rest is counted as left out."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Folder = Annotated[
    Path | None, typer.Option(help="Where graphs and labels are kept (default: your data folder).")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")]
Host = Annotated[str, typer.Option(help="Anything but the loopback interface needs --token.")]
Token = Annotated[str | None, typer.Option(envvar="THOUGHTSCOPE_TOKEN", help="The secret that writes need.")]


def _help(text: str, *examples: str) -> str:
    """Help text with its examples kept line by line (the form feed is click's mark for that)."""
    return text + "\n\n\b\nExamples:\n" + "\n".join(f"  thoughtscope {example}" for example in examples)


@app.command(
    short_help="Trace how a prompt leads to the model's answer.",
    help=_help(
        "Trace how a prompt leads to the answer: print the graph in words, write it, or open it.",
        'trace "Fact: the capital of the state containing Dallas is" --open',
        'trace "calc: 36+59=" --out sum.json',
        'trace "The Eiffel Tower is in" --model ./llama --dictionary ./transcoders --json',
    ),
)
def trace(
    prompt: Annotated[str, typer.Argument(help="The text whose next token is traced.")],
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the pruned graph as JSON, for this page and other viewers.")
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Serve the page and open the graph in the browser.")
    ] = False,
    node_mass: NodeMass = 0.8,
    edge_mass: EdgeMass = 0.98,
    max_nodes: MaxNodes = None,
    device: Device = None,
    dtype: DType = None,
    port: Port = 8321,
    folder: Folder = None,
    as_json: Json = False,
) -> None:
    from thoughtscope.cli import trace as command
    from thoughtscope.cli.console import reporting

    with reporting(as_json):
        command.trace(
            prompt, model=model, dictionary=dictionary, out=out, open_page=open_page, node_mass=node_mass,
            edge_mass=edge_mass, max_nodes=max_nodes, device=device, dtype=dtype, port=port, folder=folder, as_json=as_json,
        )  # fmt: skip


@app.command(
    short_help="Serve the page on this machine.",
    help=_help(
        "Serve the page on this machine.",
        "serve",
        'serve --trace "calc: 36+59=" --no-browser',
        "serve --model ./gpt2 --dictionary ./transcoders --folder ./work",
        "serve --host 0.0.0.0 --token $(openssl rand -hex 16)",
    ),
)
def serve(
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    trace: Annotated[str | None, typer.Option(help="Trace this prompt at the start and open it.")] = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="Show graph files only.")] = False,
    host: Host = "127.0.0.1",
    port: Port = 8321,
    token: Token = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name by which browsers may reach this machine.")
    ] = None,
    folder: Folder = None,
    device: Device = None,
    dtype: DType = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    as_json: Json = False,
) -> None:
    from thoughtscope.cli import serve as command
    from thoughtscope.cli.console import reporting

    with reporting(as_json):
        command.serve(
            model=model, dictionary=dictionary, prompt=trace, no_model=no_model, host=host, port=port, token=token,
            allow_hosts=allow_host or [], folder=folder, device=device, dtype=dtype, browser=not no_browser, as_json=as_json,
        )  # fmt: skip


@app.command(
    short_help="Trace the two-hop question and open it; no network.",
    help=_help(
        "The two-hop question on the shipped specimen, traced and opened in the browser. Needs no network.",
        "demo",
        "demo --no-browser --port 0",
    ),
)
def demo(
    port: Port = 8321,
    folder: Folder = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    as_json: Json = False,
) -> None:
    from thoughtscope.cli import serve as command
    from thoughtscope.cli.console import reporting

    with reporting(as_json):
        command.demo(port=port, folder=folder, browser=not no_browser, as_json=as_json)


@app.command(
    short_help="Change features and see how the answer changes.",
    help=_help(
        "Change features while the model reads a prompt, and see how its answer changes.",
        'intervene "Fact: the capital of the state containing Dallas is" --node feature:2:9:310 --scale -1',
        'intervene "calc: 36+59=" --node feature:1:4:77 --node feature:3:5:12 --ablate',
        'intervene "calc: 36+59=" --node feature:1:4:77 --set 0 --node feature:3:5:12 --set 4.5',
        "intervene --graph dallas.json --supernode Texas --scale -1 --max-new-tokens 8",
    ),
)
def intervene(
    prompt: Annotated[
        str | None, typer.Argument(help="The prompt (or --graph, whose prompt is used).")
    ] = None,
    node: Annotated[
        list[str] | None, typer.Option("--node", "-n", help="feature:LAYER:POSITION:INDEX; may be repeated.")
    ] = None,
    supernode: Annotated[
        list[str] | None, typer.Option(help="A supernode of --graph, by its label; may be repeated.")
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option(help="Multiply: -1 flips, 0 turns off. One for all nodes, or one for each."),
    ] = None,
    set_value: Annotated[list[float] | None, typer.Option("--set", help="Set to this activation.")] = None,
    add: Annotated[list[float] | None, typer.Option(help="Add this much activation.")] = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Turn off (the default when no value is given).")
    ] = False,
    graph: Annotated[Path | None, typer.Option(help="A graph file that this tool wrote.")] = None,
    attention: Annotated[
        str, typer.Option(help="frozen: attention as without the change; free: recomputed.")
    ] = "frozen",
    max_new_tokens: Annotated[
        int, typer.Option(min=0, max=1000, help="Also continue the text, before and after.")
    ] = 0,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    from thoughtscope.cli import intervene as command
    from thoughtscope.cli.console import reporting

    with reporting(as_json):
        command.intervene(
            prompt, nodes=node or [], supernodes=supernode or [], scale=scale or [], set_value=set_value or [], add=add or [],
            ablate=ablate, graph_file=graph, attention=attention, max_new_tokens=max_new_tokens, model=model,
            dictionary=dictionary, device=device, dtype=dtype, as_json=as_json,
        )  # fmt: skip


@app.command(
    short_help="Write a graph as one HTML file.",
    help=_help(
        "Write a graph as one HTML file that opens from disk, with its JSON beside it.",
        'report "Fact: the capital of the state containing Dallas is" --out dallas.html',
        "report dallas.json --out dallas.html",
    ),
)
def report(
    source: Annotated[
        str, typer.Argument(metavar="PROMPT|GRAPH.json", help="A prompt, or a graph file of any tool.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    title: Annotated[str | None, typer.Option(help="The report's heading (default: the prompt).")] = None,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    node_mass: NodeMass = 0.8,
    edge_mass: EdgeMass = 0.98,
    max_nodes: MaxNodes = None,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    from thoughtscope.cli import report as command
    from thoughtscope.cli.console import reporting

    with reporting(as_json):
        command.report(
            source, out=out, title=title, model=model, dictionary=dictionary, node_mass=node_mass, edge_mass=edge_mass,
            max_nodes=max_nodes, device=device, dtype=dtype, as_json=as_json,
        )  # fmt: skip


@app.command(
    short_help="Convert dictionaries and graph files between layouts.",
    help=_help(
        "Convert a dictionary between published layouts, or a graph file between viewers.",
        "convert specimen/clt ./clt --format circuit-tracer",
        "convert ./gemma-scope ./native --format native",
        "convert graph.json for-neuronpedia.json --format neuronpedia --scan gemma-2-2b",
    ),
)
def convert(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A dictionary's folder or name, or a graph's JSON file.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="What to write.")],
    to: Annotated[
        str, typer.Option("--format", "-f", help="The layout to write; an unknown one lists them all.")
    ],
    scan: Annotated[
        str | None, typer.Option(help="For graphs: the name of the model and dictionary at the other place.")
    ] = None,
    slug: Annotated[str | None, typer.Option(help="For graphs: the name of the graph.")] = None,
    as_json: Json = False,
) -> None:
    from thoughtscope.cli import convert as command
    from thoughtscope.cli.console import reporting

    with reporting(as_json):
        command.convert(source, target, to=to, scan=scan, slug=slug, as_json=as_json)


@app.command(
    short_help="Check versions, device, memory and the specimen.",
    help=_help(
        "Check this machine: versions, device, memory, what will fit, and whether the specimen works.",
        "doctor",
        "doctor --json",
    ),
)
def doctor(as_json: Json = False) -> None:
    from thoughtscope.cli import doctor as command
    from thoughtscope.cli.console import reporting

    with reporting(as_json):
        command.doctor(as_json=as_json)


def _version(wanted: bool) -> bool:
    if wanted:
        from thoughtscope import __version__

        print(f"thoughtscope {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Runs the command line. Exit codes: 0 done, 1 a defect, 2 the user's mistake, 130 interrupted."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        code = app(prog_name="thoughtscope", standalone_mode=False)
    except typer.TyperException as error:
        code = _usage_error(error)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    raise SystemExit(code if isinstance(code, int) else 0)


def _usage_error(error: typer.TyperException) -> int:
    from thoughtscope.cli.console import emit, printable

    context = getattr(error, "ctx", None)
    message = f"{error.format_message().rstrip('.')}. See: {context.command_path if context else 'thoughtscope'} --help"
    if "--json" in sys.argv:
        emit({"error": {"code": "usage", "message": message}})
    else:
        print(f"thoughtscope: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
