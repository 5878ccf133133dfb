"""Trainings as a whole: what they reach, what they leave alone, and runs that were killed and go on bit for bit."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from tests.autograd_oracle import same_parts
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch, FolderInUse, ThoughtscopeError
from thoughtscope.dictionaries import evaluate_dictionary
from thoughtscope.dictionaries.documents import document_batches
from thoughtscope.models import Model
from thoughtscope.training import Recipe, recipes, run, train, train_dictionary
from thoughtscope.training.data import HarvestStream

SMALL = {
    "n_features": 48,
    "k": 6,
    "schedule.n_tokens": 12_000,
    "schedule.batch": 200,
    "schedule.learning_rate": 3e-3,
    "schedule.dead_after": 1500,
    "data.buffer_tokens": 2_000,
}


def small(layers: int = 2, *, cross: bool = True, **changes: object) -> Recipe:
    """Dots of names are spelt `__`."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return (recipes.clt if cross else recipes.transcoder)(layers, **{**SMALL, **named})  # type: ignore[arg-type]


def documents(model: Model, n: int = 150, length: int = 24) -> list[list[int]]:
    random = torch.Generator().manual_seed(0)
    return torch.randint(3, model.vocab_size, (n, length), generator=random).tolist()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_training_explains_the_model_at_the_wanted_l0(cross, skip):
    model = tiny_model("llama", layers=3)
    recipe = small(3, cross=cross, skip=skip, schedule__n_tokens=24_000)
    first: list[float] = []
    dictionary = train_dictionary(
        model, documents(model), recipe, progress=lambda *_, fvu, **rest: first.append(fvu)
    )
    scores = evaluate_dictionary(model, dictionary, documents(model))
    assert (dictionary.kind == "cross-layer transcoder") == cross and dictionary.has_skip == skip
    assert scores.fvu < 0.45 and scores.fvu < 0.6 * first[0]
    assert 0.75 * 18 < scores.l0 < 1.3 * 18
    assert scores.dead < 0.1


def test_a_source_that_comes_once_is_enough_when_it_lasts():
    """The self-test's documents come from the start: at the end there may be none left."""
    model = tiny_model("llama", layers=2)
    recipe = small(schedule__n_tokens=400, data__buffer_tokens=1200)
    texts = documents(model, n=20_000, length=3)
    once = train_dictionary(model, iter(texts), recipe)
    assert once.card.self_test is not None
    assert [list(each) for each in once.card.self_test.documents] == texts[: run.SELF_TEST_DOCUMENTS]
    with pytest.raises(ThoughtscopeError, match=r"ran out|has run out"):
        train_dictionary(model, iter(texts[:12]), recipe)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([[5], [6]], r"no text|hold.* no|two tokens"),
        ([], "no documents"),
    ],
)
def test_documents_that_teach_nothing_are_refused_and_not_gone_round_for_ever(texts, said):
    with pytest.raises(ThoughtscopeError, match=said):
        train_dictionary(tiny_model("llama", layers=2), texts, small())


def test_training_does_not_depend_on_or_disturb_the_callers_random_numbers():
    model = tiny_model("llama")
    torch.manual_seed(1)
    a = train_dictionary(model, documents(model), small())
    after = torch.rand(1)
    torch.manual_seed(2)
    b = train_dictionary(model, documents(model), small())
    torch.manual_seed(1)
    assert same_parts(a, b) and torch.equal(after, torch.rand(1))
    assert not same_parts(a, train_dictionary(model, documents(model), small(seed=1)))


