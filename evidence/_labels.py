"""Rules as labels, tried on held-out text: of a dictionary as it is, and of one of a model with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from _claim import ROOT, told

BELIEVED = 0.8
SMALL = {"schedule.n_tokens": 400_000, "schedule.batch": 2048}
"""The autoencoders that are trained alike on the model and on the one with random weights."""


def shares(
    model: Any, dictionary: Any, documents: Iterable[Any], *, name: str, tokens: int, sample: int, seed: int
) -> dict[str, Any]:
    """The share of features whose rule reaches `BELIEVED` on held-out documents, and that of token tables.

    What is recorded stays under `runs/labels`, so that a measurement which was stopped goes on.
    """
    from random import Random

    from thoughtscope.atlas import label_by_rules, record

    recording = record(
        model, dictionary, documents, ROOT / "runs" / "labels" / f"{name}-{tokens}", max_tokens=tokens
    )
    chosen = {
        number: sorted(Random(seed).sample(range(part.n_features), min(sample, part.n_features)))
        for number, part in enumerate(dictionary.parts)
    }
    made = label_by_rules(model, dictionary, recording, features=chosen, seed=seed)
    figures = [label.figures for label in made.labels.values() if "f1" in label.figures]
    n = len(figures)

    def share(name: str) -> float:
        return sum(each[name] >= BELIEVED for each in figures) / max(1, n)

    return told({
        "name": name, "share": share("f1"), "unigram": share("unigram_f1"), "n": n,
        "sampled": sum(map(len, chosen.values())), "tokens": int(recording.starts[-1]), "labelled": len(made.labels),
        "median_f1": middle(each["f1"] for each in figures),
        "median_unigram": middle(each["unigram_f1"] for each in figures),
        "plain": share("plain_f1"), "even": share("even_f1"),
        "outputs": sum(label.side == "output" for label in made.labels.values()),
        "recall_by_tenth": [
            average([each[name] for each in figures if name in each]) for name in (f"recall_{t}" for t in range(10))
        ],
    })  # fmt: skip


def beside_random(
    model: Any, site: str, training: Callable[[], Iterable[Any]], held_out: Callable[[], Iterable[Any]], *,
    name: str, tokens: int, sample: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """The same figures of two small autoencoders, trained alike on the model and on one whose weights are random."""
    from thoughtscope.models.random_models import with_random_weights
    from thoughtscope.training import recipes, train_dictionary

    found = {}
    for kind, each in (("trained", model), ("random", with_random_weights(model, seed=seed))):
        recipe = recipes.sae(site, n_features=1024, k=16, seed=seed, **SMALL)
        made = train_dictionary(each, training, recipe, name=f"{name}-{kind}",
                                folder=ROOT / "runs" / "labels" / f"{name}-{kind}-training-{seed}")  # fmt: skip
        found[kind] = shares(
            each, made, held_out(), name=f"{name}-{kind}", tokens=tokens, sample=sample, seed=seed
        )
    return found


def average(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def middle(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
