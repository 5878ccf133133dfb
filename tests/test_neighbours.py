"""Neighbours, co-firing, families, map and clusters: against plain definitions, and against what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.dictionary_oracle import random_coder
from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope.atlas import (
    FeatureMap,
    co_firing,
    family_tree,
    feature_map,
    kept_map,
    neighbours_of,
    record,
    specificity,
)
from thoughtscope.atlas import mapping as mapping_module
from thoughtscope.atlas.clusters import hdbscan
from thoughtscope.atlas.columns import Columns, by_feature
from thoughtscope.atlas.maps import curve, fuzzy_graph, umap
from thoughtscope.atlas.neighbours import directions, nearest
from thoughtscope.atlas.specificity import on_peak_tokens
from thoughtscope.core.errors import CorruptArtefact, DictionaryMismatch
from thoughtscope.dictionaries import Dictionary

BESIDE = "thoughtscope.atlas.neighbours"


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


def active(n_features: int = 30, n_tokens: int = 200, seed: int = 0) -> tuple[Columns, np.ndarray]:
    """Random activations, and the same as a dense table (feature, token)."""
    random = np.random.default_rng(seed)
    dense = random.random((n_features, n_tokens)) * (
        random.random((n_features, n_tokens)) < random.random((n_features, 1))
    )
    dense[3] = 0  # one that never fires
    token, feature = np.nonzero(dense.T)
    return by_feature(
        feature.astype(np.int32), token.astype(np.int32), dense[feature, token].astype(np.float16), n_features
    ), dense


# --- neighbours ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [2**26, 50])
def test_nearest_is_what_sorting_all_cosines_gives(block, monkeypatch):
    monkeypatch.setattr(f"{BESIDE}.BLOCK", block)
    rows = unit(40, 8)
    cosines = rows @ rows.T - 3 * torch.eye(40)
    wanted = cosines.sort(dim=-1, descending=True)
    index, cosine = nearest(rows, rows, k=5, own=np.arange(40))
    assert np.array_equal(index, wanted.indices[:, :5].numpy())
    assert np.allclose(cosine, wanted.values[:, :5].numpy(), atol=1e-6)


def test_where_there_are_fewer_the_rest_is_empty():
    rows = unit(3, 4)
    index, cosine = nearest(rows, rows, k=5, own=np.arange(3))
    assert (index[:, 2:] == -1).all() and (cosine[:, 2:] == 0).all()
    assert [set(row[:2]) for row in index.tolist()] == [{1, 2}, {0, 2}, {0, 1}]


def test_neighbours_of_a_dictionary_are_those_of_its_summed_decoders():
    dictionary = random_dictionary(shared_model())
    found = neighbours_of(dictionary, k=4)
    whole = []
    for part in dictionary.parts:
        rows = part.decoder_rows(torch.arange(part.n_features))
        whole.append(sum(rows[site].double() for site in part.writes))
    table = torch.nn.functional.normalize(torch.cat(whole), dim=-1)
    cosines = (table @ table.T - 3 * torch.eye(len(table))).numpy()
    assert np.array_equal(found.index, np.argsort(-cosines, axis=1)[:, :4])
    assert np.allclose(found.cosine, -np.sort(-cosines, axis=1)[:, :4], atol=1e-5)


def test_only_those_that_may_be_are_neighbours():
    dictionary = random_dictionary(shared_model())
    total = sum(part.n_features for part in dictionary.parts)
    may = np.random.default_rng(0).random(total) < 0.5
    found = neighbours_of(dictionary, k=4, among=may)
    assert may[found.index].all() and (found.index != np.arange(total)[:, None]).all()
    whole = neighbours_of(dictionary, k=total - 1)
    for feature in (0, 30, 71):
        wanted = [other for other in whole.index[feature].tolist() if may[other]][:4]
        assert found.index[feature].tolist() == wanted


def test_features_that_write_elsewhere_are_no_neighbours():
    model = shared_model()
    heads, stream = (random_coder(model, [site]).parts[0] for site in ("z.1", "resid_post.1"))
    mixed = Dictionary(name="a/b", scan="a", model_name=model.name, parts=(heads, stream))
    found = neighbours_of(mixed, k=3)
    assert (found.index[:24] < 24).all() and (found.index[24:] >= 24).all()


# --- co-firing and specificity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [2**24, 300])
def test_co_firing_counts_tokens(pairs, monkeypatch):
    monkeypatch.setattr(f"{BESIDE}.PAIRS", pairs)
    columns, dense = active()
    on = dense > 0
    both = (on[:, None] & on[None]).sum(-1)
    either = (on[:, None] | on[None]).sum(-1)
    jaccard = np.where(both > 0, both / np.maximum(either, 1), 0)
    np.fill_diagonal(jaccard, 0)
    found = co_firing(columns, n_tokens=200, k=6)
    assert (found.index[3] == -1).all() and not (found.index == 3).any()
    for feature in (0, 7, 29):
        near = found.index[feature]
        assert np.allclose(found.jaccard[feature], np.sort(jaccard[feature])[::-1][:6])
        assert np.allclose(found.jaccard[feature], jaccard[feature, near])
        assert np.allclose(found.given[feature], both[feature, near] / on[feature].sum())


def test_co_firing_of_two_dictionaries_says_how_much_of_one_lies_in_the_other():
    columns, dense = active()
    other = np.concatenate([dense[:5], np.zeros((1, 200))])
    token, feature = np.nonzero(other.T)
    few = by_feature(
        feature.astype(np.int32), token.astype(np.int32), other[feature, token].astype(np.float16), 6
    )
    found = co_firing(few, columns, n_tokens=200, k=2)
    assert [row[0] for row in found.index.tolist()] == [0, 1, 2, -1, 4, -1]
    assert found.jaccard[0, 0] == found.given[0, 0] == 1


def test_specificity_is_the_share_by_decile():
    random = np.random.default_rng(1)
    holds = random.random(400) < 0.4
    token = np.sort(random.permutation(400)[:90]).astype(np.int32)
    value = random.permutation(np.arange(1, 91)).astype(
        np.float16
    )  # of the first feature 60, of the second 5
    columns = Columns(offsets=np.array([0, 60, 65, 90]), token=token, value=value)
    found = specificity(columns, holds)
    order = np.argsort(value[:60])
    assert np.allclose(found[0], holds[token[:60]][order].reshape(10, 6).mean(1))
    assert np.isnan(found[1]).all()  # fewer activations than deciles
    counts = np.diff([-(-25 * n // 10) for n in range(11)])[::-1]
    assert np.nansum(found[2] * counts) == pytest.approx(holds[token[65:]].sum(), abs=1e-9)
    assert (specificity(columns, np.ones(400, bool))[[0, 2]] == 1).all()


def test_a_feature_that_fires_most_where_its_label_says_is_specific_at_the_top():
    values = np.arange(1, 41, dtype=np.float16)
    columns = Columns(offsets=np.array([0, 40]), token=np.arange(40, dtype=np.int32), value=values)
    ids = np.where(np.arange(40) >= 20, 7, 1)
    found = on_peak_tokens(columns, ids, np.array([[7, -1]]))
    assert found[0].tolist() == [0.0] * 5 + [1.0] * 5


# --- families ------------------------------------------------------------------------------------------------------


def split_in_two(dictionary: Dictionary) -> Dictionary:
    """A dictionary of twice the size: each feature twice, turned a little, in another order."""
    part = dictionary.parts[0]
    site = part.writes[0]
    order = torch.randperm(2 * part.n_features, generator=torch.Generator().manual_seed(3))
    turned = part.W_dec[site].repeat(2, 1)[order]
    noise = (
        torch.randn(turned.shape, generator=torch.Generator().manual_seed(4))
        * turned.norm(dim=-1, keepdim=True)
        / 20
    )
    double = replace(
        part,
        W_enc={site: weight.repeat(2, 1)[order] for site, weight in part.W_enc.items()},
        b_enc=part.b_enc.repeat(2)[order],
        threshold=part.threshold.repeat(2)[order],
        W_dec={site: turned + noise},
    )
    return replace(dictionary, name="random/larger", scan="larger", parts=(double,))


def test_the_family_tree_finds_what_was_split():
    model = shared_model()
    small = random_coder(model, ["resid_post.1"], n_features=24)
    large = split_in_two(small)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(3)) % 24
    documents = [
        torch.randint(3, 250, (20,), generator=torch.Generator().manual_seed(n)).tolist() for n in range(20)
    ]
    recordings = [record(model, each, documents) for each in (large, small)]
    tree = family_tree([large, small], tau=0.9, recordings=recordings)  # any order
    assert tree.names == ("random/coder", "random/larger")
    same = family_tree([replace(large, name="random/coder"), small])
    assert same.names == ("random/coder, 24 features", "random/coder, 48 features")
    (splits,) = tree.splits
    nearest_parent = dict(zip(splits.child[::-1].tolist(), splits.parent[::-1].tolist(), strict=True))
    assert [nearest_parent[child] for child in range(48)] == order.tolist()
    assert (splits.cosine >= 0.9).all()
    fires = recordings[1].count(0) > 0
    own = order.numpy()[splits.child] == splits.parent
    # Both read the same, so a child is active wherever its parent is.
    assert np.allclose(splits.given[own & fires[splits.parent]], 1)


def test_families_are_of_the_same_sites():
    model = shared_model()
    with pytest.raises(DictionaryMismatch, match="same sites"):
        family_tree([random_coder(model, ["resid_post.0"]), random_coder(model, ["resid_post.1"])])


# --- map -----------------------------------------------------------------------------------------------------------


def planted(groups: int = 12, size: int = 25, dim: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Directions around random centres, and which centre each one is of."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(groups), size)
    rows = random.standard_normal((groups, dim))[group] + 0.35 * random.standard_normal((len(group), dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), group


def kept_neighbours(rows: np.ndarray, places: np.ndarray, k: int = 10) -> float:
    """On average, the share of a point's nearest by cosine that are among its nearest on the map."""
    cosine = rows @ rows.T
    away = ((places[:, None] - places[None]) ** 2).sum(-1)
    np.fill_diagonal(cosine, -2)
    np.fill_diagonal(away, np.inf)
    one, other = np.argsort(-cosine, 1)[:, :k], np.argsort(away, 1)[:, :k]
    return float(np.mean([len({*a} & {*b}) / k for a, b in zip(one.tolist(), other.tolist(), strict=True)]))


