"""Who may talk to the server: the one token and how it travels, and the names by which this machine is known."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError
from thoughtscope.core.files import open_regular
from thoughtscope.server.limits import Limits

_TOKEN = re.compile(r"[!-~]{16,512}")
_MAX_TOKEN_FILE = 4096  # bytes


class UnsafeToken(ThoughtscopeError):
    """A token that is no secret: too short, or in a file that others may read."""

    code = "unsafe_token"


def new_token() -> str:
    """A token that nobody guesses: 192 random bits."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may talk to the server, and within which limits.

    There is always a token, also on the loopback interface: every user of a machine can reach that.
    Raises `UnsafeToken` for one that is too short to be a secret, or cannot stand in a header.
    """

    host: str = "127.0.0.1"
    token: str = field(default_factory=new_token, repr=False)
    allowed_hosts: frozenset[str] = frozenset()
    """Extra names a browser may use for this machine; loopback names and `host` are always allowed."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.token):
            raise UnsafeToken(
                f"The token has {len(self.token)} characters, or some that no header carries. "
                "Give 16 to 512 ASCII characters without spaces, or none: then one is made."
            )

    def knows(self, name: str) -> bool:
        """Whether `name` (a Host header without its port) may be used for this server.

        A rebound DNS name betrays itself only here. Bound to every interface, an address is as good as a name,
        since an attacker's page cannot make the browser send one.
        """
        known = {"localhost", "127.0.0.1", "::1", self.host.lower(), *self.allowed_hosts}
        if name in known:
            return True
        if is_loopback(self.host):
            return False
        return _is_address(name) or name == socket.gethostname().lower()

    def fits(self, token: str) -> bool:
        """Whether this is the token, compared in constant time."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def admits(self, headers: Headers) -> bool:
        """Whether a request carries the token as a bearer header, or a cookie that was given for it."""
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.fits(bearer.strip()):
            return True
        name, wanted = cookie_name(headers), self.cookie.encode()
        return any(
            hmac.compare_digest(value.encode(), wanted)
            for header in headers.getlist("cookie")
            for value in cookies_named(name, header)
        )

    @property
    def cookie(self) -> str:
        """What the cookie holds: made from the token, which itself is told to no other service of this host."""
        return hmac.new(self.token.encode(), b"thoughtscope cookie", hashlib.sha256).hexdigest()


def cookie_name(headers: Headers) -> str:
    """The cookie's name, by the port that the browser sees: cookies go to every port of a host, and several servers,
    also behind tunnels, must not log one another out."""
    port = urlsplit(f"//{headers.get('host', '')}").port
    return f"thoughtscope-{port or 80}"


def cookies_named(name: str, header: str) -> list[str]:
    """The values of every cookie of this name in a Cookie header. What is malformed beside them does not matter."""
    pairs = (part.partition("=") for part in header.split(";"))
    return [value.strip().strip('"') for key, _, value in pairs if key.strip() == name]


def read_token(path: Path) -> str:
    """The token in a file: its text without the white space around it.

    Raises `UnsafeToken` for what is no regular file, for one that other users may read, and for one that is too large.
    """
    try:
        with open_regular(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & 0o077:
                raise UnsafeToken(
                    f"Others may use the token file {path} (mode {stat.S_IMODE(mode):04o}). Run: chmod 600 {path}"
                )
            content = file.read(_MAX_TOKEN_FILE + 1)
    except (FileNotFoundError, CorruptArtefact) as error:
        why = error.strerror if isinstance(error, FileNotFoundError) else error
        raise UnsafeToken(f"The token file {path} cannot be opened: {why}") from None
    if len(content) > _MAX_TOKEN_FILE:
        raise UnsafeToken(f"The token file {path} is larger than {_MAX_TOKEN_FILE:,} bytes.")
    return content.decode("ascii", "replace").strip()


def host_name(header: str) -> str | None:
    """The name in a Host header, lower case, without port and brackets; None when it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    plain = not (parts.path or parts.query or parts.fragment or parts.username is not None)
    return parts.hostname if plain else None


def is_loopback(host: str) -> bool:
    """`localhost`, 127.0.0.0/8 and ::1; every other name or address counts as reachable."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
