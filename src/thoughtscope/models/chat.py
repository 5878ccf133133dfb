"""A conversation as a model's chat template writes it, and where in that text each message stands.

A template is a program of the checkpoint: it may trim what is said, move it, or add to it. So nothing is guessed from
its source. Each message is rendered again with a mark in its place; what stands before and after the mark is the
template's, and where the conversation itself has the same text before and after, what is between is the message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.turns import TEMPLATE, Message, Turn, conversation

if TYPE_CHECKING:
    from thoughtscope.models.model import Model

Span = tuple[int, int]
_Render = Callable[[Sequence[Message]], str]


@dataclass(frozen=True, kw_only=True)
class Said:
    """A turn in a rendered text, by characters; `content` is None where it cannot be found."""

    role: str
    words: str
    """What is said, as it stands in the text; where it cannot be found there, as it was asked for."""
    start: int
    end: int
    content: Span | None
    added: bool = False


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as one text, and the turns that it is made of, one after the other."""

    text: str
    turns: tuple[Said, ...]

    @property
    def contents(self) -> list[Span]:
        """Where somebody's words stand, as characters; a system prompt of the template's own is not among them."""
        return [turn.content for turn in self.turns if turn.content is not None and not turn.added]


def render(model: Model, chat: Any) -> Rendered:
    """The conversation by the model's own template, ready for the assistant's answer, with its turns.

    Where the last message is the assistant's, the template is left open after it, so that the answer goes on from
    there. Raises `ThoughtscopeError` for a model without a template, for messages that the template refuses, and for
    an answer that cannot be left open.
    """
    messages = conversation(chat)
    begun = messages[-1]["role"] == "assistant"

    def write(some: Sequence[Message]) -> str:
        return _apply(model, some, prompt=not begun)

    def closed(some: Sequence[Message]) -> str:
        return _apply(model, some, prompt=False)

    whole = text = write(messages)
    contents = [_content(write, messages, number, whole) for number in range(len(messages))]
    starts = _starts(closed, messages, whole, contents)
    if begun:
        if contents[-1] is None:
            raise ThoughtscopeError(
                f"The chat template of {model.name} does not keep the assistant's last message as it is, so the answer "
                "cannot go on from it. End the conversation with another message."
            )
        text = whole[: contents[-1][1]]
        starts.append(len(text))
    else:
        starts.append(_closing(closed, messages, whole, contents))
    turns = [*_added_system(write, closed, messages, whole), *_spoken(messages, whole, contents, starts)]
    answer = starts[-1]
    if answer is not None and answer < len(text):
        turns.append(
            Said(role="assistant", words="", start=answer, end=len(text), content=(len(text), len(text)))
        )
    return Rendered(text=text, turns=tuple(_tiled(turns, len(text))))


def turns_over(rendered: Rendered, offsets: Sequence[Span]) -> tuple[Turn, ...]:
    """The turns of a rendered conversation by token, from the tokens' byte offsets in its text."""
    said = [_in_bytes(rendered.text, turn) for turn in rendered.turns]
    owners: list[int] = []
    for span in offsets:
        owners.append(max(_owner(said, span), owners[-1] if owners else 0))
    turns, at = [], 0
    for number, turn in enumerate(said):
        end = at + owners.count(number)
        inside = [at + i for i, span in enumerate(offsets[at:end]) if _meets(span, turn.content)]
        # What is not said yet stands at the end; what cannot be found, at the start.
        empty = end if turn.content is not None and turn.content[0] == turn.end else at
        content = (inside[0], inside[-1] + 1) if inside else (empty, empty)
        if end > at or not turn.added:
            turns.append(
                Turn(role=turn.role, text=turn.words, start=at, end=end, content=content, added=turn.added)
            )
        at = end
    return tuple(turns)


def _apply(model: Model, messages: Sequence[Message], prompt: bool) -> str:
    if not model.has_chat_template:
        raise ThoughtscopeError(
            f"{model.name} has no chat template, so it takes no conversation. Give it a plain text."
        )
    try:
        return model.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=prompt
        )
    except Exception as error:  # a template is a program of the checkpoint: any exception is its refusal
        raise ThoughtscopeError(
            f"The chat template of {model.name} refuses these messages: {error}"
        ) from error


def _tried(write: _Render, messages: Sequence[Message]) -> str | None:
    """What the template makes of other messages than those asked for; None where it refuses them."""
    try:
        return write(messages)
    except ThoughtscopeError:
        return None


def _marked(write: _Render, messages: Sequence[Message], number: int, text: str) -> tuple[str, str] | None:
    """What the template writes before and after one message's content; None where that is not one place."""
    mark = next(mark for mark in (f"\ue000{i}\ue001" for i in range(len(text) + 1)) if mark not in text)
    marked = [*messages]
    marked[number] = {**messages[number], "content": mark}
    around = (_tried(write, marked) or "").split(mark)
    return (around[0], around[1]) if len(around) == 2 else None