def test_the_map_keeps_more_neighbours_than_principal_components():
    rows, group = planted()
    index, cosine = nearest(*[torch.from_numpy(rows)] * 2, k=14, own=np.arange(len(rows)))
    places = umap(index, 1 - cosine, seed=1)
    centred = rows - rows.mean(0)
    components = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    by_chance = np.random.default_rng(0).standard_normal(places.shape)
    assert (
        kept_neighbours(rows, places) > kept_neighbours(rows, components) > kept_neighbours(rows, by_chance)
    )
    away = ((places[:, None] - places[None]) ** 2).sum(-1)
    np.fill_diagonal(away, np.inf)
    assert (group[away.argmin(1)] == group).mean() > 0.97
    assert np.array_equal(places, umap(index, 1 - cosine, seed=1))
    assert not np.array_equal(places, umap(index, 1 - cosine, seed=2))


def test_weights_of_the_graph_add_up_as_published():
    rows, _ = planted()
    index, cosine = nearest(*[torch.from_numpy(rows)] * 2, k=14, own=np.arange(len(rows)))
    graph = fuzzy_graph(index, 1 - cosine)
    assert abs(graph - graph.T).max() < 1e-12 and graph.max() <= 1 + 1e-9
    # The nearest has weight 1 in one direction, and p + q - pq keeps it.
    assert np.allclose(graph[np.arange(len(rows)), index[:, 0]], 1)
    distance = 1 - cosine
    beyond = distance - distance[:, :1]
    # σ is such that the weights add up to log2(15): solve for it from the finished weights of one that is nobody's.
    lonely = [i for i in range(len(rows)) if not (index == i).any()]
    for i in lonely:
        assert abs(graph[[i], :].sum() - np.log2(15)) < 1e-3 and beyond[i, 0] == 0


