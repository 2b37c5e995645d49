"""The plan: for each stage its key, and whether it is there already, resumes, or runs, and why."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align.artifacts.disk import readable
from align.artifacts.manifest import Manifest
from align.artifacts.store import Artifact, Store, Work
from align.config.base import StageOptions, TrainingOptions
from align.config.contradictions import contradictions
from align.config.graph import inputs_of, order
from align.config.schema import PathModel, Recipe, quantization_of
from align.config.stages import OUTPUTS, SupervisedOptions
from align.errors import AlignError, ConfigError, DataError, collected, keyed, raise_all
from align.models import precision, sources
from align.pipeline import changes
from align.pipeline.datasets import located, made_by
from align.pipeline.ingredients import data_key, ingredients, key_of, seed_of
from align.pipeline.leaks import leaks
from align.reward.needs import missing, missing_environment
from align.stages.base import Stage, StageContext

REUSED, NEW = "reused", "new"
UNKNOWN = ""  # the key of a stage that was refused, and of all that read it
EXTRA, TRL = "bitsandbytes", "trl"  # packages that an option asks for
PATIENCE = 2.0  # seconds; a longer wait says what for
Say = Callable[[str], None]


@dataclass
class Row:
    """One stage of a plan.

    Attributes:
        name: Name in the recipe.
        kind: Kind of stage.
        output: Kind of artifact.
        inputs: Names of the stages it reads, the base model left out.
        key: Stage key.
        ingredients: What the key was computed from.
        status: `new`, `reused`, `resumes at step N`, `changed: ...`, `waits for ...`.
        steps: Steps it takes; None until known.
        seconds: Forecast from an earlier run of the same stage; None where there is none.
        artifact: What is there already.
        stage: The stage, prepared, where it has to run; None where it reads rows that are not made yet.
    """

    name: str
    kind: str
    output: str
    inputs: list[str]
    key: str
    ingredients: dict[str, Any]
    status: str = NEW
    steps: int | None = None
    seconds: float | None = None
    artifact: Artifact | None = None
    stage: Stage[Any] | None = None


@dataclass
class Plan:
    """What a run would do.

    Attributes:
        rows: The stages, each after its inputs.
        footer: One last line.
        notes: What else a person should know, a line each.
        base: Folder of the base model, where a stage has to run.
    """

    recipe: Recipe
    store: Store
    rows: list[Row] = field(default_factory=list)
    footer: str = ""
    notes: list[str] = field(default_factory=list)
    base: Path | None = None

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


class Notes:
    """The reporter of stages that are only prepared: keeps what they say."""

    def __init__(self, stage: str, notes: list[str]) -> None:
        self.stage, self.notes = stage, notes

    def step(self, step: int, total: int, headline: Mapping[str, float], tokens: int = 0) -> None:
        """Preparing takes no steps."""

    def note(self, text: str) -> None:
        """Keep one line."""
        self.notes.append(f"{self.stage}: {text}")

    warn = note


def build(recipe: Recipe, store: Store, say: Say = print, *, look_only: bool = False) -> Plan:
    """Find out what is there, and check and prepare what is not.

    A stage whose artifact exists is not opened, so that a plan of a finished run imports nothing heavy.

    Args:
        recipe: The recipe.
        store: Where artifacts are.
        say: Told what a long wait is for.
        look_only: Change nothing on disk: a broken artifact is not even set aside.

    Raises:
        AlignError: Anything a run would refuse, all of it together: of a stage that is refused the others are
            looked at all the same, and so are the data of those that read it.
    """
    plan = Plan(recipe, store)
    errors: list[AlignError] = []
    keys = dict.fromkeys(recipe.stages, UNKNOWN)
    for name in order(recipe):
        with collected(errors):
            row = _row(recipe, name, keys)
            keys[name] = row.key
            plan.rows.append(row)
            if row.key != UNKNOWN:
                row.artifact = store.find(row.output, row.key, look_only=look_only)
                _judge(plan, row)
    if any(row.artifact is None for row in plan.rows):
        _prepare(plan, errors, say)
    raise_all(errors)
    plan.footer = _footer(plan)
    return plan


def stage_class(kind: str) -> type[Stage[Any]]:
    """The class of a kind of stage; imports what it needs."""
    found: type[Stage[Any]] = importlib.import_module(f"align.stages.{kind}").STAGE
    return found


def _needs(options: StageOptions) -> list[str]:
    named = [name for names in inputs_of(options).values() for name in names]
    return list(dict.fromkeys(named))


def _row(recipe: Recipe, name: str, keys: Mapping[str, str]) -> Row:
    options = recipe.stages[name]
    found, needs = ingredients(recipe, name, keys), _needs(options)
    key = UNKNOWN if any(keys[needed] == UNKNOWN for needed in needs) else key_of(found)
    return Row(name, options.kind, OUTPUTS[options.kind], needs, key, found)


def work_of(plan: Plan, row: Row) -> Work:
    """The work folder of a row's stage."""
    return plan.store.work(row.output, row.key, stage=row.name, ingredients=row.ingredients)


