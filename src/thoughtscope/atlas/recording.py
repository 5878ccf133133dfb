"""`Recording`: every activation of a dictionary over a text, by feature, in stretches of the text.

    folder/
      manifest.json            plan
      stretch-00000/           an artefact: the first batches of documents
        text-….safetensors     ids (pos), lengths (document)
        part_0-….safetensors   offsets (feature + 1), token (event), value (event): CSC, tokens counted in the stretch
      stretch-00001/ …         the last one says that it is

What a stretch holds depends on the plan and the documents alone, never on how many processes record or on when one of
them was killed: run the same recording again, and what is missing is made. One stretch is held in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from thoughtscope.atlas.columns import Columns, StoredColumns, by_feature, joined
from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.planned import begin_or_go_on, finished_piece
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.share import Share
from thoughtscope.core.site import Site
from thoughtscope.core.store import Artefact, load_artefact, save_artefact
from thoughtscope.dictionaries import Dictionary, Part, check_fits, resident
from thoughtscope.dictionaries.documents import NAMED, Document, counted, document_batches, documents_digest
from thoughtscope.dictionaries.features import flat

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens

KIND, STRETCH = "recording", "recording-stretch"
STRETCH_TOKENS = 65_536
DENSE = 2**25
"""Activations of one part that are in memory before the silent ones are left out."""
_LARGEST = torch.finfo(torch.float16).max  # an infinity would spoil the histogram


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides every byte of a recording."""

    model: str
    revision: str
    dictionary: str
    scan: str
    n_features: tuple[int, ...]
    """Of each part."""
    documents: str
    """SHA-256 of the first documents."""
    context: int
    batch_tokens: int
    max_tokens: int
    stretch_tokens: int


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some batches of documents, and what was active on them."""

    ids: Int[np.ndarray, " pos"]
    lengths: Int[np.ndarray, " document"]
    parts: Sequence[Columns | StoredColumns]


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """All stretches of a text, in memory or on disk. `columns` brings a part's features together."""

    plan: Plan
    stretches: tuple[Stretch, ...]

    @property
    def ids(self) -> Int[np.ndarray, " pos"]:
        """The text's tokens, documents one after the other."""
        return np.concatenate([stretch.ids for stretch in self.stretches])

    @property
    def starts(self) -> Int[np.ndarray, " start"]:
        """Where each document starts in `ids`; the last entry is the number of tokens."""
        return np.concatenate([[0], np.cumsum(np.concatenate([each.lengths for each in self.stretches]))])

    def count(self, part: int) -> Int[np.ndarray, " feature"]:
        """How often each feature of a part is active."""
        return np.sum([stretch.parts[part].count for stretch in self.stretches], axis=0)

    def columns(self, part: int, first: int, end: int) -> Columns:
        """The activations of features `first` to `end` of a part over the whole text."""
        before = np.cumsum([0, *(len(stretch.ids) for stretch in self.stretches)])
        found = [stretch.parts[part].part(first, end) for stretch in self.stretches]
        return joined(found, before[:-1].tolist())


# --- recording -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def record(
    model: Model,
    dictionary: Dictionary,
    documents: Iterable[Document],
    folder: str | os.PathLike[str] | None = None,
    *,
    max_tokens: int = 200_000,
    context: int = 128,
    batch_tokens: int = 4096,
    stretch_tokens: int = STRETCH_TOKENS,
    share: Share | None = None,
    progress: Progress = silent,
) -> Recording | None:
    """Runs the model over the first documents, up to the batch with which they have `max_tokens` tokens, each cut to
    `context`.

    In memory, about 6 bytes an active feature and token; with `folder`, on disk, a stretch of `stretch_tokens` at a
    time. Stretches that are there already are passed over, so the same call goes on where a killed one was. With
    `share`, each process records stretches of its own; None in a process that ends before the others.
    Raises `DictionaryMismatch` for a dictionary of another model, `ThoughtscopeError` where there is no text or
    `folder` holds another recording, `NotWritten` when the disk is full: what is there stays.
    """
    check_fits(dictionary, model)
    stream = iter(documents)
    first = list(islice(stream, NAMED))
    plan = _plan(model, dictionary, first, context, batch_tokens, max_tokens, stretch_tokens)
    own, share = resident(dictionary, device=model.device), share or Share()
    home = None if folder is None else Path(folder)
    if home is not None:
        begin_or_go_on(home, asdict(plan), kind=KIND, noun="recording",
                       plan_of=lambda meta: asdict(_plan_of(meta, home)))  # fmt: skip
    made = []
    for number, (batches, done, last) in enumerate(_cut(model, chain(first, stream), plan)):
        if home is None:
            made.append(_made(model, own, batches))
        elif number % share.world == share.rank and _there(home, number) is None:
            _save(home, number, _made(model, own, batches), last)
        progress("collect", min(done, max_tokens), max_tokens)
    if home is None:
        return Recording(plan=plan, stretches=tuple(made))
    return load_recording(home) if _is_whole(home) else None


def load_recording(folder: str | os.PathLike[str]) -> Recording:
    """A recording that was made to its end. Raises `CorruptArtefact` naming what is missing or damaged."""
    home = Path(folder)
    plan = _plan_of(load_artefact(home, kind=KIND).meta, home)
    stretches = []
    for number in count():
        found = load_artefact(home / _name(number), kind=STRETCH)
        stretches.append(_read(found, len(plan.n_features)))
        if found.meta["last"]:
            return Recording(plan=plan, stretches=tuple(stretches))
    raise AssertionError("count() has no end")


