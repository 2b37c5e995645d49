"""The command: what it prints, exit codes, Hydra's flags, and that nothing heavy is imported to say no."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import align
from align.config.schema import Recipe
from align.errors import ConfigError, IntegrityError, Interrupted, NumericsError
from align.reward import functions
from align.run import main

ROOT = Path(align.__file__).parent.parent
Runner = Callable[[Recipe, list[str], Callable[[str], str]], int]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, list[str], Callable[[str], str]]]:
    """What the pipeline was asked to run; nothing is."""
    asked: list[tuple[Recipe, list[str], Callable[[str], str]]] = []

    def run(recipe: Recipe, overrides: list[str], origin: Callable[[str], str]) -> int:
        asked.append((recipe, overrides, origin))
        return 0

    put_runner(monkeypatch, run)
    return asked


def put_runner(monkeypatch: pytest.MonkeyPatch, run: Runner) -> None:
    runner, cards = types.ModuleType("align.pipeline.runner"), types.ModuleType("align.data.cards")
    runner.run = run  # type: ignore[attr-defined]
    cards.folders = []  # type: ignore[attr-defined]
    cards.add_folder = cards.folders.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "align.pipeline.runner", runner)
    monkeypatch.setitem(sys.modules, "align.data.cards", cards)


def start(
    *words: str, code: str = "import sys; from align.run import main; sys.exit(main(sys.argv[1:]))"
) -> str:
    """Run in a process of its own; the answer is what it printed, and its exit code in the last line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, env=environment
    )
    return f"{done.stdout}{done.stderr}{done.returncode}"


def test_runs_what_was_composed(runs: list, tmp_path: Path) -> None:
    assert main(["recipe=smoke", "seed=3", "+stages.sft.max_grad_norm=2"]) == 0
    ((recipe, overrides, origin),) = runs
    assert recipe.recipe == "smoke"
    assert recipe.seed == 3
    assert recipe.stages["sft"].model_dump()["max_grad_norm"] == 2.0
    assert overrides == ["recipe=smoke", "seed=3", "stages.sft.max_grad_norm=2"]
    assert origin("seed") == "command line"
    assert list(tmp_path.iterdir()) == []  # no outputs/, no log, no .hydra


def test_sweep_runs_each_and_leaves_nothing_of_hydra_behind(runs: list, tmp_path: Path) -> None:
    assert main(["recipe=smoke", "-m", "seed=1,2", "adapter=none,lora"]) == 0
    assert [(recipe.seed, recipe.adapter.kind) for recipe, _, _ in runs] == [
        (1, "none"), (1, "lora"), (2, "none"), (2, "lora")
    ]  # fmt: skip
    assert runs[1][1] == ["recipe=smoke", "seed=1", "adapter=lora"]
    assert list(tmp_path.iterdir()) == []


