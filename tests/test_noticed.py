"""Small wrong changes that once went unnoticed. Each test is named after the change that it notices.

What only one test needs is imported there, so that a name that moves breaks one test, not the file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.autograd_oracle import random_dictionary
from tests.random_graphs import random_graph
from tests.tiny_models import tiny_model
from thoughtscope.graphs import Graph, LogitDifference, attribute
from thoughtscope.graphs.graph import FEATURE
from thoughtscope.models import Model, capture, tokenize, tokens_from_ids
from thoughtscope.models.loading import model_from

IDS = [256, 9, 77, 33, 120, 121]


# --- graphs: what was left out -------------------------------------------------------------------------------------


def lost(graph: Graph) -> float:
    """The share of all influence that arrives at weight which is no longer among the edges."""
    reached = graph.influence.astype(np.float64) + graph.weights
    incoming = np.abs(graph.edges).sum(axis=1, dtype=np.float64) + graph.absent
    return float((reached * graph.absent / np.maximum(incoming, 1e-10)).sum() / graph.weights.sum())


@pytest.mark.parametrize(
    "limits", [{"edge_floor": 0.01}, {"max_nodes": 8}, {"max_nodes": 8, "edge_floor": 0.01}], ids=str
)
def test_a_certificate_without_the_dropped_mass(limits: dict) -> None:
    """Frontier and dropped mass together are what the books of the graph lack; no more and no less."""
    model = tiny_model("llama", layers=4)
    graph = attribute(
        model, random_dictionary(model, cross_layer=True), tokens_from_ids(model, IDS), **limits
    )
    certificate = graph.certificate
    assert certificate is not None
    assert certificate.frontier_mass + certificate.dropped_mass == pytest.approx(lost(graph), rel=1e-3)
    assert (certificate.dropped_mass > 1e-4) == ("edge_floor" in limits)
    assert (certificate.frontier_mass > 1e-4) == ("max_nodes" in limits)


@pytest.mark.parametrize("floor", [0.0, 0.03])
def test_a_bound_that_is_too_low_or_says_nothing(floor: float) -> None:
    """A feature left out has at most what waits anywhere and what was dropped: what waits at it leads away from it."""
    model = tiny_model("llama", layers=4)
    dictionary, tokens = random_dictionary(model, cross_layer=True), tokens_from_ids(model, IDS)
    whole = attribute(model, dictionary, tokens)
    graph = attribute(model, dictionary, tokens, max_nodes=12, edge_floor=floor)
    found, kept = graph.certificate, set(graph.node_ids())
    assert found is not None and found.active == (whole.kind == FEATURE).sum()
    arrived = zip(whole.node_ids(), whole.influence, strict=True)
    highest = max(float(mass) for node, mass in arrived if node not in kept) / whole.weights.sum()
    assert highest <= found.bound
    assert 0 < found.bound == found.frontier_mass + found.dropped_mass < 1


def test_a_node_budget_that_forgets_what_is_already_expanded() -> None:
    model = tiny_model("llama", layers=4)
    dictionary, tokens = random_dictionary(model, cross_layer=True), tokens_from_ids(model, IDS)
    whole = attribute(model, dictionary, tokens)
    above = [node for node in whole.node_ids() if node.kind == "feature" and node.layer == 3][:3]
    for budget in (3, 8):
        graph = attribute(model, dictionary, tokens, targets=above, max_nodes=budget)
        assert graph.certificate is not None and graph.certificate.expanded == budget
        assert (graph.kind == FEATURE).sum() == budget
        assert {graph.node_id(target.node) for target in graph.targets} == set(above)
        assert lost(graph) == pytest.approx(graph.certificate.frontier_mass, rel=1e-3)


def test_the_inner_flow_of_a_supernode_counted_as_outside() -> None:
    """Groups whose members feed each other: the shares are of what enters from outside, so they add up to one."""
    from thoughtscope.graphs import group
    from thoughtscope.graphs.supernodes import grouped_edges

    graph = random_graph(n_layers=4, seed=3)
    features = [int(row) for row in np.flatnonzero(graph.kind == FEATURE)]
    members = {"a": features[::3], "b": features[1::3]}
    grouped = grouped_edges(
        group(graph, {name: [graph.node_id(row) for row in rows] for name, rows in members.items()})
    )
    shares, edges = grouped.shares.toarray(), np.abs(graph.edges.toarray()).astype(np.float64)
    flow = edges / np.maximum(edges.sum(1, keepdims=True), 1e-10) * (graph.influence + graph.weights)[:, None]
    for name, rows in members.items():
        target = grouped.names.index(name)
        inner = flow[np.ix_(rows, rows)].sum()
        assert inner > 0.01 and shares[target, target] == 0
        assert shares[target].sum() == pytest.approx(1)
        other = members["b" if name == "a" else "a"]
        expected = flow[np.ix_(rows, other)].sum() / (flow[rows].sum() - inner)
        assert shares[target, grouped.names.index("b" if name == "a" else "a")] == pytest.approx(expected)


# --- an unembedding with a bias ------------------------------------------------------------------------------------


def biased_model() -> Model:
    """A Llama whose unembedding has a bias of its own at each token, with a mean far from nothing."""
    model = tiny_model("llama", layers=2)
    module = model.module
    head = nn.Linear(model.d_model, model.vocab_size)
    head.weight = module.lm_head.weight
    head.bias = nn.Parameter(torch.linspace(-2.0, 5.0, model.vocab_size).roll(40), requires_grad=False)
    module.lm_head = head
    return model_from(module, model.tokenizer, name="biased", revision="0")


@pytest.mark.parametrize("target", [7, LogitDifference(7, 201)], ids=["token", "difference"])
def test_the_biases_of_the_unembedding_left_whole_or_added(target: int | LogitDifference) -> None:
    """A token's value is its logit over the vocabulary's mean logit, a difference's that of the two logits."""
    model = biased_model()
    tokens = tokens_from_ids(model, IDS)
    graph = attribute(model, random_dictionary(model), tokens, targets=[target])
    logits = capture(model, tokens, ["logits"])["logits"][0, -1]
    expected = logits[7] - (logits[201] if isinstance(target, LogitDifference) else logits.mean())
    row = graph.targets[0].node
    assert graph.value[row] == pytest.approx(float(expected), abs=1e-4)
    assert graph.edges[[row]].sum() + graph.bias[row] == pytest.approx(float(expected), abs=1e-4)


