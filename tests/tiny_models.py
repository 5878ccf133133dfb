"""Tiny random models of the real classes of all families, shared by the tests."""

from __future__ import annotations

from typing import Any

from thoughtscope.models import Model
from thoughtscope.models.random_models import random_families, random_model

__all__ = ["FAMILIES", "VARIANTS", "tiny_model", "tiny_variant"]

FAMILIES = tuple(random_families())
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    "gpt_neox_sequential": ("gpt_neox", {"use_parallel_residual": False}),
}
"Every family, and NeoX with sequential blocks too: label → (family, overrides)."


def tiny_model(family: str, *, layers: int = 2, seed: int = 0, **overrides: Any) -> Model:
    """A random model of one of `FAMILIES`: d_model 16, 4 heads, vocabulary 260 with a byte-level tokenizer."""
    return random_model(family, layers=layers, seed=seed, **overrides)


def tiny_variant(label: str, *, layers: int = 2, seed: int = 0, **overrides: Any) -> Model:
    """The model of a label in `VARIANTS`."""
    family, extra = VARIANTS[label]
    return tiny_model(family, layers=layers, seed=seed, **{**extra, **overrides})
