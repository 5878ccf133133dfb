"""Parts as other tools have them: from one vector to one vector."""

from __future__ import annotations

import torch

from thoughtscope.core.errors import DictionaryMismatch
from thoughtscope.core.site import Site
from thoughtscope.dictionaries.dictionary import Part
from thoughtscope.dictionaries.formats.folding import Coder


def one_to_one(part: Part, format: str) -> tuple[Coder, Site, Site]:
    """A part as a coder, with the site that it reads and the one that it writes.

    Raises `DictionaryMismatch` for a part of several sites, or with offsets, which no such layout holds.
    """
    if len(part.reads) != 1 or len(part.writes) != 1 or part.offset:
        what = (
            "writes offsets"
            if part.offset
            else f"reads {len(part.reads)} sites and writes {len(part.writes)}"
        )
        raise DictionaryMismatch(
            f"{format} holds what reads one site and writes one; part {part.name} {what}. Use the native format."
        )
    (read,), (write,) = part.reads, part.writes
    W_dec = part.W_dec[write]
    bias = part.b_dec.get(write)
    coder = Coder(
        activation=part.activation,
        W_enc=part.W_enc[read],
        b_enc=part.b_enc,
        W_dec=W_dec,
        b_dec=torch.zeros(W_dec.shape[1], dtype=W_dec.dtype) if bias is None else bias,
        threshold=part.threshold,
        W_skip=part.W_skip,
        normalise=part.normalise,
    )
    return coder, read, write


def widest(coder: Coder) -> torch.dtype:
    """The narrowest type that holds every tensor of a coder exactly."""
    found = coder.W_enc.dtype
    for tensor in (coder.b_enc, coder.W_dec, coder.b_dec, coder.threshold, coder.W_skip):
        found = found if tensor is None else torch.promote_types(found, tensor.dtype)
    return found
