"""The replication from top to bottom: two models and a control, dictionaries of three sizes, and every measurement.

corpus ─▶ model A, model B ─▶ dictionaries of 1, 4 and 16 times as many features as neurons ─▶ units on held-out text
                                                                                                    │
   proxies · specificity · ablations · logits · samples · seeds · splitting · automata · rules ◀────┘
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thoughtscope.core.progress import Progress, silent
from thoughtscope.replications.claims import Seen
from thoughtscope.replications.replication import Measured
from thoughtscope.replications.towards import contexts, fidelity, rules, sampling, structure
from thoughtscope.replications.towards.rows import Row, together
from thoughtscope.replications.towards.subject import FULL, QUICK, RANDOM, Subject, prepare
from thoughtscope.reports.verdicts import Figure

OF_ONE: Mapping[str, Callable[[Subject], dict[str, Row]]] = {
    "proxies": contexts.by_proxy,
    "contexts": contexts.planted,
    "specificity": contexts.specificity,
    "neurons": contexts.neuron_basis,
    "ablations": contexts.ablations,
    "logits": contexts.logit_weights,
    "samples": sampling.pinned,
    "splitting": structure.splits,
    "automata": structure.automata,
    "tokens": structure.token_in_context,
    "rules": rules.explanations,
    "fidelity": fidelity.fidelity,
}
"""What is measured of each model by itself."""


def towards(*, quick: bool = False, folder: Path | None = None, progress: Progress = silent) -> Measured:
    """Trains what is not there yet, and measures every claim on both seeds."""
    scale = QUICK if quick else FULL
    a, b = (prepare(scale, seed=seed, folder=folder, progress=progress) for seed in (0, 1))
    random = prepare(scale, seed=RANDOM, folder=folder, progress=progress)
    seen: dict[str, Seen] = {}
    for number, (stage, measure) in enumerate(OF_ONE.items()):
        progress(stage, number, len(OF_ONE))
        seen |= together([measure(a), measure(b)])
    seen |= together([structure.universality(a, b), structure.universality(b, a)])
    seen |= together([structure.single_tokens(a, random), structure.single_tokens(b, random)])
    return Measured(seen=seen, figures=_figures(a), details=_details(a, b))


def _details(*subjects: Subject) -> dict[str, Any]:
    """By model, each context's best feature and neuron, with correlation and specificity."""

    def of(subject: Subject) -> dict[str, Any]:
        pairs = {"features": subject.main, "neurons": subject.neurons}
        return {kind: contexts.followed(units) for kind, units in pairs.items()}

    return {subject.model.name: of(subject) for subject in subjects}


def _figures(subject: Subject) -> tuple[Figure, ...]:
    """What the report shows of the first model."""
    main, neurons, sizes = subject.main, subject.neurons, subject.scale.sizes
    names = tuple(contexts.LABEL)
    found = {"features": contexts.followed(main), "neurons": contexts.followed(neurons)}
    splits = {
        name: tuple(float(len(structure.own(subject.features[size], name))) for size in sizes)
        for name in ("base64", "dna", "arabic", "html")
    }
    n_tokens = len(main.test.text.ids)
    edges = np.linspace(-6, 0, 25)
    log_density = np.log10(np.maximum(main.test.columns.count, 0.1) / n_tokens)
    histogram = np.histogram(log_density, edges)[0].astype(float)
    return (
        Figure(
            title="Correlation with the truth of each context", kind="bars", x=names, y="Pearson correlation",
            series={kind: tuple(each[name][0] for name in names) for kind, each in found.items()},
        ),
        Figure(
            title="Specificity by interval of activation", kind="lines", y="share of tokens in the context",
            x=tuple(f"{at / 10:g}" for at in range(1, 11)),
            series={name: _by_interval(subject, name) for name in ("arabic", "hebrew", "dna", "base64")},
        ),
        Figure(title="Features of a context by size of the dictionary", kind="lines", y="features",
               x=tuple(map(str, sizes)), series=splits),
        Figure(
            title="How often features are active", kind="bars", y="features",
            x=tuple(f"{edge:g}" for edge in edges[:-1]),
            series={"log10 of the share of tokens": tuple(histogram.tolist())},
        ),
    )  # fmt: skip


def _by_interval(subject: Subject, name: str) -> tuple[float, ...]:
    label = contexts.LABEL[name]
    shares = subject.main.test.intervals.specificity[int(subject.main.best[label]), :, label]
    return tuple(float(share) for share in shares)
