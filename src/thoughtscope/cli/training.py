"""What the commands that train share: their options, stopping between two steps, and the commands that they name."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtscope.cli.console import printable, progress_bar, shell_quoted
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress

if TYPE_CHECKING:
    from thoughtscope.models import Model
    from thoughtscope.training import Recipe
    from thoughtscope.training.data import Store

SOURCES = "text:FOLDER, jsonl:FILE#FIELD, hf:NAME, samples:tokens=128 or MODULE:FUNCTION"
TrainedModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A Hugging Face causal LM by name or path, a GGUF file, smollm2, or the shipped specimen.",
    ),
]
Data = Annotated[str | None, typer.Option("--data", help=f"Documents: {SOURCES}.")]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", help="A store that harvest wrote, in place of --data.")
]
Sites = Annotated[
    list[str] | None,
    typer.Option(help="resid_post.3; several with commas; resid_post alone for that of every layer."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Another value of the recipe: k=64, schedule.batch=2048."
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(help="Also log to wandb, trackio or tensorboard, if that is installed."),
]


def opened(model: str | None, device: str | None, dtype: str | None) -> Model | None:
    """The model that was named, if one was."""
    from thoughtscope.models import load_model

    if model is None:
        return None
    with progress_bar() as progress:
        return load_model(model, device=device, dtype=dtype, progress=progress)


def opened_store(store: Path | None, data: str | None, model: str | None) -> Store | None:
    """The store that was named; refuses a command that names neither a store nor a model with documents, or both."""
    from thoughtscope.training.data import load_store

    if store is not None and data is not None:
        raise ThoughtscopeError("Give --data or --store, one of the two.")
    if store is None and (data is None or model is None):
        raise ThoughtscopeError(
            f"Say what to train on: --model with --data ({SOURCES}), or --store with a folder that harvest wrote."
        )
    return None if store is None else load_store(store)


def recipe_of(
    name: str, sites: Sequence[str], changes: Sequence[str], model: Model | None, store: Store | None
) -> Recipe:
    """The recipe that the options say, for the model's layers or those in the store."""
    from thoughtscope.training.naming import changes_of, recipe_named, spread

    n_layers = model.n_layers if model is not None else None
    if n_layers is None and store is not None:
        n_layers = 1 + max((site.layer for site in store.sites if site.layer is not None), default=0)
    written = spread(sites, n_layers)
    return recipe_named(name, sites=written, n_layers=n_layers, changes=changes_of(changes))


@contextmanager
def stopping(progress: Progress) -> Iterator[Progress]:
    """The same progress, by which Ctrl-C stops the work between two steps, so that it is saved; a second one at once.

    The scheduler's SIGTERM does the same. Before the first step there is nothing to save: there, both stop at once.
    """
    begun = wanted = False

    def told(stage: str, done: int, total: int | None, **figures: float) -> None:
        nonlocal begun
        begun = True
        progress(stage, done, total, **figures)
        if wanted:
            raise KeyboardInterrupt

    def stop(number: int, frame: Any) -> None:
        nonlocal wanted
        if wanted or not begun:
            raise KeyboardInterrupt
        wanted = True
        print("thoughtscope: stopping after this step (again: at once)", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def command(*words: str | Path, **options: object) -> str:
    """A command line to copy: words, then options that are not None, lists once for each value."""
    line = ["thoughtscope", *(shell_quoted(str(word)) for word in words)]
    for name, value in options.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None and each is not False:
                line.append(f"--{name.replace('_', '-')}")
                if each is not True:
                    line.append(shell_quoted(str(each)))
    return " ".join(line)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [[printable(cell) for cell in row] for row in rows]
    )
