"""`thoughtscope sweep`: every combination of some values, trained one after another and scored on the same text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtscope.cli.console import emit, message_of, printable, progress_lines, warn
from thoughtscope.cli.options import Device, DType, Json
from thoughtscope.cli.training import (
    SOURCES,
    Changes,
    Data,
    Sites,
    StoreFolder,
    command,
    opened,
    opened_store,
    recipe_of,
    stopping,
    table,
)
from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.memory import is_allocation_failure
from thoughtscope.core.progress import Progress

if TYPE_CHECKING:
    from thoughtscope.models import Model
    from thoughtscope.training import Recipe
    from thoughtscope.training.data import Store

SCORES, TABLE, FIGURE = "scores.json", "sweep.json", "sweep.html"


def sweep(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, FILE.py:FUNCTION, or a recipe.json.")],
    grid: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE,…", help="Values to try, for example k=16,32,64.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the sweep; each training has its own in it.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A Hugging Face causal LM, or the specimen.")],
    data: Data = None,
    store: StoreFolder = None,
    sites: Sites = None,
    changes: Changes = None,
    score_on: Annotated[
        str | None, typer.Option(help=f"Documents to score on (default: --data): {SOURCES}.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens to score on.")] = 50_000,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Trains and scores what is not finished yet; a training that fails is told, and the others go on."""
    from thoughtscope.training.naming import grid_of

    held, texts = opened_store(store, data, model), score_on or data
    if texts is None:
        raise ThoughtscopeError("A store has no documents to score on. Name some: --score-on SOURCE.")
    loaded = opened(model, device, dtype)
    assert loaded is not None
    combinations = grid_of(grid)
    recipes = {  # all of them before any work, so that a slip of the keyboard is told at once
        run_name(values): (values, recipe_of(recipe, sites or [], [*(changes or []), *_set(values)], loaded, held))
        for values in combinations
    }  # fmt: skip
    again = command("sweep", recipe, model=model, data=data, store=store, sites=sites, set=changes, grid=grid,
                    score_on=score_on, max_tokens=max_tokens, out=out, device=device, dtype=dtype)  # fmt: skip
    job = Job(loaded, data, held, texts, max_tokens, out, device)
    runs: list[dict[str, Any]] = []
    try:
        for number, (name, (values, made)) in enumerate(recipes.items()):
            if not as_json:
                print(f"{number + 1} of {len(recipes)}: {printable(name)}", flush=True)
            with progress_lines(quiet=as_json) as progress, stopping(progress) as told:
                runs.append(job.run(name, values, made, told))
            warn([runs[-1]["error"]] if "error" in runs[-1] else [], as_json=as_json)
    except KeyboardInterrupt:
        if not as_json:
            print(f"Stopped; what was done is saved.\n\nGo on with:\n  {again}", flush=True)
        raise
    _finish(job, recipe, runs, again, as_json)


class Job:
    """What all trainings of a sweep share."""

    def __init__(
        self,
        model: Model,
        data: str | None,
        store: Store | None,
        texts: str,
        max_tokens: int,
        out: Path,
        device: str | None,
    ) -> None:
        self.model, self.data, self.store, self.device = model, data, store, device
        self.texts, self.max_tokens, self.out = texts, max_tokens, out

    def run(self, name: str, values: Mapping[str, Any], recipe: Recipe, progress: Progress) -> dict[str, Any]:
        """One training and its scores; what was finished before is read. A failure is a row too."""
        folder = self.out / name
        row = {"name": name, "values": dict(values), "folder": name}
        try:
            return row | self._scored(folder, recipe, progress)
        except Exception as error:  # whatever it is, the other trainings can go on
            known = isinstance(error, ThoughtscopeError | OSError) or is_allocation_failure(error)
            return row | {"error": message_of(error) if known else f"{type(error).__name__}: {error}"}

    def _scored(self, folder: Path, recipe: Recipe, progress: Progress) -> dict[str, Any]:
        """What kind of dictionary was trained, how many features it has, and its scores."""
        from thoughtscope.core.files import atomic_write_text
        from thoughtscope.dictionaries import evaluate_dictionary
        from thoughtscope.training.data import parse_source
        from thoughtscope.training.home import train_into

        trained = train_into(
            folder, recipe, model=self.model, data=self.data, store=self.store, progress=progress, device=self.device
        )  # fmt: skip
        asked = {"data": self.texts, "max_tokens": self.max_tokens}
        kept = read_scores(folder / SCORES)
        what = {"kind": trained.kind, "n_features": trained.n_features}
        if kept is not None and kept["asked"] == asked:
            return what | {"scores": kept["scores"]}
        documents = parse_source(self.texts, self.model).documents()
        scores = evaluate_dictionary(
            self.model, trained, documents, max_tokens=self.max_tokens, progress=progress
        )
        found = scores.to_json()
        atomic_write_text(folder / SCORES, json.dumps({"asked": asked, "scores": found}, indent=1) + "\n")
        return what | {"scores": found}