# --- interventions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("predicted", "measured", "verdict"), [
    (2.0, 0.0, False), (-2.0, 0.0, False), (2.0, 5e-4, False), (-2.0, -5e-4, False),
    (2.0, 0.5, True), (-2.0, -0.5, True), (2.0, -0.5, False), (5e-4, 0.5, None),
])  # fmt: skip
def test_an_unmoved_logit_that_confirms(predicted: float, measured: float, verdict: bool | None) -> None:
    from thoughtscope.interventions import Plan
    from thoughtscope.interventions.outcome import confirms
    from thoughtscope.interventions.prediction import Prediction, TargetChange

    change = TargetChange(text=" a", vocab_id=7, change=predicted)
    plan = Plan(edits=(), prediction=Prediction(changes=(change,), edited=1, outside=0))
    assert confirms(plan, 7, measured) is verdict


# --- dictionaries --------------------------------------------------------------------------------------------------


def test_the_slack_of_the_preflight_doubled() -> None:
    """Just outside of what is recorded or declared, within the slack, is refused; just inside is taken."""
    from thoughtscope.dictionaries.preflight import look, with_self_test

    model = tiny_model("llama", layers=2)
    tested = with_self_test(model, random_dictionary(model), ["a sunny day by the sea", "and then it rained"])
    own = tested.card.self_test
    assert own is not None
    fvu, l0 = sum(own.fvu) / len(own.fvu), sum(own.l0)

    def problems(**recorded: float) -> tuple[str, ...]:
        n = len(own.fvu)
        changed = {name: (value / (n if name == "l0" else 1),) * n for name, value in recorded.items()}
        card = replace(tested.card, self_test=replace(own, **changed))
        return look(model, replace(tested, card=card)).problems

    assert problems() == problems(fvu=(fvu - 0.02) / 1.25) == ()
    assert len(problems(fvu=(fvu - 0.05) / 1.25)) == 1
    for factor, n in {0.68: 1, 0.72: 0, 1.38: 0, 1.42: 1}.items():
        assert len(problems(l0=l0 / factor)) == n, factor
    bare = replace(tested, card=replace(tested.card, self_test=None))
    declared = look(model, bare).l0
    for factor, n in {0.24: 1, 0.26: 0, 3.9: 0, 4.1: 1}.items():
        found = look(
            model, replace(bare, card=replace(bare.card, declared={"l0": declared / factor}))
        ).problems
        assert len([problem for problem in found if "declared" in problem]) == n, factor


