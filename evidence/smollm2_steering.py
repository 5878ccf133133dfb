"""Features of the real model turned up: do its answers speak of the feature's concept, and what does that cost?

1. For each concept of `specimens.smollm2.concepts` (word lists written before any dictionary was looked at), the
   autoencoders' features are told apart by how much more often they are active on words of its own list than on the
   others', in sentences that say one word. The `POOL` best ones of all parts are set to multiples (`LIFT`) of their
   largest activation while the model reads its own answers to tuning prompts; the `CANDIDATES` that make the concept's
   words likeliest there are tried.
2. Each is set to multiples of its largest activation on held-out text, at every position, the error term kept. Of what
   leaves the answers' perplexity under `PRICE` times the unsteered ones', the feature and the multiple are kept with
   which most answers to the tuning prompts mention the concept; of several, those with the least perplexity. The
   `KEPT` concepts with the largest shares go on: no small dictionary has a feature for everything.
3. Answers to other prompts are drawn: unsteered, steered, and with a random feature of the same part in its place,
   whose decoder is set to the same length. An answer mentions the concept if it contains one of its words.

The price is the perplexity of an answer under the unsteered model.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from statistics import mean, median
from typing import Any

from _claim import Measured, main, told
from _smollm2 import documents, load
from _spans import tokens_of

TUNING = (
    "Tell me something interesting.",
    "Write a short story.",
    "What did you do yesterday?",
    "Give me some advice.",
    "What is on your mind?",
    "Say something about the world.",
)
PROMPTS = (
    "Describe a nice day.",
    "Tell me about yourself.",
    "What should I do this weekend?",
    "Write a letter to a friend.",
    "What do you think about life?",
    "Write the beginning of a novel.",
    "Explain something that you know well.",
    "What makes people happy?",
    "Tell me a joke.",
    "What is important in a good conversation?",
)
SENTENCES = ("I was thinking about the {}.", "They talked about {} for a while.", "This is a text about {}")
MULTIPLES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
POOL, CANDIDATES, KEPT = 40, 4, 20
LIFT, LIFT_TOKENS = (1.5, 3.0), 16
PRICE = 8.0
NEW_TOKENS = 60
TEMPERATURE = 0.7
LARGEST_TOKENS = 20_000
PRICES = {"steered": "perplexity", "random": "perplexity_random", "unsteered": "perplexity_unsteered"}
FIRING = 0.3
"""A feature is active on at least this share of its own words."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A feature that may stand for a concept."""

    part: str
    index: int
    largest: float
    contrast: float


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What the tuning prompts chose for a concept, and what it did there."""

    concept: str
    feature: Candidate
    multiple: float
    share: float
    price: float


def measure(seed: int) -> Measured:
    """One answer a prompt, feature and condition."""
    import torch

    with torch.no_grad():
        tuned = [told(chosen(concept, found, seed)) for concept, found in candidates() if found]
        best = sorted(tuned, key=lambda each: (-each.share, each.price))[:KEPT]
        rows = [told(steered(each, seed)) for each in best]
    names = ("mentions", "mentions_random", "mentions_unsteered")
    return Measured(
        value=round(mean(row["mentions"] for row in rows), 4),
        n=len(rows) * len(PROMPTS),
        control={
            "random": round(mean(row["mentions_random"] for row in rows), 4),
            "unsteered": round(mean(row["mentions_unsteered"] for row in rows), 4),
        },
        details={
            "features": len(rows),
            "perplexity": {name: round(median(row[key] for row in rows), 2) for name, key in PRICES.items()},
            "tuning": {each.concept: each.share for each in tuned},
            "above_a_half": sum(row["mentions"] > 0.5 for row in rows),
            "by_concept": {
                row["concept"]: {
                    key: row[key]
                    for key in ("feature", "multiple", "tuning", *names, "perplexity", "example")
                }
                for row in rows
            },
            "new_tokens": NEW_TOKENS,
            "temperature": TEMPERATURE,
            "price": PRICE,
        },
    )


# --- features ------------------------------------------------------------------------------------------------------


def candidates() -> Iterator[tuple[str, list[Candidate]]]:
    """By concept, the features of its pool that raise its words most, the best first."""
    from specimens.smollm2.concepts import CONCEPTS

    _, dictionary = load("sae", "bfloat16")
    tables = [(part, contrasts(part), largest_activations(part)) for part in dictionary.parts]
    for number, (concept, words) in enumerate(CONCEPTS.items()):
        found = [
            each for part, contrast, largest in tables for each in strongest(part, contrast[number], largest)
        ]
        pool, firsts = sorted(found, key=lambda each: -each.contrast)[:POOL], first_tokens(words)
        yield concept, sorted(pool, key=lambda each: -lift(each, firsts))[:CANDIDATES]


def strongest(part: Any, contrast: Any, largest: Any) -> Iterator[Candidate]:
    """The part's features with most contrast that are ever active."""
    values, indices = (contrast * (largest > 0)).topk(POOL)
    for value, index in zip(values.tolist(), indices.tolist(), strict=True):
        if value > 0:
            yield Candidate(part=part.name, index=index, largest=float(largest[index]), contrast=value)


