"""Whether a judge who reads a label can tell where its feature is active, on documents that it was not made from.

The judge is whoever answers at THOUGHTSCOPE_JUDGE_URL (an OpenAI-compatible address, with the model's name in
THOUGHTSCOPE_JUDGE_MODEL and a key, if one is needed, in THOUGHTSCOPE_JUDGE_KEY): to name it there is to agree that the
excerpts go to it, and what that takes is said before. Without it the judge is SmolLM2-135M-Instruct, which is a weak
one. Labels are those that rules make of the strongest tokens and words around them (`auto`), and SmolLM2's own
(`asked`). Beside them: each label given to another feature, the strongest tokens alone, and the same rules on a
dictionary of a model with random weights.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

from _claim import Measured, Unavailable, main, told
from _smollm2 import load

FEATURES, CONTEXTS, SHOWN, EXAMPLES = 10, 20, 5, 10
RANDOM_FEATURES, RANDOM_TOKENS = 1024, 60_000
"""Of the dictionary that is trained on the model with random weights."""
PART = 1
URL, MODEL, KEY = (f"THOUGHTSCOPE_JUDGE_{name}" for name in ("URL", "MODEL", "KEY"))


def measure(seed: int) -> Measured:
    """Features by chance, of those active often enough; half of the documents explain, half are judged."""
    from thoughtscope.assistants import Local
    from thoughtscope.atlas.explaining import averages, compare, explain
    from thoughtscope.atlas.explaining.explain import counts_of

    model, dictionary = load("sae")
    judge, scorer = judge_of(model)
    contexts = contexts_of_features(model, dictionary, PART, seed)
    asked = explain(Local(model=model), list(contexts.values()))
    labels = {
        "auto": auto_labels(contexts),
        "asked": {
            key: each.label for key, each in zip(contexts, asked, strict=True) if each.label is not None
        },
    }
    told({"labels": labels, "asked": counts_of(asked)})
    random = contexts_of_random(model, dictionary, seed)
    options: dict[str, Any] = {"assistant": judge, "model": model, "seed": seed, "consent": agreed}
    scorers = [scorer, "embedding", "surprisal"]
    means = averages(compare(labels, contexts, scorers=scorers, **options))
    means |= {
        f"random weights, {kind}": each
        for kind, each in averages(
            compare({"auto": auto_labels(random)}, random, scorers=scorers, **options)
        ).items()
    }
    for kind, each in means.items():
        told({kind: each})
    judged = {kind: each["detection"] for kind, each in means.items() if each}
    if "balanced_accuracy" not in judged["auto"]:
        raise Unavailable(
            f"{judge.name} gave no verdict that could be read: {judged['auto']['unparsed']} answers"
        )
    return Measured(
        value=judged["auto"]["balanced_accuracy"],
        n=judged["auto"]["n"],
        control={kind: each.get("balanced_accuracy") for kind, each in judged.items() if kind != "auto"},
        details={"judge": judge.name, "asked": counts_of(asked), "labels": labels, "scores": means},
    )


def judge_of(model: Any) -> tuple[Any, Any]:
    """Who judges, and how it is asked: a weak judge sees one excerpt at a time."""
    from thoughtscope.assistants import Endpoint, Local
    from thoughtscope.atlas.explaining import Detection

    url, name = os.environ.get(URL), os.environ.get(MODEL)
    if url is None:
        return Local(model=model), Detection(shown=1, logprobs=20)
    if name is None:
        raise Unavailable(f"{URL} is set, and {MODEL} does not say which model is asked there")
    return Endpoint(url=url, model=name, key_from=KEY if KEY in os.environ else None), Detection(shown=SHOWN)


def agreed(estimate: Any) -> bool:
    """Whoever has named a judge wants it asked; what that takes is said before anything is sent."""
    print(estimate, file=sys.stderr, flush=True)
    return True


def contexts_of_features(model: Any, dictionary: Any, part: int, seed: int) -> dict[str, Any]:
    """The contexts of some features of a part, on the text of the shipped dictionary's bank."""
    from random import Random

    from thoughtscope.atlas import record
    from thoughtscope.atlas.explaining import Excerpts, contexts_of, firing_together, scorable

    documents = documents_of_bank()
    width = max(map(len, documents))
    found = record(model, dictionary, documents, max_tokens=sum(map(len, documents)), context=width)
    assert found is not None
    excerpts = Excerpts.of(found.ids, found.starts, seed=seed)
    able = scorable(found, part, excerpts, least=CONTEXTS // 2)
    chosen = sorted(Random(seed).sample(able, min(FEATURES, len(able))))
    contexts = contexts_of(
        model,
        found,
        part,
        chosen,
        excerpts=excerpts,
        neighbours=firing_together(found, part, chosen),
        n_explain=EXAMPLES,
        n_active=CONTEXTS // 2,
        n_silent=CONTEXTS // 2,
        seed=seed,
    )
    return {f"{dictionary.parts[part].name}/{index}": each for index, each in contexts.items()}


def contexts_of_random(model: Any, dictionary: Any, seed: int) -> dict[str, Any]:
    """The same of an autoencoder at the same site of the model with random weights."""
    from thoughtscope.models.random_models import with_random_weights
    from thoughtscope.training import recipes, train_dictionary

    random = with_random_weights(model, seed=seed)
    recipe = recipes.sae(str(dictionary.parts[PART].reads[0]), n_features=RANDOM_FEATURES, k=32)
    recipe = recipe.replaced({"schedule.n_tokens": RANDOM_TOKENS})
    trained = train_dictionary(random, documents_of_bank(), recipe)
    return contexts_of_features(random, replace(trained, name="random", scan="random"), 0, seed)


def documents_of_bank() -> list[list[int]]:
    from thoughtscope.atlas import bank_of

    bank = bank_of(load("sae")[1])
    if bank is None:
        raise Unavailable("smollm2/sae has no bank whose text could be read")
    return [bank.ids[start:end].tolist() for start, end in pairwise(bank.starts.tolist())]


def auto_labels(contexts: dict[str, Any]) -> dict[str, str]:
    """The label that rules make of a feature, from the excerpts for explaining alone."""
    from thoughtscope.atlas import auto_label

    found = {}
    for key, each in contexts.items():
        examples = [
            {"tokens": list(one.pieces), "train_token_ind": one.values.index(one.largest)}
            for one in each.explaining
        ]
        label = auto_label({"examples_quantiles": [{"examples": examples}]})
        found[key] = label or "nothing in particular"
    return found


if __name__ == "__main__":
    main(
        measure,
        claim="Balanced accuracy with which a judge who reads an automatic label of a feature of SmolLM2's autoencoder "
        "tells excerpts on which it is active from others (control: labels exchanged, the strongest tokens, labels "
        "that SmolLM2 was asked for, and a dictionary of the model with random weights).",
        paper="0.5 is chance",
    )
