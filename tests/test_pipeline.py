"""The one path, call by call as the quickstart has it: on the shipped specimen, and on a stranger from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import thoughtscope
from tests.autograd_oracle import random_dictionary
from tests.tiny_models import tiny_model
from thoughtscope import (
    attribute,
    build_report,
    capture,
    encode,
    group,
    intervene,
    load_dictionary,
    load_model,
    plan,
    prune,
    tokenize,
)
from thoughtscope.dictionaries import save_dictionary

ASSETS = Path(thoughtscope.__file__).parent / "assets" / "specimen"
HAS_DICTIONARY = (ASSETS / "clt").is_dir()


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A random model and a random dictionary, saved where anybody could have put them."""
    folder = tmp_path_factory.mktemp("stranger")
    model = tiny_model("qwen3", layers=3, eos_token_id=257, pad_token_id=258)
    model.module.save_pretrained(folder / "model")
    model.tokenizer.save_pretrained(folder / "model")
    save_dictionary(random_dictionary(model, cross_layer=True, activation="jumprelu"), folder / "dictionary")
    return str(folder / "model"), str(folder / "dictionary")


def walk(model_name: str, dictionary_name: str, prompt: str, token: int, *, preflight: bool) -> tuple:
    """Every call of the path, each one's result the next one's input; the features at a token are turned round."""
    model = load_model(model_name)
    dictionary = load_dictionary(dictionary_name, model, preflight=preflight)
    tokens = tokenize(model, prompt)
    acts = capture(model, tokens, sites=dictionary.sites)
    features = encode(dictionary, acts)
    graph = attribute(model, dictionary, tokens)
    small = prune(graph, node_mass=0.8, edge_mass=0.98)
    place = range(len(small.tokens))[token]
    chosen = [node for node in small.node_ids() if node.kind == "feature" and node.position == place]
    grouped = group(small, {"chosen": chosen})
    outcome = intervene(model, dictionary, tokens, plan(grouped, "chosen", scale=-1), max_new_tokens=2)
    report = build_report(grouped, model=model, dictionary=dictionary, outcomes=[outcome])
    return model, dictionary, tokens, acts, features, graph, grouped, outcome, report


def check(model, dictionary, tokens, acts, features, graph, grouped, outcome, report) -> None:
    """What the results owe one another."""
    for site in dictionary.writes:
        held = features.reconstruction[site] + features.error[site]
        torch.testing.assert_close(held, acts[site][0].float(), atol=1e-5, rtol=1e-5)
    values = {
        (n.layer, n.position, n.index): float(graph.value[row]) for row, n in enumerate(graph.node_ids())
    }
    shared = zip(features.part, features.position, features.index, features.value, strict=True)
    for layer, position, index, value in list(shared)[::13]:
        if (int(layer), int(position), int(index)) in values:
            assert values[int(layer), int(position), int(index)] == pytest.approx(float(value), rel=1e-4)
    explained = graph.edges.sum(axis=1) + graph.bias
    for target in graph.targets:
        assert explained[target.node] == pytest.approx(float(graph.value[target.node]), abs=1e-2, rel=1e-3)
    assert len(grouped) <= len(graph)
    assert outcome.answer_id == max(graph.targets, key=lambda target: target.probability).vocab_id
    assert outcome.before.probabilities[0] == pytest.approx(outcome.probability_before)
    assert outcome.kl > 0
    (chosen,) = grouped.supernodes
    assert outcome.plan.prediction is not None and outcome.plan.prediction.edited == len(chosen.members)
    assert (outcome.generation_before is not None) and (outcome.generation_after is not None)


def test_a_model_and_a_dictionary_from_files(stranger, tmp_path) -> None:
    results = walk(*stranger, "A prompt of 中", -1, preflight=False)
    check(*results)
    page = tmp_path / "report.html"
    results[-1].save(page)
    text = page.read_text()
    assert "chosen" in text and "A prompt of" in text


@pytest.mark.slow
@pytest.mark.skipif(not HAS_DICTIONARY, reason="this checkout has no specimen dictionary")
def test_the_specimen() -> None:
    prompt = "Fact: the capital of the state containing Dallas is"
    results = walk("specimen", "specimen/clt", prompt, -2, preflight=True)
    check(*results)
    graph, outcome = results[5], results[7]
    assert graph.targets[0].text == " Austin" == outcome.answer
    assert outcome.rank_before == 1 < outcome.rank_after
    assert outcome.prediction_confirmed is not None
