"""`LabelStore`: the names that people give to features."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, Problem, ThoughtscopeError
from thoughtscope.core.files import (
    atomic_write_text,
    exclusive,
    read_file,
    version_of,
    writing,
)
from thoughtscope.core.ids import FeatureId
from thoughtscope.core.parsing import strict_json

MAX_LABEL = 200
"""Characters in a person's label."""


_HIDDEN = frozenset(
    {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029}
)
"""Control characters, line ends and direction overrides: what could disguise a label."""


def is_plain_line(text: str) -> bool:
    """Whether a text is one line that shows what it holds, and can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return not any(ord(character) in _HIDDEN for character in text)


class LabelStore:
    """The names that people give to features, by `str(FeatureId)`, in one JSON file of the user's.

    Each change is on disk before `set` returns, and leaves what other threads and processes have written; without a
    `path` the labels live as long as the store. A file that is not such a table has no labels, and `problem` says why;
    it is never written over.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._labels: dict[str, str] = {}
        self._seen: tuple[tuple[int, int, int] | None, dict[str, str], Problem | None] = (None, {}, None)

    @property
    def problem(self) -> Problem | None:
        """Why the file is not used, if there is one that cannot be."""
        return self._read()[1]

    def __len__(self) -> int:
        return len(self.all())

    def get(self, feature: FeatureId | str) -> str | None:
        """The label of a feature, if somebody gave it one."""
        return self.all().get(str(feature))

    def set(self, feature: FeatureId | str, label: str) -> str:
        """Keeps a label, as plain text in one line; an empty one removes it. Returns what is kept.

        Raises `UnknownFeature` for what is not the id of a feature, `LimitExceeded` for more than `MAX_LABEL`
        characters, `ThoughtscopeError` for what is not text, `CorruptArtefact` where the file is no table of labels.
        """
        if not isinstance(label, str):
            raise ThoughtscopeError(f"A label is text; got {type(label).__name__}.")
        name = str(FeatureId.parse(str(feature)))
        text = " ".join("".join(c if c.isprintable() else " " for c in label).split())
        if len(text) > MAX_LABEL:
            raise LimitExceeded(f"A label has at most {MAX_LABEL} characters; got {len(text)}.")
        self._change({name: text})
        return text

    def adopt(self, dictionary: str, labels: Mapping[str, str]) -> None:
        """Takes over a table by `layer/index`, as labels of one dictionary were kept before; what is there stays."""
        self._change({f"{dictionary}/{place}": text for place, text in labels.items()}, replace=False)

    def all(self) -> dict[str, str]:
        """Every label, by the feature's id; what another process has written since is seen."""
        return dict(self._read()[0])

    def of(self, dictionary: str) -> dict[str, str]:
        """The labels of one dictionary's features, by `part/index`."""
        start = f"{dictionary}/"
        known = self._read()[0].items()
        found = {name.removeprefix(start): text for name, text in known if name.startswith(start)}
        return {place: text for place, text in found.items() if place.count("/") == 1}

    def _change(self, changes: Mapping[str, str], *, replace: bool = True) -> None:
        """Changes the table as it is on disk now: nobody else writes between reading and writing."""
        if self.path is None:
            with self._lock:
                self._labels = _merged(self._labels, changes, replace=replace)
            return
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path.parent):
            try:
                labels = read_labels(self.path)
            except CorruptArtefact as error:
                raise CorruptArtefact(f"The label was not kept: {_with_fix(error)}") from None
            labels = _merged(labels, changes, replace=replace)
            text = json.dumps(labels, ensure_ascii=False, indent=1, sort_keys=True)
            atomic_write_text(self.path, text + "\n")

    def _read(self) -> tuple[dict[str, str], Problem | None]:
        """The table as it is on disk, or why it cannot be read; parsed again only when the file has changed."""
        if self.path is None:
            return self._labels, None
        version, seen = version_of(self.path), self._seen
        if version is None or seen[0] != version:
            try:
                seen = (version, read_labels(self.path), None)
            except CorruptArtefact as error:
                seen = (version, {}, Problem(file=str(self.path), why=_with_fix(error)))
            self._seen = seen
        return seen[1], seen[2]


def _merged(labels: Mapping[str, str], changes: Mapping[str, str], *, replace: bool) -> dict[str, str]:
    merged = {**labels, **changes} if replace else {**changes, **labels}
    return {name: text for name, text in merged.items() if text}


def _with_fix(error: CorruptArtefact) -> str:
    return f"{error} Mend the file, or move it away to begin a new one; it is not written over."


def read_labels(path: str | os.PathLike[str]) -> dict[str, str]:
    """A table of labels, whatever its keys; empty where there is no file. Raises `CorruptArtefact`."""
    try:
        labels = strict_json(read_file(path), path)
    except FileNotFoundError:
        return {}
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise CorruptArtefact(f"{os.fspath(path)} is not a table of labels.")
    return labels
