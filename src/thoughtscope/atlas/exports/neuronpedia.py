"""Neuronpedia's import layout: `MODEL/SOURCE/{release,model,sourceset,source}.jsonl` and, gzipped, `features/`,
`activations/` and `explanations/` in batches.

Rows have the fields of Neuronpedia's tables as its tools write them (decoderesearch/SAEDashboard,
sae_dashboard/neuronpedia/neuronpedia_export.py; hijohnnylin/neuronpedia, utils/neuronpedia-utils, db_models). People's
labels and automatic ones are explanations, with who made them in `explanationModelName`. Rows of one feature file are
the same, byte for byte, whenever they are written.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from thoughtscope.atlas.exports.formats import FEATURE_FORMATS, Exported, FeatureFormat, write_bytes
from thoughtscope.atlas.exports.sae_dashboard import batches, source_name
from thoughtscope.core.progress import Progress

CREATOR = "clkht01d40000jv08hvalcvly"
"""Neuronpedia's own account for imports: what its tools write where nobody is named."""
CREATED = "1970-01-01T00:00:00"
"""Of every row: an import states its own moment."""
NEAR = 10
_COPIED = ("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
           "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices",
           "correlated_features_pearson", "correlated_features_l1", "neg_str", "neg_values", "pos_str", "pos_values",
           "frac_nonzero", "freq_hist_data_bar_heights", "freq_hist_data_bar_values", "logits_hist_data_bar_heights",
           "logits_hist_data_bar_values", "decoder_weights_dist")  # fmt: skip
"""Fields of a feature that are SAEDashboard's."""


def write(exported: Exported, folder: Path, progress: Progress) -> list[Path]:
    """A source for each part of the dictionary."""
    written = []
    for done, number in enumerate(exported.parts):
        source = source_name(exported, number)
        home = folder / exported.model_id / source
        for name, row in _about(exported, number, source).items():
            written.append(_jsonl(home / f"{name}.jsonl", [row]))
        automatic = exported.atlas.bank.auto_labels(number)
        for at, batch in enumerate(batches(exported, number)):
            rows = batch["features"]
            tables = {
                "features": [_feature(exported, number, source, row) for row in rows],
                "activations": [each for row in rows for each in _activations(exported, source, row)],
                "explanations": _explanations(exported, number, source, rows, automatic),
            }
            for name, table in tables.items():
                written.append(_jsonl(home / name / f"batch-{at}.jsonl.gz", table))
        progress("features", done + 1, len(exported.parts))
    return written


def _about(exported: Exported, number: int, source: str) -> dict[str, dict[str, Any]]:
    """The rows of the tables that stand above the features."""
    bank, model = exported.atlas.bank, exported.model
    assert model is not None
    own = {"creatorId": CREATOR, "createdAt": CREATED, "visibility": "PUBLIC"}
    title = exported.atlas.dictionary.name
    starts = bank.starts
    return {
        "release": own
        | {"name": exported.source_set, "description": title, "descriptionShort": title, "urls": [],
           "creatorName": "thoughtscope", "creatorNameShort": "thoughtscope", "creatorEmail": None, "isNewUi": False,
           "featured": False, "defaultSourceSetName": None, "defaultSourceId": None, "defaultUmapSourceIds": []},
        "model": own
        | {"id": exported.model_id, "instruct": model.has_chat_template, "displayNameShort": exported.model_id,
           "displayName": exported.model_id, "tlensId": None, "dimension": model.d_model,
           "defaultSourceSetName": None, "defaultSourceId": None, "inferenceEnabled": False,
           "layers": model.n_layers, "neuronsPerLayer": 0, "owner": "", "updatedAt": CREATED, "website": None},
        "sourceset": own
        | {"modelId": exported.model_id, "name": exported.source_set, "hasDashboards": True, "description": title,
           "type": exported.atlas.dictionary.kind, "creatorName": "thoughtscope", "urls": [], "creatorEmail": None,
           "releaseName": exported.source_set, "defaultOfModelId": None, "defaultRange": 1, "defaultShowBreaks": True,
           "showDfa": False, "showCorrelated": False, "showHeadAttribution": False, "showUmap": False},
        "source": own
        | {"id": source, "modelId": exported.model_id, "setName": exported.source_set, "hasDashboards": True,
           "inferenceEnabled": False, "inferenceHosts": [], "saelensConfig": None, "saelensRelease": None,
           "saelensSaeId": None, "hfRepoId": None, "hfFolderId": None, "defaultOfModelId": None, "hasUmap": False,
           "hasUmapLogSparsity": False, "hasUmapClusters": False, "num_prompts": len(starts) - 1,
           "num_tokens_in_prompt": int(starts.diff().max()), "dataset": None, "notes": None},
    }  # fmt: skip


