"""A text of letters with features whose activity is known, and an assistant that answers by a rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from tests.tiny_microscope import shared_model
from thoughtscope.assistants import Answer, Destination, Request
from thoughtscope.atlas import Recording
from thoughtscope.atlas.columns import by_feature
from thoughtscope.atlas.explaining import (
    Case,
    Context,
    Contexts,
    Excerpts,
    contexts_of,
    firing_together,
)
from thoughtscope.atlas.recording import Plan, Stretch

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
