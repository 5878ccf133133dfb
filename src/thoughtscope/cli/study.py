"""`thoughtscope study`: a question asked of many prompts, with its control; or the list of those there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from thoughtscope.cli.console import emit, printable, progress_bar
from thoughtscope.cli.options import Device, DictionaryName, DType, Json, ModelName

if TYPE_CHECKING:
    from thoughtscope.studies import Findings


def study(
    name: Annotated[str | None, typer.Argument(help="Which study; without one, they are listed.")] = None,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    seed: Annotated[int, typer.Option(help="Of the random features in the control.")] = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Runs one study, or lists them."""
    from thoughtscope.studies import STUDIES, run_study

    if name is None:
        found = {each: one.question for each, one in STUDIES.working()}
        if as_json:
            emit({"studies": found})
        else:
            print("\n".join(f"{each:<12} {printable(question)}" for each, question in found.items()))
        return
    chosen = STUDIES[name]
    from thoughtscope.microscope import open_microscope

    with progress_bar(quiet=as_json) as progress:
        microscope = open_microscope(model, dictionary, device=device, dtype=dtype, progress=progress)
    with progress_bar(quiet=as_json) as progress:
        findings = run_study(chosen, microscope, seed=seed, progress=progress)
    if as_json:
        emit(findings.to_json())
    else:
        print(findings_text(findings))


def findings_text(findings: Findings) -> str:
    """The cases line by line, and what they add up to."""
    lines = [findings.question, ""]
    for case in findings.cases:
        became = f"{case.answer!r} → {case.after!r}, control {case.after_control!r}"
        lines.append(f"  {printable(case.prompt)}: {became if case.tested else 'nothing to change'}")
    tested = len(findings.tested)
    summary = f"\nThe answer turned for {findings.turned:.0%} of {tested}, under random features of equal strength for"
    lines.append(f"{summary} {findings.turned_control:.0%}." if tested else "\nNothing was tested.")
    return "\n".join(lines)
