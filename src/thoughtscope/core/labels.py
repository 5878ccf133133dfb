"""`LabelStore`: the names that people give to features."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from thoughtscope.core.errors import CorruptArtefact, LimitExceeded, ThoughtscopeError
from thoughtscope.core.files import atomic_write_text
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

    Each change is on disk before `set` returns; without a `path` the labels live as long as the store. Raises
    `CorruptArtefact` for a file that is not such a table.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._labels: dict[str, str] = {}
        self._seen: tuple[int, int] | None = None
        self.all()

    def __len__(self) -> int:
        return len(self.all())

    def get(self, feature: FeatureId | str) -> str | None:
        """The label of a feature, if somebody gave it one."""
        return self.all().get(str(feature))

    def set(self, feature: FeatureId | str, label: str) -> str:
        """Keeps a label, as plain text in one line; an empty one removes it. Returns what is kept.

        Raises `UnknownFeature` for what is not the id of a feature, `LimitExceeded` for more than `MAX_LABEL`
        characters, `ThoughtscopeError` for what is not text.
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
        new = {f"{dictionary}/{place}": text for place, text in labels.items()}
        self._change({name: text for name, text in new.items() if name not in self.all()})

    def all(self) -> dict[str, str]:
        """Every label, by the feature's id; what another process has written since is seen."""
        with self._lock:
            return dict(self._read())

    def of(self, dictionary: str) -> dict[str, str]:
        """The labels of one dictionary's features, by `part/index`."""
        start = f"{dictionary}/"
        found = {
            name.removeprefix(start): text for name, text in self._labels.items() if name.startswith(start)
        }
        return {place: text for place, text in found.items() if place.count("/") == 1}

    def _change(self, changes: Mapping[str, str]) -> None:
        with self._lock:
            labels = {name: text for name, text in {**self._read(), **changes}.items() if text}
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                text = json.dumps(labels, ensure_ascii=False, indent=1, sort_keys=True)
                atomic_write_text(self.path, text + "\n")
            self._labels = labels

    def _read(self) -> dict[str, str]:
        """The table as it is on disk; the file is parsed again only when it has changed."""
        if self.path is None:
            return self._labels
        try:
            state = self.path.stat()
        except OSError:
            self._labels, self._seen = {}, None
            return self._labels
        if self._seen != (state.st_mtime_ns, state.st_ino):
            self._labels, self._seen = read_labels(self.path), (state.st_mtime_ns, state.st_ino)
        return self._labels


def read_labels(path: str | os.PathLike[str]) -> dict[str, str]:
    """A table of labels, whatever its keys; empty where there is no file. Raises `CorruptArtefact`."""
    path = Path(path)
    if not path.exists():
        return {}
    labels = strict_json(path.read_bytes(), path)
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        raise CorruptArtefact(f"{path} is not a table of labels.")
    return labels
