"""`pareto_page`: dictionaries by how sparse and how faithful they are, as one HTML file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import thoughtscope
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import atomic_write_text
from thoughtscope.dictionaries import Dictionary, DictionaryScores
from thoughtscope.reports.report import render


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """One dictionary's place: its name, what kind it is, how many features it has, and its scores."""

    name: str
    kind: str
    n_features: int
    scores: DictionaryScores

    @classmethod
    def of(cls, dictionary: Dictionary, scores: DictionaryScores, *, name: str | None = None) -> ParetoPoint:
        """The place of a dictionary, under its own name or another."""
        return cls(
            name=name or dictionary.name,
            kind=dictionary.kind,
            n_features=dictionary.n_features,
            scores=scores,
        )

    def to_json(self) -> dict[str, Any]:
        """The point as plain JSON values; `from_json` is the exact inverse."""
        return {
            "name": self.name,
            "kind": self.kind,
            "n_features": self.n_features,
            "scores": self.scores.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ParetoPoint:
        return cls(
            name=data["name"],
            kind=data["kind"],
            n_features=data["n_features"],
            scores=DictionaryScores.from_json(data["scores"]),
        )


@dataclass(frozen=True, kw_only=True)
class ParetoPage:
    """A finished page and the points that it shows."""

    title: str
    points: tuple[ParetoPoint, ...]

    @property
    def data(self) -> dict[str, Any]:
        """What the page shows, as plain JSON values."""
        points = [point.to_json() for point in self.points]
        return {"version": thoughtscope.__version__, "title": self.title, "points": points}

    @property
    def html(self) -> str:
        """The whole page as text."""
        return render(self.title, self.data, page="pareto.js")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page to `path` and its data beside it as `.data.json`; each as a whole or not at all."""
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ThoughtscopeError(f'A page is an HTML file; "{path}" should end in .html.')
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.data, ensure_ascii=False, allow_nan=False, indent=1)
        atomic_write_text(path.with_suffix(".data.json"), text + "\n")
        atomic_write_text(path, self.html)
        return path


def pareto_page(points: Sequence[ParetoPoint], *, title: str = "Sparsity against fidelity") -> ParetoPage:
    """A figure of the dictionaries with the front of those that no other beats, and a table of all their figures.

    Any two figures can be chosen for the axes. Raises `ThoughtscopeError` where there is no dictionary to show.
    """
    if not points:
        raise ThoughtscopeError("There is no dictionary to show. Give at least one with its scores.")
    return ParetoPage(title=title, points=tuple(points))