def _cut(model: Model, documents: Iterable[Document], plan: Plan) -> Iterator[tuple[list[Tokens], int, bool]]:
    """The batches of each stretch, the tokens up to its end, and whether it is the last."""
    batches: list[Tokens] = []
    here = done = 0
    for tokens in document_batches(model, documents, context=plan.context, batch_tokens=plan.batch_tokens):
        if here >= plan.stretch_tokens:  # only now is it known that another one follows
            yield batches, done, False
            batches, here = [], 0
        batches.append(tokens)
        here += int(tokens.mask.sum())
        done += int(tokens.mask.sum())
        if done >= plan.max_tokens:
            break
    if not batches:
        raise ThoughtscopeError("The documents hold no text to collect examples from.")
    yield batches, done, True


def _made(model: Model, dictionary: Dictionary, batches: Sequence[Tokens]) -> Stretch:
    """What is active on some batches."""
    from thoughtscope.models import capture

    found: list[list[tuple[np.ndarray, ...]]] = [[] for _ in dictionary.parts]
    n_tokens = 0
    for tokens in batches:
        acts = capture(model, tokens, dictionary.reads)
        keep = counted(tokens.mask, skip_first=dictionary.skip_first)
        numbers = (tokens.mask.flatten().cumsum(0) - 1).view(tokens.mask.shape) + n_tokens
        held = {site: flat(acts[site][keep.to(acts[site].device)], 1) for site in dictionary.reads}
        for rows, part in zip(found, dictionary.parts, strict=True):
            rows.append(_active(part, held, numbers[keep].numpy().astype(np.int32)))
        n_tokens += int(tokens.mask.sum())
    columns = []
    for rows, part in zip(found, dictionary.parts, strict=True):
        feature, token, value = map(np.concatenate, zip(*rows, strict=True))
        columns.append(by_feature(feature, token, value, part.n_features))
    return Stretch(
        ids=np.concatenate([tokens.ids[tokens.mask].numpy().astype(np.int32) for tokens in batches]),
        lengths=np.concatenate([tokens.mask.sum(-1).numpy() for tokens in batches]),
        parts=columns,
    )


def _active(
    part: Part, held: Mapping[Site, Tensor], number: Int[np.ndarray, " row"]
) -> tuple[np.ndarray, ...]:
    """Feature, token and value of what is active, row after row."""
    found = []
    size = max(1, DENSE // part.n_features)
    for start in range(0, len(number), size):
        values = part.activations({site: x[start : start + size] for site, x in held.items()})
        row, feature = values.nonzero(as_tuple=True)
        value = values[row, feature].clamp(-_LARGEST, _LARGEST).half()
        found.append(
            (feature.cpu().numpy().astype(np.int32), number[start + row.cpu().numpy()], value.cpu().numpy())
        )
    return tuple(map(np.concatenate, zip(*found, strict=True)))


# --- on disk -------------------------------------------------------------------------------------------------------


def _plan(
    model: Model,
    dictionary: Dictionary,
    first: Sequence[Document],
    context: int,
    batch_tokens: int,
    max_tokens: int,
    stretch_tokens: int,
) -> Plan:
    if min(context, batch_tokens, max_tokens, stretch_tokens) < 1:
        raise ThoughtscopeError(
            "A recording needs context, batch_tokens, max_tokens and stretch_tokens of 1 or more; got "
            f"{context}, {batch_tokens}, {max_tokens} and {stretch_tokens}."
        )
    return Plan(
        model=model.name,
        revision=model.revision,
        dictionary=dictionary.name,
        scan=dictionary.scan,
        n_features=tuple(part.n_features for part in dictionary.parts),
        documents=documents_digest(first),
        context=min(context, model.max_positions),
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        stretch_tokens=stretch_tokens,
    )


def _plan_of(meta: Mapping[str, Any], home: Path) -> Plan:
    try:
        stated = dict(meta["plan"])
        return Plan(**{**stated, "n_features": tuple(stated["n_features"])})
    except (KeyError, TypeError) as error:
        raise CorruptArtefact(f"{home} is a recording with an unreadable plan: {error!r:.200}.") from None


def _name(number: int) -> str:
    return f"stretch-{number:05d}"


def _there(home: Path, number: int) -> Artefact | None:
    """A stretch that is written, or None where there is none or not a whole one."""
    return finished_piece(home / _name(number), kind=STRETCH)


def _is_whole(home: Path) -> bool:
    """Whether all stretches are there, up to one that says it is the last."""
    for number in count():
        found = _there(home, number)
        if found is None or found.meta["last"]:
            return found is not None
    raise AssertionError("count() has no end")


def _save(home: Path, number: int, stretch: Stretch, last: bool) -> None:
    parts = {f"part_{at}": vars(columns) for at, columns in enumerate(stretch.parts)}
    text = {"ids": stretch.ids, "lengths": stretch.lengths}
    save_artefact(home / _name(number), kind=STRETCH, tensors={"text": text, **parts}, meta={"last": last})


def _read(artefact: Artefact, n_parts: int) -> Stretch:
    """A stretch whose columns stay on disk until they are asked for."""
    text = artefact.tensors("text")
    parts = [StoredColumns(path=artefact.file_path(f"part_{number}")) for number in range(n_parts)]
    return Stretch(ids=text["ids"].numpy(), lengths=text["lengths"].numpy(), parts=parts)
