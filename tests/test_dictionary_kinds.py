"""Autoencoders on the residual stream, on heads and on neurons, and crosscoders: all verbs, on every family."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from tests.autograd_oracle import edges_by_autograd, random_dictionary, same_parts
from tests.dictionary_oracle import (
    KINDS,
    decode_plainly,
    edit_plainly,
    encode_plainly,
    held,
    noting,
    random_coder,
    scores_plainly,
    weights_of,
)
from tests.tiny_models import VARIANTS, tiny_variant
from thoughtscope.core.errors import DictionaryMismatch, InvalidPlan, ThoughtscopeError, UnknownFeature
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Dictionary,
    encode,
    evaluate_dictionary,
    load_dictionary,
    save_dictionary,
)
from thoughtscope.graphs import FeatureTarget, attribute
from thoughtscope.interventions import FeatureEdit, Plan, intervene, random_control
from thoughtscope.models import Model, capture, forward, tokens_from_ids
from thoughtscope.training import recipes, train_dictionary

IDS = [7, 84, 104, 101, 32, 99]
FEW = ("gpt2", "llama", "gemma3")


def world(label: str, kind: str) -> tuple[Model, Dictionary]:
    model = tiny_variant(label, layers=3)
    return model, random_coder(model, KINDS[kind])


def first_active(model: Model, dictionary: Dictionary) -> tuple[int, int, float]:
    """(index, position, value) of the active feature with the highest value."""
    features = encode(dictionary, capture(model, tokens_from_ids(model, IDS), dictionary.sites))
    at = int(features.value.argmax())
    return int(features.index[at]), int(features.position[at]), float(features.value[at])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", VARIANTS)
def test_encode_and_decode_follow_the_definitions(label: str, kind: str) -> None:
    model, dictionary = world(label, kind)
    features = encode(dictionary, capture(model, tokens_from_ids(model, IDS), dictionary.sites))
    w = weights_of(dictionary)
    x, _ = held(model, IDS, KINDS[kind])
    expected = encode_plainly(w, x)
    dense = torch.zeros_like(expected)
    dense[features.position, features.index] = features.value.double()
    torch.testing.assert_close(dense, expected, atol=1e-5, rtol=1e-5)
    assert len(features) > 5
    for name, written in decode_plainly(w, expected).items():
        site = Site.parse(name)
        torch.testing.assert_close(features.reconstruction[site].double(), written, atol=1e-5, rtol=1e-5)
        total = features.reconstruction[site] + features.error[site]
        torch.testing.assert_close(total, x[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", FEW)
def test_scores_equal_plain_sums_and_a_plain_splice(label: str, kind: str) -> None:
    model, dictionary = world(label, kind)
    documents = [IDS, [9, 33, 61, 120, 5, 77]]
    scores = evaluate_dictionary(model, dictionary, documents)
    expected = scores_plainly(model, weights_of(dictionary), documents)
    assert scores.fvu_by_site == pytest.approx(expected["fvu"], rel=1e-5)
    assert scores.l0 == pytest.approx(expected["l0"])
    assert scores.loss == pytest.approx(expected["loss"], rel=1e-5)
    assert scores.loss_spliced == pytest.approx(expected["loss_spliced"], rel=1e-4)
    assert abs(expected["loss_spliced"] - expected["loss"]) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("label", FEW)
def test_an_edit_adds_its_decoder_where_the_feature_writes(label: str, kind: str) -> None:
    model, dictionary = world(label, kind)
    index, _, value = first_active(model, dictionary)
    last = len(IDS) - 1
    edit = FeatureEdit(
        part=dictionary.parts[0].name, index=index, op="set", value=2 * value, positions=(last,)
    )
    outcome = intervene(model, dictionary, tokens_from_ids(model, IDS), Plan(edits=(edit,), attention="free"))
    logits = edit_plainly(model, weights_of(dictionary), IDS, index, last, 2 * value)[-1]
    after = logits.double().softmax(-1)[list(outcome.after.ids)]
    assert outcome.after.probabilities == pytest.approx(after.tolist(), rel=1e-4)
    assert outcome.kl > 1e-7


def test_an_edit_that_sets_what_is_there_changes_next_to_nothing() -> None:
    for kind in KINDS:
        model, dictionary = world("llama", kind)
        index, position, value = first_active(model, dictionary)
        name = dictionary.parts[0].name
        same = FeatureEdit(part=name, index=index, op="set", value=value, positions=(position,))
        neutral = FeatureEdit(part=name, index=index, op="scale", value=1.0)
        assert intervene(model, dictionary, tokens_from_ids(model, IDS), Plan(edits=(same,))).kl < 1e-9
        outcome = intervene(model, dictionary, tokens_from_ids(model, IDS), Plan(edits=(neutral,)))
        assert outcome.before == outcome.after and outcome.kl == 0


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path, kind: str) -> None:
    model, dictionary = world("llama", kind)
    save_dictionary(dictionary, tmp_path / "a")
    again = load_dictionary(tmp_path / "a", model, preflight=False)
    assert same_parts(dictionary, again) and again.kind == dictionary.kind
    with pytest.raises(DictionaryMismatch, match="not one transcoder for each layer"):
        save_dictionary(dictionary, tmp_path / "b", format="circuit-tracer")


@pytest.mark.parametrize("kind", ["SAE on resid_post", "SAE on z", "crosscoder"])
@pytest.mark.parametrize("label", VARIANTS)
def test_a_feature_of_another_dictionary_is_traced(label: str, kind: str) -> None:
    model, coder = world(label, kind)
    transcoders = random_dictionary(model, cross_layer=True, read="resid_pre")
    tokens = tokens_from_ids(model, IDS)
    index, position, _ = first_active(model, coder)
    target = FeatureTarget(dictionary=coder, part=coder.parts[0].name, index=index, position=position)
    graph = attribute(model, transcoders, tokens, targets=[target])
    (row,) = [each.node for each in graph.targets]
    assert graph.edges[[row]].sum() + graph.bias[row] == pytest.approx(float(graph.value[row]), abs=2e-5)
    w = weights_of(coder)
    vectors = {site: rows[index] for site, rows in w["W_enc"].items()}
    read = (vectors, float(w["b_enc"][index]), position)
    features = encode(transcoders, capture(model, tokens, transcoders.sites))
    note = partial(noting, sites=KINDS[kind])
    edges, values = edges_by_autograd(model, transcoders, features, tokens, [], reads=[read], note=note)
    places = zip(features.part.tolist(), features.position.tolist(), features.index.tolist(), strict=True)
    known = {str(node): number for number, node in enumerate(graph.node_ids())}
    found = np.zeros(edges.shape[1])
    into = graph.edges[[row]].toarray()[0]
    for column, (part, at, which) in enumerate(places):
        found[column] = into[known[name]] if (name := f"feature:{part}:{at}:{which}") in known else 0.0
    rest = edges.shape[1] - len(features)
    found[len(features) :] = into[-rest - 1 : -1]
    np.testing.assert_allclose(found, edges[-1], atol=1e-5 * np.abs(edges[-1]).max() + 1e-7)
    assert values[-1] == pytest.approx(float(graph.value[row]), abs=1e-5)


def test_what_cannot_be_traced_says_why() -> None:
    model, neurons = world("llama", "SAE on neurons")
    transcoders, tokens = random_dictionary(model), tokens_from_ids(model, IDS)
    index, position, _ = first_active(model, neurons)
    target = FeatureTarget(dictionary=neurons, part="mlp_act.1", index=index, position=position)
    with pytest.raises(ThoughtscopeError, match="site whose features can be targets"):
        attribute(model, transcoders, tokens, targets=[target])
    with pytest.raises(DictionaryMismatch, match="can be targets of a graph, not its nodes"):
        attribute(model, neurons, tokens)
    with pytest.raises(UnknownFeature, match="is not active at position 0"):
        attribute(model, transcoders, tokens, targets=[replace(target, position=0)])


def test_generated_tokens_know_no_activation_of_a_crosscoder() -> None:
    model, dictionary = world("llama", "crosscoder")
    tokens = tokens_from_ids(model, IDS)
    everywhere = FeatureEdit(part="crosscoder", index=1, op="set", value=3.0)
    with pytest.raises(InvalidPlan, match="reads later than it writes"):
        intervene(model, dictionary, tokens, Plan(edits=(everywhere,)), max_new_tokens=2)
    added = Plan(edits=(FeatureEdit(part="crosscoder", index=1, op="add", value=30.0),))
    outcome = intervene(model, dictionary, tokens, added, max_new_tokens=2)
    assert outcome.generation_before != outcome.generation_after or outcome.kl > 0


def test_a_control_of_an_autoencoders_edit_is_as_strong() -> None:
    model, dictionary = world("llama", "crosscoder")
    features = encode(dictionary, capture(model, tokens_from_ids(model, IDS), dictionary.sites))
    made = Plan(edits=(FeatureEdit(part="crosscoder", index=2, op="add", value=1.5, positions=(3,)),))
    (edit,) = random_control(dictionary, made, features, seed=1).feature_edits
    rows = dictionary.parts[0].decoder_rows(torch.tensor([2, edit.index]))
    mine, other = torch.cat(list(rows.values()), dim=1).norm(dim=1).tolist()
    assert edit.index != 2 and edit.value * other == pytest.approx(1.5 * mine, rel=1e-5)


@pytest.mark.parametrize(("site", "width"), [("resid_post", 16), ("z", 16), ("mlp_act", 32)])
def test_autoencoders_train_on_any_site(site: str, width: int) -> None:
    model = tiny_variant("llama", layers=2)
    random = torch.Generator().manual_seed(0)
    texts = torch.randint(3, model.vocab_size, (60, 20), generator=random).tolist()
    recipe = recipes.batchtopk_sae(
        [f"{site}.0", f"{site}.1"], n_features=48, k=6,
        **{"schedule.n_tokens": 20_000, "schedule.batch": 200, "schedule.learning_rate": 1e-2, "schedule.dead_after": 1000,
           "data.buffer_tokens": 2000, "data.passes": 2},
    )  # fmt: skip
    dictionary = train_dictionary(model, texts, recipe)
    assert dictionary.kind == "sparse autoencoder"
    assert {w.shape[1] for part in dictionary.parts for w in part.W_enc.values()} == {
        model.width(f"{site}.0")
    }
    assert evaluate_dictionary(model, dictionary, texts).fvu < 0.7


def test_a_part_of_one_layer_stands_in_for_that_layer_alone() -> None:
    """A set of transcoders for some blocks: the others' MLPs are errors, and the books still balance."""
    model = tiny_variant("llama", layers=3)
    whole = random_dictionary(model)
    some = replace(whole, parts=(whole.parts[0], whole.parts[2]))
    tokens = tokens_from_ids(model, IDS)
    graph = attribute(model, some, tokens)
    assert {node.layer for node in graph.node_ids() if node.kind == "feature"} == {0, 2}
    for target in graph.targets:
        total = graph.edges[[target.node]].sum() + graph.bias[target.node]
        assert total == pytest.approx(float(graph.value[target.node]), abs=2e-5)
    missed = [row for row, node in enumerate(graph.node_ids()) if node.kind == "error" and node.layer == 1]
    written = capture(model, tokens, ["mlp_out.1"])["mlp_out.1"][0].norm(dim=-1)
    np.testing.assert_allclose(graph.value[missed], written.numpy(), rtol=1e-5)
    assert torch.equal(forward(model, tokens), forward(model, tokens))
