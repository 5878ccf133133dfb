"""The work folder: graphs, what was tried on them and labels, as plain JSON files, each saved as a whole or not at all.

graphs/SLUG.json           the graph file, with pins, groups and card positions in its `qParams`
outcomes/SLUG/NUMBER.json  interventions on it, in the order in which they were made
trash/SLUG/                what was removed, until the next graph of that name is
labels.json                people's names for features
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import (
    CorruptArtefact,
    LimitExceeded,
    PathOutsideRoot,
    ThoughtscopeError,
    UnknownGraph,
    describe_choices,
)
from thoughtscope.core.files import atomic_write_text
from thoughtscope.core.labels import LabelStore, read_labels
from thoughtscope.core.parsing import strict_json

SLUG = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MAX_GRAPHS = 10_000
MAX_OUTCOMES = 500
"""Kept interventions of one graph."""
REMEMBERED = 24
LABELS = "labels.json"


def default_folder() -> Path:
    """The per-user data folder of this platform."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "thoughtscope"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "thoughtscope"


def user_labels() -> LabelStore:
    """The labels in the user's data folder."""
    return LabelStore(default_folder() / LABELS)


def slug_of(prompt: str) -> str:
    """A readable, unique name for a prompt's graph: its first words, then the time."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))[:40].strip("-")
    return f"{words or 'prompt'}-{time.time_ns() // 1_000_000:x}"


class WorkFolder:
    """Everything that is kept between sessions. Safe to use from several threads.

    Raises `PathOutsideRoot` for a slug that is not a plain name and `UnknownGraph` for one that is not there.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(path) if path is not None else default_folder()
        self._lock = threading.RLock()
        try:
            (self.root / "graphs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ThoughtscopeError(
                f"The work folder {self.root} cannot be made: {error.strerror}. Give --folder."
            ) from None
        self._summaries: dict[str, tuple[int, dict[str, Any]]] = {}
        self._made: dict[tuple[str, int], dict[str, Any]] = {}
        self.labels = LabelStore(self.root / LABELS)

    # --- graphs ----------------------------------------------------------------------------------------------------

    def graph_path(self, slug: str) -> Path:
        """Where the graph lies. The name is checked first, then the resolved path, links included."""
        return self._inside("graphs", slug, ".json")

    def _inside(self, part: str, slug: str, suffix: str = "") -> Path:
        if not SLUG.fullmatch(slug) or slug.startswith("."):
            raise PathOutsideRoot(
                f"{slug!r} cannot name a graph: use 1 to 100 of letters, digits, _, - and . only."
            )
        folder = self.root.resolve() / part
        path = (folder / f"{slug}{suffix}").resolve()
        if not path.is_relative_to(folder):
            raise PathOutsideRoot(f"The graph {slug!r} lies outside the work folder.")
        return path

    def slugs(self) -> list[str]:
        """Newest first."""
        found = [path for path in (self.root / "graphs").glob("*.json") if SLUG.fullmatch(path.stem)]
        return [path.stem for path in sorted(found, key=_modified, reverse=True)]

    def read_graph(self, slug: str) -> dict[str, Any]:
        path = self.graph_path(slug)
        try:
            return strict_json(path.read_bytes(), path)
        except FileNotFoundError:
            raise UnknownGraph(
                describe_choices(slug, self.slugs(), what="graph in the work folder", limit=5)
            ) from None
        except OSError as error:
            raise CorruptArtefact(f"{path} cannot be read: {error.strerror}.") from None

    def write_graph(self, slug: str, graph: Mapping[str, Any]) -> None:
        path = self.graph_path(slug)
        text = json.dumps(graph, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        with self._lock:
            if not path.exists() and len(self.slugs()) >= MAX_GRAPHS:
                raise LimitExceeded(
                    f"{self.root} holds {MAX_GRAPHS:,} graphs. Remove some, or use another --folder."
                )
            atomic_write_text(path, text)

    def change_query(self, slug: str, changes: Mapping[str, Any]) -> None:
        """Replaces entries of a graph's `qParams`, the part of the file that holds what a person arranged."""
        with self._lock:
            graph = self.read_graph(slug)
            query = graph.get("qParams")
            graph["qParams"] = {**(query if isinstance(query, dict) else {}), **changes}
            self.write_graph(slug, graph)

    def rename(self, slug: str, title: str) -> None:
        """Gives a graph a title, or with an empty one takes it away; its slug, and with it its address, stays."""
        with self._lock:
            graph = self.read_graph(slug)
            metadata = {key: value for key, value in graph["metadata"].items() if key != "title"}
            graph["metadata"] = metadata | ({"title": title} if title else {})
            self.write_graph(slug, graph)

    def remove(self, slug: str) -> None:
        """Moves a graph and what was tried on it into the trash, in place of what lay there under its name."""
        with self._lock:
            path, trash = self.graph_path(slug), self._inside("trash", slug)
            self.read_graph(slug)
            if trash.exists():
                shutil.rmtree(trash)
            trash.mkdir(parents=True)
            tried = self._inside("outcomes", slug)
            if tried.exists():
                os.replace(tried, trash / "outcomes")
            os.replace(path, trash / "graph.json")

    def restore(self, slug: str) -> None:
        """Undoes `remove`. Raises `UnknownGraph` when the trash lacks it, `ThoughtscopeError` for a name in use."""
        with self._lock:
            path, trash = self.graph_path(slug), self._inside("trash", slug)
            if not (trash / "graph.json").exists():
                raise UnknownGraph(f'The trash holds no graph "{slug}".')
            if path.exists():
                raise ThoughtscopeError(f'There is a graph "{slug}" again. Remove it first.')
            tried = self._inside("outcomes", slug)
            if (trash / "outcomes").exists():
                tried.parent.mkdir(exist_ok=True)
                os.replace(trash / "outcomes", tried)
            os.replace(trash / "graph.json", path)
            shutil.rmtree(trash)

    def remembered(self, slug: str, make: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """`make` of a graph's content, made once for each version of its file; the latest few are kept in memory."""
        path = self.graph_path(slug)
        key = (slug, _modified(path))
        if key not in self._made:
            made = make(self.read_graph(slug))
            with self._lock:
                self._made[key] = made
                while len(self._made) > REMEMBERED:
                    del self._made[next(iter(self._made))]
            return made
        return self._made[key]

    def summaries(self) -> list[dict[str, Any]]:
        """What a list of graphs shows of every readable one, newest first; each file is parsed once per change.

        `number` counts the graphs that would read alike, oldest first; None for one that stands alone.
        """
        with self._lock:
            rows = [row for slug in self.slugs() if (row := self._summary(slug)) is not None]
        alike: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            alike.setdefault(row["title"] or row["prompt"], []).append(row)
        for same in alike.values():
            same.sort(key=lambda row: row["created"])
            for number, row in enumerate(same, start=1):
                row["number"] = number if len(same) > 1 else None
        return rows

    def _summary(self, slug: str) -> dict[str, Any] | None:
        try:
            changed = self.graph_path(slug).stat().st_mtime_ns
            if slug not in self._summaries or self._summaries[slug][0] != changed:
                metadata = self.read_graph(slug).get("metadata", {})
                self._summaries[slug] = (changed, dict(metadata))
        except (ThoughtscopeError, OSError, AttributeError, TypeError, ValueError):
            return None  # a broken file in the folder must not hide the others
        metadata = self._summaries[slug][1]
        return {
            "slug": slug,
            "prompt": str(metadata.get("prompt", "")),
            "title": str(metadata.get("title") or ""),
            "created": _time(_made_at(metadata, changed)),
            "metadata": metadata,
        }

    # --- interventions ---------------------------------------------------------------------------------------------

    def keep_outcome(self, slug: str, record: Mapping[str, Any]) -> int:
        """Keeps what was tried on a graph; its number there. Raises `LimitExceeded` for more than `MAX_OUTCOMES`."""
        with self._lock:
            self.read_graph(slug)
            folder = self._inside("outcomes", slug)
            folder.mkdir(parents=True, exist_ok=True)
            numbers = self._numbers(folder)
            if len(numbers) >= MAX_OUTCOMES:
                raise LimitExceeded(f"{MAX_OUTCOMES} interventions are kept for {slug}. Remove some.")
            number = max(numbers, default=0) + 1
            text = json.dumps(record, ensure_ascii=False, allow_nan=False)
            atomic_write_text(folder / f"{number}.json", text)
            return number

    def outcomes(self, slug: str) -> list[tuple[int, dict[str, Any]]]:
        """What was tried on a graph, oldest first; a file that cannot be read hides no other."""
        folder = self._inside("outcomes", slug)
        found = []
        for number in self._numbers(folder):
            path = folder / f"{number}.json"
            try:
                record = strict_json(path.read_bytes(), path)
            except (OSError, ThoughtscopeError):
                continue
            if isinstance(record, dict):
                found.append((number, record))
        return found

    def drop_outcome(self, slug: str, number: int) -> None:
        """Forgets one intervention. Raises `UnknownGraph` for a number that is not there."""
        with self._lock:
            folder = self._inside("outcomes", slug)
            if number not in self._numbers(folder):
                raise UnknownGraph(
                    describe_choices(number, self._numbers(folder), what=f"kept intervention on {slug}")
                )
            (folder / f"{number}.json").unlink()

    @staticmethod
    def _numbers(folder: Path) -> list[int]:
        return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())

    # --- labels ----------------------------------------------------------------------------------------------------

    def labels_of(self, dictionary: str, scan: str) -> dict[str, str]:
        """The labels that people gave to one dictionary's features, by `part/index`.

        Older versions kept them in a file for each `scan`; what such a file holds moves into `labels` first.
        """
        old = self._old_labels(scan)
        with self._lock:
            if old.exists():
                self.labels.adopt(dictionary, read_labels(old))
                os.replace(old, old.with_suffix(".json.moved"))
        return self.labels.of(dictionary)

    def _old_labels(self, scan: str) -> Path:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", scan)[:60].strip("-")
        return self.root / "labels" / f"{plain}-{hashlib.sha256(scan.encode()).hexdigest()[:8]}.json"


def _made_at(metadata: Mapping[str, Any], changed: int) -> float:
    """Seconds: when the file says that it was made, else when it last changed."""
    info = metadata.get("info")
    stated = info.get("create_time_ms") if isinstance(info, Mapping) else None
    if isinstance(stated, (int, float)) and 0 < stated < 1e14:
        return stated / 1e3
    return changed / 1e9


def _time(seconds: float) -> str:
    milliseconds = int(seconds * 1000) % 1000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z"


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