def trained_on_one_batch(**changes: object) -> tuple[list[dict], list[float]]:
    """The figures and learning rates of a small training that sees the same tokens again and again."""
    from thoughtscope.training import recipes, run
    from thoughtscope.training.data import Moments
    from thoughtscope.training.step import train_step

    named = {name.replace("__", "."): value for name, value in changes.items()}
    recipe = recipes.transcoder(
        2, **{"n_features": 32, "schedule.n_tokens": 2_000, "schedule.batch": 100, **named}
    )  # type: ignore[arg-type]
    model = tiny_model("llama", layers=2)
    random = torch.Generator().manual_seed(0)
    documents = torch.randint(3, model.vocab_size, (5, 21), generator=random).tolist()
    acts = capture(model, tokens_from_ids(model, documents), recipe.sites)
    rows = {site: acts[site][:, 1:].flatten(0, 1) for site in recipe.sites}

    stream = SimpleNamespace(
        sites=recipe.sites,
        widths={site: x.shape[1] for site, x in rows.items()},
        moments={site: Moments.of(x) for site, x in rows.items()},
    )
    state = run.begin(stream, recipe, rows)  # type: ignore[arg-type]
    figures, rates = [], []
    for _ in range(recipe.schedule.n_steps):
        figures.append(train_step(state, rows))
        figures[-1]["threshold"] = state.parts[0].threshold
        rates.append(state.adam.rate)
    return figures, rates


def test_a_threshold_average_with_its_weights_exchanged() -> None:
    """With nothing learned and one batch, a k that drops after the first step is neared by a tenth a step."""
    still = {"schedule__learning_rate": 1e-30, "dead": None, "precision": "float32"}
    threshold = lambda **changes: [one["threshold"] for one in trained_on_one_batch(**still, **changes)[0]]
    settled, double = threshold(k=4, schedule__k_start=1.0), threshold(k=8, schedule__k_start=1.0)
    assert np.ptp(settled) < 1e-6 < abs(settled[0] - double[0])
    moving = threshold(k=4, schedule__k_start=2.0, schedule__sparsity_warm_up=1e-6)
    expected = settled[0] + (double[0] - settled[0]) * 0.9 ** np.arange(len(moving))
    np.testing.assert_allclose(moving, expected, rtol=1e-5)


def test_no_decay_of_the_learning_rate() -> None:
    """Up over the first fifth, level, down to nothing over the second half."""
    _, rates = trained_on_one_batch(
        k=4, schedule__learning_rate=1e-3, schedule__warm_up=0.2, schedule__decay=0.5
    )
    done = np.arange(20) / 20
    expected = np.minimum(np.minimum((done + 1 / 20) / 0.2, 1), (1 - done) / 0.5)
    np.testing.assert_allclose(np.array(rates) / 1e-3, expected, rtol=1e-6)


def test_an_auxiliary_loss_without_its_normalisation() -> None:
    """It is a share of what the live features leave: as they leave less, it does not fall with it."""
    weight = 1e-3  # so small that the other features hardly notice
    figures, _ = trained_on_one_batch(
        k=4, n_features=128, dead={"kind": "auxiliary", "coefficient": weight, "k": 1}, schedule__dead_after=1,
        schedule__n_tokens=12_000, schedule__learning_rate=3e-3,
    )  # fmt: skip
    # Each batch is the whole text, whose scaled targets have a mean square of 1: its errors are the shares themselves.
    helped = [one for one in figures if one["dead"] > 0]
    share = lambda one: (one["loss"] - 2 * one["fvu"]) / weight / 2
    assert helped and helped[-1]["fvu"] < 0.5 * figures[0]["fvu"] and 0.6 < share(helped[-1]) < 3


