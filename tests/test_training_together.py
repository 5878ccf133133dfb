"""Several dictionaries from one pass of the model: each is what it is by itself."""

from __future__ import annotations

import pytest

from tests.autograd_oracle import same_parts
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.training import recipes, train_dictionary, train_together

VALUES = {
    "n_features": 32,
    "schedule.n_tokens": 2_000,
    "schedule.batch": 100,
    "schedule.learning_rate": 3e-3,
    "data.buffer_tokens": 1_200,
}


def documents(model, n=150, length=24):
    import torch

    random = torch.Generator().manual_seed(0)
    return torch.randint(3, model.vocab_size, (n, length), generator=random).tolist()


def several(**changes):
    return {
        "sae": recipes.sae("resid_post.1", k=4, **VALUES),
        "clt": recipes.clt(2, k=3, **VALUES | changes),
        "sparser": recipes.clt(2, k=2, **VALUES | changes),
    }


def test_each_is_what_it_is_by_itself_and_the_model_runs_once(monkeypatch):
    model = tiny_model("llama", layers=2)
    passes = []
    forward = model.module.forward
    monkeypatch.setattr(model.module, "forward", lambda *a, **k: passes.append(1) or forward(*a, **k))
    train_dictionary(model, documents(model), several()["clt"])
    alone = len(passes)
    made = train_together(model, documents(model), several())
    assert len(passes) - alone < 1.5 * alone  # one harvest, and a look at each dictionary's self-test
    for name, recipe in several().items():
        assert same_parts(made[name], train_dictionary(model, documents(model), recipe))


def test_killed_they_go_on_each_from_its_own_step(tmp_path):
    model = tiny_model("llama", layers=2)
    whole = train_together(model, documents(model), several())

    def kill(stage, done, total, **figures):
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_together(model, documents(model), several(), folder=tmp_path, progress=kill)
    again = train_together(model, documents(model), several(), folder=tmp_path)
    assert all(same_parts(whole[name], again[name]) for name in whole)
    assert all((tmp_path / name / "metrics.jsonl").exists() for name in whole)


def test_recipes_of_other_batches_are_refused():
    model = tiny_model("llama", layers=2)
    with pytest.raises(ThoughtscopeError, match=r"schedule.batch is 100 for sae and 50 for clt"):
        train_together(model, documents(model), several(**{"schedule.batch": 50}))
    with pytest.raises(ThoughtscopeError, match="no recipe"):
        train_together(model, documents(model), {})
