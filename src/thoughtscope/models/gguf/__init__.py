"""Models in GGUF files: a strict look at the header, transformers' reader, and a copy kept as an ordinary folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from thoughtscope.core.errors import NotWritten
from thoughtscope.core.progress import Progress, silent
from thoughtscope.models.gguf.conversion import CLASSES as CLASSES
from thoughtscope.models.gguf.conversion import Dequantised as Dequantised
from thoughtscope.models.gguf.conversion import dequantise as dequantise
from thoughtscope.models.gguf.header import Header as Header
from thoughtscope.models.gguf.header import is_gguf as is_gguf
from thoughtscope.models.gguf.header import read_header as read_header
from thoughtscope.models.gguf.kept import KeptCopy as KeptCopy
from thoughtscope.models.gguf.kept import described, find_copy, keep


class NotKept(UserWarning):
    """De-quantised weights that could not be written down, so that the next start takes as long."""


def gguf_model(path: Path, *, progress: Progress = silent) -> tuple[Path | Dequantised, str]:
    """The folder of a GGUF file's de-quantised weights, made if it is not there, and the file's SHA-256.

    Where no folder can be written, the model itself, with a `NotKept` warning. Raises what `read_header` and
    `dequantise` raise.
    """
    copy = find_copy(path)
    if copy is not None:
        return copy.folder, copy.source_sha256
    source = described(path)
    made = dequantise(read_header(path), progress=progress)
    try:
        return keep(made, path, source).folder, source["sha256"]
    except NotWritten as error:
        warnings.warn(f"The weights of {path} are not kept, so the next start takes as long: {error}", NotKept,
                      stacklevel=2)  # fmt: skip
        return made, source["sha256"]
