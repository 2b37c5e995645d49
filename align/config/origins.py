"""Where the value of a key comes from: the command line, a line of a file, or a default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Override

from align.config.command_line import TYPED
from align.config.yaml_reader import Document, Key, shown

DEFAULT = "default"


@dataclass(frozen=True)
class Layer:
    """A document, or a part of it, at its place in the configuration."""

    package: Key
    document: Document
    inside: Key = ()
    without: frozenset[str] = frozenset()  # top-level keys of the document that stand in another layer

    def key_in_document(self, key: Key) -> Key | None:
        """The key as the document has it, or None where it lies outside."""
        if key[: len(self.package)] != self.package or set(key[:1]) & self.without:
            return None
        return (*self.inside, *key[len(self.package) :])


class Origins:
    """Answers where a key was set. Later layers win over earlier ones, and overrides over all.

    Args:
        layers: Documents in the order in which Hydra merged them.
        overrides: Overrides of values, and of groups that are put at a key, in the order given.
    """

    def __init__(self, layers: Sequence[Layer], overrides: Sequence[Override]) -> None:
        self.layers = list(reversed(layers))
        self.overrides = list(reversed(overrides))

    def __call__(self, key: str) -> str:
        """`file:line`, `command line` or `default`: who gave exactly this key its value."""
        return self._exact(tuple(key.split("."))) or DEFAULT

    def nearest(self, key: str) -> str:
        """The same, or the place of the closest key above that was given: where a missing key belongs."""
        path = tuple(key.split("."))
        for length in range(len(path), 0, -1):
            place = (
                self._exact(path[:length]) or self._typed_below(path[:length]) or self._file_of(path[:length])
            )
            if place:
                return place
        recipes = [
            shown(layer.document.path) for layer in self.layers if layer.document.path.parent.name == "recipe"
        ]
        return recipes[0] if recipes else TYPED

    def raw(self, key: str) -> str | None:
        """The scalar as its file has it; None where a file did not set it."""
        path = tuple(key.split("."))
        if self._typed(path):
            return None
        for layer in self.layers:
            inside = layer.key_in_document(path)
            if inside is not None and inside in layer.document.raw:
                return layer.document.raw[inside]
        return None

    def _exact(self, path: Key) -> str | None:
        if self._typed(path):
            return TYPED
        for layer in self.layers:
            inside = layer.key_in_document(path)
            if inside and inside in layer.document.lines:
                return f"{shown(layer.document.path)}:{layer.document.lines[inside]}"
        return None

    def _file_of(self, path: Key) -> str | None:
        files = [shown(layer.document.path) for layer in self.layers if layer.package == path]
        return files[0] if files else None

    def _typed(self, path: Key) -> bool:
        return any(_holds(override, path) for override in self.overrides)

    def _typed_below(self, path: Key) -> str | None:
        return TYPED if any(_start(override)[: len(path)] == path for override in self.overrides) else None


def _start(override: Override) -> Key:
    """`stages.x` for `stages.x=...`, `stages.x.lr=...` as it stands, and for `stage@stages.x=ppo`."""
    return tuple((override.package or override.key_or_group).split("."))


def _holds(override: Override, path: Key) -> bool:
    """True where an override sets `path`, itself or as a part of its value."""
    start = _start(override)
    if override.package is not None or path[: len(start)] != start:
        return False
    value = None if override.is_sweep_override() or override.is_delete() else override.value()
    for name in path[len(start) :]:
        if not isinstance(value, dict) or name not in value:
            return not isinstance(value, dict)
        value = value[name]
    return True
