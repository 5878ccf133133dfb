"""Capitals in a real model: one country's features down, another's up, and which capital is named then.

All countries whose capital SmolLM2-135M-Instruct names (its likeliest next token, with a probability of 0.2 or more).
Half of them fix the rule's numbers; the figures are the other half's, five donors each from that half.

1. A country's features are those that are active at its last token, at its first and at its second mention, and at
   that of at most `others` of the countries of the first half. A feature's strength is its activation there.
2. The country's features that are not the donor's are turned to `down` times their activation at all tokens of both
   mentions; the donor's are set to `up` times their strength at the last token of each. Attention is free.
3. The control puts a random feature of the same part in the place of each, with the same norm of what it adds.
4. The ceiling puts the outputs of all MLPs at the donor's last tokens in the place of those at the country's; for an
   autoencoder there is a second one, which does so with the residual stream that it reads.

Numbers and dictionary are those with the largest share overtaken in the first half.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Any

from _claim import ROOT, Measured, Unavailable, main
from _smollm2 import load, smollm2
from _spans import tokens_of

TABLE = ROOT / "specimens" / "smollm2" / "tables" / "capitals.tsv"
PROMPT = "Question: What is the capital of {}?\nAnswer: The capital of {} is"
NAMED = 0.2
OTHERS, DOWN, UP = (0.1, 0.3), (0.0, -1.0), (1.0, 2.0, 3.0)
DONORS, TUNING_DONORS = 5, 2
Strengths = dict[tuple[str, int], float]
"""(part, index) -> activation."""


@dataclass(frozen=True, eq=False)
class Country:
    """A country with its question."""

    name: str
    capital: int
    """The first token of its capital's name."""
    tokens: Any
    mentions: tuple[tuple[int, ...], tuple[int, ...]]
    """Positions of its tokens, where it is first and where it is then named."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    others: float
    down: float
    up: float


def measure(seed: int) -> Measured:
    """The dictionaries are tried one after the other; none is looked at in the second half but by its chosen rule."""
    import torch

    dictionaries = parts_that_are_there()
    with torch.no_grad():
        countries = named(smollm2())
        tuning, held = countries[::2], countries[1::2]
        found = {name: of(dictionary, tuning, held, seed) for name, dictionary in dictionaries.items()}
        ceilings = {name: ceiling(name, dictionaries, held, seed) for name in ("mlps", *dictionaries)}
    best = max(found, key=lambda name: found[name]["tuning"]["overtaken"])
    return Measured(
        value=found[best]["swap"]["overtaken"],
        n=len(held) * DONORS,
        control=found[best]["random"]["overtaken"],
        details={
            "best": best,
            "countries": {"named": len(countries), "tuning": len(tuning), "held_out": len(held)},
            "ceiling": ceilings["mlps"]["overtaken"],
            "ceilings": ceilings,
            "share_of_ceiling": round(found[best]["swap"]["overtaken"] / ceilings["mlps"]["overtaken"], 4),
            "dictionaries": found,
        },
    )


def named(model: Any) -> list[Country]:
    """The countries whose capital the model names, in the table's order."""
    from thoughtscope import tokenize
    from thoughtscope.models.hooks import run

    countries = []
    with TABLE.open(encoding="utf-8", newline="") as rows:
        for row in csv.DictReader((line for line in rows if not line.startswith("#")), delimiter="\t"):
            tokens = tokenize(model, PROMPT.format(row["country"], row["country"]), bos=False)
            logits = run(model, tokens.ids, tokens.mask)
            assert logits is not None
            chances = logits[0, -1].softmax(-1)
            first = model.tokenizer(" " + row["capital"], add_special_tokens=False)["input_ids"][0]
            if int(chances.argmax()) == first and float(chances[first]) >= NAMED:
                countries.append(Country(row["country"], first, tokens, mentions(tokens, row["country"])))
    return countries


