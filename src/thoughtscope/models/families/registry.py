"""The table from an architecture name to the family that binds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.core.registry import Registry
from thoughtscope.models.families.facts import Family


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How the modules of one class are bound, and how a small random one is made: all that a new family states.

    `tiny(layers)` gives the fields of a small configuration that differ from the plain ones of
    `random_models.PLAIN`, at values where a mistake in the facts shows (windows that bite, caps, odd head widths).
    """

    family: str
    bind: Callable[[Any], Family]
    tiny: Callable[[int], Mapping[str, Any]] | None = None
    "None for a class that is not a model to make: one that is refused, or no class of transformers."


FAMILIES: Registry[Architecture] = Registry(
    "supported model architecture", UnsupportedModel, group="thoughtscope.families"
)
"""By the class name in `config.architectures`."""
