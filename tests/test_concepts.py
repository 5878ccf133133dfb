"""Concepts against a plain recount, their files, and the picture that they make of the specimen's question."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from math import comb, log
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from specimens.tables import capitals, cities
from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope import attribute, capture, encode, group, load_dictionary, load_model, prune, tokenize
from thoughtscope.atlas import (
    Concept,
    ConceptTable,
    Occurrence,
    Reading,
    concepts_of,
    learn_concept,
    load_concepts,
    name_nodes,
    read_concepts,
    save_concepts,
)
from thoughtscope.atlas.concepts import Counts
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, ThoughtscopeError, UnknownFeature
from thoughtscope.core.ids import NodeId
from thoughtscope.dictionaries import save_dictionary
from thoughtscope.graphs import find_supernode, group_named, grouped_edges, strongest_path

WORDS = {"animal": ("cat", "dog", "fox", "cow"), "colour": ("red", "blue", "green", "pink")}


@cache
def table(says: bool = False) -> ConceptTable:
    tokens = [
        Occurrence(text=f"We saw the {word}", position=last(f"We saw the {word}"), value=value)
        for value, words in WORDS.items()
        for word in words
    ]
    tokens += [
        Occurrence(text=f"We saw the {word}", position=1, value=None) for word in ("cat", "red", "fox")
    ]
    return ConceptTable(
        name="thing", tokens=tuple(tokens), says={"animal": "!", "colour": "?"} if says else {}
    )


def last(text: str) -> int:
    return tokenize(shared_model(), text).ids.shape[1] - 1


@cache
def taught(says: bool = False) -> Concept:
    return learn_concept(shared_model(), random_dictionary(shared_model()), table(says))


def activations(token: Occurrence) -> dict[tuple[int, int], float]:
    """The features at one token, encoded by themselves."""
    dictionary = random_dictionary(shared_model())
    features = encode(
        dictionary, capture(shared_model(), tokenize(shared_model(), token.text), dictionary.sites)
    )
    here = features.position == token.position
    keys = zip(features.part[here].tolist(), features.index[here].tolist(), strict=True)
    return dict(zip(keys, features.value[here].tolist(), strict=True))


# --- counting ------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_a_plain_recount():
    concept, found = taught(), [(token.value, activations(token)) for token in table().tokens]
    assert concept.values == ("animal", "colour")
    assert concept.counts.tokens.tolist() == [4, 4] and concept.counts.tokens_none == 3
    expected = {key for _, active in found for key in active}
    expected = {
        key for key in expected if sum(value is not None and key in active for value, active in found) >= 2
    }
    keys = list(zip(concept.layer.tolist(), concept.index.tolist(), strict=True))
    assert keys == sorted(expected) and keys
    for column, key in enumerate(keys):
        assert concept.counts.active_none[column] == sum(v is None and key in active for v, active in found)
        for row, value in enumerate(concept.values):
            strengths = [active[key] for v, active in found if v == value and key in active]
            assert concept.counts.active[row, column] == len(strengths)
            assert concept.strength[row, column] == pytest.approx(np.mean(strengths) if strengths else 0)


def test_raised_is_the_rank_of_the_token_among_all_logits():
    concept, model, dictionary = taught(True), shared_model(), random_dictionary(shared_model())
    assert concept.says and concept.label("animal") == "say animal"
    said = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in ("!", "?")]
    for column in range(0, len(concept.layer), 7):
        layer, index = int(concept.layer[column]), torch.tensor([int(concept.index[column])])
        rows = dictionary.parts[layer].decoder_rows(index).values()
        written = sum(row[0] for row in rows) * model.family.final_norm.weight
        logits = model.family.unembed @ written
        for row, token in enumerate(said):
            share = (logits >= logits[token]).float().mean() if concept.counts.active[row, column] else 1.0
            assert concept.raised[row, column] == pytest.approx(float(share), abs=2 / len(logits))


def counts() -> Counts:
    """Two values of three tokens each; the first feature tells them apart, the second says nothing."""
    active = np.array([[3, 1], [0, 1]], dtype=np.int32)
    return Counts(
        tokens=np.array([3, 3], dtype=np.int32),
        active=active,
        tokens_none=8,
        active_none=np.array([0, 3], dtype=np.int32),
    )


def test_chance_is_that_of_shuffled_values():
    """Of the 20 ways to give 3 of 6 tokens the value, one has all three active tokens; 16 of 20 have one or more."""
    assert counts().chance == pytest.approx(np.array([[1 / comb(6, 3), 16 / 20], [1.0, 16 / 20]]))


def test_log_odds_are_bayes_rule():
    found = counts().log_odds(sp.csr_array(np.array([[1.0, 0.0], [0.0, 1.0]])))

    def rate(active: int, tokens: int, prior: float) -> float:
        return min(max((active + prior) / (tokens + 1), 1e-3), 1 - 1e-3)

    given = [[rate(3, 3, 0.5), rate(1, 3, 1 / 3)], [rate(0, 3, 0.5), rate(1, 3, 1 / 3)]]
    none = [rate(0, 8, 0.5), rate(3, 8, 1 / 3)]
    for value, (one, two) in enumerate(given):
        first = log(one / none[0]) + log((1 - two) / (1 - none[1]))
        second = log((1 - one) / (1 - none[0])) + log(two / none[1])
        assert found[:, value] == pytest.approx([first, second])


def test_features_that_the_concept_does_not_know_count_for_nothing():
    concept = taught()
    layer = np.array([*concept.layer[:2], 2, 99])
    index = np.array([*concept.index[:2], 10**6, 3])
    found = concept.activity(np.array([0, 1, 1, 0]), layer, index, 3)
    assert found.toarray().tolist()[0][:2] == [1, 0] and found.toarray().tolist()[1][:2] == [0, 1]
    assert found.sum() == 2 and found.shape == (3, len(concept.layer))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"tokens": tuple(t for t in table().tokens if t.value != "colour")}, "two or more values"),
        ({"tokens": tuple(t for t in table().tokens if t.value is not None)}, "without any"),
        ({"says": {"animal": "!"}}, "colour"),
        ({"tokens": (*table().tokens, Occurrence(text="We", position=9, value=None))}, "no position 9"),
    ],
)
def test_a_table_that_cannot_teach_is_refused(change, word):
    with pytest.raises(ThoughtscopeError, match=word):
        learn_concept(shared_model(), random_dictionary(shared_model()), replace(table(), **change))


# --- files ---------------------------------------------------------------------------------------------------------


def same(left: Concept, right: Concept) -> None:
    for name in ("name", "values", "says", "check", "dictionary_name", "model_name"):
        assert getattr(left, name) == getattr(right, name)
    for name in ("layer", "index", "members"):
        assert np.array_equal(getattr(left, name), getattr(right, name))
    for name in ("tokens", "active", "active_none"):
        assert np.array_equal(getattr(left.counts, name), getattr(right.counts, name))
    assert np.allclose(left.strength, right.strength, rtol=1e-3)
    assert (left.raised is None) == (right.raised is None)
    assert left.raised is None or np.allclose(left.raised, right.raised, rtol=1e-3)


def test_saved_concepts_come_back(tmp_path):
    save_dictionary(random_dictionary(shared_model()), tmp_path / "one")
    dictionary = load_dictionary(tmp_path / "one", shared_model(), preflight=False)
    assert concepts_of(dictionary) == ()
    several = (taught(), replace(taught(True), name="said"))
    save_concepts(several, tmp_path / "one" / "concepts")
    for saved, found in zip(several, concepts_of(dictionary), strict=True):
        same(saved, found)


def test_concepts_of_two_dictionaries_do_not_mix(tmp_path):
    with pytest.raises(DictionaryMismatch, match="other/clt"):
        save_concepts([taught(), replace(taught(), dictionary_name="other/clt")], tmp_path / "c")


def test_an_altered_file_is_refused(tmp_path):
    save_concepts([taught()], tmp_path / "c")
    (file,) = (tmp_path / "c").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptArtefact):
        load_concepts(tmp_path / "c")


# --- names ---------------------------------------------------------------------------------------------------------


def reading(label: str, position: int, log_odds: float, *nodes: str) -> Reading:
    return Reading(
        concept="c", value=label, label=label, position=position, log_odds=log_odds, margin=1.0,
        members=tuple(NodeId.parse(node) for node in nodes),
    )  # fmt: skip


def test_the_surer_reading_names_a_node():
    readings = [reading("A", 3, 2.0, "feature:0:3:1"), reading("B", 3, 5.0, "feature:0:3:1", "feature:0:3:2")]
    assert set(name_nodes(readings).values()) == {"B"}


def test_tokens_of_one_word_share_a_name_and_others_say_where():
    readings = [
        reading("A", 3, 2.0, "feature:0:3:1"),
        reading("A", 4, 5.0, "feature:0:4:1"),
        reading("A", 7, 9.0, "feature:0:7:1"),
    ]
    names = {str(node): name for node, name in name_nodes(readings).items()}
    assert names == {"feature:0:7:1": "A", "feature:0:3:1": "A at 3", "feature:0:4:1": "A at 3"}


# --- the specimen --------------------------------------------------------------------------------------------------


@cache
def microscope(kind: str):
    model = load_model("specimen")
    return model, load_dictionary(f"specimen/{kind}", model, preflight=False)


@cache
def picture(kind: str, city: str = "Dallas"):
    """The specimen's question: its pruned graph, and what is read of its features."""
    model, dictionary = microscope(kind)
    tokens = tokenize(model, f"Fact: the capital of the state containing {city} is")
    features = encode(dictionary, capture(model, tokens, dictionary.sites))
    graph = prune(attribute(model, dictionary, tokens))
    return graph, features, concepts_of(dictionary)


