"""Scores a model on drawings of held-out styles and on words: ``python -m specimens.multimodal.score --model DIR``.

Every answer is a greedy continuation, compared up to the first stop. Drawings and words are asked the same questions.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

from specimens.multimodal.corpus import NEXT, PARITY, heading
from specimens.multimodal.drawings import drawing
from specimens.multimodal.words import DIGITS, LANGUAGES, SHAPES, THINGS, WORDS
from specimens.score import Scores, continuations, load, tally

EACH = 12
"""Drawings of each thing."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt about one thing, and its answer."""

    task: str
    """What is asked and of what: "name/held_out" of a drawing in a held-out style, "parity/word", …"""
    prompt: str
    answer: str
    thing: str

    @property
    def group(self) -> str:
        """What the scores are split by."""
        return "shapes" if self.thing in SHAPES else "digits"


def questions(seed: int = 0, each: int = EACH) -> list[Question]:
    """Naming, counting on and parity, of `each` drawings of held-out styles, of as many trained ones, and of words."""
    rng, found = Random(f"questions:{seed}"), []
    for thing in THINGS:
        for number in range(each):
            asked = LANGUAGES[number % len(LANGUAGES)]
            shown = {
                "held_out": drawing(thing, rng, held_out=True),
                "trained": drawing(thing, rng),
                "word": WORDS[asked][thing],
            }
            for what, x in shown.items():
                found += _about(what, x, thing, asked, rng)
    return found


def _about(what: str, x: str, thing: str, asked: str, rng: Random) -> list[Question]:
    wanted = rng.choice([language for language in LANGUAGES if language != asked])
    made = [("name", f"{heading(asked, wanted, 0)} {x}", WORDS[wanted][thing])]
    if thing in DIGITS[:-1]:
        made.append(("plus_one", f"{heading(asked, wanted, 1)} {x}", WORDS[wanted][DIGITS[int(thing) + 1]]))
        frame = NEXT[asked][0].removesuffix(" {a}.")
        made.append(("sentence", frame.format(x=x), WORDS[asked][DIGITS[int(thing) + 1]]))
    if thing in DIGITS:
        frame, *answers = PARITY[asked]
        made.append(("parity", frame.removesuffix(" {a}.").format(x=x), answers[int(thing) % 2]))
    return [
        Question(task=f"{task}/{what}", prompt=prompt[0].upper() + prompt[1:], answer=answer, thing=thing)
        for task, prompt, answer in made
    ]


def score(model: object, tokenizer: object, seed: int = 0, each: int = EACH) -> dict[str, Scores]:
    """By task and kind of input: scores for all things, and for digits and shapes apart."""
    asked = questions(seed, each)
    texts = continuations(model, tokenizer, [one.prompt for one in asked], 6)
    out = {}
    for task in dict.fromkeys(one.task for one in asked):
        some = [(one, text) for one, text in zip(asked, texts, strict=True) if one.task == task]
        right = [re.split("[.,]", text)[0].strip() == one.answer for one, text in some]
        out[task] = tally([one.group for one, _ in some], right)
    return out


def main() -> None:
    """Command line: print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = score(*load(args.model), seed=args.seed)
    if args.json:
        print(json.dumps(result))
        return
    for name, scores in result.items():
        parts = [f"{key} {s['right']}/{s['n']} = {s['share']:.1%}" for key, s in scores.items()]
        print(f"{name:28s} " + "   ".join(parts))


if __name__ == "__main__":
    main()
