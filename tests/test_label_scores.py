"""Scores of labels: an oracle has 1, who knows nothing has a half, and garbage has none and is counted."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.letters import (
    Q,
    Scripted,
    case,
    contexts,
    listed,
    shown_context,
)
from tests.tiny_microscope import shared_model
from thoughtscope.assistants import Answer, Spoken
from thoughtscope.atlas.explaining import (
    Case,
    Detection,
    Fuzzing,
    Score,
    Simulation,
    averaged,
    embedding_scores,
    score,
    surprisal_scores,
)
from thoughtscope.atlas.explaining.scorers import simulated, verdict_strengths, verdicts
from thoughtscope.atlas.explaining.scores import auroc, balanced_accuracy, f1, pearson
from thoughtscope.atlas.explaining.shown import levels

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
            contexts=(shown_context("abc", [1.0] * 3), shown_context("abx", [0.0] * 3, "random")),
        )
    ]
    (found,) = surprisal_scores(shared_model(), cases, neutral="anything")
    assert (found.auroc, found.n) == (0.5, 2)


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