def _judge(plan: Plan, row: Row) -> None:
    """Set the status: what will happen to the stage, and why."""
    if row.artifact is not None:
        row.status, row.steps = REUSED, row.artifact.manifest.info.get("steps")
        return
    made = [(artifact.manifest, artifact.path) for artifact in plan.store.by_stage(row.name, row.output)]
    left = plan.store.half_done(row.name, row.output)
    before = _nearest(row, [*made, *((m, f) for m, f in left if m.key != row.key)])
    saved = work_of(plan, row).newest()
    if before is not None:
        row.seconds = before.info.get("seconds")
    if saved is not None:
        row.status = f"resumes at step {saved.info['step']}"
    elif before is not None:
        row.status = _reason(plan, row, before)
        _tell_of_half_done(plan, row, left)


def _nearest(row: Row, earlier: list[tuple[Manifest, Path]]) -> Manifest | None:
    """Of what the stage made before on this base model: what differs least, the youngest of several.

    A stage on another base model is another experiment, not a change; its time says nothing either.
    """
    earlier = [one for one in earlier if one[0].ingredients.get("base") == row.ingredients.get("base")]

    def distance(one: tuple[Manifest, Path]) -> tuple[int, float]:
        manifest, path = one
        return len(changes.differing(manifest.ingredients, row.ingredients)), -path.stat().st_mtime

    return min(earlier, key=distance)[0] if earlier else None


def _reason(plan: Plan, row: Row, before: Manifest) -> str:
    names = changes.differing(before.ingredients, row.ingredients)
    mine = changes.own(names)
    if mine:
        return f"changed: {changes.describe(row.name, before.ingredients, row.ingredients, mine)}"
    waiting = [name for name in row.inputs if plan[name].artifact is None]
    if waiting:
        return f"waits for {', '.join(waiting)}"
    if names:
        return f"changed: {changes.describe(row.name, before.ingredients, row.ingredients, names)}"
    return NEW  # it was there, and was broken


def _tell_of_half_done(plan: Plan, row: Row, left: list[tuple[Manifest, Path]]) -> None:
    for manifest, path in left:
        if manifest.key != row.key:
            names = changes.differing(manifest.ingredients, row.ingredients)
            told = changes.describe(row.name, manifest.ingredients, row.ingredients, names)
            plan.notes.append(
                f"{row.name}: starts anew; what was half done at step {manifest.info['step']} is not "
                f"resumed, since this changed: {told}; it stays in {path}"
            )


def _prepare(plan: Plan, errors: list[AlignError], say: Say) -> None:
    """Open the base model and let each stage that has to run check and tokenise its data."""
    base: Path | None = None
    with collected(errors), keyed("model"), _told_if_long(say, "fetching and converting the base model"):
        base = sources.materialise(plan.recipe.model)
    if base is not None:
        plan.notes += filter(None, [precision.told(plan.recipe.hardware.dtype)])
        _find_misfits(plan.recipe, base, errors)
        plan.base = base
        _prepare_stages(plan, errors, say)
    if not any(isinstance(error, DataError) for error in errors):  # else there are data that cannot be read
        with collected(errors):
            raise_all(leaks(plan.recipe))