def read_scores(path: Path) -> dict[str, Any] | None:
    """The scores that a sweep kept; None where there are none, or damaged ones, which are made again."""
    from thoughtscope.core.files import read_file
    from thoughtscope.core.parsing import strict_json

    try:
        found = strict_json(read_file(path, limit=2**24), str(path))
    except (FileNotFoundError, CorruptArtefact):
        return None
    return found if isinstance(found, dict) and {"asked", "scores"} <= found.keys() else None


def run_name(values: Mapping[str, Any]) -> str:
    """The folder of a combination: names and values as they are, but for what file systems mind."""
    parts = (
        f"{name}={json.dumps(value) if not isinstance(value, str) else value}"
        for name, value in values.items()
    )
    return re.sub(r"[^\w.,=+\-]+", "_", ",".join(parts))[:200]


def _set(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def _finish(job: Job, recipe: str, runs: list[dict[str, Any]], again: str, as_json: bool) -> None:
    """Writes the table of all runs, prints it, and says what to look at next."""
    from thoughtscope.core.files import atomic_write_text

    record = {"recipe": recipe, "model": job.model.name, "data": job.texts, "runs": runs}
    path = job.out / TABLE
    job.out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
    failed = [row for row in runs if "error" in row]
    figure = _figure(job, recipe, runs)
    following = again if failed else command("curves", job.out)
    if as_json:
        emit(record | {"table": str(path), "figure": figure and str(figure), "next": following})
        return
    print("\n" + sweep_text(runs))
    written = ", ".join(printable(str(each)) for each in (path, figure) if each is not None)
    print(f"\nWritten: {written}\n\nNext{' (trains what failed)' if failed else ''}:\n  {following}")


def _figure(job: Job, recipe: str, runs: list[dict[str, Any]]) -> Path | None:
    """The trained dictionaries by sparsity and fidelity, as a page; None where every training failed."""
    from thoughtscope.reports import ParetoPoint, pareto_page

    points = [ParetoPoint.from_json(row) for row in runs if "scores" in row]
    if not points:
        return None
    return pareto_page(points, title=f"{recipe} on {job.model.name}").save(job.out / FIGURE)


def sweep_text(runs: list[dict[str, Any]]) -> str:
    """A row for each training, the sparsest first, the failed ones last."""
    columns = (
        ("FVU", "fvu", ".4f"),
        ("L0", "l0", ".1f"),
        ("dead", "dead", ".1%"),
        ("loss recovered", "loss_recovered_mean", ".1%"),
    )
    rows = [("", *(head for head, _, _ in columns))]
    for row in sorted(runs, key=lambda each: each.get("scores", {}).get("l0", float("inf"))):
        scores = row.get("scores")
        found = [scores[name] if scores else None for _, name, _ in columns]
        cells = [
            "–" if value is None else f"{value:{form}}"
            for value, (_, _, form) in zip(found, columns, strict=True)
        ]
        rows.append((row["name"], *(cells if scores else ["failed", *cells[1:]])))
    return table(rows)
