"""Names to components. A recipe names a component; it can never name Python code."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from align.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The most similar of `names`, or None where nothing is similar enough to be a helpful guess."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.8)
    return matches[0] if matches else None


class Registry(Generic[T]):
    """A dictionary of components of one sort, filled by a decorator.

    Example:
        >>> losses: Registry[Callable[[], int]] = Registry("loss")
        >>> @losses.register("one")
        ... def one() -> int:
        ...     return 1
        >>> losses.get("one")()
        1
    """

    def __init__(self, sort: str) -> None:
        self.sort = sort
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a component under `name`; a name is given once."""

        def add(item: T) -> T:
            if name in self._items:
                raise ValueError(f"{self.sort} {name!r} is registered twice")
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The component called `name`.

        Raises:
            ConfigError: No such name; the message gives the nearest one and the list.
        """
        if name in self._items:
            return self._items[name]
        near = nearest(name, self._items)
        hint = f"did you mean {near!r}?" if near else f"choose one of {', '.join(sorted(self._items))}"
        raise ConfigError(self.sort, f"no {self.sort} is called {name!r}", hint)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items