def test_the_curve_is_the_published_one():
    """The values that umap-learn prints for its default, min_dist 0.1."""
    assert curve(0.1) == pytest.approx((1.577, 0.895), abs=2e-3)


def test_clusters_are_found_and_noise_is_left_out():
    random = np.random.default_rng(0)
    sizes = [40, 25, 10]
    centres = np.array([[0.0, 0, 0], [20, 0, 0], [0, 20, 0]])
    blobs = [
        centre + random.standard_normal((size, 3)) * 0.3 for centre, size in zip(centres, sizes, strict=True)
    ]
    lone = np.array([[10.0, 10, 30], [-40, 5, 2], [60, -70, 8]])
    points = np.concatenate([*blobs, lone])
    found = hdbscan(points, min_cluster_size=8)
    assert [sorted(set(found[start : start + size])) for start, size in ((0, 40), (40, 25), (65, 10))] == [
        [0],
        [1],
        [2],
    ]
    assert (found[75:] == -1).all()
    order = random.permutation(len(points))
    assert np.array_equal(hdbscan(points[order], min_cluster_size=8), found[order])


def test_a_few_points_are_no_cluster():
    assert (hdbscan(np.zeros((3, 2))) == -1).all()


def test_equal_points_are_one_cluster():
    points = np.concatenate([np.zeros((8, 2)), np.ones((8, 2)) * 50, np.ones((8, 2)) * 90])
    assert sorted(np.bincount(hdbscan(points) + 1).tolist()) == [0, 8, 8, 8]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(mapping_module, "EPOCHS", 5)


