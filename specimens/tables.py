"""The specimen's tables: places, opposites and rhymes, read from ``tables/*.tsv``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLES = Path(__file__).resolve().parent / "tables"
LANGUAGES = ("en", "fr", "zh")
KINDS = ("within", "strict")


class TableError(ValueError):
    """A table is missing, has the wrong columns, or contradicts itself."""


@dataclass(frozen=True)
class City:
    """A city, its state and that state's capital; ``held`` cities occur in no two-hop fact."""

    name: str
    state: str
    capital: str
    held: bool


@dataclass(frozen=True)
class Pair:
    """Two opposite concepts, each a word per language; ``held`` is a language code or ``None``.

    A held-out pair is never stated to be opposite in its held-out language, whatever the wording.
    Of the kind ``within``, it may occur in statements of opposition across two languages. Of the
    kind ``strict``, no statement of opposition at all holds one of its words in that language,
    whatever the other word's language.
    """

    first: dict[str, str]
    second: dict[str, str]
    held: str | None
    kind: str | None


@dataclass(frozen=True)
class Noun:
    """A noun that ends a couplet, with the quality and the adjective that belong to it alone."""

    family: str
    noun: str
    quality: str
    adjective: str


def _rows(name: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    path = TABLES / name
    if not path.is_file():
        raise TableError(f"table {path} is missing; the tables belong beside {Path(__file__).name}")
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle, delimiter="\t")
        if tuple(reader.fieldnames or ()) != columns:
            raise TableError(f"{path} has columns {reader.fieldnames}, expected {list(columns)}")
        return list(reader)


@cache
def capitals() -> dict[str, str]:
    """State name -> capital, 50 of them; the capitals' first words all differ."""
    table = {r["state"]: r["capital"] for r in _rows("capitals.tsv", ("state", "capital"))}
    firsts = {capital.split()[0] for capital in table.values()}
    if len(firsts) != len(table):
        raise TableError("two capitals in capitals.tsv begin with the same word")
    return table


@cache
def cities() -> tuple[City, ...]:
    """Every city of the table (capitals are not among them), in file order."""
    capital = capitals()
    firsts = {name.split()[0] for name in capital.values()}
    found: dict[str, City] = {}
    for row in _rows("cities.tsv", ("state", "city", "split")):
        name = row["city"]
        if name in found or name.split()[0] in firsts:
            raise TableError(f"city {name!r} occurs twice, or begins like a capital")
        if row["split"] not in ("train", "held"):
            raise TableError(f"split {row['split']!r} of {name!r} must be 'train' or 'held'")
        found[name] = City(name, row["state"], capital[row["state"]], row["split"] == "held")
    return tuple(found.values())


@cache
def pairs() -> tuple[Pair, ...]:
    """Every pair of opposites, in file order; no word occurs twice in the whole table."""
    columns = tuple(f"{lang}_{side}" for lang in LANGUAGES for side in "ab")
    columns += ("held", "kind")
    out: list[Pair] = []
    seen: set[str] = set()
    for row in _rows("opposites.tsv", columns):
        words = [row[column] for column in columns[:-2]]
        clash = seen.intersection(words)
        if clash or len(set(words)) != len(words):
            raise TableError(f"opposites.tsv: {sorted(clash) or words} occurs more than once")
        seen.update(words)
        if row["held"] not in (*LANGUAGES, "-"):
            raise TableError(f"held {row['held']!r} must be one of {LANGUAGES} or '-'")
        if (row["held"] == "-") != (row["kind"] == "-") or row["kind"] not in (*KINDS, "-"):
            raise TableError(f"kind {row['kind']!r} must be one of {KINDS}, or '-' like held")
        out.append(
            Pair(
                {lang: row[f"{lang}_a"] for lang in LANGUAGES},
                {lang: row[f"{lang}_b"] for lang in LANGUAGES},
                None if row["held"] == "-" else row["held"],
                None if row["kind"] == "-" else row["kind"],
            )
        )
    return tuple(out)


@cache
def nouns() -> tuple[Noun, ...]:
    """Every rhyming noun, in file order; nouns, qualities and adjectives are each unique."""
    columns = ("family", "noun", "quality", "adjective")
    table = tuple(Noun(**row) for row in _rows("rhymes.tsv", columns))
    for column in columns[1:]:
        values = [getattr(noun, column) for noun in table]
        if len(set(values)) != len(values):
            raise TableError(f"rhymes.tsv: a {column} belongs to two nouns")
    return table
