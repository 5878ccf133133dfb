"""Scorers that ask an assistant, which knows a label and a text but not where the feature is active.

    Detection    is the feature active anywhere in this excerpt? (Paulo et al. 2024)
    Fuzzing      are the marked tokens of this excerpt those on which it is active? (Paulo et al. 2024)
    Simulation   how active is it on each token, from 0 to 10? (Bills et al. 2023)

What an answer lacks is never made up: one that has not the form that was asked for counts as unparsed, whole.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, Protocol, runtime_checkable

import numpy as np

from thoughtscope.assistants import Answer, Assistant, Prices, Request, ask, only_here, user_says
from thoughtscope.assistants.asking import Consent
from thoughtscope.atlas.explaining.contexts import Context
from thoughtscope.atlas.explaining.scores import Case, Score, auroc, balanced_accuracy, f1, pearson
from thoughtscope.atlas.explaining.shown import LEVELS, marked, marks_for, peaks, piece, plain
from thoughtscope.core.progress import Progress, silent

_LIST = re.compile(r"\[[^\[\]]*\]")
_LINE = re.compile(r"^[ \t]*(?P<number>\d+)[ \t]*[:.)][ \t]*(?P<value>\d+)[ \t]*$", re.MULTILINE)


@runtime_checkable
class Scorer(Protocol):
    """What is asked about a label, and what the answers say of it."""

    @property
    def name(self) -> str:
        """What the score is called."""

    def requests(self, case: Case) -> list[Request]:
        """All that is asked."""

    def read(self, case: Case, answers: Sequence[Answer]) -> Score:
        """The score, from an answer to each request, in their order."""


def score(
    assistant: Assistant,
    scorers: Sequence[Scorer],
    cases: Sequence[Case],
    *,
    folder: str | os.PathLike[str] | None = None,
    prices: Prices | None = None,
    consent: Consent = only_here,
    progress: Progress = silent,
) -> list[dict[str, Score]]:
    """For each case its score by each scorer's name. Everything is asked in one go: see `ask` for the rest."""
    asked = [(case, scorer, scorer.requests(case)) for case in cases for scorer in scorers]
    every = [request for _, _, requests in asked for request in requests]
    answers = iter(ask(assistant, every, folder=folder, prices=prices, consent=consent, progress=progress))
    read = iter([scorer.read(case, [next(answers) for _ in requests]) for case, scorer, requests in asked])
    return [{scorer.name: next(read) for scorer in scorers} for _ in cases]


# --- yes or no -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Active excerpts from silent ones, `shown` at a time, in an order by chance."""

    shown: int = 5
    logprobs: int = 0
    """Alternatives to ask for, so that verdicts have a strength (AUROC); 0 for none."""
    seed: int = 0
    name: str = "detection"

    def requests(self, case: Case) -> list[Request]:
        return [
            _verdicts_wanted(
                f"A detector inside a language model reacts to: {case.label}\n\n"
                "Does it react to at least one token of each of these excerpts?",
                [plain(case.contexts[number].text) for number in some],
                self.logprobs,
            )
            for some in self._groups(case)
        ]

    def read(self, case: Case, answers: Sequence[Answer]) -> Score:
        truth = [context.is_active for context in case.contexts]
        kinds = [context.kind for context in case.contexts]
        return _judged(self.name, self._groups(case), truth, kinds, answers)

    def _groups(self, case: Case) -> list[list[int]]:
        return _in_groups(len(case.contexts), self.shown, self.seed)


