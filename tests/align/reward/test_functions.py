"""The user's own functions: out of a file, by name, checked like any other score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from answered import answered

from align.config.rewards import FunctionReward
from align.errors import ConfigError, NumericsError
from align.reward import functions
from align.reward.needs import missing
from align.reward.scorers.function import function_scorer
from align.rollout.calculator import Calculator

CODE = """\
import math
from os import getcwd

def polite(answers):
    return [float("please" in a.text) for a in answers]

def tensor(answers):
    import torch
    return torch.arange(len(answers), dtype=torch.float64)

def nothing(answers):
    return None

def gap(answers):
    return [None for _ in answers]

def _hidden(answers):
    return []
"""
POLITE = FunctionReward(kind="function", name="polite")
ANSWERS = [answered("please"), answered("now")]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    functions.unload()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def score(name: str) -> torch.Tensor:
    return function_scorer(FunctionReward(kind="function", name=name))(ANSWERS).values


def test_functions_are_found_by_name(file: Path) -> None:
    functions.load(file)
    assert score("polite").tolist() == [1.0, 0.0]
    assert score("tensor").tolist() == [0.0, 1.0]
    assert score("tensor").dtype == torch.float32


GAME = """
class Game:
    def reset(self, prompt): pass
    def step(self, text): return None
    def reward(self): return 2.0

class Table:
    pass
"""


def test_environments_are_found_by_name(tmp_path: Path) -> None:
    assert functions.find_environment("calculator", "x") is Calculator
    (tmp_path / "game.py").write_text(GAME)
    functions.load(tmp_path / "game.py")
    assert functions.find_environment("Game", "x")().reward() == 2.0
    assert functions.find_environment("calculator", "x") is Calculator
    with pytest.raises(ConfigError, match="defines no environment 'Table'; it defines Game"):
        functions.find_environment("Table", "x")
    (tmp_path / "game.py").write_text(GAME.replace("Game", "calculator"))
    with pytest.raises(ConfigError, match="environment 'calculator' is one of Align's own"):
        functions.load(tmp_path / "game.py")


def test_what_is_returned_must_be_numbers(file: Path) -> None:
    functions.load(file)
    with pytest.raises(NumericsError, match="function nothing: returned NoneType, not numbers"):
        score("nothing")
    assert score("gap").isnan().all()  # refused by whoever asked, with its rows


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("polit", "defines no function 'polit'; did you mean polite?"),
        ("getcwd", "defines no function 'getcwd'; it defines gap, nothing, polite, tensor"),
        ("other", "it defines gap, nothing, polite, tensor"),
    ],
)
def test_a_function_that_is_not_there(file: Path, name: str, line: str) -> None:
    functions.load(file)
    with pytest.raises(ConfigError, match=line.replace("?", r"\?")):
        functions.find(name, "stages.ppo.reward.x")


def test_a_plan_says_that_the_file_is_missing() -> None:
    (error,) = missing("stages.ppo.reward", {"polite": POLITE})
    assert str(error) == (
        "stages.ppo.reward.polite: function 'polite' stands in no file that was named; "
        "add rewards_from=FILE.py with def polite(answers): ... to the command"
    )


def test_the_digest_is_that_of_the_content(file: Path) -> None:
    assert functions.digest() == "none"
    functions.load(file)
    first = functions.digest()
    assert len(first) == 12
    file.write_text(CODE + "# more\n")
    functions.load(file)
    assert functions.digest() != first
    assert functions.path() == file


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("x = 1", "defines no function; define one"),
        ("def f(:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero; mend the file"),
    ],
)
def test_a_file_that_is_no_use(tmp_path: Path, code: str, line: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(ConfigError, match=line):
        functions.load(tmp_path / "bad.py")
    assert functions.path() is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        functions.load(tmp_path / "none.py")
