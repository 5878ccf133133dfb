"""Starts uvicorn, says where, and opens the browser once the server answers."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Callable
from urllib.parse import quote

import uvicorn

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.server.app import create_app
from thoughtscope.server.security import Access
from thoughtscope.server.session import Session


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


def address(host: str, port: int, *, token: str | None = None, slug: str | None = None) -> str:
    """The link to open. The token is asked for once; a cookie carries it from then on."""
    name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    query = f"?token={quote(token)}" if token else ""
    view = f"#g={quote(slug)}" if slug else ""
    return f"http://{name}:{port}/{query}{view}"


def serve_session(
    session: Session,
    access: Access,
    *,
    port: int,
    browser: bool = False,
    slug: str | None = None,
    announce: Callable[[str], None] = print,
) -> None:
    """Serves until interrupted. `announce` gets the address once the server listens.

    Raises what loading the model raised, if it fails: a server without its model has no use.
    """
    listener = listen(access.host, port)
    port = listener.getsockname()[1]
    link = address(access.host, port, token=access.token, slug=slug)
    config = uvicorn.Config(
        create_app(session, access),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config, started_hook=lambda: _announce(link, announce, browser))
    if session.loading is not None:
        session.loading.add_done_callback(lambda loading: server.stop_if_failed(loading.exception()))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # the usual way to stop a server
    finally:
        listener.close()
        session.close()
    if session.loading is not None and session.loading.done():
        error = session.loading.exception()
        if error is not None:
            raise error


def _announce(link: str, announce: Callable[[str], None], browser: bool) -> None:
    announce(link)
    if browser:
        threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()


class _Server(uvicorn.Server):
    """uvicorn's server, with a word when it listens and an end when the model cannot be loaded."""

    def __init__(self, config: uvicorn.Config, *, started_hook: Callable[[], None]) -> None:
        super().__init__(config)
        self._started_hook = started_hook

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started_hook()

    def stop_if_failed(self, error: BaseException | None) -> None:
        if error is not None:
            self.should_exit = True
