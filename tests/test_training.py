"""The trainer: sparse gradients, folding, the target L0, and a run that was killed and goes on bit for bit."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
import torch

from tests.autograd_oracle import activations_at, same_parts
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, FolderInUse, ThoughtscopeError
from thoughtscope.core.store import load_artefact, save_artefact
from thoughtscope.dictionaries import Dictionary, TrainConfig, evaluate_dictionary, train_dictionary
from thoughtscope.dictionaries import training as module
from thoughtscope.dictionaries.documents import document_batches, read_rows
from thoughtscope.dictionaries.features import decode
from thoughtscope.dictionaries.sparse import SparseLayer
from thoughtscope.models import Model

SMALL = TrainConfig(
    cross_layer=True,
    n_features=48,
    l0=6.0,
    n_tokens=12_000,
    chunk_tokens=2_000,
    batch=200,
    dead_after=1500,
    saved="float32",
)


def documents(model: Model, n: int = 150, length: int = 24) -> list[list[int]]:
    random = torch.Generator().manual_seed(0)
    return torch.randint(3, model.vocab_size, (n, length), generator=random).tolist()


def same(a: Dictionary, b: Dictionary) -> bool:
    return same_parts(a, b)


@pytest.mark.parametrize("n_active", [0, 1, 40])
def test_sparse_gradients_equal_dense_ones(n_active):
    tokens, features, d_in, d_out = 12, 9, 5, 7
    weights = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((features, d_in), (features,), (features, d_out))
    ]
    x, pull = torch.randn(tokens, d_in, dtype=torch.float64), torch.randn(tokens, d_out, dtype=torch.float64)
    chosen = torch.zeros(tokens, features, dtype=torch.bool)
    chosen.view(-1)[torch.randperm(tokens * features)[:n_active]] = True
    pre = x @ weights[0].T + weights[1]
    dense = (pre * chosen) @ weights[2]
    expected = torch.autograd.grad((dense * pull).sum(), weights, retain_graph=True)
    token, feature = chosen.nonzero(as_tuple=True)
    sparse = SparseLayer.apply(x, *weights, token, feature, pre.detach()[token, feature])
    torch.testing.assert_close(sparse, dense.detach())
    for grad, reference in zip(torch.autograd.grad((sparse * pull).sum(), weights), expected, strict=True):
        torch.testing.assert_close(grad, reference)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_training_explains_the_model_at_the_wanted_l0(cross, skip):
    model = tiny_model("llama", layers=3)
    config = replace(SMALL, cross_layer=cross, skip=skip, n_tokens=24_000)
    first: list[float] = []
    dictionary = train_dictionary(
        model, documents(model), config, progress=lambda *_, fvu, **rest: first.append(fvu)
    )
    scores = evaluate_dictionary(model, dictionary, documents(model))
    assert (dictionary.kind == "cross-layer transcoder") == cross and dictionary.has_skip == skip
    assert scores.fvu < 0.45 and scores.fvu < 0.6 * first[0]
    assert 0.75 * 18 < scores.l0 < 1.3 * 18
    assert scores.dead < 0.1


def test_a_source_that_comes_once_is_enough_when_it_lasts():
    """The self-test's documents come from the start: at the end there may be none left."""
    model = tiny_model("llama", layers=2)
    config = replace(SMALL, n_tokens=400, chunk_tokens=400)
    texts = documents(model, n=1024, length=3)
    once = train_dictionary(model, iter(texts), config)
    assert once.card.self_test == train_dictionary(model, texts, config).card.self_test
    with pytest.raises(ThoughtscopeError, match="ran out"):
        train_dictionary(model, iter(texts[:12]), config)


def test_documents_of_single_tokens_are_refused_and_not_gone_round_for_ever():
    model = tiny_model("llama", layers=2)
    with pytest.raises(ThoughtscopeError, match="two tokens or more"):
        train_dictionary(model, [[5], [6]], SMALL)


