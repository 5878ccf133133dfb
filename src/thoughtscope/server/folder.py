"""The work folder: graphs and labels as plain JSON files, each saved as a whole or not at all."""

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
from typing import TYPE_CHECKING, Any

from thoughtscope.core.errors import (
    CorruptArtefact,
    LimitExceeded,
    PathOutsideRoot,
    ThoughtscopeError,
    describe_choices,
)
from thoughtscope.core.files import atomic_write_text, strict_json
from thoughtscope.server.errors import UnknownGraph

if TYPE_CHECKING:
    from thoughtscope.atlas import LabelStore

SLUG = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MAX_GRAPHS = 10_000


def default_folder() -> Path:
    """The per-user data folder of this platform."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "thoughtscope"


def slug_of(prompt: str) -> str:
    """A readable, unique name for a prompt's graph: its first words, then the time."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))[:40].strip("-")
    return f"{words or 'prompt'}-{time.time_ns() // 1_000_000:x}"


class WorkFolder:
    """Graphs under `graphs/{slug}.json`, people's labels under `labels/`. Safe to use from several threads.

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

    # --- graphs ----------------------------------------------------------------------------------------------------

    def graph_path(self, slug: str) -> Path:
        """Where the graph lies. The name is checked first, then the resolved path, links included."""
        if not SLUG.fullmatch(slug) or slug.startswith("."):
            raise PathOutsideRoot(
                f"{slug!r} cannot name a graph: use 1 to 100 of letters, digits, _, - and . only."
            )
        folder = self.root.resolve() / "graphs"
        path = (folder / f"{slug}.json").resolve()
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

    def labels(self, scan: str) -> dict[str, str]:
        """The labels that people gave to one dictionary's features, by `layer/index`."""
        if not self._label_path(scan).exists():
            return {}
        return self._label_store(scan).all()

    def write_label(self, scan: str, layer: int, index: int, label: str) -> str:
        """Keeps a label, an empty one removes it. Returns what is kept."""
        with self._lock:
            return self._label_store(scan).set(layer, index, label)

    def _label_store(self, scan: str) -> LabelStore:
        from thoughtscope.atlas.labels import LabelStore

        return LabelStore(self._label_path(scan))

    def _label_path(self, scan: str) -> Path:
        """A file of its own for each dictionary; the hash keeps apart names that look alike as file names."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", scan)[:60].strip("-")
        return self.root / "labels" / f"{plain}-{hashlib.sha256(scan.encode()).hexdigest()[:8]}.json"


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
