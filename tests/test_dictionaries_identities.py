"""Dictionaries at their boundaries: documents and rows, hubs, layouts, plausibility, from hand-made small cases."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_models import tiny_model
from thoughtscope.core.errors import (
    CorruptArtefact,
    DictionaryMismatch,
    ThoughtscopeError,
    UnknownFeature,
    UnknownSite,
)
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Activation,
    Card,
    Dictionary,
    LayerWeights,
    Part,
    documents,
    encode,
    hub,
    layer_weights,
    load_dictionary,
    loading,
    resident,
    save_dictionary,
    transcoders,
)
from thoughtscope.dictionaries.activation import Activation as _Activation
from thoughtscope.dictionaries.features import flat, total_by_site
from thoughtscope.dictionaries.formats import base, circuit_tracer, gemma_scope, npz
from thoughtscope.dictionaries.scores import DictionaryScores, Fit, declare
from thoughtscope.dictionaries.transcoders import is_cross_layer, parse_sites, replace_mlps
from thoughtscope.models import Model, capture, tokens_from_ids

preflight = import_module("thoughtscope.dictionaries.preflight")


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama", layers=2)


def part(
    name: str = "0",
    reads: Any = ("mlp_in.0",),
    writes: Any = ("mlp_out.0",),
    *,
    d: int = 16,
    n: int = 6,
    **more: Any,
) -> Part:
    fields = {
        "activation": Activation(kind="relu"), "b_enc": torch.zeros(n), "threshold": None, "W_skip": None,
        "W_enc": {Site.parse(site): torch.ones(n, d) for site in reads},
        "W_dec": {Site.parse(site): torch.ones(n, d) for site in writes},
        "b_dec": {Site.parse(site): torch.zeros(d) for site in writes[:1]},
    }  # fmt: skip
    made = object.__new__(Part)  # without these tests' own checks of shapes, which callers do not have
    for field, value in ({"name": name} | fields | more).items():
        object.__setattr__(made, field, value)
    return made


def dictionary(*parts: Part, **more: Any) -> Dictionary:
    return Dictionary(**({"name": "a/d", "scan": "s", "model_name": "m", "parts": parts or (part(),)} | more))


# --- documents -----------------------------------------------------------------------------------------------------


def test_batches_take_as_many_documents_as_fit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By length in each pool; a batch is full: the next longer document would not fit at its own width."""
    monkeypatch.setattr(documents, "POOL", 7)
    texts = [[10 + n] * length for n, length in enumerate((5, 3, 9, 2, 1, 4, 8, 6, 2, 30, 3, 1, 7))]
    found = list(documents.numbered_batches(model, texts, context=9, batch_tokens=18))
    numbers = [n for several, _ in found for n in several]
    assert sorted(numbers) == [n for n, text in enumerate(texts) if len(text) > 1]
    for several, tokens in found:
        assert len({n // 7 for n in several}) == 1 and tokens.ids.numel() <= 18
        for row, n in enumerate(several):
            assert tokens.ids[row][tokens.mask[row]].tolist() == texts[n][:9]
    for pool in (0, 1):
        widths = sorted(tokens.ids.shape for several, tokens in found if several[0] // 7 == pool)
        assert sum(rows for rows, _ in widths) == (6, 5)[pool]
        lengths = sorted(
            min(len(text), 9) for n, text in enumerate(texts) if n // 7 == pool and len(text) > 1
        )
        greedy, rest = [], lengths
        while rest:
            size = max(k for k in range(1, len(rest) + 1) if k == 1 or k * rest[k - 1] <= 18)
            greedy, rest = [*greedy, (size, rest[size - 1])], rest[size:]
        assert sorted(map(tuple, widths)) == sorted(greedy)
    assert [
        several for several, _ in documents.numbered_batches(model, texts, context=9, batch_tokens=1)
    ] != sorted(numbers)
    assert [tokens.ids.tolist() for tokens in documents.document_batches(model, [[1, 2, 3]], context=2)] == [
        [[1, 2]]
    ]
    with pytest.raises(ThoughtscopeError, match="7 documents in a row"):
        list(documents.document_batches(model, [[1]] * 7))
    assert list(documents.document_batches(model, [[1]] * 6)) == []
    with pytest.raises(ThoughtscopeError, match="all texts or all lists"):
        list(documents.document_batches(model, ["ab", [1, 2]]))
    (texts_as,) = documents.document_batches(model, ["abcdef"], context=4)
    assert texts_as.ids.tolist() == [[256, 97, 98, 99]]
    with pytest.raises(ThoughtscopeError, match="has no tokenizer"):
        list(documents.document_batches(tiny_model("llama", vocab_size=50), ["ab"]))


def test_the_tokens_that_count() -> None:
    mask = torch.tensor([[False, True, True], [True, True, True], [False, False, True]])
    assert documents.counted(mask, skip_first=False).equal(mask)
    assert documents.counted(mask, skip_first=True).int().tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 0]]


@pytest.mark.parametrize("skip_first", [True, False])
def test_rows_of_activations_are_those_of_the_tokens(model: Model, skip_first: bool) -> None:
    texts = [[3, 1, 4, 1], [5, 9, 2], [6, 5, 3, 5, 8], [9, 7]]
    sites = [Site("mlp_in", 0), Site("mlp_in", 1)], [Site("mlp_out", 1), Site("mlp_out", 0)]
    batches = lambda: iter([tokens_from_ids(model, texts[:2]), tokens_from_ids(model, texts[2:])])
    whole = documents.read_rows(
        model, batches(), *sites, n_tokens=99, skip_first=skip_first, dtype=torch.float32
    )
    expected = []
    for text in texts:
        acts = capture(model, tokens_from_ids(model, text), [*sites[0], *sites[1]])
        expected += [
            torch.stack([acts[site][0, at] for site in (*sites[0], *sites[1])])
            for at in range(skip_first, len(text))
        ]
    rows = torch.stack(expected)
    assert len(whole) == len(rows) == (10 if skip_first else 14)
    torch.testing.assert_close(whole.inputs, rows[:, :2])
    torch.testing.assert_close(whole.outputs, rows[:, 2:])
    for wanted in (1, 5, 6):
        source = batches()
        some = documents.read_rows(model, source, *sites, n_tokens=wanted, skip_first=skip_first)
        assert len(some) == wanted and some.inputs.dtype == torch.float16
        left = batches()
        documents.skip_rows(left, n_tokens=wanted, skip_first=skip_first)
        assert len(list(source)) == len(list(left))
    nothing = documents.read_rows(model, iter([]), *sites, n_tokens=3)
    assert nothing.inputs.shape == (0, 2, 16) and nothing.outputs.shape == (0, 2, 16)
    with pytest.raises(ThoughtscopeError, match=r"not finite in torch\.float16"):
        documents._gather(
            {Site("mlp_in", 0): torch.full((1, 2, 3), 1e6)},
            [Site("mlp_in", 0)],
            torch.ones(1, 2, dtype=torch.bool),
            torch.float16,
        )


# --- features ------------------------------------------------------------------------------------------------------


def test_a_row_of_a_batch_and_widths_that_do_not_fit(model: Model) -> None:
    made = dictionary(part(b_enc=torch.linspace(-1, 1, 6)))
    tokens = tokens_from_ids(model, [[1, 2, 3], [4, 5]])
    acts = capture(model, tokens, made.sites)
    for row, ids in enumerate(([1, 2, 3], [4, 5])):
        found = encode(made, acts, row=row)
        alone = encode(made, capture(model, tokens_from_ids(model, ids), made.sites))
        assert (
            found.n_positions == len(ids)
            and torch.equal(found.index, alone.index)
            and len(found) == len(found.value)
        )
        torch.testing.assert_close(found.value, alone.value)
        site = Site("mlp_out", 0)
        torch.testing.assert_close(
            found.reconstruction[site] + found.error[site], acts[site][row][tokens.mask[row]]
        )
        assert 0 not in found.position
    assert 0 in encode(replace(made, skip_first=False), acts).position
    with pytest.raises(DictionaryMismatch, match=r"lacks mlp_out\.0, which a/d needs"):
        encode(made, {Site("mlp_in", 0): torch.ones(1, 2, 16)})
    with pytest.raises(DictionaryMismatch, match=r"mlp_in\.0 to be 16 wide, the capture has 15"):
        encode(made, {site: torch.ones(1, 2, 15) for site in made.sites})
    assert flat(torch.ones(2, 3, 4, 5), 2).shape == (2, 3, 20) and flat(torch.ones(2, 3, 4), 2).shape == (
        2,
        3,
        4,
    )
    a, b = Site("mlp_out", 0), Site("mlp_out", 1)
    total = total_by_site(
        [{a: torch.ones(2)}, {b: torch.ones(2)}, {a: 2 * torch.ones(2)}, {a: 4 * torch.ones(2)}]
    )
    assert total[a].tolist() == [7, 7] and total[b].tolist() == [1, 1]


def test_indices_of_features_at_their_ends() -> None:
    made = dictionary(part(W_dec={Site("mlp_out", 0): torch.arange(96.0).view(6, 16)}))
    one = made.part("0")
    assert one.decoder_rows(torch.tensor([0, 5]))[Site("mlp_out", 0)][:, 0].tolist() == [0, 80]
    assert one.encoder_bias(torch.tensor([], dtype=torch.long)).shape == (0,)
    for bad in (-1, 6):
        with pytest.raises(UnknownFeature, match=f"features 0 to 5; got feature {bad}"):
            one.encoder_rows(torch.tensor([0, bad, 3]))
        with pytest.raises(
            UnknownFeature, match=f"no feature {bad} in part 0 of a/d: it has features 0 to 5"
        ):
            made.check_feature("0", bad)
    made.check_feature("0", 0), made.check_feature("0", 5)
    with pytest.raises(UnknownFeature, match="Allowed: 0"):
        made.number("1")
    assert (made.number("0"), made.n_features, made.has_skip) == (0, 6, False)


def test_what_a_dictionary_is_called() -> None:
    skip = part(W_skip=torch.ones(16, 16))
    cross = part("x", writes=("mlp_out.0", "mlp_out.1"))
    sae = part("s", ("resid_post.1",), ("resid_post.1",))
    coder = part("c", ("resid_pre.0", "resid_post.1"), ("resid_pre.0", "resid_post.1"))
    odd = part("o", ("resid_pre.0", "mlp_in.0"), ("mlp_out.0",))
    for parts, kind in (
        ((part(),), "per-layer transcoders"), ((skip,), "skip transcoders"), ((part(), cross), "cross-layer transcoder"),
        ((cross,), "cross-layer transcoder"), ((sae,), "sparse autoencoder"), ((coder,), "crosscoder"), ((odd,), "dictionary"),
        ((part(), sae), "mixed dictionary"), ((cross, sae), "mixed dictionary"), ((part(), skip_named(skip)), "skip transcoders"),
    ):  # fmt: skip
        assert dictionary(*parts).kind == kind
    assert coder.looks_ahead and not cross.looks_ahead and not sae.looks_ahead and not part().looks_ahead
    assert (
        str(coder.last_read) == "resid_post.1"
        and str(odd.last_read) == "mlp_in.0"
        and coder.layer == 0
        and sae.layer == 1
    )
    assert (
        part("e", ("embed",), ("final_norm",)).layer == 0
        and not part("e", ("embed",), ("resid_pre.0",)).looks_ahead
    )
    assert part("e", ("final_norm",), ("resid_post.1",)).looks_ahead
    assert (
        part("e", ("mlp_raw.0",), ("mlp_in.0",)).looks_ahead and not part("e", ("q.0",), ("z.0",)).looks_ahead
    )
    assert is_cross_layer(dictionary(part(), cross)) and not is_cross_layer(dictionary(part()))


def skip_named(skip: Part) -> Part:
    return replace(skip, name="other")


@pytest.mark.parametrize(("fields", "words"), [
    ({"name": ""}, "without a slash"), ({"name": "a/b"}, "without a slash"), ({"W_enc": {}}, "at least one site"),
    ({"W_dec": {}, "b_dec": {}}, "at least one site"), ({"b_enc": torch.zeros(5)}, "has size 6, expected 5"),
    ({"threshold": torch.zeros(6)}, "has thresholds, but its activation is relu"),
    ({"activation": Activation(kind="jumprelu")}, "lacks thresholds"),
    ({"activation": Activation(kind="jumprelu"), "threshold": torch.tensor([0, 0, 0, 0, 0, -1e-6])}, "thresholds below 0"),
    ({"activation": Activation(kind="jumprelu"), "threshold": torch.tensor([0, 0, 0, 0, 0, float("nan")])}, "not a number"),
    ({"activation": Activation(kind="jumprelu"), "threshold": torch.zeros(5)}, "threshold .* has size 5, expected 6"),
    ({"W_skip": torch.ones(15, 16)}, r"W_skip \(out\)"), ({"W_skip": torch.ones(16, 15)}, r"W_skip \(in\)"),
    ({"b_dec": {Site("mlp_out", 0): torch.zeros(3)}}, "b_dec.*size 3, expected 16"),
    ({"b_dec": {Site("mlp_out", 1): torch.zeros(16)}}, "b_dec.*size 16, expected 0"),
])  # fmt: skip
def test_parts_that_do_not_fit_together(fields: dict, words: str) -> None:
    with pytest.raises(DictionaryMismatch, match=words):
        dictionary(part(**fields))


def test_dictionaries_whose_parts_do_not_fit() -> None:
    for parts in ((), (part(), part())):
        with pytest.raises(DictionaryMismatch, match="needs parts of different names"):
            dictionary_of(parts)
    with pytest.raises(DictionaryMismatch, match="15 wide"):
        dictionary(part(), part("1", d=15))
    both = part("b", ("resid_pre.0", "mlp_in.0"), W_skip=torch.ones(16, 16))
    with pytest.raises(DictionaryMismatch, match="reads 2"):
        dictionary(both)


def dictionary_of(parts: tuple[Part, ...]) -> Dictionary:
    return Dictionary(name="a/d", scan="s", model_name="m", parts=parts)


@pytest.mark.parametrize(("kind", "k", "fits"), [
    ("relu", None, True), ("topk", 1, True), ("topk", 0, False), ("topk", None, False), ("relu", 1, False),
    ("jumprelu", 1, False), ("jumprelu", None, True),
])  # fmt: skip
def test_activations_and_their_k(kind: Any, k: int | None, fits: bool) -> None:
    if not fits:
        with pytest.raises(DictionaryMismatch, match=f"got {kind}, k={k}"):
            _Activation(kind=kind, k=k)
    else:
        pre, threshold = torch.tensor([[-2.0, -1.0, 0.5, 0.0]]), torch.tensor([0.0, 0.0, 0.5, 0.0])
        made = _Activation(kind=kind, k=k).apply(pre, threshold)
        assert made.tolist() == [[0, 0, 0.0 if kind == "jumprelu" else 0.5, 0]]
        if kind == "topk":
            assert _Activation(kind=kind, k=9).apply(pre).tolist() == [[0, 0, 0.5, 0]]


# --- plausibility and figures --------------------------------------------------------------------------------------


def problems(*, fvu: list[float], l0: list[float], declared: dict, n_features: int = 10) -> list[str]:
    fit = SimpleNamespace(fvu=lambda: fvu, l0=lambda: l0)
    told = SimpleNamespace(card=SimpleNamespace(declared=declared), n_features=n_features)
    return inspect.unwrap(preflight._problems)(told, fit)


@pytest.mark.parametrize(("fvu", "l0", "declared", "words"), [
    ([0.89], [1.0], {}, []), ([0.9], [1.0], {}, ["leaves 0.90"]), ([float("nan")], [1.0], {}, ["leaves"]),
    ([0.1, 9.0], [1.0], {}, ["leaves 1.05"]), ([0.1, 0.1, 0.1, 9.0], [1.0], {}, []), ([0.69], [1.0], {"fvu": 0.2}, []),
    ([0.71], [1.0], {"fvu": 0.2}, ["(declared 0.20), where at most 0.70"]), ([0.89], [1.0], {"fvu": 0.6}, []),
    ([0.1], [0.0], {}, ["no feature is ever active"]), ([0.1], [3.0, 2.0], {}, []), ([0.1], [3.0, 2.1], {}, ["more than half"]),
    ([0.1], [2.0], {"l0": 8.0}, ["2.0 features are active per token, where 8.0"]), ([0.1], [2.1], {"l0": 8.0}, []),
    ([0.1], [4.0], {"l0": 1.0}, ["4.0 features"]), ([0.1], [3.9], {"l0": 1.0}, []),
])  # fmt: skip
def test_what_is_no_longer_plausible(fvu: list, l0: list, declared: dict, words: list) -> None:
    found = problems(fvu=fvu, l0=l0, declared=declared)
    assert len(found) == len(words) and all(word in one for word, one in zip(words, found, strict=True))


@pytest.mark.parametrize(("fvu", "l0", "count"), [
    ([0.2, 0.4], [5.0, 5.0], 0), ([0.4, 0.4], [10.0], 0), ([0.41, 0.41], [10.0], 1), ([0.3, 0.3], [7.01], 0),
    ([0.3, 0.3], [6.99], 1), ([0.3, 0.3], [13.99], 0), ([0.3, 0.3], [14.01], 1), ([0.5, 0.5], [20.0], 2),
])  # fmt: skip
def test_what_a_self_test_no_longer_confirms(fvu: list, l0: list, count: int) -> None:
    """Recorded: 0.3 of the variance at two sites on average, 10 features."""
    own = SimpleNamespace(fvu=(0.2, 0.4), l0=(4.0, 6.0))
    fit = SimpleNamespace(fvu=lambda: fvu, l0=lambda: l0)
    assert len(inspect.unwrap(preflight._against_self_test)(own, fit)) == count


def test_the_running_sums_of_a_fit(model: Model) -> None:
    """In two batches what it is in one, by the definition."""
    made = dictionary(
        part(b_enc=torch.linspace(-1, 1, 6), W_dec={Site("mlp_out", 0): 0.01 * torch.ones(6, 16)})
    )
    sites = dict(zip(made.sites, (torch.randn(2, 5, 16), 3 + torch.randn(2, 5, 16)), strict=True))
    keep = torch.tensor([[True] * 5, [False, True, True, False, True]])
    fit = Fit.zeros(made)
    for row in range(2):
        fit.add(made, {site: x[row : row + 1] for site, x in sites.items()}, keep[row : row + 1])
    x, y = (sites[site][keep].double() for site in made.sites)
    values = (x.sum(1, keepdim=True) + torch.linspace(-1, 1, 6).double()).relu()
    guess = 0.01 * values.sum(1, keepdim=True).expand(-1, 16)
    assert fit.n == 8 and fit.l0() == [pytest.approx(float((values != 0).sum()) / 8)]
    assert fit.fvu() == [
        pytest.approx(float((y - guess).square().sum() / (y - y.mean(0)).square().sum()), rel=1e-5)
    ]
    assert fit.dead() == [pytest.approx(float((values == 0).all(0).double().mean()))]
    constant = Fit.zeros(made)
    constant.add(
        made, {site: torch.zeros(1, 2, 16) for site in made.sites}, torch.ones(1, 2, dtype=torch.bool)
    )
    assert np.isnan(constant.fvu()[0])
    own = {name: float(n) for n, name in enumerate(DictionaryScores.__dataclass_fields__)}
    declared = inspect.unwrap(declare)(made, SimpleNamespace(**own)).card.declared
    assert declared == {name: own[name] for name in ("fvu", "l0", "dead", "loss_change", "agreement", "kl")}


# --- hubs and layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "parsed"), [
    ("hf://a/b", ("a/b", "", None)), ("hf://a/b/c/d", ("a/b", "c/d", None)), ("a/b/c", ("a/b", "c", None)),
    ("hf://a/b@v1", ("a/b", "", "v1")), ("hf://a/b/c@v1", ("a/b", "c", "v1")), ("hf://a/b/", ("a/b", "", None)),
    ("hf://a/b/c?revision=v2", ("a/b", "c", "v2")), ("hf://a/b@v1?revision=v2", ("a/b", "", "v1")), ("hf://a/b?x=1", ("a/b", "", None)),
    ("hf://a", None), ("hf://a/b/../c", None), ("hf://", None), ("hf://a b/c", None),
])  # fmt: skip
def test_references_to_the_hub(reference: str, parsed: tuple | None) -> None:
    if parsed is None:
        with pytest.raises(DictionaryMismatch, match="neither a folder here nor a hub reference"):
            hub.parse(reference)
    else:
        assert hub.parse(reference) == parsed


