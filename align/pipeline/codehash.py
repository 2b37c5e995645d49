"""The code that a stage is made of, as hashes of syntax trees: comments, docstrings and layout do not count.

Imports are read, not run, so finding the code of a stage loads nothing heavy.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import align

ROOT = Path(align.__file__).parent
PACKAGE = "align"
SHOWN = 12  # hex digits
# What shows, plans and checks, but computes nothing that ends up in an artifact.
EXCLUDED = (
    "align.report",
    "align.pipeline",
    "align.run",
    "align.config.compose",
    "align.config.hints",
    "align.config.source",
    "align.config.json_schema",
    "align.errors",
)


def code_of(module: str, root: Path = ROOT) -> dict[str, str]:
    """Hash of each module of the package that `module` reaches through imports, itself included.

    Imports inside functions count; those for type checkers only do not.

    Args:
        module: Dotted name, for example `align.stages.rl`.
        root: Folder of the package.

    Returns:
        Dotted name -> first 12 hex digits of the SHA-256 of its syntax tree, sorted by name.

    Raises:
        ModuleNotFoundError: The package has no such module.
    """
    if _file_of(module, root) is None:
        raise ModuleNotFoundError(f"no module {module!r} under {root}")
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or _is_excluded(name):
            continue
        path = _file_of(name, root)
        if path is None:
            continue  # a name inside a module, not a module
        found[name], imported = _parsed(path, name)
        waiting += imported
        waiting += _parents(name)
    return dict(sorted(found.items()))


def _is_excluded(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in EXCLUDED)


def _parents(name: str) -> list[str]:
    """Packages whose `__init__` is run when `name` is imported."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _file_of(name: str, root: Path) -> Path | None:
    head, *rest = name.split(".")
    if head != PACKAGE:
        return None
    path = root.joinpath(*rest)
    for candidate in (path / "__init__.py", path.with_suffix(".py") if rest else None):
        if candidate is not None and candidate.is_file():
            return candidate
    return None


@cache
def _parsed(path: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a file's tree, and every name in the package that its imports may mean."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imported = tuple(sorted(set(_imports(tree, package))))
    digest = hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()
    return digest[:SHOWN], imported


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(node, package)
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        if not _for_type_checkers(child):
            yield from _imports(child, package)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _plain(node: Any) -> Any:
    """A tree as nested tuples without places, docstrings and empty fields, which differ between Pythons."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = []
    for name, value in ast.iter_fields(node):
        kept = _without_docstring(node, value) if name == "body" else value
        if kept is not None and kept != []:
            fields.append((name, _plain(kept)))
    return (type(node).__name__, fields)


def _without_docstring(node: ast.AST, body: Any) -> Any:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None:
        return body[1:]
    return body