def contrasts(part: Any) -> Any:
    """(concept, feature): how much more often active on the concept's own words; 0 where on few of them."""
    import torch

    firing = torch.stack([share_active(part, words) for words in lists()])
    others = (firing.sum(0) - firing) / (len(firing) - 1)
    return (firing - others).clamp(min=0) * (firing >= FIRING)


def first_tokens(words: tuple[str, ...]) -> list[int]:
    """The tokens by which the words begin, within a text and at its start."""
    model, _ = load("sae", "bfloat16")
    spelled = [f"{before}{word}" for word in words for before in (" ", "")]
    return sorted({model.tokenizer(each, add_special_tokens=False)["input_ids"][0] for each in spelled})


def lift(feature: Candidate, firsts: list[int]) -> float:
    """The chance of these tokens, mean over the model's own answers, with the feature turned up."""
    from thoughtscope.models import forward

    model, dictionary = load("sae", "bfloat16")
    longer, start = own_answers()
    values = [multiple * feature.largest for multiple in LIFT for _ in TUNING]
    logits = forward(model, longer, writes=turning(dictionary.part(feature.part), feature.index, values))
    return float(logits[:, start - 1 : -1].softmax(-1)[..., firsts].sum(-1).mean())


@cache
def own_answers() -> tuple[Any, int]:
    """The tuning prompts with the model's own answers, once a multiple, and where those begin."""
    from thoughtscope import tokenize
    from thoughtscope.models import generate

    model, _ = load("sae", "bfloat16")
    prompts = TUNING * len(LIFT)
    tokens = tokenize(model, chat=[[{"role": "user", "content": prompt}] for prompt in prompts])
    return generate(model, tokens, max_new_tokens=LIFT_TOKENS, stop_at_end=False), tokens.ids.shape[1]


def lists() -> list[tuple[str, ...]]:
    from specimens.smollm2.concepts import CONCEPTS

    return list(CONCEPTS.values())


def share_active(part: Any, words: tuple[str, ...]) -> Any:
    """By feature, the share of words at whose tokens it is active, in any of the sentences."""
    import torch

    said = [part.activations(states) > 0 for states in map(word_states().__getitem__, words)]
    return torch.stack([each.any(0) for each in said]).float().mean(0)


@cache
def word_states() -> dict[str, dict[Any, Any]]:
    """By word, what the autoencoders read at its tokens in all sentences: (token, width) by site."""
    import torch

    from thoughtscope import capture, tokenize

    model, dictionary = load("sae", "bfloat16")
    found: dict[str, dict[Any, Any]] = {}
    for word in sorted({word for words in lists() for word in words}):
        tokens = tokenize(model, [sentence.format(word) for sentence in SENTENCES], bos=False)
        acts = capture(model, tokens, dictionary.reads)
        here = torch.zeros_like(tokens.mask)
        for row, sentence in enumerate(SENTENCES):
            padding = int((~tokens.mask[row]).sum())
            for at in tokens_of(tokens.offsets[row], sentence.partition("{}")[0], word):
                here[row, padding + at] = True
        found[word] = {site: x[here] for site, x in acts.items()}
    return found


def largest_activations(part: Any) -> Any:
    import torch

    from thoughtscope import capture
    from thoughtscope.dictionaries.documents import counted, document_batches

    model, dictionary = load("sae", "bfloat16")
    largest, seen = torch.zeros(part.n_features), 0
    for tokens in document_batches(model, documents(held_out=True), context=128, batch_tokens=2048):
        keep = counted(tokens.mask, skip_first=dictionary.skip_first)
        values = part.activations({s: x[keep] for s, x in capture(model, tokens, part.reads).items()})
        largest = torch.maximum(largest, values.amax(0))
        seen += int(keep.sum())
        if seen >= LARGEST_TOKENS:
            return largest
    return largest


# --- answers -------------------------------------------------------------------------------------------------------


def steered(tuned: Tuned, seed: int) -> dict[str, Any]:
    """What the other prompts answer with a concept's feature turned up."""
    from specimens.smollm2.concepts import CONCEPTS

    _, dictionary = load("sae", "bfloat16")
    concept, feature = tuned.concept, tuned.feature
    part, strength = dictionary.part(feature.part), tuned.multiple * feature.largest
    others = [each for each in range(part.n_features) if each != feature.index]
    other = random.Random(f"{seed} {concept}").choice(others)
    mine, its = part.decoder_rows(rows_of([feature.index, other]))[part.writes[0]].norm(dim=1).tolist()
    n = len(PROMPTS)
    said = {
        "": answers(PROMPTS, (part, feature.index, [strength] * n), seed),
        "_random": answers(PROMPTS, (part, other, [strength * mine / its] * n), seed),
        "_unsteered": unsteered(PROMPTS, seed),
    }
    row: dict[str, Any] = {"concept": concept, "feature": f"{feature.part}/{feature.index}",
                           "multiple": tuned.multiple, "tuning": tuned.share, "example": said[""][0]}  # fmt: skip
    for name, texts in said.items():
        row[f"mentions{name}"] = mentions(texts, CONCEPTS[concept])
        row[f"perplexity{name}"] = round(median(perplexities(PROMPTS, tuple(texts))), 2)
    return row


