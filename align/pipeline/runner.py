"""The run: reuse what is there, resume what is half done, run the rest, and leave each artifact whole."""

from __future__ import annotations

import gc
import json
import os
import shlex
import shutil
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from align.artifacts.commit import commit
from align.artifacts.disk import check_free, guard
from align.artifacts.lock import hold
from align.artifacts.metrics import json_safe
from align.artifacts.store import Artifact, Store, Work
from align.config.rewards import REWARDS_FROM
from align.config.schema import NoAdapter, Recipe
from align.config.stages import TrainingOptions
from align.errors import IntegrityError, Interrupted
from align.pipeline import failure
from align.pipeline import plan as plans
from align.pipeline.ingredients import run_key
from align.pipeline.plan import Plan, Row
from align.pipeline.signals import Stop, graceful
from align.report.console import make_reporter, print_plan
from align.report.memory import peak_gb
from align.report.progress import AppendFile, StageReporter
from align.report.redact import redact
from align.report.summary import finish
from align.report.terminal import make_console
from align.report.text import one_line
from align.reward import functions

KEY_SHOWN = 8
STATES = 3  # saved states that may lie side by side for a moment: two are kept while a third is written
PER_STATE = 3  # what a saved state holds of each parameter: its value and two moments
ADAPTER_PART = 0.02  # of the base model's bytes: a generous adapter of all linear layers
METRICS, SUMMARY = "metrics.jsonl", "summary.json"


