"""Clients of a server under test, with its token."""

from __future__ import annotations

import json
from typing import Any

from starlette.testclient import TestClient

from thoughtscope.server.access import Access
from thoughtscope.server.app import create_app
from thoughtscope.server.session import Session

TOKEN = "a-secret-of-some-length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def client_of(session: Session, *, base_url: str = "http://localhost", **options: Any) -> TestClient:
    """A client that sends the token; what the server fails at is an answer, not an exception of the test."""
    app = create_app(session, Access(token=TOKEN), **options)
    return TestClient(app, base_url=base_url, headers=BEARER, raise_server_exceptions=False)


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The kind and the data of each event of a stream."""
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]
