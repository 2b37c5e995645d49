"""A folder of one's own recipes, and a way to run the command in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from align.run import main


@dataclass
class Outcome:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The error lines, without the last line that counts them."""
        return [line for line in self.err.splitlines() if "nothing was run." not in line]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, and the user's own folder of recipes in it as `my`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "recipe").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a command line in `folder`."""

    def run(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.fixture
def try_recipe(folder: Path, command: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Writes `my/recipe/mine.yaml` and composes it, running nothing."""

    def compose(content: str | bytes, *arguments: str) -> Outcome:
        path = folder / "my" / "recipe" / "mine.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return command("recipe=mine", "--config-dir", "my", *arguments, "--cfg", "job")

    return compose
