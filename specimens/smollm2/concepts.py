"""Concepts with the words that mention them: what features are chosen for, and what steered answers are searched for.

The lists were written down before any dictionary of the model was looked at, and have not been changed since.
"""

from __future__ import annotations

import csv
from pathlib import Path

TABLE = Path(__file__).parent / "tables" / "concepts.tsv"


def read_concepts() -> dict[str, tuple[str, ...]]:
    """By concept, its words. One counts in any case, and with an s behind it."""
    with TABLE.open(encoding="utf-8", newline="") as rows:
        return {
            row["concept"]: tuple(row["words"].split(", ")) for row in csv.DictReader(rows, delimiter="\t")
        }


CONCEPTS = read_concepts()
