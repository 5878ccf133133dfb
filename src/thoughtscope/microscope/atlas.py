"""`atlas_of`: everything that is known of the dictionary that a microscope was opened with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from thoughtscope.core.progress import Progress, silent
from thoughtscope.microscope.opening import Microscope

if TYPE_CHECKING:
    from thoughtscope.reports import AtlasPage


def atlas_page(
    microscope: Microscope, maps: Path | None = None, *, make: bool = True, progress: Progress = silent
) -> AtlasPage:
    """The atlas of a microscope's dictionary with its bank, the labels that people gave, and its map.

    `maps` is where maps are kept; with `make=False` the page goes without one that was not made yet, as it does without
    `maps`. Raises `DictionaryMismatch` with the command that collects examples where there are none.
    """
    from thoughtscope.atlas import Atlas, bank_required, kept_map
    from thoughtscope.reports import AtlasPage

    bank = microscope.bank or bank_required(microscope.dictionary)
    bare = Atlas(dictionary=microscope.dictionary, bank=bank)
    alive = bare.count > 0
    found = maps and kept_map(microscope.dictionary, maps, alive=alive, make=make, progress=progress)
    atlas = Atlas(dictionary=microscope.dictionary, bank=bank, map=found or None)
    return AtlasPage(atlas=atlas, labels=microscope.labels.of(microscope.dictionary.name))
