"""Labels by an assistant: contexts that share no document, answers read strictly, and scores that oracles know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny_microscope import random_dictionary, shared_model
from thoughtscope.assistants import Answer, Destination, Request, Spoken
from thoughtscope.atlas import Recording
from thoughtscope.atlas.columns import by_feature
from thoughtscope.atlas.explaining import (
    Case,
    Context,
    Contexts,
    Detection,
    Excerpts,
    Fuzzing,
    Score,
    Simulation,
    averaged,
    averages,
    compare,
    contexts_of,
    embedding_scores,
    explain,
    firing_together,
    nearest_decoders,
    scorable,
    score,
    shuffled,
    surprisal_scores,
    table_score,
    unigram_label,
    unigram_table,
)
from thoughtscope.atlas.explaining.explain import EXPLAINERS, explaining_request, read_label
from thoughtscope.atlas.explaining.scorers import simulated, verdict_strengths, verdicts
from thoughtscope.atlas.explaining.scores import auroc, balanced_accuracy, f1, pearson
from thoughtscope.atlas.explaining.shown import levels, marked, marks_for, peaks
from thoughtscope.atlas.recording import Plan, Stretch
from thoughtscope.core.errors import NotAgreed, ThoughtscopeError, UnknownFeature

Q, P, SILENT, ALWAYS, NEAR_Q = range(5)
"""Features that are active on every q, on every p, nowhere, everywhere, and on every q and r."""
N_FEATURES, WIDTH = 6, 16


@cache
def recording() -> Recording:
    """Random letters, each of them a token; q, r and p are rare. Two documents are the same."""
    random = np.random.default_rng(3)
    letters = np.frombuffer(b"abcdefgh qrp", dtype=np.uint8)
    chances = np.array([0.1] * 8 + [0.125] + [0.025] * 3)
    documents = [random.choice(letters, n, p=chances) for n in random.integers(20, 70, 80)]
    documents[40] = documents[3]
    ids = np.concatenate(documents).astype(np.int32)
    fires = {Q: b"q", P: b"p", ALWAYS: letters.tobytes(), NEAR_Q: b"qr"}
    rows = [(feature, np.flatnonzero(np.isin(ids, list(on)))) for feature, on in fires.items()]
    feature = np.concatenate([np.full(len(tokens), number) for number, tokens in rows]).astype(np.int32)
    token = np.concatenate([tokens for _, tokens in rows]).astype(np.int32)
    value = random.uniform(0.5, 3.0, len(token)).astype(np.float16)
    order = np.lexsort((feature, token))
    columns = by_feature(feature[order], token[order], value[order], N_FEATURES)
    plan = Plan(
        model="m", revision="r", dictionary="d", scan="d", n_features=(N_FEATURES,), documents="", context=70,
        batch_tokens=1, max_tokens=len(ids), stretch_tokens=len(ids),
    )  # fmt: skip
    lengths = np.array([len(document) for document in documents])
    return Recording(plan=plan, stretches=(Stretch(ids=ids, lengths=lengths, parts=[columns]),))


@cache
def excerpts() -> Excerpts:
    return Excerpts.of(recording().ids, recording().starts, width=WIDTH)


@cache
def contexts(**options: Any) -> dict[int, Contexts]:
    near = firing_together(recording(), 0, [Q, P])
    return contexts_of(
        shared_model(), recording(), 0, [Q, P], excerpts=excerpts(), neighbours=near, **options
    )


def every(found: Contexts) -> tuple[Context, ...]:
    return (*found.explaining, *found.contrast, *found.scoring)


class Scripted:
    """An assistant that answers by a rule, and keeps what it was asked."""

    name = "scripted"
    destination = Destination(host="here", is_here=True)

    def __init__(self, reply: Callable[[str], str | Answer]) -> None:
        self.reply, self.asked = reply, []

    def identity(self) -> dict[str, Any]:
        return {}

    def tokens_of(self, request: Request) -> int | None:
        return 1

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for number, request in enumerate(requests):
            self.asked.append(request)
            said = self.reply(request.messages[0]["content"])
            yield number, said if isinstance(said, Answer) else Answer(text=said)


def listed(prompt: str) -> list[str]:
    """The numbered excerpts of a prompt."""
    return re.findall(r"^\d+\. (.*)$", prompt, flags=re.MULTILINE)


def case(feature: int = Q, label: str = "q") -> Case:
    return Case(label=label, contexts=contexts()[feature].scoring)


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


def shown_context(text: str, values: list[float], kind: Any = "active") -> Context:
    """One token for each byte of a text."""
    data = text.encode()
    return Context(
        text=text,
        pieces=tuple(chr(byte) for byte in data),
        offsets=tuple((at, at + 1) for at in range(len(data))),
        ids=tuple(data),
        values=tuple(values),
        document=0,
        kind=kind,
    )


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
     ("label : x", "x"), ("the letter q", None), ("Label:", None), ("Label: a\nLabel: b", None), ("", None),
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


# --- yes or no -----------------------------------------------------------------------------------------------------


def detects(prompt: str) -> str:
    return str([int("q" in text) for text in listed(prompt)])


def right_marks(prompt: str) -> str:
    return str([int(all(found == "q" for found in re.findall("«(.*?)»", text))) for text in listed(prompt)])


ORACLES = {"detection": (Detection(), detects), "fuzzing": (Fuzzing(), right_marks)}
each_judge = pytest.mark.parametrize("name", ORACLES)


@each_judge
def test_an_oracle_is_always_right(name):
    scorer, oracle = ORACLES[name]
    found = score(Scripted(oracle), [scorer], [case()])[0][name]
    assert (found.balanced_accuracy, found.f1, found.auroc) == (1.0, 1.0, None)
    assert found.n == found.asked == (40 if name == "detection" else 20)
    assert (found.unparsed, found.refused, found.failed) == (0, 0, 0)


@each_judge
@pytest.mark.parametrize("verdict", [0, 1])
def test_who_always_says_the_same_is_right_half_of_the_time(name, verdict):
    found = score(
        Scripted(lambda prompt: str([verdict] * len(listed(prompt)))), [ORACLES[name][0]], [case()]
    )[0][name]
    assert found.balanced_accuracy == 0.5
    assert found.f1 == (pytest.approx(2 / 3) if verdict else 0.0)


@each_judge
def test_who_is_always_wrong_has_nothing_right(name):
    scorer, oracle = ORACLES[name]
    wrong = Scripted(lambda prompt: oracle(prompt).translate(str.maketrans("01", "10")))
    assert score(wrong, [scorer], [case()])[0][name].balanced_accuracy == 0.0


@each_judge
@pytest.mark.parametrize(
    "garbage", ["", "yes", "[1, 0]", "[1, 2, 0, 1, 0]", "1 0 1 0 1", "[1,0,1,0,1] or [0,0,0,0,0]"]
)
def test_garbage_is_counted_and_scores_nothing(name, garbage):
    found = score(Scripted(lambda _: garbage), [ORACLES[name][0]], [case()])[0][name]
    assert (found.n, found.balanced_accuracy, found.f1, found.auroc) == (0, None, None, None)
    assert found.unparsed == found.asked // 5 and found.asked > 0


def test_only_what_was_judged_counts():
    """Of eight answers one is garbage, one a refusal and one never came: the others are judged, and right."""
    replies = iter(["?", Answer(refusal="no"), Answer(error="gone")])
    found = score(Scripted(lambda prompt: next(replies, detects(prompt))), [Detection()], [case()])[0][
        "detection"
    ]
    assert (found.asked, found.n, found.unparsed, found.refused, found.failed) == (40, 25, 1, 1, 1)
    assert found.balanced_accuracy == 1.0
    assert sum(judged for _, judged in found.yes.values()) == 25
    assert all(yes == (judged if kind == "active" else 0) for kind, (yes, judged) in found.yes.items())


@pytest.mark.parametrize("shown", [1, 3, 40, 100])
def test_any_number_of_excerpts_can_be_shown_at_once(shown):
    judge = Scripted(detects)
    found = score(judge, [Detection(shown=shown)], [case()])[0]["detection"]
    assert found.balanced_accuracy == 1.0 and len(judge.asked) == -(-40 // shown)


def test_a_prompt_says_the_label_and_not_the_truth():
    """With another label the prompts differ in the label alone."""
    one, two = Scripted(detects), Scripted(detects)
    score(one, [Detection(), Fuzzing()], [case(label="LABEL-A")])
    score(two, [Detection(), Fuzzing()], [case(label="LABEL-B")])
    for first, second in zip(one.asked, two.asked, strict=True):
        text = first.messages[0]["content"]
        assert "LABEL-A" in text and text.replace("LABEL-A", "LABEL-B") == second.messages[0]["content"]


def test_false_marks_are_on_silent_tokens_as_many_as_true_ones():
    judge = Scripted(right_marks)
    score(judge, [Fuzzing()], [case()])
    texts = [text for request in judge.asked for text in listed(request.messages[0]["content"])]
    wrong = [text for text in texts if "«q" not in text]
    assert len(texts) == 20 and len(wrong) == 10
    for text in texts:
        inside = "".join(re.findall("«(.*?)»", text))
        assert inside == "q" * len(inside) if text not in wrong else "q" not in inside


def spoken(*tokens: tuple[str, dict[str, float]]) -> Answer:
    """An answer whose alternatives have these probabilities."""
    rows = tuple(
        Spoken(text=text, logprob=0.0, top=tuple((other, float(np.log(p))) for other, p in top.items()))
        for text, top in tokens
    )
    return Answer(text="".join(text for text, _ in tokens), logprobs=rows)


def test_verdicts_have_the_strength_of_their_alternatives():
    answer = spoken(
        ("[", {}),
        ("1", {"1": 0.6, "0": 0.2}),
        (", ", {}),
        ("0", {"0": 0.9, "1": 0.1, "x": 0.0001}),
        ("]", {}),
    )
    assert verdicts(answer, 2) == [True, False]
    assert verdict_strengths(answer, 2) == pytest.approx([0.75, 0.1])
    assert verdict_strengths(Answer(text="[1, 0]"), 2) is None
    assert verdict_strengths(spoken(("[", {}), ("1", {"1": 0.6}), ("]", {})), 2) is None


def test_with_strengths_a_judge_who_says_no_to_everything_can_still_rank():
    def timid(prompt: str) -> Answer:
        rows = [
            ("0", {"0": 0.7, "1": 0.3} if "q" in text else {"0": 0.9, "1": 0.1}) for text in listed(prompt)
        ]
        pairs = [pair for row in rows for pair in ((", ", {}), row)]
        return spoken(("[", {}), *pairs[1:], ("]", {}))

    found = score(Scripted(timid), [Detection(logprobs=5)], [case()])[0]["detection"]
    assert (found.balanced_accuracy, found.auroc) == (0.5, 1.0)


# --- how much ------------------------------------------------------------------------------------------------------


def truth_of(prompt: str, change: Callable[[int], int] = lambda level: level) -> str:
    pieces = "".join(re.findall(r"^\d+: (.)$", prompt, re.MULTILINE)).replace("·", " ")
    context = next(one for one in contexts()[Q].scoring if one.text == pieces)
    found = levels(context, 3.0)
    return "\n".join(f"{number}: {change(level)}" for number, level in enumerate(found, 1))


def test_a_simulation_by_the_truth_correlates_with_it():
    found = score(Scripted(truth_of), [Simulation()], [case()])[0]["simulation"]
    assert found.pearson > 0.99 and (found.n, found.asked, found.unparsed) == (40, 40, 0)
    against = score(
        Scripted(lambda prompt: truth_of(prompt, lambda level: 10 - level)), [Simulation()], [case()]
    )[0]
    assert against["simulation"].pearson < -0.99


def test_a_simulation_that_never_varies_has_no_correlation():
    found = score(Scripted(lambda prompt: truth_of(prompt, lambda _: 3)), [Simulation()], [case()])[0][
        "simulation"
    ]
    assert found.pearson is None and found.n == 40


@pytest.mark.parametrize(
    ("text", "values"),
    [("1: 0\n2: 10\n", [0.0, 10.0]), ("1) 3\n2. 4", [3.0, 4.0]), ("1: 0", None), ("1: 0\n2: 11", None),
     ("2: 0\n1: 3", None), ("1: 0\n2: 3\n3: 1", None), ("Sure:\n1: 0\n2: 3", None), ("1: 0\n2: 3.5", None), ("", None)],
)  # fmt: skip
def test_a_simulation_has_a_line_for_each_token(text, values):
    assert simulated(Answer(text=text), 2) == values


def test_a_simulation_is_an_expectation_where_the_alternatives_are_known():
    answer = spoken(
        ("1: ", {}), ("2", {"2": 0.5, "4": 0.25, "cat": 0.25}), ("\n2: ", {}), ("10", {"10": 0.5, "0": 0.5})
    )
    assert simulated(answer, 2) == pytest.approx([8 / 3, 5.0])
    parted = spoken(("1: ", {}), ("1", {"1": 0.5, "0": 0.5}), ("0", {"0": 0.8, "\n": 0.2}))
    assert simulated(parted, 1) == pytest.approx([0.5 * 0.8 * 10 + 0.5 * 0.2 * 1])
    thought = Answer(text="<think>5</think>1: 7")
    assert simulated(thought, 1) == [7.0]


# --- without asking ------------------------------------------------------------------------------------------------


def test_embeddings_know_a_label_that_is_the_text():
    """Each label is one of its own active texts; the vectors of equal texts are equal."""
    actives = [shown_context(text * 6, [1.0] * 6 * len(text)) for text in ("abc ", "xyz ")]
    silent_one, silent_two = (shown_context(c.text, [0.0] * len(c.values), "random") for c in actives)
    cases = [
        Case(label=actives[0].text, contexts=(actives[0], silent_two)),
        Case(label=actives[1].text, contexts=(actives[1], silent_one)),
    ]
    assert [each.auroc for each in embedding_scores(shared_model(), cases)] == [1.0, 1.0]
    crossed = [
        Case(label=two.label, contexts=one.contexts) for one, two in zip(cases, cases[::-1], strict=True)
    ]
    assert [each.auroc for each in embedding_scores(shared_model(), crossed)] == [0.0, 0.0]


def test_surprisal_is_the_models_own():
    """The figures are those of a forward pass over label and text alone, whatever else is in the batch."""
    from thoughtscope.atlas.explaining.inside import _head, _surprisals
    from thoughtscope.models import forward, tokenize

    pairs = [("a label", "abc def"), ("b", "x y z 1 2 3 4"), ("a label", "x y z 1 2 3 4")]
    found = _surprisals(shared_model(), pairs, lambda *_, **__: None)
    for (label, text), nats in zip(pairs, found, strict=True):
        tokens = tokenize(shared_model(), _head(label) + text)
        n = len(text)
        logprobs = forward(shared_model(), tokens)[0].log_softmax(-1)
        own = logprobs[-n - 1 : -1].gather(1, tokens.ids[0, -n:, None])
        assert nats == pytest.approx(-float(own.mean()), abs=1e-4)


def test_a_neutral_label_tells_nothing():
    cases = [
        Case(
            label="anything",
            contexts=(shown_context("abc", [1.0] * 3), shown_context("abd", [0.0] * 3, "random")),
        )
    ]
    (found,) = surprisal_scores(shared_model(), cases, neutral="anything")
    assert (found.auroc, found.n) == (0.5, 2)


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


# --- figures -------------------------------------------------------------------------------------------------------


def test_figures_are_their_definitions():
    random = np.random.default_rng(0)
    value, truth = random.integers(0, 5, 60).astype(float), random.random(60) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in value[truth] for b in value[~truth]]
    assert auroc(value, truth) == pytest.approx(np.mean(pairs))
    said = value > 2
    hits = (said & truth).sum()
    assert balanced_accuracy(said, truth) == pytest.approx(
        (hits / truth.sum() + (~said & ~truth).sum() / (~truth).sum()) / 2
    )
    precision, recall = hits / said.sum(), hits / truth.sum()
    assert f1(said, truth) == pytest.approx(2 * precision * recall / (precision + recall))
    assert pearson(value, -2 * value + 1) == pytest.approx(-1.0)


def test_figures_that_do_not_exist_are_none():
    yes, no = np.ones(3, bool), np.zeros(3, bool)
    assert balanced_accuracy(yes, yes) is None and auroc(np.arange(3.0), no) is None
    assert f1(no, no) is None and pearson(np.ones(3), np.arange(3.0)) is None


def test_averages_leave_out_labels_without_a_figure_and_say_how_many_had_one():
    some = Score(scorer="detection", asked=10, n=10, balanced_accuracy=0.9)
    none = Score(scorer="detection", asked=10, n=0, unparsed=2)
    found = averaged([some, none])
    assert found["balanced_accuracy"] == pytest.approx(0.9) and found["balanced_accuracy_labels"] == 1
    assert (found["labels"], found["asked"], found["n"], found["unparsed"]) == (
        2,
        20,
        10,
        2,
    ) and "auroc" not in found


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
