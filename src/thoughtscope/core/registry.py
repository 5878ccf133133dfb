"""One small registry: a name → value table with a helpful refusal. Used for model families, formats and the like."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from thoughtscope.core.errors import ThoughtscopeError, describe_choices

T = TypeVar("T")


class Registry(Generic[T]):
    """Names bound to values, each name once.

    >>> formats = Registry[str]("dictionary format")
    >>> _ = formats.register("native")("the native layout")
    >>> formats["native"]
    'the native layout'
    """

    def __init__(self, what: str, error: type[ThoughtscopeError] = ThoughtscopeError) -> None:
        self._what = what
        self._error = error
        self._entries: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Decorator that binds `names` to the decorated value. A name bound twice is a programming error."""

        def bind(value: T) -> T:
            for name in names:
                assert name not in self._entries, f"{self._what} {name!r} is registered twice"
                self._entries[name] = value
            return value

        return bind

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise self._error(describe_choices(name, self._entries, what=self._what))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
