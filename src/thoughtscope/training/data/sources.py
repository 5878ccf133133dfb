"""`Source`: where documents come from, by one spelling for the command line and one noun for Python.

    text:FOLDER                    each *.txt and *.md below it a document; a file on its own likewise. Long files are
                                   read in pieces, some files in turns, so that no book fills a buffer alone
    text:FILE#lines                each line a document; #paragraphs: what blank lines separate
    jsonl:FILE#FIELD               a field of each line: a text or a list of token ids; also a folder, also *.jsonl.gz
    hf:NAME:CONFIG@SPLIT#FIELD     a data set of the Hugging Face hub, streamed; all but NAME can be left out
    samples:tokens=128,seed=0      what the model itself writes; with chat=1, what it answers to questions
    MODULE:FUNCTION?seed=1&n=400   whatever an importable function returns

Installed packages add spellings through entry points of the group `thoughtscope.sources`.
"""

from __future__ import annotations

import gzip
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from thoughtscope.core.errors import CorruptArtefact, ThoughtscopeError, describe_choices
from thoughtscope.core.files import open_regular
from thoughtscope.core.parsing import JsonLimits, strict_json
from thoughtscope.core.registry import Registry
from thoughtscope.dictionaries.documents import Document

if TYPE_CHECKING:
    from thoughtscope.models import Model

PIECE = 32_768
"""Characters of the longest document that is read from a text file; a longer text is several, cut between paragraphs,
lines or words."""
IN_TURNS = 32
"""Text files that are read in turns."""
MAX_LINE = 64 * 2**20
"""Bytes of the longest line of a JSONL file."""
_TEXTS = ("*.txt", "*.md")
_JSONL = ("*.jsonl", "*.jsonl.gz")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents that can be read from the start as often as wanted, always in the same order."""

    name: str
    """How a manifest names it, for example "text:folder"."""
    documents: Callable[[], Iterable[Document]] = field(repr=False)
    once: bool = False
    """A source that can be read a single time, and ends."""


Maker = Callable[[str, "Model | None"], Source]
"""Makes a source of what stands behind the first colon of a spelling. The model is there if it is loaded by then."""

SOURCES = Registry[Maker]("source of documents", group="thoughtscope.sources")
"""The spellings, by what stands before the first colon."""


def source_of(
    documents: Source | str | Iterable[Document] | Callable[[], Iterable[Document]],
    model: Model | None = None,
) -> Source:
    """A source of anything that holds documents: its spelling, a list, a function that returns them anew, an iterator.

    An iterator is read once. Raises `ThoughtscopeError` for what holds no documents.
    """
    if isinstance(documents, Source):
        return documents
    if isinstance(documents, str):
        return parse_source(documents, model)
    if callable(documents):
        return Source(name=getattr(documents, "__name__", "function"), documents=documents)
    if isinstance(documents, Iterator):
        return Source(name="iterator", documents=partial(_itself, documents), once=True)
    if isinstance(documents, Iterable):
        return Source(name=type(documents).__name__, documents=partial(_itself, documents))
    raise ThoughtscopeError(
        f"{documents!r} holds no documents. Give a list of texts or token ids, a function that returns one, or a "
        'spelling such as "text:folder".'
    )


def parse_source(text: str, model: Model | None = None) -> Source:
    """The source that a spelling names; see the module's text. `samples:` needs the model.

    Raises `ThoughtscopeError` for one that does not parse or is not there, before any document is read.
    """
    kind, colon, rest = text.partition(":")
    if not colon or not rest:
        raise ThoughtscopeError(
            f'"{text}" names no source of documents. Write kind:what, for example "text:folder" or '
            '"jsonl:file.jsonl#text".'
        )
    if kind in SOURCES:
        return SOURCES[kind](rest, model)
    if re.fullmatch(r"[A-Za-z_][\w.]*", kind) is None or _specification(kind) is None:
        raise ThoughtscopeError(
            describe_choices(kind, SOURCES, what="source of documents")
            + " Nor is it a module that can be imported."
        )
    return _of_function(kind, rest)


def options(text: str, allowed: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """`name=value,name=value` over defaults, each as the type of its default. Raises `ThoughtscopeError`."""
    found = dict(allowed)
    for item in filter(None, text.split(",")):
        name, _, value = item.partition("=")
        if name not in allowed:
            raise ThoughtscopeError(describe_choices(name, allowed, what=f"setting of {where}"))
        try:
            found[name] = type(allowed[name])(value)
        except ValueError:
            raise ThoughtscopeError(
                f'{where}: {name} is a number, for example {name}={allowed[name]}; got "{value}".'
            ) from None
    return found


def _itself(documents: Iterable[Document]) -> Iterable[Document]:
    return documents


class Documents:
    """The documents of a source, from the start each time; what a look ahead took of an iterator is given again."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen: list[Document] = []
        self._rest: Iterator[Document] | None = None
        self._taken = False

    def peek(self) -> Iterator[Document]:
        """Once through, for a look that does not count as a reading."""
        return self._recorded() if self._source.once else iter(self._source.documents())

    def through(self) -> Iterator[Document]:
        """Once through. Raises `ThoughtscopeError` for the second reading of what can be read once only."""
        if not self._source.once:
            return iter(self._source.documents())
        if self._taken:
            raise ThoughtscopeError(
                f"The {self._source.name} can be read once only, and was. Give a list, or a function that returns the "
                "documents anew."
            )
        self._taken = True
        seen, self._seen = self._seen, []
        return chain(seen, self._iterator())

    def endless(self) -> Iterator[Document]:
        """Over and over, but for what can be read once only, which ends. Raises `ThoughtscopeError` as `through` does,
        and where there are no documents."""
        return self.through() if self._source.once else self._repeated()

    def _repeated(self) -> Iterator[Document]:
        while True:
            some = False
            for document in self._source.documents():
                some = True
                yield document
            if not some:
                raise ThoughtscopeError(f"{self._source.name} holds no documents.")

    def _recorded(self) -> Iterator[Document]:
        yield from tuple(self._seen)
        for document in self._iterator():
            self._seen.append(document)
            yield document

    def _iterator(self) -> Iterator[Document]:
        if self._rest is None:
            self._rest = iter(self._source.documents())
        return self._rest