def _between(text: str, around: tuple[str, str] | None) -> Span | None:
    """Where `text` differs from a rendering that has a mark there, if that is the only difference."""
    if around is None or len(around[0]) + len(around[1]) > len(text):
        return None
    if not text.startswith(around[0]) or not text.endswith(around[1]):
        return None
    return len(around[0]), len(text) - len(around[1])


def _content(write: _Render, messages: Sequence[Message], number: int, text: str) -> Span | None:
    """Where one message's content stands in the rendered text, whole or trimmed; None where that is not sure."""
    found = _between(text, _marked(write, messages, number, text))
    if found is None:
        return None
    content, middle = messages[number]["content"], text[slice(*found)]
    if middle in content:
        return found
    for words in (content, content.strip()):  # the template has put something beside it
        if words and middle.count(words) == 1:
            start = found[0] + middle.index(words)
            return start, start + len(words)
    return None


def _starts(
    write: _Render, messages: Sequence[Message], text: str, contents: Sequence[Span | None]
) -> list[int | None]:
    """Where each turn begins: where the conversation up to it ends, if the template writes that the same way."""
    starts: list[int | None] = [0]
    for number in range(1, len(messages)):
        earlier = _tried(write, messages[:number])
        least = max((span[1] for span in contents[:number] if span is not None), default=0)
        most = min((span[0] for span in contents[number:] if span is not None), default=len(text))
        same = earlier is not None and text.startswith(earlier) and least <= len(earlier) <= most
        starts.append(len(earlier) if earlier is not None and same else None)
    return starts


def _closing(
    write: _Render, messages: Sequence[Message], text: str, contents: Sequence[Span | None]
) -> int | None:
    """Where the last message's turn ends and the answer's begins; None where the template does not say."""
    closed = _tried(write, messages)
    least = max((span[1] for span in contents if span is not None), default=0)
    return len(closed) if closed is not None and text.startswith(closed) and least <= len(closed) else None


def _added_system(write: _Render, closed: _Render, messages: Sequence[Message], text: str) -> list[Said]:
    """The system prompt that the template brings along: what stands where another one would stand, if anything."""
    if messages[0]["role"] == "system":
        return []
    asked: list[Message] = [{"role": "system", "content": ""}, *messages]
    found = _between(text, _marked(write, asked, 0, text))
    alone = _marked(closed, asked[:1], 0, text)
    if found is None or alone is None:
        return []
    words = text[slice(*found)]
    turn = f"{alone[0]}{words}{alone[1]}"
    # Without words of its own, a turn shows by its name alone; what stands before any conversation is no turn.
    if not text.startswith(turn) or (not words and "system" not in turn.lower()):
        return []
    return [Said(role="system", words=words, start=0, end=len(turn), content=found, added=True)]


def _spoken(
    messages: Sequence[Message],
    text: str,
    contents: Sequence[Span | None],
    starts: Sequence[int | None],
) -> list[Said]:
    """The messages' turns. One whose beginning or end is not known reaches over its content, or over nothing."""
    turns: list[Said] = []
    for message, content, start, end in zip(messages, contents, starts, starts[1:], strict=False):
        first = start if start is not None or content is None else content[0]
        last = end if end is not None or content is None else content[1]
        if first is None or last is None:
            first = last = turns[-1].end if turns else 0
        words = message["content"] if content is None else text[slice(*content)]
        turns.append(Said(role=message["role"], words=words, start=first, end=last, content=content))
    return turns


def _tiled(turns: Sequence[Said], length: int) -> list[Said]:
    """The turns with `TEMPLATE` in the gaps between them; the first message's begins where an added one ends."""
    tiled: list[Said] = []
    at = 0

    def fill(end: int) -> None:
        if at < end:
            tiled.append(Said(role=TEMPLATE, words="", start=at, end=end, content=None, added=True))

    for turn in turns:
        start = max(at, turn.start)
        fill(start)
        at = max(start, turn.end)
        tiled.append(replace(turn, start=start, end=at))
    fill(length)
    return tiled


def _in_bytes(text: str, turn: Said) -> Said:
    def at(character: int) -> int:
        return len(text[:character].encode())

    content = None if turn.content is None else (at(turn.content[0]), at(turn.content[1]))
    return replace(turn, start=at(turn.start), end=at(turn.end), content=content)


def _owner(said: Sequence[Said], span: Span) -> int:
    """The turn of a token: the first whose content it holds bytes of, else the one in which it begins."""
    for number, turn in enumerate(said):
        if _meets(span, turn.content):
            return number
    return next((number for number, turn in enumerate(said) if span[0] < turn.end), len(said) - 1)


def _meets(span: Span, content: Span | None) -> bool:
    return content is not None and span[0] < content[1] and span[1] > content[0]
