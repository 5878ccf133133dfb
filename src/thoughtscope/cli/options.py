"""The options that several commands share, each with its one name, range and help."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from thoughtscope.core.errors import InvalidPlan

ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A Hugging Face causal LM by name or path, a GGUF file, smollm2, or the shipped specimen.",
    ),
]
DictionaryName = Annotated[
    str | None,
    typer.Option("--dictionary", "-d", help="A dictionary's folder or name: specimen/clt, specimen/plt, …"),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps … (default: the best there is).")]
DType = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, float16 (default: as stored).")
]
NodeMass = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Keep the nodes that carry this share of the influence.")
]
EdgeMass = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Keep the edges that carry this share (default: 0.98, but at most 100,000 edges).",
    ),
]
MaxNodes = Annotated[
    int | None,
    typer.Option(min=1, help="Expand at most this many features; the rest is counted as left out."),
]
InfluenceBound = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        max=0.999,
        help="End where at most this share of the influence is still to come; 0 for everything, however large.",
    ),
]
KeepPartial = Annotated[
    bool, typer.Option("--keep-partial", help="On Ctrl-C go on with the graph as far as it is.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Folder = Annotated[
    Path | None, typer.Option(help="Where graphs and labels are kept (default: your data folder).")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the address.")]
Bos = Annotated[
    bool | None,
    typer.Option(
        "--bos/--no-bos",
        help="Begin with the beginning-of-text token, or without (default: the tokenizer's way).",
    ),
]


def multiple_of(text: str) -> tuple[str, float]:
    """`PART/INDEX=MULTIPLE` as a name and a number. Raises `InvalidPlan`."""
    name, _, number = text.strip().rpartition("=")
    try:
        multiple = float(number)
    except ValueError:
        multiple = math.nan
    if not name or not math.isfinite(multiple):
        raise InvalidPlan(
            f'"{text}" turns no feature: write PART/INDEX=MULTIPLE, for example 3/1042=4 (0 switches it off).'
        )
    return name.strip(), multiple
