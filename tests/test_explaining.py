"""Labels by an assistant: contexts that share no document, answers read strictly, baselines beside."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.letters import (
    ALWAYS,
    N_FEATURES,
    NEAR_Q,
    SILENT,
    WIDTH,
    P,
    Q,
    Scripted,
    case,
    contexts,
    every,
    excerpts,
    listed,
    recording,
    shown_context,
)
from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope.assistants import Answer, Destination
from thoughtscope.atlas.explaining import (
    Detection,
    Excerpts,
    averages,
    compare,
    contexts_of,
    explain,
    firing_together,
    nearest_decoders,
    scorable,
    score,
    shuffled,
    table_score,
    unigram_label,
    unigram_table,
)
from thoughtscope.atlas.explaining.explain import EXPLAINERS, explaining_request, read_label
from thoughtscope.atlas.explaining.shown import levels, marked, marks_for, peaks
from thoughtscope.core.errors import NotAgreed, ThoughtscopeError, UnknownFeature

# --- contexts ------------------------------------------------------------------------------------------------------


def test_excerpts_cover_documents_without_overlap():
    found, starts = excerpts(), recording().starts
    assert ((found.end - found.first) <= WIDTH).all() and ((found.end - found.first) >= 8).all()
    for number in range(len(found.first)):
        inside = slice(found.first[number], found.end[number])
        assert (found.of_token[inside] == number).all()
        assert (
            starts[found.document[number]]
            <= found.first[number]
            < found.end[number]
            <= starts[found.document[number] + 1]
        )
    assert (np.bincount(found.of_token[found.of_token >= 0]) == found.end - found.first).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_document_and_no_text_is_in_both_halves(seed):
    """Also not that of the two documents which are equal."""
    found = Excerpts.of(recording().ids, recording().starts, width=WIDTH, seed=seed)
    halves = [set(found.document[found.explains == explains].tolist()) for explains in (True, False)]
    assert not halves[0] & halves[1] and abs(len(halves[0]) - len(halves[1])) <= 2
    texts = [recording().ids[a:b].tobytes() for a, b in zip(found.first, found.end, strict=True)]
    assert len(set(texts)) == len(texts)
    for each in contexts_of(shared_model(), recording(), 0, [Q], excerpts=found).values():
        assert {one.document for one in (*each.explaining, *each.contrast)} <= halves[0]
        assert {one.document for one in each.scoring} <= halves[1]


def test_contexts_are_what_the_recording_says():
    for feature, letter in ((Q, "q"), (P, "p")):
        for context in every(contexts()[feature]):
            fires = [value > 0 for value in context.values]
            assert fires == [piece == letter for piece in context.pieces]
            assert context.is_active == any(fires) and "".join(context.pieces) == context.text
            assert [chr(token) for token in context.ids] == list(context.pieces)
    kinds = [context.kind for context in contexts()[Q].scoring]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"active": 20, "hard": 10, "random": 10}


def test_active_contexts_are_of_all_strengths():
    """One of each quantile: with as many quantiles as excerpts, all of them."""
    found = contexts()[Q]
    strengths = [context.largest for context in found.explaining]
    assert len(strengths) == 20 and strengths == sorted(strengths, reverse=True)
    whole = contexts_of(shared_model(), recording(), 0, [Q], excerpts=excerpts(), n_explain=10_000)[
        Q
    ].explaining
    bounds = [block[0].largest for block in (np.array_split(np.array(whole, object), 20))]
    ends = [block[-1].largest for block in (np.array_split(np.array(whole, object), 20))]
    assert all(low <= one <= high for one, high, low in zip(strengths, bounds, ends, strict=True))


def test_hard_contexts_are_those_where_a_neighbour_is_active():
    assert firing_together(recording(), 0, [Q, SILENT]) == {Q: [NEAR_Q, ALWAYS], SILENT: []}
    hard = [c for c in contexts_of(shared_model(), recording(), 0, [Q], excerpts=excerpts(),
                                   neighbours={Q: [NEAR_Q]}, n_silent=20)[Q].scoring if c.kind == "hard"]  # fmt: skip
    assert len(hard) == 10 and all("r" in context.text and "q" not in context.text for context in hard)


def test_contexts_are_the_same_again_and_others_by_another_seed():
    one, two, other = (
        contexts_of(shared_model(), recording(), 0, [Q], excerpts=excerpts(), seed=seed) for seed in (0, 0, 1)
    )
    assert one == two != other


def test_features_that_can_be_tested():
    """The silent one and the one that is active everywhere cannot."""
    assert scorable(recording(), 0, excerpts()) == [Q, P, NEAR_Q]
    assert scorable(recording(), 0, excerpts(), least=10_000) == []
    with pytest.raises(UnknownFeature, match=f"0 to {N_FEATURES - 1}"):
        contexts_of(shared_model(), recording(), 0, [N_FEATURES])


def test_nearest_decoders_are_by_cosine():
    part = random_dictionary(shared_model()).parts[1]
    rows = torch.cat([part.decoder_rows(torch.arange(part.n_features))[site] for site in part.writes], dim=1)
    found = nearest_decoders(part, [3, 0], n=4)
    for feature in (3, 0):
        cosine = torch.nn.functional.cosine_similarity(rows[feature : feature + 1], rows)
        cosine[feature] = -2
        assert found[feature] == cosine.argsort(descending=True)[:4].tolist()


# --- what is shown -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "flags", "shown"),
    [("abcd", [1, 1, 0, 1], "«ab»c«d»"), ("abcd", [0, 0, 0, 0], "abcd"), ("abcd", [1, 1, 1, 1], "«abcd»"),
     ("aéb", [0, 0, 1, 0], "a«é»b"), ("aéb", [0, 1, 0, 0], "a«é»b"), ("a\nb", [0, 1, 1], "a«⏎b»")],
)  # fmt: skip
def test_marks_stand_around_the_tokens_and_part_no_character(text, flags, shown):
    assert (
        marked(shown_context(text, [0.0] * len(flags)), [bool(flag) for flag in flags], ("«", "»")) == shown
    )


def test_marks_are_such_as_no_text_holds():
    assert marks_for([shown_context("a", [0.0])]) == ("«", "»")
    assert marks_for([shown_context("a", [0.0]), shown_context("«", [0.0, 0.0])]) == ("⟦", "⟧")


def test_levels_go_from_nothing_to_the_largest():
    assert levels(shown_context("abcd", [0.0, 4.0, 1.0, 9.0]), 8.0) == [0, 5, 1, 10]
    assert peaks(shown_context("abcd", [0.0, 4.0, 1.0, 0.5])) == [False, True, False, False]


# --- explaining ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "label"),
    [("Label: the letter q", "the letter q"), ("I see.\n**Label:** “the letter q”\n", "the letter q"),
     ("label : x", "x"), ("the letter q", None), ("Label:", None), ("Label: …", None), ("Label: a\nLabel: b", None), ("", None),
     ("My Label: x", None), ("Label: " + "x" * 201, None), ("Label: a\u202eb", None),
     ("<think>Label: a</think>Label: b", "b")],
)  # fmt: skip
def test_a_label_is_the_one_line_that_says_so(text, label):
    assert read_label(Answer(text=text)) == label


@pytest.mark.parametrize("explainer", EXPLAINERS)
def test_an_explainer_shows_where_the_feature_is_active(explainer):
    prompt = explaining_request(contexts()[Q], explainer).messages[0]["content"]
    if explainer == "levels":
        assert set(re.findall(r"^(.)\t[1-9]", prompt, re.MULTILINE)) == {"q"}
        assert not re.findall(r"^q\t0", prompt, re.MULTILINE) and "\t10\n" in prompt
    else:
        assert "«q»" in prompt and not re.findall(r"«[^q»]*»(?! stand)", prompt.partition("\n\n")[2])
    silent_texts = [context.text.strip() for context in contexts()[Q].contrast]
    assert all((f"- {text}" in prompt) == (explainer == "contrastive") for text in silent_texts)
    assert all(context.text.strip() not in prompt for context in contexts()[Q].scoring)


def test_what_cannot_be_read_is_counted_and_is_no_label():
    replies = iter(["Label: the letter q", "It is the letter q.", Answer(refusal="no"), Answer(error="gone")])
    found = explain(Scripted(lambda _: next(replies)), list(contexts(n_explain=n)[Q] for n in (5, 6, 7, 8)))
    assert [each.outcome for each in found] == ["labelled", "unparsed", "refused", "failed"]
    assert [each.label for each in found] == ["the letter q", None, None, None]
    assert {each.author for each in found} == {"scripted"}


def test_explaining_needs_contexts_and_a_known_way():
    with pytest.raises(ThoughtscopeError, match="marked, levels, contrastive"):
        explaining_request(contexts()[Q], "guess")
    with pytest.raises(ThoughtscopeError, match="without active contexts"):
        explaining_request(contexts_of(shared_model(), recording(), 0, [SILENT], excerpts=excerpts())[SILENT])


# --- baselines -----------------------------------------------------------------------------------------------------


def test_the_unigram_label_names_the_strongest_tokens():
    assert unigram_label(contexts()[Q].explaining) == 'tokens: "q"'
    assert unigram_label([shown_context("a b", [1.0, 2.0, 5.0])]) == 'tokens: "b", "␣", "a"'
    assert unigram_label([shown_context("abc", [1.0, 2.0, 5.0])], n=2) == 'tokens: "c", "b"'


def test_a_table_of_tokens_is_made_from_the_one_half_and_knows_a_feature_of_one_token():
    table = unigram_table(recording(), 0, Q, excerpts())
    columns = recording().columns(0, Q, Q + 1)
    mine = excerpts().explains[excerpts().of_token[columns.token]] & (excerpts().of_token[columns.token] >= 0)
    assert table[ord("q")] == pytest.approx(columns.value[mine].astype(float).mean())
    assert np.flatnonzero(table).tolist() == [ord("q")]
    found = table_score(table, contexts()[Q].scoring)
    assert found.auroc == 1.0 and found.pearson > 0.8
    other = table_score(unigram_table(recording(), 0, P, excerpts()), contexts()[Q].scoring)
    assert abs(other.auroc - 0.5) < 0.3 and abs(other.pearson) < 0.2


def test_shuffled_labels_are_all_anothers():
    labels = {number: str(number) for number in range(7)}
    found = shuffled(labels)
    assert sorted(found.values()) == sorted(labels.values())
    assert all(found[key] != labels[key] for key in labels) and found != shuffled(labels, seed=1)
    with pytest.raises(ThoughtscopeError, match="from 2 on"):
        shuffled({0: "0"})


def test_labels_are_scored_beside_their_baselines():
    """A judge who knows letters: the right labels and the unigram ones are perfect, exchanged ones are not."""

    def knows(prompt: str) -> str:
        (letter,) = re.findall(r'reacts to: (?:tokens: "|the letter )(\w)', prompt)
        return str([int(letter in text) for text in listed(prompt)])

    labels = {Q: "the letter q", P: "the letter p"}
    found = compare(
        {"by hand": labels},
        contexts(),
        assistant=Scripted(knows),
        scorers=["detection", "embedding"],
        model=shared_model(),
    )
    assert {kind: list(features) for kind, features in found.items()} == {
        kind: [Q, P] for kind in ("by hand", "by hand, shuffled", "unigram")
    }
    means = averages(found)
    assert (
        means["by hand"]["detection"]["balanced_accuracy"]
        == means["unigram"]["detection"]["balanced_accuracy"]
        == 1.0
    )
    assert means["by hand, shuffled"]["detection"]["balanced_accuracy"] < 0.8
    assert means["by hand"]["embedding"]["n"] == 80 and means["by hand"]["detection"]["labels"] == 2


def test_comparing_says_what_is_missing():
    with pytest.raises(ThoughtscopeError, match=r"detection, fuzzing, simulation, embedding, surprisal"):
        compare({"a": {Q: "q"}}, contexts(), scorers=["guessing"])
    with pytest.raises(ThoughtscopeError, match="Fuzzing asks an assistant"):
        compare({"a": {Q: "q"}}, contexts(), scorers=["fuzzing"])
    with pytest.raises(ThoughtscopeError, match="Surprisal runs a model"):
        compare({"a": {Q: "q"}}, contexts(), scorers=["surprisal"])


def test_nothing_of_explaining_or_scoring_is_sent_elsewhere_unasked():
    far = Scripted(lambda _: "x")
    far.destination = Destination(host="api.example.com", is_here=False)
    for ask_it in (
        lambda: explain(far, [contexts()[Q]]),
        lambda: score(far, [Detection()], [case()]),
        lambda: compare({"a": {Q: "q"}}, contexts(), assistant=far),
    ):
        with pytest.raises(NotAgreed, match=r"api.example.com"):
            ask_it()
    assert far.asked == []


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_random_weights_keep_the_spread_of_each_parameter_and_nothing_else(family):
    from tests.tiny_models import tiny_model
    from thoughtscope.models import forward, tokenize
    from thoughtscope.models.random_models import with_random_weights

    model = tiny_model(family, hidden_size=64)
    before = {name: each.clone() for name, each in model.module.named_parameters()}
    one, two, again = (with_random_weights(model, seed=seed) for seed in (0, 1, 0))
    for name, each in one.module.named_parameters():
        assert torch.equal(before[name], dict(model.module.named_parameters())[name])
        assert torch.equal(each, dict(again.module.named_parameters())[name])
        if each.numel() > 2000:
            assert float(each.std()) == pytest.approx(float(before[name].std()), rel=0.1)
            assert (
                abs(float(torch.corrcoef(torch.stack([each.flatten(), before[name].flatten()]))[0, 1])) < 0.1
            )
    tokens = tokenize(model, "Hello there")
    logits = [forward(each, tokens) for each in (model, one, two)]
    assert all(not torch.allclose(logits[a], logits[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert one.tokenizer is model.tokenizer and one.name == f"{model.name}-random"
