"""Which routes answer somebody without the token: every route, every method, with credentials that do not fit."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _claim import Measured, main

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
BASE = "http://127.0.0.1:8321"
READ = ("GET", "HEAD")
NAMES = {"slug": "a", "layer": "0", "index": "0", "number": "0", "part": "0", "scan": "a", "name": "a"}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One request: what is asked of which route, and what is shown for it."""

    route: str
    method: str
    path: str
    credential: str
    headers: dict[str, str]


def measure(seed: int) -> Measured:
    """The routes are those of the application's own table, whatever is added to it. Nothing is drawn at random."""
    from starlette.testclient import TestClient

    from thoughtscope.microscope import WorkFolder
    from thoughtscope.server import Session, create_app
    from thoughtscope.server.access import Access

    with tempfile.TemporaryDirectory() as folder:
        access = Access()
        session = Session(None, folder=WorkFolder(Path(folder)))
        app = create_app(session, access)

        client = TestClient(app, base_url=BASE, raise_server_exceptions=False)

        def status(probe: Probe) -> int:
            headers = {name: value.encode("latin-1") for name, value in probe.headers.items()}
            return client.request(
                probe.method, probe.path, headers=headers, follow_redirects=False
            ).status_code

        asked = list(probes(app, wrong(access)))
        right = {"the token": {"Authorization": f"Bearer {access.token}"}}
        with client:  # one event loop for all
            answered = [(probe, status(probe)) for probe in asked]
            let_in = [status(probe) != 401 for probe in probes(app, right)]
        session.close()
    open_to_all = [(probe, code) for probe, code in answered if code != 401]
    unnamed = [pair for pair in open_to_all if not is_named(pair[0])]
    details = {
        "routes": len({probe.route for probe in asked}),
        "methods": len(METHODS),
        "credentials": sorted({probe.credential for probe in asked}),
        "open": sorted({f"{probe.method} {probe.path}" for probe, _ in open_to_all}),
        "unnamed": [f"{probe.method} {probe.path} ({probe.credential}): {code}" for probe, code in unnamed],
        "statuses": dict(Counter(code for _, code in answered)),
    }
    routes = {(probe.route, probe.method) for probe, _ in unnamed}
    control = {"share answered with the token": sum(let_in) / len(let_in), "n": len(let_in)}
    return Measured(value=len(routes), n=len(asked), control=control, details=details)


def probes(app: Any, credentials: dict[str, dict[str, str]]) -> Iterator[Probe]:
    """Every route of the application's table, with every method and every credential."""
    for route in app.routes:
        paths = (
            ["/app.js", "/no-such-file.js", "/api/no-such-route"]
            if ":path" in route.path
            else [filled(route.path)]
        )
        for path in paths:
            for method in METHODS:
                for name, headers in credentials.items():
                    yield Probe(route=route.path, method=method, path=path, credential=name, headers=headers)


def filled(path: str) -> str:
    return re.sub(r"{(\w+)}", lambda match: NAMES[match[1]], path)


def wrong(access: Any) -> dict[str, dict[str, str]]:
    """What does not fit: nothing, something else, the right thing in the wrong place, and what breaks parsers."""
    return {
        "none": {},
        "wrong": {"Authorization": "Bearer " + "x" * 32},
        "empty": {"Authorization": "Bearer ", "Cookie": "thoughtscope-8321="},
        "another scheme": {"Authorization": f"Basic {access.token}"},
        "another port's cookie": {"Cookie": f"thoughtscope-8322={access.cookie}"},
        "the token as the cookie": {"Cookie": f"thoughtscope-8321={access.token}"},
        "odd cookie": {"Cookie": 'a[b]=1; ="; ;;thoughtscope-8321; é=\xff; x=' + "y" * 4000},
    }


def is_named(probe: Probe) -> bool:
    """The exceptions: /health, the page's own files, and the login, which answers 422 to a body without a token."""
    if probe.method in READ:
        return probe.path in ("/", "/chat", "/atlas", "/health", "/app.js")
    return (probe.method, probe.path) == ("POST", "/login")


if __name__ == "__main__":
    main(
        measure,
        claim="Routes and methods that answer anything but 401 without the token, except /health, the page's files and "
        "its login (control: the share of the same requests that is answered with it).",
    )
