"""Answers at the terminal: as the model is and with features turned, as they come; and tables of features."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from thoughtscope.cli.console import emit, printable, quoted, shell_quoted, warn
from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from thoughtscope.core.turns import Message
    from thoughtscope.interventions import FeatureEdit
    from thoughtscope.microscope import Known, Microscope, Prompt
    from thoughtscope.models import Sampling, Tokens

LAST = 6
"""Tokens of a prompt whose features are shown."""
EACH = 3
"""Features of each of them."""
LISTED = 12
"""Features that a search lists."""
BAR = 10
WIDEST = 100


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who answers, and how: what stays the same while one talks."""

    microscope: Microscope
    chats: bool
    """Whether what is said is put in the model's chat template."""
    system: str | None
    sampling: Sampling | None
    max_new_tokens: int
    as_json: bool

    @classmethod
    def of(cls, opened: Microscope, *, plain_only: bool, system: str | None, **options: Any) -> Voice:
        """With the chat template where the model has one and nobody wants plain text. Raises `ThoughtscopeError`."""
        chats = opened.model.has_chat_template and not plain_only
        if system is not None and not chats:
            raise ThoughtscopeError(
                "--system needs a model with a chat template; a plain text has no speakers."
            )
        return cls(microscope=opened, chats=chats, system=system, **options)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said to one prompt, and what it was said to."""

    tokens: Tokens
    text: str
    ended: bool
    """Whether the model ended it, and not the limit or somebody's Ctrl-C."""

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "ended": self.ended}


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation so far, as it is and turned: what the user says is common to both, answers are each one's own."""

    said: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    """The answers of the model as it is, one fewer than `said` before the last is given."""
    turned: tuple[str, ...] = ()
    multiples: Mapping[str, float] = field(default_factory=dict)
    """Features that are turned, `PART/INDEX`, in multiples of their largest activation."""

    def prompt(self, voice: Voice, answers: Sequence[str]) -> Prompt:
        """What the model reads of one side, whose next answer goes on from it.

        Without a template there are no turns: the last text alone, and its answer where there is one.
        """
        if not voice.chats:
            return "".join([self.said[-1], *answers[len(self.said) - 1 :]])
        messages: list[Message] = []
        if voice.system is not None:
            messages.append({"role": "system", "content": voice.system})
        for number, text in enumerate(self.said):
            messages.append({"role": "user", "content": text})
            if number < len(answers):
                messages.append({"role": "assistant", "content": answers[number]})
        return messages


def answer_once(voice: Voice, text: str, multiples: Mapping[str, float]) -> None:
    """One turn: the answer as it is, the turned one below it, then the features of the prompt's last tokens."""
    answer_turn(voice, Talk(multiples=multiples), text)


def answer_turn(voice: Voice, talk: Talk, text: str, *, patient: bool = False) -> Talk:
    """The talk with `text` and its answers, printed as they come; `patient` lets Ctrl-C end one answer alone."""
    asked = replace(talk, said=(*talk.said, text))
    plain_tokens = tokens_of(voice, asked.prompt(voice, talk.plain))
    edits = edits_of(voice, talk.multiples, plain_tokens)
    if edits:
        _rule(voice, "as it is")
    plain = _answered(voice, plain_tokens, (), patient=patient)
    turned = None
    if edits:
        _rule(voice, "turned: " + ", ".join(told_turned(voice, talk.multiples)))
        tokens = tokens_of(voice, asked.prompt(voice, talk.turned), quiet=True)
        turned = _answered(voice, tokens, edits, patient=patient)
    _report(voice, asked, edits, plain, turned)
    answers = (*talk.plain, plain.text)
    # While nothing is turned, there is one side.
    return replace(asked, plain=answers, turned=answers if turned is None else (*talk.turned, turned.text))


def tokens_of(voice: Voice, prompt: Prompt, *, quiet: bool = False) -> Tokens:
    """The tokens of a prompt; what speaks against it is told."""
    from thoughtscope import microscope

    with microscope.heard() as said:
        tokens = microscope.tokens_of(voice.microscope, prompt)
    warn(said, as_json=voice.as_json or quiet)
    return tokens


def edits_of(voice: Voice, multiples: Mapping[str, float], tokens: Tokens) -> Sequence[FeatureEdit]:
    """What turns the features; see `microscope.turned`."""
    from thoughtscope import microscope

    return microscope.turned(voice.microscope, multiples, prompt=tokens)


def told_turned(voice: Voice, multiples: Mapping[str, float]) -> list[str]:
    """Each turned feature in words: `3/1042 (Texas) ×4`."""
    told = []
    for name, multiple in multiples.items():
        part, _, index = name.rpartition("/")
        label = known_of(voice, part, int(index)).label
        named = f"{name} ({label})" if label else name
        told.append(f"{named} off" if multiple == 0 else f"{named} ×{multiple:g}")
    return told


def known_of(voice: Voice, part: str, index: int) -> Known:
    from thoughtscope import microscope

    return microscope.known(voice.microscope, part, index)


def _answered(voice: Voice, tokens: Tokens, edits: Sequence[FeatureEdit], *, patient: bool) -> Answer:
    """One answer, printed as it comes."""
    from thoughtscope import microscope

    steps = microscope.answer(
        voice.microscope,
        tokens,
        [edit.to_json() for edit in edits],
        max_new_tokens=voice.max_new_tokens,
        sampling=voice.sampling,
    )
    text, ended = "", False
    try:
        for step in steps:
            text, ended = text + step.texts[0], step.ended[0]
            _say(voice, printable_lines(step.texts[0]))
    except KeyboardInterrupt:
        if not patient:
            raise
        _say(voice, " …")
    _say(voice, "\n")
    return Answer(tokens=tokens, text=text, ended=ended)


