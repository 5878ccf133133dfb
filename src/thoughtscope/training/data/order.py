"""What decides the order of rows: random numbers that are the same everywhere."""

from __future__ import annotations

import hashlib

import torch

LANES = 8
"""Shares into which documents are dealt: at least as many as processes that will ever read them together."""


def generator(*what: int | str) -> torch.Generator:
    """Random numbers that depend on `what` alone, on every machine."""
    digest = hashlib.sha256(repr(what).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
