"""`Turn`: who said what in a conversation, and which tokens of the prompt are that."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from thoughtscope.core.errors import ThoughtscopeError

Message = Mapping[str, str]
"""`{"role": ..., "content": ...}`: who speaks (`system`, `user`, `assistant`, …) and what."""
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
TEMPLATE = "template"
"""The role of tokens that a chat template wrote, and that cannot be said to belong to any one speaker."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The tokens `start` to `end` (exclusive) of a prompt, counted from its first real token.

    A conversation's turns stand one after the other and leave no token out. Of a turn's tokens, `content` are those
    that hold what was said; all others are the template's own. A token that holds bytes of both counts as content.
    """

    role: str
    text: str
    """What was said, as the template put it into the prompt; empty where it cannot be found there."""
    start: int
    end: int
    content: tuple[int, int]
    """First token and end of what was said; equal where no token holds any of it."""
    added: bool = False
    """True for what nobody asked for: a system prompt that the template brings along, and `TEMPLATE`."""

    def __post_init__(self) -> None:
        first, last = self.content
        if not 0 <= self.start <= first <= last <= self.end:
            raise ThoughtscopeError(
                f"A turn's content lies inside of it: got tokens {self.start} to {self.end}, content {first} to {last}."
            )

    def says(self, position: int) -> bool:
        """True for a token that holds something of what was said."""
        return self.content[0] <= position < self.content[1]

    def to_json(self) -> dict[str, Any]:
        """The turn as plain JSON values; `from_json` is the exact inverse."""
        return asdict(self) | {"content": list(self.content)}

    @classmethod
    def from_json(cls, data: Any) -> Turn:
        """Reads what `to_json` wrote. Raises `ThoughtscopeError` for anything else."""
        if not isinstance(data, Mapping) or set(data) != set(cls.__dataclass_fields__):
            raise ThoughtscopeError(f"A turn has the fields {', '.join(cls.__dataclass_fields__)}.")
        content = data["content"]
        numbers = [data["start"], data["end"], *(content if isinstance(content, Sequence) else ())]
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in numbers)
        texts = isinstance(data["role"], str) and isinstance(data["text"], str)
        if len(numbers) != 4 or not whole or not texts or not isinstance(data["added"], bool):
            raise ThoughtscopeError("A turn has a role and a text, and whole numbers for its tokens.")
        return cls(**{**data, "content": (content[0], content[1])})


def conversation(chat: Any) -> list[Message]:
    """The messages of a conversation; a text is one message of the user's.

    Raises `ThoughtscopeError` for anything but a role and a text in each message.
    """
    if isinstance(chat, str):
        return [{"role": "user", "content": chat}]
    found = list(chat) if isinstance(chat, Sequence) else []
    if not found:
        raise ThoughtscopeError("The conversation is empty. Give at least one message.")
    for number, message in enumerate(found):
        name = f"Message {number} of the conversation"
        if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
            raise ThoughtscopeError(f'{name} must be {{"role": ..., "content": ...}} and nothing else.')
        if not isinstance(message["role"], str) or not _ROLE.fullmatch(message["role"]):
            raise ThoughtscopeError(
                f"{name}: a role is a word such as system, user or assistant; got {message['role']!r}."
            )
        if not isinstance(message["content"], str):
            raise ThoughtscopeError(
                f"{name}: the content must be a text; got {type(message['content']).__name__}. "
                "Images, tools and parts are not supported."
            )
    return [dict(message) for message in found]


def check_turns(turns: Sequence[Turn], length: int) -> None:
    """Raises `ThoughtscopeError` unless the turns, if any, follow one another over all `length` tokens."""
    at = 0
    for turn in turns:
        if turn.start != at:
            raise ThoughtscopeError(f"A turn begins at token {turn.start}, the one before it ends at {at}.")
        at = turn.end
    if turns and at != length:
        raise ThoughtscopeError(f"The turns end at token {at} of {length}.")


def turn_at(turns: Sequence[Turn], position: int) -> Turn | None:
    """The turn that a token belongs to; None in a plain text."""
    return next((turn for turn in turns if turn.start <= position < turn.end), None)


def messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The conversation as it was asked for: without what the template added, and without an answer not yet begun."""
    said = [turn for turn in turns if not turn.added]
    if said and said[-1].role == "assistant" and not said[-1].text:
        said.pop()
    return [{"role": turn.role, "content": turn.text} for turn in said]


def heading(turns: Sequence[Turn]) -> str:
    """A conversation in one line, for titles and lists: `user: …`, without what the template added.

    >>> heading([Turn(role="user", text="Hi there", start=0, end=3, content=(1, 2))])
    'user: Hi there'
    """
    return " · ".join(f"{each['role']}: {' '.join(each['content'].split())}" for each in messages(turns))