@pytest.mark.parametrize("killed_at", [2, 3, 9, 15, 20, 27, 33, 41, 47, 58])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, monkeypatch, killed_at):
    """In the middle of a step, a checkpoint after every fourth."""
    model = tiny_model("llama")
    recipe = small(checkpoint_minutes=4.0, data__passes=2)
    whole = train_dictionary(model, documents(model), recipe)
    clock, step = [0.0], run.train_step

    def killing(state, batch):
        clock[0] += 61.0
        if state.step + 1 == killed_at:
            for weight in state.weights.values():
                weight += 1  # half a step that must not be saved
            raise Killed
        return step(state, batch)

    monkeypatch.setattr(run.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(run, "train_step", killing)
    with pytest.raises(Killed):
        train_dictionary(model, documents(model), recipe, folder=tmp_path)
    monkeypatch.undo()
    steps: list[int] = []
    resumed = train_dictionary(
        model,
        documents(model),
        recipe,
        folder=tmp_path,
        progress=lambda _, step, *__, **___: steps.append(step),
    )
    assert steps == list(range((killed_at - 1) // 4 * 4 + 1, 61)) and same_parts(whole, resumed)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))


@pytest.mark.parametrize("stopped_at", [1, 17, 60])
def test_a_run_that_its_caller_stops_loses_no_step(tmp_path, stopped_at):
    def stop(stage, step, total, **figures):
        if step == stopped_at:
            raise Killed

    model = tiny_model("llama")
    whole = train_dictionary(model, documents(model), small())
    with pytest.raises(Killed):
        train_dictionary(model, documents(model), small(), folder=tmp_path, progress=stop)
    steps: list[int] = []
    resumed = train_dictionary(
        model,
        documents(model),
        small(),
        folder=tmp_path,
        progress=lambda _, step, *__, **___: steps.append(step),
    )
    assert steps == list(range(stopped_at + 1, 61)) and same_parts(whole, resumed)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))


def test_another_recipe_or_model_does_not_continue_a_run(tmp_path):
    model = tiny_model("llama")
    train_dictionary(model, documents(model), small(schedule__n_tokens=400), folder=tmp_path)
    for changes, said in (({"k": 5}, r"another activation\.k"), ({"seed": 1}, "another seed")):
        with pytest.raises(ThoughtscopeError, match=said):
            recipe = small(schedule__n_tokens=400, **changes)
            train_dictionary(model, documents(model), recipe, folder=tmp_path)
    wider = tiny_model("llama", hidden_size=32)
    with pytest.raises(DictionaryMismatch, match=r"mlp_in\.0 is 16 wide; here it is 32"):
        train_dictionary(wider, documents(wider), small(schedule__n_tokens=400), folder=tmp_path)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_that_is_started_again_changes_nothing(tmp_path):
    def none():
        raise AssertionError("a finished run asks for no documents")

    model = tiny_model("llama")
    recipe = small(schedule__n_tokens=4_000)
    first = train_dictionary(model, documents(model), recipe, folder=tmp_path)
    before, steps = contents(tmp_path), []
    again = train_dictionary(
        model, none, recipe, folder=tmp_path, progress=lambda *given, **_: steps.append(given)
    )
    assert same_parts(first, again) and first.card.self_test == again.card.self_test and steps == []
    assert contents(tmp_path) == before


def test_a_damaged_state_stops_the_training_and_is_left_alone(tmp_path):
    model = tiny_model("llama")
    recipe = small(schedule__n_tokens=400)
    train_dictionary(model, documents(model), recipe, folder=tmp_path)
    manifest = tmp_path / "state" / "manifest.json"
    whole = manifest.read_bytes()
    weights = next((tmp_path / "state").glob("features-0-*"))
    flipped = [whole[:n] + bytes([whole[n] ^ 2]) + whole[n + 1 :] for n in range(0, len(whole), 97)]
    for damaged in (*flipped, b"", b"{}", whole[:-9]):
        manifest.write_bytes(damaged)
        before = contents(tmp_path)
        with pytest.raises(CorruptArtefact, match=r"(manifest\.json|state) .*stops here.*Put a sound copy"):
            train_dictionary(model, documents(model), recipe, folder=tmp_path)
        assert contents(tmp_path) == before
    manifest.unlink()
    manifest.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CorruptArtefact, match="stops here"):
        train_dictionary(model, documents(model), recipe, folder=tmp_path)
    manifest.unlink()
    manifest.write_bytes(whole)
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CorruptArtefact, match=r"features-0-.*stops here"):
        train_dictionary(model, documents(model), recipe, folder=tmp_path)


def test_two_runs_do_not_train_in_one_folder(tmp_path):
    model, tried = tiny_model("llama"), []

    def second() -> None:
        try:
            train_dictionary(model, documents(model), small(), folder=tmp_path)
        except FolderInUse as error:
            tried.append(str(error))

    def start_another(stage, step, total, **figures):
        if step == 2:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    recipe = small(schedule__n_tokens=1_000)
    train_dictionary(model, documents(model), recipe, folder=tmp_path, progress=start_another)
    assert len(tried) == 1 and str(tmp_path) in tried[0]


def test_what_is_not_there_is_named_before_the_model_runs():
    model = tiny_model("llama")
    with pytest.raises(ThoughtscopeError, match=r"resid_post\.7"):
        train_dictionary(model, documents(model), recipes.sae("resid_post.7"))
    stream = HarvestStream(model, documents(model), ["resid_post.0"], batch=200, buffer_tokens=2000)
    with pytest.raises(ThoughtscopeError, match=r"lacks resid_post\.1.*it has resid_post\.0"):
        train(stream, recipes.sae("resid_post.1", n_features=32, k=4, **{"schedule.batch": 200}))


def test_batches_hold_every_document_once():
    model = tiny_model("llama")
    texts = ["word " * n for n in range(1, 60)]
    rows = []
    for tokens in document_batches(model, texts, context=40, batch_tokens=200):
        assert tokens.ids.numel() <= 200 or len(tokens) == 1
        rows += [tuple(ids[mask].tolist()) for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    expected = [tuple(model.tokenizer(text)["input_ids"][:40]) for text in texts]
    assert sorted(rows) == sorted(expected)