def printable_lines(text: str) -> str:
    """`printable`, but line ends stay."""
    return "\n".join(map(printable, text.split("\n")))


def _say(voice: Voice, text: str) -> None:
    if not voice.as_json:
        print(text, end="", flush=True)


def _rule(voice: Voice, title: str) -> None:
    width = min(WIDEST, shutil.get_terminal_size().columns)
    title = printable(title)
    _say(voice, f"\n── {title} " + "─" * max(3, width - len(title) - 4) + "\n")


# --- features ----------------------------------------------------------------------------------------------------


def _report(
    voice: Voice, talk: Talk, edits: Sequence[FeatureEdit], plain: Answer, turned: Answer | None
) -> None:
    """After the answers: with `--json` one object, else the features of the prompt's last tokens."""
    if not voice.as_json:
        _say(voice, "\n" + reading_text(voice, plain.tokens) + "\n")
        return
    features = [
        {**known_of(voice, edit.part, edit.index).to_json(), "multiple": multiple, "value": edit.value}
        for edit, multiple in zip(edits, talk.multiples.values(), strict=True)
    ]
    prompt = talk.prompt(voice, talk.plain)
    sampling = voice.sampling
    emit(
        {
            "prompt" if isinstance(prompt, str) else "chat": prompt,
            "model": voice.microscope.model.name,
            "dictionary": voice.microscope.dictionary.name,
            "sampling": None
            if sampling is None
            else {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed},
            "features": features,
            "plain": plain.to_json(),
            "turned": None if turned is None else turned.to_json(),
            "last_tokens": last_tokens(voice, plain.tokens),
        }
    )


def last_tokens(voice: Voice, tokens: Tokens) -> list[dict[str, Any]]:
    """The prompt's last tokens with their strongest features: of a conversation, the last that somebody said, and the
    one after which the answer begins."""
    from thoughtscope import microscope

    found = microscope.readings(voice.microscope, tokens, n=EACH)
    return [
        {
            "position": position,
            "token": tokens.pieces[0][position],
            "features": [
                {**each.feature.to_json(), "value": each.value, "share": each.share}
                for each in found.at[position]
            ],
        }
        for position in _last(tokens)
    ]


def _last(tokens: Tokens) -> list[int]:
    end = len(tokens.pieces[0])
    turns = [turn for turn in (tokens.turns[0] if tokens.turns else ()) if not turn.added]
    said = [position for turn in turns for position in range(*turn.content)]
    if not said:
        return list(range(max(0, end - LAST), end))
    return sorted({*said[-LAST + 1 :], end - 1})


def reading_text(voice: Voice, tokens: Tokens) -> str:
    """The strongest features of the prompt's last tokens as a table."""
    rows, measured = [], set()
    for here in last_tokens(voice, tokens):
        shown = quoted(here["token"])
        for each in here["features"] or [None]:
            line = "" if each is None else f"{_feature(each):<18} {_bar(each['share'])}  {_name(each)}"
            rows.append(f"  {shown:<18} {line}".rstrip())
            shown = ""
            measured |= set() if each is None else {each["measured"]}
    head = "Strongest features of the last tokens, by the share of each one's largest activation"
    if "here" in measured:
        head += "\n(of features without examples: the largest on this prompt)"
    return "\n".join([head, *rows])


def show_search(voice: Voice, words: str) -> None:
    """Prints the features that some words find."""
    from thoughtscope import microscope

    found = microscope.search(voice.microscope, words, n=LISTED)
    if voice.as_json:
        emit({"search": words, "features": [match.to_json() for match in found]})
        return
    rows = [
        f"  {match.feature.id:<18} {_name(match.feature.to_json())}"
        + (f"   · {printable(match.what)}" if match.matched == "token" else "")
        for match in found
    ]
    none = f"No feature's label, examples or outputs have {quoted(words)}."
    if voice.microscope.bank is None:
        none = "This dictionary has no examples, so only features that you have named are found by words; see --like."
    _list(voice, f"Features with {quoted(words)}", rows, none, found[0].feature if found else None)


def show_like(voice: Voice, text: str) -> None:
    """Prints the features that are strong on an example."""
    from thoughtscope import microscope

    tokens = tokens_of(voice, text)
    found = microscope.like(voice.microscope, tokens, n=LISTED)
    if voice.as_json:
        emit({"like": text, "features": [each.found_json() for each in found]})
        return
    lines = [
        f"  {each.feature.id:<18} {_bar(each.share)} at {quoted(tokens.pieces[0][each.position]):<14} "
        f"{_name(each.feature.to_json())}"
        for each in found
    ]
    head = f"Features that are strong on {quoted(text)}"
    _list(voice, head, lines, "No feature is active on it.", found[0].feature if found else None)


def _list(voice: Voice, head: str, rows: Sequence[str], none: str, first: Known | None) -> None:
    lines = [head, *rows] if rows else [none]
    if first is not None:
        lines += ["", f"Turn one up:  --feature {shell_quoted(first.id)}=4"]
    _say(voice, "\n".join(lines) + "\n")


def _feature(told: Mapping[str, Any]) -> str:
    return f"{told['part']}/{told['index']}"


def _name(told: Mapping[str, Any]) -> str:
    """What a feature is called; where nothing, the tokens of its examples."""
    return printable(told["label"] or ", ".join(token.strip() for token in told["tokens"]) or "·")


def _bar(share: float) -> str:
    """A share as a bar with its number, of one width."""
    full = round(BAR * min(max(share, 0.0), 1.0))
    return f"{'█' * full}{'·' * (BAR - full)} {100 * share:4.0f} %"
