"""`Estimate`: where requests would go, how many, and what they would cost at most, before any is sent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from thoughtscope.core.errors import ThoughtscopeError

BYTES_PER_TOKEN = 4
"""Of English text, about; where the assistant's own tokenizer is not at hand."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where requests go: a host, and whether that is this machine."""

    host: str
    is_here: bool


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a million tokens cost, in and out, as the user states it. Raises `ThoughtscopeError` for other numbers."""

    tokens_in: float
    tokens_out: float

    def __post_init__(self) -> None:
        for price in (self.tokens_in, self.tokens_out):
            if not (isfinite(price) and price >= 0):
                raise ThoughtscopeError(f"A price of a million tokens is a number of 0 or more; got {price}.")

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """What so many tokens cost."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What would be sent. `str` is one sentence for people."""

    assistant: str
    destination: Destination
    requests: int
    """Those that would be sent now."""
    kept: int
    """Those whose answers are kept from before."""
    tokens_in: int
    exact: bool
    """True where `tokens_in` was counted by the assistant's own tokenizer."""
    tokens_out: int
    """At most: every answer as long as it may get."""
    prices: Prices | None = None

    @property
    def cost(self) -> float | None:
        """At most, in the currency of the prices; None without prices."""
        return None if self.prices is None else self.prices.of(self.tokens_in, self.tokens_out)

    def to_json(self) -> dict[str, Any]:
        """The estimate as plain JSON values."""
        return asdict(self) | {"cost": self.cost}

    def __str__(self) -> str:
        where = "this machine" if self.destination.is_here else f"{self.destination.host}, not this machine"
        counted = (
            f"{self.tokens_in:,}" if self.exact else f"about {self.tokens_in:,} (bytes / {BYTES_PER_TOKEN})"
        )
        about = "" if self.exact else "about "
        cost = (
            "no prices given" if self.cost is None else f"at most {about}{self.cost:,.4f} at the prices given"
        )
        requests = "1 request" if self.requests == 1 else f"{self.requests:,} requests"
        return (
            f"{requests} to {self.assistant} ({where}): {counted} tokens in, at most "
            f"{self.tokens_out:,} out; {cost}; {self.kept:,} answered before."
        )
