"""Runs of a quick chain: reuse, resume, stop, fail, and be killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain_runs import results, run_folder

from align.artifacts import manifest as manifests
from align.artifacts.manifest import verify
from align.config.schema import Recipe
from align.errors import NumericsError
from align.pipeline import runner
from align.pipeline.runner import resume_command, run

pytestmark = pytest.mark.usefixtures("finished")
OVERRIDES = ["recipe=rlhf", "stages.sft.lr=0.5"]
NAMES = ["sft", "rm", "ppo", "eval"]


def test_a_run_leaves_artifacts_links_recipe_log_and_metrics(
    make_recipe: Any, fake_stage: Any, finished: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe()
    assert run(recipe, OVERRIDES) == 0
    folder = run_folder(recipe)
    assert fake_stage.ran == NAMES
    for name, kind in zip(NAMES, ["policy", "reward", "policy", "evaluation"], strict=True):
        link = folder / "stages" / name
        assert not Path(os.readlink(link)).is_absolute()
        manifest = verify(link.resolve())
        assert (manifest.kind, manifest.stage) == (kind, name)
        assert manifest.info["steps"] == 7
        assert manifest.info["exact"] is True
        assert manifest.info["seconds"] >= 0
        assert set(manifest.files) == {"w.safetensors", "summary.json", "metrics.jsonl"}
        rows = [json.loads(line) for line in (link / "metrics.jsonl").read_text().splitlines()]
        assert [set(row) for row in rows] == [{"step", "loss"}] * 7
        assert json.loads((link / "summary.json").read_text())["nan"] is None
    ppo = verify((folder / "stages" / "ppo").resolve())
    assert set(ppo.inputs) == {"sft", "rm"}
    assert ppo.inputs["sft"] == verify((folder / "stages" / "sft").resolve()).key
    assert not list(Path(recipe.runs).glob("artifacts/*.work"))
    composed = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert Recipe.model_validate(composed).stages == recipe.stages
    log = (folder / "log.txt").read_text()
    assert "python -m align.run recipe=rlhf stages.sft.lr=0.5" in log
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["step"]) for row in rows] == [
        (name, step) for name in NAMES for step in range(1, 8)
    ]
    out = capsys.readouterr().out
    assert re.search(r"ppo \(rl\) +sft, rm +7 +new", out)
    ((where, name, artifacts, seconds, warnings, peak, named),) = finished
    assert (where, name, list(artifacts), warnings) == (folder, "rlhf", NAMES, [])
    assert all(value > 0 for value in seconds.values())
    assert peak > 0
    assert named == {"command": "python -m align.run recipe=rlhf stages.sft.lr=0.5"}


def test_the_command_that_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["align", "--config-dir", "my recipes", "-m", "recipe=x"])
    found = resume_command(["recipe=x", "model.path=a b"])
    assert found == "python -m align.run --config-dir 'my recipes' recipe=x 'model.path=a b'"
    monkeypatch.setattr(sys, "argv", ["align"])
    assert resume_command([]) == "python -m align.run"
    monkeypatch.setattr(runner.functions, "path", lambda: Path("my rewards.py"))
    assert resume_command(["seed=1"]) == "python -m align.run 'rewards_from=my rewards.py' seed=1"


def test_the_same_again_takes_no_step(
    make_recipe: Any, fake_stage: Any, finished: list[Any], wanted: dict[str, bytes]
) -> None:
    recipe = make_recipe()
    assert run(recipe, []) == 0
    inodes = {p: p.stat().st_ino for p in Path(recipe.runs).glob("artifacts/*/*")}
    fake_stage.ran.clear()
    fake_stage.prepared.clear()
    began = time.monotonic()
    assert run(recipe, []) == 0
    assert time.monotonic() - began < 5
    assert fake_stage.ran == fake_stage.prepared == []
    assert {p: p.stat().st_ino for p in Path(recipe.runs).glob("artifacts/*/*")} == inodes
    assert results(recipe) == wanted
    assert finished[-1][3] == dict.fromkeys(NAMES)


def test_a_changed_option_runs_what_follows_only(
    make_recipe: Any, fake_stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_recipe()
    assert run(first, []) == 0
    fake_stage.ran.clear()
    capsys.readouterr()
    second = make_recipe(ppo={"kl_coef": 0.1})
    assert run(second, []) == 0
    assert fake_stage.ran == ["ppo", "eval"]
    assert "changed: stages.ppo.kl_coef 0.05 -> 0.1" in capsys.readouterr().out
    assert run_folder(first) != run_folder(second)
    old, new = (os.readlink(run_folder(recipe) / "stages" / "ppo") for recipe in (first, second))
    assert old != new
    assert verify(run_folder(first) / "stages" / "ppo"), "the old artifact stays"
    assert os.readlink(run_folder(first) / "stages" / "sft") == os.readlink(
        run_folder(second) / "stages" / "sft"
    )


def test_a_plan_runs_and_leaves_nothing(
    make_recipe: Any, fake_stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe({"plan": True})
    assert run(recipe, []) == 0
    assert fake_stage.prepared == NAMES
    assert fake_stage.ran == []
    assert not Path(recipe.runs).exists()
    assert "Nothing was run." in capsys.readouterr().out


def test_a_plan_exits_as_the_run_would(make_recipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for plan in (True, False):
        assert run(make_recipe({"plan": plan}, sft={"data": "bad"}), []) == 2
        err = capsys.readouterr().err
        assert err == "bad:3: holds no answer; mend row 3\n"


def test_an_error_is_one_line_and_its_traceback_is_in_the_log(
    make_recipe: Any, fake_stage: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(stage: Any, step: int) -> None:
        if stage.ctx.name == "rm" and step == 5:
            raise errors.pop()

    errors = [ZeroDivisionError("oops"), NumericsError("step 5", "loss nan is not finite", "lower lr")]
    monkeypatch.setattr(fake_stage, "hook", staticmethod(fail))
    recipe = make_recipe()
    log = run_folder(recipe) / "log.txt"
    assert run(recipe, []) == 6
    err = capsys.readouterr().err
    assert "\nstep 5: loss nan is not finite; lower lr\n" in err
    assert "Traceback" not in err
    assert "Traceback" in log.read_text()
    assert run(recipe, []) == 1
    err = capsys.readouterr().err
    assert f"a defect in Align: ZeroDivisionError: oops; the traceback is in {log}" in err
    assert "Traceback" not in err
    assert "ZeroDivisionError: oops" in log.read_text()
    errors.append(ZeroDivisionError("again"))
    shown = recipe.model_copy(update={"debug": True})
    assert run(shown, []) == 1
    assert "Traceback" in capsys.readouterr().err
    assert fake_stage.ran == ["sft", "rm", "rm", "rm"]


def test_a_full_disk_ends_with_exit_4_and_the_same_command_goes_on(
    make_recipe: Any,
    fake_stage: Any,
    monkeypatch: pytest.MonkeyPatch,
    wanted: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(stage: Any, step: int) -> None:
        if stage.ctx.name == "ppo" and step == 5:
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    recipe = make_recipe()
    with monkeypatch.context() as patch:
        patch.setattr(fake_stage, "hook", staticmethod(full))
        assert run(recipe, []) == 4
    assert "No space left on device (ENOSPC, errno 28); free some space" in capsys.readouterr().err
    assert run(recipe, []) == 0
    assert results(recipe) == wanted


def test_too_little_space_at_the_start_is_refused(
    make_recipe: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fake_stage: Any,
) -> None:
    recipe = make_recipe()
    (tmp_path / "base" / "model.safetensors").write_bytes(bytes(1_000_000))
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=9_999_999))
    assert run(recipe, []) == 4
    assert "10.0 MB are needed and 10.0 MB are free" in capsys.readouterr().err
    assert fake_stage.ran == []


def test_a_broken_artifact_is_made_anew_and_kept_aside(
    make_recipe: Any, fake_stage: Any, wanted: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe()
    assert run(recipe, []) == 0
    broken = (run_folder(recipe) / "stages" / "rm").resolve()
    (broken / "w.safetensors").write_bytes(b"zero")
    fake_stage.ran.clear()
    assert run(recipe, []) == 0
    assert fake_stage.ran == ["rm"]
    assert results(recipe) == wanted
    assert (broken.parent / f"{broken.name}.broken-1" / "w.safetensors").read_bytes() == b"zero"
    assert "a broken artifact was set aside" in capsys.readouterr().err


def test_an_artifact_that_does_not_verify_after_the_stage_is_an_error(
    make_recipe: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = runner.commit

    def lying_disk(final: Path, **named: Any) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def wrapped() -> Any:
            with commit(final, **named) as out:
                yield out
            (final / "w.safetensors").write_bytes(b"garbage")

        return wrapped()

    monkeypatch.setattr(runner, "commit", lying_disk)
    assert run(make_recipe(), []) == 3
    assert "was committed and does not verify" in capsys.readouterr().err


def test_other_versions_on_the_way_are_written_down(
    make_recipe: Any, fake_stage: Any, monkeypatch: pytest.MonkeyPatch, finished: list[Any]
) -> None:
    def interrupt(stage: Any, step: int) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    recipe, real = make_recipe(), manifests.versions()
    with monkeypatch.context() as patch:
        patch.setattr(fake_stage, "hook", staticmethod(interrupt))
        patch.setattr(manifests, "versions", lambda: {**real, "torch": "1.0"})
        assert run(recipe, []) == 75
    assert run(recipe, []) == 0
    assert verify(run_folder(recipe) / "stages" / "sft").info["exact"] is False
    assert verify(run_folder(recipe) / "stages" / "rm").info["exact"] is True
    (warning,) = finished[-1][4]
    assert warning.startswith("sft: the saved state was made otherwise (torch 1.0 -> ")


def test_a_moved_folder_of_runs_and_another_working_directory(
    make_recipe: Any, fake_stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(make_recipe(), []) == 0
    fake_stage.ran.clear()
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "runs", tmp_path / "elsewhere" / "runs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = make_recipe({"runs": "runs"})
    assert all((link / "w.safetensors").exists() for link in (run_folder(recipe) / "stages").iterdir())
    assert run(recipe, []) == 0
    assert fake_stage.ran == []


def test_a_folder_of_runs_that_cannot_be_written_is_one_line(
    make_recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(make_recipe({"runs": str(tmp_path / "file" / "runs")}), []) == 4
    err = capsys.readouterr().err
    assert "a file is where a folder should be" in err
    assert len(err.splitlines()) == 1


def test_it_runs_in_a_thread_too(make_recipe: Any) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(make_recipe(), [])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_the_summary_of_a_real_run(
    make_recipe: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from align.report.summary import finish

    monkeypatch.setattr(runner, "finish", finish)
    recipe = make_recipe()
    assert run(recipe, OVERRIDES) == 0
    assert (run_folder(recipe) / "report.html").exists()
    out = capsys.readouterr().out
    assert "done in" in out
    assert run(recipe, OVERRIDES) == 0
    assert "4 stages reused, nothing to do" in capsys.readouterr().out


def test_a_finished_run_again_imports_no_torch(make_recipe: Any, tmp_path: Path) -> None:
    recipe = make_recipe()
    assert run(recipe, []) == 0
    script = textwrap.dedent("""
        import sys
        from align.config.schema import Recipe
        from align.data import cards
        from align.models import sources
        from align.pipeline.runner import resume_command, run
        cards.identity = lambda v: {n: f"hash-of-{n}" for n in (v if isinstance(v, list) else [v])}
        sources.identity = lambda model: "tiny:0"
        code = run(Recipe.model_validate_json(sys.argv[1]), [])
        heavy = [name for name in ("torch", "transformers", "peft") if name in sys.modules]
        print("heavy", heavy)
        sys.exit(code)
    """)
    began = time.monotonic()
    found = subprocess.run(
        [sys.executable, "-c", script, recipe.model_dump_json()], capture_output=True, text=True
    )
    assert time.monotonic() - began < 5
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("reused") >= 4
    assert found.stdout.splitlines()[-1] == "heavy []"
