"""`Replication`: a paper whose claims are tried again here; `replicate`: its recipe run, and every claim judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.registry import Registry
from thoughtscope.replications.claims import Claim, Outcome, Seen, Verdict, judge


@runtime_checkable
class Recipe(Protocol):
    """Does a paper's experiments: what was seen, by the name of the claim that it decides."""

    def __call__(self, *, quick: bool, progress: Progress) -> Mapping[str, Seen]: ...


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
    details: Mapping[str, Any] = field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        """The verdicts as plain JSON values."""
        rows = [verdict.to_json() for verdict in self.verdicts]
        return {"name": self.name, "paper": self.paper, "quick": self.quick, "verdicts": rows, **self.details}


REPLICATIONS: Registry[Replication] = Registry(
    "replication", ThoughtscopeError, group="thoughtscope.replications"
)
"""By name. Installed packages add theirs."""


def replicate(name: str, *, quick: bool = False, progress: Progress = silent) -> Replicated:
    """Runs a paper's recipe and judges each of its claims. Raises `ThoughtscopeError` for a name that is not known,
    and for a measurement that no claim asked for."""
    chosen = REPLICATIONS[name]
    claims, seen = chosen.claims(), chosen.recipe(quick=quick, progress=progress)
    unasked = sorted(set(seen) - {claim.name for claim in claims})
    if unasked:
        raise ThoughtscopeError(f"The recipe of {name} measured {unasked}, of which its claims know nothing.")
    verdicts = tuple(judge(claim, seen.get(claim.name)) for claim in claims)
    return Replicated(name=name, paper=chosen.paper, quick=quick, verdicts=verdicts)
