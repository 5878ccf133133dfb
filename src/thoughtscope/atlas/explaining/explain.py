"""`explain`: labels of features, asked of an assistant. What does not have the form that was asked for is no label.

marked        the active tokens of each excerpt are marked (as in Paulo et al. 2024)
levels        each token with its activation from 0 to 10 (as in Bills et al. 2023)
contrastive   marked excerpts, and others on which the feature is silent
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from thoughtscope.assistants import Answer, Assistant, Prices, Request, ask, only_here, user_says
from thoughtscope.assistants.asking import Consent
from thoughtscope.atlas.explaining.contexts import Context, Contexts
from thoughtscope.atlas.explaining.shown import levels, marked, marks_for, peaks, piece, plain
from thoughtscope.core.errors import ThoughtscopeError, describe_choices
from thoughtscope.core.labels import MAX_LABEL, is_plain_line
from thoughtscope.core.progress import Progress, silent

Outcome = Literal["labelled", "unparsed", "refused", "failed"]
ANSWER_TOKENS = 100
_LABEL = re.compile(
    r"^[ \t]*\**label\**[ \t]*:[ \t]*\**[ \t]*(?P<label>.*?)[ \t]*\**[ \t]*$", re.MULTILINE | re.IGNORECASE
)
_END = (
    "It may react to certain words or parts of words, to what comes before them, or to a topic, a form or a language. "
    "What do those tokens have in common? Answer with one line of at most fifteen words and nothing else, in this "
    "form:\nLabel: …"
)


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What an assistant said of a feature, and the label in it, if there is one."""

    label: str | None
    outcome: Outcome
    explainer: str
    author: str
    """The assistant's name."""
    said: str
    """The whole answer, or the error."""

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain JSON values."""
        return asdict(self)


def explain(
    assistant: Assistant,
    contexts: Sequence[Contexts],
    *,
    explainer: str = "marked",
    folder: str | os.PathLike[str] | None = None,
    prices: Prices | None = None,
    consent: Consent = only_here,
    progress: Progress = silent,
) -> list[Explanation]:
    """An explanation for the contexts of each feature. `folder`, `prices` and `consent` are those of `ask`.

    Raises `ThoughtscopeError` for an unknown explainer or a feature without contexts, and as `ask` does.
    """
    requests = [explaining_request(each, explainer) for each in contexts]
    answers = ask(assistant, requests, folder=folder, prices=prices, consent=consent, progress=progress)
    return [_explanation(answer, explainer, assistant.name) for answer in answers]


def counts_of(explanations: Sequence[Explanation]) -> dict[str, int]:
    """How many are labelled, unparsed, refused and failed."""
    found = Counter(each.outcome for each in explanations)
    return {outcome: found[outcome] for outcome in ("labelled", "unparsed", "refused", "failed")}


def explaining_request(contexts: Contexts, explainer: str = "marked") -> Request:
    """What an assistant is asked. Raises `ThoughtscopeError` for an unknown explainer or no contexts."""
    if explainer not in EXPLAINERS:
        raise ThoughtscopeError(describe_choices(explainer, EXPLAINERS, what="kind of explainer"))
    if not contexts.explaining:
        raise ThoughtscopeError(
            "A feature without active contexts cannot be explained. Leave it out, or record more text."
        )
    return user_says(
        f"{EXPLAINERS[explainer](contexts)}\n\n{_END}", max_tokens=ANSWER_TOKENS, opening="Label:"
    )


def read_label(answer: Answer) -> str | None:
    """The label in an answer: the one line that says so. None without it, with two, or with one that is no label."""
    found = [match["label"] for match in _LABEL.finditer(answer.said)]
    if len(found) != 1:
        return None
    label = " ".join(found[0].strip("\"'“”").split())
    says = any(character.isalnum() for character in label)
    return label if says and len(label) <= MAX_LABEL and is_plain_line(label) else None


def _explanation(answer: Answer, explainer: str, author: str) -> Explanation:
    label = read_label(answer) if answer.state == "given" else None
    outcome: Outcome = "failed"
    if answer.state != "failed":
        outcome = "refused" if answer.state == "refused" else "unparsed" if label is None else "labelled"
    said = answer.error or answer.refusal or answer.text
    return Explanation(label=label, outcome=outcome, explainer=explainer, author=author, said=said)


def _marked(contexts: Contexts) -> str:
    before, after = marks = marks_for(contexts.explaining)
    return (
        "A detector inside a language model reads texts token by token and reacts to some of the tokens. In these "
        f"excerpts the tokens to which it reacts stand between {before} and {after}.\n\n"
        + _listed(contexts.explaining, marks)
    )


def _contrastive(contexts: Contexts) -> str:
    silent_ones = "\n".join(f"- {plain(context.text)}" for context in contexts.contrast)
    return f"{_marked(contexts)}\n\nIn these excerpts it reacts to nothing:\n\n{silent_ones}"


def _levels(contexts: Contexts) -> str:
    largest = max(context.largest for context in contexts.explaining)
    blocks = [
        "\n".join(
            f"{piece(token)}\t{level}"
            for token, level in zip(context.pieces, levels(context, largest), strict=True)
        )
        for context in contexts.explaining
    ]
    return (
        "A detector inside a language model reads texts token by token. Each line below has a token (· is a space), a "
        "tab, and how strongly the detector reacts to it, from 0 to 10. Excerpts are parted by a line of dashes.\n\n"
        + "\n---\n".join(blocks)
    )


def _listed(contexts: Sequence[Context], marks: tuple[str, str]) -> str:
    return "\n".join(f"- {marked(context, peaks(context), marks)}" for context in contexts)


EXPLAINERS: Mapping[str, Callable[[Contexts], str]] = {
    "marked": _marked,
    "levels": _levels,
    "contrastive": _contrastive,
}
"""By name, what an assistant is shown."""
