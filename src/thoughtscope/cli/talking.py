"""A conversation at the terminal, or line by line from a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from thoughtscope.cli.answers import (
    Talk,
    Voice,
    answer_turn,
    last_tokens,
    reading_text,
    show_like,
    show_search,
    tokens_of,
    told_turned,
)
from thoughtscope.cli.console import emit, printable
from thoughtscope.cli.options import multiple_of
from thoughtscope.core.errors import ThoughtscopeError, describe_choices
from thoughtscope.microscope.answering import place_of

HELP = """\
/turn PART/INDEX=MULTIPLE   hold a feature at a multiple of its largest activation (0: off)
/off [PART/INDEX]           let one go, or all
/features                   the strongest features of the last tokens
/search WORDS               features by words
/like TEXT                  features that are strong on an example
/again                      answer the last message again; where answers are drawn, with the next seed
/new                        begin a new conversation; what is turned stays so
/quit"""


State = tuple[Voice, Talk]


def converse(voice: Voice, multiples: Mapping[str, float]) -> None:
    """Answers what is typed or piped in line by line. A mistake is told, and the conversation goes on."""
    talk = Talk(multiples=dict(multiples))
    typed = sys.stdin.isatty() and not voice.as_json
    if typed:
        print(f"Talking with {printable(voice.microscope.model.name)}. Say something, or:\n{HELP}\n")
    for line in _typed() if typed else _piped():
        if line.split()[0] == "/quit":
            return
        try:
            voice, talk = said(voice, talk, line)
        except ThoughtscopeError as error:
            _tell(voice, error)


def said(voice: Voice, talk: Talk, line: str) -> State:
    """What one line does: a command, or something that is answered. `//` stands for a slash that is said."""
    if line.startswith("/") and not line.startswith("//"):
        name, _, rest = line.partition(" ")
        if name not in COMMANDS:
            raise ThoughtscopeError(describe_choices(name, [*COMMANDS, "/quit"], what="command here"))
        return COMMANDS[name](voice, talk, rest.strip())
    return voice, answer_turn(voice, talk, line.removeprefix("/"), patient=True)


def turn(voice: Voice, talk: Talk, rest: str) -> State:
    """Holds features, beside those that are held already. None named: says which are."""
    added = dict(multiple_of(text) for text in rest.split())
    for name in added:
        place_of(voice.microscope, name)
    talk = replace(talk, multiples={**talk.multiples, **added})
    _show_turned(voice, talk)
    return voice, talk


def off(voice: Voice, talk: Talk, rest: str) -> State:
    """Lets some features go, or all."""
    names = rest.split()
    for name in names:
        if name not in talk.multiples:
            raise ThoughtscopeError(
                describe_choices(name, list(talk.multiples), what="feature that is turned")
            )
    kept = {name: value for name, value in talk.multiples.items() if names and name not in names}
    talk = replace(talk, multiples=kept)
    _show_turned(voice, talk)
    return voice, talk


def features(voice: Voice, talk: Talk, rest: str) -> State:
    """The strongest features of what was said last, the answer included."""
    if not talk.said:
        raise ThoughtscopeError("Nothing was said yet. Say something first.")
    tokens = tokens_of(voice, talk.prompt(voice, talk.plain), quiet=True)
    if voice.as_json:
        emit({"last_tokens": last_tokens(voice, tokens)})
    else:
        print(reading_text(voice, tokens))
    return voice, talk


def again(voice: Voice, talk: Talk, rest: str) -> State:
    """Answers the last message again, as features are turned now."""
    if not talk.said:
        raise ThoughtscopeError("Nothing was said yet. Say something first.")
    if voice.sampling is not None:
        assert isinstance(voice.sampling.seed, int)
        voice = replace(voice, sampling=replace(voice.sampling, seed=voice.sampling.seed + 1))
    before = replace(talk, said=talk.said[:-1], plain=talk.plain[:-1], turned=talk.turned[:-1])
    return voice, answer_turn(voice, before, talk.said[-1], patient=True)


def search(voice: Voice, talk: Talk, rest: str) -> State:
    show_search(voice, _needed(rest, "/search WORDS"))
    return voice, talk


def like(voice: Voice, talk: Talk, rest: str) -> State:
    show_like(voice, _needed(rest, "/like TEXT"))
    return voice, talk


def new(voice: Voice, talk: Talk, rest: str) -> State:
    """Nothing was said yet; what is turned stays so."""
    return voice, Talk(multiples=talk.multiples)


def explain(voice: Voice, talk: Talk, rest: str) -> State:
    if voice.as_json:
        emit({"commands": [*COMMANDS, "/quit"]})
    else:
        print(HELP)
    return voice, talk


COMMANDS: dict[str, Callable[[Voice, Talk, str], State]] = {
    "/turn": turn,
    "/off": off,
    "/features": features,
    "/search": search,
    "/like": like,
    "/again": again,
    "/new": new,
    "/help": explain,
}


def _needed(text: str, usage: str) -> str:
    if not text:
        raise ThoughtscopeError(f"Write {usage}.")
    return text


def _show_turned(voice: Voice, talk: Talk) -> None:
    if voice.as_json:
        emit({"turned": dict(talk.multiples)})
    else:
        print("Turned: " + printable(", ".join(told_turned(voice, talk.multiples)) or "nothing"))


def _tell(voice: Voice, error: ThoughtscopeError) -> None:
    """A mistake, where the conversation stands."""
    if voice.as_json:
        emit({"error": {"code": error.code, "message": str(error)}})
    else:
        print(f"thoughtscope: {printable(' '.join(str(error).split()))}", file=sys.stderr)


def _typed() -> Iterator[str]:
    """Lines as somebody types them, until Ctrl-D or Ctrl-C."""
    from rich.console import Console

    console = Console()
    while True:
        try:
            line = console.input("[bold]›[/bold] ")
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line.strip():
            yield line.strip()


def _piped() -> Iterator[str]:
    return (line.strip() for line in sys.stdin if line.strip())
