"""`LabelStore`: the names that people give to features, each with its author."""

from __future__ import annotations

import getpass
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
MAX_AUTHOR = 60
"""Characters in a person's name."""
AUTHOR = "THOUGHTSCOPE_AUTHOR"
"""The environment variable with the name under which one's labels are kept."""


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


def author_here() -> str:
    """Under whose name labels are kept where nobody says otherwise: THOUGHTSCOPE_AUTHOR, or the name of the login."""
    try:
        return _line(os.environ.get(AUTHOR) or getpass.getuser())[:MAX_AUTHOR]
    except (OSError, KeyError, ImportError):  # a user without an entry
        return ""


def _line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


@dataclass(frozen=True, kw_only=True)
class Label:
    """What one person calls a feature."""

    text: str
    author: str = ""
    """Empty where nobody was named."""
    when: str = ""
    """In UTC, to the second, as ISO 8601 writes it; empty for a label from before authors were kept."""


class LabelStore:
    """The names that people give to features, by `str(FeatureId)`, in one JSON file of the user's.

    Each author has a label for a feature; the newest is the one that is shown. Each change is on disk before `set`
    returns, and leaves what other threads and processes have written; without a `path` the labels live as long as the
    store. A file that is not such a table has no labels, and `problem` says why; it is never written over.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._labels: Table = {}
        self._seen: tuple[tuple[int, int, int] | None, Table, Problem | None] = (None, {}, None)

    @property
    def problem(self) -> Problem | None:
        """Why the file is not used, if there is one that cannot be."""
        return self._read()[1]

    def __len__(self) -> int:
        return len(self.all())

    def get(self, feature: FeatureId | str) -> str | None:
        """The label of a feature, if somebody gave it one."""
        given = self.given(feature)
        return given[-1].text if given else None

    def given(self, feature: FeatureId | str) -> tuple[Label, ...]:
        """The labels of a feature, one an author, the newest last."""
        return self._read()[0].get(str(feature), ())

    def set(self, feature: FeatureId | str, label: str, *, author: str | None = None) -> str:
        """Keeps an author's label, as plain text in one line; an empty one removes it. Returns what is shown now:
        the new one, or what another author calls the feature, or nothing.

        Without an `author` it is `author_here()`'s.
        Raises `UnknownFeature` for what is not the id of a feature, `LimitExceeded` for more than `MAX_LABEL`
        characters (of a name, `MAX_AUTHOR`), `ThoughtscopeError` for what is not text, `CorruptArtefact` where the
        file is no table of labels.
        """
        if not isinstance(label, str):
            raise ThoughtscopeError(f"A label is text; got {type(label).__name__}.")
        name = str(FeatureId.parse(str(feature)))
        text, by = _line(label), author_here() if author is None else _line(author)
        if len(text) > MAX_LABEL:
            raise LimitExceeded(f"A label has at most {MAX_LABEL} characters; got {len(text)}.")
        if len(by) > MAX_AUTHOR:
            raise LimitExceeded(f"An author's name has at most {MAX_AUTHOR} characters; got {len(by)}.")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._change({name: Label(text=text, author=by, when=now)})
        return text or self.get(name) or ""

    def adopt(self, dictionary: str, labels: Mapping[str, str]) -> None:
        """Takes over a table by `layer/index`, as labels of one dictionary were kept before; what is there stays."""
        old = {f"{dictionary}/{place}": Label(text=text) for place, text in labels.items()}
        self._change(old, replace=False)

    def all(self) -> dict[str, str]:
        """Every feature's label, by its id; what another process has written since is seen."""
        return {name: given[-1].text for name, given in self._read()[0].items()}

    def of(self, dictionary: str) -> dict[str, str]:
        """The labels of one dictionary's features, by `part/index`."""
        return {place: given[-1].text for place, given in self.given_of(dictionary).items()}

    def given_of(self, dictionary: str) -> dict[str, tuple[Label, ...]]:
        """What all authors call one dictionary's features, by `part/index`, the newest last."""
        start, table = f"{dictionary}/", self._read()[0]
        found = {name.removeprefix(start): given for name, given in table.items() if name.startswith(start)}
        return {place: given for place, given in found.items() if place.count("/") == 1}

    def _change(self, changes: Mapping[str, Label], *, replace: bool = True) -> None:
        """Changes the table as it is on disk now: nobody else writes between reading and writing."""
        if self.path is None:
            with self._lock:
                self._labels = _merged(self._labels, changes, replace=replace)
            return
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path.parent):
            try:
                table = _table(self.path)
            except CorruptArtefact as error:
                raise CorruptArtefact(f"The label was not kept: {_with_fix(error)}") from None
            table = _merged(table, changes, replace=replace)
            rows = {name: [asdict(label) for label in given] for name, given in table.items()}
            atomic_write_text(
                self.path, json.dumps(rows, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
            )

    def _read(self) -> tuple[Table, Problem | None]:
        """The table as it is on disk, or why it cannot be read; parsed again only when the file has changed."""
        if self.path is None:
            return self._labels, None
        version, seen = version_of(self.path), self._seen
        if version is None or seen[0] != version:
            try:
                seen = (version, _table(self.path), None)
            except CorruptArtefact as error:
                seen = (version, {}, Problem(file=str(self.path), why=_with_fix(error)))
            self._seen = seen
        return seen[1], seen[2]


Table = dict[str, tuple[Label, ...]]
"""Every feature that has labels, and they, the newest last."""


def _merged(table: Table, changes: Mapping[str, Label], *, replace: bool) -> Table:
    merged = dict(table)
    for name, label in changes.items():
        there = merged.get(name, ())
        if there and not replace:
            continue
        # Who gives a name for all to see replaces what nobody signed.
        others = [old for old in there if old.author not in (label.author, "")]
        given = (*others, label) if label.text else tuple(others)
        if given:
            merged[name] = given
        else:
            merged.pop(name, None)
    return merged


def _with_fix(error: CorruptArtefact) -> str:
    return f"{error} Mend the file, or move it away to begin a new one; it is not written over."


def read_labels(path: str | os.PathLike[str]) -> dict[str, str]:
    """A table of labels without authors, whatever its keys; empty where there is no file. Raises `CorruptArtefact`."""
    return {name: given[-1].text for name, given in _table(path).items()}


def _table(path: str | os.PathLike[str]) -> Table:
    """A file of labels: each feature's a list with authors, or a text without. Raises `CorruptArtefact`."""
    try:
        rows = strict_json(read_file(path), path)
    except FileNotFoundError:
        return {}
    try:
        return {name: given for name, row in _items(rows) if (given := tuple(_labels(row)))}
    except (TypeError, ValueError) as error:
        raise CorruptArtefact(f"{os.fspath(path)} is not a table of labels: {error}.") from None


def _items(rows: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(rows, dict):
        raise TypeError(f"expected an object, got {type(rows).__name__}")
    return rows.items()


def _labels(row: Any) -> Iterable[Label]:
    for each in [{"text": row}] if isinstance(row, str) else row:
        if not isinstance(each, dict) or not all(isinstance(value, str) for value in each.values()):
            raise TypeError(f"expected texts, got {each!r:.100}")
        if (label := Label(**each)).text:
            yield label
