"""The table from an architecture name to the function that binds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from thoughtscope.core.errors import UnsupportedModel
from thoughtscope.core.registry import Registry
from thoughtscope.models.families.facts import Family

FAMILIES: Registry[Callable[[Any], Family]] = Registry(
    "supported model architecture", UnsupportedModel, group="thoughtscope.families"
)
