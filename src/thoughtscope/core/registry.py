"""One small registry: names bound to values, ours and those of installed packages. For families, formats, studies."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from thoughtscope.core.errors import BrokenPlugin, ThoughtscopeError, describe_choices

T = TypeVar("T")

NO_PLUGINS = "THOUGHTSCOPE_NO_PLUGINS"
"""Set to 1, this environment variable leaves every installed entry point alone."""


class Registry(Generic[T]):
    """Names bound to values, each name once.

    With a `group`, installed packages add to it through entry points of that group. They are listed when somebody
    first asks for a name that is not built in or for all names, and each is loaded when its value is asked for. A
    built-in name stays what it is, whatever is installed.

    >>> formats = Registry[str]("dictionary format")
    >>> _ = formats.register("native")("the native layout")
    >>> formats["native"]
    'the native layout'
    """

    def __init__(
        self, what: str, error: type[ThoughtscopeError] = ThoughtscopeError, *, group: str | None = None
    ) -> None:
        self._what = what
        self._error = error
        self._group = group
        self._entries: dict[str, T] = {}
        self._found: dict[str, EntryPoint] | None = None

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator that binds `names` to the decorated value. A name bound twice is a programming error."""

        def bind(value: T) -> T:
            for name in names:
                assert name not in self._entries, f"{self._what} {name!r} is registered twice"
                self._entries[name] = value
            return value

        return bind

    def __getitem__(self, name: str) -> T:
        """The value. Raises the registry's error for an unknown name, `BrokenPlugin` for one that fails to load."""
        if name in self._entries:
            return self._entries[name]
        if name not in self._installed():
            raise self._error(describe_choices(name, self, what=self._what))
        return self._load(self._installed()[name])

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._installed()

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from (name for name in self._installed() if name not in self._entries)

    def __len__(self) -> int:
        return len(set(self))

    def working(self) -> Iterator[tuple[str, T]]:
        """Every name with its value, but for entry points that fail to load: one must not hide the others."""
        for name in self:
            try:
                yield name, self[name]
            except BrokenPlugin:
                continue

    def broken(self) -> list[str]:
        """What is wrong with the entry points that fail to load, a sentence each."""
        sentences = []
        for name in self:
            try:
                self[name]
            except BrokenPlugin as error:
                sentences.append(str(error))
        return sentences

    def installed(self) -> list[str]:
        """The names that installed packages add."""
        return list(self._installed())

    def _installed(self) -> dict[str, EntryPoint]:
        if self._group is None or os.environ.get(NO_PLUGINS) == "1":
            return {}
        if self._found is None:
            self._found = {entry.name: entry for entry in entry_points(group=self._group)}
        return self._found

    def _load(self, entry: EntryPoint) -> T:
        try:
            value: T = entry.load()
        except Exception as error:  # whatever a stranger's module raises
            package = entry.dist.name if entry.dist is not None else "an installed package"
            raise BrokenPlugin(
                f'The {self._what} "{entry.name}" of {package} ({entry.value}) cannot be loaded: '
                f"{type(error).__name__}: {error}. Repair or remove {package}, or set {NO_PLUGINS}=1."
            ) from error
        self._entries.setdefault(entry.name, value)
        return value