def test_a_gemma_scope_hook_of_the_middle_read_as_the_start(tmp_path: Path) -> None:
    from thoughtscope.core.site import Site
    from thoughtscope.dictionaries import load_dictionary

    hooks = {"pre_feedforward_layernorm.input": "resid_mid", "input": "resid_pre", "output": "resid_post",
             "pre_feedforward_layernorm.output": "mlp_in", "mlp.input": "mlp_in"}  # fmt: skip
    for number, (hook, kind) in enumerate(hooks.items()):
        for layer in range(2):
            home = tmp_path / str(number) / f"layer_{layer}_width_16k_l0_small"
            home.mkdir(parents=True)
            shapes = {"w_enc": (6, 9), "w_dec": (9, 6), "b_enc": (9,), "b_dec": (6,), "threshold": (9,)}
            save_file(
                {name: torch.ones(shape) for name, shape in shapes.items()}, home / "params.safetensors"
            )
            where = f"model.layers.{layer}."
            (home / "config.json").write_text(json.dumps({
                "hf_hook_point_in": where + hook, "hf_hook_point_out": where + "post_feedforward_layernorm.output",
                "width": 9, "model_name": "google/gemma-3-1b-pt", "architecture": "jump_relu", "l0": 20,
                "affine_connection": False, "type": "transcoder",
            }))  # fmt: skip
        dictionary = load_dictionary(tmp_path / str(number))
        assert dictionary.reads == (Site(kind, 0), Site(kind, 1)), hook


def test_an_upper_quarter_that_holds_the_lowest() -> None:
    from tests.tiny_microscope import random_dictionary as dictionary_of
    from tests.tiny_microscope import shared_model
    from thoughtscope.atlas import collect_examples

    model = shared_model()
    random = torch.Generator().manual_seed(1)
    documents = torch.randint(3, 250, (40, 16), generator=random).tolist()
    bank = collect_examples(model, dictionary_of(model), documents, n_top=2, n_quantile=3, window=(3, 2))
    checked = 0
    for index in range(8):
        detail = bank.detail(1, index)
        peaks = {
            group["quantile_name"]: [
                one["tokens_acts_list"][one["train_token_ind"]] for one in group["examples"]
            ]
            for group in detail["examples_quantiles"]
        }
        names = ["Top activations", "Upper quarter", "Upper middle", "Lower middle", "Lower quarter"]
        if detail["activation_frequency"] > 0.1 and all(peaks.get(name) for name in names):
            checked += 1
            for above, below in pairwise(names):
                assert min(peaks[above]) >= max(peaks[below]) or above == "Top activations"
            assert max(peaks["Top activations"]) == pytest.approx(detail["act_max"], rel=1e-2)
            _, low, middle, high, _ = detail["quantile_values"]
            assert (
                max(peaks["Lower quarter"])
                <= low + 1e-3
                < middle
                < high - 1e-3
                <= min(peaks["Upper quarter"])
            )
    assert checked >= 3


# --- models --------------------------------------------------------------------------------------------------------


def test_a_generation_that_forgets_who_has_ended() -> None:
    """One row ends early, the other late: together they are done when the late one is."""
    from thoughtscope.models import generate

    model = tiny_model("llama", layers=2)
    texts = ["ab", "xyz!", "q", "1 + 2", "The end", "Öl"]
    free = generate(model, tokenize(model, texts), max_new_tokens=8, stop_at_end=False).ids[:, -8:].tolist()
    early, late, last = next(
        (a, b, n)
        for a, b in permutations(range(len(texts)), 2)
        for n in range(2, 8)
        if free[a][0] not in free[b][: n + 1] and free[b][n] not in free[b][:n] + free[a][: n + 1]
    )
    model.module.generation_config.eos_token_id = [free[early][0], free[late][last]]
    tokens = tokenize(model, [texts[early], texts[late]])
    ended = generate(model, tokens, max_new_tokens=8)
    assert ended.ids.shape[1] == tokens.ids.shape[1] + last + 1


def test_a_fingerprint_that_skips_the_tail(tmp_path: Path) -> None:
    from thoughtscope.models.checkpoints import fingerprint

    names = []
    for at in (None, 0, (1 << 20) - 1, 3_000_000 - (1 << 16), 2_999_999):
        folder = tmp_path / str(at)
        folder.mkdir()
        content = bytearray(3_000_000)
        if at is not None:
            content[at] = 1
        (folder / "model.safetensors").write_bytes(content)
        names.append(fingerprint(folder))
    assert len(set(names)) == len(names)


def test_a_token_limit_bound_of_one_for_eight() -> None:
    """A text that its tokenizer shortens is counted in tokens, whatever its bytes."""
    from tokenizers import Regex, normalizers

    model = tiny_model("llama", layers=2)
    model.tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("x{16}"), "x")
    tokens = tokenize(model, "x" * 16 * 9, max_tokens=10)
    assert tokens.ids.shape == (1, 10)
