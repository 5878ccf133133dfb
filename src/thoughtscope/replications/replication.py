"""`Replication`: a paper whose claims are tried again here; `replicate`: its recipe run, and every claim judged.

folder/
  verdicts.json    every claim with its verdict, and what was seen beyond them
  report.html      the same to read, with figures
  …                what the recipe keeps, so that the next run need not make it again: models, dictionaries
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import atomic_write_text, writing
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.registry import Registry
from thoughtscope.replications.claims import Claim, Outcome, Seen, Verdict, judge
from thoughtscope.reports.verdicts import Figure, verdicts_page

VERDICTS, REPORT = "verdicts.json", "report.html"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a recipe found."""

    seen: Mapping[str, Seen]
    """By the name of the claim that it decides."""
    figures: tuple[Figure, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Everything else, JSON-able."""


@runtime_checkable
class Recipe(Protocol):
    """Does a paper's experiments. What took long to make is kept in `folder`, and read where it is there already."""

    def __call__(self, *, quick: bool, folder: Path | None, progress: Progress) -> Measured: ...


@dataclass(frozen=True, kw_only=True)
class Replication:
    """A paper, its claims, and what measures them."""

    paper: str
    """Authors, title, year."""
    claims: Callable[[], tuple[Claim, ...]]
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Replicated:
    """All verdicts of a paper."""

    name: str
    paper: str
    quick: bool
    """Whether models and samples were the small ones, which show that it runs, not what is true."""
    verdicts: tuple[Verdict, ...]
    figures: tuple[Figure, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """The verdicts as plain JSON values, NaN as null."""
        return {
            "name": self.name,
            "paper": self.paper,
            "quick": self.quick,
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "figures": [figure.to_json() for figure in self.figures],
            "details": dict(self.details),
        }

    @property
    def html(self) -> str:
        """The report as text."""
        return verdicts_page(self.to_json(), self.figures)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Writes verdicts and report into a folder, each as a whole or not at all; the report's path."""
        home = Path(folder)
        with writing(home):
            home.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False, indent=1)
        atomic_write_text(home / VERDICTS, text + "\n")
        atomic_write_text(home / REPORT, self.html)
        return home / REPORT


REPLICATIONS: Registry[Replication] = Registry(
    "replication", ThoughtscopeError, group="thoughtscope.replications"
)
"""By name. Installed packages add theirs."""


def replicate(
    name: str,
    *,
    quick: bool = False,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Replicated:
    """Runs a paper's recipe and judges each of its claims; with `folder`, what is found and made is kept there.

    Raises `ThoughtscopeError` for a name that is not known, and for a measurement that no claim asked for.
    """
    chosen = REPLICATIONS[name]
    claims = chosen.claims()
    home = None if folder is None else Path(folder)
    measured = chosen.recipe(quick=quick, folder=home, progress=progress)
    unasked = sorted(set(measured.seen) - {claim.name for claim in claims})
    if unasked:
        raise ThoughtscopeError(f"The recipe of {name} measured {unasked}, of which its claims know nothing.")
    replicated = Replicated(
        name=name,
        paper=chosen.paper,
        quick=quick,
        verdicts=tuple(judge(claim, measured.seen.get(claim.name)) for claim in claims),
        figures=measured.figures,
        details=measured.details,
    )
    if home is not None:
        replicated.save(home)
    return replicated
