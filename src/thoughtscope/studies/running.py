"""`run_study`: every prompt of a study traced and tested, with random features of equal strength beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import InvalidPlan
from thoughtscope.core.progress import Progress, silent
from thoughtscope.studies.study import Study

if TYPE_CHECKING:
    from thoughtscope.microscope import Microscope


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prompt of a study: what was answered, and what became of the answer."""

    prompt: str
    answer: str
    after: str
    """The answer once the chosen nodes are changed."""
    after_control: str | None
    """The answer once random features of equal strength are changed instead; None where none could be drawn."""
    changed: int
    """Nodes that were changed; 0 where the study chose none, and nothing was tested."""
    predicted: float | None
    """The change of the answer's centred logit that the graph's edges imply."""
    measured: float
    measured_control: float | None

    @property
    def tested(self) -> bool:
        return self.changed > 0

    @property
    def turned(self) -> bool:
        """Whether the answer became another."""
        return self.after != self.answer


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a study found, case by case."""

    question: str
    model_name: str
    dictionary_name: str
    seed: int
    cases: tuple[Case, ...]

    @property
    def tested(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.tested)

    @property
    def turned(self) -> float:
        """Share of the tested prompts whose answer became another; NaN without any."""
        return sum(case.turned for case in self.tested) / len(self.tested) if self.tested else float("nan")

    @property
    def turned_control(self) -> float:
        """The same share under random features of equal strength; NaN without any."""
        drawn = [case for case in self.tested if case.after_control is not None]
        return (
            sum(case.after_control != case.answer for case in drawn) / len(drawn) if drawn else float("nan")
        )

    def to_json(self) -> dict[str, Any]:
        """The findings as plain JSON values; `from_json` is the exact inverse."""
        return asdict(self) | {"cases": [asdict(case) for case in self.cases]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Findings:
        return cls(**{**data, "cases": tuple(Case(**case) for case in data["cases"])})


def run_study(
    study: Study, microscope: Microscope, *, seed: int = 0, progress: Progress = silent
) -> Findings:
    """Traces and tests every prompt. Raises what `trace`, `plan` and `intervene` raise."""
    cases = []
    for done, prompt in enumerate(study.prompts):
        progress("study", done, len(study.prompts))
        cases.append(_case(study, microscope, prompt, seed + done))
    progress("study", len(study.prompts), len(study.prompts))
    return Findings(
        question=study.question,
        model_name=microscope.model.name,
        dictionary_name=microscope.dictionary.name,
        seed=seed,
        cases=tuple(cases),
    )


def _case(study: Study, microscope: Microscope, prompt: str, seed: int) -> Case:
    from thoughtscope.dictionaries import encode
    from thoughtscope.interventions import Plan, intervene_many, plan, random_control
    from thoughtscope.microscope import tokens_of, trace
    from thoughtscope.models import capture

    model, dictionary = microscope.model, microscope.dictionary
    graph, tokens = trace(microscope, prompt), tokens_of(microscope, prompt)
    chosen = list(study.choose(graph))
    made = plan(graph, chosen, scale=study.scale) if chosen else Plan()
    plans = [made]
    if chosen:
        features = encode(dictionary, capture(model, tokens, dictionary.sites))
        try:
            plans.append(random_control(dictionary, made, features, seed=seed))
        except InvalidPlan:  # a part too small to draw others from
            pass
    outcomes = intervene_many(model, dictionary, tokens, plans, changes=0)
    test, control = outcomes[0], outcomes[1] if len(outcomes) > 1 else None
    predicted = None if made.prediction is None else made.prediction.of(test.answer_id)
    return Case(
        prompt=prompt,
        answer=test.answer,
        after=test.after.tokens[0],
        after_control=None if control is None else control.after.tokens[0],
        changed=len(chosen),
        predicted=predicted,
        measured=test.logit_change,
        measured_control=None if control is None else control.logit_change,
    )
