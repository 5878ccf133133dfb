"""SAEBench's core figures (version 0.6: Karvonen et al. 2025, arXiv:2503.09532), as that library computes them.

Some of its definitions are not ours, and are kept so that results can be set beside published ones: averages over
batches of ratios within a batch, a mean squared error that is divided by the number of tokens twice, and an "explained
variance" that is not 1 − FVU. For figures of one definition, see `DictionaryScores`.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.files import atomic_write_text
from thoughtscope.dictionaries import Dictionary, Fit, check_fits, geometry, resident
from thoughtscope.dictionaries.features import flat
from thoughtscope.dictionaries.replacement import reconstruct
from thoughtscope.dictionaries.scores import Runs, recovered

if TYPE_CHECKING:
    from thoughtscope.models import Model, Tokens

DIGITS = 10
"""Decimals of the figures of features in the file."""


@dataclass(frozen=True, kw_only=True)
class CoreResult:
    """What the library would find: figures by group and name, and by feature. NaN where it has none."""

    metrics: Mapping[str, Mapping[str, float]]
    features: Mapping[str, Float[Tensor, " feature"]]
    config: Mapping[str, Any]


@torch.no_grad()
def saebench_core(
    model: Model,
    dictionary: Dictionary,
    *,
    reconstruction: Iterable[Tokens],
    variance: Iterable[Tokens],
    special: Collection[int] = (),
    exclude_special: bool = False,
) -> CoreResult:
    """Core figures of an autoencoder of one site.

    The batches are the library's: their sizes enter some figures. `reconstruction` is for what the model still
    predicts, `variance` for the rest. Tokens with `special` ids (the library's: padding, end and begin of text) are not
    counted, and with `exclude_special` not reconstructed either; `skip_first` has no say. Ablations are of zeros, at
    every token.

    Raises `DictionaryMismatch` for another kind of dictionary or another model, `ThoughtscopeError` without text.
    """
    _check_kind(dictionary)
    check_fits(dictionary, model)
    dictionary = resident(dictionary, device=model.device)
    runs, told, batches, shape = Runs(means={}), 0, 0, torch.Size((0, 0))
    for tokens in reconstruction:
        counted = _counted(tokens, special).to(model.device)
        everywhere = tokens.mask.to(model.device)
        replaced = counted if exclude_special else everywhere
        runs.add(model, dictionary, tokens, replaced=replaced, counted=counted, ablated=everywhere)
        told, batches, shape = told + tokens.ids.numel(), batches + 1, tokens.ids.shape
    sums = _Sums(dictionary)
    for tokens in variance:
        sums.add(model, tokens, _counted(tokens, special).to(model.device))
    if not runs.clean.n_next or not sums.fits:
        raise ThoughtscopeError("The batches hold no text to score the dictionary on.")
    features = sums.features()
    metrics: dict[str, Any] = {
        **_behaviour(runs),
        **sums.figures(),
        "token_stats": {
            "total_tokens_eval_reconstruction": told,
            "total_tokens_eval_sparsity_variance": sums.told,
        },
        "misc_metrics": _misc(features),
    }
    config = {
        "batch_size_prompts": shape[0],
        "context_size": shape[1],
        "n_eval_reconstruction_batches": batches,
        "n_eval_sparsity_variance_batches": len(sums.fits),
        "exclude_special_tokens_from_reconstruction": exclude_special,
    }
    return CoreResult(metrics=metrics, features=features, config=config)


def _check_kind(dictionary: Dictionary) -> None:
    part = dictionary.parts[0]
    if len(dictionary.parts) != 1 or len(part.reads) != 1 or part.reads != part.writes:
        raise DictionaryMismatch(
            f"SAEBench scores autoencoders of one site; {dictionary.name} is a {dictionary.kind} of "
            f"{len(dictionary.parts)} part(s). evaluate_dictionary scores every kind."
        )


def _counted(tokens: Tokens, special: Collection[int]) -> Bool[Tensor, "batch pos"]:
    return tokens.mask & ~torch.isin(tokens.ids, torch.tensor(sorted(special), dtype=tokens.ids.dtype))


def _behaviour(runs: Runs) -> dict[str, dict[str, float]]:
    kl, kl_zero = (one.kl / one.n for one in (runs.spliced, runs.zero))
    clean, spliced, zero = (one.loss / one.n_next for one in (runs.clean, runs.spliced, runs.zero))
    return {
        "model_behavior_preservation": {
            "kl_div_score": recovered(0.0, kl, kl_zero),
            "kl_div_with_ablation": kl_zero,
            "kl_div_with_sae": kl,
        },
        "model_performance_preservation": {
            "ce_loss_score": recovered(clean, spliced, zero),
            "ce_loss_with_ablation": zero,
            "ce_loss_with_sae": spliced,
            "ce_loss_without_sae": clean,
        },
    }


class _Sums:
    """A `Fit` for each batch, and the two sums that no fit has."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary
        (self.part,) = dictionary.parts
        (self.site,) = self.part.reads
        self.fits: list[Fit] = []
        self.told = 0
        self.left = 0.0
        """Σ ‖x − x̂‖² / ‖x − the batch's mean x‖², a ratio a token."""
        self.prompts = torch.zeros(self.part.n_features, dtype=torch.long)
        """Prompts in which each feature is active."""

    def add(self, model: Model, tokens: Tokens, keep: Bool[Tensor, "batch pos"]) -> None:
        """Adds the tokens of one batch that `keep` marks."""
        from thoughtscope.models import capture

        x = flat(capture(model, tokens, [self.site])[self.site][keep], 1).float()
        written, values = reconstruct(self.part, {self.site: x})
        guess, fit = written[self.site], Fit.zeros(self.dictionary)
        fit.sites[self.site].add(x, guess)
        fit.parts[0].add(values)
        fit.n = len(x)
        self.fits.append(fit)
        self.told += tokens.ids.numel()
        spread = (x - x.mean(0)).double().square().sum(1)
        self.left += float(((x - guess).double().square().sum(1) / spread).sum())
        active = torch.zeros(len(keep), self.part.n_features, device=values.device)
        active.index_add_(0, keep.nonzero()[:, 0], (values > 0).float())
        self.prompts += (active > 0).sum(0).cpu()

    def figures(self) -> dict[str, dict[str, float]]:
        """Reconstruction, shrinkage and sparsity."""
        sums = [fit.sites[self.site] for fit in self.fits]
        sizes = [fit.n for fit in self.fits]
        n, batches, width = sum(sizes), len(sizes), sums[0].total.shape[0]
        error = [one.error / size for one, size in zip(sums, sizes, strict=True)]
        squares = sum(one.squares / size for one, size in zip(sums, sizes, strict=True)) / batches
        return {
            "shrinkage": {
                "l2_norm_in": sum(one.length for one in sums) / n,
                "l2_norm_out": sum(one.written_length for one in sums) / n,
                "l2_ratio": sum(one.ratio for one in sums) / n,
                "relative_reconstruction_bias": sum(one.written / one.along for one in sums) / batches,
            },
            "sparsity": {
                "l0": sum(int(fit.parts[0].count.sum()) for fit in self.fits) / n,
                "l1": sum(float(fit.parts[0].mass.sum()) for fit in self.fits) / n,
            },
            "reconstruction_quality": {
                # Where the variance should be, theirs is E‖x‖² − (E‖x‖² / width)².
                "explained_variance": 1 - sum(error) / batches / (squares - (squares / width) ** 2),
                "explained_variance_legacy": 1 - self.left / n,
                "mse": sum(error) / n,
                "cossim": sum(one.cosine for one in sums) / n,
            },
        }

    def features(self) -> dict[str, Float[Tensor, " feature"]]:
        """Figures of each feature; NaN for the tokens a prompt of one that is never active."""
        count = sum(fit.parts[0].count for fit in self.fits)
        assert isinstance(count, Tensor)
        shape = geometry(self.part)
        assert shape.encoder_decoder_cosine is not None
        return {
            "feature_density": count.double() / sum(fit.n for fit in self.fits),
            "consistent_activation_heuristic": count.double() / self.prompts,
            "encoder_bias": shape.encoder_bias.double().cpu(),
            "encoder_norm": shape.encoder_norm.double().cpu(),
            "encoder_decoder_cosine_sim": shape.encoder_decoder_cosine.double().cpu(),
            "max_decoder_cosine_sim": shape.max_decoder_cosine.double().cpu(),
            "max_encoder_cosine_sim": shape.max_encoder_cosine.double().cpu(),
        }


def _misc(features: Mapping[str, Float[Tensor, " feature"]]) -> dict[str, float]:
    density = features["feature_density"]
    total = float(density.sum())
    found: dict[str, float] = {}
    for percent in (1, 10):
        often = density > percent / 100
        found[f"freq_over_{percent}_percent"] = float(often.double().mean())
        share = float(density[often].sum()) / total if total else 0.0
        found[f"normalized_freq_over_{percent}_percent"] = share
    for side in ("encoder", "decoder"):
        found[f"average_max_{side}_cosine_sim"] = float(features[f"max_{side}_cosine_sim"].mean())
    return found | {"frac_alive": float((density > 0).double().mean())}


def save_saebench_core(
    result: CoreResult,
    folder: str | os.PathLike[str],
    model: Model,
    dictionary: Dictionary,
    *,
    release: str = "custom",
) -> Path:
    """Writes the library's result file, `{release}_{name}_eval_results.json`, into `folder`; NaN becomes −1 there."""
    name = dictionary.name
    details = [
        {"index": index} | {key: _plain(values[index].item()) for key, values in result.features.items()}
        for index in range(dictionary.n_features)
    ]
    site = dictionary.reads[0]
    width = next(iter(dictionary.parts[0].W_enc.values())).shape[1]
    data = {
        "eval_type_id": "core",
        "eval_config": {
            "model_name": model.name,
            "llm_dtype": str(model.dtype).removeprefix("torch."),
            **result.config,
        },
        "eval_id": str(uuid.uuid4()),
        "datetime_epoch_millis": int(time.time() * 1000),
        "eval_result_metrics": {
            group: {key: _plain(value) for key, value in figures.items()}
            for group, figures in result.metrics.items()
        },
        "eval_result_details": details,
        "sae_bench_commit_hash": "computed by thoughtscope",
        "sae_lens_id": name,
        "sae_lens_release_id": release,
        "sae_lens_version": None,
        "sae_cfg_dict": {
            "architecture": dictionary.parts[0].activation.kind,
            "d_in": width,
            "d_sae": dictionary.n_features,
            "hook_layer": site.layer,
            "hook_name": str(site),
            "model_name": model.name,
        },
        "eval_result_unstructured": {},
    }
    path = Path(folder) / f"{release}_{name}_eval_results.json".replace("/", "_")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")
    return path


def _plain(value: float | int) -> float | int:
    if isinstance(value, int):
        return value
    return -1 if math.isnan(value) else round(value, DIGITS)
