"""`Subject`: a model with its dictionaries, and what features and neurons did on two held-out texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int16, Int64
from torch import Tensor

from thoughtscope.atlas import record
from thoughtscope.atlas.alike import correlations_with
from thoughtscope.atlas.collect import direct_logits
from thoughtscope.atlas.columns import Columns
from thoughtscope.atlas.intervals import Intervals, by_interval
from thoughtscope.core.planned import begin_or_go_on
from thoughtscope.core.progress import Progress, silent
from thoughtscope.dictionaries import Dictionary, Part, basis, load_dictionary, save_dictionary
from thoughtscope.dictionaries.documents import documents_digest
from thoughtscope.models import Model
from thoughtscope.models.quiet import quiet
from thoughtscope.replications.towards.corpus import CONTEXTS, Corpus, make_corpus
from thoughtscope.replications.towards.model import (
    NEURONS,
    Shape,
    as_model,
    train_model,
    trained_module,
    untrained,
)
from thoughtscope.training import train_together
from thoughtscope.training.recipe import Recipe
from thoughtscope.training.recipes import relu_sae

N_LABELS = 1 + len(CONTEXTS)
RANDOM = 2
"""The seed of the control, whose model is not trained."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large everything is."""

    shape: Shape
    documents: int
    """That a model is trained on."""
    sizes: tuple[int, ...]
    """Features of the dictionaries, in growing order."""
    main: int
    """The dictionary that stands for the paper's A/1."""
    coefficient: float
    """Of the L1 penalty."""
    n_tokens: int
    """That a dictionary is trained on."""
    choose: int
    """Documents on which features are picked and rules taught."""
    test: int
    """Documents on which all figures are taken."""
    samples: int
    """Steered samples of each unit."""


