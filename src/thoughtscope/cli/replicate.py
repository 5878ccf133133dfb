"""`thoughtscope replicate`: the claims of a paper, tried again; or the list of papers there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtscope.cli.console import emit, printable, progress_bar
from thoughtscope.cli.options import Json

if TYPE_CHECKING:
    from thoughtscope.replications import Replicated


def replicate(
    name: Annotated[str | None, typer.Argument(help="Which paper; without one, they are listed.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small models and samples: minutes become seconds.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for verdicts, report, and what was trained: the next run into it measures without training."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Runs a paper's experiments here, and says of each of its claims whether it holds, beside the published figure."""
    from thoughtscope.replications import REPLICATIONS, REPORT
    from thoughtscope.replications import replicate as run

    if name is None:
        found = {each: one.paper for each, one in REPLICATIONS.working()}
        if as_json:
            emit({"replications": found})
        else:
            print("\n".join(f"{each:<12} {printable(paper)}" for each, paper in found.items()))
        return
    with progress_bar(quiet=as_json) as progress:
        replicated = run(name, quick=quick, folder=out, progress=progress)
    if as_json:
        emit(replicated.to_json())
    else:
        print(verdicts_text(replicated))
        if out is not None:
            print(f"\n{printable(str(out / REPORT))}")


def verdicts_text(replicated: Replicated) -> str:
    """A line a claim, and how many of them hold."""
    lines = [replicated.paper, ""]
    for verdict in replicated.verdicts:
        claim = verdict.claim
        paper = "" if claim.paper is None else f"; paper {claim.paper:g}"
        lines += [f"{verdict.outcome:<15} {printable(claim.statement)}", f"{'':<15} {verdict.reason}{paper}"]
    held, n = replicated.count("replicated"), len(replicated.verdicts)
    lines += [
        "",
        f"{held} of {n} claims replicate" + (" (quick run: no evidence)" if replicated.quick else ""),
    ]
    return "\n".join(lines)