each_kind = pytest.mark.parametrize("kind", ["clt", "plt"])


@each_kind
def test_the_question_reads_dallas_texas_austin(kind):
    graph, features, concepts = picture(kind)
    readings = read_concepts(concepts, features)
    found = [(one.label, graph.tokens[one.position]) for one in readings]
    assert found == [("Texas", " Dallas"), ("say Austin", " is")]
    grouped = group_named(graph, name_nodes(readings))
    for label, position in (("Texas", 9), ("say Austin", 10)):
        members = find_supernode(grouped, label).members
        assert members and {node.position for node in members} == {position}
    edges = grouped_edges(grouped)
    way = [
        edges.names.index(n)
        for n in ("token:9", "Texas", "say Austin", str(graph.node_id(graph.targets[0].node)))
    ]
    assert all(edges.weights[after, before] > 0 for before, after in pairwise(way))
    assert edges.weights[way[3], way[1]] > 0


@each_kind
def test_the_strongest_path_runs_through_the_state(kind):
    """Against all other features of each position taken together."""
    graph, features, concepts = picture(kind, "Tucson")
    rest = {node: f"rest at {node.position}" for node in graph.node_ids() if node.kind == "feature"}
    edges = grouped_edges(group_named(graph, rest | name_nodes(read_concepts(concepts, features))))
    path = strongest_path(edges, "token:9", str(graph.node_id(graph.targets[0].node)))
    assert path[:2] == ("token:9", "Arizona") and set(path[2:-1]) <= {"say Phoenix"}


