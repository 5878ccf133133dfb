"""The replication of Towards Monosemanticity: its corpus tells the truth, its measures are those that they say."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import scipy.sparse
import torch

from tests.tiny_models import tiny_model
from thoughtscope.atlas.alike import best_matches, correlations, correlations_with
from thoughtscope.atlas.collect import direct_logits
from thoughtscope.atlas.columns import by_feature
from thoughtscope.atlas.intervals import by_interval
from thoughtscope.atlas.splitting import splitting
from thoughtscope.atlas.tables import explained, last_tokens
from thoughtscope.atlas.transitions import Transitions, transitions
from thoughtscope.cli.replicate import verdicts_text
from thoughtscope.core.errors import DictionaryMismatch, ThoughtscopeError
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import Activation, Part, basis
from thoughtscope.models import capture
from thoughtscope.models.random_models import byte_tokenizer
from thoughtscope.models.tokens import tokens_from_ids
from thoughtscope.replications import REPLICATIONS, replicate
from thoughtscope.replications.towards import claims, structure
from thoughtscope.replications.towards.contexts import LABEL, TEN, counting, counts
from thoughtscope.replications.towards.corpus import (
    BEGIN,
    CONTEXTS,
    LENGTH,
    LETTERS,
    VOCAB,
    make_corpus,
    tokens_of,
)
from thoughtscope.replications.towards.proxies import NEVER, hypothesis, proxy, unigram
from thoughtscope.replications.towards.rows import Row, together
from thoughtscope.replications.towards.rules import (
    KINDS,
    Rules,
    after_rule,
    explain,
    kinds,
    predicted,
    rubric,
)
from thoughtscope.replications.towards.sampling import read_as
from thoughtscope.replications.towards.subject import Activity, Text, Units
from thoughtscope.reports.verdicts import Figure, verdicts_page
from thoughtscope.reports.verdicts.figure import svg

DENSE = np.random.default_rng(0).random((60, 5)) * (np.random.default_rng(1).random((60, 5)) < 0.4)


def columns(dense):
    feature, token = np.nonzero(dense.T)
    return by_feature(
        feature, token.astype(np.int32), dense.T[feature, token].astype(np.float16), dense.shape[1]
    )


# --- measures of any dictionary ------------------------------------------------------------------------------------


def test_columns_are_a_matrix():
    assert np.array_equal(columns(DENSE).matrix(60).toarray(), DENSE.astype(np.float16).astype(np.float32))


def test_correlations_are_pearsons():
    other = DENSE[:, ::-1] + DENSE**2
    found = correlations(scipy.sparse.csc_array(DENSE), scipy.sparse.csc_array(other))
    np.testing.assert_allclose(found, np.corrcoef(DENSE.T, other.T)[:5, 5:], atol=1e-12)
    signals = np.stack([np.arange(60) % 2, np.arange(60)], axis=1)
    by_signal = correlations_with(scipy.sparse.csc_array(DENSE), signals)
    np.testing.assert_allclose(by_signal, np.corrcoef(DENSE.T, signals.T)[:5, 5:], atol=1e-12)


def test_a_feature_that_never_changes_matches_nothing():
    constant = scipy.sparse.csc_array(np.stack([np.zeros(60), DENSE[:, 0]], axis=1))
    best = best_matches(correlations(constant, scipy.sparse.csc_array(DENSE)))
    assert np.isnan(best[0]) and best[1] == pytest.approx(1)


def test_intervals_count_by_strength_and_label():
    dense = np.zeros((6, 2))
    dense[:, 0] = [0.1, 0.5, 0.6, 1.0, 0.0, 0.0]
    labels = np.array([0, 1, 1, 1, 0, 1])
    found = by_interval(columns(dense), labels, n_labels=2, n_intervals=2)
    assert found.count[0].tolist() == [[1, 1], [0, 2]]  # 0.5 is the end of the weaker half
    assert found.specificity[0, :, 1].tolist() == [0.5, 1.0]
    assert found.precision[0].tolist() == [0.25, 0.75] and found.sensitivity[0].tolist() == [0.5, 0.75]
    assert found.mass_share[0, 1] == pytest.approx(2.1 / 2.2, abs=1e-3)
    assert found.count[1].sum() == 0 and np.isnan(found.precision[1]).all()


def test_transitions_stay_within_documents():
    dense = np.zeros((6, 2))
    dense[[0, 2, 3], 0] = 1
    dense[[1, 3], 1] = 1
    found = transitions(scipy.sparse.csc_array(dense), np.array([0, 3, 6]))
    assert found.n.tolist() == [2, 2]  # token 2 is the last of its document
    assert found.after[0].tolist() == [0, 0.5] and found.after[1].tolist() == [0.5, 0]
    assert found.base.tolist() == [0.5, pytest.approx(1 / 3)]


def test_a_table_explains_what_it_can_know():
    ids = np.tile([1, 2, 3, 1], 50)
    starts = np.arange(0, 201, 4)
    of_token, of_pair = (ids == 1) * 2.0, np.zeros(200)
    of_pair[1:] = (ids[1:] == 1) & (ids[:-1] == 3)
    matrix = scipy.sparse.csc_array(np.stack([of_token, of_pair], axis=1))
    half = np.arange(200) < 100
    by_token = explained(matrix, last_tokens(ids, starts, 1), half)
    assert by_token[0] == pytest.approx(1) and by_token[1] == pytest.approx(1 / 3)  # 1 − (1/8) / (3/16)
    assert explained(matrix, last_tokens(ids, starts, 2), half).tolist() == pytest.approx([1, 1])


def test_runs_of_tokens_do_not_reach_over_a_start():
    groups = last_tokens(np.array([1, 2, 1, 2, 2]), np.array([0, 3, 5]), 2)
    assert len(set(groups.tolist())) == 5  # "2" at a start is another group than "1 2" and "2 2"
    again = last_tokens(np.array([1, 2, 1, 2]), np.array([0, 4]), 2)
    assert again[1] == again[3] and len(set(again.tolist())) == 3


def coder(name, rows):
    site = Site("resid_post", 0)
    return Part(name=name, activation=Activation(kind="relu"), W_enc={site: rows}, b_enc=torch.zeros(len(rows)),
                W_dec={site: rows}, b_dec={})  # fmt: skip


def test_children_are_the_nearest_decoders():
    small, large = torch.eye(3), torch.tensor([[2.0, 0.1, 0], [1, -0.2, 0], [0, 0, 5], [0.6, 0.7, 0]])
    (split,) = splitting([coder("small", small), coder("large", large)])
    assert split.parent.tolist() == [0, 0, 2, 1]
    assert split.children(0, least=0.9).tolist() == [0, 1] and split.children(1, least=0.9).tolist() == []
    other = basis(tiny_model("gpt2"), "resid_post.1").parts[0]
    with pytest.raises(DictionaryMismatch, match="same sites"):
        splitting([coder("small", small), other])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_basis_is_the_neurons(family):
    model = tiny_model(family)
    neurons = basis(model, "mlp_act.1")
    x = capture(model, tokens_from_ids(model, [5, 6, 7]), neurons.sites)[Site("mlp_act", 1)][0]
    assert torch.equal(neurons.parts[0].activations({Site("mlp_act", 1): x}), x.float())
    index = torch.tensor([3])
    facts = model.family.blocks[1].neurons
    row, norm = facts.W_out[3], model.family.final_norm
    expected = (norm.centre(row) * norm.weight) @ model.family.unembed.T
    torch.testing.assert_close(direct_logits(model, neurons.parts[0], index)[0], expected)


# --- the corpus and its proxies ------------------------------------------------------------------------------------


def test_the_truth_of_every_token_is_known():
    corpus = make_corpus(400, seed=3)
    assert corpus.ids.shape == corpus.truth.shape == (400, LENGTH) and (corpus.ids[:, 0] == BEGIN).all()
    allowed = {
        "dna": b"ACGT",
        "hex": b"0123456789abcdef",
        "phone": b"0123456789()-, ",
        "hebrew": [32, *range(291, 318)],
    }
    for name, tokens in allowed.items():
        inside = corpus.ids[corpus.truth == LABEL[name]]
        letters = set(tokens) if name != "hebrew" else {32, *tokens_of("".join(LETTERS[-27:]))}
        assert len(inside) and set(inside.tolist()) <= letters, name
    assert {int(label) for label in np.unique(corpus.truth)} == set(range(1 + len(CONTEXTS)))
    again = make_corpus(400, seed=3)
    assert np.array_equal(corpus.ids, again.ids) and not np.array_equal(
        corpus.ids, make_corpus(400, seed=4).ids
    )


def test_tokens_are_those_of_the_models_tokenizer():
    tokenizer = byte_tokenizer(LETTERS)
    for name, context in CONTEXTS.items():
        text = context.make(Random(1))
        assert tokenizer(text)["input_ids"] == [BEGIN, *tokens_of(text)], name


def test_contexts_share_their_tokens():
    """No table of tokens tells the contexts apart: A is in at least four of them, and in plain text."""
    assert (counts()[:, ord("A")] > 0).sum() >= 5 and counts()[0, ord("A")] > 0


def test_truth_follows_documents_in_any_order():
    corpus = make_corpus(20, seed=1)
    order = np.random.default_rng(0).permutation(20)
    found = corpus.truth_of(corpus.ids[order].ravel().astype(np.int64), np.arange(0, 20 * LENGTH + 1, LENGTH))
    assert np.array_equal(found, corpus.truth[order].ravel())


def test_a_proxy_is_the_best_stretch_that_ends_here():
    ratio = np.array([1.0, -2.0, 0.5])
    ids = np.random.default_rng(2).integers(0, 3, (3, 12))
    found = proxy(ids, ratio)
    for row, said in zip(ids, found, strict=True):
        for at in range(12):
            assert said[at] == pytest.approx(max(ratio[row[start : at + 1]].sum() for start in range(at + 1)))


def test_hypotheses_exclude_what_they_do_not_name():
    dna = hypothesis("ACGT")
    assert np.exp(dna[ord("A")]) == pytest.approx(0.25) and np.exp(dna[ord("a")]) == pytest.approx(NEVER)
    assert np.exp(unigram(counts())).sum() == pytest.approx(1, abs=1e-6)


def test_texts_read_as_what_they_are():
    held = make_corpus(300, seed=8)
    for name in TEN:
        rows, at = np.nonzero(held.truth == LABEL[name])
        runs = [(r, a) for r, a in zip(rows, at, strict=True) if a + 24 <= LENGTH and (held.truth[r, a : a + 24] == LABEL[name]).all()]  # fmt: skip
        samples = np.stack([held.ids[r, a : a + 24] for r, a in runs[::7]]).astype(np.int64)
        assert (read_as(samples) == LABEL[name]).mean() >= 0.9, name


def test_rules_hold_where_they_say():
    corpus = counting()
    ids = corpus.ids[:4].ravel().astype(np.int64)
    text = Text(ids=ids, starts=np.arange(0, 4 * LENGTH + 1, LENGTH), truth=corpus.truth[:4].ravel())
    rules = Rules(text=text).matrix
    assert np.asarray(rules.sum(axis=1)).ravel().tolist() == [5.0] * len(
        ids
    )  # one of each way at every token
    named = [KINDS[number] for number in kinds(np.array([*b"Aa1 <", 0xE0, 0x80, 256, BEGIN]))]
    assert named == [
        "upper",
        "lower",
        "digit",
        "space",
        "mark",
        "lead byte",
        "following byte",
        "letter",
        "mark",
    ]


# --- measures on features made by hand ------------------------------------------------------------------------------


def made(word: bytes, name: str, *, raises: dict[int, int], repeats: int = 20) -> Units:
    """One unit for each different byte of a word, active on it, all in one context; `raises`: by unit, a byte."""
    letters = sorted(set(word), key=word.index)
    ids = np.array([*word] * repeats)
    starts = np.arange(0, len(ids) + 1, len(word))
    text = Text(ids=ids, starts=starts, truth=np.full(len(ids), LABEL[name], np.int16))
    dense = np.stack([ids == letter for letter in letters], axis=1).astype(float)
    logits = torch.full((len(letters), VOCAB), -1.0)
    for unit, token in raises.items():
        logits[unit, token] = 1.0
    activity = Activity(columns=columns(dense), text=text)
    return Units(
        part=coder("by hand", torch.eye(len(letters))), logits=logits, choose=activity, test=activity
    )


def follows(units: Units) -> Transitions:
    return transitions(units.test.matrix, units.test.text.starts)


def test_a_chain_leads_on_and_a_circle_back():
    line = made(b"<a>", "html", raises={0: ord("a"), 1: ord(">")})
    assert structure.longest_chain(line, follows(line), "html") == 3
    assert structure.largest_circle(line, follows(line), "html") == 0
    rare = made(b"<a><a>" + bytes(range(100, 120)), "html", raises={0: ord("a"), 1: ord(">"), 2: ord("<")})
    assert structure.largest_circle(rare, follows(rare), "html") == 3
    silent = made(b"<a>", "html", raises={0: ord("a")})
    assert (
        structure.longest_chain(silent, follows(silent), "html") == 2
    )  # "a" is followed by ">", but not raised
    assert structure.longest_chain(line, follows(line), "irc") == 0


def test_a_script_is_spelled_by_lead_and_following_bytes():
    letter, rest = bytes([0xE0, 0xAE, 0x95]), bytes(range(100, 120))
    raises = {0: 0xAE, 1: 0x95, 2: 0xE0}
    whole = made(letter * 2 + rest, "tamil", raises=raises)
    assert structure.spells(whole, follows(whole), "tamil")
    broken = made(letter * 2 + rest, "tamil", raises={0: 0xAE, 2: 0xE0})
    assert not structure.spells(broken, follows(broken), "tamil")
    assert not structure.spells(whole, follows(whole), "chinese")


def test_points_of_a_feature_that_is_its_rule():
    units = made(b"abcdefghijklmnopqrst", "irc", raises={0: ord("b")})
    rules = Rules(text=units.test.text)
    told = explain(units, rules, seed=0)
    assert told.confidence.tolist() == pytest.approx([1.0] * 20)
    points = rubric(told, rules, np.ones(20))
    assert (
        points.tolist() == [3 + 5 + 3 + 2] * 20
    )  # the rule holds 20 times as often as in all text: 2 of 3 points
    assert rubric(told, rules, np.full(20, 0.6)).tolist() == [3 + 5 + 1 + 2] * 20
    unknown = replace(told, confidence=np.full(20, 0.2))
    assert rubric(unknown, rules, np.ones(20)).tolist() == [0] * 20
    assert predicted(told, rules, rules, seed=0).tolist() == pytest.approx([1.0] * 20)
    likelier = after_rule(rules, told.rule[:1])[0]
    assert likelier.argmax() == ord("b") and likelier[ord("c")] < 0


# --- claims, report, command ---------------------------------------------------------------------------------------


def test_rows_of_seeds_become_what_was_seen():
    seen = together([{"a": Row(value=1, n=3, control=0.5)}, {"a": Row(value=2, n=3, control=0.25)}])["a"]
    assert seen.values == (1.0, 2.0) and seen.controls == (0.5, 0.25) and seen.n == 3


def test_there_are_at_least_twenty_claims_with_published_figures_and_controls():
    made = claims()
    assert len(made) >= 20
    assert (
        sum(claim.paper is not None for claim in made) >= 10
        and sum(bool(claim.control) for claim in made) >= 20
    )


def test_a_quick_run_ends_with_verdicts_and_goes_on_from_what_it_kept(tmp_path):
    """The whole path, small: every claim is measured; a second run reads what the first one trained."""
    stages: list[str] = []
    first = replicate(
        "towards", quick=True, folder=tmp_path, progress=lambda stage, *_, **__: stages.append(stage)
    )
    assert {"model", "train"} <= set(stages)
    assert [verdict.claim.name for verdict in first.verdicts] == [claim.name for claim in claims()]
    assert all(verdict.seen is not None and len(verdict.seen.values) == 2 for verdict in first.verdicts)
    assert "quick run: no evidence" in verdicts_text(first)
    saved = json.loads((tmp_path / "verdicts.json").read_text())
    assert saved == json.loads(json.dumps(first.to_json()))
    stages.clear()
    again = replicate(
        "towards", quick=True, folder=tmp_path, progress=lambda stage, *_, **__: stages.append(stage)
    )
    assert "model" not in stages and "train" not in stages
    assert again.to_json()["verdicts"] == saved["verdicts"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<tr>") == len(saved["verdicts"]) + 1 and page.count("<svg") == len(first.figures) == 4
    with pytest.raises(ThoughtscopeError, match="another replication"):
        REPLICATIONS["towards"].recipe(quick=False, folder=tmp_path, progress=lambda *_, **__: None)


def test_a_figure_draws_what_is_finite():
    figure = Figure(
        title="a < b", kind="bars", x=("one", "two"), y="share", series={"<s>": (1.0, float("nan"))}
    )
    drawn = svg(figure)
    assert drawn.count("<rect") == 1 and "<s>" not in drawn and "a &lt; b" in drawn
    assert figure.to_json()["series"] == {"<s>": [1.0, None]}
    for bad in ({"series": {}}, {"series": {"a": (1.0,)}}, {"x": ()}):
        with pytest.raises(ThoughtscopeError):
            Figure(
                **{"title": "", "kind": "lines", "x": ("1", "2"), "y": "", "series": {"a": (1.0, 2.0)}, **bad}
            )


def test_bars_and_lines_have_the_heights_of_their_numbers():
    import re

    def drawn(kind, pattern):
        figure = Figure(title="t", kind=kind, x=("1", "2", "3"), y="u", series={"s": (1.0, 2.0, 4.0)})
        return re.findall(pattern, svg(figure))

    bars = [float(height) for height in drawn("bars", r'height="([\d.]+)"><title>')]
    assert [b / a for a, b in pairwise(bars)] == pytest.approx([2, 2], rel=0.01)
    (line,) = drawn("lines", r'points="([^"]+)"')
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert (heights[1] - heights[2]) / (heights[0] - heights[1]) == pytest.approx(2, rel=0.02)


def test_a_page_says_nothing_of_its_own():
    page = verdicts_page({"paper": "<b>x</b>", "quick": False, "verdicts": []})
    assert "<b>x</b>" not in page and "&lt;b&gt;x" in page and "<script" not in page
