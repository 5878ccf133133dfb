"""`thoughtscope features explain` and `features score`: labels by a language model, and how good labels are."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtscope.cli.console import emit, printable, progress_lines
from thoughtscope.cli.options import Device, DType, Json, ModelName
from thoughtscope.cli.training import SOURCES, opened, table
from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thoughtscope.assistants import Assistant, Estimate, Prices
    from thoughtscope.assistants.asking import Consent
    from thoughtscope.atlas import Recording
    from thoughtscope.atlas.explaining import Contexts
    from thoughtscope.atlas.explaining.scores import Score
    from thoughtscope.core.progress import Progress
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model

DictionaryFolder = Annotated[
    str, typer.Argument(help="A dictionary's folder or name: smollm2/sae, specimen/clt, …")
]
WorkFolder = Annotated[
    Path, typer.Option("--folder", help="Where labels, scores and the assistant's answers are kept.")
]
AssistantName = Annotated[
    str | None,
    typer.Option(
        "--assistant",
        metavar="URL|MODEL",
        help="Who is asked: an OpenAI-compatible address (http://127.0.0.1:8080/v1), or a chat model to load here.",
    ),
]
AssistantModel = Annotated[
    str | None, typer.Option("--assistant-model", help="With an address: the model's name there.")
]
KeyFrom = Annotated[
    str | None,
    typer.Option(
        "--key-from",
        metavar="VARIABLE",
        help="The environment variable that holds the key; it is never kept.",
    ),
]
Price = Annotated[
    str | None,
    typer.Option(
        "--price", metavar="IN,OUT", help="What a million tokens cost, in and out, to show the cost before."
    ),
]
Fields = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="JSON",
        help="With an address: more fields of each request, null to leave one out.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Send to another machine what was shown.")]
Data = Annotated[
    str | None,
    typer.Option("--data", help=f"Documents: {SOURCES} (default: those of the dictionary's bank)."),
]
RecordingFolder = Annotated[
    Path | None,
    typer.Option("--recording", help="What `features collect --recording` wrote, in place of --data."),
]
MaxTokens = Annotated[int, typer.Option(min=2, help="With --data: tokens of text.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the halves of the text and of everything drawn.")]
LABELS, SCORES, ANSWERS = "labels.json", "scores.json", "answers"
LARGEST = 64 * 2**20


def explain(
    dictionary: DictionaryFolder,
    folder: WorkFolder,
    assistant: AssistantName = None,
    assistant_model: AssistantModel = None,
    key_from: KeyFrom = None,
    fields: Fields = None,
    price: Price = None,
    yes: Yes = False,
    model: ModelName = "specimen",
    features: Annotated[
        list[str] | None, typer.Option("--feature", "-f", metavar="PART/INDEX", help="May be repeated.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many by chance, of those active often enough to be scored.")
    ] = None,
    explainer: Annotated[str, typer.Option(help="marked, levels or contrastive.")] = "marked",
    n_examples: Annotated[int, typer.Option(min=1, help="Excerpts that are shown of a feature.")] = 20,
    data: Data = None,
    recording: RecordingFolder = None,
    max_tokens: MaxTokens = 200_000,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Asks an assistant for labels, from half of the text; the other half stays for scores."""
    if (features is None) == (sample is None):
        raise ThoughtscopeError("Say which features: --feature PART/INDEX, or --sample N.")
    from thoughtscope.atlas import explaining
    from thoughtscope.atlas.explaining.explain import counts_of

    loaded = opened(model, device, dtype)
    assert loaded is not None
    asked = assistant_of(assistant, assistant_model, key_from, fields, loaded)
    if asked is None:
        raise ThoughtscopeError("Say who is asked for labels: --assistant URL or --assistant MODEL.")
    prices, shown = prices_of(price), list["Estimate"]()
    with progress_lines(quiet=as_json) as progress:
        found = opened_dictionary(dictionary, loaded)
        text = recorded(loaded, found, data, recording, max_tokens, progress)
        places = places_of(found, features) if features is not None else drawn(text, found, sample or 1, seed)
        contexts = contexts_at(loaded, found, text, places, seed, n_explain=n_examples)
        silent, contexts = without_silent(contexts)
        made = explaining.explain(
            asked,
            list(contexts.values()),
            explainer=explainer,
            folder=folder / ANSWERS,
            prices=prices,
            consent=showing(shown, yes, as_json),
            progress=progress,
        )
    told: dict[str, Any] = {
        "dictionary": found.name,
        "explainer": explainer,
        "author": asked.name,
        "seed": seed,
    }
    told |= {"outcomes": counts_of(made), "silent": silent, "estimate": shown[0].to_json() if shown else None}
    told["features"] = {place: each.to_json() for place, each in zip(contexts, made, strict=True)}
    written = save(folder / LABELS, told)
    if as_json:
        emit(told | {"written": str(written)})
        return
    rows = [[place, each.outcome, each.label or ""] for place, each in zip(contexts, made, strict=True)]
    print(table(rows))
    counts = {**counts_of(made), "silent on this text": len(silent)}
    print(", ".join(f"{n:,} {outcome}" for outcome, n in counts.items()))
    print(f"Written: {printable(str(written))}")


