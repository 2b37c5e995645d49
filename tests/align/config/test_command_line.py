"""Taking a command line apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from align.config.command_line import combinations, for_hydra, parse
from align.errors import ConfigError


def test_flags_stand_anywhere(tmp_path: Path) -> None:
    line = parse(["recipe=a", "--config-dir", str(tmp_path), "seed=1", "-m", "lr=1,2"])
    assert line.flags == ["--config-dir", str(tmp_path), "-m"]
    assert line.overrides == ["recipe=a", "seed=1", "lr=1,2"]
    assert line.config_dir == tmp_path
    assert line.many
    assert not line.only_shows
    assert parse(["--config-path", "."]).flags[-1] == str(Path.cwd())
    assert parse([f"--config-dir={tmp_path}"]).flags == ["--config-dir", str(tmp_path)]


def test_a_flag_s_value_that_looks_like_an_override_stays_with_its_flag() -> None:
    line = parse(["seed=1", "--package", "seed=1", "--cfg", "job"])
    assert line.flags == ["--package", "seed=1", "--cfg", "job"]
    assert line.overrides == ["seed=1"]
    assert line.only_shows


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-m", "--cfg", "job"], "--multirun and --cfg exclude each other"),
        (["--resolve"], "--resolve needs --cfg"),
        (["--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
        (["--cfg", "jobs"], "argument --cfg/-c: invalid choice"),
    ],
)
def test_flags_that_make_no_sense(words: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse(words)


def test_combinations_are_in_hydra_s_order() -> None:
    assert combinations(["a=1,2", "b=x", "c=range(0,2)", "d=[1,2]"]) == [
        ["a=1", "b=x", "c=0", "d=[1,2]"],
        ["a=1", "b=x", "c=1", "d=[1,2]"],
        ["a=2", "b=x", "c=0", "d=[1,2]"],
        ["a=2", "b=x", "c=1", "d=[1,2]"],
    ]


def test_values_are_forced_and_groups_are_not() -> None:
    words = [
        "model=tiny",
        "seed=1",
        "+a.b=2",
        "++c=3",
        "~d",
        "hydra.verbose=true",
        "hydra/output=x",
        "+stage@s.x=ppo",
    ]
    assert for_hydra(words, ["model", "stage"]) == [
        "model=tiny",
        "++seed=1",
        "++a.b=2",
        "++c=3",
        "~d",
        "hydra.verbose=true",
        "hydra/output=x",
        "+stage@s.x=ppo",
    ]


def test_one_source_of_data_may_be_a_mapping() -> None:
    """Hydra cannot merge a mapping into the list that a recipe has there."""
    got = for_hydra(["stages.sft.data={card: a, path: b}", "stages.ppo.sampling={temperature: 1}"], ["model"])
    assert got == ["++stages.sft.data=[{card: a, path: b}]", "++stages.ppo.sampling={temperature: 1}"]


def test_the_file_of_functions_is_taken_out() -> None:
    line = parse(["recipe=a", "rewards_from=my/f.py", "seed=1"])
    assert line.rewards_from == Path("my/f.py")
    assert line.overrides == ["recipe=a", "seed=1"]
    assert parse(["recipe=a"]).rewards_from is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rewards_from="], "rewards_from names no file; give one rewards_from=FILE.py"),
        (["rewards_from=a.py", "rewards_from=b.py"], "rewards_from stands twice"),
    ],
)
def test_one_file_of_functions_at_most(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(words)
