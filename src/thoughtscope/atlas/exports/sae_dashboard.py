"""SAEDashboard's batches: `LAYER-SET/batch-N.json` with 128 features each, and `skipped_indexes.json`.

The fields are those of `NeuronpediaDashboardBatch` and of what its export reads (decoderesearch/SAEDashboard,
sae_dashboard/neuronpedia/neuronpedia_dashboard.py and neuronpedia_export.py). Tables that need activations of neurons
are empty there, as its own runner leaves them. The layout has no place for names: they lie beside it in `labels.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from thoughtscope.atlas.collect import direct_logits
from thoughtscope.atlas.exports.formats import FEATURE_FORMATS, Exported, FeatureFormat, write_json
from thoughtscope.atlas.neighbours import directions
from thoughtscope.core.ids import plain_name
from thoughtscope.core.progress import Progress

if TYPE_CHECKING:
    from thoughtscope.atlas.bank import FeatureBank

BATCH = 128
BINS = 50
"""Of the histogram of logits."""
TABLE = 3
"""Rows of the table of aligned neurons."""
_QUARTERS = (None, (3, 4), (2, 3), (1, 2), (0, 1))
"""By group of examples: between which quantiles they lie; None for the strongest."""


def source_name(exported: Exported, number: int) -> str:
    """`LAYER-SET`, as Neuronpedia names a source; with the part's name where a layer has several parts."""
    parts = exported.atlas.dictionary.parts
    part = parts[number]
    alone = [each.layer for each in parts].count(part.layer) == 1
    suffix = "" if alone else f"__{plain_name(part.name, 60)}"
    return f"{part.layer}-{exported.source_set}{suffix}"


def batches(exported: Exported, number: int) -> Iterator[dict[str, Any]]:
    """A part's features that ever fired, `BATCH` at a time."""
    part, bank = exported.atlas.dictionary.parts[number], exported.atlas.bank
    fired = bank.layers[number].count.nonzero().flatten()
    for index in fired.split(BATCH):
        yield {
            "model_id": exported.model_id,
            "layer": part.layer,
            "sae_set": exported.source_set,
            "features": features(exported, number, index),
        }


@torch.no_grad()
def features(exported: Exported, number: int, index: Int[Tensor, " feature"]) -> list[dict[str, Any]]:
    """Some features of a part in SAEDashboard's fields; `vector` is the decoder row at the first site written."""
    part, bank = exported.atlas.dictionary.parts[number], exported.atlas.bank
    assert exported.model is not None
    logits = direct_logits(exported.model, part, index).cpu()
    direction = directions(part, index)
    vector = part.decoder_rows(index)[part.writes[0]].float().flatten(1).cpu()
    starts = bank.starts.numpy()
    text = {
        "n_prompts_total": len(starts) - 1,
        "n_tokens_in_prompt": int(np.diff(starts).max()),
        "dataset": "",
    }
    rows = []
    for row, feature in enumerate(index.tolist()):
        detail = bank.detail(number, feature)
        rows.append(
            {
                "feature_index": feature,
                **_aligned(direction[row]),
                **_outputs(bank, number, feature, logits[row]),
                "frac_nonzero": detail["activation_frequency"],
                **_histogram("freq_hist_data", *_activations(detail)),
                **text,
                "decoder_weights_dist": [],
                "vector": _rounded(vector[row].tolist()),
                "activations": _examples(bank, detail),
            }
        )
    return rows


def _aligned(direction: Float[Tensor, " d"]) -> dict[str, Any]:
    """The dimensions of the residual stream in which a decoder is largest; what needs a text of neurons is empty."""
    best = direction.topk(min(TABLE, len(direction)))
    empty = ("correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1",
             "correlated_features_indices", "correlated_features_pearson", "correlated_features_l1")  # fmt: skip
    return {
        "neuron_alignment_indices": best.indices.tolist(),
        "neuron_alignment_values": _rounded(best.values),
        "neuron_alignment_l1": _rounded(best.values / direction.abs().sum().clamp(min=1e-12)),
        **{name: [] for name in empty},
    }


def _outputs(bank: FeatureBank, number: int, feature: int, logits: Float[Tensor, " vocab"]) -> dict[str, Any]:
    """The tokens that are raised and lowered most, by how much, and a histogram over the vocabulary."""
    records = bank.layers[number]
    top, bottom = records.top_logits[feature].long(), records.bottom_logits[feature].long()
    heights, edges = np.histogram(logits.numpy(), bins=BINS)
    return {
        "pos_str": [bank.pieces[token] for token in top.tolist()],
        "pos_values": _rounded(logits[top]),
        "neg_str": [bank.pieces[token] for token in bottom.tolist()],
        "neg_values": _rounded(logits[bottom]),
        **_histogram("logits_hist_data", heights, edges),
    }


def _histogram(name: str, heights: np.ndarray, edges: np.ndarray) -> dict[str, list[float]]:
    """Counts, and the middle of each bar."""
    return {
        f"{name}_bar_heights": [float(height) for height in heights],
        f"{name}_bar_values": _rounded((edges[1:] + edges[:-1]) / 2),
    }


def _activations(detail: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    heights = np.asarray(detail["histogram"], float)
    return heights, np.linspace(0, detail["act_max"], len(heights) + 1)


def _examples(bank: FeatureBank, detail: dict[str, Any]) -> list[dict[str, Any]]:
    """Examples by interval: the strongest have bounds -1 and the largest activation, as SAEDashboard writes them."""
    quantiles = detail["quantile_values"]
    found = []
    for group in detail["examples_quantiles"]:
        quarter = _QUARTERS[bank.groups.index(group["quantile_name"])]
        low, high, share = (
            (-1.0, quantiles[-1], -1.0) if quarter is None else (*(quantiles[at] for at in quarter), 0.25)
        )
        for example in group["examples"]:
            found.append(
                {
                    "bin_min": low,
                    "bin_max": high,
                    "bin_contains": share,
                    "tokens": example["tokens"],
                    "values": _rounded(np.asarray(example["tokens_acts_list"])),
                    "qualifying_token_index": example["train_token_ind"],
                }
            )
    return found


def _rounded(values: Any) -> list[float]:
    """Three digits behind the point, as SAEDashboard rounds."""
    return [round(float(value), 3) for value in values]


def write(exported: Exported, folder: Path, progress: Progress) -> list[Path]:
    """A folder for each part, with its batches."""
    dictionary, bank = exported.atlas.dictionary, exported.atlas.bank
    written = []
    for done, number in enumerate(exported.parts):
        part = dictionary.parts[number]
        home = folder / source_name(exported, number)
        for at, batch in enumerate(batches(exported, number)):
            written.append(write_json(home / f"batch-{at}.json", batch))
        silent = (bank.layers[number].count == 0).nonzero().flatten().tolist()
        skipped = {
            "model_id": exported.model_id,
            "layer": str(part.layer),
            "sae_set": exported.source_set,
            "log_sparsity": None,
            "skipped_indexes": silent,
        }
        written.append(write_json(home / "skipped_indexes.json", skipped))
        names = {
            index: {"label": found[0], "by": found[1]}
            for index, automatic in enumerate(bank.auto_labels(number))
            if (found := exported.label(number, index, automatic)) is not None
        }
        written.append(write_json(home / "labels.json", names))
        progress("features", done + 1, len(exported.parts))
    return written


FEATURE_FORMATS.register("sae-dashboard")(
    FeatureFormat(what="SAEDashboard's batches of features", write=write, needs=("model",))
)
