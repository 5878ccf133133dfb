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
import sys
import threading
import time
import unicodedata
from collections.abc import Mapping
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
from thoughtscope.core.files import atomic_write_text, strict_json
from thoughtscope.core.labels import LabelStore, read_labels

SLUG = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MAX_GRAPHS = 10_000
MAX_OUTCOMES = 500
"""Kept interventions of one graph."""
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

    def summaries(self) -> list[dict[str, Any]]:
        """Slug, prompt and time of every readable graph, newest first; each file is parsed once per change."""
        with self._lock:
            rows = [self._summary(slug) for slug in self.slugs()]
        return [row for row in rows if row is not None]

    def _summary(self, slug: str) -> dict[str, Any] | None:
        try:
            changed = self.graph_path(slug).stat().st_mtime_ns
            if slug not in self._summaries or self._summaries[slug][0] != changed:
                metadata = self.read_graph(slug).get("metadata", {})
                self._summaries[slug] = (changed, dict(metadata))
        except (ThoughtscopeError, OSError, AttributeError, TypeError, ValueError):
            return None  # a broken file in the folder must not hide the others
        metadata = self._summaries[slug][1]
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(changed / 1e9))
        return {
            "slug": slug,
            "prompt": str(metadata.get("prompt", "")),
            "created": created,
            "metadata": metadata,
        }

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


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