def test_a_map_comes_back_from_disk_and_is_made_once(tmp_path, quick, monkeypatch):
    dictionary = random_dictionary(shared_model())
    alive = np.random.default_rng(0).random(72) < 0.7
    assert kept_map(dictionary, tmp_path, alive=alive, make=False) is None
    made = kept_map(dictionary, tmp_path, alive=alive)
    assert np.array_equal(np.isnan(made.place[:, 0]), ~alive) and (made.cluster[~alive] == -1).all()
    assert alive[made.near.index].all() and made.n_features == (24, 24, 24)
    monkeypatch.setattr(mapping_module, "feature_map", lambda *_, **__: pytest.fail("made again"))
    again = kept_map(dictionary, tmp_path, alive=alive, make=False)
    assert np.array_equal(again.place, made.place, equal_nan=True) and np.array_equal(
        again.cluster, made.cluster
    )
    assert np.array_equal(again.near.index, made.near.index) and again.digest == made.digest
    other = random_dictionary(shared_model(), seed=1)  # of the same name, as after another training
    assert kept_map(other, tmp_path, alive=alive, make=False) is None
    assert kept_map(dictionary, tmp_path, alive=~alive, make=False) is None


def test_a_damaged_map_is_made_anew(tmp_path, quick):
    dictionary = random_dictionary(shared_model())
    alive = np.ones(72, bool)
    made = kept_map(dictionary, tmp_path, alive=alive)
    (file,) = tmp_path.glob("*/map-*.safetensors")
    file.write_bytes(file.read_bytes()[:-9] + b"\0" * 9)
    with pytest.raises(CorruptArtefact):
        FeatureMap.load(file.parent)
    assert np.array_equal(kept_map(dictionary, tmp_path, alive=alive).place, made.place)


@pytest.mark.parametrize("damage", ["index", "cosine", "place", "cluster", "n_features"])
def test_a_map_whose_tables_do_not_fit_is_refused(damage, tmp_path, quick):
    made = feature_map(random_dictionary(shared_model()), alive=np.ones(72, bool))
    near, place = made.near, made.place.copy()
    place[5, 1] = np.nan  # half a place
    wrong = {
        "index": {"near": replace(near, index=np.full_like(near.index, 72))},
        "cosine": {"near": replace(near, cosine=np.full_like(near.cosine, np.nan))},
        "place": {"place": place},
        "cluster": {"cluster": made.cluster - 5},
        "n_features": {"n_features": (24, 24)},
    }[damage]
    replace(made, **wrong).save(tmp_path / "map")
    with pytest.raises(CorruptArtefact, match="do not fit"):
        FeatureMap.load(tmp_path / "map")


def test_with_hardly_any_features_none_has_a_place(quick):
    alive = np.zeros(72, bool)
    alive[:3] = True
    made = feature_map(random_dictionary(shared_model()), alive=alive)
    assert np.isnan(made.place).all() and (made.near.index[:, 3:] == -1).all()


def test_directions_are_of_length_one():
    part = random_dictionary(shared_model()).parts[0]
    assert torch.allclose(directions(part).norm(dim=-1), torch.ones(24))
    assert torch.equal(directions(part, torch.tensor([5, 2])), directions(part)[[5, 2]])
