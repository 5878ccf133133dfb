"""`thoughtscope train`: a dictionary by a recipe, from a model and text or from a store of activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtscope.cli.console import emit, printable, progress_lines, warn
from thoughtscope.cli.options import Device, DType, Json
from thoughtscope.cli.training import (
    Changes,
    Data,
    Sites,
    StoreFolder,
    Track,
    TrainedModel,
    command,
    opened,
    opened_store,
    recipe_of,
    stopping,
)
from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from thoughtscope.training import Recipe


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe's name, FILE.py:FUNCTION, or a recipe.json. See --list.")
    ] = None,
    model: TrainedModel = None,
    data: Data = None,
    store: StoreFolder = None,
    sites: Sites = None,
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of this training; one that was stopped goes on there.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The dictionary's name (default: model and part).")] = None,
    track: Track = None,
    live: Annotated[bool, typer.Option("--live", help="Serve the curves on this machine meanwhile.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List the recipes and end.")] = False,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Trains, or goes on where a run was stopped; a finished one is only read."""
    if listing:
        _list(as_json)
        return
    if recipe is None or out is None:
        raise ThoughtscopeError("Name a recipe and the folder: train RECIPE --out FOLDER. See train --list.")
    held = opened_store(store, data, model)
    loaded = opened(model, device, dtype) if held is None else None  # a store knows sites and widths itself
    made = recipe_of(recipe, sites or [], changes or [], loaded, held)
    again = command("train", recipe, model=model, data=data, store=store, sites=sites, set=changes, out=out, name=name,
                    track=track, live=live, device=device, dtype=dtype)  # fmt: skip
    from thoughtscope.training.home import train_into

    with (
        _told_how_to_go_on(again, out, as_json),
        _curves(out, live, as_json),
        progress_lines(as_json) as progress,
    ):
        with stopping(progress) as told:
            train_into(
                out, made, model=loaded, data=data, store=held, name=name, trackers=track or [], progress=told,
                device=device,
            )  # fmt: skip
    documents = data or (held.plan.source if held is not None else None)
    of = model or (held.plan.model if held is not None else None)
    following = command("evaluate", out / "dictionary", model=of, data=documents, device=device, dtype=dtype)
    _done(out, made, following, as_json)


@contextmanager
def _curves(out: Path, live: bool, as_json: bool) -> Iterator[None]:
    """The page of curves, served while the training runs."""
    if not live:
        yield
        return
    from thoughtscope.server.curves import serving_curves

    with serving_curves([out]) as link:
        if not as_json:
            print(f"Curves at  {printable(link)}", flush=True)
        yield


@contextmanager
def _told_how_to_go_on(again: str, out: Path, as_json: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        last = _last(out)
        where = f"after step {last['step']:,} of {last['n_steps']:,}" if last else "before the first step"
        message = f"Stopped {where}; what was done is saved. Go on with: {again}"
        if as_json:
            emit({"error": {"code": "stopped", "message": message}})
        else:
            print(f"Stopped {where}; what was done is saved.\n\nGo on with:\n  {again}", flush=True)
        raise


def _last(out: Path) -> dict[str, Any]:
    """The figures of the last step that was written down."""
    from thoughtscope.training.log import METRICS, read_metrics

    lines = read_metrics(out) if (out / METRICS).is_file() else []
    return lines[-1] if lines else {}


def _done(out: Path, recipe: Recipe, following: str, as_json: bool) -> None:
    last, dictionary = _last(out), out / "dictionary"
    if as_json:
        emit({"dictionary": str(dictionary), "folder": str(out), "figures": last, "next": following})
        return
    if last:
        tokens, seconds = last["tokens"], last["seconds"]
        print(
            f"Trained on {tokens:,} tokens in {seconds:,.0f} s: FVU {last['fvu']:.4f}, L0 {last['l0']:.1f} a part, "
            f"dead {last['dead']:.1%}"
        )
    warn(_doubts(last), as_json=as_json)
    print(f"Written: {printable(str(dictionary))}\n\nNext:\n  {following}")


def _doubts(last: dict[str, Any]) -> list[str]:
    said = []
    if last.get("dead", 0) > 0.3:
        said.append(
            f"{last['dead']:.0%} of the features are dead: train on more tokens, or with fewer features "
            "(--set n_features=…)."
        )
    if last.get("fvu", 0) > 0.9:
        said.append(
            "The dictionary explains next to nothing: try another schedule.learning_rate, or more tokens."
        )
    return said


def _list(as_json: bool) -> None:
    from thoughtscope.training.naming import described

    found = described()
    if as_json:
        emit({"recipes": found})
        return
    width = max(map(len, found))
    print("\n".join(f"{each:<{width}}  {printable(text)}" for each, text in found.items()))
