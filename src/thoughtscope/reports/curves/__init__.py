"""`build_curves`: the figures of trainings against tokens, as one HTML file that opens from disk, or as a live page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import atomic_write_text
from thoughtscope.reports.report import embed_json, hash_source
from thoughtscope.training.log import read_metrics

FIGURES = ("tokens", "loss", "fvu", "l0", "dead", "tokens_per_second")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The page, and the trainings that it shows."""

    runs: Sequence[Mapping[str, Any]]
    """`name`, `folder`, `done` (a share), `finished`, `points` (lists by figure, of one length)."""

    def to_json(self) -> dict[str, Any]:
        return {"runs": [dict(run) for run in self.runs]}

    @property
    def html(self) -> str:
        """The whole page as text, with its data."""
        return curves_page(self.to_json())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the page, as a whole or not at all."""
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ThoughtscopeError(f'The curves are an HTML file; "{path}" should end in .html.')
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, self.html)
        return path


def build_curves(folders: Mapping[str, str | os.PathLike[str]]) -> Curves:
    """The curves of trainings, by name the folder that each trains in; see `training.log.find_runs`.

    Raises `CorruptArtefact` for metrics that are none.
    """
    return Curves(runs=[_run(name, Path(folder)) for name, folder in folders.items()])


def _run(name: str, folder: Path) -> dict[str, Any]:
    lines = read_metrics(folder)
    last = lines[-1] if lines else {}
    step, n_steps = _number(last.get("step")) or 0.0, _number(last.get("n_steps")) or 1.0
    return {
        "name": name,
        "folder": str(folder),
        "done": min(1.0, step / n_steps),
        "finished": step >= n_steps,
        "points": {figure: [_number(line.get(figure)) for line in lines] for figure in FIGURES},
    }


def _number(value: Any) -> float | None:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


def curves_page(data: Mapping[str, Any] | None) -> str:
    """The page with its data; or without, for a server of which it asks for them (`/curves.json`).

    The file names its one script by hash, so that nothing else can run; the server names its own in a header.
    """
    script, style = part("curves.js"), part("curves.css")
    policy = (
        f"default-src 'none'; script-src {hash_source(script)}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n' if data is not None else ""
    scripts = (
        '<script src="/curves.js"></script>'
        if data is None
        else '<script type="application/json" id="thoughtscope-data">'
        f"{embed_json(data)}</script>\n<script>{script}</script>"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{meta}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>Trainings · thoughtscope</title>\n<style>{style}</style>\n</head>\n<body>\n"
        '<header><h1>Trainings</h1><span id="said" role="status"></span>'
        '<button id="theme" type="button">Light or dark</button></header>\n'
        '<div id="runs"></div>\n<main id="charts"></main>\n'
        '<div class="scroll"><table><caption hidden>The last figures of each training</caption>'
        '<tbody id="summary"></tbody></table></div>\n'
        f"{scripts}\n</body>\n</html>\n"
    )


@cache
def part(name: str) -> str:
    """A file of the page."""
    return (Path(str(files(__package__))) / name).read_text(encoding="utf-8")
