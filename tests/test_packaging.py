"""What is shipped: the wheel's content, the pins, and the makefile's first words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = [*PROJECT["project"]["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names in the wheel, built from a copy, so that nothing is left behind in the source."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "align", source / "align", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "out", "."],
        cwd=source,
        check=True,
    )
    (built,) = (source / "out").glob("*.whl")
    with zipfile.ZipFile(built) as file:
        return set(file.namelist())


@pytest.mark.slow
def test_the_wheel_carries_every_file_of_the_package(wheel: set[str]) -> None:
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "align").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert ours - wheel == set()
    assert {name for name in wheel if name.startswith("tests")} == set()


@pytest.mark.slow
def test_the_wheel_carries_recipes_cards_and_licence(wheel: set[str]) -> None:
    assert {
        "align/recipes/config.yaml",
        "align/recipes/recipe/rlhf.yaml",
        "align/recipes/schema.json",
    } <= wheel
    assert any(name.startswith("align/data_cards/") for name in wheel)
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_every_dependency_is_pinned() -> None:
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert pins["torch"] == "2.13.0"
    wanted = [*REQUIREMENTS, *PROJECT["build-system"]["requires"]]
    names = {re.split(r"[<>=]", requirement)[0] for requirement in wanted}
    assert names - set(pins) == set()


def test_every_dependency_is_explained() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text()
    first_cells = " ".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| "))
    assert {re.split(r"[<>=]", requirement)[0] for requirement in REQUIREMENTS} <= set(
        re.split(r"[ ,]+", first_cells)
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_refuses_an_old_python_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    words = ["make", f"PYTHON={old}", f"VENV={tmp_path}/venv", "rlhf"]
    # Run by make itself, the tests inherit its flags; the inner make must not hear them.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=outside)
    assert done.returncode != 0
    assert done.stdout == "Align needs Python 3.11 or newer; name one: make PYTHON=python3.12\n"
    assert not (tmp_path / "venv").exists()
