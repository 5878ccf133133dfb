"""`ask`: requests to an assistant, once what they cost and where they go has been shown and agreed to."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from thoughtscope.assistants.estimate import BYTES_PER_TOKEN, Estimate, Prices
from thoughtscope.assistants.kept import KeptAnswers, key_of
from thoughtscope.assistants.requests import Answer, Assistant, Request
from thoughtscope.core.errors import NotAgreed, NotAnswered
from thoughtscope.core.progress import Progress, silent

Consent = Callable[[Estimate], bool]
"""Is shown what would be sent, and says whether it may be."""
FAILURES = 8
"""Failures in a row after which no more is asked."""


def only_here(estimate: Estimate) -> bool:
    """The consent of who has not been asked: only to what stays on this machine."""
    return estimate.destination.is_here


def ask(
    assistant: Assistant,
    requests: Sequence[Request],
    *,
    folder: str | os.PathLike[str] | None = None,
    prices: Prices | None = None,
    consent: Consent = only_here,
    progress: Progress = silent,
) -> list[Answer]:
    """The answer to each request. Equal requests are sent once; with `folder`, those answered before are not sent.

    Before anything is sent, `consent` is called with the `Estimate` of exactly that, once; what a busy server makes an
    assistant send again is not in it. Each answer is kept as it
    comes, so a call that was killed goes on where it was.
    Raises `NotAgreed` without consent, and `NotAnswered` after `FAILURES` failures in a row.
    """
    keys = [key_of(assistant, request) for request in requests]
    asked = dict(zip(keys, requests, strict=True))
    kept = None if folder is None else KeptAnswers(folder)
    before = {key: kept.get(assistant, request) for key, request in asked.items()} if kept else {}
    answers = {key: answer for key, answer in before.items() if answer is not None}
    waiting = [key for key in asked if key not in answers]
    sent = [asked[key] for key in waiting]
    if not sent:
        return [answers[key] for key in keys]
    estimate = estimate_of(assistant, sent, kept=len(answers), prices=prices)
    if not consent(estimate):
        raise NotAgreed(f"Nothing was sent. {estimate} Agree to it (--yes) to have it sent.")
    row = failed = 0
    progress("ask", len(answers), len(asked), failed=0.0)
    for number, answer in assistant.answers(sent):
        answers[waiting[number]] = answer
        row = 0 if answer.error is None else row + 1
        failed += answer.error is not None
        if answer.error is None and kept is not None:
            kept.keep(assistant, sent[number], answer)
        progress("ask", len(answers), len(asked), failed=float(failed))
        if row >= FAILURES:
            raise NotAnswered(
                f"{assistant.name} failed {row} times in a row, the last time by: {answer.error} "
                "What was answered before is kept where a folder was named; ask again once this is mended."
            )
    return [answers[key] for key in keys]


def estimate_of(
    assistant: Assistant, requests: Sequence[Request], *, kept: int = 0, prices: Prices | None = None
) -> Estimate:
    """What sending these requests would take. Sends nothing."""
    counted = [assistant.tokens_of(request) for request in requests]
    return Estimate(
        assistant=assistant.name,
        destination=assistant.destination,
        requests=len(requests),
        kept=kept,
        tokens_in=sum(
            _guess(request) if tokens is None else tokens
            for request, tokens in zip(requests, counted, strict=True)
        ),
        exact=None not in counted,
        tokens_out=sum(request.max_tokens for request in requests),
        prices=prices,
    )


def _guess(request: Request) -> int:
    """Tokens from bytes, where nobody can count them."""
    written = sum(len(message["content"].encode()) for message in request.messages)
    return -(-written // BYTES_PER_TOKEN)