@dataclass(frozen=True, kw_only=True)
class Fuzzing:
    """Of active excerpts alone: half with the active tokens marked, half with as many silent ones of the same excerpt.

    An excerpt with fewer silent tokens than active ones cannot be marked wrong, and is left out.
    """

    shown: int = 5
    logprobs: int = 0
    seed: int = 0
    name: str = "fuzzing"

    def requests(self, case: Case) -> list[Request]:
        marks = marks_for(case.contexts)
        cases = self._marked(case)
        return [
            _verdicts_wanted(
                f"A detector inside a language model reacts to: {case.label}\n\n"
                f"In each of these excerpts some tokens stand between {marks[0]} and {marks[1]}. Are they those to "
                "which the detector reacts?",
                [marked(cases[number][0], cases[number][1], marks) for number in some],
                self.logprobs,
            )
            for some in _in_groups(len(cases), self.shown, self.seed)
        ]

    def read(self, case: Case, answers: Sequence[Answer]) -> Score:
        truth = [right for _, _, right in self._marked(case)]
        kinds = ["right" if right else "wrong" for right in truth]
        return _judged(self.name, _in_groups(len(truth), self.shown, self.seed), truth, kinds, answers)

    def _marked(self, case: Case) -> list[tuple[Context, list[bool], bool]]:
        """Each excerpt, its marks, and whether they are right: by turns, in an order by chance."""
        random = np.random.default_rng([self.seed, 1])
        usable = []
        for context in case.contexts:
            right = peaks(context)
            silent_ones = np.flatnonzero(np.array(context.values) == 0)
            if context.is_active and 0 < sum(right) <= len(silent_ones):
                usable.append((context, right, silent_ones))
        found = []
        for turn, place in enumerate(random.permutation(len(usable)).tolist()):
            context, flags, silent_ones = usable[place]
            if turn % 2:
                wrong = random.choice(silent_ones, sum(flags), replace=False)
                flags = np.isin(np.arange(len(flags)), wrong).tolist()
            found.append((context, flags, turn % 2 == 0))
        return found


def _in_groups(n: int, size: int, seed: int) -> list[list[int]]:
    order = np.random.default_rng([seed, 2]).permutation(n).tolist()
    return [order[start : start + size] for start in range(0, n, size)]


def _verdicts_wanted(question: str, excerpts: Sequence[str], logprobs: int) -> Request:
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(excerpts, 1))
    form = (
        "[1] for yes or [0] for no"
        if len(excerpts) == 1
        else f"a list of {len(excerpts)} numbers in square brackets, in their order, 1 for yes and 0 for no"
    )
    return user_says(
        f"{question} The excerpts:\n\n{listed}\n\nAnswer with {form}, and nothing else.",
        max_tokens=16 + 4 * len(excerpts),
        logprobs=logprobs,
        opening="[",
    )


def _judged(
    name: str,
    groups: Sequence[Sequence[int]],
    truth: Sequence[bool],
    kinds: Sequence[str],
    answers: Sequence[Answer],
) -> Score:
    """The score of yes and no; verdicts of a strength give an AUROC where all that were parsed have one."""
    said: dict[int, bool] = {}
    strength: dict[int, float] = {}
    states: Counter[str] = Counter()
    for group, answer in zip(groups, answers, strict=True):
        found = verdicts(answer, len(group)) if answer.state == "given" else None
        if found is None:
            states["unparsed" if answer.state == "given" else answer.state] += 1
            continue
        said |= dict(zip(group, found, strict=True))
        strengths = verdict_strengths(answer, len(group)) or ()
        strength |= dict(zip(group, strengths, strict=False))
    judged = sorted(said)
    verdict = np.array([said[number] for number in judged], dtype=bool)
    right = np.array([truth[number] for number in judged], dtype=bool)
    by_kind = {
        kind: [said[number] for number in judged if kinds[number] == kind] for kind in dict.fromkeys(kinds)
    }
    whole = len(strength) == len(judged) > 0
    return Score(
        scorer=name,
        asked=len(truth),
        n=len(judged),
        balanced_accuracy=balanced_accuracy(verdict, right) if judged else None,
        f1=f1(verdict, right),
        auroc=auroc(np.array([strength[number] for number in judged]), right) if whole else None,
        yes={kind: (sum(found), len(found)) for kind, found in by_kind.items()},
        unparsed=states["unparsed"],
        refused=states["refused"],
        failed=states["failed"],
    )


def verdicts(answer: Answer, n: int) -> list[bool] | None:
    """The `n` verdicts of an answer that holds one list, of as many zeros and ones; else None."""
    lists = _LIST.findall(answer.said)
    if len(lists) != 1:
        return None
    entries = [entry.strip() for entry in lists[0][1:-1].split(",")]
    if len(entries) != n or not set(entries) <= {"0", "1"}:
        return None
    return [entry == "1" for entry in entries]


def verdict_strengths(answer: Answer, n: int) -> list[float] | None:
    """The probability of 1 against 0 at each of the `n` verdicts; None where the answer does not show it."""
    match = next(_LIST.finditer(answer.said), None)
    if match is None:
        return None
    shift = len(answer.text) - len(answer.said) + match.start()
    places = [shift + found.start() for found in re.finditer(r"[01]", match[0])]
    found = [_masses(answer, place) for place in places]
    masses = [(each.get(0, 0.0), each.get(1, 0.0)) for each in found if each is not None]
    if len(masses) != n or not all(no + yes > 0 for no, yes in masses):
        return None
    return [yes / (no + yes) for no, yes in masses]


