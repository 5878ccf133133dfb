"""What a command is asked about: a text, or a conversation in a few options or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from thoughtscope.cli.console import shell_quoted
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.turns import Message, conversation
from thoughtscope.microscope.tracing import Prompt

CHAT_BYTES = 1_000_000

Chat = Annotated[
    str | None,
    typer.Option(
        "--chat",
        metavar="MESSAGE|CHAT.json",
        help="What you say to a chat model, put in its template; or a file with a list of messages "
        '({"role", "content"}); where the last is the assistant\'s, the answer goes on from it.',
    ),
]
System = Annotated[
    str | None, typer.Option("--system", help="With --chat: the system prompt (default: the template's own).")
]
Answer = Annotated[str | None, typer.Option("--answer", help="With --chat: how the answer begins.")]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A prompt, and how a command line says it."""

    prompt: Prompt
    words: str


def asked(text: str | None, chat: str | None, system: str | None = None, answer: str | None = None) -> Asked:
    """The prompt that was given, in one of the two ways. Raises `typer.BadParameter` for none or both."""
    if (text is None) == (chat is None):
        raise typer.BadParameter("give a prompt or --chat, one of the two.")
    if text is not None:
        if system is not None or answer is not None:
            raise ThoughtscopeError("--system and --answer go with --chat; a plain prompt has no speakers.")
        return Asked(prompt=text, words=shell_quoted(text))
    assert chat is not None
    options = [("--chat", chat), ("--system", system), ("--answer", answer)]
    words = " ".join(f"{name} {shell_quoted(value)}" for name, value in options if value is not None)
    said = _messages(Path(chat)) if chat.lower().endswith(".json") else conversation(chat)
    first = [] if system is None else [{"role": "system", "content": system}]
    last = [] if answer is None else [{"role": "assistant", "content": answer}]
    return Asked(prompt=conversation([*first, *said, *last]), words=words)


def _messages(path: Path) -> list[Message]:
    """The messages of a file. Raises `ThoughtscopeError` for one that holds anything else."""
    from thoughtscope.core.files import read_file
    from thoughtscope.core.parsing import strict_json

    try:
        found = strict_json(read_file(path, limit=CHAT_BYTES), str(path))
    except FileNotFoundError:
        raise ThoughtscopeError(
            f'There is no file "{path}". --chat takes a message, or a .json file of messages.'
        ) from None
    if not isinstance(found, list):
        raise ThoughtscopeError(f'{path} must hold a list of messages: [{{"role": ..., "content": ...}}, …].')
    return conversation(found)