def score(
    dictionary: DictionaryFolder,
    folder: WorkFolder,
    assistant: AssistantName = None,
    assistant_model: AssistantModel = None,
    key_from: KeyFrom = None,
    fields: Fields = None,
    price: Price = None,
    yes: Yes = False,
    model: ModelName = "specimen",
    labels: Annotated[
        Path | None,
        typer.Option(help='Labels to score (default: those in the folder): {"PART/INDEX": "label"}.'),
    ] = None,
    scorers: Annotated[
        list[str] | None,
        typer.Option(
            "--scorer",
            help="detection, fuzzing, simulation (they ask), embedding, surprisal. May be repeated.",
        ),
    ] = None,
    inside: Annotated[
        str | None,
        typer.Option(help="The model of embedding and surprisal (default: the one that is examined)."),
    ] = None,
    n_contexts: Annotated[int, typer.Option(min=2, help="Excerpts on which a label is tested.")] = 40,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Put the labels, with their scores, in the dictionary's folder: pages show them from then on.",
        ),
    ] = False,
    data: Data = None,
    recording: RecordingFolder = None,
    max_tokens: MaxTokens = 200_000,
    seed: Seed = 0,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Scores labels on the half of the text that they were not made from, with labels that cost nothing beside them."""
    from thoughtscope.atlas.explaining import averages, compare

    given = read_labels(folder / LABELS if labels is None else labels)
    loaded = opened(model, device, dtype)
    assert loaded is not None
    asked = assistant_of(assistant, assistant_model, key_from, fields, loaded)
    judge = loaded if inside is None else opened(inside, device, dtype)
    prices, shown = prices_of(price), list["Estimate"]()
    with progress_lines(quiet=as_json) as progress:
        found = opened_dictionary(dictionary, loaded)
        text = recorded(loaded, found, data, recording, max_tokens, progress)
        half = n_contexts // 2
        contexts = contexts_at(
            loaded, found, text, places_of(found, list(given)), seed, half, n_contexts - half
        )
        scores = compare(
            {"given": given},
            contexts,
            scorers=scorers or ("detection",),
            assistant=asked,
            model=judge,
            seed=seed,
            folder=folder / ANSWERS,
            prices=prices,
            consent=showing(shown, yes, as_json),
            progress=progress,
        )
    told: dict[str, Any] = {
        "dictionary": found.name,
        "judge": None if asked is None else asked.name,
        "seed": seed,
    }
    told |= {"averages": averages(scores), "estimate": shown[0].to_json() if shown else None}
    told["scores"] = {
        kind: {
            place: {name: each.to_json() for name, each in those.items()} for place, those in places.items()
        }
        for kind, places in scores.items()
    }
    written = save(folder / SCORES, told)
    kept = (
        kept_with(found, given, scores["given"], author_of(folder / LABELS if labels is None else labels))
        if keep
        else None
    )
    if as_json:
        emit(told | {"written": str(written), "kept": None if kept is None else str(kept)})
        return
    print(averages_told(told["averages"]))
    print(f"Written: {printable(str(written))}" + ("" if kept is None else f", {printable(str(kept))}"))


# --- who is asked --------------------------------------------------------------------------------------------------


def assistant_of(
    name: str | None, its_model: str | None, key_from: str | None, fields: str | None, loaded: Model
) -> Assistant | None:
    """The assistant that was named, if one was. Raises `ThoughtscopeError` for options that do not go together."""
    from thoughtscope.assistants import Endpoint, Local
    from thoughtscope.core.parsing import strict_json

    if name is not None and name.lower().startswith(("http://", "https://")):
        if its_model is None:
            raise ThoughtscopeError(
                "Several models may answer at one address: name one with --assistant-model."
            )
        more = {} if fields is None else strict_json(fields, "--fields", error=ThoughtscopeError)
        if not isinstance(more, dict):
            raise ThoughtscopeError("--fields takes a JSON object: '{\"max_tokens\": null}'.")
        return Endpoint(url=name, model=its_model, key_from=key_from, fields=more)
    if its_model is not None or key_from is not None or fields is not None:
        raise ThoughtscopeError(
            "--assistant-model, --key-from and --fields go with an address (--assistant http…)."
        )
    if name is None:
        return None
    if name == loaded.name:
        return Local(model=loaded)
    own = opened(name, None, None)
    assert own is not None
    return Local(model=own)


def prices_of(text: str | None) -> Prices | None:
    """The prices that were given. Raises `ThoughtscopeError`."""
    from thoughtscope.assistants import Prices

    if text is None:
        return None
    try:
        tokens_in, tokens_out = map(float, text.split(","))
    except ValueError:
        raise ThoughtscopeError(
            f'"{text}" is no price: write what a million tokens cost, in and out: 0.15,0.60.'
        ) from None
    return Prices(tokens_in=tokens_in, tokens_out=tokens_out)


def showing(shown: list[Estimate], yes: bool, as_json: bool) -> Consent:
    """Shows what would be sent, and agrees where it stays here or the user has said so."""

    def consent(estimate: Estimate) -> bool:
        shown.append(estimate)
        here = estimate.destination.is_here
        if not here:
            print(f"thoughtscope: {printable(str(estimate))}", file=sys.stderr, flush=True)
        elif not as_json:
            print(printable(str(estimate)), flush=True)
        return here or yes

    return consent


# --- what is asked about -------------------------------------------------------------------------------------------


def opened_dictionary(name: str, model: Model) -> Dictionary:
    from thoughtscope.dictionaries import load_dictionary

    return load_dictionary(name, model, preflight=False)


def recorded(
    model: Model,
    dictionary: Dictionary,
    data: str | None,
    folder: Path | None,
    max_tokens: int,
    progress: Progress,
) -> Recording:
    """What is active on the text that was named; on the bank's own text where none was. Raises `ThoughtscopeError`."""
    from thoughtscope.atlas import bank_of, load_recording, record
    from thoughtscope.core.errors import DictionaryMismatch
    from thoughtscope.training.data import parse_source

    if data is not None and folder is not None:
        raise ThoughtscopeError("Give --data or --recording, one of the two.")
    if folder is not None:
        found = load_recording(folder)
        if found.plan.scan != dictionary.scan:
            raise DictionaryMismatch(
                f"{folder} is a recording of {found.plan.dictionary}, not of {dictionary.name}."
            )
        return found
    if data is not None:
        made = record(
            model, dictionary, parse_source(data, model).documents(), max_tokens=max_tokens, progress=progress
        )
    else:
        bank = bank_of(dictionary)
        if bank is None:
            raise ThoughtscopeError(
                f"{dictionary.name} has no bank whose text could be read again. Name text with --data ({SOURCES})."
            )
        bounds = bank.starts.tolist()
        documents = [bank.ids[start:end].tolist() for start, end in pairwise(bounds)]
        context = max(map(len, documents))
        made = record(
            model, dictionary, documents, max_tokens=bank.n_tokens, context=context, progress=progress
        )
    assert made is not None  # one process sees to all of it
    return made


