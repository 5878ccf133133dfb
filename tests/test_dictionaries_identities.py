"""Dictionaries at their boundaries: documents and rows, hubs, layouts, plausibility, from hand-made small cases."""

from __future__ import annotations

import inspect
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_models import tiny_model
from thoughtscope.core.errors import (
    DictionaryMismatch,
    ThoughtscopeError,
    UnknownFeature,
)
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Activation,
    Dictionary,
    Part,
    documents,
    encode,
)
from thoughtscope.dictionaries.activation import Activation as _Activation
from thoughtscope.dictionaries.features import flat, total_by_site
from thoughtscope.dictionaries.fit import Fit
from thoughtscope.dictionaries.scores import DictionaryScores, declare
from thoughtscope.dictionaries.transcoders import is_cross_layer
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
        "activation": Activation(kind="relu"), "b_enc": torch.zeros(n), "threshold": None, "W_skip": None, "offset": {},
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
    found = [
        ([int(row[mask][0]) - 10 for row, mask in zip(tokens.ids, tokens.mask, strict=True)], tokens)
        for tokens in documents.document_batches(model, texts, context=9, batch_tokens=18)
    ]
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
    alone = [
        int(tokens.ids[0, 0]) - 10 for tokens in documents.document_batches(model, texts, batch_tokens=1)
    ]
    assert sorted(alone) == sorted(numbers) and alone != sorted(numbers)
    assert [tokens.ids.tolist() for tokens in documents.document_batches(model, [[1, 2, 3]], context=2)] == [
        [[1, 2]]
    ]
    with pytest.raises(ThoughtscopeError, match="7 documents in a row"):
        list(documents.document_batches(model, [[1]] * 7))
    assert list(documents.document_batches(model, [[1]] * 6)) == []
    mixed = list(documents.document_batches(model, ["ab", [1, 2], "c", [3, 4, 5]], batch_tokens=1))
    assert sorted(tokens.ids[0].tolist() for tokens in mixed) == [[1, 2], [3, 4, 5], [256, 97, 98], [256, 99]]
    (texts_as,) = documents.document_batches(model, ["abcdef"], context=4)
    assert texts_as.ids.tolist() == [[256, 97, 98, 99]]
    with pytest.raises(ThoughtscopeError, match="has no tokenizer"):
        list(documents.document_batches(tiny_model("llama", vocab_size=50), ["ab"]))


def test_the_tokens_that_count() -> None:
    mask = torch.tensor([[False, True, True], [True, True, True], [False, False, True]])
    assert documents.counted(mask, skip_first=False).equal(mask)
    assert documents.counted(mask, skip_first=True).int().tolist() == [[0, 0, 1], [0, 1, 1], [0, 0, 0]]


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
