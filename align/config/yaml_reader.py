"""Reads a recipe file: strictly, within limits, and with the line of every key.

A file is small text written by a person. Everything that YAML can do beyond that (tags that build objects,
aliases that multiply, numbers in base 8 and 60) is refused before anything is built from it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

import align
from align.config.refuse import Finding, refuse_key, refuse_text
from align.errors import ConfigError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 5_000
PACKAGE_PARENT = Path(align.__file__).resolve().parent.parent
PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "map", "seq", "merge")
)
OTHER_BASE = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
SYNTAX = "check quotes, brackets and indentation"
_DROPPED: Final = object()

Key = tuple[str, ...]


class RecipeLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with floats as JSON and YAML 1.2 have them (`1e-5`) and without dates."""


RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


@dataclass
class Document:
    """A file that was read.

    Attributes:
        path: The file.
        data: Its mapping, without the parts that are refused.
        lines: Key path -> line, from 1.
        raw: Key path -> a plain scalar as it is written, `no` where `data` has False.
        problems: What is refused.
        head: The comment lines before the first key.
    """

    path: Path
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Key, int] = field(default_factory=dict)
    raw: dict[Key, str] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    head: str = ""


def shown(path: Path) -> str:
    """A path as a person would name it: from the working folder, from the installed package, or in full."""
    for start in (Path.cwd(), PACKAGE_PARENT):
        if path.is_relative_to(start):
            return str(path.relative_to(start))
    return str(path)


def read(path: Path) -> Document:
    """Read one file.

    Raises:
        ConfigError: The file cannot be read as YAML at all, or is beyond the limits.
    """
    text = _text(path)
    document = Document(path, head=text[:512])
    try:
        _check_limits(text, shown(path))
        loader = RecipeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return document
        if _size(root, {}) > MAX_NODES:
            raise ConfigError(
                shown(path), f"its aliases stand for more than {MAX_NODES} values", "write it without aliases"
            )
        _Builder(document, loader).build_root(root)
    except yaml.YAMLError as error:
        raise _syntax_error(error, shown(path), text) from None
    return document


def _text(path: Path) -> str:
    name = shown(path)
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise ConfigError(
                name, f"{size:,} bytes", f"a recipe has at most {MAX_BYTES:,}: data has files of its own"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            name, f"cannot be read: {error.strerror}", "check the file and its permissions"
        ) from None
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        what = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise ConfigError(_place(name, before), what, "save the file as UTF-8") from None
    tab = re.search(r"^[ ]*\t", text, re.MULTILINE)
    if tab:
        raise ConfigError(_place(name, text[: tab.end() - 1]), "a tab", "indent with spaces")
    return text


def _place(name: str, before: str) -> str:
    """`file:line:column` of the character after `before`, both from 1."""
    return f"{name}:{before.count(chr(10)) + 1}:{len(before) - (before.rfind(chr(10)) + 1) + 1}"


def _check_limits(text: str, name: str) -> None:
    """Count events, which costs no memory and no recursion, before nodes are made of them."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=RecipeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        line = event.start_mark.line + 1 if event.start_mark else 0
        if depth > MAX_DEPTH:
            raise ConfigError(f"{name}:{line}", f"nested more than {MAX_DEPTH} deep", "a recipe is flat")
        if count > 2 * MAX_NODES:
            raise ConfigError(f"{name}:{line}", f"more than {MAX_NODES} values", "data has files of its own")


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Values that a node stands for once aliases are written out; a node within itself counts as too many."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_NODES + 1
    children: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    known[id(node)] = 1 + sum(_size(child, known) for child in children)
    return known[id(node)]


def _syntax_error(error: yaml.YAMLError, name: str, text: str) -> ConfigError:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        if "'\\t'" in (error.problem or ""):
            return ConfigError(place, "a tab", "separate with spaces")
        return ConfigError(place, f"not YAML: {error.problem or error.context}", SYNTAX)
    if isinstance(error, yaml.reader.ReaderError):
        place = _place(name, text[: error.position])
        return ConfigError(
            place, f"the character U+{error.character:04X} is not allowed in YAML", "remove it"
        )
    return ConfigError(name, f"not YAML: {error}", SYNTAX)


class _Builder:
    """Turns nodes into plain values, noting lines and what is refused. Refused parts are left out."""

    def __init__(self, document: Document, loader: RecipeLoader) -> None:
        self.document, self.loader = document, loader
        self.name = shown(document.path)

    def build_root(self, root: yaml.Node) -> None:
        """Fill the document from its root node."""
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError(f"{self.name}:{root.start_mark.line + 1}", "no keys", "write key: value")
        self.document.data = self._mapping(root, ())

    def _refuse(self, key: Key, node: yaml.Node, what: str, fix: str) -> None:
        where = f"{self.name}:{node.start_mark.line + 1}"
        self.document.problems.append(Finding(".".join(key), what, fix, where))

    def _value(self, node: yaml.Node, key: Key) -> Any:
        if node.tag not in PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(key, node, f"the tag {tag} is refused", "write a plain value")
            return _DROPPED
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key)
        if isinstance(node, yaml.SequenceNode):
            items = [self._item(child, (*key, str(i))) for i, child in enumerate(node.value)]
            return [item for item in items if item is not _DROPPED]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, key)

    def _item(self, node: yaml.Node, key: Key) -> Any:
        self.document.lines[key] = node.start_mark.line + 1
        return self._value(node, key)

    def _scalar(self, node: yaml.ScalarNode, key: Key) -> Any:
        if node.style is None:
            self.document.raw[key] = node.value
        try:
            value = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, TypeError):
            self._refuse(
                key, node, f"{node.value!r} is no {node.tag.rpartition(':')[2]}", "write a plain value"
            )
            return _DROPPED
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and OTHER_BASE.fullmatch(node.value)
        ):
            self._refuse(key, node, f"YAML read `{node.value}` as {value}", f"write {value}, or quote it")
            return _DROPPED
        reason = refuse_text(value) if isinstance(value, str) else None
        if reason:
            self._refuse(key, node, *reason)
            return _DROPPED
        return value

    def _mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        self._check_duplicates(node, key)
        self.loader.flatten_mapping(node)  # writes out `<<: *anchor`; the node's own keys come later, and win
        built: dict[str, Any] = {}
        for name_node, value_node in node.value:
            if name_node.tag != "tag:yaml.org,2002:str":
                written = str(name_node.value) if isinstance(name_node, yaml.ScalarNode) else "?"
                self._refuse(
                    (*key, written), name_node, "is not text for YAML", "quote it, or choose another name"
                )
                continue
            below = (*key, name_node.value)
            self.document.lines[below] = name_node.start_mark.line + 1
            reason = refuse_key(name_node.value)
            if reason:
                self._refuse(below, name_node, *reason)
                continue
            value = self._value(value_node, below)
            if value is not _DROPPED:
                built[name_node.value] = value
        return built

    def _check_duplicates(self, node: yaml.MappingNode, key: Key) -> None:
        first: dict[str, int] = {}
        for name_node, _ in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                continue
            line = name_node.start_mark.line + 1
            if name_node.value in first:
                what = f"stands twice, in line {first[name_node.value]} and in line {line}"
                self._refuse((*key, name_node.value), name_node, what, "keep one")
            first.setdefault(name_node.value, line)