# --- how much ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """An activation from 0 to 10 for each token of an excerpt, an excerpt at a time; Pearson with the true ones, over
    all tokens of the excerpts that were judged. With `logprobs`, each is the expectation over the alternatives."""

    logprobs: int = 0
    name: str = "simulation"

    def requests(self, case: Case) -> list[Request]:
        return [self._request(case.label, context) for context in case.contexts]

    def read(self, case: Case, answers: Sequence[Answer]) -> Score:
        guesses: list[float] = []
        values: list[float] = []
        n, states = 0, Counter[str]()
        for context, answer in zip(case.contexts, answers, strict=True):
            found = simulated(answer, len(context.values)) if answer.state == "given" else None
            if found is None:
                states["unparsed" if answer.state == "given" else answer.state] += 1
                continue
            n += 1
            guesses += found
            values += context.values
        correlation = pearson(np.array(guesses, float), np.array(values, float))
        return Score(
            scorer=self.name,
            asked=len(case.contexts),
            n=n,
            pearson=correlation,
            unparsed=states["unparsed"],
            refused=states["refused"],
            failed=states["failed"],
        )

    def _request(self, label: str, context: Context) -> Request:
        listed = "\n".join(f"{number}: {piece(token)}" for number, token in enumerate(context.pieces, 1))
        return user_says(
            f"A detector inside a language model reads a text token by token. It reacts to: {label}\n\n"
            f"These are the tokens of a text (· is a space):\n\n{listed}\n\n"
            f"How strongly does it react to each token, from 0 for not at all to {LEVELS}? Most are 0. Answer with a "
            "line for each token and nothing else: its number, a colon, and your number.",
            max_tokens=16 + 8 * len(context.pieces),
            logprobs=self.logprobs,
            opening="1:",
        )


def simulated(answer: Answer, n: int) -> list[float] | None:
    """The numbers of an answer that has a line for each of `n` tokens, in their order; else None."""
    lines = list(_LINE.finditer(answer.said))
    if [int(line["number"]) for line in lines] != list(range(1, n + 1)):
        return None
    if len([line for line in answer.said.splitlines() if line.strip()]) != n:
        return None
    if any(int(line["value"]) > LEVELS for line in lines):
        return None
    shift = len(answer.text) - len(answer.said)
    return [_expected(answer, shift + line.start("value"), int(line["value"])) for line in lines]


def _expected(answer: Answer, place: int, stated: int) -> float:
    """The mean of the numbers that could have stood at a place of an answer; without alternatives, the one there."""
    masses = _masses(answer, place) or {}
    total = sum(masses.values())
    return sum(number * mass for number, mass in masses.items()) / total if total > 0 else float(stated)


def _masses(answer: Answer, place: int) -> dict[int, float] | None:
    """How likely each whole number up to `LEVELS` was at a place of an answer's text.

    Where a tokenizer parts 10 into 1 and 0, a 1 that was said is followed by what tells them apart.
    """
    number = _spoken_at(answer, place)
    if number is None or answer.logprobs is None:
        return None
    masses: dict[int, float] = {}
    for text, logprob in answer.logprobs[number].top:
        digits = re.sub(r"\D", "", text)
        if digits.isascii() and digits and int(digits) <= LEVELS:
            masses[int(digits)] = masses.get(int(digits), 0.0) + exp(logprob)
    if re.sub(r"\D", "", answer.logprobs[number].text) == "1" and number + 1 < len(answer.logprobs):
        after: Any = answer.logprobs[number + 1].top
        total = sum(exp(logprob) for _, logprob in after)
        ten = sum(exp(logprob) for text, logprob in after if text.startswith("0")) / total if total else 0.0
        one = masses.get(1, 0.0)
        masses |= {1: one * (1 - ten), LEVELS: masses.get(LEVELS, 0.0) + one * ten}
    return masses


def _spoken_at(answer: Answer, place: int) -> int | None:
    """The token that holds a character of the answer; None where the tokens do not spell the text."""
    spoken = answer.logprobs
    if spoken is None or not "".join(each.text for each in spoken).startswith(answer.text):
        return None
    ends = np.cumsum([len(each.text) for each in spoken])
    found = int(np.searchsorted(ends, place, side="right"))
    return found if found < len(spoken) else None
