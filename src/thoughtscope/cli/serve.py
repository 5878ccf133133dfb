"""`thoughtscope serve`, `demo` and `trace --open`: the page on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thoughtscope.cli.asking import Answer, Chat, System, asked
from thoughtscope.cli.console import emit, printable, warn
from thoughtscope.cli.options import Device, DictionaryName, DType, Folder, Json, ModelName, NoBrowser, Port
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.microscope.tracing import Prompt

if TYPE_CHECKING:
    from thoughtscope.microscope import Microscope
    from thoughtscope.server.access import Access

DEMO_PROMPT = "Fact: the capital of the state containing Dallas is"
TUNNEL = "Who can read along has the token; an SSH tunnel to 127.0.0.1 is safer."


def serve(
    file: Annotated[
        Path | None, typer.Argument(metavar="GRAPH.json", help="A graph file of any tool to open.")
    ] = None,
    model: ModelName = "specimen",
    dictionary: DictionaryName = None,
    prompt: Annotated[
        str | None, typer.Option("--trace", help="Trace this prompt at the start and open it.")
    ] = None,
    chat: Chat = None,
    system: System = None,
    answer: Answer = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="Show graph files only.")] = False,
    host: Annotated[
        str, typer.Option(help="The interface to listen on; 0.0.0.0 for all of them.")
    ] = "127.0.0.1",
    port: Port = 8321,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file of yours with the token that clients send (default: THOUGHTSCOPE_TOKEN, or a new one)."
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name by which browsers may reach this machine.")
    ] = None,
    folder: Folder = None,
    device: Device = None,
    dtype: DType = None,
    no_browser: NoBrowser = False,
    as_json: Json = False,
) -> None:
    """Serves; the model loads, and the prompt is traced, while the server already answers."""
    from thoughtscope.microscope import open_microscope
    from thoughtscope.server.access import is_loopback
    from thoughtscope.server.launch import serve_session

    logging.basicConfig(level=logging.WARNING, format="thoughtscope: %(message)s")
    access = _access(host, allow_host or [], token_file)
    if not is_loopback(host):
        warn([f"{host}: other machines can reach it, and HTTP is not encrypted. {TUNNEL}"], as_json=as_json)
    load = None if no_model else (lambda: open_microscope(model, dictionary, device=device, dtype=dtype))
    plain = prompt is None and chat is None and system is None and answer is None
    if file is not None and not plain:
        raise ThoughtscopeError("Give a graph file, --trace or --chat, one of them.")
    first = None if plain else asked(prompt, chat, system, answer).prompt
    session, slug = _session(load, folder, first, file)
    serve_session(session, access, port=port, browser=not no_browser, slug=slug, announce=_announcer(as_json))


def demo(
    port: Port = 8321, folder: Folder = None, no_browser: NoBrowser = False, as_json: Json = False
) -> None:
    """The two-hop question on the specimen."""
    serve(prompt=DEMO_PROMPT, port=port, folder=folder, no_browser=no_browser, as_json=as_json)


def serve_traced(
    microscope: Microscope, graph: Any, *, folder: Path | None, port: int, as_json: bool
) -> None:
    """Serves a microscope that is already open, showing a graph that is already traced."""
    from thoughtscope.microscope import WorkFolder, keep
    from thoughtscope.server.launch import serve_session
    from thoughtscope.server.session import Session

    work = WorkFolder(folder)
    slug = keep(work, graph)
    session = Session(lambda: microscope, folder=work)
    access = _access("127.0.0.1", [], None)
    serve_session(session, access, port=port, browser=True, slug=slug, announce=_announcer(as_json))


def serve_chat(
    load: Callable[[], Microscope],
    view: str,
    *,
    folder: Path | None,
    port: int,
    browser: bool,
    as_json: bool,
) -> None:
    """Serves the page on which one talks; `view` is what its address says after the #."""
    from thoughtscope.microscope import WorkFolder
    from thoughtscope.server.launch import serve_session
    from thoughtscope.server.session import Session

    logging.basicConfig(level=logging.WARNING, format="thoughtscope: %(message)s")
    session = Session(load, folder=WorkFolder(folder))
    access = _access("127.0.0.1", [], None)
    announce = _announcer(as_json)
    serve_session(session, access, port=port, browser=browser, path="chat", view=view, announce=announce)


def _access(host: str, names: list[str], token_file: Path | None) -> Access:
    """Who may ask. The token never stands on a command line, which every user of the machine can read."""
    from thoughtscope.server.access import Access, new_token, read_token

    given = os.environ.get("THOUGHTSCOPE_TOKEN")
    token = read_token(token_file) if token_file is not None else given or new_token()
    return Access(host=host, token=token, allowed_hosts=frozenset(name.lower() for name in names))


def _session(
    load: Callable[[], Microscope] | None, folder: Path | None, prompt: Prompt | None, file: Path | None
) -> tuple[Any, str | None]:
    """A session that opens `file`, or first traces `prompt`, once it is loaded, under a slug that is known at once."""
    from thoughtscope.microscope import WorkFolder, keep_file, slug_of
    from thoughtscope.server.session import Session

    work = WorkFolder(folder)
    if file is not None:
        from thoughtscope.graphs import checked_file

        slug = keep_file(work, checked_file(file))
        return Session(load, folder=work), slug
    session = Session(load, folder=work)
    if prompt is None or load is None:
        return session, None
    slug = slug_of(prompt if isinstance(prompt, str) else " ".join(said["content"] for said in prompt))
    session.trace_at_start(prompt, slug)
    return session, slug


def _announcer(as_json: bool) -> Callable[[str], None]:
    def announce(link: str) -> None:
        if as_json:
            emit({"url": link})
        else:
            print(f"thoughtscope serves at  {printable(link)}\nStop it with Ctrl-C.", flush=True)

    return announce