def test_sweep_with_one_wrong_value_runs_nothing(runs: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=smoke", "-m", "seed=1,-2"]) == 2
    assert "seed: -2 is out of range" in capsys.readouterr().err
    assert runs == []


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(recipe: Recipe, overrides: list[str], origin: Callable[[str], str]) -> int:
        if recipe.seed == 3:
            raise IntegrityError("runs/x", "is not what was written", "delete it")
        if recipe.seed == 6:
            raise NumericsError("sft", "the loss is nan")
        return recipe.seed

    put_runner(monkeypatch, run)
    assert main(["recipe=smoke", "seed=3"]) == 3
    printed = capsys.readouterr()
    assert printed.err == "runs/x: is not what was written; delete it\n"
    assert main(["recipe=smoke", "seed=5"]) == 5  # whatever the pipeline answers
    assert main(["recipe=smoke", "-m", "seed=0,6,3"]) == 6  # the worst
    capsys.readouterr()
    assert main(["recipe=smoke", "seed=3", "debug=true"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_run_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def run(recipe: Recipe, overrides: list[str], origin: Callable[[str], str]) -> int:
        seen.append(recipe.seed)
        raise Interrupted("sft", "stopped at step 3", "give the same command again")

    put_runner(monkeypatch, run)
    assert main(["recipe=smoke", "-m", "seed=0,1"]) == 75
    assert seen == [0]


def test_a_mistake_of_the_program_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(recipe: Recipe, overrides: list[str], origin: Callable[[str], str]) -> int:
        raise KeyError("oops")

    put_runner(monkeypatch, run)
    assert main(["recipe=smoke"]) == 1
    assert "KeyError: 'oops'" in capsys.readouterr().err


def test_ctrl_c_before_anything_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(recipe: Recipe, overrides: list[str], origin: Callable[[str], str]) -> int:
        raise KeyboardInterrupt

    put_runner(monkeypatch, run)
    assert main(["recipe=smoke"]) == 130


def test_the_folder_of_ones_own_brings_its_cards(runs: list, tmp_path: Path) -> None:
    (tmp_path / "my" / "data_cards").mkdir(parents=True)
    assert main(["recipe=smoke", "--config-dir", "my"]) == 0
    assert sys.modules["align.data.cards"].folders == [tmp_path / "my" / "data_cards"]
    assert len(runs) == 1


def test_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == ConfigError.exit_code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "align recipe=rlhf" in printed.err


@pytest.mark.parametrize("flags", [["--help"], ["--help", "recipe=rlhf"], ["recipe=rlhf", "-h"]])
def test_help_is_our_own(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert (
        "recipe: best_of_n, dpo, dpo_listwise, grpo, iterative_dpo, kto, orpo, ppo, "
        "prompt_tuning, reinforce_pp, rejection_sampling, reward, rlhf, rloo, rlvr, sft, simpo, smoke"
    ) in printed
    assert "model: hub, llama3_1_8b" in printed
    assert "stage: dpo, evaluate, kto, process_reward, reward, rl, sample, sft" in printed
    assert "align export=STAGE" in printed
    assert "$" not in printed.replace('"$(align', "")


def test_cfg_prints_yaml_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=smoke", "--cfg", "job", "seed=9"]) == 0  # flags may stand anywhere
    printed = capsys.readouterr()
    assert printed.out.startswith("seed: 9\n")
    assert printed.err == ""
    assert main(["recipe=smoke", "--cfg", "job", "--package", "stages.sft"]) == 0
    assert capsys.readouterr().out.startswith("# @package stages.sft\nkind: sft\n")


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        (["--info", "defaults"], "recipe/smoke"),
        (["--info", "searchpath"], "align/recipes"),
        (["--info", "defaults-tree"], "model: tiny"),
        (["--hydra-help"], "--shell-completion"),
        (["--cfg", "hydra"], "output_subdir: null"),
    ],
)
def test_other_flags_of_hydra(flags: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=smoke", *flags]) == 0
    assert shown in capsys.readouterr().out


def test_completion_knows_recipes_and_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def complete(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        assert main(["-sc", "query=bash"]) == 0
        return capsys.readouterr().out.split()

    assert complete("align recipe=s") == ["recipe=sft", "recipe=simpo", "recipe=smoke"]
    assert "stages.ppo.kl_coef=" in complete("align recipe=rlhf stages.ppo.kl_")


def test_export_hands_over(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[object] = []
    module = types.ModuleType("align.models.export")
    module.export = lambda *arguments: asked.extend(arguments)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "align.models.export", module)
    assert main(["export=ppo", "to=out", "merge=true"]) == 0
    assert asked == ["ppo", Path("out"), True, Path("runs")]
    for words, line in {
        ("export=ppo",): "command line: export names no folder; align export=STAGE to=FOLDER merge=true",
        (
            "export=ppo",
            "to=x",
            "merge=yes",
        ): "command line: merge=yes is neither true nor false; give merge=true",
        ("export=ppo", "tp=x"): "command line: 'tp=x' is no option of export; "
        "align export=STAGE to=FOLDER merge=true runs=runs",
    }.items():
        assert main(words) == 2
        assert capsys.readouterr().err == f"{line}\n"


def test_keys_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys=stages.ppo.clip"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["key", "type", "range", "default", "meaning"]
    assert row.split("  ")[0] == "stages.ppo.clip"
    assert "above 0 and below 1" in row
    assert main(["recipe=rlhf", "explain=stages.reward.model"]) == 0
    said = "stages.reward.model = 'sft'\nset by align/recipes/recipe/reward.yaml:"
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["recipe=rlhf", "--cfg", "job"],
        ["recipe=rlhf", "stages.ppo.bta=1"],
        ["keys="],
        ["recipes"],
        [],
    ],
    ids=["help", "cfg", "error", "keys", "recipes", "nothing"],
)
def test_says_no_without_torch_and_soon(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from align.run import main\n"
        "main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'peft', 'trl', 'datasets'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))\n"
    )
    begin = time.perf_counter()
    printed = start(*words, code=code)
    assert "heavy: []" in printed
    assert time.perf_counter() - begin < 5  # 0.4 s alone; the bound leaves room for a busy machine


def test_a_closed_pipe_is_no_crash() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words in ("keys=", "--help", "recipe=rlhf --cfg job"):
        command = f"{sys.executable} -m align.run {words} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment
        )
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("to", "code", "said"),
    [(">&-", 0, ""), ("> /dev/full", 4, "standard output: No space left on device (ENOSPC, errno 28); free")],
)
def test_output_that_cannot_be_written_is_no_crash(to: str, code: int, said: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = f"{sys.executable} -m align.run keys= {to}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


def test_the_module_runs_as_the_script_does() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "align.run", "recipe=nope"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "command line: recipe: there is no recipe 'nope'; choose one of best_of_n, dpo, "
    )
    assert done.stdout == ""


def test_one_s_own_functions_are_loaded_before_a_run_and_never_by_a_check(
    runs: list[tuple[Recipe, list[str], Callable[[str], str]]], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("def polite(answers):\n    return [1.0 for _ in answers]\n")
    try:
        assert main(["recipe=smoke", "rewards_from=mine.py", "--cfg", "job"]) == 0
        assert functions.path() is None
        assert main(["recipe=smoke", "rewards_from=mine.py"]) == 0
        assert functions.path() == Path("mine.py")
        assert runs[0][1] == ["recipe=smoke"]
    finally:
        functions.unload()


def test_a_file_of_functions_that_is_not_there(
    runs: list[tuple[Recipe, list[str], Callable[[str], str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipe=smoke", "rewards_from=none.py"]) == 2
    assert capsys.readouterr().err == (
        "rewards_from=none.py: cannot be read: No such file or directory; check the path\n"
    )
    assert not runs
