"""What a finished run left on disk, read for the report; no number is made up here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from align.config.base import DataRef, StageOptions
from align.config.fields import REWARDS
from align.config.graph import input_options
from align.config.stages import KINDS, OUTPUTS, SupervisedOptions
from align.report.numbers import finite

if TYPE_CHECKING:
    from align.artifacts.store import Artifact

# Names of options that name stages, in stages, in components of a reward and in data.
OPTIONS: list[type[BaseModel]] = [*KINDS.values(), *REWARDS.values(), DataRef]
INPUT_OPTIONS = {name for kind in OPTIONS for name in input_options(kind)}
MAX_SAMPLES = 40  # of each source and stage; the rest stays in samples.jsonl


@dataclass(frozen=True)
class Series:
    """One metric over the steps of a stage; `steps` and `values` have equal lengths."""

    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Samples:
    """Some rows of a stage's samples.jsonl.

    Attributes:
        rows: Source -> its first rows.
        counts: Source -> rows in the file.
    """

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StageFacts:
    """One stage of the run and what its artifact says.

    Attributes:
        name: Name in the recipe.
        kind: Kind of stage.
        key: Stage key.
        inputs: Names of what it read; `base` is the base model.
        folder: The artifact.
        seconds: Time that the stage took in this run; None where its artifact was there already.
        first_seconds: Time that making the artifact took, where the manifest says.
        summary: `summary.json`.
        metrics: Name -> series, of `metrics.jsonl`.
        samples: Of `samples.jsonl`.
        versions: Package -> version it was made with.
    """

    name: str
    kind: str
    key: str
    inputs: tuple[str, ...]
    folder: Path
    seconds: float | None
    first_seconds: float | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Series] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def supervised(self) -> bool:
        """Whether it passes over fixed rows: its loss is the objective itself, and it counts in steps."""
        return issubclass(KINDS.get(self.kind, StageOptions), SupervisedOptions)

    @property
    def makes_policy(self) -> bool:
        """Whether its artifact is a policy."""
        return OUTPUTS.get(self.kind) == "policy"


@dataclass(frozen=True)
class RunFacts:
    """A run: its stages in the order in which they ran.

    Attributes:
        recipe: Name of the recipe.
        folder: Run folder.
        stages: The stages.
        settings: Text of the composed recipe; empty where there is none.
        base: The base model in a few words; empty where the composed recipe does not say.
        unreadable: One line for each file that could not be read.
    """

    recipe: str
    folder: Path
    stages: tuple[StageFacts, ...]
    settings: str = ""
    base: str = ""
    unreadable: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Time of all stages that ran; None where all were reused."""
        taken = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(taken) if taken else None

    def of_kind(self, kind: str) -> list[StageFacts]:
        """The stages of a kind, in order."""
        return [stage for stage in self.stages if stage.kind == kind]


def read_run(
    folder: Path,
    recipe: str,
    artifacts: Mapping[str, Artifact],
    timings: Mapping[str, float | None],
) -> RunFacts:
    """Read a run's artifacts; a missing or broken file leaves its part out and is named in `unreadable`.

    Args:
        folder: Run folder; its `recipe.yaml` holds the settings.
        recipe: Name of the recipe.
        artifacts: Stage -> artifact, in the order in which the stages ran.
        timings: Stage -> seconds, None where the artifact was reused.
    """
    problems: list[str] = []
    settings = _text(folder / "recipe.yaml", problems)
    composed = _composed(settings)
    stages = tuple(
        _stage(name, artifact, timings.get(name), composed, problems) for name, artifact in artifacts.items()
    )
    return RunFacts(recipe, folder, stages, settings, _base(composed.get("model")), tuple(problems))


def _stage(
    name: str, artifact: Artifact, seconds: float | None, composed: dict[str, Any], problems: list[str]
) -> StageFacts:
    manifest, folder = artifact.manifest, artifact.path
    summary = next(iter(_json_rows(folder / "summary.json", problems, whole=True)), {})
    return StageFacts(
        name=name,
        # Two kinds of stage make a policy, so the artifact's own kind says less than the summary's.
        kind=str(summary.get("kind", manifest.kind)),
        key=manifest.key,
        inputs=_inputs(composed, name) or tuple(manifest.inputs),
        folder=folder,
        seconds=seconds,
        first_seconds=finite(manifest.info.get("seconds")),
        summary=summary,
        metrics=_series(_json_rows(folder / "metrics.jsonl", problems)),
        samples=_samples(_json_rows(folder / "samples.jsonl", problems)),
        versions={str(package): str(version) for package, version in manifest.versions.items()},
    )


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        problems.append(f"{path.name} cannot be read ({error.strerror})")
        return ""


def _json_rows(path: Path, problems: list[str], whole: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file, or of a JSON file (`whole`); broken ones are left out and counted."""
    text = _text(path, problems)
    broken = 0
    for line in [text] if whole and text else text.split("\n"):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            broken += 1
            continue
        if isinstance(row, dict):
            yield row
    if broken:
        problems.append(f"{path.parent.name}/{path.name}: {broken} unreadable rows left out")


def _series(rows: Iterator[dict[str, Any]]) -> dict[str, Series]:
    """Columns of the rows over `iteration` where the stage counts in those, else over `step`."""
    columns: dict[str, Series] = {}
    for row in rows:
        at = finite(row.get("iteration", row.get("step")))
        for name, value in row.items():
            number = finite(value)
            if at is None or number is None or name in ("step", "iteration"):
                continue
            column = columns.setdefault(name, Series([], []))
            column.steps.append(at)
            column.values.append(number)
    return columns


def _samples(rows: Iterator[dict[str, Any]]) -> Samples:
    samples = Samples()
    for row in rows:
        source = str(row.get("source", ""))
        samples.counts[source] = samples.counts.get(source, 0) + 1
        kept = samples.rows.setdefault(source, [])
        if len(kept) < MAX_SAMPLES:
            kept.append(row)
    return samples


def _composed(settings: str) -> dict[str, Any]:
    try:
        composed = yaml.safe_load(settings)
    except yaml.YAMLError:
        return {}
    return composed if isinstance(composed, dict) else {}


def _inputs(composed: dict[str, Any], name: str) -> tuple[str, ...]:
    """What the stage's options name: the manifest knows artifacts only, and the base model is none."""
    stages = composed.get("stages")
    options = stages.get(name) if isinstance(stages, dict) else None
    return tuple(dict.fromkeys(_named(options))) if isinstance(options, dict) else ()


def _named(options: Mapping[str, Any]) -> list[str]:
    """Stages that options name, those inside components and data among them."""
    found: list[str] = []
    for option, value in options.items():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        found += [name for part in parts if isinstance(part, dict) for name in _named(part)]
        if isinstance(value, dict):
            found += _named({option: part for option, part in value.items() if isinstance(part, str)})
        elif option in INPUT_OPTIONS:
            found += [value] if isinstance(value, str) else _strings(value)
    return found


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, Sequence) else []


def _base(model: object) -> str:
    """A few words for the base model, out of the composed recipe's `model`."""
    if not isinstance(model, dict):
        return ""
    named = next(
        (str(model[key]) for key in ("id", "package", "path") if model.get(key)), str(model.get("kind", ""))
    )
    return Path(named).name if model.get("kind") == "path" else named