def places_of(dictionary: Dictionary, names: list[str]) -> list[str]:
    """`PART/INDEX` as they are, each once, if there are such features. Raises `UnknownFeature`."""
    return [
        f"{dictionary.parts[part].name}/{index}" for part, index in dict.fromkeys(_placed(dictionary, names))
    ]


def _placed(dictionary: Dictionary, names: list[str]) -> list[tuple[int, int]]:
    from thoughtscope.core.errors import UnknownFeature, describe_choices
    from thoughtscope.core.ids import FeatureId

    parts = {part.name: number for number, part in enumerate(dictionary.parts)}
    found = []
    for name in names:
        feature = FeatureId.parse(f"{dictionary.name}/{name.removeprefix(dictionary.name + '/')}")
        if feature.part not in parts:
            raise UnknownFeature(describe_choices(feature.part, parts, what=f"part of {dictionary.name}"))
        found.append((parts[feature.part], feature.index))
    return found


def drawn(recording: Recording, dictionary: Dictionary, n: int, seed: int) -> list[str]:
    """`n` features by chance, of those that can be tested. Raises `ThoughtscopeError` where there are none."""
    from random import Random

    from thoughtscope.atlas.explaining import Excerpts, scorable

    excerpts = Excerpts.of(recording.ids, recording.starts, seed=seed)
    every = [
        f"{part.name}/{index}"
        for number, part in enumerate(dictionary.parts)
        for index in scorable(recording, number, excerpts)
    ]
    if not every:
        raise ThoughtscopeError(
            "No feature is active on enough of this text to be explained and tested. Give more text."
        )
    return sorted(Random(seed).sample(every, min(n, len(every))))


