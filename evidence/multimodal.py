"""Features of the specimen that sees: which fire for a digit drawn and for its words in three languages.

The rule. A row is a drawing, or a word of a sentence; a feature's value on it is its largest activation on the row's
tokens. For each digit, each layer has a feature and one threshold, of the highest F1 on tuning rows of all four kinds
together (drawings; English, French, German words); the layer is taken whose feature does best on its weakest kind of
tuning rows. A digit counts when this feature, with this threshold, reaches an F1
of at least `WANTED` on each of the four kinds of held-out rows by itself: drawings with pens and slants that training
never combines, and sentences in frames that it never uses. Rows without the digit are the other digits, the shapes, and
every other word of the sentences.

Controls: the labels shuffled among the sentences of a kind; the model's neurons, of either sign; a model of the same
shape with random weights, its neurons, and autoencoders trained on it by the same recipe.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import mean
from typing import Any

from _claim import Measured, Unavailable, main, told
from _spans import tokens_of

EACH, WANTED = 24, 0.8
"""Sentences of each kind and thing in each half; the F1 that counts."""
BATCH = 24
UNTRAINED_TOKENS = 1_000_000
"""What the autoencoders of the random weights are trained on."""
SWAPS = {"swap": 1.0, "swap_twice": 2.0}
"""The strengths to which the other digit's feature is set, in mean activations."""


@dataclass(frozen=True)
class Half:
    """Values of groups of units on the rows of some sentences; the first row of each sentence is its thing."""

    values: Mapping[str, Any]
    kinds: Sequence[str]
    things: Sequence[str]
    starts: Sequence[int]
    """First row of each sentence, and at last the number of rows."""

    def rows(self, kind: str) -> tuple[int, int]:
        """The rows of a kind: they lie together."""
        first = self.kinds.index(kind)
        return self.starts[first], self.starts[first + self.kinds.count(kind)]

    def where(self, thing: str, labels: Sequence[str], kind: str | None = None) -> Any:
        """The rows that hold a thing, counted from the first row of `kind` if one is given."""
        import torch

        origin = self.rows(kind)[0] if kind else 0
        chosen = [
            start - origin
            for start, label, own in zip(self.starts, labels, self.kinds, strict=False)
            if label == thing and kind in (None, own)
        ]
        return torch.tensor(chosen, dtype=torch.long)

    def shuffled(self, draw: random.Random) -> list[str]:
        """The labels in another order, within each kind."""
        out: list[str] = []
        for kind in dict.fromkeys(self.kinds):
            own = [thing for thing, each in zip(self.things, self.kinds, strict=True) if each == kind]
            out += draw.sample(own, len(own))
        return out


Units = Mapping[str, Callable[[Mapping[Any, Any]], Any]]
"""By group: from what the sites held, by token, to the values of its units (token, unit)."""


SEED = 5
"""Of the rows, by default: none that was looked at while the dictionary was chosen."""


def measure(seed: int) -> Measured:
    """Counts digits; the details have the shapes, a table by layer, every digit's feature, and the interventions."""
    model, dictionary = load()
    halves = gather(model, feature_units(dictionary) | neuron_units(model), seed)
    parts, layers = [part.name for part in dictionary.parts], [f"mlp_act.{n}" for n in range(model.n_layers)]
    found = detectors(*halves, parts)
    draw = random.Random(f"labels:{seed}")
    control = {
        "shuffled_labels": count(detectors(*halves, parts, labels=[half.shuffled(draw) for half in halves])),
        "neurons": count(detectors(*halves, layers)),
        **random_weights(model, seed),
    }
    table = {name.replace(".", "_"): told(counts(detectors(*halves, [name]))) for name in (*parts, *layers)}
    details = {
        "rule": {"f1": WANTED, "sentences_a_kind_and_thing": EACH, "value": "largest on the row's tokens"},
        "shapes": count(found, shapes=True),
        "counts": table,
        "features": {thing: shown(one) for thing, one in found.items()},
        "rows": {
            kind: halves[1].rows(kind)[1] - halves[1].rows(kind)[0] for kind in dict.fromkeys(halves[1].kinds)
        },
        "answers": answers(model, seed),
        "swap": swaps(model, dictionary, found, halves[0], seed),
    }
    return Measured(value=count(found), n=10, control=control, details=details)