# --- texts ---------------------------------------------------------------------------------------------------------


@SOURCES.register("text")
def _text(rest: str, model: Model | None) -> Source:
    path, unit = _path_and(rest, default="files")
    units = {"files": _whole, "lines": _lines, "paragraphs": _paragraphs}
    if unit not in units:
        raise ThoughtscopeError(describe_choices(unit, units, what="way to take documents from a text"))
    files = _files(path, _TEXTS)

    def documents_of(file: Path) -> Iterator[Document]:
        with _opened(file) as opened:
            try:
                yield from units[unit](opened)
            except UnicodeDecodeError as error:
                raise CorruptArtefact(
                    f"{file} is not UTF-8 at byte {error.start} or after. Convert it."
                ) from None

    return Source(name=f"text:{rest}", documents=lambda: _in_turns(map(documents_of, files)))


def _in_turns(readers: Iterator[Iterator[Document]]) -> Iterator[Document]:
    """A document of each of the first `IN_TURNS` readers, then one more of each; who is done makes room."""
    going = deque(islice(readers, IN_TURNS))
    while going:
        reader = going.popleft()
        document = next(reader, None)
        if document is not None:
            yield document
            going.append(reader)
        elif (fresh := next(readers, None)) is not None:
            going.appendleft(fresh)


def _whole(file: TextIOWrapper) -> Iterator[str]:
    """A file as one text, or in pieces that give it again when put together."""
    text = ""
    while more := file.read(PIECE):
        text += more
        while len(text) > PIECE:
            cut = _cut(text[:PIECE])
            yield text[:cut]
            text = text[cut:]
    if text:
        yield text


