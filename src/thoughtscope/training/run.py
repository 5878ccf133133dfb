"""`train_dictionary` and `train`: from a model, text and a recipe to a `Dictionary`, through kills and full disks."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.files import exclusive, writing
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.share import Share
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Dictionary, with_self_test
from thoughtscope.dictionaries.documents import Document
from thoughtscope.training.checkpoint import load_state, save_state
from thoughtscope.training.data.harvest import Feed
from thoughtscope.training.data.sources import Source, source_of
from thoughtscope.training.data.stream import Batch, HarvestStream
from thoughtscope.training.log import Log
from thoughtscope.training.objective import objective
from thoughtscope.training.ranks import Ranks, ranks_here
from thoughtscope.training.recipe import Recipe
from thoughtscope.training.state import State
from thoughtscope.training.step import train_step
from thoughtscope.training.weights import PartLayout, Scaling, folded, per_feature, start

if TYPE_CHECKING:  # a check of the protocol at run time would ask the stream for its moments
    from thoughtscope.models import Model
    from thoughtscope.training.data.stream import Stream

SELF_TEST_DOCUMENTS = 16
CHECKPOINT = "state"
"""The folder of the last checkpoint, in a training's own."""


def train_dictionary(
    model: Model,
    documents: Source | str | Iterable[Document] | Callable[[], Iterable[Document]],
    recipe: Recipe,
    *,
    folder: str | os.PathLike[str] | None = None,
    name: str | None = None,
    trackers: Iterable[str] = (),
    progress: Progress = silent,
    ranks: Ranks | None = None,
) -> Dictionary:
    """Trains a dictionary of `model` on `documents`, which start over when they run out.

    With `folder`, metrics are appended to `metrics.jsonl` there and the state is saved every few minutes to `state/`; a
    run that finds a state of the same recipe continues it to the same weights, bit for bit on one CPU, and one that was
    finished is only read. `progress` counts steps, with loss, FVU, L0, the dead share and tokens a second; what it
    raises stops the training, whose state is saved first.
    Processes that a launcher such as torchrun started train together (`ranks`): each makes its share of every batch and
    has its share of the features, and the first one writes metrics and calls `progress`.
    Raises `ThoughtscopeError` when the documents hold too little text, the model lacks a site, or the state is of
    another recipe, `CorruptArtefact` for a damaged state, `DictionaryMismatch` for that of a model of other widths,
    `FolderInUse` when another run trains in `folder`, `NotWritten` for a full disk.
    """
    for site in recipe.sites:
        model.site(site)
    ranks = ranks or ranks_here(model.device)
    source, tested = with_head(source_of(documents, model))
    stream = harvest_stream(model, source, recipe.sites, recipe, ranks)
    name = name or f"{model.name}/{recipe.parts[0].name}"
    state = train(
        stream, recipe, folder=folder, name=name, trackers=trackers, progress=progress, device=model.device,
        about=lambda: {"tested": tested()}, ranks=ranks,
    )  # fmt: skip
    trained = finished(state, name=name, model_name=model.name)
    return with_self_test(model, trained, state.about["tested"])


def harvest_stream(
    model: Model, source: Source, sites: Sequence[Site], recipe: Recipe, ranks: Ranks
) -> HarvestStream:
    """The batches that a recipe asks for, of the model's activations at `sites`; each rank makes its share."""
    data = recipe.data
    return HarvestStream(
        model,
        source,
        sites,
        batch=recipe.schedule.batch,
        feed=Feed(context=data.context, skip_first=data.skip_first, dtype=getattr(torch, data.rows)),
        buffer_tokens=data.buffer_tokens,
        seed=recipe.seed,
        passes=data.passes,
        lanes=data.lanes,
        share=Share(rank=ranks.rank, world=ranks.world),
    )