@pytest.mark.parametrize("cross", [False, True])
def test_scales_are_folded_into_the_weights(cross, monkeypatch):
    """The saved dictionary writes, in the model's units, what the trainer predicts in its own."""
    model = tiny_model("llama", layers=3)
    kept: list[module.Trainer] = []
    folded = module._folded
    monkeypatch.setattr(
        module, "_folded", lambda trainer, *rest: kept.append(trainer) or folded(trainer, *rest)
    )
    dictionary = train_dictionary(model, documents(model), replace(SMALL, cross_layer=cross, skip=True))
    (trainer,) = kept
    rows = read_rows(
        model, document_batches(model, documents(model)), dictionary.reads, dictionary.writes, n_tokens=300
    )
    w, x = trainer.weights, trainer.scaling.inputs(rows.inputs)
    pre = [x[layer] @ w[f"W_enc_{layer}"].T + w[f"b_enc_{layer}"] for layer in range(3)]
    pairs = [
        (p * w[f"W_dec_{layer}"].norm(dim=-1) > trainer.threshold).nonzero(as_tuple=True)
        for layer, p in enumerate(pre)
    ]
    predicted = module._decode(trainer, x, pre, pairs)
    found = [activations_at(dictionary, layer, rows.inputs[:, layer].float()) for layer in range(3)]
    for (token, feature), dense in zip(pairs, found, strict=True):
        assert ((dense > 0).nonzero() != torch.stack([token, feature], 1)).sum() == 0
    events = [(torch.full((len(t),), layer), t, f, found[layer][t, f]) for layer, (t, f) in enumerate(pairs)]
    ours = decode(
        dictionary,
        *(torch.cat(column) for column in zip(*events, strict=True)),
        {site: rows.inputs[:, layer].float() for layer, site in enumerate(dictionary.reads)},
    )
    for layer in range(3):
        y = predicted[layer] + w[f"b_dec_{layer}"] + x[layer] @ w[f"W_skip_{layer}"].T
        y = y * trainer.scaling.scale_out[layer] + trainer.scaling.mean_out[layer]
        torch.testing.assert_close(ours[dictionary.writes[layer]], y.detach(), atol=1e-4, rtol=1e-3)


def test_training_does_not_depend_on_or_disturb_the_callers_random_numbers():
    model = tiny_model("llama")
    torch.manual_seed(1)
    a = train_dictionary(model, documents(model), SMALL)
    after = torch.rand(1)
    torch.manual_seed(2)
    b = train_dictionary(model, documents(model), SMALL)
    torch.manual_seed(1)
    assert same(a, b) and torch.equal(after, torch.rand(1))


@pytest.mark.parametrize("killed_at", [2, 3, 9, 15, 20, 27, 33, 41, 47, 58])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, killed_at):
    class Killed(Exception):
        pass

    def kill(stage, step, total, **figures):
        if step == killed_at:
            raise Killed

    model = tiny_model("llama")
    config = replace(SMALL, checkpoint_minutes=0.0, passes=2)
    whole = train_dictionary(model, documents(model), config)
    with pytest.raises(Killed):
        train_dictionary(model, documents(model), config, folder=tmp_path, progress=kill)
    steps: list[int] = []
    resumed = train_dictionary(
        model,
        documents(model),
        config,
        folder=tmp_path,
        progress=lambda _, step, *__, **___: steps.append(step),
    )
    assert steps == list(range(killed_at, 61)) and same(whole, resumed)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 60 and {"fvu", "l0", "dead", "n_steps", "seconds"} <= set(lines[-1])


def test_another_configuration_does_not_continue_a_run(tmp_path):
    model = tiny_model("llama")
    train_dictionary(model, documents(model), SMALL, folder=tmp_path)
    with pytest.raises(ThoughtscopeError, match="another l0"):
        train_dictionary(model, documents(model), replace(SMALL, l0=5.0), folder=tmp_path)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_that_is_started_again_changes_nothing(tmp_path):
    def none():
        raise AssertionError("a finished run asks for no documents")

    model = tiny_model("llama")
    config = replace(SMALL, n_tokens=4_000)
    first = train_dictionary(model, documents(model), config, folder=tmp_path)
    before, steps = contents(tmp_path), []
    again = train_dictionary(
        model, none, config, folder=tmp_path, progress=lambda *given, **_: steps.append(given)
    )
    assert same(first, again) and first.card.self_test == again.card.self_test and steps == []
    assert contents(tmp_path) == before
    older = load_artefact(
        tmp_path / "state", kind=module.CHECKPOINT
    )  # which did not say on what it would be tested
    meta = {key: value for key, value in older.meta.items() if key != "tested"}
    tensors = {name: dict(older.tensors(name).items()) for name in older.files}
    save_artefact(tmp_path / "state", kind=module.CHECKPOINT, tensors=tensors, meta=meta)
    before = contents(tmp_path)
    again = train_dictionary(model, documents(model), config, folder=tmp_path)
    assert same(first, again) and first.card.self_test == again.card.self_test
    assert contents(tmp_path) == before