def test_what_is_fetched_and_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache counts if it is whole; else the hub is asked, if it answers."""
    import huggingface_hub

    from thoughtscope.models import checkpoints

    snapshot = tmp_path / "repo" / "snapshots" / "1"
    (snapshot / "sub" / "deep").mkdir(parents=True)
    calls: list[dict] = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda repo, **given: calls.append(given | {"repo": repo}) or str(snapshot),
    )
    monkeypatch.setattr(checkpoints, "unreachable", lambda: "no net")
    with pytest.raises(DictionaryMismatch, match=r"nor whole in the local cache.*no net"):
        hub.download("hf://o/r/sub@v1")
    assert [call["local_files_only"] for call in calls] == [True]
    assert calls[0]["repo"] == "o/r" and calls[0]["revision"] == "v1"
    names = {"*.safetensors", "*.npz", "*.yaml", "*.json"}
    assert set(calls[0]["allow_patterns"]) == {f"sub/**/{name}" for name in names} | {
        f"sub/{name}" for name in names
    }
    (snapshot / "sub" / "deep" / "x.npz").touch()
    assert hub.download("hf://o/r/sub") == snapshot / "sub" and len(calls) == 2
    (tmp_path / "repo" / "blobs").mkdir()
    (tmp_path / "repo" / "blobs" / "a.incomplete").touch()
    with pytest.raises(DictionaryMismatch, match="no net"):
        hub.download("hf://o/r/sub")
    monkeypatch.setattr(checkpoints, "unreachable", lambda: None)
    calls.clear()
    assert hub.download("hf://o/r") == snapshot and [call["local_files_only"] for call in calls] == [
        True,
        False,
    ]
    assert set(calls[0]["allow_patterns"]) == names
    with pytest.raises(DictionaryMismatch, match="o/r has no folder gone"):
        hub.download("hf://o/r/gone")
    files: list[tuple] = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repo, path, **given: files.append((repo, path, given)) or str(snapshot / "sub/deep/x.npz"),
    )
    assert hub.download_file("hf://o/r/sub/x.npz@v") == snapshot / "sub/deep/x.npz"
    assert files == [("o/r", "sub/x.npz", {"revision": "v", "local_files_only": True})]

    def broken(local: bool) -> str:
        raise OSError("gone")

    with pytest.raises(DictionaryMismatch, match="could not be downloaded: gone"):
        hub._fetch("x", broken, Path.is_file)
    for name in ("./a/b", "/a/b", "~/a/b", "a"):
        with pytest.raises(DictionaryMismatch, match="There is no folder"):
            loading._find(name)
    with pytest.raises(DictionaryMismatch, match="Shipped: specimen/clt, specimen/plt"):
        loading._find("specimen/x")
    monkeypatch.setattr(hub, "download", lambda name: Path(name))
    assert loading._find("a/b") == Path("a/b") and loading._find("hf://a/b") == Path("hf:/a/b")


def test_files_of_every_layer(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("l_1.x", "l_0.x", "l_10.x", "m_2.x", "l_1.y", "l_.x")]
    assert base.numbered(paths, r"l_(\d+)\.x") == {0: [paths[1]], 1: [paths[0]], 10: [paths[2]]}
    assert base.every_layer({1: "b", 0: "a"}, tmp_path, "l_{}") == ["a", "b"]
    with pytest.raises(CorruptArtefact, match="l_1 is missing"):
        base.every_layer({0: "a", 2: "c"}, tmp_path, "l_{}")
    with pytest.raises(CorruptArtefact, match="l_0 is missing"):
        base.every_layer({}, tmp_path, "l_{}")
    base.expect_tensors(tmp_path, ["a", "b"], ["a"], ["b", "c"])
    with pytest.raises(CorruptArtefact, match="lacks c; it holds a, b"):
        base.expect_tensors(tmp_path, ["b", "a"], ["a", "c"], ["b"])
    with pytest.raises(CorruptArtefact, match="lacks a; it holds nothing"):
        base.expect_tensors(tmp_path, [], ["a"])
    with pytest.raises(CorruptArtefact, match="holds b, d, whose meaning"):
        base.expect_tensors(tmp_path, ["a", "d", "b"], ["a"])
    assert gemma_scope._only([paths[0]], tmp_path) == paths[0]
    with pytest.raises(CorruptArtefact, match="without a params file"):
        gemma_scope._only([], tmp_path)
    for count, dots in ((2, False), (4, False), (5, True)):
        with pytest.raises(DictionaryMismatch, match="several dictionaries") as refused:
            gemma_scope._only(paths[:count], tmp_path)
        assert ("…" in str(refused.value)) is dots and ("m_2.x" in str(refused.value)) is (count >= 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
@pytest.mark.parametrize("compressed", [False, True])
def test_archives_of_arrays(tmp_path: Path, dtype: Any, compressed: bool) -> None:
    arrays = {"a": np.arange(12, dtype=dtype).reshape(3, 4), "b": np.asfortranarray(np.arange(6, dtype=dtype).reshape(2, 3)),
              "c": np.array(5, dtype=dtype), "d": np.zeros((0, 3), dtype=dtype)}  # fmt: skip
    path = tmp_path / "x.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    if not compressed:
        del arrays["d"]
        np.savez(path, **arrays)
    found = npz.read_npz(path)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].shape == array.shape and np.array_equal(found[name].numpy(), array)
    with pytest.raises(CorruptArtefact, match="is missing"):
        npz.read_npz(tmp_path / "y.npz")
    np.savez(path, o=np.array([{}], dtype=object))
    with pytest.raises(CorruptArtefact, match="Python objects"):
        npz.read_npz(path)


def layers_of(n_layers: int, *, cross: bool = False, **more: Any) -> list[LayerWeights]:
    return [
        LayerWeights(W_enc=torch.randn(5, 16), b_enc=torch.randn(5), b_dec=torch.randn(16),
                     decoder=torch.randn(5, n_layers - layer if cross else 1, 16),
                     **{name: make() for name, make in more.items()})
        for layer in range(n_layers)
    ]  # fmt: skip


def test_transcoders_and_back(model: Model) -> None:
    for cross in (False, True):
        layers = layers_of(3, cross=cross, W_skip=lambda: torch.randn(16, 16))
        made = transcoders(name="n", layers=layers, activation=Activation(kind="relu"))
        assert (made.name, made.scan, made.model_name, made.skip_first) == ("n", "n", "", True)
        assert transcoders(name="n", scan="s", layers=layers, activation=Activation(kind="relu")).scan == "s"
        assert [len(one.writes) for one in made.parts] == ([3, 2, 1] if cross else [1, 1, 1])
        for before, after in zip(layers, layer_weights(made), strict=True):
            assert all(torch.equal(getattr(before, name), getattr(after, name))
                       for name in ("W_enc", "b_enc", "decoder", "b_dec", "W_skip"))  # fmt: skip
        assert made.parts[1].writes[0] == Site("mlp_out", 1) and made.parts[1].reads == (Site("mlp_in", 1),)
    with pytest.raises(
        DictionaryMismatch, match=r"layer 0 .* has 2 writes; of 3 layers it has 1 \(per-layer\) or 3"
    ):
        transcoders(
            name="n",
            layers=[replace(layers[0], decoder=torch.ones(5, 2, 16)), *layers[1:]],
            activation=Activation(kind="relu"),
        )
    for odd in (dictionary(part("1")), dictionary(part(writes=("mlp_out.1",))), dictionary(part(writes=("mlp_out.0", "mlp_out.2"))),
                dictionary(part("x")), dictionary(part(b_dec={})), dictionary(part(reads=("mlp_in.1",)))):  # fmt: skip
        with pytest.raises(DictionaryMismatch, match="not one transcoder for each layer"):
            layer_weights(odd)
    assert parse_sites("mlp_in", 2) == (Site("mlp_in", 0), Site("mlp_in", 1))
    with pytest.raises(UnknownSite):
        parse_sites("embed", 2)


def test_what_stands_in_for_mlps(model: Model) -> None:
    found = replace_mlps(dictionary(part("b", ("mlp_in.1",), ("mlp_out.1",))), model)
    assert (
        found.part_of == (None, 0)
        and found.writes == (Site("mlp_out", 0), Site("mlp_out", 1))
        and found.n_layers == 2
    )
    assert found.layer_of == (1,) and found.read(0) is None and found.read(1) == Site("mlp_in", 1)
    assert found.sites == (Site("mlp_in", 1), Site("mlp_out", 1), Site("mlp_out", 0))
    wide = part("w", writes=("mlp_out.0", "mlp_out.1"))
    assert replace_mlps(dictionary(wide), model).part_of == (0, None)
    good = part("late", W_skip=torch.ones(16, 16))
    assert replace_mlps(dictionary(good), model).part_of == (0, None)
    for parts, words in (
        ((part(reads=("mlp_in.0", "resid_mid.0")),), "stand in for MLPs"), ((part(reads=("mlp_out.0",)),), "stand in for MLPs"),
        ((part(writes=("resid_post.0",)),), "stand in for MLPs"), ((part(reads=("mlp_in.1",)),), "stand in for MLPs"),
        ((part(writes=("mlp_out.1",), W_skip=torch.ones(16, 16)),), "stand in for MLPs"),
        ((part("1", ("mlp_in.1",), ("mlp_out.1",)), part()), "another order"), ((part(), part("b")), "another order"),
        ((wide, part("1", ("mlp_in.1",), ("mlp_raw.1",))), r"writes both mlp_out\.1 and mlp_raw\.1"),
    ):  # fmt: skip
        with pytest.raises(DictionaryMismatch, match=words):
            replace_mlps(dictionary(*parts), model)


def test_a_dictionary_where_it_is_wanted(model: Model) -> None:
    made = dictionary(part(W_enc={Site("mlp_in", 0): torch.ones(6, 16, dtype=torch.float16)},
                           W_dec={Site("mlp_out", 0): torch.ones(6, 16, dtype=torch.float16)}))  # fmt: skip
    moved = resident(made).parts[0]
    assert (
        moved.W_enc[Site("mlp_in", 0)].dtype == torch.float32
        and moved.W_dec[Site("mlp_out", 0)].dtype == torch.float16
    )
    assert (
        resident(made, decoders=True, dtype=torch.float64).parts[0].W_dec[Site("mlp_out", 0)].dtype
        == torch.float64
    )
    assert moved.name == "0" and moved.activation == made.parts[0].activation


@pytest.mark.parametrize("cross", [False, True])
def test_files_for_other_tools_say_what_they_hold(tmp_path: Path, cross: bool) -> None:
    import json

    import yaml

    jump = {"activation": Activation(kind="jumprelu"), "read": "mlp_in", "write": "mlp_out"}
    made = transcoders(
        name="n",
        scan="s",
        model_name="m",
        layers=layers_of(2, cross=cross, threshold=lambda: torch.rand(5)),
        **jump,
    )
    save_dictionary(made, tmp_path / "scope", format="gemma-scope-2")
    home = tmp_path / "scope"
    paths = [home / "config.json"] if cross else [home / f"layer_{n}" / "config.json" for n in range(2)]
    for layer, path in enumerate(paths):
        assert json.loads(path.read_text()) == {
            "hf_hook_point_in": f"model.layers.{layer}.pre_feedforward_layernorm.output",
            "hf_hook_point_out": f"model.layers.{layer}.post_feedforward_layernorm.output", "width": 5, "model_name": "m",
            "architecture": "jump_relu", "affine_connection": False,
            "type": "cross_layer_transcoder" if cross else "transcoder",
        }  # fmt: skip
    save_dictionary(made, tmp_path / "ct", format="circuit-tracer")
    config = yaml.safe_load((tmp_path / "ct" / "config.yaml").read_text())
    assert list(config.items()) == [
        ("model_name", "m"), ("model_kind", "cross_layer_transcoder" if cross else "transcoder_set"),
        ("feature_input_hook", "mlp.hook_in"), ("feature_output_hook", "hook_mlp_out"), ("scan", "s"),
    ]  # fmt: skip
    for home in ("scope", "ct"):
        back = load_dictionary(tmp_path / home)
        assert (
            back.kind == made.kind
            and back.card.folder == tmp_path / home
            and back.reads == made.reads
            and back.writes == made.writes
        )
        assert all(torch.equal(a.threshold, b.threshold) for a, b in zip(back.parts, made.parts, strict=True))
    topk = transcoders(name="n", layers=layers_of(2), activation=Activation(kind="topk", k=3))
    save_dictionary(topk, tmp_path / "topk", format="circuit-tracer")
    assert load_dictionary(tmp_path / "topk").parts[0].activation == Activation(kind="topk", k=3)
    relu = transcoders(name="n", layers=layers_of(2, cross=cross), activation=Activation(kind="relu"))
    skip = transcoders(
        name="n",
        layers=layers_of(2, cross=cross, threshold=lambda: torch.rand(5), W_skip=lambda: torch.rand(16, 16)),
        **jump,
    )
    for one, format, words in (
        (relu, "gemma-scope", "other activations than jumprelu"), (relu, "gemma-scope-2", "other activations than jumprelu"),
        (skip, "gemma-scope", "has skip connections"), (made, "gemma-scope", "is cross-layer" if cross else "reads mlp_norm and writes mlp_out"),
    ):  # fmt: skip
        with pytest.raises(DictionaryMismatch, match=words):
            save_dictionary(one, tmp_path / "no", format=format)
    if cross:
        with pytest.raises(DictionaryMismatch, match="no skip connections and no TopK"):
            save_dictionary(skip, tmp_path / "no", format="circuit-tracer")
    else:
        save_dictionary(skip, tmp_path / "skip", format="circuit-tracer")
        assert load_dictionary(tmp_path / "skip").has_skip
    save_dictionary(replace(made, card=Card(declared={"fvu": 0.5})), tmp_path / "native")
    assert load_dictionary(tmp_path / "native").card.declared == {"fvu": 0.5}
    assert load_dictionary(tmp_path / "native", format="native").name == "n"


@pytest.mark.parametrize(("config", "threshold", "stored", "found"), [
    ({}, False, [], "relu"), ({}, True, [], "jumprelu"), ({"activation": "relu"}, False, [], "relu"),
    ({"activation": "jump_relu"}, True, [], "jumprelu"), ({"activation": "jumprelu"}, True, [], "jumprelu"),
    ({"activation": "topk", "k": 4}, False, [], 4), ({}, False, [2, 2], 2), ({"activation": "topk"}, False, [3, 3], 3),
    ({"activation": "topk", "k": 4}, False, [3], 4), ({"activation": "topk"}, False, [], "needs one k"), ({}, False, [2, 3], "needs one k"),
    ({"activation": "topk", "k": "x"}, False, [], "needs one k"), ({"activation": "topk", "k": 2}, True, [], "says activation: topk"),
    ({"activation": "relu"}, True, [], "says activation: relu"), ({"activation": "gelu"}, False, [], "is not relu, jump_relu or topk"),
    ({"activation": "relu"}, False, [2], "relu"),
])  # fmt: skip
def test_the_activation_that_a_configuration_means(
    config: dict, threshold: bool, stored: list, found: Any
) -> None:
    layers = layers_of(2, **({"threshold": lambda: torch.rand(5)} if threshold else {}))
    files = [{"k": k} for k in stored] or [{}]
    call = lambda: circuit_tracer._activation(Path("x"), config, layers, files)
    if found in ("relu", "jumprelu"):
        assert call() == Activation(kind=found)
    elif isinstance(found, int):
        assert call() == Activation(kind="topk", k=found)
    else:
        with pytest.raises(CorruptArtefact, match=re.escape(found)):
            call()
