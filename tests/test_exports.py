"""Exports: the published layouts field by field, what they say against where it is from, and people's labels in all."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_atlas import atlas, bank, dictionary
from tests.tiny_microscope import shared_model
from thoughtscope.atlas.collect import direct_logits
from thoughtscope.atlas.exports import FEATURE_FORMATS, export_features
from thoughtscope.atlas.exports.formats import Exported
from thoughtscope.atlas.exports.parquet import columns
from thoughtscope.core.errors import DictionaryMismatch, MissingExtra, ThoughtscopeError
from thoughtscope.core.ids import feature_number

PERSON = "what <b>I</b> call it 🌍"
LABELS = {"1/5": PERSON}


def export(folder: Path, format: str, **changes: Any) -> list[Path]:
    options = {
        "labels": LABELS,
        "model": shared_model(),
        "model_id": "tiny model",
        "source_set": "res",
    } | changes
    return export_features(atlas(), folder, format=format, **options)


def rows(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [
        json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
    ]


def fired(number: int) -> list[int]:
    return bank().layers[number].count.nonzero().flatten().tolist()


def test_one_feature_of_each_part_has_never_fired():
    assert all(0 not in fired(number) and len(fired(number)) > 12 for number in range(3))


# --- circuit-tracer ------------------------------------------------------------------------------------------------


def test_circuit_tracers_files_are_the_banks_own_details(tmp_path):
    written = export(tmp_path, "circuit-tracer")
    assert {path.parent for path in written} == {tmp_path / "features" / "tiny-clt"}
    assert len(written) == sum(len(fired(number)) for number in range(3))
    for layer, index in ((0, fired(0)[0]), (1, 5), (2, fired(2)[-1])):
        found = json.loads(
            (tmp_path / "features" / "tiny-clt" / f"{feature_number(layer, index)}.json").read_text()
        )
        automatic = bank().auto_label(layer, index)
        own = (PERSON, "person") if (layer, index) == (1, 5) else (automatic, "automatic")
        assert (found.pop("label"), found.pop("label_by")) == own
        assert found == json.loads(json.dumps(bank().detail(layer, index)))


# --- SAEDashboard --------------------------------------------------------------------------------------------------

BATCH = {"model_id", "layer", "sae_set", "features"}
FEATURE = {
    "feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson", "correlated_features_indices",
    "correlated_features_l1", "correlated_features_pearson", "neg_str", "neg_values", "pos_str", "pos_values",
    "frac_nonzero", "freq_hist_data_bar_values", "freq_hist_data_bar_heights", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations",
    "decoder_weights_dist", "vector",
}  # fmt: skip
"""`NeuronpediaDashboardFeature.to_dict`, and the vector that its export reads."""
EXAMPLE = {"bin_min", "bin_max", "bin_contains", "tokens", "values", "qualifying_token_index"}


def test_batches_have_saedashboards_fields(tmp_path):
    export(tmp_path, "sae-dashboard")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0-res", "1-res", "2-res"]
    for number in range(3):
        home = tmp_path / f"{number}-res"
        (batch,) = [json.loads(path.read_text()) for path in home.glob("batch-*.json")]
        assert set(batch) == BATCH and (batch["model_id"], batch["layer"], batch["sae_set"]) == (
            "tiny-model",
            number,
            "res",
        )
        assert [feature["feature_index"] for feature in batch["features"]] == fired(number)
        for feature in batch["features"]:
            assert set(feature) == FEATURE
            assert all(set(example) == EXAMPLE for example in feature["activations"])
        skipped = json.loads((home / "skipped_indexes.json").read_text())
        assert set(skipped) == {"model_id", "layer", "sae_set", "log_sparsity", "skipped_indexes"}
        assert sorted(skipped["skipped_indexes"] + fired(number)) == list(range(24))
    assert json.loads((tmp_path / "1-res" / "labels.json").read_text())["5"] == {
        "label": PERSON,
        "by": "person",
    }


def test_what_a_batch_says_is_so(tmp_path):
    export(tmp_path, "sae-dashboard", parts=["1"])
    assert [path.name for path in tmp_path.iterdir()] == ["1-res"]
    (batch,) = [json.loads(path.read_text()) for path in tmp_path.glob("*/batch-*.json")]
    (feature,) = [each for each in batch["features"] if each["feature_index"] == 5]
    detail, part = bank().detail(1, 5), dictionary().parts[1]
    logits = direct_logits(shared_model(), part, torch.tensor([5]))[0]
    best = logits.sort(descending=True).values
    assert feature["pos_values"] == pytest.approx(best[: len(feature["pos_values"])].tolist(), abs=6e-4)
    assert feature["neg_values"] == pytest.approx(
        best.flip(0)[: len(feature["neg_values"])].tolist(), abs=6e-4
    )
    assert feature["pos_str"] == detail["top_logits"] and feature["neg_str"] == detail["bottom_logits"]
    assert sum(feature["logits_hist_data_bar_heights"]) == len(logits)
    assert feature["freq_hist_data_bar_heights"] == detail["histogram"]
    assert (
        feature["freq_hist_data_bar_values"][-1]
        < detail["act_max"]
        < feature["freq_hist_data_bar_values"][-1] * 1.1
    )
    assert feature["frac_nonzero"] == detail["activation_frequency"]
    assert feature["vector"] == pytest.approx(part.W_dec[part.writes[0]][5].tolist(), abs=6e-4)
    aligned = feature["neuron_alignment_indices"]
    assert (
        feature["neuron_alignment_values"] == sorted(feature["neuron_alignment_values"], reverse=True)
        and len(aligned) == 3
    )
    quantiles = detail["quantile_values"]
    for example in feature["activations"]:
        peak = example["values"][example["qualifying_token_index"]]
        if example["bin_contains"] == -1:
            assert (example["bin_min"], example["bin_max"]) == (-1, quantiles[-1])
        else:
            assert (
                example["bin_contains"] == 0.25
                and example["bin_min"] - 1e-3 <= peak <= example["bin_max"] + 1e-3
            )
        assert len(example["values"]) == len(example["tokens"])
    assert {each["bin_min"] for each in feature["activations"]} <= {-1.0, *quantiles}


# --- Neuronpedia ---------------------------------------------------------------------------------------------------

TABLES = {
    "release": {"name", "description", "creatorName", "creatorId", "visibility", "isNewUi", "featured",
                "descriptionShort", "urls", "creatorEmail", "creatorNameShort", "defaultSourceSetName",
                "defaultSourceId", "defaultUmapSourceIds", "createdAt"},
    "model": {"id", "instruct", "creatorId", "displayNameShort", "displayName", "tlensId", "dimension", "visibility",
              "defaultSourceSetName", "defaultSourceId", "inferenceEnabled", "layers", "neuronsPerLayer", "createdAt",
              "owner", "updatedAt", "website"},
    "sourceset": {"modelId", "name", "creatorId", "hasDashboards", "visibility", "description", "type", "creatorName",
                  "urls", "creatorEmail", "releaseName", "defaultOfModelId", "defaultRange", "defaultShowBreaks",
                  "showDfa", "showCorrelated", "showHeadAttribution", "showUmap", "createdAt"},
    "source": {"id", "modelId", "setName", "creatorId", "hasDashboards", "inferenceEnabled", "inferenceHosts",
               "saelensConfig", "saelensRelease", "saelensSaeId", "hfRepoId", "hfFolderId", "visibility",
               "defaultOfModelId", "hasUmap", "hasUmapLogSparsity", "hasUmapClusters", "num_prompts",
               "num_tokens_in_prompt", "dataset", "notes", "createdAt"},
    "features": {"modelId", "layer", "index", "creatorId", "createdAt", "maxActApprox", "hasVector", "vector",
                 "vectorLabel", "vectorDefaultSteerStrength", "hookName", "topkCosSimIndices", "topkCosSimValues",
                 "sourceSetName"}
                | (FEATURE - {"feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations",
                              "vector"}),
    "activations": {"id", "tokens", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex", "minValue", "values",
                    "creatorId", "dataSource", "dataIndex", "dfaValues", "dfaTargetIndex", "dfaMaxValue", "createdAt",
                    "lossValues", "logitContributions", "binMin", "binMax", "binContains", "qualifyingTokenIndex",
                    "zIndices", "zValues"},
    "explanations": {"id", "modelId", "layer", "index", "description", "authorId", "embedding", "triggeredById",
                     "typeName", "explanationModelName", "notes", "createdAt"},
}  # fmt: skip
"""The fields of Neuronpedia's tables, as its own tools write them."""


