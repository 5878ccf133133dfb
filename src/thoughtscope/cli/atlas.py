"""`thoughtscope atlas`: every feature of a dictionary as a page that opens from disk."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thoughtscope.cli.console import emit, make_folder, printable, progress_lines, written
from thoughtscope.cli.options import Device, DType, Json, ModelName
from thoughtscope.cli.training import SOURCES, opened
from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from thoughtscope.atlas import FeatureBank, Recording
    from thoughtscope.core.progress import Progress
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model


def atlas(
    dictionary: Annotated[
        str, typer.Argument(help="A dictionary's folder or name: specimen/clt, smollm2/sae, …")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write; its index.html is the page.")],
    data: Annotated[
        str | None,
        typer.Option("--data", help=f"Text to record, for co-firing and specificity: {SOURCES}."),
    ] = None,
    recording: Annotated[
        Path | None,
        typer.Option(help="A recording of the dictionary to take them from; with --data, where it is kept."),
    ] = None,
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family", help="A dictionary of another size at the same sites; may be given several times."
        ),
    ] = None,
    model: ModelName = "specimen",
    max_tokens: Annotated[int, typer.Option(min=2, help="Tokens of --data.")] = 200_000,
    no_map: Annotated[bool, typer.Option("--no-map", help="Leave out map and neighbours.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Writes the page, an index and pieces on demand. Only --data needs the model."""
    from thoughtscope.atlas import Atlas, bank_required, by_size, family_tree, kept_map, recorded_of
    from thoughtscope.core.files import MAPS, default_folder
    from thoughtscope.dictionaries import load_dictionary
    from thoughtscope.microscope import user_labels
    from thoughtscope.reports import AtlasPage

    made_folder = make_folder(out / "index.html")
    found = load_dictionary(dictionary)
    bank = bank_required(found)
    members = [found, *(load_dictionary(name) for name in family or ())]
    order = by_size(members)
    loaded = None if data is None else opened(model, device, dtype)
    with progress_lines(quiet=as_json) as progress:
        texts = [
            _recording(each, data, recording if each is found else None, loaded, max_tokens, progress)
            for each in members
        ]
        alive = Atlas(dictionary=found, bank=bank).count > 0
        maps = default_folder() / MAPS
        recorded = [text for text in texts if text is not None]
        whole = Atlas(
            dictionary=found,
            bank=bank,
            map=None if no_map else kept_map(found, maps, alive=alive, progress=progress),
            recorded=None if texts[0] is None else recorded_of(bank, texts[0], progress=progress),
            families=family_tree(members, recordings=recorded if all(texts) else None) if family else None,
            generation=order.index(0),
            relatives=[_labels(members[number]) for number in order] if family else (),
        )
        labels = user_labels().of(found.name)
        page = AtlasPage(atlas=whole, labels=labels)
        index = page.save(out, progress=progress)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    if as_json:
        emit({"atlas": str(index), "features": int(whole.firsts[-1]), "bytes": size, "labels": len(labels)})
    else:
        print(f"{written(index, made_folder)}\n{int(whole.firsts[-1]):,} features, {size / 1e6:.1f} MB")
        print(f"Open it in any browser. To steer features and name them: {printable(_served(found, model))}")
    if open_page:
        webbrowser.open(index.resolve().as_uri())


def _recording(
    dictionary: Dictionary,
    data: str | None,
    folder: Path | None,
    model: Model | None,
    max_tokens: int,
    progress: Progress,
) -> Recording | None:
    """A recording that is there, or one of `data`; None where neither is asked for."""
    from thoughtscope.atlas import load_recording, record
    from thoughtscope.training.data import parse_source

    if data is None or model is None:
        return None if folder is None else load_recording(folder)
    documents = parse_source(data, model).documents()
    made = record(model, dictionary, documents, folder, max_tokens=max_tokens, progress=progress)
    if made is None:
        raise ThoughtscopeError(
            "The recording is not whole: several processes were recording. Run it again, alone."
        )
    return made


def _labels(dictionary: Dictionary) -> list[list[str]]:
    """What the features of a family's other dictionary are called, by part; empty where it has no examples."""
    from thoughtscope.atlas import bank_of

    bank: FeatureBank | None = bank_of(dictionary)
    if bank is None:
        return [[""] * part.n_features for part in dictionary.parts]
    return [bank.auto_labels(layer) for layer in range(len(bank.layers))]


def _served(dictionary: Dictionary, model: str) -> str:
    return f"thoughtscope serve --model {model} --dictionary {dictionary.name}"
