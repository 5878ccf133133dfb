"""`Request`, `Answer`, and `Assistant`: whatever takes the one and gives the other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from thoughtscope.assistants.estimate import Destination
from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.turns import Message, conversation

_THOUGHT = re.compile(r"\s*<think>.*?</think>", flags=re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A conversation that waits for its answer, and how that is drawn. Raises `ThoughtscopeError` for bad values."""

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token."""
    seed: int = 0
    logprobs: int = 0
    """How many alternatives are wanted at each token of the answer; 0 for none."""
    opening: str = ""
    """How the answer begins, where the assistant can be made to go on from it; elsewhere the prompt has to say it."""

    def __post_init__(self) -> None:
        conversation(list(self.messages))
        if self.max_tokens < 1 or self.temperature < 0 or self.logprobs < 0:
            raise ThoughtscopeError(
                "A request needs max_tokens of 1 or more, and a temperature and logprobs of 0 or more; got "
                f"{self.max_tokens}, {self.temperature} and {self.logprobs}."
            )

    def to_json(self) -> dict[str, Any]:
        """The request as plain JSON values: what a kept answer is found by."""
        return asdict(self) | {"messages": [dict(message) for message in self.messages]}


def user_says(text: str, *, max_tokens: int, logprobs: int = 0, opening: str = "") -> Request:
    """A request of one message of the user's: the form that every chat template takes."""
    said = ({"role": "user", "content": text},)
    return Request(messages=said, max_tokens=max_tokens, logprobs=logprobs, opening=opening)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A token of an answer: its text, its log-probability (nats), and the likeliest tokens there with theirs."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back: a text, or `error` where nothing did. `refusal` is the assistant's own word that it refuses."""

    text: str = ""
    """With the request's opening, where the answer was made to begin so."""
    tokens_in: int | None = None
    tokens_out: int | None = None
    """None where the assistant does not count."""
    logprobs: tuple[Spoken, ...] | None = None
    refusal: str | None = None
    cut: bool = False
    """True where `max_tokens` ended the answer."""
    error: str | None = None

    @property
    def said(self) -> str:
        """The text without a leading `<think>` block, in which some models reason."""
        return _THOUGHT.sub("", self.text, count=1) if _THOUGHT.match(self.text) else self.text

    @property
    def state(self) -> str:
        """`failed`, `refused` or `given`."""
        return "failed" if self.error is not None else "refused" if self.refusal is not None else "given"

    def to_json(self) -> dict[str, Any]:
        """The answer as plain JSON values; `from_json` is the exact inverse."""
        spoken = None if self.logprobs is None else [asdict(each) for each in self.logprobs]
        return asdict(self) | {"logprobs": spoken}

    @classmethod
    def from_json(cls, data: Any) -> Answer:
        """Reads what `to_json` wrote. Raises `CorruptArtefact` for anything else."""
        try:
            spoken = data["logprobs"]
            read = None if spoken is None else tuple(_spoken(each) for each in spoken)
            answer = cls(**{**data, "logprobs": read})
        except (TypeError, KeyError, ValueError) as error:
            raise CorruptArtefact(f"This is no answer of an assistant: {error!r:.200}.") from None
        texts = all(isinstance(each, str | None) for each in (answer.refusal, answer.error))
        counts = all(isinstance(each, int | None) for each in (answer.tokens_in, answer.tokens_out))
        if not (isinstance(answer.text, str) and isinstance(answer.cut, bool) and texts and counts):
            raise CorruptArtefact("This is no answer of an assistant: a field has another type.")
        return answer


def _spoken(data: Mapping[str, Any]) -> Spoken:
    top = tuple((str(text), float(min(0.0, logprob))) for text, logprob in data["top"])
    return Spoken(text=str(data["text"]), logprob=float(min(0.0, data["logprob"])), top=top)


@runtime_checkable
class Assistant(Protocol):
    """A language model that answers requests. `Endpoint` and `Local` are two."""

    @property
    def name(self) -> str:
        """Which model, and where, as a person reads it."""

    @property
    def destination(self) -> Destination:
        """Where requests go."""

    def identity(self) -> Mapping[str, Any]:
        """What decides an answer beside the request, as plain JSON values; never a secret."""

    def tokens_of(self, request: Request) -> int | None:
        """Tokens of a request by the assistant's own tokenizer; None where it is not known."""

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Each request's number and its answer, as they come. What fails for one request is its `Answer.error`.

        Raises `NotAnswered` for what no other request can be answered after either.
        """