def contexts_at(
    model: Model,
    dictionary: Dictionary,
    recording: Recording,
    places: list[str],
    seed: int,
    n_active: int = 20,
    n_silent: int = 20,
    n_explain: int = 20,
) -> Mapping[str, Contexts]:
    """The contexts of features in their order, with the features that are active beside them for the hard ones."""
    from thoughtscope.atlas.explaining import Excerpts, contexts_of, firing_together

    excerpts = Excerpts.of(recording.ids, recording.starts, seed=seed)
    by_part: dict[int, list[int]] = {}
    for part, index in _placed(dictionary, places):
        by_part.setdefault(part, []).append(index)
    found: dict[str, Contexts] = {}
    for part, features in by_part.items():
        made = contexts_of(
            model,
            recording,
            part,
            features,
            excerpts=excerpts,
            neighbours=firing_together(recording, part, features),
            n_explain=n_explain,
            n_active=n_active,
            n_silent=n_silent,
            seed=seed,
        )
        found |= {f"{dictionary.parts[part].name}/{index}": each for index, each in made.items()}
    return {place: found[place] for place in places}


def without_silent(contexts: Mapping[str, Contexts]) -> tuple[list[str], dict[str, Contexts]]:
    """The features with nothing to be explained from, and the others. Raises `ThoughtscopeError` for no others."""
    silent = [place for place, each in contexts.items() if not each.explaining]
    if len(silent) == len(contexts):
        raise ThoughtscopeError(
            f"None of {', '.join(silent[:8])} is active on the half of this text that is for explaining. Give more."
        )
    return silent, {place: each for place, each in contexts.items() if each.explaining}


# --- what is kept --------------------------------------------------------------------------------------------------


def save(path: Path, told: Mapping[str, Any]) -> Path:
    """Writes one JSON file, and the folder that it lies in."""
    from thoughtscope.core.files import atomic_write_text, writing

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(told, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return path


def read_labels(path: Path) -> dict[str, str]:
    """Labels by `PART/INDEX`: what `explain` wrote, or a plain table. Raises `ThoughtscopeError`."""
    from thoughtscope.core.files import read_file
    from thoughtscope.core.parsing import strict_json

    try:
        found = strict_json(read_file(path, limit=LARGEST), path)
    except FileNotFoundError:
        raise ThoughtscopeError(
            f"There is no {path}. Run features explain, or name labels with --labels."
        ) from None
    if isinstance(found, dict) and isinstance(found.get("features"), dict):
        found = {
            place: each.get("label") for place, each in found["features"].items() if isinstance(each, dict)
        }
        found = {place: label for place, label in found.items() if label is not None}
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(label, str) for label in found.values())
    ):
        raise ThoughtscopeError(f'{path} holds no labels. Give {{"PART/INDEX": "label"}}.')
    return found


def author_of(path: Path) -> str:
    """Who wrote the labels of a file, where it says so."""
    from thoughtscope.core.files import read_file
    from thoughtscope.core.parsing import strict_json

    found = strict_json(read_file(path, limit=LARGEST), path)
    author = found.get("author")
    return author if isinstance(author, str) and isinstance(found.get("features"), dict) else path.name


def kept_with(
    dictionary: Dictionary, labels: Mapping[str, str], scores: Mapping[str, Mapping[str, Score]], author: str
) -> Path:
    """Puts labels beside what is known of a dictionary, in place of what was made of the same features before.

    Raises `ThoughtscopeError` for a dictionary without a folder.
    """
    from thoughtscope.atlas.explaining.scores import FIGURES
    from thoughtscope.atlas.made_labels import FOLDER, MadeLabel, MadeLabels, made_labels_of

    if dictionary.card.folder is None:
        raise ThoughtscopeError(
            f"{dictionary.name} lies in no folder of its own, where its labels could be kept."
        )
    made = {}
    for name, (part, index) in zip(labels, _placed(dictionary, list(labels)), strict=True):
        figures = {f"{scorer} {figure}": value for scorer, score in scores.get(name, {}).items()
                   for figure in FIGURES if (value := getattr(score, figure)) is not None}  # fmt: skip
        made[part, index] = MadeLabel(text=labels[name], author=author, side="input", figures=figures)
    new = MadeLabels(dictionary=dictionary.name, scan=dictionary.scan, labels=made)
    there = made_labels_of(dictionary)
    return (new if there is None else there | new).save(dictionary.card.folder / FOLDER)


def averages_told(averages: Mapping[str, Any]) -> str:
    """A row for each kind of label and scorer."""
    figures = ("balanced_accuracy", "f1", "auroc", "pearson")
    counts = ("labels", "asked", "n", "unparsed", "refused", "failed")
    rows = [["label", "scorer", *(name.replace("_", " ") for name in figures), *counts]]
    for kind, scorers in averages.items():
        for name, each in scorers.items():
            shown = [f"{each[figure]:.3f}" if figure in each else "–" for figure in figures]
            rows.append([kind, name, *shown, *(f"{each[count]:,}" for count in counts)])
    return table(rows)
