"""Trains, scores and saves the specimen's dictionaries and their example banks.

    python -m specimens.dictionaries --kind clt --text FOLDER --out src/thoughtscope/assets/specimen/clt

`--kind clt` is the cross-layer transcoder, `plt` one transcoder a layer. Training stops and resumes at its last
checkpoint in `--work`. The scores that are printed and stored come from documents of another seed than the training's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from specimens.corpus import sample_documents
from thoughtscope.atlas import collect_examples
from thoughtscope.dictionaries import evaluate_dictionary, save_dictionary, with_self_test
from thoughtscope.models import load_model
from thoughtscope.training import Recipe, recipes, train_dictionary

TRAINING_SEED, SCORING_SEED, EXAMPLE_SEED = 1, 2, 3
RECIPES = {"clt": recipes.clt, "plt": recipes.transcoder}
VALUES = {
    "n_features": 1536,
    "k": 4.9,
    "data.passes": 2,
    "data.rows": "float16",
    "schedule.batch": 2048,
    "schedule.learning_rate": 3e-3,
    "saved": "float16",
}
N_TOKENS = {"clt": 8_000_000, "plt": 6_000_000}


def recipe(kind: str, n_layers: int, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of one of the specimen's dictionaries, with other values where `changes` names them."""
    return RECIPES[kind](n_layers, **{**VALUES, "schedule.n_tokens": N_TOKENS[kind], **changes})


def main() -> None:
    """Command line: trains one dictionary and prints its scores as one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=RECIPES, required=True)
    parser.add_argument("--model", default="specimen")
    parser.add_argument("--text", type=Path, help="folder of text; without it the grammars alone")
    parser.add_argument("--work", type=Path, help="folder for metrics and checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="other values of the recipe, for example schedule.n_tokens=100000",
    )
    parser.add_argument("--documents", type=int, default=2000, help="documents to score on")
    parser.add_argument("--example-tokens", type=int, default=100_000, help="tokens to draw examples from")
    args = parser.parse_args()
    changes = {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.set)}
    model = load_model(args.model)
    chosen = recipe(args.kind, model.n_layers, changes)
    dictionary = train_dictionary(
        model,
        lambda: sample_documents(TRAINING_SEED, 400_000, args.text),
        chosen,
        folder=args.work,
        name=f"specimen/{args.kind}",
        progress=_print,
    )
    scores = evaluate_dictionary(model, dictionary, sample_documents(SCORING_SEED, args.documents, args.text))
    declared = {"fvu": scores.fvu, "l0": scores.l0, "dead": scores.dead}
    # What ships shows generated documents only: the texts that trained the weights are other people's.
    dictionary = with_self_test(model, dictionary, list(sample_documents(SCORING_SEED, 24)))
    save_dictionary(replace(dictionary, card=replace(dictionary.card, declared=declared)), args.out)
    bank = collect_examples(
        model,
        dictionary,
        sample_documents(EXAMPLE_SEED, 100_000),
        max_tokens=args.example_tokens,
        n_top=6,
        n_quantile=1,
        window=(20, 10),
    )
    bank.save(args.out / "features")
    print(
        json.dumps({"kind": args.kind, "recipe": chosen.model_dump(mode="json"), "scores": scores.to_json()})
    )


def _print(stage: str, done: int, total: int | None, **figures: float) -> None:
    if done % 50 == 0:
        print(json.dumps({"step": done, "n_steps": total, **figures}), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
