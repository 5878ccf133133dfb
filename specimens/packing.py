"""Documents to training rows: whole documents, packed, every row starting at a document start."""

from __future__ import annotations

from random import Random
from typing import Protocol

import torch
from transformers import PreTrainedTokenizerBase

ROW = 128
CHUNK_ROWS = 512
OPEN_ROWS = 16
SMALLEST_CUT = 32
FULL = ROW - 8


class Mixture(Protocol):
    """What documents are drawn from."""

    def draw(self, rng: Random) -> tuple[str, str]:
        """One document: its kind and its text; the end of one of kind "text" may be cut off."""


def _place(rows: list[list[int]], ids: list[int], cut: bool) -> None:
    """Append a document to the fullest open row that takes it, or open a row.

    Only documents marked ``cut`` may lose their end, and only where at least ``SMALLEST_CUT``
    tokens of them stay.
    """
    for row in sorted(rows, key=len, reverse=True):
        room = ROW - len(row)
        if len(ids) <= room or (cut and room >= SMALLEST_CUT):
            row.extend(ids[:room])
            return
    rows.append(ids[:ROW])


def chunk(
    mixture: Mixture, tokenizer: PreTrainedTokenizerBase, seed: int, number: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Chunk ``number`` of the corpus of ``seed``: token ids and labels, each [CHUNK_ROWS, ROW].

    Padding carries the label -100. A chunk depends on its arguments alone, so training resumes
    at any chunk.
    """
    rng = Random(f"{seed}:{number}")
    done: list[list[int]] = []
    rows: list[list[int]] = []
    while len(done) < CHUNK_ROWS:
        drawn = [mixture.draw(rng) for _ in range(256)]
        encoded = tokenizer([text for _, text in drawn], verbose=False)["input_ids"]
        for (kind, _), ids in zip(drawn, encoded, strict=True):
            _place(rows, ids, kind == "text")
            if len(rows) > OPEN_ROWS:
                done += [row for row in rows if len(row) >= FULL]
                rows = [row for row in rows if len(row) < FULL]
            if len(rows) > OPEN_ROWS:
                fullest = max(rows, key=len)
                rows.remove(fullest)
                done.append(fullest)
    rng.shuffle(done)
    ids = torch.full((CHUNK_ROWS, ROW), tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full((CHUNK_ROWS, ROW), -100, dtype=torch.long)
    for index, row in enumerate(done[:CHUNK_ROWS]):
        ids[index, : len(row)] = labels[index, : len(row)] = torch.tensor(row)
    return ids, labels
