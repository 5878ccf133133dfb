"""`thoughtscope evaluate`: how good a dictionary is on text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtscope.cli.console import check_out, emit, printable, progress_lines
from thoughtscope.cli.options import Device, DType, Json, ModelName
from thoughtscope.cli.training import SOURCES, command, opened, table

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary, DictionaryScores

_ROWS = (
    ("unexplained variance (FVU)", "fvu", ".4f"),
    ("active features a token (L0), all parts", "l0", ".1f"),
    ("dead features", "dead", ".1%"),
    ("dense features (active on over 10 %)", "dense", ".1%"),
    ("length of the reconstruction to the original's", "shrinkage", ".3f"),
    ("cosine to the original", "cosine", ".3f"),
    ("loss of the model, nats", "loss", ".3f"),
    ("loss on the reconstruction", "loss_spliced", ".3f"),
    ("loss recovered, against zeros", "loss_recovered_zero", ".1%"),
    ("loss recovered, against the mean", "loss_recovered_mean", ".1%"),
    ("same first choice", "agreement", ".1%"),
    ("KL from the model, nats", "kl", ".3f"),
)


def evaluate(
    dictionary: Annotated[str, typer.Argument(help="A dictionary's folder or name: specimen/clt, …")],
    data: Annotated[str, typer.Option("--data", help=f"Documents, held out from training: {SOURCES}.")],
    model: ModelName = "specimen",
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens to score on.")] = 50_000,
    context: Annotated[int, typer.Option(min=2, help="Tokens that the model sees at once.")] = 128,
    out: Annotated[Path | None, typer.Option(help="Also write the scores to this JSON file.")] = None,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Scores a dictionary and prints a table."""
    import json

    from thoughtscope.core.files import atomic_write_text
    from thoughtscope.dictionaries import evaluate_dictionary, load_dictionary
    from thoughtscope.training.data import parse_source

    if out is not None:
        check_out(out)
    loaded = opened(model, device, dtype)
    assert loaded is not None
    found = load_dictionary(dictionary, loaded, preflight=False)
    with progress_lines(quiet=as_json) as progress:
        scores = evaluate_dictionary(
            loaded, found, parse_source(data, loaded).documents(), max_tokens=max_tokens, context=context,
            progress=progress,
        )  # fmt: skip
    following = command("trace", "Your prompt", model=model, dictionary=dictionary)
    record = {"dictionary": found.name, "model": loaded.name, "data": data, "scores": scores.to_json()}
    if out is not None:
        atomic_write_text(out, json.dumps(record, indent=1) + "\n")
    if as_json:
        emit(record | {"next": following})
        return
    print(scores_text(found, scores))
    if out is not None:
        print(f"\nWritten: {printable(str(out))}")
    if found.kind in ("per-layer transcoders", "cross-layer transcoder"):
        print(f"\nNext:\n  {following}")


def scores_text(dictionary: Dictionary, scores: DictionaryScores) -> str:
    """The scores as a table; where there are several sites, FVU of each."""
    head = f"{printable(dictionary.name)}: {dictionary.kind}, {scores.n_tokens:,} tokens\n\n"
    rows = [(what, _shown(getattr(scores, name), form)) for what, name, form in _ROWS]
    if len(scores.fvu_by_site) > 1:
        rows += [(f"FVU at {site}", f"{fvu:.4f}") for site, fvu in scores.fvu_by_site.items()]
    return head + table(rows)


def _shown(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"
