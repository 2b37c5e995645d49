"""The shape of the source: imports point down, files and functions are short, what is public is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import align

ROOT = Path(align.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ARCHITECTURE = ROOT.parent / "ARCHITECTURE.md"


def levels() -> list[list[str]]:
    """Rooms from top to bottom; those on one level do not know each other."""
    (order,) = re.findall(r"`(run > [^`]+)`", ARCHITECTURE.read_text(encoding="utf-8"))
    return [[room.strip() for room in level.split(",")] for level in order.split(">")]


LEVEL = {room: number for number, rooms in enumerate(levels()) for room in rooms}
MAX_FILE, MAX_FUNCTION, P90_FUNCTION, MAX_NESTING = 400, 60, 40, 3
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def shown(path: Path) -> str:
    return path.relative_to(ROOT.parent).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(path: Path) -> str | None:
    """The room of a file; None for the package's own `__init__`."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of each import of the package, those inside functions too."""
    for node in ast.walk(tree(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{shown(path)}:{node.lineno}: imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "align" else [module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "align" and len(parts) > 1 and not parts[1].startswith("__"):
                yield node.lineno, parts[1]


def may_import(room: str, other: str) -> bool:
    return room == other or LEVEL[room] < LEVEL[other] or (room, other) == ("registry", "errors")


def test_every_room_has_its_level() -> None:
    assert {room for path in FILES if (room := room_of(path))} == set(LEVEL)


def test_imports_point_down() -> None:
    wrong = [
        f"{shown(path)}:{line}: {room} imports {other}"
        for path in FILES
        if (room := room_of(path))
        for line, other in imported_rooms(path)
        if not may_import(room, other)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_rule_itself() -> None:
    assert may_import("stages", "errors")
    assert may_import("stages", "stages")
    assert not may_import("engine", "models")
    assert not may_import("training", "rollout")
    assert not may_import("rollout", "training")


def test_files_are_short() -> None:
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lengths.items() if count > MAX_FILE}


@dataclass(frozen=True)
class Found:
    """A function and where it stands."""

    path: Path
    node: Function
    public: bool

    def __str__(self) -> str:
        return f"{shown(self.path)}:{self.node.lineno}: {self.node.name}"

    @property
    def lines(self) -> int:
        """From `def` to its last line."""
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1


@cache
def functions() -> list[Found]:
    """Every function; public are those of modules and public classes without a leading underscore."""
    found: list[Found] = []

    def collect(path: Path, body: list[ast.stmt], public: bool) -> None:
        for node in body:
            if isinstance(node, Function):
                named = not node.name.startswith("_") or node.name == "__init__"
                found.append(Found(path, node, public and named))
                collect(path, node.body, False)
            elif isinstance(node, ast.ClassDef):
                collect(path, node.body, public and not node.name.startswith("_"))

    for path in FILES:
        collect(path, tree(path).body, True)
    return found


def test_functions_are_short() -> None:
    long = [
        f"{function}: {function.lines} lines" for function in functions() if function.lines > MAX_FUNCTION
    ]
    assert not long, "\n".join(long)
    lengths = sorted(function.lines for function in functions())
    assert lengths[int(0.9 * len(lengths))] <= P90_FUNCTION


def nesting(body: list[ast.stmt]) -> int:
    """Levels of compound statements; `elif` adds none, and a function inside starts anew."""
    deepest = 0
    for node in body:
        if not isinstance(node, COMPOUND):
            continue
        inner = 1 + max((nesting(part) for part in _bodies(node)), default=0)
        orelse = getattr(node, "orelse", [])
        chained = isinstance(node, ast.If) and len(orelse) == 1 and isinstance(orelse[0], ast.If)
        deepest = max(deepest, inner, nesting(orelse) if chained else 1 + nesting(orelse))
    return deepest


def _bodies(node: ast.stmt) -> list[list[ast.stmt]]:
    parts = [getattr(node, "body", []), getattr(node, "finalbody", [])]
    parts += [handler.body for handler in getattr(node, "handlers", [])]
    return parts + [case.body for case in getattr(node, "cases", [])]


@pytest.mark.parametrize(
    ("source", "depth"),
    [
        ("x = 1", 0),
        ("if a:\n  b\nelif c:\n  d\nelse:\n  e", 1),
        ("for a in b:\n  if c:\n    with d:\n      e", 3),
        ("try:\n  a\nexcept E:\n  if b:\n    c", 2),
        ("if a:\n  def f():\n    if b:\n      c", 1),
        ("for a in b:\n  c\nelse:\n  if d:\n    e", 2),
    ],
)
def test_how_nesting_is_counted(source: str, depth: int) -> None:
    assert nesting(ast.parse(source).body) == depth


def test_functions_are_flat() -> None:
    deep = [str(function) for function in functions() if nesting(function.node.body) > MAX_NESTING]
    assert not deep, "\n".join(deep)


def test_what_is_public_is_explained() -> None:
    bare = [shown(path) for path in FILES if tree(path).body and ast.get_docstring(tree(path)) is None]
    bare += [
        str(f)
        for f in functions()
        if f.public and f.node.name != "__init__" and not ast.get_docstring(f.node)
    ]
    for path in FILES:
        classes = [node for node in tree(path).body if isinstance(node, ast.ClassDef)]
        public = [node for node in classes if not node.name.startswith("_")]
        bare += [
            f"{shown(path)}:{node.lineno}: {node.name}" for node in public if not ast.get_docstring(node)
        ]
    assert not bare, "\n".join(bare)


def test_what_is_public_is_typed() -> None:
    untyped = [str(function) for function in functions() if function.public and not _is_typed(function.node)]
    assert not untyped, "\n".join(untyped)


def _is_typed(node: Function) -> bool:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    if arguments and arguments[0].arg in ("self", "cls"):
        arguments = arguments[1:]
    arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra is not None]
    return node.returns is not None and all(argument.annotation is not None for argument in arguments)