def _prepare_stages(plan: Plan, errors: list[AlignError], say: Say) -> None:
    """All stages that have to run, but those that read rows which are not made yet."""
    there = {row.name: row.artifact for row in plan.rows if row.artifact is not None}
    for row in plan.rows:
        options = plan.recipe.stages[row.name]
        if row.artifact is None and all(name in there for name in made_by(options)):
            said, key = f"{row.name}: reading and tokenising its data", data_key(row.name, options)
            with collected(errors), keyed(key), _told_if_long(say, said):
                prepare(plan, row, there)


def prepare(plan: Plan, row: Row, artifacts: Mapping[str, Artifact]) -> Stage[Any]:
    """Open a stage and let it check and tokenise its data.

    Args:
        plan: The plan, whose base model is there.
        row: The stage's.
        artifacts: Those of the stages whose rows it reads, and others.

    Raises:
        AlignError: Data that cannot be used.
    """
    assert plan.base is not None, "a stage that has to run has a base model"
    row.stage = stage_class(row.kind)(_context(plan, row, plan.base, artifacts))
    row.steps = row.stage.prepare()
    return row.stage


def _find_misfits(recipe: Recipe, base: Path, errors: list[AlignError]) -> None:
    """What the recipe asks of the base model or of this machine and they do not have.

    Before, neither could be looked at.
    """
    model, dtype = PathModel(kind="path", path=str(base)), precision.resolve(recipe.hardware.dtype)
    found = contradictions(model, recipe.adapter, recipe.stages, dtype)
    with collected(errors):
        raise_all([ConfigError(finding.key, finding.what, finding.fix) for finding in found])
    with collected(errors):
        raise_all(_missing_packages(recipe))
    if any(finding.key.startswith("adapter.") for finding in found):
        return  # what is said of the adapter is enough
    if any(isinstance(options, TrainingOptions) for options in recipe.stages.values()):
        from align.models.adapter_configs import check_adapter

        with collected(errors):
            check_adapter(base, recipe.adapter)


def _missing_packages(recipe: Recipe) -> list[AlignError]:
    """Options that need a package which is not installed, or a function or environment of the user's."""
    errors: list[AlignError] = []

    def need(package: str, key: str, value: str, instead: str) -> None:
        if importlib.util.find_spec(package) is None:
            what = f"{value} needs {package}, which is not installed"
            errors.append(ConfigError(key, what, f"pip install {package}, or try {key}={instead}"))

    trains = False
    for name, options in recipe.stages.items():
        errors += missing(f"stages.{name}.reward", getattr(options, "reward", None) or {})
        errors += missing_environment(f"stages.{name}.environment", getattr(options, "environment", None))
        trains = trains or isinstance(options, TrainingOptions)
        if isinstance(options, TrainingOptions) and options.optimizer == "adamw_8bit":
            need(EXTRA, f"stages.{name}.optimizer", "adamw_8bit", "adamw")
        if isinstance(options, SupervisedOptions) and options.engine == "trl":
            need(TRL, f"stages.{name}.engine", "trl", "align")
    if trains and (quantized := quantization_of(recipe.adapter)):
        need(EXTRA, "adapter.quantize_base", quantized, "null")
    return errors


def _context(plan: Plan, row: Row, base: Path, artifacts: Mapping[str, Artifact]) -> StageContext[Any]:
    options = located(plan.recipe.stages[row.name], artifacts)
    return StageContext(
        name=row.name,
        options=options,
        recipe=plan.recipe,
        seed=seed_of(plan.recipe, options),
        base=base,
        inputs={},
        work=work_of(plan, row),
        reporter=Notes(row.name, plan.notes),
        stop=lambda: False,
        dtype=precision.resolve(plan.recipe.hardware.dtype),
    )


@contextmanager
def _told_if_long(say: Say, what: str) -> Iterator[None]:
    """Say what is being waited for, once it takes a while."""
    timer = threading.Timer(PATIENCE, say, [f"{what} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _footer(plan: Plan) -> str:
    there = sum(row.artifact is not None for row in plan.rows)
    root = next(path for path in [plan.store.root, *plan.store.root.absolute().parents] if path.exists())
    free = readable(shutil.disk_usage(root).free)
    return f"{len(plan.rows) - there} to run, {there} reused; {free} of disk are free."
