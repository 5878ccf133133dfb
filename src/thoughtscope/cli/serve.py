"""`thoughtscope serve`, `demo` and `trace --open`: the page on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thoughtscope.cli.console import emit, printable

if TYPE_CHECKING:
    from thoughtscope.server.microscope import Microscope

DEMO_PROMPT = "Fact: the capital of the state containing Dallas is"


def serve(
    *,
    model: str,
    dictionary: str | None,
    prompt: str | None,
    no_model: bool,
    host: str,
    port: int,
    token: str | None,
    allow_hosts: list[str],
    folder: Path | None,
    device: str | None,
    dtype: str | None,
    browser: bool,
    as_json: bool,
) -> None:
    """Serves; the model loads, and the prompt is traced, while the server already answers."""
    from thoughtscope.server.launch import serve_session
    from thoughtscope.server.microscope import open_microscope
    from thoughtscope.server.security import Access

    logging.basicConfig(level=logging.WARNING, format="thoughtscope: %(message)s")
    access = Access(host=host, token=token, allowed_hosts=frozenset(name.lower() for name in allow_hosts))
    load = None if no_model else (lambda: open_microscope(model, dictionary, device=device, dtype=dtype))
    session, slug = _session(load, folder, prompt)
    serve_session(session, access, port=port, browser=browser, slug=slug, announce=_announcer(as_json))


def demo(*, port: int, folder: Path | None, browser: bool, as_json: bool) -> None:
    """The two-hop question on the specimen."""
    serve(
        model="specimen", dictionary=None, prompt=DEMO_PROMPT, no_model=False, host="127.0.0.1", port=port, token=None,
        allow_hosts=[], folder=folder, device=None, dtype=None, browser=browser, as_json=as_json,
    )  # fmt: skip


def serve_traced(
    microscope: Microscope, graph: Any, *, folder: Path | None, port: int, as_json: bool
) -> None:
    """Serves a microscope that is already open, showing a graph that is already traced."""
    from thoughtscope.server.folder import WorkFolder, slug_of
    from thoughtscope.server.launch import serve_session
    from thoughtscope.server.security import Access
    from thoughtscope.server.session import Session
    from thoughtscope.server.verbs import keep

    work = WorkFolder(folder)
    slug = keep(microscope, work, graph, slug_of(graph.prompt))
    session = Session(lambda: microscope, folder=work)
    serve_session(session, Access(), port=port, browser=True, slug=slug, announce=_announcer(as_json))


def _session(
    load: Callable[[], Microscope] | None, folder: Path | None, prompt: str | None
) -> tuple[Any, str | None]:
    """A session whose first job, after loading, is to trace `prompt` under a slug that is known at once."""
    from thoughtscope.server.folder import WorkFolder, slug_of
    from thoughtscope.server.session import Session

    work = WorkFolder(folder)
    session = Session(load, folder=work)
    if prompt is None or load is None:
        return session, None
    slug = slug_of(prompt)
    session.trace_at_start(prompt, slug)
    return session, slug


def _announcer(as_json: bool) -> Callable[[str], None]:
    def announce(link: str) -> None:
        if as_json:
            emit({"url": link})
        else:
            print(f"thoughtscope serves at  {printable(link)}\nStop it with Ctrl-C.", flush=True)

    return announce
