"""Trains, scores and saves dictionaries of SmolLM2-135M-Instruct: skip transcoders, and autoencoders at three depths.

    python -m specimens.smollm2.dictionaries transcoders --work runs/smollm2 --text FOLDER
    python -m specimens.smollm2.dictionaries sae --work runs/smollm2 --text FOLDER

The documents are the texts of a folder and conversations of the model's own; without `--text`, its conversations
alone. What is written, drawn or trained lies in `--work`, and the same command goes on where it was stopped. Two cores
take about an hour for each of the two kinds. What is finished becomes a dictionary with a short name,
`smollm2/transcoders` or `smollm2/sae`, in the user's data folder or in `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from specimens.smollm2.text import documents as text_documents
from thoughtscope.core.files import atomic_write_text
from thoughtscope.core.progress import Progress
from thoughtscope.dictionaries.named import made_at
from thoughtscope.training import Recipe, recipes

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary
    from thoughtscope.models import Model

DEPTHS = (6, 12, 18)
"""Of 30 blocks; at the middle one, a country's residual stream put in another's place moves the answer with it."""
SCHEDULE = {"schedule.batch": 2048, "data.buffer_tokens": 65_536, "data.passes": 2, "checkpoint_minutes": 8}
CONVERSATIONS = {"with text": 574, "alone": 4000}
TOGETHER = 192
EVERY = 3
"""Pieces of text to a conversation."""
CONVERSATION_TOKENS = 200
HELD_OUT_CONVERSATIONS = 64
L0 = {"transcoders": 35.0}
"""Active features a token and layer on the training's documents, once it is over: other texts have a few more."""
BANK_TOKENS = {"transcoders": 100_000, "sae": 400_000}


def recipe(kind: str, n_layers: int) -> Recipe:
    """The recipe of one kind of dictionary."""
    if kind == "transcoders":
        rates = {"schedule.n_tokens": 2_000_000, "schedule.learning_rate": 2.5e-3, "saved": "bfloat16"}
        return recipes.skip_transcoder(n_layers, n_features=4096, k=38, **SCHEDULE, **rates)
    sites = [f"resid_post.{depth}" for depth in DEPTHS]
    rates = {"schedule.n_tokens": 2_000_000, "schedule.learning_rate": 1.5e-3, "saved": "bfloat16"}
    return recipes.batchtopk_sae(sites, n_features=8192, k=40, **SCHEDULE, **rates)


