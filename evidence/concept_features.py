"""How many of the specimen's concepts have a feature of their own, and how many a neuron.

The concepts are what the generator wrote (`specimens/annotations.py`), in documents of all kinds in equal shares. For
each concept the feature (or neuron, of either sign) and the threshold of the highest F1 are chosen on tuning documents;
the F1 that counts is that of the same feature and threshold on held-out documents of another seed. Concepts that either
half shows on fewer than `LEAST` tokens are left out.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from statistics import mean
from typing import Any

from _claim import Measured, main
from _specimen import KINDS, load, specimen

TOKENS, LEAST, WANTED = 60_000, 8, 0.9
ROWS = 32
"""Documents in one forward pass."""


@dataclass(frozen=True)
class Half:
    """Tokens of some documents: what the sites hold there, by token, and on which of them each concept occurs."""

    held: Mapping[Any, Any]
    occurrences: Mapping[str, Any]


def measure(seed: int) -> Measured:
    """The cross-layer dictionary gives the value; the details have both, and the families of concepts."""
    from specimens.corpus import SHARES, Mixture

    mixture = Mixture(shares=dict.fromkeys(SHARES, 1.0))
    halves = [gather(mixture, Random(f"{name}:{seed}")) for name in ("tuning", "held out")]
    concepts = sorted(
        name for name in halves[0].occurrences
        if all(len(half.occurrences.get(name, ())) >= LEAST for half in halves)
    )  # fmt: skip
    neurons = found(*halves, concepts, neuron_units())
    details: dict[str, Any] = {"concepts": len(concepts), "tokens": TOKENS, "neurons": shown(neurons)}
    for kind in KINDS:
        details[kind] = shown(found(*halves, concepts, feature_units(kind)))
    return Measured(
        value=details["clt"]["count"], n=len(concepts), control=details["neurons"]["count"], details=details
    )


def gather(mixture: Any, draw: Random) -> Half:
    """Runs the model over documents until there are enough tokens; first positions are left out."""
    import torch

    from thoughtscope import Site, capture, tokenize

    model = specimen()
    sites = [Site(kind, layer) for kind in ("mlp_in", "mlp_act") for layer in range(model.n_layers)]
    rows: dict[Any, list[Any]] = defaultdict(list)
    where: dict[str, list[int]] = defaultdict(list)
    n = 0
    while n < TOKENS:
        texts = [mixture.draw(draw)[1] for _ in range(ROWS)]
        tokens = tokenize(model, texts)
        acts = capture(model, tokens, sites)
        keep = tokens.positions > 0
        for site in sites:
            rows[site].append(acts[site][keep])
        for row, text in enumerate(texts):
            for concept, position in occurrences(text, tokens.offsets[row]):
                where[concept].append(n + position - 1)
            n += len(tokens.offsets[row]) - 1
    return Half(
        held={site: torch.cat(rows[site]) for site in sites},
        occurrences={concept: torch.tensor(found) for concept, found in where.items()},
    )


def occurrences(text: str, offsets: Any) -> set[tuple[str, int]]:
    """(concept, position) of one document; positions from 1."""
    from specimens.annotations import mentions

    found = set()
    for mention in mentions(text):
        start, end = len(text[: mention.start].encode()), len(text[: mention.end].encode())
        covered = [
            at for at, (left, right) in enumerate(offsets) if left < end and right > start and left < right
        ]
        found |= {(mention.concept, at) for at in (covered if mention.whole else covered[-1:])}
    return found


Units = list[tuple[str, Callable[[Half], Any]]]
"""Groups of units by name, and what makes their values (row, unit)."""


def feature_units(kind: str) -> Units:
    """The features of one dictionary, a group each part."""
    model, dictionary = load(kind)
    from thoughtscope.dictionaries import resident

    dictionary = resident(dictionary, device=model.device)
    return [(part.name, lambda half, part=part: part.activations(half.held)) for part in dictionary.parts]


def neuron_units() -> Units:
    """The model's neurons, a group each layer."""
    from thoughtscope import Site

    return [
        (str(layer), lambda half, layer=layer: half.held[Site("mlp_act", layer)])
        for layer in range(specimen().n_layers)
    ]


def found(tuning: Half, held_out: Half, concepts: list[str], units: Units) -> dict[str, Any]:
    """By concept: which unit was chosen, and its scores on the held-out documents."""
    from thoughtscope.evaluation import choose_detectors, detect

    best: dict[str, tuple[str, Any]] = {}
    for name, values_of in units:
        values = values_of(tuning)
        for concept, one in zip(
            concepts, choose_detectors(values, [tuning.occurrences[each] for each in concepts]), strict=True
        ):
            if concept not in best or one.f1 > best[concept][1].f1:
                best[concept] = (name, one)
    scores: dict[str, Any] = {}
    for name, values_of in units:
        values = values_of(held_out)
        scores |= {
            concept: (f"{name}/{one.unit}", one, detect(values, one, held_out.occurrences[concept]))
            for concept, (group, one) in best.items()
            if group == name
        }
    return scores


def shown(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The count, by family of concepts too, and the best of each family."""
    good = {concept for concept, (_, _, score) in scores.items() if score.f1 >= WANTED}
    family = lambda concept: concept.split("/")[0]  # noqa: E731
    all_of, good_of = Counter(map(family, scores)), Counter(map(family, good))
    return {
        "count": len(good),
        "units": len({scores[concept][0] for concept in good}),
        "families": {
            name: {
                "good": good_of[name],
                "of": all_of[name],
                "mean_f1": round(mean(s.f1 for c, (_, _, s) in scores.items() if family(c) == name), 3),
            }
            for name in sorted(all_of)
        },
        "examples": {
            concept: {"unit": unit, "precision": round(score.precision, 3), "recall": round(score.recall, 3)}
            for concept, (unit, _, score) in sorted(scores.items(), key=lambda one: -one[1][2].f1)[:80]
        },
    }


if __name__ == "__main__":
    main(
        measure,
        claim="Concepts of the specimen's generator (states, digits, rhymes, words, languages) that a single feature "
        "of the cross-layer transcoder detects with F1 of at least 0.9 on held-out documents (count; control: "
        "neurons).",
    )
