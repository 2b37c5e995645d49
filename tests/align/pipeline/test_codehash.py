"""Which code a stage is made of, and which changes count."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from align.pipeline.codehash import code_of

FILES = {
    "__init__.py": "",
    "errors.py": "class E(Exception): ...",
    "stages/__init__.py": "",
    "stages/one.py": """
        import torch
        from align.math import add
        from align.errors import E
        from .two import helper
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from align.only_types import T
        def run():
            from align.lazy import late
            return late(add(1, 2))
    """,
    "stages/two.py": "from ..deep import part\nimport align.report.page\nhelper = part.f",
    "stages/other.py": "x = 1",
    "math.py": "def add(a, b):\n    return a + b\n",
    "lazy.py": "import align.stages.one\ndef late(x):\n    return x\n",
    "deep/__init__.py": "y = 1",
    "deep/part.py": "def f(): return 3",
    "only_types.py": "T = int",
    "report/__init__.py": "",
    "report/page.py": "p = 1",
    "config/__init__.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "align" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "align"


def edit(root: Path, name: str, text: str) -> Path:
    """The package in a new folder, with one file changed: parsed files are remembered by path."""
    copy = Path(tempfile.mkdtemp(dir=root.parent)) / "align"
    shutil.copytree(root, copy)
    (copy / name).write_text(textwrap.dedent(text))
    return copy


def test_the_closure_over_imports(root: Path) -> None:
    assert list(code_of("align.stages.one", root)) == [
        "align",
        "align.deep",
        "align.deep.part",
        "align.lazy",
        "align.math",
        "align.stages",
        "align.stages.one",
        "align.stages.two",
    ]
    assert list(code_of("align.stages.other", root)) == ["align", "align.stages", "align.stages.other"]
    assert all(len(digest) == 12 for digest in code_of("align.stages.one", root).values())


@pytest.mark.parametrize(
    "text",
    [
        "def add(a, b):  # a comment\n    return a + b\n",
        'def add(a, b):\n    """Now documented."""\n    return a + b\n',
        '"""A module."""\n\n\ndef add(a,\n        b):\n\n    return (a + b)\n',
    ],
)
def test_comments_docstrings_and_layout_do_not_count(root: Path, text: str) -> None:
    assert code_of("align.stages.one", edit(root, "math.py", text)) == code_of("align.stages.one", root)


@pytest.mark.parametrize(
    "text",
    [
        "def add(a, b):\n    return a - b\n",
        "def add(a, b):\n    return a + b + 0\n",
        "def add(a, b=1):\n    return a + b\n",
        "def add(a, b):\n    return a + b\nx = 'text'\n",
        "def add(a, b):\n    'doc'\n    'not a docstring'\n    return a + b\n",
    ],
)
def test_any_other_change_counts_and_names_its_module(root: Path, text: str) -> None:
    before, after = (
        code_of("align.stages.one", root),
        code_of("align.stages.one", edit(root, "math.py", text)),
    )
    assert {name for name in before if before[name] != after[name]} == {"align.math"}


@pytest.mark.parametrize(("old", "new"), [("x = 1", "x = True"), ("x = 1", "x = 1.0"), ("x = 1", "y = 1")])
def test_constants_count_with_their_type(root: Path, old: str, new: str) -> None:
    first = code_of("align.stages.other", edit(root, "stages/other.py", old))
    assert first != code_of("align.stages.other", edit(root, "stages/other.py", new))


def test_a_module_that_is_not_there(root: Path) -> None:
    with pytest.raises(ModuleNotFoundError):
        code_of("align.stages.three", root)


def test_real_stages_are_read_without_importing_them() -> None:
    code = (
        "import sys; from align.pipeline.codehash import code_of; c = code_of('align.stages.rl');"
        "assert 'torch' not in sys.modules; print(*c)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {
        "align.stages.rl",
        "align.objectives.advantage",
        "align.engine.head",
        "align.training.loop",
    } <= set(found)
    assert not [name for name in found if name.startswith(("align.report", "align.pipeline"))]
    assert "align.stages.sft" not in found
    assert "align.errors" not in found