def mentions(tokens: Any, country: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions of a country's tokens at its two mentions."""
    text = tokens.texts[0]
    first, second = (
        tuple(tokens_of(tokens.offsets[0], text[:start], country))
        for start in (text.index(country), text.rindex(country))
    )
    return first, second


def parts_that_are_there() -> dict[str, Any]:
    """The transcoders, and each autoencoder by itself."""
    from dataclasses import replace

    dictionaries = {}
    for kind in ("transcoders", "sae"):
        try:
            _, dictionary = load(kind)
        except Unavailable:
            continue
        if kind == "sae":
            for part in dictionary.parts:
                dictionaries[part.name] = replace(dictionary, parts=(part,))
        else:
            dictionaries[kind] = dictionary
    if not dictionaries:
        raise Unavailable("there are no dictionaries of smollm2 on this machine (make smollm2)")
    return dictionaries


def of(dictionary: Any, tuning: list[Country], held: list[Country], seed: int) -> dict[str, Any]:
    """The rule that does best in the first half, and what it does in the second."""
    strengths = {country.name: features(dictionary, country) for country in (*tuning, *held)}
    common: Counter[tuple[str, int]] = Counter()
    for country in tuning:
        common.update(set(strengths[country.name][0]) | set(strengths[country.name][1]))
    rules = [Rule(others=others, down=down, up=up) for others, down, up in product(OTHERS, DOWN, UP)]
    own = {
        rule: {name: specific(each, common, rule.others * len(tuning)) for name, each in strengths.items()}
        for rule in rules
    }
    tried = {
        rule: shares(found) for rule, found in swaps(dictionary, own, tuning, TUNING_DONORS, seed).items()
    }
    rule = max(tried, key=lambda each: tried[each]["overtaken"])
    real, chance = controlled(dictionary, rule, own[rule], held, seed)
    return {
        "rule": vars(rule),
        "tuning": tried[rule],
        "swap": shares(real),
        "random": shares(chance),
        "features_a_country": round(mean(len(each[1]) for each in own[rule].values()), 1),
    }


def features(dictionary: Any, country: Country) -> tuple[Strengths, Strengths]:
    """What is active at the last token of each mention."""
    from thoughtscope import capture, encode

    found = encode(dictionary, capture(smollm2(), country.tokens, dictionary.sites))
    rows = list(
        zip(*(x.tolist() for x in (found.part, found.index, found.position, found.value)), strict=True)
    )
    first, second = (
        {(dictionary.parts[part].name, index): value for part, index, at, value in rows if at == where[-1]}
        for where in country.mentions
    )
    return first, second


def specific(
    strengths: tuple[Strengths, Strengths], common: Counter[tuple[str, int]], limit: float
) -> tuple[Strengths, Strengths]:
    """Those of the features that at most so many countries have."""
    first, second = (
        {key: value for key, value in each.items() if common[key] <= limit} for each in strengths
    )
    return first, second


Swapped = list[tuple[bool, bool]]
"""By swap: the donor's capital is more likely than the country's; it is the answer."""


def swaps(
    dictionary: Any,
    own: dict[Rule, dict[str, tuple[Strengths, Strengths]]],
    countries: list[Country],
    n_donors: int,
    seed: int,
) -> dict[Rule, Swapped]:
    """By rule, every country with its donors: the same ones for all."""
    draw = random.Random(seed)
    found: dict[Rule, Swapped] = {rule: [] for rule in own}
    for country in countries:
        donors = drawn_donors(draw, country, countries, n_donors)
        plans = [
            plan_of(rule, country, its[country.name], its[donor.name])
            for rule, its in own.items()
            for donor in donors
        ]
        told = outcomes(dictionary, country, plans, [donor.capital for donor in donors] * len(own))
        for number, rule in enumerate(own):
            found[rule] += told[number * n_donors : (number + 1) * n_donors]
    return found


def controlled(
    dictionary: Any,
    rule: Rule,
    own: dict[str, tuple[Strengths, Strengths]],
    countries: list[Country],
    seed: int,
) -> tuple[Swapped, Swapped]:
    """Every country with its donors, and the same with random features."""
    from thoughtscope import capture, encode
    from thoughtscope.interventions import random_control

    draw = random.Random(seed)
    real: Swapped = []
    chance: Swapped = []
    for country in countries:
        donors = drawn_donors(draw, country, countries, DONORS)
        plans = [plan_of(rule, country, own[country.name], own[donor.name]) for donor in donors]
        active = encode(dictionary, capture(smollm2(), country.tokens, dictionary.sites))
        stand_ins = [random_control(dictionary, plan, active, seed=draw.getrandbits(32)) for plan in plans]
        told = outcomes(dictionary, country, [*plans, *stand_ins], [donor.capital for donor in donors] * 2)
        real += told[: len(plans)]
        chance += told[len(plans) :]
    return real, chance


def outcomes(dictionary: Any, country: Country, plans: list[Any], capitals: list[int]) -> Swapped:
    """What becomes of the donors' capitals under each plan."""
    from thoughtscope.interventions import intervene_many

    options: dict[str, Any] = {"answer": capitals, "changes": 0, "top": 1}
    found = intervene_many(smollm2(), dictionary, country.tokens, plans, **options)
    return [(each.difference_after > 0, each.after.ids[0] == each.answer_id) for each in found]


def drawn_donors(draw: random.Random, country: Country, countries: list[Country], n: int) -> list[Country]:
    return draw.sample([each for each in countries if each.capital != country.capital], n)


def plan_of(
    rule: Rule, country: Country, own: tuple[Strengths, Strengths], donor: tuple[Strengths, Strengths]
) -> Any:
    """The country's features down where it is named, the donor's up at the last token of each mention."""
    from thoughtscope.interventions import FeatureEdit, Plan

    edits = []
    for where, mine, other in zip(country.mentions, own, donor, strict=True):
        edits += [
            FeatureEdit(part=part, index=index, op="scale", value=rule.down, positions=where)
            for part, index in mine
            if (part, index) not in other
        ]
        edits += [
            FeatureEdit(part=part, index=index, op="set", value=rule.up * value, positions=(where[-1],))
            for (part, index), value in other.items()
        ]
    return Plan(edits=tuple(edits), attention="free")


def ceiling(name: str, dictionaries: dict[str, Any], countries: list[Country], seed: int) -> dict[str, float]:
    """The same with what the donor's run holds at the sites themselves: all MLPs' outputs, or what a part writes."""
    from thoughtscope.core.site import Site
    from thoughtscope.models import capture

    model, draw = smollm2(), random.Random(seed)
    mlps = tuple(Site.parse(f"mlp_out.{layer}") for layer in range(model.n_layers))
    sites = mlps if name == "mlps" else dictionaries[name].writes
    held = {country.name: capture(model, country.tokens, sites) for country in countries}
    found: Swapped = []
    for country in countries:
        for donor in drawn_donors(draw, country, countries, DONORS):
            logits = with_sites_of(model, sites, country, donor, held[donor.name])
            found.append(
                (bool(logits[donor.capital] > logits[country.capital]), int(logits.argmax()) == donor.capital)
            )
    return shares(found)


def with_sites_of(model: Any, sites: Any, country: Country, donor: Country, held: Any) -> Any:
    """The logits after a country's question with the donor's tensors at the last tokens of its mentions."""
    from functools import partial

    from thoughtscope.models.hooks import hooked, run

    def write(site: Any, x: Any, step: Any) -> Any:
        x = x.clone()
        for mine, other in zip(country.mentions, donor.mentions, strict=True):
            x[0, mine[-1]] = held[site][0, other[-1]].to(x)
        return x

    with hooked(model, writes={site: partial(write, site) for site in sites}):
        logits = run(model, country.tokens.ids, country.tokens.mask)
    assert logits is not None
    return logits[0, -1]


def shares(found: Swapped) -> dict[str, float]:
    overtaken, answered = zip(*found, strict=True)
    return {"overtaken": round(mean(overtaken), 4), "answer": round(mean(answered), 4)}


if __name__ == "__main__":
    main(
        measure,
        claim="With a country's features turned down and another's up, the other's capital is more likely than its own "
        "(SmolLM2-135M-Instruct, held-out countries; control: equally many, equally strong random features).",
        paper="one swap shown, Texas to California (Lindsey et al. 2025)",
    )
