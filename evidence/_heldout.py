"""What the specimen's four held-out tasks share: ask, judge, and judge once more against other prompts' answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from _claim import Measured
from _specimen import specimen

Case = TypeVar("Case")


def held_out(
    cases: Sequence[Case],
    *,
    tokens: int,
    right: Callable[[Case, str], bool],
    answer: Callable[[Case], Hashable],
    group: Callable[[Case], str] | None = None,
) -> Measured:
    """The share of held-out prompts that the specimen's greedy continuation gets wholly right.

    `control` judges each continuation against the answers of the next prompt (of the same group) that has other ones:
    what a model reaches that ignores the prompt. `details` has the halves: the training was tuned on "validation" only.
    """
    from specimens.score import continuations

    model = specimen()
    texts = continuations(model.module, model.tokenizer, [case.prompt for case in cases], tokens)
    verdicts = [right(case, text) for case, text in zip(cases, texts, strict=True)]
    swapped = [right(other(cases, i, answer, group), text) for i, text in enumerate(texts)]
    splits = {
        case.half: [v for c, v in zip(cases, verdicts, strict=True) if c.half == case.half] for case in cases
    }
    if group:
        splits |= {
            group(case): [v for c, v in zip(cases, verdicts, strict=True) if group(c) == group(case)]
            for case in cases
        }
    missed = [
        {"prompt": case.prompt, "said": text, "wanted": answer(case)}
        for case, text, verdict in zip(cases, texts, verdicts, strict=True)
        if not verdict
    ]
    details = {name: {"value": share(found), "n": len(found)} for name, found in sorted(splits.items())}
    return Measured(
        value=share(verdicts), n=len(cases), control=share(swapped), details=details | {"missed": missed[:20]}
    )


def other(
    cases: Sequence[Case], index: int, answer: Callable[[Case], Hashable], group: Callable[[Case], str] | None
) -> Case:
    """The next case, in a circle, whose answer is another one (within the group)."""
    mine = cases[index]
    for step in range(1, len(cases)):
        one = cases[(index + step) % len(cases)]
        if answer(one) != answer(mine) and (group is None or group(one) == group(mine)):
            return one
    raise ValueError("all prompts have the same answer")


def share(verdicts: Sequence[bool]) -> float:
    return round(sum(verdicts) / len(verdicts), 4)
