"""The picture of every held-out two-hop question, its groups named by rule: city, its state, its capital.

The names come from the concepts that lie beside each dictionary (`specimens/concepts.py`: trained cities only). All was
fixed on trained cities before a held-out city was looked at.

1. The graph of the question is pruned as by default. Its features are put in groups: those that a reading names under
   the name, the others of each position together (in `as_shown` each by itself). The city's tokens are one group.
2. The question counts if the strongest path from the city to the logit of its capital runs through a group with the
   name of its state; between that and the logit, only "say" its capital may stand. The strength of a path is the
   product, over its edges, of the source's share in what enters the target group from outside.
3. Control "random": a random active feature of the city's last token, alike in activation and not of the group, in the
   place of each member. Control "random_in_graph", harder: as many of the features that the pruned graph has there, the
   members among them. Control "shuffled": the concept taught with the states shuffled among the trained cities.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
from _claim import Measured, main
from _specimen import KINDS, load
from two_hop_swap import city_positions, first_token, swap

DRAWS, ALIKE, DONORS = 3, 3, 2
FRESH_DOCUMENTS = 5
"""Seed of documents that taught nothing."""


@dataclass(frozen=True)
class Picture:
    """One held-out question: its pruned graph, what is active on it, and what is read of it."""

    case: Any
    graph: Any
    features: Any
    where: list[int]

    @property
    def last(self) -> int:
        return self.where[-1]


def measure(seed: int) -> Measured:
    """The cross-layer dictionary gives the value; both are in the details."""
    details = {kind: one_dictionary(kind, seed) for kind in KINDS}
    clt = details["clt"]
    return Measured(
        value=clt["city_state_capital"], n=clt["questions"], control=clt["control"], details=details
    )


def one_dictionary(kind: str, seed: int) -> dict[str, Any]:
    from specimens.corpus import held_out_two_hop
    from thoughtscope.atlas import concepts_of, learn_concept, name_nodes, read_concepts

    model, dictionary = load(kind)
    draw = random.Random(seed)
    concepts = {concept.name: concept for concept in concepts_of(dictionary)}
    false = learn_concept(model, dictionary, shuffled_table(model, draw))
    tally: dict[str, list[float]] = defaultdict(list)
    held: dict[str, list[bool]] = defaultdict(list)
    for case in held_out_two_hop():
        picture = look(model, dictionary, case)
        readings = read_concepts(concepts.values(), picture.features)
        names = name_nodes(readings)
        members = [node for node, name in names.items() if name == case.state]
        said = (f"say {case.capital}", picture.features.n_positions - 1)
        found = {(reading.label, reading.position) for reading in readings}
        tally["state_read"].append((case.state, picture.last) in found)
        tally["capital_read"].append(said in found)
        tally["other_names"].append(len(found - {said} - {(case.state, where) for where in picture.where}))
        tally["members"].append(len(members))
        tally["members_in_graph"].append(len(set(members) & set(picture.graph.node_ids())))
        tally["city_state_capital"].append(chain(picture, with_rest(picture, names)))
        tally["as_shown"].append(chain(picture, names))
        tally["influence_state"].append(through(picture, members))
        saying = [node for node, name in names.items() if name == said[0]]
        tally["influence_capital"].append(through(picture, saying))
        other = draw.choice(sorted(set(concepts["state"].values) - {case.state}))
        tally["influence_other_state"].append(through(picture, carriers(picture, concepts["state"], other)))
        kept = {node: name for node, name in names.items() if name != case.state}
        for _ in range(DRAWS):
            for control, pick in (("random", look_alikes), ("random_in_graph", any_in_graph)):
                stand_ins = pick(picture, members, draw)
                instead = {**kept, **dict.fromkeys(stand_ins, case.state)}
                tally[control].append(chain(picture, with_rest(picture, instead)))
                tally[f"{control}_as_shown"].append(chain(picture, instead))
                tally[f"influence_{control}"].append(through(picture, stand_ins))
        mistaught = name_nodes(read_concepts([false], picture.features))
        tally["shuffled"].append(chain(picture, with_rest(picture, mistaught)))
        held[case.state].append((case.state, picture.last) in found)
    return summary(tally, concepts, held) | {
        "swap": swaps((model, dictionary), concepts["state"], draw),
        "reads": other_texts(model, dictionary, concepts),
    }


def look(model: Any, dictionary: Any, case: Any) -> Picture:
    from thoughtscope import attribute, capture, encode, prune, tokenize

    tokens = tokenize(model, case.prompt)
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    graph = prune(attribute(model, dictionary, tokens))
    return Picture(case=case, graph=graph, features=features, where=city_positions(tokens, case))


def with_rest(picture: Picture, names: Mapping[Any, str]) -> dict[Any, str]:
    """The names, and one for all other features of each position: so that no group wins by being a group."""
    features = [node for node in picture.graph.node_ids() if node.kind == "feature"]
    return {node: f"the rest at {node.position}" for node in features} | dict(names)


def chain(picture: Picture, names: Mapping[Any, str]) -> bool:
    """Whether the strongest path from the city to the answer runs through its state, and else only its capital."""
    from thoughtscope.core.ids import NodeId, NodeKind
    from thoughtscope.graphs import group_named, grouped_edges, strongest_path

    case, graph = picture.case, picture.graph
    answers = [target.node for target in graph.targets if case.answer.startswith(target.text)]
    if not answers:
        return False
    city = {NodeId(NodeKind.TOKEN, position): "the city" for position in picture.where}
    edges = grouped_edges(group_named(graph, {**names, **city}))
    between = strongest_path(edges, "the city", str(graph.node_id(answers[0])))[1:-1]
    return between in ((case.state,), (case.state, f"say {case.capital}"))


def through(picture: Picture, nodes: list[Any]) -> float:
    """The share of the city's influence on the answer that goes through these nodes."""
    from thoughtscope.graphs import influence

    graph = picture.graph
    cut = np.zeros(len(graph), dtype=bool)
    cut[[graph.find(node) for node in set(nodes) & set(graph.node_ids())]] = True
    edges = graph.edges.copy()
    edges.data[cut[edges.indices]] = 0
    lost = (abs(graph.edges).sum(axis=1) - abs(edges).sum(axis=1)).astype(np.float32)
    without = influence(replace(graph, edges=edges, absent=graph.absent + lost))
    city = [graph.find(f"token:{position}") for position in picture.where]
    whole = float(graph.influence[city].sum())
    return 1 - float(without[city].sum()) / whole if whole else 0.0