@dataclass
class Run:
    """A run in progress.

    Attributes:
        folder: `runs/<recipe>-<key8>`; None for a plan, which leaves nothing behind.
        command: What to type to go on.
        artifacts: Stage -> artifact, as they become available.
        seconds: Stage -> seconds it took; None where it was reused.
        warnings: For the end-of-run summary.
    """

    recipe: Recipe
    folder: Path | None
    stop: Stop
    command: str
    store: Store = field(init=False)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(Path(self.recipe.runs) / "artifacts", self.say)

    def say(self, text: str) -> None:
        """One line on the screen and in the log."""
        make_console("stderr").print(one_line(text), soft_wrap=True)
        self.log(text)

    def log(self, text: str) -> None:
        """Lines for the log alone."""
        if self.folder is not None:
            file = AppendFile(self.folder / "log.txt", lambda problem: None)
            file.line(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {redact(text)}")
            file.close()


def run(recipe: Recipe, overrides: list[str], places: failure.Places | None = None) -> int:
    """Plan a recipe and, unless only the plan was asked for, run it.

    Args:
        recipe: The composed and checked recipe.
        overrides: As typed; they make up the command that resumes.
        places: Says which file and line a key was set in, for errors that name a key.

    Returns:
        The exit code; every error has been shown, and its traceback is in the run's log.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    runs = Path(recipe.runs)
    folder = None if recipe.plan else runs / f"{recipe.recipe}-{run_key(recipe)[:KEY_SHOWN]}"
    with graceful() as stop:
        running = Run(recipe, folder, stop, resume_command(overrides))
        try:
            _run(running)
        except (Exception, KeyboardInterrupt) as error:
            return _fail(running, failure.explain(error, runs, peak_gb()), places)
    return 0


def resume_command(overrides: list[str]) -> str:
    """What to type to go on: the same command."""
    words = sys.argv[1:]
    flags = [words[i : i + 2] for i, word in enumerate(words) if word in ("--config-dir", "-cd")][:1]
    own = [f"{REWARDS_FROM}={functions.path()}"] if functions.path() else []
    return shlex.join(["python", "-m", "align.run", *(flags[0] if flags else []), *own, *overrides])


def _run(running: Run) -> None:
    with hold(running.folder) if running.folder is not None else nullcontext():
        plan = plans.build(running.recipe, running.store, running.say, look_only=running.folder is None)
        if running.folder is None:
            plan.footer += " Nothing was run."
        print_plan(plan)
        for note in plan.notes:
            running.say(note)
        if running.folder is not None:
            _run_stages(running, running.folder, plan)


def _run_stages(running: Run, folder: Path, plan: Plan) -> None:
    _write_recipe(folder, running.recipe)
    running.log(f"{running.command} (process {os.getpid()})")
    if any(row.artifact is None for row in plan.rows):
        _set_threads(running.recipe)
    for index, row in enumerate(plan.rows, 1):
        began = time.monotonic()
        if row.artifact is not None:
            running.log(f"{row.name}: reused {row.artifact.path.name}")
            artifact, running.seconds[row.name] = row.artifact, None
        else:
            artifact = _run_stage(running, folder, plan, index)
            running.seconds[row.name] = time.monotonic() - began
        running.artifacts[row.name] = artifact
        _link(folder / "stages" / row.name, artifact.path)
    command = running.command
    name, warnings = running.recipe.recipe, running.warnings
    finish(folder, name, running.artifacts, running.seconds, warnings, peak_gb(), command=command)


def _run_stage(running: Run, folder: Path, plan: Plan, index: int) -> Artifact:
    """One stage, from its first line on the screen to its artifact."""
    row = plan.rows[index - 1]
    if running.stop():
        raise Interrupted("stopped", f"{row.name} was not begun", "the same command resumes")
    with make_reporter(row.name, index, len(plan.rows), folder) as reporter:
        try:
            return _find_or_make(running, plan, row, reporter)
        finally:
            running.warnings += [f"{row.name}: {line}" for line in reporter.warnings]
            row.stage = None  # what it read and tokenised is not needed any more
            gc.collect()


def _find_or_make(running: Run, plan: Plan, row: Row, reporter: StageReporter) -> Artifact:
    """Under the lock of the work folder, which another run may hold to make the same artifact."""
    folder = plans.work_of(plan, row).folder
    with hold(folder, wait=True, note=reporter.note, stop=running.stop):
        work = plans.work_of(plan, row)
        work.say = reporter.warn
        artifact = running.store.find(row.output, row.key)
        if artifact is None:
            artifact = _make(running, plan, row, work, reporter)
        work.remove()
    return artifact


def _make(running: Run, plan: Plan, row: Row, work: Work, reporter: StageReporter) -> Artifact:
    """Run the stage inside a commit, then open what was committed once more."""
    assert row.stage is not None, "the plan prepares every stage that has no artifact"
    context = row.stage.ctx
    context.work, context.reporter, context.stop = work, reporter, running.stop
    context.inputs = {name: running.artifacts[name] for name in row.inputs}
    began, resumed = time.monotonic(), work.checkpoint_exists
    info: dict[str, Any] = {}
    check_free(work.folder, _needed(running.recipe, row, context.base))
    with commit(
        running.store.path(row.output, row.key),
        kind=row.output,
        key=row.key,
        stage=row.name,
        inputs={name: plan[name].key for name in row.inputs},
        ingredients=row.ingredients,
        info=info,
    ) as out:
        summary = row.stage.run(out)
        (out / SUMMARY).write_text(json.dumps(json_safe(summary), indent=2, allow_nan=False) + "\n")
        if len(work.metrics):
            shutil.copyfile(work.metrics.path, out / METRICS)
        info.update({"steps": row.steps, "exact": work.exact})
        if not resumed:  # else it is only the time since the last resume
            info["seconds"] = round(time.monotonic() - began, 1)
    artifact = running.store.find(row.output, row.key)
    if artifact is None:
        where = str(running.store.path(row.output, row.key))
        raise IntegrityError(
            where, "was committed and does not verify", "the disk may be failing; run it again"
        )
    return artifact


def _needed(recipe: Recipe, row: Row, base: Path) -> int:
    """Bytes that a training stage may write in all, estimated from the base model's weights."""
    if not isinstance(recipe.stages[row.name], TrainingOptions):
        return 0
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    trained = weights if isinstance(recipe.adapter, NoAdapter) else ADAPTER_PART * weights
    return int(trained * (1 + STATES * PER_STATE))


def _set_threads(recipe: Recipe) -> None:
    if recipe.hardware.threads is not None:
        import torch

        torch.set_num_threads(recipe.hardware.threads)


def _write_recipe(folder: Path, recipe: Recipe) -> None:
    """The composed recipe, replaced whole."""
    part = folder / ".recipe.yaml.part"
    fields = recipe.model_dump(mode="json", exclude={"plan", "debug"})
    with guard(folder):
        part.write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(part, folder / "recipe.yaml")


def _link(link: Path, artifact: Path) -> None:
    """A relative link to an artifact, replaced whole, so that the folder of runs can be moved."""
    with guard(link):
        link.parent.mkdir(parents=True, exist_ok=True)
        part = link.with_name(f".{link.name}.part")
        part.unlink(missing_ok=True)
        part.symlink_to(os.path.relpath(artifact.absolute(), link.parent.absolute()))
        os.replace(part, link)


def _fail(running: Run, error: BaseException, places: failure.Places | None) -> int:
    """Show the error as one line, write the traceback down, and say how to go on."""
    written = running.folder is not None and running.folder.is_dir()
    log = running.folder / "log.txt" if running.folder is not None and written else None
    console = make_console("stderr")
    if running.recipe.debug:
        console.print(failure.trace(error), soft_wrap=True)
    for line in failure.lines(error, log, places):
        console.print(one_line(line), soft_wrap=True)
    if log is not None:
        running.log(one_line(str(error)))
        running.log(failure.trace(error))
    if isinstance(error, Interrupted):
        console.print(f"resume with: {one_line(running.command)}", soft_wrap=True)
    return failure.exit_code(error)
