"""All experiments, in the order of the paper: training, completeness, influence, steering, safety, languages."""

from __future__ import annotations

from dataclasses import replace

from thoughtscope.core.progress import Progress
from thoughtscope.dictionaries import load_dictionary
from thoughtscope.models import load_model
from thoughtscope.models.downloads import fetched
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.scaling import (
    code_errors,
    completeness,
    influence,
    laws,
    multilingual,
    safety,
    steering,
)
from thoughtscope.replications.scaling.material import specimen_material

QUICK = laws.Grid(sizes=(64, 128), lengths=(2048, 4096), seeds=(0,))
DOCUMENTS, HELD_OUT = 12_288, 4096
"""Samples to train on, and others to judge by."""
QUICK_DOCUMENTS = 96
MIDDLE = "resid_post.12"
"""The shipped autoencoder of SmolLM2 that stands in the middle of its 30 blocks."""


def measured(*, quick: bool, progress: Progress) -> dict[str, Seen]:
    """Every claim that can be measured here: quickly the specimen's alone, and SmolLM2's where it was fetched."""
    seen = on_specimen(quick=quick, progress=progress)
    if not quick and fetched("smollm2") is not None:
        seen |= on_smollm2(progress)
    return seen


def on_specimen(*, quick: bool, progress: Progress) -> dict[str, Seen]:
    """Training, completeness, influence and languages."""
    grid = QUICK if quick else laws.Grid()
    documents = (QUICK_DOCUMENTS, QUICK_DOCUMENTS) if quick else (DOCUMENTS, HELD_OUT)
    with specimen_material(*documents, progress=progress) as material:
        runs = laws.train_grid(material, grid, progress)
        seen = laws.measure(runs)
        seen |= completeness.measure(material, runs, completeness.shipped_families(), progress)
        prompts = influence.SPECIMEN[:: 8 if quick else 1]
        seen |= influence.measure("specimen", material.model, laws.largest(runs), prompts, progress)
        shipped = load_dictionary("specimen/clt", material.model)
        return seen | multilingual.measure_layers(material.model, shipped)


def on_smollm2(progress: Progress) -> dict[str, Seen]:
    """Influence, steering, safety, code and languages, by the autoencoders that come along.

    Influence is computed in float32, in which gradients are exact; all else in bfloat16, which is three times as fast.
    """
    exact, model = (load_model("smollm2", dtype=dtype, device="cpu") for dtype in ("float32", "bfloat16"))
    dictionary = load_dictionary("smollm2/sae", model, preflight=False)
    middle = replace(dictionary, parts=(dictionary.part(MIDDLE),))
    seen = influence.measure("smollm2", exact, [middle], influence.SMOLLM2, progress)
    seen |= steering.measure(model, dictionary, progress)
    seen |= safety.measure(model, dictionary, progress)
    seen |= code_errors.measure(model, dictionary)
    return seen | multilingual.measure(model, dictionary)