def train(
    stream: Stream,
    recipe: Recipe,
    *,
    folder: str | os.PathLike[str] | None = None,
    name: str = "dictionary",
    trackers: Iterable[str] = (),
    progress: Progress = silent,
    device: torch.device | str = "cpu",
    about: Callable[[], Mapping[str, Any]] = dict,
    ranks: Ranks | None = None,
) -> State:
    """Trains on any stream of batches, as `train_dictionary` does on those of a model; returns the last state.

    What `about` returns as the training begins (JSON-able) is kept with it, as `state.about`. Of several `ranks`, each
    returns the state of its own features. Raises `ThoughtscopeError` where they differ in the recipe, or where their
    shares of a batch do not make one whole.
    """
    ranks = ranks or ranks_here(device)
    ranks.agree({f"recipe.{key}": value for key, value in recipe.model_dump(mode="json").items()})
    with ExitStack() as stack:
        run = Run(
            stack, stream, recipe, folder=folder, name=name, trackers=trackers, progress=progress, device=device,
            about=about, ranks=ranks,
        )  # fmt: skip
        if not run.over:
            if run.state is None:
                _ = (
                    stream.moments
                )  # before the first batch: of documents that come once, this is a look ahead
            for batch in whole_batches(stream, ranks, run.step, device):
                run.take(batch)
                if run.over:
                    break
    assert run.state is not None
    return run.state


class Run:
    """One training under way: its folder is its own until `stack` is left, and its state is what was found there.

    `take` is to be given the batches from `step` on, one after the other, until it is `over`.
    """

    def __init__(
        self,
        stack: ExitStack,
        stream: Stream,
        recipe: Recipe,
        *,
        folder: str | os.PathLike[str] | None,
        name: str,
        trackers: Iterable[str],
        progress: Progress,
        device: torch.device | str,
        about: Callable[[], Mapping[str, Any]],
        ranks: Ranks,
    ) -> None:
        home = self.home = None if folder is None else Path(folder)
        if home:
            ranks.hold(stack, lambda: _own_folder(home))
        self.stream, self.recipe, self.device, self.about, self.ranks = stream, recipe, device, about, ranks
        self.state = ranks.together(
            lambda: _found(home / CHECKPOINT, stream, recipe, device, ranks) if home else None
        )
        self.log: Log | None = None
        if not self.over:
            where = {"name": name, "folder": home, "trackers": trackers, "progress": progress}
            self.log = _log(recipe, ranks, **where, start=self.step)
            stack.callback(self.log.close)
        self.saved = time.monotonic()

    @property
    def step(self) -> int:
        """The number of the batch that comes next."""
        return self.state.step if self.state else 0

    @property
    def over(self) -> bool:
        return self.step >= self.recipe.schedule.n_steps

    def take(self, batch: Batch) -> None:
        """Makes one step; saves the state where it is time. A step whose figures the caller refuses is saved first."""
        if self.state is None:
            kept = dict(self.about())
            self.state = begin(self.stream, self.recipe, batch, device=self.device, ranks=self.ranks)
            self.state.about = kept
        state, began = self.state, time.monotonic()
        figures = train_step(state, batch)
        state.seconds += time.monotonic() - began
        if not math.isfinite(figures["loss"]):  # the last checkpoint stays: nothing can be saved of this
            raise ThoughtscopeError(
                f"The loss is no number at step {state.step:,}: the training diverged. Lower "
                "schedule.learning_rate, or use float32 for precision and data.rows."
            )
        assert self.log is not None
        n_tokens = len(next(iter(batch.values())))
        stopped: BaseException | None = None
        try:
            self.log.write(
                state.step, figures, n_tokens=n_tokens, n_bytes=_bytes(batch), seconds=state.seconds
            )
        except BaseException as error:  # the caller stops the work: between two steps, so that none is lost
            stopped = error
        late = time.monotonic() - self.saved > 60 * self.recipe.checkpoint_minutes
        if self.ranks.any(late or stopped is not None or self.over):
            self._save()
            if self.ranks.any(stopped is not None):
                raise stopped or ThoughtscopeError("The first rank has stopped the training.")

    def _save(self) -> None:
        if self.home and self.state:
            save_state(self.state, self.home / CHECKPOINT)
        self.saved = time.monotonic()


def _found(
    folder: Path, stream: Stream, recipe: Recipe, device: torch.device | str, ranks: Ranks
) -> State | None:
    """The state in a folder, if it is of this recipe and fits the stream. To start anew would write over another."""
    try:
        state = load_state(folder, recipe, device=device, ranks=ranks)
    except CorruptArtefact as error:
        raise CorruptArtefact(
            f"{error} The training stops here, and leaves {folder} as it is. Put a sound copy in its place, or move it "
            "away to start anew."
        ) from None
    for site, mean in state.scaling.mean.items() if state else ():
        if stream.widths.get(site) != len(mean):
            raise DictionaryMismatch(
                f"{folder} is of a model whose {site} is {len(mean)} wide; here it is "
                f"{stream.widths.get(site, 'missing')}. Name another folder."
            )
    return state


