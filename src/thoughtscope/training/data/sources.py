"""`Source`: where documents come from, by one spelling for the command line and one noun for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.dictionaries.documents import Document


@dataclass(frozen=True, kw_only=True)
class Source:
    """Documents that can be read from the start as often as wanted, always in the same order."""

    name: str
    """How a manifest names it, for example "text:folder"."""
    documents: Callable[[], Iterable[Document]] = field(repr=False)
    once: bool = False
    """A source that can be read a single time, and ends."""


def source_of(documents: Source | str | Iterable[Document] | Callable[[], Iterable[Document]]) -> Source:
    """A source of anything that holds documents: its spelling, a list, a function that returns them anew, an iterator.

    An iterator is read once. Raises `ThoughtscopeError` for what holds no documents.
    """
    if isinstance(documents, Source):
        return documents
    if isinstance(documents, str):
        return parse_source(documents)
    if callable(documents):
        return Source(name=getattr(documents, "__name__", "function"), documents=documents)
    if isinstance(documents, Iterator):
        return Source(name="iterator", documents=_once(documents), once=True)
    if isinstance(documents, Iterable):
        return Source(name=type(documents).__name__, documents=lambda: documents)
    raise ThoughtscopeError(
        f"{documents!r} holds no documents. Give a list of texts or token ids, a function that returns one, or a "
        'spelling such as "text:folder".'
    )


def parse_source(text: str) -> Source:
    """The source that a spelling names."""
    raise ThoughtscopeError(f'"{text}" is not a source of documents.')


def _once(documents: Iterator[Document]) -> Callable[[], Iterable[Document]]:
    def read() -> Iterable[Document]:
        return documents

    return read
