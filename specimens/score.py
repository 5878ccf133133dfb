"""Score a model on the held-out prompts: ``python -m specimens.score --model DIR [--json]``.

Every answer is a greedy continuation, compared whole: a capital up to its full stop, a word up to
its closing quotation mark, a sum up to the end of its line, a couplet's second line. Weights are
used as they are stored (the shipped ones are rounded to float16), in float32 arithmetic.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from specimens import facts
from specimens.corpus import evaluation_text, held_out, train_two_hop
from specimens.facts import CoupletPrompt, families
from specimens.tables import KINDS, LANGUAGES, pairs

HALVES = ("validation", "test")
Scores = dict[str, dict[str, float | int]]


def load(folder: Path) -> tuple[PreTrainedModel, Tokenizer]:
    """Model (float32, evaluation mode) and tokenizer of a folder, without any network."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no model: config.json is missing; give an export folder")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), tokenizer


@torch.no_grad()
def continuations(
    model: PreTrainedModel, tokenizer: Tokenizer, prompts: Sequence[str], tokens: int
) -> list[str]:
    """Greedy continuations of at most ``tokens`` tokens, one a prompt, end token removed.

    Prompts of equal length run together, so nothing is padded.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    encoded = tokenizer(list(prompts))["input_ids"]
    for index, ids in enumerate(encoded):
        groups[len(ids)].append(index)
    out = [""] * len(prompts)
    for length, members in groups.items():
        for start in range(0, len(members), 64):
            some = members[start : start + 64]
            ids = torch.tensor([encoded[index] for index in some])
            full = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
            )
            texts = tokenizer.batch_decode(full[:, length:], skip_special_tokens=True)
            for index, text in zip(some, texts, strict=True):
                out[index] = text
    return out


def tally(halves: Iterable[str], right: Iterable[bool]) -> Scores:
    """Number of prompts, number right and their quotient, for all prompts and for each half."""
    count: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for half, good in zip(halves, right, strict=True):
        for key in ("all", half):
            count[key][0] += 1
            count[key][1] += int(good)
    return {
        key: {"n": n, "right": good, "share": round(good / n, 4)} for key, (n, good) in sorted(count.items())
    }


def _until(text: str, end: str) -> str:
    return text.split(end, 1)[0]


def couplet_verdict(prompt: CoupletPrompt, line: str) -> tuple[bool, bool]:
    """Whether a second line ends on a right rhyme, and whether the whole line fits as well."""
    line = _until(line, "\n").rstrip(".")
    last = line.split(" ")[-1]
    rhymes = any(n.noun == last != prompt.noun for n in families()[prompt.family])
    return rhymes, line in prompt.answers


def score_two_hop(model: PreTrainedModel, tokenizer: Tokenizer) -> dict[str, Scores]:
    """Two-hop questions about held-out cities, and about trained ones as a control."""
    out = {}
    for name, cases in (("two_hop", held_out().two_hop), ("two_hop_trained", train_two_hop())):
        texts = continuations(model, tokenizer, [c.prompt for c in cases], 6)
        right = [_until(t, ".") == c.answer for t, c in zip(texts, cases, strict=True)]
        out[name] = tally([c.half for c in cases], right)
    return out


def score_opposites(model: PreTrainedModel, tokenizer: Tokenizer) -> dict[str, Scores]:
    """Held-out opposites by language, and trained ones of the same form as a control."""
    out = {}
    for lang in LANGUAGES:
        for kind in KINDS:
            cases = [c for c in held_out().opposites if (c.language, c.kind) == (lang, kind)]
            texts = continuations(model, tokenizer, [c.prompt for c in cases], 8)
            right = [_until(t, '"') == c.answer for t, c in zip(texts, cases, strict=True)]
            out[f"opposites_{lang}_{kind}"] = tally([c.half for c in cases], right)
        known = [p for p in pairs() if p.held != lang]
        prompts = [facts.OPPOSITE_PROMPT[lang].format(a=p.first[lang]) for p in known]
        texts = continuations(model, tokenizer, prompts, 8)
        right = [_until(t, '"') == p.second[lang] for t, p in zip(texts, known, strict=True)]
        out[f"opposites_{lang}_trained"] = tally(["train"] * len(known), right)
    return out


def score_sums(model: PreTrainedModel, tokenizer: Tokenizer) -> dict[str, Scores]:
    """Held-out sums of two two-digit numbers."""
    cases = held_out().sums
    texts = continuations(model, tokenizer, [c.prompt for c in cases], 5)
    right = [_until(t, "\n") == c.answer for t, c in zip(texts, cases, strict=True)]
    return {"sums": tally([c.half for c in cases], right)}


def score_couplets(model: PreTrainedModel, tokenizer: Tokenizer) -> dict[str, Scores]:
    """Second lines after held-out first lines: right rhyme, and everything right."""
    cases = held_out().couplets
    texts = continuations(model, tokenizer, [c.prompt for c in cases], 16)
    verdicts = [couplet_verdict(c, t) for c, t in zip(cases, texts, strict=True)]
    halves = [c.half for c in cases]
    return {
        "couplets_rhyme": tally(halves, [v[0] for v in verdicts]),
        "couplets": tally(halves, [v[1] for v in verdicts]),
    }


@torch.no_grad()
def text_loss(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path, most: int = 400) -> float:
    """Mean loss (nats a token) on ``most`` evaluation texts, each cut to 128 tokens."""
    total, count = 0.0, 0
    for text in evaluation_text(folder)[:: max(1, len(evaluation_text(folder)) // most)]:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)["input_ids"]
        total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return round(total / count, 4)


def score(model: PreTrainedModel, tokenizer: Tokenizer) -> dict[str, Scores]:
    """All tasks: name -> scores for all prompts and for each half."""
    out: dict[str, Scores] = {}
    for task in (score_two_hop, score_opposites, score_sums, score_couplets):
        out.update(task(model, tokenizer))
    return out


def main() -> None:
    """Command line: print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported model")
    parser.add_argument("--text", type=Path, help="text folder: adds the loss on evaluation text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load(args.model)
    result: dict[str, object] = dict(score(model, tokenizer))
    if args.text:
        result["text_loss"] = text_loss(model, tokenizer, args.text)
    if args.json:
        print(json.dumps(result))
        return
    for name, scores in result.items():
        if not isinstance(scores, dict):
            print(f"{name:24s} {scores}")
            continue
        parts = [f"{key} {s['right']}/{s['n']} = {s['share']:.1%}" for key, s in scores.items()]
        print(f"{name:24s} " + "   ".join(parts))


if __name__ == "__main__":
    main()
