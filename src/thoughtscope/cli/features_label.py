"""`thoughtscope features label`: what a dictionary's features are called, and how far each label holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtscope.cli.console import emit, printable, progress_lines
from thoughtscope.cli.options import Device, DType, Json, ModelName
from thoughtscope.cli.training import SOURCES, command, opened
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress

if TYPE_CHECKING:
    from thoughtscope.atlas import MadeLabels, Recording
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model

BELIEVED = 0.8
"""F1 from which on a label is counted as one that holds."""


def label(
    dictionary: Annotated[str, typer.Argument(help="A dictionary's folder or name: specimen/clt, …")],
    data: Annotated[
        str | None, typer.Option("--data", help=f"Text to make and to try the labels on: {SOURCES}.")
    ] = None,
    model: ModelName = "specimen",
    recording: Annotated[
        Path | None,
        typer.Option(
            help="What `features collect --recording` kept, in place of --data; or where to keep it."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the labels (default: labels/ in the dictionary's, where they are found)."
        ),
    ] = None,
    parts: Annotated[
        list[str] | None, typer.Option("--part", help="Only features of this part; may be given again.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many features of each part, by chance, and no others.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of text.")] = 200_000,
    seed: Annotated[int, typer.Option(help="Of which documents make a rule and which try it.")] = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Finds for every feature the rule that says best where it is active, and tries it on text that it was not made of.

    F1 is over all held-out tokens, recall the mean over tenths of the feature's range; beside it the best list of
    tokens.
    """
    from thoughtscope.atlas import label_by_rules
    from thoughtscope.atlas.made_labels import FOLDER
    from thoughtscope.dictionaries import load_dictionary

    loaded = opened(model, device, dtype)
    assert loaded is not None
    found = load_dictionary(dictionary, loaded, preflight=False)
    place = out or (found.card.folder and found.card.folder / FOLDER)
    if place is None:
        raise ThoughtscopeError(
            f"{dictionary} lies in no folder of its own; name one for its labels with --out."
        )
    again = command("features", "label", dictionary, data=data, model=model, recording=recording, out=out, part=parts,
                    sample=sample, max_tokens=max_tokens, seed=seed)  # fmt: skip
    try:
        with progress_lines(quiet=as_json) as progress:
            recorded = _recorded(loaded, found, data, recording, max_tokens, progress)
            made = label_by_rules(loaded, found, recorded, place, features=_chosen(found, parts, sample, seed),
                                  seed=seed, progress=progress)  # fmt: skip
    except KeyboardInterrupt:
        if not as_json:
            print(f"Stopped; the labels that were saved stay.\n\nGo on with:\n  {again}", flush=True)
        raise
    told = _told(made) | {"labels": str(place)}
    if as_json:
        emit(told)
    else:
        print(_labels_text(told))


def _recorded(
    model: Model,
    dictionary: Dictionary,
    data: str | None,
    folder: Path | None,
    max_tokens: int,
    progress: Progress,
) -> Recording:
    """What is active on the text: what is there already, or else recorded now."""
    from thoughtscope.atlas import load_recording, record
    from thoughtscope.training.data import parse_source

    if data is None:
        if folder is None:
            raise ThoughtscopeError(
                "Labels are made from text: name some with --data, or a --recording of it."
            )
        return load_recording(folder)
    documents = parse_source(data, model).documents()
    whole = record(model, dictionary, documents, folder, max_tokens=max_tokens, progress=progress)
    assert whole is not None  # one process sees to all of it
    return whole


def _chosen(
    dictionary: Dictionary, parts: list[str] | None, sample: int | None, seed: int
) -> dict[int, list[int]]:
    """Indices of the wanted features, by number of their part. Raises `UnknownFeature` for a part that is not there."""
    from random import Random

    numbers = range(len(dictionary.parts)) if not parts else [dictionary.number(name) for name in parts]
    counts = {number: dictionary.parts[number].n_features for number in numbers}
    random = Random(seed)
    return {number: sorted(random.sample(range(n), min(n, sample))) if sample else list(range(n))
            for number, n in counts.items()}  # fmt: skip


def _told(made: MadeLabels) -> dict[str, Any]:
    """How many labels there are, and how far those that could be tried hold."""
    own = [label for label in made.labels.values() if label.rule is not None]
    tried = [label for label in own if "f1" in label.figures]
    share = {name: sum(label.figures[name] >= BELIEVED for label in tried) / max(1, len(tried))
             for name in ("f1", "unigram_f1")}  # fmt: skip
    return {"features": len(own), "tried": len(tried), "outputs": sum(label.side == "output" for label in own),
            "share": share["f1"], "unigram_share": share["unigram_f1"]}  # fmt: skip


def _labels_text(told: Mapping[str, Any]) -> str:
    return (
        f"{told['features']:,} features have a rule, {told['outputs']:,} of them for what the model is led to say\n"
        f"{told['tried']:,} are active on enough held-out tokens to be tried: F1 is {BELIEVED:g} or more for "
        f"{told['share']:.0%}, of token tables for {told['unigram_share']:.0%}\n"
        f"Written: {printable(told['labels'])}"
    )