def test_a_damaged_state_stops_the_training_and_is_left_alone(tmp_path):
    model = tiny_model("llama")
    config = replace(SMALL, n_tokens=400)
    train_dictionary(model, documents(model), config, folder=tmp_path)
    manifest = tmp_path / "state" / "manifest.json"
    whole = manifest.read_bytes()
    weights = next((tmp_path / "state").glob("weights-*"))
    flipped = [whole[:n] + bytes([whole[n] ^ 2]) + whole[n + 1 :] for n in range(0, len(whole), 97)]
    for damaged in (*flipped, b"", b"{}", whole[:-9]):
        manifest.write_bytes(damaged)
        before = contents(tmp_path)
        with pytest.raises(CorruptArtefact, match=r"(manifest\.json|state) .*stops here.*Put a sound copy"):
            train_dictionary(model, documents(model), config, folder=tmp_path)
        assert contents(tmp_path) == before
    manifest.write_bytes(whole)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CorruptArtefact, match=r"weights-.*stops here"):
        train_dictionary(model, documents(model), config, folder=tmp_path)


def test_two_runs_do_not_train_in_one_folder(tmp_path):
    model, tried = tiny_model("llama"), []

    def second() -> None:
        try:
            train_dictionary(model, documents(model), SMALL, folder=tmp_path)
        except FolderInUse as error:
            tried.append(str(error))

    def start_another(stage, step, total, **figures):
        if step == 2:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    config = replace(SMALL, n_tokens=1_000)
    train_dictionary(model, documents(model), config, folder=tmp_path, progress=start_another)
    assert len(tried) == 1 and str(tmp_path) in tried[0]


def test_dead_features_learn_from_the_residual():
    """The auxiliary loss moves dead features only, and moves them."""
    model = tiny_model("llama")
    sites = [tuple(model.site(f"{kind}.{layer}") for layer in range(2)) for kind in ("mlp_in", "mlp_out")]
    rows = read_rows(model, document_batches(model, documents(model)), *sites, n_tokens=400)
    trainer = module._start(SMALL, rows)
    x = trainer.scaling.inputs(rows.inputs)
    pre = [module._preactivations(trainer.weights, layer, x[layer], "float32").detach() for layer in range(2)]
    dead = torch.zeros(2, 48, dtype=torch.bool)
    dead[0, 7] = dead[1, 30] = True
    module._auxiliary(trainer, x, pre, list(trainer.scaling.outputs(rows.outputs)), dead).backward()
    for layer in range(2):
        for name in ("W_enc", "W_dec"):
            moved = trainer.weights[f"{name}_{layer}"].grad.abs().sum(1) > 0
            assert torch.equal(moved, dead[layer])


def test_impossible_configurations_and_documents_are_refused():
    model = tiny_model("llama")
    with pytest.raises(ThoughtscopeError, match="l0 < n_features"):
        replace(SMALL, l0=48.0)
    with pytest.raises(ThoughtscopeError, match="no batch of"):
        replace(SMALL, chunk_tokens=100)
    with pytest.raises(ThoughtscopeError, match="ran out"):
        train_dictionary(model, iter(documents(model, n=10)), SMALL)
    with pytest.raises(ThoughtscopeError, match="either all texts"):
        train_dictionary(model, ["a text", [4, 5, 6]], SMALL)


def test_batches_hold_every_document_once():
    model = tiny_model("llama")
    texts = ["word " * n for n in range(1, 60)]
    rows = []
    for tokens in document_batches(model, texts, context=40, batch_tokens=200):
        assert tokens.ids.numel() <= 200 or len(tokens) == 1
        rows += [tuple(ids[mask].tolist()) for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    expected = [tuple(model.tokenizer(text)["input_ids"][:40]) for text in texts]
    assert sorted(rows) == sorted(expected)
