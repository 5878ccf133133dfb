"""Features that were read or found, as they travel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thoughtscope import microscope
from thoughtscope.microscope import Microscope, Readings, Strength
from thoughtscope.server.streams import conversation_json


def found_json(opened: Microscope, text: str, n: int) -> dict[str, Any]:
    """The features that `text` finds."""
    return {"features": [match.to_json() for match in microscope.search(opened, text, n=n)]}


def like_json(found: Sequence[Strength]) -> dict[str, Any]:
    """Features, each with its strongest token."""
    return {"features": [each.found_json() for each in found]}


def readings_json(found: Readings) -> dict[str, Any]:
    """The tokens, what is known of every feature that is named, and the strongest features by token."""
    return {
        **conversation_json(found.tokens),
        "features": {name: feature.to_json() for name, feature in found.features.items()},
        "at": [[each.to_json() for each in here] for here in found.at],
    }
