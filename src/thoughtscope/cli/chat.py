"""`thoughtscope chat`: talk to a model with its features in hand, and read both answers, as it is and turned."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

import typer

from thoughtscope.cli.console import progress_bar, require_text
from thoughtscope.cli.options import (
    Device,
    DictionaryName,
    DType,
    Folder,
    Json,
    ModelName,
    NoBrowser,
    Port,
    multiple_of,
)
from thoughtscope.core.errors import ThoughtscopeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from thoughtscope.cli.answers import Voice
    from thoughtscope.models import Sampling

TALK_TOKENS = 2048
"""Limit of a conversation's length; a model's own limit may be lower."""
TEMPERATURE, TOP_P = 0.7, 0.9


def chat(
    prompt: Annotated[
        str | None, typer.Argument(help="What you say; without it, a conversation at the terminal.")
    ] = None,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            "--feature",
            "-f",
            metavar="PART/INDEX=MULTIPLE",
            help="Hold a feature at this multiple of its largest activation: 4 turns it up, 0 off. "
            "May be repeated.",
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="The system prompt (default: the template's own).")
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", metavar="WORDS", help="List features by words.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option("--like", metavar="TEXT", help="List features that are strong on an example."),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw the answers (default: always the likeliest token).")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(min=0.01, max=100.0, help=f"With --sample (default: {TEMPERATURE}).")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0001, max=1.0, help=f"With --sample (default: {TOP_P}).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="With --sample (default: 0).")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=1000, help="Length of an answer.")] = 128,
    plain_only: Annotated[
        bool, typer.Option("--plain-only", help="Only plain text: without the model's chat template.")
    ] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Talk in the browser; a prompt is asked there.")
    ] = False,
    port: Port = 8321,
    folder: Folder = None,
    no_browser: NoBrowser = False,
    device: Device = None,
    dtype: DType = None,
    as_json: Json = False,
) -> None:
    """Answers once, or for as long as somebody asks; lists features; or opens the page."""
    multiples = dict(multiple_of(text) for text in features or ())
    drawn = sampling_of(sample, temperature, top_p, seed)
    given = {"The prompt": prompt, "--system": system, "--search": search, "--like": like}
    for option, text in given.items():
        require_text(text, option)
        if text is not None and not text.strip() and option != "--system":
            raise ThoughtscopeError(f"{option} is empty.")

    from thoughtscope import microscope
    from thoughtscope.cli.answers import Voice
    from thoughtscope.cli.serve import serve_chat
    from thoughtscope.dictionaries.named import usual

    dictionary = usual(model, talking=True) if dictionary is None else dictionary
    options: dict[str, Any] = {"device": device, "dtype": dtype, "max_tokens": TALK_TOKENS}
    if page:
        if search is not None or like is not None or plain_only:
            raise ThoughtscopeError("--page takes no --search, --like or --plain-only: all of it is there.")
        serve_chat(
            lambda: microscope.open_microscope(model, dictionary, **options),
            view_of(prompt, multiples, system, drawn, max_new_tokens),
            folder=folder,
            port=port,
            browser=not no_browser,
            as_json=as_json,
        )
        return
    with progress_bar(quiet=as_json) as progress:
        opened = microscope.open_microscope(model, dictionary, progress=progress, **options)
    voice = Voice.of(
        opened,
        plain_only=plain_only,
        system=system,
        sampling=drawn,
        max_new_tokens=max_new_tokens,
        as_json=as_json,
    )
    at_the_terminal(voice, prompt, multiples, search, like)


def at_the_terminal(
    voice: Voice, prompt: str | None, multiples: Mapping[str, float], search: str | None, like: str | None
) -> None:
    """What was asked for: lists of features, one answer, or a conversation where it is neither."""
    from thoughtscope.cli.answers import answer_once, show_like, show_search
    from thoughtscope.cli.talking import converse

    if search is not None:
        show_search(voice, search)
    if like is not None:
        show_like(voice, like)
    if prompt is not None:
        answer_once(voice, prompt, multiples)
    elif search is None and like is None:
        converse(voice, multiples)


def sampling_of(
    sample: bool, temperature: float | None, top_p: float | None, seed: int | None
) -> Sampling | None:
    """How the answers are drawn; None for the likeliest tokens. Raises `ThoughtscopeError`."""
    if not sample:
        if any(each is not None for each in (temperature, top_p, seed)):
            raise ThoughtscopeError("--temperature, --top-p and --seed go with --sample.")
        return None
    from thoughtscope.models import Sampling

    return Sampling(
        temperature=TEMPERATURE if temperature is None else temperature,
        top_p=TOP_P if top_p is None else top_p,
        seed=seed or 0,
    )


def view_of(
    prompt: str | None,
    multiples: Mapping[str, float],
    system: str | None,
    sampling: Sampling | None,
    max_new_tokens: int,
) -> str:
    """What the page's address says after the #, in the page's words."""
    view = {"n": str(max_new_tokens)}
    if multiples:
        view["f"] = ",".join(
            f"{name.replace(',', '%2C')}:{multiple:g}" for name, multiple in multiples.items()
        )
    if system is not None:
        view["s"] = system
    if sampling is not None:
        view |= {"t": str(sampling.temperature), "p": str(sampling.top_p), "seed": str(sampling.seed)}
    if prompt is not None:
        view["c"] = json.dumps([[prompt, ""]], ensure_ascii=False)
    return urlencode(view)
