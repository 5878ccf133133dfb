"""How much a client may send, and how long it may take over it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what one client can hold of the server: bytes, seconds, connections."""

    max_body: int = 1_000_000
    """Bytes; a graph upload may be larger."""
    max_graph: int = 64_000_000
    """Bytes of an uploaded graph file."""
    max_uploads: int = 4
    """Graph files that are read and checked at a time; a further one is refused as busy."""
    max_head: int = 32_768
    """Bytes of a request's line and headers."""
    head_seconds: float = 10.0
    """For a request's line and headers, from the start of the connection."""
    body_seconds: float = 10.0
    """For a body, and on top of them a second for every `body_rate` bytes that came."""
    body_rate: float = 50_000.0
    unread_seconds: float = 30.0
    """For a client that no longer reads what it asked for."""
    max_connections: int = 1_000
    """Fewer where the process may not open as many files (`launch.room`)."""

    def body_time(self, received: int) -> float:
        """Seconds that a body may have taken when `received` bytes of it are here."""
        return self.body_seconds + received / self.body_rate
