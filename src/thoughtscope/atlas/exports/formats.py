"""`export_features`: a dictionary's features in the layouts of other tools, one file a layout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from thoughtscope.atlas.atlas import Atlas
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.files import replaced_folder
from thoughtscope.core.ids import plain_name
from thoughtscope.core.progress import Progress, silent
from thoughtscope.core.registry import Registry

if TYPE_CHECKING:
    from thoughtscope.models import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Exported:
    """What is exported, and the names that it has elsewhere."""

    atlas: Atlas
    labels: Mapping[str, str]
    """People's, by `part/index`; they have their place over automatic ones."""
    parts: tuple[int, ...]
    """The numbers of the dictionary's parts that are exported."""
    model: Model | None = None
    """For layouts that state logits."""
    model_id: str
    source_set: str
    """What the other place calls the model, and this dictionary's set of features on all its layers."""

    def label(self, number: int, index: int, automatic: str) -> tuple[str, str] | None:
        """What a feature is called and by whom, `person` or `automatic`; None for one without a name."""
        own = self.labels.get(f"{self.atlas.dictionary.parts[number].name}/{index}")
        if own:
            return own, "person"
        return (automatic, "automatic") if automatic else None


@runtime_checkable
class FeatureWriter(Protocol):
    """Writes all features into a folder that exists; returns what was written, in order."""

    def __call__(self, exported: Exported, folder: Path, progress: Progress) -> list[Path]: ...


@dataclass(frozen=True, kw_only=True)
class FeatureFormat:
    """One tool's way to take features."""

    what: str
    """Half a sentence for lists: what is written."""
    write: FeatureWriter
    needs: tuple[str, ...] = ()
    """`model`, `map`: what the layout cannot do without."""


FEATURE_FORMATS: Registry[FeatureFormat] = Registry("feature format", group="thoughtscope.feature_formats")
"""By name; installed packages add theirs as entry points of the group."""


def export_features(
    atlas: Atlas,
    folder: str | os.PathLike[str],
    *,
    format: str,
    labels: Mapping[str, str] | None = None,
    parts: Sequence[str] | None = None,
    model: Model | None = None,
    model_id: str | None = None,
    source_set: str | None = None,
    progress: Progress = silent,
) -> list[Path]:
    """Writes an atlas's features in a format of `FEATURE_FORMATS`, as a whole or not at all; the files.

    What the folder holds beside them stays. `labels` are people's; `parts` the names of those to write, all of them
    unless given. Names elsewhere follow from the model's and the dictionary's unless given.
    Raises `ThoughtscopeError` for a format that is not known or lacks what it needs, `UnknownFeature` for a part that
    is not there, `MissingExtra` where a package is missing, `NotWritten` where the disk is full.
    """
    chosen, dictionary = FEATURE_FORMATS[format], atlas.dictionary
    for need, given in (("model", model), ("map", atlas.map)):
        if need in chosen.needs and given is None:
            raise ThoughtscopeError(f'The format "{format}" states what only a {need} says; give its {need}.')
    exported = Exported(
        atlas=atlas,
        labels=labels or {},
        parts=tuple(
            map(dictionary.number, [part.name for part in dictionary.parts] if parts is None else parts)
        ),
        model=model,
        model_id=plain_name(model_id or dictionary.model_name, 80) or "model",
        source_set=plain_name(source_set or dictionary.name, 80) or "features",
    )
    ours: set[tuple[Path, str]] = set()
    with replaced_folder(folder, belongs=lambda name: _kind(Path(name)) in ours) as fresh:
        written = [path.relative_to(fresh) for path in chosen.write(exported, fresh, progress)]
        ours |= set(map(_kind, written))
    return [Path(folder) / path for path in written]


def _kind(path: Path) -> tuple[Path, str]:
    """What tells a file of an older export: it lies in a folder of this one, and ends alike; on top, its whole name."""
    return (path, "") if path.parent == Path() else (path.parent, path.suffix)


def write_json(path: Path, content: Any) -> Path:
    """One JSON file, with the folders that it needs. NaN is refused."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> Path:
    """One file of an export, which as a whole is put in place once all of it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