FULL = Scale(
    shape=Shape(), documents=96_000, sizes=(256, 1024, 4096), main=1024, coefficient=0.3, n_tokens=2_500_000,
    choose=600, test=1200, samples=12,
)  # fmt: skip
QUICK = Scale(
    shape=Shape(d_model=16, d_mlp=24, n_heads=2), documents=320, sizes=(24, 48, 96), main=48, coefficient=0.5,
    n_tokens=8_192, choose=80, test=80, samples=1,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """Held-out text in the order in which it was recorded, and the truth of its tokens."""

    ids: Int64[np.ndarray, " token"]
    starts: Int64[np.ndarray, " start"]
    truth: Int16[np.ndarray, " token"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Activity:
    """What units did on a text."""

    columns: Columns
    text: Text

    @cached_property
    def matrix(self) -> Any:
        """A sparse array (token, unit)."""
        return self.columns.matrix(len(self.text.ids))

    @cached_property
    def intervals(self) -> Intervals:
        return by_interval(self.columns, self.text.truth, n_labels=N_LABELS)

    @cached_property
    def follows(self) -> Float64[np.ndarray, "unit label"]:
        """Correlation of every unit with every context's truth."""
        return np.nan_to_num(correlations_with(self.matrix, np.eye(N_LABELS)[self.text.truth]), nan=-1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Units:
    """Features of a dictionary, or neurons."""

    part: Part
    logits: Float[Tensor, "unit vocab"]
    """What a unit of activation adds to the logits directly, about the mean over tokens."""
    choose: Activity
    test: Activity

    @cached_property
    def best(self) -> Int64[np.ndarray, " label"]:
        """The unit that follows each context best, on the text for choosing."""
        return self.choose.follows.argmax(axis=0)

    @cached_property
    def live(self) -> Int64[np.ndarray, " unit"]:
        """Units that are active at ten tokens of either text."""
        return np.flatnonzero((self.choose.columns.count >= 10) & (self.test.columns.count >= 10))


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model, its dictionaries by size, and its units: by size, and the neurons."""

    seed: int
    scale: Scale
    model: Model
    dictionaries: Mapping[int, Dictionary]
    features: Mapping[int, Units]
    neurons: Units

    @property
    def main(self) -> Units:
        return self.features[self.scale.main]


def prepare(scale: Scale, *, seed: int, folder: Path | None, progress: Progress = silent) -> Subject:
    """The subject of a seed; models and dictionaries that lie in `folder` are read, others made and kept there.

    Seeds 0 and 1 are the paper's models A and B; `RANDOM` is a model with its first weights and one dictionary.
    """
    if folder is not None:
        begin_or_go_on(folder, _plan(scale), kind="replication-towards", noun="replication",
                       plan_of=lambda meta: dict(meta["plan"]))  # fmt: skip
    home = None if folder is None else folder / ("ab"[seed] if seed != RANDOM else "random")
    model = _model(scale, seed, home, progress)
    sizes = scale.sizes if seed != RANDOM else (scale.main,)
    dictionaries = _dictionaries(model, scale, sizes, seed, home, progress)
    texts = make_corpus(scale.choose, seed=101), make_corpus(scale.test, seed=102)
    units = {size: _units(model, one, texts) for size, one in dictionaries.items()}
    neurons = _units(model, basis(model, NEURONS), texts)
    return Subject(
        seed=seed, scale=scale, model=model, dictionaries=dictionaries, features=units, neurons=neurons
    )


def _plan(scale: Scale) -> dict[str, Any]:
    """What decides every weight: sizes, and the text."""
    text = documents_digest(make_corpus(64, seed=0).documents())
    return {**json.loads(json.dumps(asdict(scale))), "text": text}


def _model(scale: Scale, seed: int, home: Path | None, progress: Progress) -> Model:
    place = None if home is None else home / "model"
    if seed == RANDOM:
        return as_model(untrained(scale.shape, seed=seed), name="towards-random", seed=seed)
    name = f"towards-{'ab'[seed]}"
    if place is not None and (place / "config.json").is_file():
        return as_model(trained_module(place), name=name, seed=seed)
    made = train_model(make_corpus(scale.documents, seed=seed), scale.shape, seed=seed, progress=progress)
    if place is not None:
        with quiet():
            made.save_pretrained(place)
    return as_model(made, name=name, seed=seed)


def recipes(scale: Scale, sizes: tuple[int, ...], seed: int) -> dict[str, Recipe]:
    """ReLU with an L1 penalty, unit decoders and resampling, as in the paper; the README says what is different."""
    changes = {
        "schedule.n_tokens": scale.n_tokens,
        "schedule.batch": 2048,
        "dead.at": (0.2, 0.4, 0.6),
        "seed": seed,
    }
    return {
        str(size): relu_sae(str(NEURONS), size, scale.coefficient, decoder="unit", **changes)
        for size in sizes
    }


def _dictionaries(
    model: Model, scale: Scale, sizes: tuple[int, ...], seed: int, home: Path | None, progress: Progress
) -> dict[int, Dictionary]:
    places = {size: None if home is None else home / f"dictionary-{size}" for size in sizes}
    if all(place is not None and place.is_dir() for place in places.values()):
        return {size: load_dictionary(place) for size, place in places.items() if place is not None}
    corpus = make_corpus(scale.n_tokens // 127 + 1, seed=200 + seed)
    made = train_together(
        model, corpus.documents, recipes(scale, sizes, seed), folder=None if home is None else home / "training",
        progress=progress,
    )  # fmt: skip
    for size, place in places.items():
        if place is not None:
            save_dictionary(made[str(size)], place)
    return {size: made[str(size)] for size in sizes}


def _units(model: Model, dictionary: Dictionary, texts: tuple[Corpus, Corpus]) -> Units:
    (part,) = dictionary.parts
    logits = direct_logits(model, part, torch.arange(part.n_features))
    choose, test = (_activity(model, dictionary, corpus) for corpus in texts)
    return Units(part=part, logits=logits - logits.mean(dim=1, keepdim=True), choose=choose, test=test)


def _activity(model: Model, dictionary: Dictionary, corpus: Corpus) -> Activity:
    recording = record(model, dictionary, corpus.documents(), max_tokens=corpus.ids.size)
    assert recording is not None
    ids, starts = recording.ids.astype(np.int64), recording.starts.astype(np.int64)
    text = Text(ids=ids, starts=starts, truth=corpus.truth_of(ids, starts))
    return Activity(columns=recording.columns(0, 0, dictionary.n_features), text=text)
