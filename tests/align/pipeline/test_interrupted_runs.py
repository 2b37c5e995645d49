"""Runs of a quick chain that are stopped, killed, cut off, or that meet another run."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from chain_runs import exit_code, fork, results, run_folder

from align.artifacts.lock import hold
from align.artifacts.manifest import verify
from align.pipeline import runner
from align.pipeline.runner import run

pytestmark = pytest.mark.usefixtures("finished")
OVERRIDES = ["recipe=rlhf", "stages.sft.lr=0.5"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_the_same_command_resumes(
    make_recipe: Any,
    fake_stage: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wanted: dict[str, bytes],
    number: int,
) -> None:
    def interrupt(stage: Any, step: int) -> None:
        if stage.ctx.name == "rm" and step == 5:
            os.kill(os.getpid(), number)

    recipe = make_recipe()
    with monkeypatch.context() as patch:
        patch.setattr(fake_stage, "hook", staticmethod(interrupt))
        assert run(recipe, OVERRIDES) == 75
    err = capsys.readouterr().err
    assert "stopped: state saved at step 5; the same command resumes" in err
    assert "resume with: python -m align.run recipe=rlhf stages.sft.lr=0.5" in err
    fake_stage.ran.clear()
    fake_stage.prepared.clear()
    assert run(recipe, []) == 0
    assert "resumes at step 5" in capsys.readouterr().out
    assert fake_stage.ran == ["rm", "ppo", "eval"]
    assert results(recipe) == wanted
    assert "seconds" not in verify(run_folder(recipe) / "stages" / "rm").info


def test_a_signal_between_stages_begins_no_other(
    make_recipe: Any, fake_stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = runner._link

    def interrupt(path: Path, artifact: Path) -> None:
        link(path, artifact)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runner, "_link", interrupt)
    assert run(make_recipe(), []) == 75
    assert fake_stage.ran == ["sft"]


def test_a_lost_terminal_and_closed_streams_do_not_stop_it(
    make_recipe: Any, fake_stage: Any, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bytes]
) -> None:
    def lose(stage: Any, step: int) -> None:
        if stage.ctx.name == "sft" and step == 2:
            os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(fake_stage, "hook", staticmethod(lose))
    recipe = make_recipe()

    def with_broken_pipes() -> int:
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        return run(recipe, [])

    assert exit_code(fork(with_broken_pipes)) == 0
    assert results(recipe) == wanted


def test_a_deleted_run_folder_does_not_stop_it(
    make_recipe: Any, fake_stage: Any, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bytes]
) -> None:
    recipe = make_recipe()

    def delete(stage: Any, step: int) -> None:
        if stage.ctx.name == "sft" and step == 3:
            shutil.rmtree(run_folder(recipe))

    monkeypatch.setattr(fake_stage, "hook", staticmethod(delete))
    assert run(recipe, []) == 0
    assert results(recipe) == wanted


def test_a_second_run_of_the_same_recipe_is_refused_at_once(
    make_recipe: Any, fake_stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe()
    with hold(run_folder(recipe)):
        began = time.monotonic()
        assert run(recipe, []) == 4
        assert time.monotonic() - began < 1
    assert f"in use by process {os.getpid()} on " in capsys.readouterr().err
    assert fake_stage.prepared == []
    assert run(recipe, []) == 0


def test_another_recipe_that_needs_the_same_artifact_waits_and_reuses_it(
    make_recipe: Any,
    fake_stage: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = make_recipe(rm=None, ppo=None, eval=None)
    second = make_recipe({"recipe": "other"}, rm=None, ppo=None, eval=None)
    begun = tmp_path / "begun"

    def slow(stage: Any, step: int) -> None:
        begun.touch()
        time.sleep(0.15)

    monkeypatch.setattr(fake_stage, "hook", staticmethod(slow))
    child = fork(lambda: run(first, []))
    while not begun.exists():
        time.sleep(0.01)
    assert run(second, []) == 0
    assert exit_code(child) == 0
    assert fake_stage.ran == [], "the other process ran it"
    assert f"waits for process {child} on " in capsys.readouterr().err
    assert len(list((Path(first.runs) / "artifacts").iterdir())) == 1


def test_killed_twenty_times_at_random_moments(
    make_recipe: Any, fake_stage: Any, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, bytes]
) -> None:
    """The same command each time; results are bit for bit those of a run that was left alone."""
    monkeypatch.setattr(fake_stage, "hook", staticmethod(lambda stage, step: time.sleep(0.01)))
    recipe, moments, kills = make_recipe(), random.Random(5), 0
    while kills < 20:
        child = fork(lambda: run(recipe, []))
        time.sleep(moments.uniform(0.01, 0.25))
        os.kill(child, signal.SIGKILL)
        code = exit_code(child)
        assert code in (0, -signal.SIGKILL)
        if code == 0:  # it was done before it could be killed: once more from the start
            assert results(recipe) == wanted
            shutil.rmtree(recipe.runs)
        else:
            kills += 1
    assert run(recipe, []) == 0
    assert results(recipe) == wanted
    rows = {
        link.name: (link / "metrics.jsonl").read_text() for link in (run_folder(recipe) / "stages").iterdir()
    }
    assert all(len(text.splitlines()) == 7 for text in rows.values())
    assert not [
        p
        for p in (Path(recipe.runs) / "artifacts").iterdir()
        if not re.fullmatch(r"\w+-[0-9a-f]{12}", p.name)
    ]