def _cut(text: str) -> int:
    """Where a text is best cut: behind its last blank line, line or word that lies in its second half."""
    for between in ("\n\n", "\n", " "):
        at = text.rfind(between, len(text) // 2)
        if at >= 0:
            return at + len(between)
    return len(text)


def _lines(file: TextIOWrapper) -> Iterator[str]:
    while line := file.readline(PIECE):
        if stripped := line.rstrip("\n"):
            yield stripped


def _paragraphs(file: TextIOWrapper) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    while line := file.readline(PIECE):
        if line.strip():
            lines.append(line)
            size += len(line)
        if lines and (not line.strip() or size >= PIECE):
            yield "".join(lines).rstrip("\n")
            lines, size = [], 0
    if lines:
        yield "".join(lines).rstrip("\n")


# --- JSONL ---------------------------------------------------------------------------------------------------------


@SOURCES.register("jsonl")
def _jsonl(rest: str, model: Model | None) -> Source:
    path, name = _path_and(rest, default="text")
    files = _files(path, _JSONL)

    def documents() -> Iterator[Document]:
        for file in files:
            with _opened(file) as opened:
                yield from _records(file, opened, name)

    return Source(name=f"jsonl:{rest}", documents=documents)


def _records(file: Path, opened: TextIOWrapper, name: str) -> Iterator[Document]:
    number = 0
    while line := _line(file, opened, number + 1):
        number += 1
        if line.strip():
            where = f"{file}, line {number}"
            yield document_in(strict_json(line, where, limits=JsonLimits(size=MAX_LINE)), name, where)


def _line(file: Path, opened: TextIOWrapper, number: int) -> str:
    try:
        line = opened.readline(MAX_LINE)
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise CorruptArtefact(f"{file}, line {number} or after, cannot be read: {error}.") from None
    if len(line) >= MAX_LINE:
        raise CorruptArtefact(f"{file}, line {number} has more than {MAX_LINE:,} characters.")
    return line


def document_in(record: Any, name: str, where: str) -> Document:
    """The document in a field of a record: a text or a list of token ids. Raises `CorruptArtefact`."""
    if not isinstance(record, Mapping) or name not in record:
        held = record if isinstance(record, Mapping) else ()
        raise CorruptArtefact(
            f"{where}: " + describe_choices(name, held, what="field there") + " Name one after #."
        )
    value = record[name]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(type(token) is int for token in value):
        return value
    raise CorruptArtefact(f'{where}: "{name}" is neither a text nor a list of token ids.')


# --- the Hugging Face hub ------------------------------------------------------------------------------------------

_HUB = re.compile(
    r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<config>[^@#]+))?(?:@(?P<split>[^#]+))?(?:#(?P<field>.+))?"
)


@SOURCES.register("hf")
def _hub(rest: str, model: Model | None) -> Source:
    match = _HUB.fullmatch(rest)
    if match is None:
        raise ThoughtscopeError(
            f'"hf:{rest}" names no data set. Write hf:org/name:config@split#field; all but the name can be left out.'
        )
    _check_hub(rest)
    name, config, split, column = match.groups()

    def documents() -> Iterator[Document]:
        _check_hub(rest)
        with _hub_told(rest):
            load = import_module("datasets").load_dataset
            for record in load(name, config, split=split or "train", streaming=True):
                yield document_in(record, column or "text", f"hf:{rest}")

    return Source(name=f"hf:{rest}", documents=documents)


def _check_hub(rest: str) -> None:
    """Raises `ThoughtscopeError` within seconds where no data set can be streamed."""
    from thoughtscope.models.checkpoints import silent, unreachable

    instead = (
        f"Or save the texts as JSONL where there is a network, and name jsonl:FILE instead of hf:{rest}."
    )
    if _specification("datasets") is None:
        raise ThoughtscopeError(
            f'Data sets of the hub need a package: pip install "thoughtscope[datasets]". {instead}'
        )
    why_not = unreachable() or silent()
    if why_not is not None:
        raise ThoughtscopeError(f"hf:{rest} cannot be streamed: {why_not}. Connect first. {instead}")


@contextmanager
def _hub_told(rest: str) -> Iterator[None]:
    """Turns whatever the data set library raises into one of ours."""
    try:
        yield
    except (ThoughtscopeError, GeneratorExit):
        raise
    except Exception as error:
        raise ThoughtscopeError(f"hf:{rest} cannot be read: {type(error).__name__}: {error}") from error


# --- functions and the model's own samples ---------------------------------------------------------------------------


def _of_function(module: str, rest: str) -> Source:
    """`module:function?name=value&…`: values are JSON where they can be, texts where not."""
    name, _, query = rest.partition("?")
    try:
        function = getattr(import_module(module), name)
    except Exception as error:  # whatever a stranger's module raises
        raise ThoughtscopeError(
            f'"{module}:{rest}" names no function: {type(error).__name__}: {error}'
        ) from error
    if not callable(function):
        raise ThoughtscopeError(f'"{module}:{name}" is no function but {type(function).__name__}.')
    given = {key: _value(value) for key, value in parse_qsl(query, keep_blank_values=True)}

    def documents() -> Iterable[Document]:
        try:
            return function(**given)
        except TypeError as error:
            raise ThoughtscopeError(f'"{module}:{rest}" cannot be called so: {error}.') from error

    return Source(name=f"{module}:{rest}", documents=documents)


def _value(text: str) -> Any:
    try:
        return strict_json(text, "an argument")
    except ThoughtscopeError:
        return text


@SOURCES.register("samples")
def _samples(rest: str, model: Model | None) -> Source:
    from thoughtscope.training.data.samples import Sampling, samples

    chosen = options(
        rest.removeprefix("default"),
        {"tokens": 128, "temperature": 1.0, "seed": 0, "n": 0, "chat": 0},
        where="samples",
    )
    if model is None:
        raise ThoughtscopeError(f"samples:{rest} are of a model. Name the model too.")
    sampling = Sampling(**chosen)
    return Source(name=f"samples:{rest}", documents=partial(samples, model, sampling))


# --- files ---------------------------------------------------------------------------------------------------------


def _path_and(rest: str, *, default: str) -> tuple[Path, str]:
    """`path#word`; a path that itself holds the sign is taken as it is where there is such a file."""
    path, sign, word = rest.rpartition("#")
    if not sign or Path(rest).expanduser().exists():
        return Path(rest).expanduser(), default
    return Path(path).expanduser(), word


def _files(path: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The file that a path names, or those below the folder, in the order of their names. Raises for none."""
    if path.is_dir():
        files = sorted({file for pattern in patterns for file in path.rglob(pattern) if file.is_file()})
        if not files:
            raise ThoughtscopeError(f"The folder {path} has no {' or '.join(patterns)} in it.")
        return files
    if not path.exists():
        raise ThoughtscopeError(f"There is no file or folder {path}.")
    return [path]


@contextmanager
def _opened(path: Path) -> Iterator[TextIOWrapper]:
    """A text file, decompressed where its name says so. Raises `CorruptArtefact` for what is no regular file."""
    try:
        binary = open_regular(path)
    except FileNotFoundError:
        raise CorruptArtefact(f"{path} has gone since it was listed.") from None
    with binary:
        plain: Any = gzip.GzipFile(fileobj=binary) if path.suffix == ".gz" else binary
        yield TextIOWrapper(plain, encoding="utf-8", newline="\n")


def _specification(module: str) -> object:
    """Whether a module can be imported, without importing it (but for the packages around it)."""
    try:
        return find_spec(module)
    except (ImportError, ValueError):
        return None