def test_neuronpedias_rows_have_its_fields(tmp_path):
    written = export(tmp_path, "neuronpedia")
    for path in written:
        assert path.parts[len(tmp_path.parts)] == "tiny-model"
        table = path.name.removesuffix(".jsonl") if path.suffix == ".jsonl" else path.parent.name
        found = rows(path)
        assert found and all(set(row) == TABLES[table] for row in found), path
    assert {path.parent.parent.name for path in written if path.suffix == ".gz"} == {
        "0-res",
        "1-res",
        "2-res",
    }


def test_neuronpedias_rows_say_what_the_bank_knows(tmp_path):
    export(tmp_path, "neuronpedia")
    home = tmp_path / "tiny-model" / "1-res"
    (features,), (activations,), (explanations,) = (
        [rows(path) for path in (home / name).iterdir()]
        for name in ("features", "activations", "explanations")
    )
    assert [row["index"] for row in features] == [str(index) for index in fired(1)]
    names = {row["index"]: row for row in explanations}
    assert (names["5"]["description"], names["5"]["explanationModelName"]) == (PERSON, None)
    other = next(index for index in fired(1) if index != 5 and bank().auto_label(1, index))
    assert (names[str(other)]["description"], names[str(other)]["explanationModelName"]) == (
        bank().auto_label(1, other),
        "thoughtscope",
    )
    for row in features:
        own = [each for each in activations if each["index"] == row["index"]]
        assert row["maxActApprox"] == max(each["maxValue"] for each in own)
        assert row["maxActApprox"] == pytest.approx(bank().largest(1, int(row["index"])), abs=6e-4)
        assert all(each["values"][each["maxValueTokenIndex"]] == each["maxValue"] for each in own)
        near = atlas().map.near.index[24 + int(row["index"])]
        assert row["topkCosSimIndices"] == [each - 24 for each in near.tolist() if 24 <= each < 48][:10]
        assert row["hookName"] == "blocks.1.hook_mlp_out"
    identities = [row["id"] for row in [*activations, *explanations]]
    assert len(set(identities)) == len(identities) and all(
        len(each) == 25 and each[0] == "c" for each in identities
    )


