"""`thoughtscope features …`: what a dictionary's features are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtscope.cli.console import emit, printable, progress_lines
from thoughtscope.cli.options import Device, DType, Json, ModelName
from thoughtscope.cli.training import SOURCES, command, opened
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress

if TYPE_CHECKING:
    from thoughtscope.atlas import FeatureBank
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model


def collect(
    dictionary: Annotated[str, typer.Argument(help="A dictionary's folder or name: specimen/clt, …")],
    data: Annotated[str, typer.Option("--data", help=f"Documents to draw examples from: {SOURCES}.")],
    model: ModelName = "specimen",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the examples (default: features/ in the dictionary's, where they are found)."
        ),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option(
            help="Keep what is active on the text in this folder: a collection that was stopped goes on there, and "
            "several processes (torchrun) share the work."
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of text.")] = 200_000,
    context: Annotated[int, typer.Option(min=2, help="Tokens that the model sees at once.")] = 128,
    n_top: Annotated[int, typer.Option(min=1, help="Strongest examples of a feature.")] = 10,
    n_quantile: Annotated[int, typer.Option(min=0, help="Examples of each quarter of its activations.")] = 3,
    loss_effects: Annotated[
        int,
        typer.Option(
            min=0,
            help="For so many examples of a feature, also by how much each token's loss rises without the feature: the "
            "model runs once more for each of them.",
        ),
    ] = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Runs the model over the text once, and writes a bank of examples, figures and outputs of every feature."""
    from thoughtscope.atlas import bank_of_recording, record
    from thoughtscope.atlas.bank import FOLDER
    from thoughtscope.core.share import Share
    from thoughtscope.dictionaries import load_dictionary
    from thoughtscope.training.data import parse_source

    share = Share.from_environment()
    if share.world > 1 and recording is None:
        raise ThoughtscopeError(
            "Several processes need a place where they meet: name a folder with --recording."
        )
    loaded = opened(model, device, dtype)
    assert loaded is not None
    found = load_dictionary(dictionary, loaded, preflight=False)
    place = out or (found.card.folder and found.card.folder / FOLDER)
    if place is None:
        raise ThoughtscopeError(
            f"{dictionary} lies in no folder of its own; name one for its examples with --out."
        )
    documents = parse_source(data, loaded).documents()
    again = command("features", "collect", dictionary, data=data, model=model, out=out, recording=recording,
                    max_tokens=max_tokens, context=context, n_top=n_top, n_quantile=n_quantile,
                    loss_effects=loss_effects)  # fmt: skip
    try:
        with progress_lines(quiet=as_json) as progress:
            whole = record(loaded, found, documents, recording, max_tokens=max_tokens, context=context,
                           share=share, progress=progress)  # fmt: skip
            if whole is None:  # another process ends it
                return
            bank = bank_of_recording(
                loaded, found, whole, n_top=n_top, n_quantile=n_quantile, progress=progress
            )
            if loss_effects:
                bank = _with_effects(loaded, found, bank, loss_effects, quiet=as_json, progress=progress)
    except KeyboardInterrupt:
        if recording is not None and not as_json:
            print(f"Stopped; what was recorded stays.\n\nGo on with:\n  {again}", flush=True)
        raise
    bank.save(place)
    silent = sum(int((layer.count == 0).sum()) for layer in bank.layers)
    told = {"bank": str(place), "features": found.n_features, "silent": silent, "tokens": bank.n_tokens}
    if as_json:
        emit(told)
        return
    print(
        f"{found.n_features - silent:,} of {found.n_features:,} features were active on {bank.n_tokens:,} tokens"
    )
    print(f"Written: {printable(str(place))}")


def _with_effects(
    model: Model, dictionary: Dictionary, bank: FeatureBank, n: int, *, quiet: bool, progress: Progress
) -> FeatureBank:
    """The bank with its effects on the loss, whose price is said first."""
    from thoughtscope.atlas import ablations
    from thoughtscope.atlas import loss_effects as measured

    price = ablations(bank, n=n)
    if not quiet:
        print(
            f"Taking each feature out of {price.n_examples:,} examples: {price.n_tokens:,} tokens pass the model, "
            f"{price.n_tokens / bank.n_tokens:.1f} times the text."
        )
    return measured(model, dictionary, bank, n=n, progress=progress)


def export(
    dictionary: Annotated[str, typer.Argument(help="A dictionary's folder or name: specimen/clt, …")],
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    format: Annotated[
        str,
        typer.Option(
            "--format", help="sae-dashboard, neuronpedia, parquet (for embedding-atlas), circuit-tracer."
        ),
    ],
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="Only this part (of transcoders: layer); several are possible."),
    ] = None,
    model: ModelName = "specimen",
    model_id: Annotated[
        str | None, typer.Option(help="What the other place calls the model (default: its name here).")
    ] = None,
    source_set: Annotated[
        str | None,
        typer.Option(help="What the other place calls these features (default: the dictionary's name)."),
    ] = None,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Writes all features that ever fired in another tool's layout; people's labels before automatic ones."""
    from thoughtscope.atlas import Atlas, bank_required, kept_map
    from thoughtscope.atlas.exports import FEATURE_FORMATS, export_features
    from thoughtscope.core.files import MAPS, default_folder
    from thoughtscope.dictionaries import load_dictionary
    from thoughtscope.microscope import user_labels

    needs = FEATURE_FORMATS[format].needs
    loaded = opened(model, device, dtype) if "model" in needs else None
    found = load_dictionary(dictionary, loaded, preflight=False)
    atlas = Atlas(dictionary=found, bank=bank_required(found))
    with progress_lines(quiet=as_json) as progress:
        if "map" in needs:
            places = kept_map(found, default_folder() / MAPS, alive=atlas.count > 0, progress=progress)
            atlas = replace(atlas, map=places)
        labels = user_labels().of(found.name)
        written = export_features(atlas, out, format=format, labels=labels, parts=part, model=loaded,
                                  model_id=model_id, source_set=source_set, progress=progress)  # fmt: skip
    size = sum(path.stat().st_size for path in written)
    if as_json:
        emit(
            {
                "format": format,
                "files": len(written),
                "bytes": size,
                "labels": len(labels),
                "folder": str(out),
            }
        )
        return
    print(f"{len(written):,} files, {size / 1e6:.1f} MB, with {len(labels):,} labels of people")
    print(f"Written: {printable(str(out))}")
