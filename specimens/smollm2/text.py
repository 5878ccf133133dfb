"""Text to train dictionaries on: every text below a folder, in pieces, shuffled; whole files held out.

    python -m specimens.smollm2.text FOLDER OUT      writes OUT/train.jsonl and OUT/held_out.jsonl

Text files (.txt, .md) are cut between paragraphs; of JSON files the longer strings count, without their markup; of
tables (.tsv) the first column, rows together. A file is held out as a whole, by the hash of its name, so that what is
scored comes from another book or another site than what was trained on.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

PIECE = 2000
"""Characters of a document, about."""
SENTENCE = 40
"""Characters from which a string in a JSON file counts as text."""
HELD_OUT = 10
"""One file in this many is held out."""
NO_TEXT = re.compile(r"(?i)^(licen[cs]e|source|readme|about|copying)|_about\.")


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path)
    options.add_argument("out", type=Path)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, held in (("train", False), ("held_out", True)):
        found = documents(chosen.folder, held_out=held, seed=chosen.seed)
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in found)
        (chosen.out / f"{name}.jsonl").write_text(lines)
        print(f"{name}: {len(found):,} documents, {sum(map(len, found)):,} characters")


def documents(folder: Path, *, held_out: bool, seed: int = 0) -> list[str]:
    """All pieces of the files that are held out, or of the others, shuffled."""
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        if (
            path.suffix in _READERS
            and not NO_TEXT.search(path.name)
            and is_held_out(path, folder) == held_out
        ):
            found += pieces(path)
    Random(seed).shuffle(found)
    return found


def is_held_out(path: Path, folder: Path) -> bool:
    """By its name below the folder alone, so that another file more or less changes nothing."""
    name = path.relative_to(folder).as_posix().encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:4], "big") % HELD_OUT == 0


def pieces(path: Path) -> Iterator[str]:
    """The texts of a file, put together to about `PIECE` characters and cut to at most twice that."""
    held: list[str] = []
    for text in _READERS[path.suffix](path):
        held.append(text)
        if sum(map(len, held)) >= PIECE:
            yield from _cut("\n\n".join(held))
            held = []
    if held:
        yield from _cut("\n\n".join(held))


def _cut(text: str) -> Iterator[str]:
    for start in range(0, len(text), 2 * PIECE):
        yield text[start : start + 2 * PIECE]


def _paragraphs(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="replace")
    yield from (block.strip() for block in re.split(r"\n\s*\n", text) if block.strip())


def _strings(path: Path) -> Iterator[str]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return
    yield from (text for text in map(_plain, _walk(data)) if len(text) >= SENTENCE)


def _walk(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for each in data.values() if isinstance(data, dict) else data:
            yield from _walk(each)


def _plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", text)).strip()


def _first_column(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        first = line.partition("\t")[0].strip()
        if " " in first:
            yield first


_READERS = {".txt": _paragraphs, ".md": _paragraphs, ".json": _strings, ".tsv": _first_column}


if __name__ == "__main__":
    main()