def _feature(exported: Exported, number: int, source: str, row: Mapping[str, Any]) -> dict[str, Any]:
    largest = max((max(each["values"]) for each in row["activations"]), default=0.0)
    index, values = _near(exported, number, row["feature_index"])
    site = exported.atlas.dictionary.parts[number].writes[0]
    hook = f"blocks.{site.layer}.{site.row.hook}" if site.layer is not None else site.row.hook
    return {
        "modelId": exported.model_id,
        "layer": source,
        "index": str(row["feature_index"]),
        "creatorId": CREATOR,
        "createdAt": CREATED,
        "maxActApprox": largest,
        "hasVector": True,
        "vector": row["vector"],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": largest,
        "hookName": hook,
        "topkCosSimIndices": index,
        "topkCosSimValues": values,
        **{name: row[name] for name in _COPIED},
        "sourceSetName": exported.source_set,
    }


def _near(exported: Exported, number: int, feature: int) -> tuple[list[int], list[float]]:
    """The nearest features of the same part, as Neuronpedia's lists count within a source."""
    atlas = exported.atlas
    if atlas.map is None:
        return [], []
    first, end = atlas.firsts[number], atlas.firsts[number + 1]
    near, cosine = (table[first + feature] for table in (atlas.map.near.index, atlas.map.near.cosine))
    here = (near >= first) & (near < end)
    return (near[here] - first)[:NEAR].tolist(), [round(float(each), 4) for each in cosine[here][:NEAR]]


def _activations(exported: Exported, source: str, row: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    index = str(row["feature_index"])
    for number, each in enumerate(row["activations"]):
        values = each["values"]
        yield {
            "id": _identity(exported.model_id, source, index, "activation", number),
            "tokens": each["tokens"],
            "index": index,
            "layer": source,
            "modelId": exported.model_id,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
            "values": values,
            "creatorId": CREATOR,
            "dataSource": None,
            "dataIndex": None,
            "dfaValues": [],
            "dfaTargetIndex": None,
            "dfaMaxValue": None,
            "createdAt": CREATED,
            "lossValues": [],
            "logitContributions": None,
            "binMin": each["bin_min"],
            "binMax": each["bin_max"],
            "binContains": each["bin_contains"],
            "qualifyingTokenIndex": each["qualifying_token_index"],
            "zIndices": None,
            "zValues": None,
        }


def _explanations(
    exported: Exported, number: int, source: str, rows: list[dict[str, Any]], automatic: list[str]
) -> list[dict[str, Any]]:
    """What the features are called: a person's label, or else the automatic one."""
    found = []
    for row in rows:
        index = row["feature_index"]
        label = exported.label(number, index, automatic[index])
        if label is None:
            continue
        found.append(
            {
                "id": _identity(exported.model_id, source, str(index), "explanation", 0),
                "modelId": exported.model_id,
                "layer": source,
                "index": str(index),
                "description": label[0],
                "authorId": CREATOR,
                "embedding": None,
                "triggeredById": None,
                "typeName": None,
                "explanationModelName": None if label[1] == "person" else "thoughtscope",
                "notes": f"label by: {label[1]}",
                "createdAt": CREATED,
            }
        )
    return found


def _identity(*names: object) -> str:
    """25 characters that begin with `c`, as ids look there; the same for the same row."""
    return "c" + hashlib.sha256("/".join(map(str, names)).encode()).hexdigest()[:24]


def _jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object a line; gzipped where the name says so, without a date."""
    lines = [
        json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n" for row in rows
    ]
    data = "".join(lines).encode("utf-8", "replace")
    return write_bytes(path, gzip.compress(data, 5, mtime=0) if path.suffix == ".gz" else data)


FEATURE_FORMATS.register("neuronpedia")(
    FeatureFormat(what="Neuronpedia's import layout", write=write, needs=("model",))
)
