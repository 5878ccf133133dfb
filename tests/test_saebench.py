"""SAEBench's core figures against its definitions, written out on the bare module."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.dictionary_oracle import KINDS, held, random_coder, touching, weights_of
from tests.test_scores import activations, written
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError
from thoughtscope.evaluation import saebench_core, save_saebench_core
from thoughtscope.models import tokens_from_ids

SPECIAL = (1, 2)
BATCHES = [
    [[1, 84, 104, 101, 32, 99], [1, 33, 61, 120, 5, 77]],
    [[1, 3, 41, 2, 99, 98], [1, 9, 9, 9, 200, 201]],
    [[1, 50, 51, 52, 2, 2], [1, 104, 101, 7, 7, 8]],
]
GROUPS = {
    "model_behavior_preservation": 3, "model_performance_preservation": 4, "reconstruction_quality": 4, "shrinkage": 4,
    "sparsity": 2, "token_stats": 2, "misc_metrics": 7,
}  # fmt: skip


def world(site: str = "resid_post.1"):
    model = tiny_model("llama", layers=3)
    return model, random_coder(model, (site,))


def result(model, dictionary, **settings):
    batches = [tokens_from_ids(model, batch) for batch in BATCHES]
    return saebench_core(
        model, dictionary, reconstruction=batches, variance=batches, special=SPECIAL, **settings
    )


def test_figures_of_the_activations() -> None:
    model, dictionary = world()
    found, w, site = result(model, dictionary).metrics, weights_of(dictionary), "resid_post.1"
    rows, guesses, values, means = [], [], [], []
    for batch in BATCHES:
        keep = ~torch.isin(torch.tensor(batch), torch.tensor(SPECIAL))
        x = torch.stack([held(model, ids, [site])[0][site].double() for ids in batch])[keep]
        a = activations(w, {site: x})
        (
            rows.append(x),
            values.append(a),
            guesses.append(written(w, a)[site]),
            means.append(x.mean(0).expand_as(x)),
        )
    x, guess, a, mean = (torch.cat(each) for each in (rows, guesses, values, means))
    left = [(one - other).square().sum(1) for one, other in zip(rows, guesses, strict=True)]
    squares = sum(one.square().sum(1).mean() for one in rows) / 3
    near = {"rel": 1e-4, "abs": 1e-6}
    assert found["sparsity"] == pytest.approx(
        {"l0": float((a > 0).sum() / len(a)), "l1": float(a.sum() / len(a))}, **near
    )
    assert found["reconstruction_quality"] == pytest.approx({
        "explained_variance": float(1 - sum(one.mean() for one in left) / 3 / (squares - (squares / 16) ** 2)),
        "explained_variance_legacy": float((1 - torch.cat(left) / (x - mean).square().sum(1)).mean()),
        "mse": float(torch.cat([one / len(one) for one in left]).mean()),
        "cossim": float(torch.cosine_similarity(x, guess).mean()),
    }, **near)  # fmt: skip
    bias = [
        float(g.square().sum(1).mean() / (y * g).sum(1).mean()) for y, g in zip(rows, guesses, strict=True)
    ]
    assert found["shrinkage"] == pytest.approx({
        "l2_norm_in": float(x.norm(dim=1).mean()), "l2_norm_out": float(guess.norm(dim=1).mean()),
        "l2_ratio": float((guess.norm(dim=1) / x.norm(dim=1)).mean()), "relative_reconstruction_bias": sum(bias) / 3,
    }, **near)  # fmt: skip
    assert found["token_stats"] == {
        "total_tokens_eval_reconstruction": 36,
        "total_tokens_eval_sparsity_variance": 36,
    }
    density = (a > 0).double().mean(0)
    misc = found["misc_metrics"]
    assert misc["frac_alive"] == float((density > 0).double().mean())
    assert misc["freq_over_10_percent"] == float((density > 0.1).double().mean())
    assert misc["normalized_freq_over_10_percent"] == pytest.approx(
        float(density[density > 0.1].sum() / density.sum())
    )


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("site", ["resid_post.1", "z.1"])
def test_figures_of_the_predictions(site: str, exclude: bool) -> None:
    """Reconstructed everywhere (or but at special tokens), ablated everywhere, counted at the others."""
    model, dictionary = world(site)
    w = weights_of(dictionary)
    sums: dict[str, list[Tensor]] = {"clean": [], "sae": [], "zero": [], "kl sae": [], "kl zero": []}
    for ids in (ids for batch in BATCHES for ids in batch):
        ordinary = ~torch.isin(torch.tensor(ids), torch.tensor(SPECIAL))

        def splice(x: Tensor, ordinary: Tensor = ordinary) -> Tensor:
            guess = written(w, activations(w, {site: x[0]}))[site].to(x.dtype)
            return torch.where(ordinary[:, None], guess, x[0])[None] if exclude else guess[None]

        logs = {}
        for name, change in (("clean", lambda x: None), ("sae", splice), ("zero", torch.zeros_like)):
            with torch.no_grad(), touching(model.module, {site: change}):
                logs[name] = model.module(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            losses = -logs[name][range(len(ids) - 1), ids[1:]]
            sums[name].append(losses[ordinary[:-1]])
            if name != "clean":
                kl = (logs["clean"].exp() * (logs["clean"] - logs[name])).sum(-1)
                sums[f"kl {name}"].append(kl[ordinary])
    clean, sae, zero, kl, kl_zero = (float(torch.cat(each).mean()) for each in sums.values())
    found = result(model, dictionary, exclude_special=exclude).metrics
    near = {"rel": 1e-4, "abs": 1e-6}
    assert found["model_performance_preservation"] == pytest.approx({
        "ce_loss_without_sae": clean, "ce_loss_with_sae": sae, "ce_loss_with_ablation": zero,
        "ce_loss_score": (zero - sae) / (zero - clean),
    }, **near)  # fmt: skip
    assert found["model_behavior_preservation"] == pytest.approx({
        "kl_div_with_sae": kl, "kl_div_with_ablation": kl_zero, "kl_div_score": 1 - kl / kl_zero,
    }, **near)  # fmt: skip


def test_the_file_has_the_librarys_layout(tmp_path) -> None:
    model, dictionary = world()
    (part,) = dictionary.parts
    never = part.b_enc.index_fill(0, torch.tensor([5]), -100.0)
    dictionary = replace(dictionary, parts=(replace(part, b_enc=never),))
    found = result(model, dictionary)
    path = save_saebench_core(found, tmp_path, model, dictionary, release="mine/set")
    assert path.name == "mine_set_random_coder_eval_results.json"
    data = json.loads(path.read_text())
    assert {group: len(values) for group, values in data["eval_result_metrics"].items()} == GROUPS
    assert data["eval_type_id"] == "core" and data["sae_cfg_dict"]["d_sae"] == 24 == len(
        data["eval_result_details"]
    )
    row = data["eval_result_details"][5]
    assert row["index"] == 5 and row["consistent_activation_heuristic"] == -1 and row["feature_density"] == 0
    often = max(data["eval_result_details"], key=lambda one: one["feature_density"])
    assert 1 <= often["consistent_activation_heuristic"] <= 5


def test_what_the_library_does_not_score_is_refused() -> None:
    model = tiny_model("llama", layers=3)
    tokens = [tokens_from_ids(model, BATCHES[0])]
    with pytest.raises(DictionaryMismatch, match="crosscoder"):
        saebench_core(model, random_coder(model, KINDS["crosscoder"]), reconstruction=tokens, variance=tokens)
    with pytest.raises(ThoughtscopeError, match="no text"):
        saebench_core(model, random_coder(model, ("resid_post.1",)), reconstruction=[], variance=[])
