"""Trains, scores and saves the sparse autoencoders of the specimen that sees.

    python -m specimens.multimodal.dictionary --model DIR --out DIR

One dictionary, a part for the residual stream after each of the last three layers. The scores that are printed and
stored come from documents of another seed than the training's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from specimens.dictionaries import EXAMPLE_SEED, SCORING_SEED, TRAINING_SEED, _print
from specimens.multimodal.corpus import sample_documents
from thoughtscope.atlas import collect_examples
from thoughtscope.dictionaries import Dictionary, evaluate_dictionary, save_dictionary, with_self_test
from thoughtscope.models import Model, load_model
from thoughtscope.training import Recipe, recipes, train_dictionary

NAME = "specimen-multimodal/sae"
LAYERS = (3, 4, 5)
WORDY = 0.6
"""The share of documents without any drawing, as the tokens of drawings are so many."""
VALUES: dict[str, Any] = {
    "n_features": 512,
    "k": 8,
    "data.passes": 4,
    "data.rows": "float16",
    "data.buffer_tokens": 131_072,
    "schedule.n_tokens": 2_000_000,
    "schedule.batch": 1024,
    "schedule.learning_rate": 2e-3,
    "saved": "float16",
}


def recipe(**changes: Any) -> Recipe:
    """BatchTopK autoencoders, with other values where `changes` names them."""
    return recipes.batchtopk_sae([f"resid_post.{layer}" for layer in LAYERS], **{**VALUES, **changes})


def train_autoencoders(model: Model, work: Path | None = None, **changes: Any) -> Dictionary:
    """The dictionary of `recipe`, trained on documents of the mixture."""
    return train_dictionary(
        model,
        lambda: sample_documents(TRAINING_SEED, 400_000, wordy=WORDY),
        recipe(**changes),
        folder=work,
        name=NAME,
        progress=_print,
    )


def main() -> None:
    """Command line: trains the dictionary and prints its scores as one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="specimen-multimodal")
    parser.add_argument("--work", type=Path, help="folder for metrics and checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="other values of the recipe, for example schedule.n_tokens=100000",
    )
    parser.add_argument("--example-tokens", type=int, default=30_000, help="tokens to draw examples from")
    args = parser.parse_args()
    changes = {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.set)}
    model = load_model(args.model)
    dictionary = train_autoencoders(model, args.work, **changes)
    scores = evaluate_dictionary(model, dictionary, sample_documents(SCORING_SEED, 500, wordy=WORDY))
    declared = {"fvu": scores.fvu, "l0": scores.l0, "dead": scores.dead}
    dictionary = with_self_test(model, dictionary, list(sample_documents(SCORING_SEED, 24)))
    save_dictionary(replace(dictionary, card=replace(dictionary.card, declared=declared)), args.out)
    bank = collect_examples(
        model,
        dictionary,
        sample_documents(EXAMPLE_SEED, 100_000, wordy=WORDY),
        max_tokens=args.example_tokens,
        n_top=4,
        n_quantile=1,
        window=(56, 8),  # a whole drawing, where its last token is the strongest
    )
    bank.save(args.out / "features")
    print(json.dumps({"recipe": recipe(**changes).model_dump(mode="json"), "scores": scores.to_json()}))


if __name__ == "__main__":
    main()