def main() -> None:
    """Command line: writes the documents, trains, scores, saves, collects examples."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("kind", choices=("transcoders", "sae"))
    options.add_argument("--model", default="smollm2")
    options.add_argument(
        "--text", type=Path, help="folder of text; without it, the model's own conversations"
    )
    options.add_argument("--work", type=Path, required=True, help="folder of documents, metrics, checkpoints")
    options.add_argument("--out", type=Path, help="default: the user's data folder, under its short name")
    options.add_argument("--score-tokens", type=int, default=40_000)
    options.add_argument("--bank-tokens", type=int, help="tokens to draw examples from")
    options.add_argument(
        "--own-words", action="store_true", help="examples from the model's conversations alone"
    )
    options.add_argument("--int8", action="store_true", help="save matrices in eight bits, a scale a row")
    make(options.parse_args())


def make(chosen: argparse.Namespace) -> None:
    """Documents and training are gone on with where they are there already; scores and examples are made anew."""
    from thoughtscope.models import load_model
    from thoughtscope.training.home import train_into

    model = load_model(chosen.model, dtype="bfloat16")
    train, held = prepare(model, chosen.work / "text", chosen.text)
    trained = train_into(
        chosen.work / chosen.kind,
        recipe(chosen.kind, model.n_layers),
        model=model,
        data=f"jsonl:{train}#text",
        name=f"smollm2/{chosen.kind}",
        progress=told(),
    )
    finish(chosen, load_model(chosen.model), trained, train=train, held=held)


def finish(chosen: argparse.Namespace, model: Model, trained: Dictionary, *, train: Path, held: Path) -> None:
    """Scores on what is held out, a self-test, and examples, with the dictionary where it is looked for."""
    from thoughtscope.atlas import collect_examples
    from thoughtscope.dictionaries import evaluate_dictionary, save_dictionary, with_l0, with_self_test
    from thoughtscope.dictionaries.scores import declare

    if wanted := L0.get(chosen.kind):
        trained = with_l0(model, trained, lines(train), l0=wanted, progress=told())
    scored = evaluate_dictionary(model, trained, lines(held), max_tokens=chosen.score_tokens, progress=told())
    # What is kept with the weights is in the model's own words: the texts that trained them are other people's.
    own = list(islice(conversations(held), 24))
    finished = with_self_test(model, declare(replace(trained, model_name="smollm2"), scored), own)
    out = chosen.out or made_at(f"smollm2/{chosen.kind}")
    save_dictionary(finished, out, store="int8" if chosen.int8 else None)
    shown = conversations(train) if chosen.own_words else lines(train)
    bank = collect_examples(
        model, finished, shown, max_tokens=chosen.bank_tokens or BANK_TOKENS[chosen.kind],
        n_top=6, n_quantile=1, window=(20, 10), progress=told(),
    )  # fmt: skip
    bank.save(out / "features")
    print(json.dumps({"dictionary": str(out), "scores": scored.to_json()}))


def prepare(model: Model, place: Path, text: Path | None) -> tuple[Path, Path]:
    """The documents to train on and those held out, as JSONL files; written once."""
    train, held = place / "train.jsonl", place / "held_out.jsonl"
    if train.is_file() and held.is_file():
        return train, held
    place.mkdir(parents=True, exist_ok=True)
    n = CONVERSATIONS["with text" if text else "alone"]
    asked = list(drawn(model, seed=0, n=n))
    texts: list[Any] = text_documents(text, held_out=False) if text else []
    write(held, [*drawn(model, seed=1, n=HELD_OUT_CONVERSATIONS),
                 *(text_documents(text, held_out=True) if text else [])])  # fmt: skip
    write(train, mixed(texts, asked))
    return train, held


def drawn(model: Model, *, seed: int, n: int) -> Iterator[list[int]]:
    """Conversations of the model's own, as token ids."""
    from thoughtscope.training.data.samples import Sampling, samples

    progress = told()
    for number, ids in enumerate(
        samples(
            model, Sampling(tokens=CONVERSATION_TOKENS, seed=seed, n=n, chat=1, together=min(n, TOGETHER))
        ),
        start=1,
    ):
        progress("converse", number, n)
        yield ids


def mixed(texts: list[Any], conversations: list[Any]) -> list[Any]:
    """Conversations at random places among the first `EVERY` times as many texts.

    At random, as the training's reader deals documents out in turns: any fixed rhythm would give it the conversations
    first and the texts later.
    """
    found = [(float(number), text) for number, text in enumerate(texts)]
    last, draw = min(len(texts), EVERY * len(conversations)), Random(0)
    found += [(draw.uniform(0, last), conversation) for conversation in conversations]
    return [each for _, each in sorted(found, key=itemgetter(0))]


def write(path: Path, found: list[Any]) -> None:
    atomic_write_text(path, "".join(json.dumps({"text": each}, ensure_ascii=False) + "\n" for each in found))


def lines(path: Path) -> Iterator[Any]:
    """The documents of such a file: texts, and conversations as token ids."""
    with path.open(encoding="utf-8") as opened:
        for line in opened:
            yield json.loads(line)["text"]


def conversations(path: Path) -> Iterator[list[int]]:
    return (each for each in lines(path) if isinstance(each, list))


def told() -> Progress:
    """Prints where the work stands, once a minute."""
    last = [0.0]

    def progress(stage: str, done: int, total: int | None, **figures: float) -> None:
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            said = {"stage": stage, "done": done, "total": total, **figures}
            print(json.dumps(said), file=sys.stderr, flush=True)

    return progress


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
