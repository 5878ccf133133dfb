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
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thoughtscope.core.errors import (
    CorruptArtefact,
    FolderInUse,
    LimitExceeded,
    PathOutsideRoot,
    Problem,
    ThoughtscopeError,
    UnknownGraph,
    describe_choices,
)
from thoughtscope.core.files import (
    atomic_write_text,
    default_folder,
    exclusive,
    read_file,
    remove,
    sweep_folder,
    sync_folder,
    version_of,
    writing,
)
from thoughtscope.core.labels import LabelStore, read_labels
from thoughtscope.core.parsing import strict_json

SLUG = re.compile(r"[A-Za-z0-9_.-]{1,100}")
MAX_GRAPHS = 10_000
MAX_OUTCOMES = 500
"""Kept interventions of one graph."""
MAX_DEPTH = 100
"""Of what a graph file says of itself, in lists and objects within one another."""
REMEMBERED = 24
Version = tuple[int, int, int]
LABELS = "labels.json"


def user_labels() -> LabelStore:
    """The labels in the user's data folder; none, with an `UnusedFile` warning, where their file is damaged."""
    labels = LabelStore(default_folder() / LABELS)
    if labels.problem is not None:
        warn_of(labels.problem)
    return labels


class UnusedFile(UserWarning):
    """A damaged file of examples, concepts or labels, without which the work goes on."""


def warn_of(problem: Problem) -> None:
    """Says that a file is not used, and why."""
    warnings.warn(f"{problem.file} is not used: {problem.why}", UnusedFile, stacklevel=3)


def slug_of(prompt: str) -> str:
    """A readable, unique name for a prompt's graph: its first words, then the time."""
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))[:40].strip("-")
    return f"{words or 'prompt'}-{time.time_ns() // 1_000_000:x}"