def at_city(picture: Picture) -> dict[Any, float]:
    """The features that are active at the city's last token, with their activations."""
    from thoughtscope.core.ids import NodeId, NodeKind

    features = picture.features
    here = features.position == picture.last
    columns = (features.part[here].tolist(), features.index[here].tolist(), features.value[here].tolist())
    return {
        NodeId(NodeKind.FEATURE, picture.last, layer, index): value
        for layer, index, value in zip(*columns, strict=True)
    }


def carriers(picture: Picture, concept: Any, value: str) -> list[Any]:
    """The active features at the city that belong to the group of another state."""
    group = concept.group(value)
    return [node for node in at_city(picture) if (node.layer, node.index) in group]


def look_alikes(picture: Picture, members: list[Any], draw: random.Random) -> list[Any]:
    """For each member, another active feature at the city: one of the `ALIKE` nearest in activation, each used once."""
    active = at_city(picture)
    pool = {node: value for node, value in active.items() if node not in members}
    chosen = []
    for member in draw.sample(members, len(members)):
        nearest = sorted(pool, key=lambda node: abs(pool[node] - active.get(member, 0.0)))[:ALIKE]
        if nearest:
            chosen.append(draw.choice(nearest))
            del pool[chosen[-1]]
    return chosen


def any_in_graph(picture: Picture, members: list[Any], draw: random.Random) -> list[Any]:
    """As many features as the pruned graph has members, drawn from all that it has at the city's last token."""
    nodes = set(picture.graph.node_ids())
    here = sorted(node for node in at_city(picture) if node in nodes)
    return draw.sample(here, min(len(here), len(nodes & set(members))))