def test_the_same_features_give_the_same_bytes(tmp_path):
    one, two = (export(tmp_path / name, "neuronpedia", parts=["0"]) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


# --- Parquet -------------------------------------------------------------------------------------------------------


def exported(parts: tuple[int, ...] = (0, 1, 2)) -> Exported:
    return Exported(atlas=atlas(), labels=LABELS, parts=parts, model_id="tiny", source_set="res")


def test_the_table_has_a_row_for_each_feature_with_a_place():
    table = columns(exported())
    alive = np.flatnonzero(atlas().count > 0)
    assert table["id"] == [f"{feature // 24}/{feature % 24}" for feature in alive.tolist()]
    assert {len(column) for column in table.values()} == {len(alive)}
    at = table["id"].index("1/5")
    assert (table["text"][at], table["label_by"][at], table["layer"][at]) == (PERSON, "person", 1)
    assert table["density"][at] == pytest.approx(bank().density(1, 5))
    assert table["x"] == pytest.approx(atlas().map.place[alive, 0].tolist())


def test_neighbours_are_row_numbers():
    """embedding-atlas counts rows from 0: of all features, and of some parts only."""
    for parts in ((0, 1, 2), (1,)):
        table = columns(exported(parts))
        number = {name: row for row, name in enumerate(table["id"])}
        at = number["1/5"]
        near, cosine = atlas().map.near.index[29], atlas().map.near.cosine[29]
        wanted = [(number[name], 1 - value) for feature, value in zip(near.tolist(), cosine.tolist(), strict=True)
                  if (name := f"{feature // 24}/{feature % 24}") in number]  # fmt: skip
        found = table["neighbors"][at]
        assert found["ids"] == [row for row, _ in wanted]
        assert found["distances"] == pytest.approx([away for _, away in wanted], abs=1e-6)


def test_without_pyarrow_the_fix_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("thoughtscope.atlas.exports.parquet.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'thoughtscope\[parquet\]'"):
        export(tmp_path / "new", "parquet")
    assert not (tmp_path / "new").exists()


def test_the_table_is_what_pyarrow_gets(tmp_path, monkeypatch):
    """A stand-in for pyarrow: it takes columns by name, and writes a table to a path."""
    from types import SimpleNamespace

    def write_table(table, path):
        path.write_text(json.dumps(table))

    stand_in = SimpleNamespace(
        table=lambda columns: columns, parquet=SimpleNamespace(write_table=write_table)
    )
    monkeypatch.setitem(sys.modules, "pyarrow", stand_in)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", stand_in.parquet)
    monkeypatch.setattr("thoughtscope.atlas.exports.parquet.find_spec", lambda name: True)
    (path,) = export(tmp_path, "parquet")
    assert path.name == "features.parquet"
    assert json.loads(path.read_text())["id"] == columns(exported())["id"]


# --- all of them ---------------------------------------------------------------------------------------------------


def test_every_format_says_what_it_writes():
    assert sorted(FEATURE_FORMATS) == ["circuit-tracer", "neuronpedia", "parquet", "sae-dashboard"]
    assert all(FEATURE_FORMATS[name].what for name in FEATURE_FORMATS)


def test_what_a_layout_cannot_do_without_is_named(tmp_path):
    with pytest.raises(ThoughtscopeError, match="give its model"):
        export(tmp_path, "neuronpedia", model=None)
    with pytest.raises(ThoughtscopeError, match="circuit-tracer"):
        export(tmp_path, "circuit-trace")
    with pytest.raises(ThoughtscopeError, match="not a part"):
        export(tmp_path, "circuit-tracer", parts=["9"])
    assert list(tmp_path.iterdir()) == []


def test_what_lies_beside_an_export_stays_and_an_older_one_goes(tmp_path):
    """Also in a dictionary's own folder, whose examples are in `features/`."""
    others = {
        tmp_path / name: name for name in ("notes.json", "features/manifest.json", "features/tiny-clt/a.txt")
    }
    for path, text in others.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    export(tmp_path, "circuit-tracer", parts=["0"])
    old = feature_number(0, fired(0)[0])
    export(tmp_path, "circuit-tracer", parts=["2"])
    names = {path.stem for path in tmp_path.glob("features/tiny-clt/*.json")}
    assert {path: path.read_text() for path in others} == others
    assert names == {str(feature_number(2, index)) for index in fired(2)} and str(old) not in names


def test_parts_of_one_layer_have_no_numbers_of_circuit_tracers(tmp_path):
    from dataclasses import replace

    parts = dictionary().parts
    twice = replace(dictionary(), parts=(parts[0], replace(parts[0], name="again"), parts[2]))
    with pytest.raises(ThoughtscopeError, match="several parts in one layer"):
        export_features(replace(atlas(), dictionary=twice, map=None), tmp_path, format="circuit-tracer")


def test_examples_of_another_dictionary_are_refused():
    from dataclasses import replace

    with pytest.raises(DictionaryMismatch, match="Collect its own"):
        replace(atlas(), dictionary=replace(dictionary(), parts=dictionary().parts[:2]))