def _own_folder(home: Path) -> AbstractContextManager[None]:
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    return exclusive(home, patience=0.0)


def _log(recipe: Recipe, ranks: Ranks, **where: Any) -> Log:
    """The first rank's figures are everyone's: it alone writes them."""
    return Log(
        recipe, **where if ranks.first else {**where, "folder": None, "trackers": (), "progress": silent}
    )


def whole_batches(stream: Stream, ranks: Ranks, start: int, device: torch.device | str) -> Iterator[Batch]:
    """The batches that the ranks' shares make; of streams that give every rank all of them, those."""
    share = getattr(stream, "share", Share())
    said = ranks.told(f"{share.rank} of {share.world}")
    whole = [f"{rank} of {ranks.world}" for rank in range(ranks.world)]
    if said != whole and set(said) != {"0 of 1"}:
        raise ThoughtscopeError(
            f"The ranks' shares of each batch should be {', '.join(whole)}; they are {', '.join(said)}."
        )
    if share.world == 1:
        return stream.batches(start)
    return (
        {site: ranks.gathered(x.to(device)) for site, x in batch.items()} for batch in stream.batches(start)
    )


def begin(
    stream: Stream,
    recipe: Recipe,
    first: Batch,
    *,
    device: torch.device | str = "cpu",
    ranks: Ranks | None = None,
) -> State:
    """The state before the first step: scaling from the stream's moments, encoders from the first batch."""
    missing = [str(site) for site in recipe.sites if site not in stream.widths]
    if missing:
        raise ThoughtscopeError(
            f"The stream lacks {', '.join(missing)}, which the recipe needs; it has "
            f"{', '.join(map(str, stream.sites))}."
        )
    scaling = _scaling(stream, recipe)
    layouts = [PartLayout.of(part, stream.widths) for part in recipe.parts]
    rows = {site: scaling.inside(site, first[site], torch.float32) for site in recipe.sites}
    extras = objective(recipe.activation).extras
    weights = start(recipe, layouts, rows, extras, ranks, dtype=torch.float32, device=device)
    return State(recipe, layouts, weights, scaling, ranks)


def finished(state: State, *, name: str, model_name: str) -> Dictionary:
    """The dictionary that a state is, in the model's own units: on every rank, with the features of all."""
    thresholds = {part.name: part.threshold or 0.0 for part in state.parts}
    n = state.recipe.n_features
    weights = {
        key: (state.ranks.whole(weight, n) if per_feature(key) else weight).detach().cpu()
        for key, weight in state.weights.items()
    }
    layouts = [part.layout for part in state.parts]
    return folded(state.recipe, layouts, weights, state.scaling, thresholds, name=name, model_name=model_name)


def _scaling(stream: Stream, recipe: Recipe) -> Scaling:
    mean: dict[Site, Tensor] = {}
    unit: dict[Site, float] = {}
    for site in recipe.sites:
        found = stream.moments[site]
        square = found.mean_square
        if recipe.centre:
            mean[site] = found.mean.float()
        else:
            mean[site] = torch.zeros_like(found.mean, dtype=torch.float32)
            square += float(found.mean.square().mean())
        unit[site] = max(square, 1e-16) ** 0.5 if recipe.scale else 1.0
    return Scaling(mean=mean, unit=unit)


def with_head(source: Source) -> tuple[Source, Callable[[], list[Any]]]:
    """The source, and a function for its first documents, which the self-test keeps; one read once gives both."""
    if not source.once:
        return source, lambda: _plain(islice(source.documents(), SELF_TEST_DOCUMENTS))
    rest = iter(source.documents())
    head = list(islice(rest, SELF_TEST_DOCUMENTS))
    return replace(source, documents=lambda: chain(head, rest)), lambda: _plain(head)


def _plain(documents: Iterable[Document]) -> list[Any]:
    return [each if isinstance(each, str) else [int(token) for token in each] for each in documents]


def _bytes(batch: Batch) -> int:
    return sum(x.numel() * x.element_size() for x in batch.values())