def load() -> tuple[Any, Any]:
    """The shipped model and its dictionary, as every user loads them."""
    from thoughtscope import load_dictionary, load_model
    from thoughtscope.core.errors import ThoughtscopeError

    try:
        model = load_model("specimen-multimodal")
        return model, load_dictionary("specimen-multimodal/sae", model, preflight=False)
    except ThoughtscopeError as error:
        raise Unavailable(f"the specimen that sees is not in this checkout: {error}") from None


def answers(model: Any, seed: int) -> dict[str, dict[str, Any]]:
    """By task: the share of right answers about drawings in held-out and in trained styles, and about words."""
    from specimens.multimodal.score import score

    found: dict[str, dict[str, Any]] = {}
    for name, scores in score(model.module, model.tokenizer, seed=seed).items():
        task, shown = name.split("/")
        found.setdefault(task, {})[shown] = scores["all"]["share"]
        found[task]["n"] = scores["all"]["n"]
    return told(found)


# --- values on rows ------------------------------------------------------------------------------------------------


def feature_units(dictionary: Any) -> dict[str, Any]:
    """The features of every part."""
    from thoughtscope.dictionaries import resident

    parts = resident(dictionary, device="cpu").parts
    return {part.name: lambda held, part=part: part.activations(held) for part in parts}


def neuron_units(model: Any) -> dict[str, Any]:
    """The neurons of every layer and, as units of their own, their negatives."""
    import torch

    from thoughtscope import Site

    def both(held: Mapping[Any, Any], site: Any) -> Any:
        return torch.cat([held[site], -held[site]], dim=1)

    sites = [Site("mlp_act", layer) for layer in range(model.n_layers)]
    return {str(site): lambda held, site=site: both(held, site) for site in sites}


def gather(model: Any, units: Units, seed: int) -> tuple[Half, Half]:
    """The tuning half and the held-out half."""
    from specimens.multimodal.sightings import sightings

    tuning, held_out = (half(model, units, sightings(seed, EACH, held_out=held)) for held in (False, True))
    return tuning, held_out


def half(model: Any, units: Units, seen: Sequence[Any]) -> Half:
    """Runs the model over the sentences, and takes each unit's largest value on each row."""
    import torch

    from thoughtscope import Site, capture, tokenize

    sites = [Site(kind, layer) for kind in ("resid_post", "mlp_act") for layer in range(model.n_layers)]
    values: dict[str, list[Any]] = {name: [] for name in units}
    for at in range(0, len(seen), BATCH):
        some = seen[at : at + BATCH]
        tokens = tokenize(model, [one.text for one in some])
        acts = capture(model, tokens, sites)
        keep = tokens.positions >= 0
        held = {site: acts[site][keep].float() for site in sites}
        spans = rows_of(some, tokens)
        row = torch.tensor([number for number, span in enumerate(spans) for _ in span])
        token = torch.tensor([position for span in spans for position in span])
        for name, of in units.items():
            x = of(held)
            low = torch.full((len(spans), x.shape[1]), -torch.inf)
            where = row[:, None].expand(-1, x.shape[1])
            values[name].append(low.scatter_reduce_(0, where, x[token], "amax"))
    return Half(
        values={name: torch.cat(found) for name, found in values.items()},
        kinds=[one.kind for one in seen],
        things=[one.thing for one in seen],
        starts=[0, *accumulate(len(one.rows) for one in seen)],
    )


def rows_of(some: Sequence[Any], tokens: Any) -> list[list[int]]:
    """The tokens of each row, counted over all sentences of a batch without padding."""
    found, before = [], 0
    for one, offsets in zip(some, tokens.offsets, strict=True):
        for start, end in one.rows:
            found.append([before + at for at in tokens_of(offsets, one.text[:start], one.text[start:end])])
        before += len(offsets)
    return found


# --- detectors -----------------------------------------------------------------------------------------------------


def detectors(
    tuning: Half, held_out: Half, groups: Sequence[str], labels: Sequence[Sequence[str]] | None = None
) -> dict[str, dict[str, Any]]:
    """By thing: the unit that was chosen, its detector, and its F1 on each kind of held-out rows.

    Each group has a unit and a threshold of the highest F1 on all tuning rows; of the groups' the one whose weakest
    kind of tuning rows does best is taken.
    """
    from specimens.multimodal.words import THINGS
    from thoughtscope.evaluation import choose_detectors

    chosen, judged = labels or (tuning.things, held_out.things)
    best: dict[str, tuple[float, str, Any]] = {}
    for group in groups:
        found = choose_detectors(tuning.values[group], [tuning.where(thing, chosen) for thing in THINGS])
        for thing, one in zip(THINGS, found, strict=True):
            weakest = min(by_kind(tuning, group, one, thing, chosen).values())
            if thing not in best or weakest > best[thing][0]:
                best[thing] = (weakest, group, one)
    return {
        thing: {"part": group, "detector": one, "f1": by_kind(held_out, group, one, thing, judged)}
        for thing, (_, group, one) in best.items()
    }


