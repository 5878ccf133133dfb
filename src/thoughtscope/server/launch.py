"""Starts uvicorn, says where, and opens the browser once the server answers."""

from __future__ import annotations

import asyncio
import html
import os
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import uvicorn

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.server.access import Access
from thoughtscope.server.app import create_app
from thoughtscope.server.connections import Connection, room
from thoughtscope.server.limits import Limits
from thoughtscope.server.session import Session

BACKLOG = 4096
"""Connections that the system holds until they are accepted."""
AT_A_TIME = 32
"""Connections that are accepted before the oldest idle ones are closed for them."""
OPENING = 60.0
"""Seconds that a browser has to read the file that leads it here."""


class PortTaken(ThoughtscopeError):
    """The port is in use, or may not be used."""

    code = "port_taken"


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises `PortTaken`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host, port))
    except (OSError, OverflowError) as error:
        server.close()
        raise PortTaken(
            f"Cannot listen on {host}:{port} ({error}). Give another --port; 0 takes any free one."
        ) from None
    return server


def address(
    host: str,
    port: int,
    *,
    token: str | None = None,
    slug: str | None = None,
    path: str = "",
    view: str = "",
) -> str:
    """The link to open: a graph, or a `view` of the page at `path`, as its address says it after the #.

    The token is asked for once; a cookie carries it from then on.
    """
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    query = f"?token={quote(token, safe='')}" if token else ""
    view = f"g={quote(slug)}" if slug else view
    return f"http://{name}:{port}/{path}{query}{'#' if view else ''}{view}"


def serve_session(
    session: Session,
    access: Access,
    *,
    port: int,
    browser: bool = False,
    slug: str | None = None,
    path: str = "",
    view: str = "",
    announce: Callable[[str], None] = print,
) -> None:
    """Serves until interrupted. `announce` gets the address, with the token, once the server listens.

    Raises what loading the model raised, if it fails: a server without its model has no use.
    """
    listener = listen(access.host, port)
    link = address(
        access.host, listener.getsockname()[1], token=access.token, slug=slug, path=path, view=view
    )
    ended = threading.Event()
    opener = threading.Thread(target=open_privately, args=(link, ended), daemon=True)

    def started() -> None:
        announce(link)
        if browser:
            opener.start()

    server = Server(create_app(session, access), access.limits, started=started)
    if session.loading is not None:
        session.loading.add_done_callback(lambda loading: server.stop_if_failed(loading.exception()))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # the usual way to stop a server
    finally:
        ended.set()
        listener.close()
        session.close()
        if opener.is_alive():
            opener.join(2)
    if session.loading is not None and session.loading.done():
        error = session.loading.exception()
        if error is not None:
            raise error


def open_privately(link: str, ended: threading.Event) -> None:
    """Opens the browser on a file that leads to `link`, for at most a minute.

    The link holds the token, and all users of a machine can read the arguments of a browser that is started with it;
    the file can be read by its owner alone.
    """
    with tempfile.TemporaryDirectory(prefix="thoughtscope-") as folder:
        page = Path(folder) / "open.html"
        target = html.escape(link)
        with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(
                '<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
                f'<meta http-equiv="refresh" content="0; url={target}"><title>thoughtscope</title>'
                f'<p><a href="{target}">thoughtscope</a></p>\n'
            )
        webbrowser.open(page.as_uri())
        ended.wait(OPENING)


class Server(uvicorn.Server):
    """uvicorn's server, with a word when it listens, bounds on its connections, and an end when the model cannot be
    loaded."""

    def __init__(
        self, app: Callable[..., object], limits: Limits, *, started: Callable[[], None] = lambda: None
    ) -> None:
        limits = replace(limits, max_connections=min(limits.max_connections, room()))
        config = uvicorn.Config(
            app,
            http=partial(Connection, limits=limits),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            backlog=AT_A_TIME,
            h11_max_incomplete_event_size=limits.max_head,
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)
        self._say_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)  # uvicorn gives the system the number that is accepted at a time
        if self.started:
            self._say_started()

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0:  # twice a second
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                connection.check(now)  # type: ignore[union-attr]
        return await super().on_tick(counter)

    def stop_if_failed(self, error: BaseException | None) -> None:
        if error is not None:
            self.should_exit = True