def shuffled_table(model: Any, draw: random.Random) -> Any:
    """The table of states with the states shuffled among the trained cities."""
    from specimens.concepts import state_table

    table = state_table(model)
    values = [token.value for token in table.tokens if token.value is not None]
    left = iter(draw.sample(values, len(values)))
    tokens = tuple(
        token if token.value is None else replace(token, value=next(left)) for token in table.tokens
    )
    return replace(table, tokens=tokens)


def summary(
    tally: Mapping[str, list[float]], concepts: Mapping[str, Any], held: Mapping[str, list[bool]]
) -> Any:
    state = concepts["state"]
    figures = {name: round(mean(values), 4) for name, values in tally.items()}
    shown = ("random_as_shown", "random_in_graph_as_shown")
    control = {name: figures.pop(name) for name in ("random", "random_in_graph", "shuffled", *shown)}
    checks = {
        name: {key: round(getattr(concept.check, key), 4)
               for key in ("right", "shuffled", "mistaken", "chance_members")}
        for name, concept in concepts.items()
    }  # fmt: skip
    by_state = {
        value: {
            "members": len(state.group(value)),
            "trained_cities": state.check.by_value[value],
            "held_out_read": [sum(held[value]), len(held[value])],
        }
        for value in state.values
    }
    return figures | {
        "questions": len(tally["state_read"]),
        "control": control,
        "checks": checks,
        "by_state": by_state,
    }


def swaps(microscope: tuple[Any, Any], concept: Any, draw: random.Random) -> dict[str, Any]:
    """The test of the names: the group of the state for the group of another, as in `two_hop_swap.py`."""
    from specimens.corpus import held_out_two_hop
    from specimens.tables import capitals

    groups = {value: concept.group(value) for value in concept.values}
    cases = held_out_two_hop()
    first = {state: first_token(microscope[0], f" {capital}") for state, capital in capitals().items()}
    found: Counter[str] = Counter()
    for case in cases:
        donors = draw.sample(sorted(set(groups) - {case.state}), DONORS)
        answers, _ = swap(microscope, case, groups, donors, draw)
        for donor, (real, chance) in zip(donors, answers, strict=True):
            found["donor"] += real == first[donor]
            found["original_stays"] += real == first[case.state]
            found["control_donor"] += chance == first[donor]
            found["control_original_stays"] += chance == first[case.state]
    n = DONORS * len(cases)
    return {name: round(count / n, 4) for name, count in found.items()} | {"n": n}


def other_texts(model: Any, dictionary: Any, concepts: Mapping[str, Any]) -> dict[str, float]:
    """What is read where nothing was taught: other wordings of held-out cities, states' names, other documents."""
    from specimens.concepts import city_position, documents
    from specimens.facts import CAPITAL, ONE_HOP, TWO_HOP
    from specimens.tables import capitals, cities
    from thoughtscope import capture, encode, tokenize
    from thoughtscope.atlas import read_concepts

    def read(text: str) -> list[Any]:
        features = encode(dictionary, capture(model, tokenize(model, text), dictionary.sites))
        return [(one.position, one.value) for one in read_concepts(concepts.values(), features)]

    wordings, names = [], []
    for template in (*TWO_HOP[1:], *ONE_HOP):
        for city in cities():
            # At the start of a text a name has no space before it and is another token.
            if city.held and not template.startswith("{city}"):
                text = template.format(city=city.name, state=city.state, capital=city.capital)
                wordings.append((city_position(model, text, city.name), city.state) in read(text))
    for state, capital in capitals().items():
        text = CAPITAL[0].format(state=state, capital=capital)
        names.append((city_position(model, text, state), state) in read(text))
    texts = documents(FRESH_DOCUMENTS)
    tokens = sum(tokenize(model, text).ids.shape[1] - 1 for text in texts)
    return {
        "state_in_other_wordings": round(mean(wordings), 4),
        "state_at_its_own_name": round(mean(names), 4),
        "names_a_token_of_other_documents": round(sum(len(read(text)) for text in texts) / tokens, 5),
    }


if __name__ == "__main__":
    main(
        measure,
        claim="In the graph of a held-out two-hop question, grouped by names that trained cities taught, the strongest "
        "path from the city to the answer runs through its state (control: random groups alike, shuffled states).",
        paper="one graph shown, grouped by hand: Dallas, Texas, Austin (Lindsey et al. 2025)",
    )
