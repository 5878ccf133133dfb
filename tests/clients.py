"""Clients of a server under test, with its token."""

from __future__ import annotations

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