class WorkFolder:
    """Everything that is kept between sessions. Safe to use from several threads and processes.

    Whatever changes it does so inside of `changing`, from reading what is there to writing what is to be; a change that
    has returned is on the disk. A file that cannot be used hides no other: `problems` names it.
    Raises `PathOutsideRoot` for a slug that is not a plain name, `UnknownGraph` for one that is not there, `NotWritten`
    where the disk is full or read-only, and `FolderInUse` where others do not stop writing.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(path) if path is not None else default_folder()
        try:
            (self.root / "graphs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ThoughtscopeError(
                f"The work folder {self.root} cannot be made: {error.strerror}. Give --folder."
            ) from None
        self._lock = threading.Lock()  # of what is remembered; the folder has its own
        self._listed: dict[str, tuple[Version, dict[str, Any] | Problem]] = {}
        self._made: dict[tuple[str, Version], dict[str, Any]] = {}
        self._broken: dict[Path, Problem] = {}
        self.labels = LabelStore(self.root / LABELS)
        self._sweep()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes the folder meanwhile, in this process or another one."""
        with writing(self.root), exclusive(self.root):
            yield

    def _sweep(self) -> None:
        """Removes what killed writers left, if nobody writes just now and the disk lets it."""
        try:
            with exclusive(self.root, patience=0.0):
                for folder in (self.root, self.root / "graphs", *(self.root / "outcomes").glob("*")):
                    sweep_folder(folder)
        except (FolderInUse, OSError):
            return

    # --- graphs ----------------------------------------------------------------------------------------------------

    def graph_path(self, slug: str) -> Path:
        """Where the graph lies. The name is checked first, then the resolved path, links included."""
        return self._inside("graphs", slug, ".json")

    def _inside(self, part: str, slug: str, suffix: str = "") -> Path:
        if not SLUG.fullmatch(slug) or slug.startswith("."):
            raise PathOutsideRoot(
                f"{slug!r} cannot name a graph: use 1 to 100 of letters, digits, _, - and . only."
            )
        folder = Path(os.path.realpath(self.root)) / part
        path = Path(os.path.realpath(folder / f"{slug}{suffix}"))
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
            graph = strict_json(read_file(path), path)
        except FileNotFoundError:
            raise UnknownGraph(
                describe_choices(slug, self.slugs(), what="graph in the work folder", limit=5)
            ) from None
        if not isinstance(graph, dict):
            raise CorruptArtefact(f"{path} is not a graph file: it holds no JSON object.")
        return graph

    def write_graph(self, slug: str, graph: Mapping[str, Any]) -> None:
        """Keeps a graph under a slug, in place of what is there."""
        path = self.graph_path(slug)
        text = json.dumps(graph, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        with self.changing():
            if not path.exists() and self._n_graphs() >= MAX_GRAPHS:
                raise LimitExceeded(
                    f"{self.root} holds {MAX_GRAPHS:,} graphs. Remove some, or use another --folder."
                )
            atomic_write_text(path, text)

    def _n_graphs(self) -> int:
        return sum(name.endswith(".json") for name in os.listdir(self.root / "graphs"))

    def add_graph(self, name: str, graph: Callable[[str], Mapping[str, Any]]) -> str:
        """Keeps the graph that is made for a slug under `name`, or under a free slug like it; the slug."""
        with self.changing():
            slug, number = name, 1
            while self._in_use(slug):
                number += 1
                slug = f"{name[:90]}-{number}"
            self.write_graph(slug, graph(slug))
            return slug

    def _in_use(self, slug: str) -> bool:
        """Whether anything has this name, outcomes of a graph that is gone too: they would seem to be the new one's."""
        graph = self.root / "graphs" / f"{slug}.json"
        return os.path.lexists(graph) or os.path.lexists(self.root / "outcomes" / slug)

    def change_graph(self, slug: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
        """Replaces a kept graph by what `change` makes of it; what that raises leaves the graph as it was."""
        with self.changing():
            self.write_graph(slug, change(self.read_graph(slug)))

    def rename(self, slug: str, title: str) -> None:
        """Gives a graph a title, or with an empty one takes it away; its slug, and with it its address, stays."""

        def renamed(graph: dict[str, Any]) -> dict[str, Any]:
            if not isinstance(graph.get("metadata"), dict):
                raise CorruptArtefact(f"{self.graph_path(slug)} has no metadata that could hold a title.")
            metadata = {key: value for key, value in graph["metadata"].items() if key != "title"}
            return {**graph, "metadata": metadata | ({"title": title} if title else {})}

        self.change_graph(slug, renamed)

    def remove(self, slug: str) -> None:
        """Moves a graph and what was tried on it into the trash, in place of what lay there under its name."""
        with self.changing():
            path, trash = self.graph_path(slug), self._inside("trash", slug)
            if not os.path.lexists(path):
                self.read_graph(slug)  # which says what there is
            remove(trash)
            trash.mkdir(parents=True)
            # The graph first: whoever is killed here leaves something that `restore` puts together again.
            os.replace(path, trash / "graph.json")
            tried = self._inside("outcomes", slug)
            if tried.exists():
                os.replace(tried, trash / "outcomes")
            for folder in (path.parent, tried.parent, trash):
                if folder.is_dir():
                    sync_folder(folder)

    def restore(self, slug: str) -> None:
        """Undoes `remove`. Raises `UnknownGraph` when the trash lacks it, `ThoughtscopeError` for a name in use."""
        with self.changing():
            path, trash = self.graph_path(slug), self._inside("trash", slug)
            if not (trash / "graph.json").exists():
                raise UnknownGraph(f'The trash holds no graph "{slug}".')
            if os.path.lexists(path):
                raise ThoughtscopeError(f'There is a graph "{slug}" again. Remove it first.')
            tried = self._inside("outcomes", slug)
            if (trash / "outcomes").exists():
                tried.parent.mkdir(exist_ok=True)
                os.replace(trash / "outcomes", tried)
                sync_folder(tried.parent)
            os.replace(trash / "graph.json", path)
            sync_folder(path.parent)
            remove(trash)

    def remembered(self, slug: str, make: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """`make` of a graph's content, made once for each version of its file; the latest few are kept in memory."""
        version = version_of(self.graph_path(slug))
        made = None if version is None else self._made.get((slug, version))
        if made is None:
            made = make(self.read_graph(slug))
            with self._lock:
                if version is not None:
                    self._made[slug, version] = made
                while len(self._made) > REMEMBERED:
                    del self._made[next(iter(self._made))]
        return made

    def summaries(self) -> list[dict[str, Any]]:
        """What a list of graphs shows of every readable one, newest first; each file is parsed once per change.

        `number` counts the graphs that would read alike, oldest first; None for one that stands alone.
        """
        found = self._list()
        rows = [_row(slug, self.root / "graphs", about) for slug, about in found if isinstance(about, dict)]
        alike: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            alike.setdefault(row["title"] or row["prompt"], []).append(row)
        for same in alike.values():
            same.sort(key=lambda row: row["created"])
            for number, row in enumerate(same, start=1):
                row["number"] = number if len(same) > 1 else None
        return rows

    def problems(self) -> list[Problem]:
        """The files that cannot be used: graphs and labels, and interventions of the graphs that were looked at."""
        found = [about for _, about in self._list() if isinstance(about, Problem)]
        with self._lock:
            self._broken = {path: why for path, why in self._broken.items() if os.path.lexists(path)}
            found += self._broken.values()
        return found + ([self.labels.problem] if self.labels.problem else [])

    def _list(self) -> list[tuple[str, dict[str, Any] | Problem]]:
        """Every graph's metadata, or what is wrong with its file; newest first."""
        with self._lock:
            found = [(slug, self._about(slug)) for slug in self.slugs()]
            here = {slug for slug, _ in found}
            self._listed = {slug: entry for slug, entry in self._listed.items() if slug in here}
        return [(slug, about) for slug, about in found if about is not None]

    def _about(self, slug: str) -> dict[str, Any] | Problem | None:
        """None for a graph that was removed since it was listed."""
        file = f"graphs/{slug}.json"
        version = version_of(self.root / file)
        if version is not None and slug in self._listed and self._listed[slug][0] == version:
            return self._listed[slug][1]
        about: dict[str, Any] | Problem
        try:
            metadata = self.read_graph(slug).get("metadata", {})
            about = _listable(metadata, file)
        except ThoughtscopeError as error:
            if not os.path.lexists(self.root / file):
                return None
            about = Problem(file=file, why=f"{error} Mend the file, or move it out of the folder.")
        if version is not None:
            self._listed[slug] = (version, about)
        return about

    # --- interventions ---------------------------------------------------------------------------------------------

    def keep_outcome(self, slug: str, record: Mapping[str, Any]) -> int:
        """Keeps what was tried on a graph; its number there. Raises `LimitExceeded` for more than `MAX_OUTCOMES`."""
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        with self.changing():
            if not self.graph_path(slug).exists():
                self.read_graph(slug)  # which says what there is
            folder = self._inside("outcomes", slug)
            folder.mkdir(parents=True, exist_ok=True)
            numbers = self._numbers(folder)
            if len(numbers) >= MAX_OUTCOMES:
                raise LimitExceeded(f"{MAX_OUTCOMES} interventions are kept for {slug}. Remove some.")
            number = max(numbers, default=0) + 1
            atomic_write_text(folder / f"{number}.json", text)
            if number == 1:
                sync_folder(folder.parent)
            return number

    def outcomes(self, slug: str) -> list[tuple[int, dict[str, Any]]]:
        """What was tried on a graph, oldest first; a file that cannot be read hides no other, and is a problem."""
        folder = self._inside("outcomes", slug)
        found = []
        for number in self._numbers(folder):
            path = folder / f"{number}.json"
            try:
                record = strict_json(read_file(path), path)
                if not isinstance(record, dict):
                    raise CorruptArtefact(f"{path} is no record of an intervention.")
                found.append((number, record))
                self._broken.pop(path, None)
            except FileNotFoundError:
                continue  # dropped meanwhile
            except ThoughtscopeError as error:
                why = f"{error} Mend the file, or delete it."
                with self._lock:
                    self._broken[path] = Problem(file=f"outcomes/{slug}/{number}.json", why=why)
        return found

    def drop_outcome(self, slug: str, number: int) -> None:
        """Forgets one intervention. Raises `UnknownGraph` for a number that is not there."""
        with self.changing():
            folder = self._inside("outcomes", slug)
            if number not in self._numbers(folder):
                raise UnknownGraph(
                    describe_choices(number, self._numbers(folder), what=f"kept intervention on {slug}")
                )
            remove(folder / f"{number}.json")
            sync_folder(folder)

    @staticmethod
    def _numbers(folder: Path) -> list[int]:
        return sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())

    # --- labels ----------------------------------------------------------------------------------------------------

    def labels_of(self, dictionary: str, scan: str) -> dict[str, str]:
        """The labels that people gave to one dictionary's features, by `part/index`.

        Older versions kept them in a file for each `scan`; what such a file holds moves into `labels` first.
        """
        old = self._old_labels(scan)
        if os.path.lexists(old):
            try:
                with self.changing():
                    self.labels.adopt(dictionary, read_labels(old))
                    if os.path.lexists(old):
                        os.replace(old, old.with_suffix(".json.moved"))
            except ThoughtscopeError as error:  # it stays where it is, for the day on which it can be read
                with self._lock:
                    self._broken[old] = Problem(file=f"labels/{old.name}", why=str(error))
        return self.labels.of(dictionary)

    def _old_labels(self, scan: str) -> Path:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", scan)[:60].strip("-")
        return self.root / "labels" / f"{plain}-{hashlib.sha256(scan.encode()).hexdigest()[:8]}.json"


def _listable(metadata: Any, file: str) -> dict[str, Any]:
    """The metadata of a graph file. Raises `CorruptArtefact` for what no list can show."""
    if not isinstance(metadata, dict):
        raise CorruptArtefact(f"{file}: metadata is no object.")
    level, depth = [metadata], 0
    while level := [value for one in level for value in _children(one)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise CorruptArtefact(f"{file}: metadata is nested more than {MAX_DEPTH} deep.")
    try:
        json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise CorruptArtefact(f"{file}: metadata cannot be written as JSON: {error}.") from None
    return metadata


def _children(value: Any) -> Iterable[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [child for child in values if isinstance(child, (dict, list))]


def _row(slug: str, folder: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "slug": slug,
        "prompt": _heading(metadata),
        "title": str(metadata.get("title") or ""),
        "created": _time(_made_at(metadata, _modified(folder / f"{slug}.json"))),
        "metadata": metadata,
    }


def _heading(metadata: Mapping[str, Any]) -> str:
    from thoughtscope.reports.payload import heading_of

    return heading_of(metadata)


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