@each_kind
def test_what_ships_knows_every_state_and_was_checked(kind):
    state, capital = picture(kind)[2]
    assert set(state.values) == set(capitals()) and set(capital.values) == set(capitals().values())
    assert state.counts.tokens.sum() == sum(not city.held for city in cities())
    for concept in (state, capital):
        assert concept.check.right > 0.9 > 10 * concept.check.shuffled
        assert concept.check.mistaken < 0.02 and concept.check.chance_members < 0.1
    assert (state.members.sum(axis=1) > 0).all()


def test_a_group_has_the_members_that_the_rule_says():
    state = picture("clt")[2][0]
    row, texas = state.values.index("Texas"), state.group("Texas")
    rule = (state.counts.chance[row] <= 0.01) & (state.counts.active[row] >= 3)
    assert set(texas) == set(zip(state.layer[rule].tolist(), state.index[rule].tolist(), strict=True))
    assert all(strength > 0 for strength in texas.values())
    with pytest.raises(UnknownFeature, match="Texas"):
        state.group("Texsa")


# --- grouping and paths --------------------------------------------------------------------------------------------


def test_names_of_nodes_that_a_graph_lacks_are_passed_over():
    graph, _, _ = picture("clt")
    one, two, *_ = [node for node in graph.node_ids() if node.kind == "feature"]
    names = {one: "here", two: "here", NodeId.parse("feature:5:0:1535"): "away"}
    assert [node.label for node in group_named(graph, names).supernodes] == ["here"]
    before = group(graph, {"mine": [one]})
    kept = {node.label: node.members for node in group_named(before, names).supernodes}
    assert kept == {"mine": (one,), "here": (two,)}


def test_the_strongest_path_is_the_best_of_all():
    """Against all paths of up to three edges, counted one by one."""
    graph, features, concepts = picture("clt")
    edges = grouped_edges(group_named(graph, name_nodes(read_concepts(concepts, features))))
    shares = edges.shares.toarray()
    start, end = edges.names.index("token:9"), edges.names.index(str(graph.node_id(graph.targets[0].node)))
    two = (shares[end, :] * shares[:, start]).max()
    three = (shares[end, :, None] * shares * shares[:, start][None]).max()
    path = [edges.names.index(name) for name in strongest_path(edges, "token:9", edges.names[end])]
    strength = np.prod([shares[after, before] for before, after in pairwise(path)])
    assert strength >= max(two, three, shares[end, start]) * (1 - 1e-9) and strength > 0
    assert strongest_path(edges, edges.names[end], "token:9") == ()
    with pytest.raises(UnknownFeature, match="Ohio"):
        strongest_path(edges, "Ohio", "token:9")


def test_the_shipped_concepts_are_small():
    assets = Path(__file__).parents[1] / "src" / "thoughtscope" / "assets" / "specimen"
    for kind in ("clt", "plt"):
        assert sum(file.stat().st_size for file in (assets / kind / "concepts").iterdir()) < 1_000_000
