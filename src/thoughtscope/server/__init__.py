"""The verbs over HTTP, for the page and for other viewers. Nothing heavy is imported before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thoughtscope.server.app import create_app as create_app
    from thoughtscope.server.session import Session as Session

__all__ = ["Session", "create_app"]


def __getattr__(name: str) -> object:
    if name == "create_app":
        from thoughtscope.server.app import create_app

        return create_app
    if name == "Session":
        from thoughtscope.server.session import Session

        return Session
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