def chosen(concept: str, found: list[Candidate], seed: int) -> Tuned:
    """The candidate and the multiple with the largest share of mentions among what the tuning prompts can afford."""
    from specimens.smollm2.concepts import CONCEPTS

    _, dictionary = load("sae", "bfloat16")
    bar, n = PRICE * median(perplexities(TUNING, unsteered(TUNING, seed))), len(TUNING)
    tried = []
    for feature in found:
        values = [multiple * feature.largest for multiple in MULTIPLES for _ in TUNING]
        texts = answers(TUNING * len(MULTIPLES), (dictionary.part(feature.part), feature.index, values), seed)
        for number, multiple in enumerate(MULTIPLES):
            here = tuple(texts[number * n : (number + 1) * n])
            price, share = round(median(perplexities(TUNING, here)), 2), mentions(here, CONCEPTS[concept])
            tried.append(Tuned(concept=concept, feature=feature, multiple=multiple, share=share, price=price))
    affordable = [each for each in tried if each.price <= bar] or [min(tried, key=lambda each: each.price)]
    return max(affordable, key=lambda each: (each.share, -each.price))


def rows_of(indices: list[int]) -> Any:
    import torch

    return torch.tensor(indices)


@cache
def unsteered(prompts: tuple[str, ...], seed: int) -> tuple[str, ...]:
    return tuple(answers(prompts, None, seed))


def answers(prompts: tuple[str, ...], turned: tuple[Any, int, list[float]] | None, seed: int) -> list[str]:
    """An answer to each prompt, drawn side by side; `turned`: a part, its feature, and what it is set to by row."""
    from thoughtscope import tokenize
    from thoughtscope.models import Sampling, generate

    model, _ = load("sae", "bfloat16")
    tokens = tokenize(model, chat=[[{"role": "user", "content": prompt}] for prompt in prompts])
    writes = turning(*turned) if turned is not None else {}
    sampling = Sampling(temperature=TEMPERATURE, seed=seed)
    longer = generate(model, tokens, max_new_tokens=NEW_TOKENS, writes=writes, sampling=sampling)
    new = longer.ids[:, tokens.ids.shape[1] :]
    return [model.tokenizer.decode(ids, skip_special_tokens=True) for ids in until_end(model, new)]


def turning(part: Any, index: int, values: list[float]) -> dict[Any, Any]:
    """Sets a feature to a value by row, at every position; what the autoencoder misses stays."""
    site, chosen, wanted = part.writes[0], rows_of([index]), rows_of(values)[:, None, None]
    decoder = part.decoder_rows(chosen)[site]

    def write(x: Any, step: Any) -> Any:
        return x + ((wanted - part.activations_of(chosen, {site: x})) @ decoder).to(x.dtype)

    return {site: write}


def until_end(model: Any, new: Any) -> list[list[int]]:
    from itertools import takewhile

    from thoughtscope.models.generation import end_tokens

    ends = end_tokens(model)
    return [list(takewhile(lambda token: token not in ends, row)) for row in new.tolist()]


def mentions(found: Iterable[str], words: tuple[str, ...]) -> float:
    """The share of texts that hold one of the words."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})(e?s)?\b", re.IGNORECASE)
    return round(mean(pattern.search(text) is not None for text in found), 4)


@cache
def perplexities(prompts: tuple[str, ...], found: tuple[str, ...]) -> list[float]:
    """Of each answer under the model as it is; an empty one counts as its vocabulary's size."""
    from thoughtscope import tokenize
    from thoughtscope.models.hooks import run

    model, _ = load("sae", "bfloat16")
    surprise = []
    for prompt, text in zip(prompts, found, strict=True):
        before = tokenize(model, chat=[{"role": "user", "content": prompt}]).ids[0].tolist()
        after = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not after:
            surprise.append(float(model.vocab_size))
            continue
        ids = rows_of([before + after])
        logits = run(model, ids, ids.new_ones(ids.shape).bool())
        assert logits is not None
        chances = logits[0, len(before) - 1 : -1].log_softmax(-1)
        loss = -chances.gather(1, ids[0, len(before) :, None]).mean()
        surprise.append(math.exp(min(float(loss), 20.0)))
    return surprise


if __name__ == "__main__":
    main(
        measure,
        claim="Share of SmolLM2-135M-Instruct's answers that mention a feature's concept when the feature is turned up "
        "(control: random features of equal strength; no feature).",
        paper=None,
    )