def by_kind(half: Half, group: str, one: Any, thing: str, labels: Sequence[str]) -> dict[str, float]:
    """A detector's F1 on each kind of rows by itself."""
    from thoughtscope.evaluation import detect

    scores = {}
    for kind in dict.fromkeys(half.kinds):
        first, last = half.rows(kind)
        scores[kind] = detect(half.values[group][first:last], one, half.where(thing, labels, kind)).f1
    return scores


def count(found: Mapping[str, Mapping[str, Any]], *, shapes: bool = False) -> int:
    """Digits (or shapes) whose detector reaches the wanted F1 on every kind of held-out rows."""
    from specimens.multimodal.words import DIGITS, SHAPES

    return sum(min(found[thing]["f1"].values()) >= WANTED for thing in (SHAPES if shapes else DIGITS))


def counts(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Digits and shapes that count, and the mean F1 over the digits of each kind of rows."""
    from specimens.multimodal.words import DIGITS

    kinds = next(iter(found.values()))["f1"]
    means = {kind: round(mean(found[digit]["f1"][kind] for digit in DIGITS), 3) for kind in kinds}
    return {"digits": count(found), "shapes": count(found, shapes=True), "mean_f1": means}


def shown(one: Mapping[str, Any]) -> dict[str, Any]:
    """A detector as plain values."""
    chosen = one["detector"]
    return {
        "feature": f"{one['part']}/{chosen.unit}",
        "threshold": round(chosen.threshold, 3),
        "tuning_f1": round(chosen.f1, 3),
        "f1": {kind: round(value, 3) for kind, value in one["f1"].items()},
    }


def random_weights(model: Any, seed: int) -> dict[str, int]:
    """The same counts on a model of the same shape that nobody trained."""
    import torch
    from transformers import LlamaForCausalLM

    from specimens.multimodal.dictionary import train_autoencoders
    from thoughtscope.models import model_from

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = LlamaForCausalLM(model.module.config)
    blank = model_from(module, model.tokenizer, name="random-weights")
    dictionary = train_autoencoders(blank, **{"schedule.n_tokens": UNTRAINED_TOKENS})
    halves = gather(blank, feature_units(dictionary) | neuron_units(blank), seed)
    layers = [f"mlp_act.{layer}" for layer in range(blank.n_layers)]
    return {
        "random_weights_features": count(detectors(*halves, [part.name for part in dictionary.parts])),
        "random_weights_neurons": count(detectors(*halves, layers)),
    }


# --- interventions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a digit, and the word that follows for each digit in its place."""

    name: str
    """The task and how the digit is shown: "name_drawn", "next_word", …"""
    digit: str
    before: str
    shown: str
    after: str
    answers: Mapping[str, str]


def swaps(
    model: Any, dictionary: Any, found: Mapping[str, Mapping[str, Any]], tuning: Half, seed: int
) -> dict[str, Any]:
    """Turns one digit's feature off and another's on where the digit stands, and asks for its name, or what comes next.

    Of questions that are answered rightly: how often the answer is that for the other digit, and no longer that for the
    digit when its feature is only turned off; the same with random features in their places (`random_control`).
    """
    from specimens.multimodal.words import DIGITS

    mean_of = {digit: strength(tuning, digit, found[digit]) for digit in DIGITS}
    draw, tally = random.Random(f"swaps:{seed}"), Counter()
    names: dict[str, None] = {}
    for digit in DIGITS:
        for asked in questions(digit, draw):
            names[asked.name] = None
            tally.update(swapped(model, dictionary, found, mean_of, asked, draw))
    rows = {}
    for name in names:
        rows[name] = {"asked": tally[name, "asked"], "right_before": tally[name, "right"]}
        rows[name]["swaps"] = tally[name, "swap", "n"]
        for tried in ("off", *SWAPS):
            for each in (tried, f"{tried}_random"):
                rows[name][each] = round(tally[name, each, "hit"] / max(1, tally[name, each, "n"]), 4)
        told({name: rows[name]})
    return rows


def strength(tuning: Half, digit: str, one: Mapping[str, Any]) -> float:
    """The feature's mean value over its digit's tuning rows of all kinds."""
    values = tuning.values[one["part"]][tuning.where(digit, tuning.things), one["detector"].unit]
    return float(values.clamp(min=0).mean())


def questions(digit: str, draw: random.Random) -> list[Asked]:
    """In each language its name, and what it is with one more: of drawings in held-out styles, and of words."""
    from specimens.multimodal.corpus import NEXT, heading
    from specimens.multimodal.drawings import drawing
    from specimens.multimodal.words import DIGITS, LANGUAGES, WORDS

    found = []
    after = dict(pairwise(DIGITS))
    for number, language in enumerate(LANGUAGES):
        own = LANGUAGES[(number + 1) % len(LANGUAGES)]
        for kind, shown in (("drawn", drawing(digit, draw, held_out=True)), ("word", WORDS[own][digit])):
            name = {"digit": digit, "shown": shown}
            words = {each: f" {word}" for each, word in WORDS[language].items()}
            found.append(
                Asked(
                    name=f"name_{kind}",
                    before=f"{heading('en', language, 0)} ",
                    after="",
                    answers=words,
                    **name,
                )
            )
            if digit in after:
                end = NEXT[language][0].removeprefix("{x}").removesuffix(" {a}.")
                later = {each: words[following] for each, following in after.items()}
                found.append(Asked(name=f"next_{kind}", before="", after=end, answers=later, **name))
    return found


def swapped(
    model: Any,
    dictionary: Any,
    found: Mapping[str, Mapping[str, Any]],
    mean_of: Mapping[str, float],
    asked: Asked,
    draw: random.Random,
) -> Counter:
    """What happened to one question: hits and tries."""
    from specimens.multimodal.words import DIGITS
    from thoughtscope import capture, encode, tokenize
    from thoughtscope.interventions import Plan, intervene_many, random_control

    tokens = tokenize(model, asked.before + asked.shown + asked.after)
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    where = tuple(tokens_of(tokens.offsets[0], asked.before, asked.shown))
    own = found[asked.digit]
    top = peak(dictionary, features, own, where)
    tried, plans = [("off", asked.digit)], [Plan(edits=set_to(own, 0.0, where), attention="free")]
    for name, factor in SWAPS.items():
        for donor in (each for each in DIGITS if each in asked.answers and each != asked.digit):
            on = set_to(found[donor], factor * mean_of[donor], top)
            plans.append(Plan(edits=(*set_to(own, 0.0, where), *on), attention="free"))
            tried.append((name, donor))
    controls = [random_control(dictionary, one, features, seed=draw.getrandbits(30)) for one in plans]
    outcomes = intervene_many(model, dictionary, tokens, [*plans, *controls], changes=0, batch=64)
    right = outcomes[0].before.tokens[0] == asked.answers[asked.digit]
    tally: Counter = Counter({(asked.name, "asked"): 1, (asked.name, "right"): int(right)})
    for number, outcome in enumerate(outcomes if right else ()):
        name, digit = tried[number % len(plans)]
        hit = (outcome.after.tokens[0] == asked.answers[digit]) != (name == "off")
        name += "_random" if number >= len(plans) else ""
        tally.update({(asked.name, name, "n"): 1, (asked.name, name, "hit"): int(hit)})
    return tally


def set_to(one: Mapping[str, Any], value: float, where: tuple[int, ...]) -> tuple[Any, ...]:
    """Edits that set a feature at some positions."""
    from thoughtscope.interventions import FeatureEdit

    edit = FeatureEdit(part=one["part"], index=one["detector"].unit, op="set", value=value, positions=where)
    return (edit,)


def peak(dictionary: Any, features: Any, one: Mapping[str, Any], where: tuple[int, ...]) -> tuple[int, ...]:
    """The positions at which a feature is active above its threshold; the last one of the stretch if at none."""
    import torch

    mine = (features.part == dictionary.number(one["part"])) & (features.index == one["detector"].unit)
    mine &= features.value >= one["detector"].threshold
    mine &= torch.isin(features.position, torch.tensor(where))
    return tuple(sorted(features.position[mine].tolist())) or where[-1:]


if __name__ == "__main__":
    main(
        measure,
        claim="Digits of which one feature of the specimen that sees, at one threshold, detects held-out drawings and "
        "the words of three languages, with F1 of at least 0.8 on each (count of 10; controls: shuffled labels, "
        "neurons, a model of random weights).",
        paper="Templeton et al. 2024: features that fire for a thing in text of several languages and in images",
        seed=SEED,
    )
