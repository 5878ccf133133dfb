"""Swap the state behind a city: every held-out city, five donor states each, and random features for comparison.

The rule, fixed before any held-out city was looked at (its four numbers were chosen on trained cities):

1. Draw the graph of the two-hop question for every trained city, pruned to 0.8 of the influence. A state's features
   are those that are nodes at the city's last token in at least `OWN` of the graphs of its cities, and in at most
   `OTHERS` of the graphs of all other cities. A feature's strength for the state is its mean activation in the former.
2. For a held-out city, the features of its state that are active at the city's tokens are turned to `DOWN` times
   their activation, and the donor state's are set to `UP` times their strength at the city's last token. Attention
   is frozen.
3. The control puts a random feature of the same layer in the place of each, with the same norm of what it adds.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import mean
from typing import Any

from _claim import Measured, main
from _spans import tokens_of
from _specimen import load

NODE_MASS, OWN, OTHERS = 0.8, 0.3, 0.3
DOWN, UP = -0.5, 1.0
DONORS = 5

Strengths = dict[tuple[int, int], float]
"""(layer, index) -> mean activation."""


def measure(seed: int) -> Measured:
    """Counts first tokens: no two capitals begin with the same one."""
    from specimens.corpus import held_out_two_hop, train_two_hop

    microscope = load("clt")
    trained, held = train_two_hop(), held_out_two_hop()
    states = state_features(microscope, trained)
    first = {case.state: first_token(microscope[0], case.answer) for case in trained}
    assert len(set(first.values())) == len(first), "two capitals begin with the same token"
    draw = random.Random(seed)
    swapped, control, sizes = Counter(), Counter(), []
    for case in held:
        donors = draw.sample(sorted(set(states) - {case.state}), DONORS)
        answers, size = swap(microscope, case, states, donors, draw)
        sizes += size
        for donor, (real, chance) in zip(donors, answers, strict=True):
            for counter, answer in ((swapped, real), (control, chance)):
                counter["donor"] += answer == first[donor]
                counter["original"] += answer == first[case.state]
    n = len(held) * DONORS
    shares = [
        {name: round(counter[name] / n, 4) for name in ("donor", "original")}
        for counter in (swapped, control)
    ]
    rule = {"node_mass": NODE_MASS, "own": OWN, "others": OTHERS, "down": DOWN, "up": UP}
    by_layer = Counter(layer for strengths in states.values() for layer, _ in strengths)
    return Measured(
        value=shares[0]["donor"],
        n=n,
        control={"donor": shares[1]["donor"], "original_stays": shares[1]["original"]},
        details={
            "cities": len(held),
            "donors_a_city": DONORS,
            "original_stays_in_the_swap": shares[0]["original"],
            "rule": rule,
            "features_a_state": round(mean(map(len, states.values())), 1),
            "state_features_by_layer": dict(sorted(by_layer.items())),
            "edits_a_swap": round(mean(sizes), 1),
        },
    )  # fmt: skip


def state_features(microscope: tuple[Any, Any], cases: list[Any]) -> dict[str, Strengths]:
    """The features of every state, as the graphs of its trained cities show them."""
    graphs: dict[str, list[Strengths]] = defaultdict(list)
    for case in cases:
        graphs[case.state].append(city_nodes(microscope, case))
    seen = Counter(feature for found in graphs.values() for nodes in found for feature in nodes)
    total = sum(map(len, graphs.values()))
    states = {}
    for state, found in graphs.items():
        own = Counter(feature for nodes in found for feature in nodes)
        states[state] = {
            feature: mean(nodes[feature] for nodes in found if feature in nodes)
            for feature, count in own.items()
            if count >= OWN * len(found) and seen[feature] - count <= OTHERS * (total - len(found))
        }
    return states


def city_nodes(microscope: tuple[Any, Any], case: Any) -> Strengths:
    """The features in the pruned graph of a city's question that stand at the city's last token."""
    from thoughtscope import attribute, prune, tokenize

    model, dictionary = microscope
    tokens = tokenize(model, case.prompt)
    graph = prune(attribute(model, dictionary, tokens), node_mass=NODE_MASS)
    here = graph.mask("feature") & (graph.position == city_positions(tokens, case)[-1])
    columns = (graph.layer[here], graph.index[here], graph.value[here])
    return {(int(layer), int(index)): float(value) for layer, index, value in zip(*columns, strict=True)}


def city_positions(tokens: Any, case: Any) -> list[int]:
    """Positions of the city's tokens in the prompt."""
    before, _, _ = case.prompt.rpartition(case.city)
    return tokens_of(tokens.offsets[0], before, case.city)


@dataclass(frozen=True)
class Active:
    """An active feature at one of the city's tokens."""

    layer: int
    index: int
    position: int


def swap(
    microscope: tuple[Any, Any],
    case: Any,
    states: dict[str, Strengths],
    donors: list[str],
    draw: random.Random,
) -> tuple[list[tuple[int, int]], list[int]]:
    """The first token of the answer for each donor, under the swap and under its control; and the numbers of edits."""
    from thoughtscope import capture, encode, tokenize
    from thoughtscope.interventions import Plan, intervene_many, random_control

    model, dictionary = microscope
    tokens = tokenize(model, case.prompt)
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    where = city_positions(tokens, case)
    columns = (features.part.tolist(), features.index.tolist(), features.position.tolist())
    active = [Active(*row) for row in zip(*columns, strict=True) if row[2] in where]
    plans = [
        Plan(
            edits=edits(active, states[case.state], states[donor], where[-1]), attention="frozen", label=donor
        )
        for donor in donors
    ]
    controls = [random_control(dictionary, plan, features, seed=draw.getrandbits(32)) for plan in plans]
    outcomes = intervene_many(model, dictionary, tokens, [*plans, *controls], changes=0, top=1)
    answers = [outcome.after.ids[0] for outcome in outcomes]
    return list(zip(answers[: len(plans)], answers[len(plans) :], strict=True)), [
        len(plan.edits) for plan in plans
    ]


def edits(active: list[Active], own: Strengths, donor: Strengths, last: int) -> tuple[Any, ...]:
    """The state's features down where they are active, the donor's up at the city's last token."""
    from thoughtscope.interventions import FeatureEdit

    down = [
        FeatureEdit(
            part=str(each.layer), index=each.index, op="scale", value=DOWN, positions=(each.position,)
        )
        for each in active
        if (each.layer, each.index) in own and (each.layer, each.index) not in donor
    ]
    up = [
        FeatureEdit(part=str(layer), index=index, op="set", value=UP * value, positions=(last,))
        for (layer, index), value in donor.items()
    ]
    return (*down, *up)


def first_token(model: Any, text: str) -> int:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"][0]


if __name__ == "__main__":
    main(
        measure,
        claim="With a held-out city's state features turned down and another state's turned up, the answer becomes the "
        "other state's capital (control: equally many, equally strong random features).",
        paper="one swap shown, Texas to California (Lindsey et al. 2025)",
    )
