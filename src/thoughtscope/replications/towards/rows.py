"""`Row`: what one measurement gave for one seed; `together`: the rows of all seeds, as what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thoughtscope.replications.claims import Seen


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of one model, or of a pair of them."""

    value: float | int
    n: int
    """Of cases behind it."""
    control: float | int | None = None
    note: str = ""


def together(by_seed: Sequence[Mapping[str, Row]]) -> dict[str, Seen]:
    """By name, the rows of all seeds."""
    found = {}
    for name in by_seed[0]:
        rows = [each[name] for each in by_seed]
        controls = [float(row.control) for row in rows if row.control is not None]
        found[name] = Seen(
            values=tuple(float(row.value) for row in rows),
            n=rows[0].n,
            controls=tuple(controls) if len(controls) == len(rows) else (),
            note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
        )
    return found
