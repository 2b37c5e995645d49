"""The parts of the page that show numbers: evaluation, reward model, reward over KL, curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align.report.facts import RunFacts, Series, StageFacts
from align.report.figures import Bar, Curve, Gallery, Panel
from align.report.numbers import Interval, compact, finite, percent, points, read_interval, spell
from align.report.verdict import accuracy_of, baselines, comparisons, table

UNIT_RANGE = ("rate", "accuracy", "accuracies")  # ends of the names of what goes from 0 to 1
# Titles of the metrics that a reader looks at first, in the order in which they are shown.
TITLES = {
    "objective/scores": "Reward of sampled answers",
    "objective/kl": "KL to the reference, nats per answer",
    "response/refusal_rate": "Refusals",
    "response/length": "Answer length, tokens",
    "response/eos_rate": "Answers that end by themselves",
    "val/explained_var": "Critic: explained variance",
    "rewards/accuracies": "Pairs with the better answer ahead",
    "rewards/margins": "Margin of implicit rewards",
    "kl": "Estimated KL to the reference (z0), nats per answer",
    "accuracy": "Accuracy on training rankings",
}

JUDGE = "second judge"
LEVELS = ("reward", JUDGE, "refusals", "words", "ended", "distinct bigrams", "distinct openings", "KL")


@dataclass(frozen=True)
class Picture:
    """An inline SVG with a caption."""

    caption: str
    svg: str


@dataclass(frozen=True)
class Table:
    """Cells as texts; a row is (label, tag, cells)."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class SourcePart:
    """The evaluation on one source of prompts."""

    name: str
    n: int
    sensitive: bool
    levels: Table
    differences: Table
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class EvaluationPart:
    """One evaluation."""

    name: str
    note: str
    judged: bool
    sources: tuple[SourcePart, ...]


@dataclass(frozen=True)
class RewardPart:
    """One reward model beside its baselines."""

    name: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class CurvesPart:
    """The curves of one stage: the telling ones, and the rest."""

    name: str
    main: tuple[Picture, ...]
    more: tuple[Picture, ...]
    smoothed: bool


def evaluations(run: RunFacts, gallery: Gallery) -> list[EvaluationPart]:
    """The evaluation tables, controls beside the policies."""
    return [
        _evaluation(stage, gallery)
        for stage in run.of_kind("evaluate")
        if table(stage.summary.get("sources"))
    ]


def _evaluation(stage: StageFacts, gallery: Gallery) -> EvaluationPart:
    summary = stage.summary
    parts = [
        _source(stage, name, part, gallery)
        for name, part in sorted(summary["sources"].items(), key=lambda item: not item[1].get("sensitive"))
    ]
    said = [
        f"{words} {compact(value)}"
        for key, words in (("temperature", "temperature"), ("max_new_tokens", "new tokens at most"))
        if (value := finite(summary.get(key))) is not None
    ]
    judged = any(JUDGE in part.levels.head for part in parts)
    return EvaluationPart(stage.name, ", ".join(said), judged, tuple(parts))


def _source(stage: StageFacts, name: str, part: Mapping[str, Any], gallery: Gallery) -> SourcePart:
    controls = stage.summary.get("controls") or []
    rows = table(part.get("rows"))
    tags = {who: "control" if who in controls else "" for who in rows} | {
        str(stage.summary.get("baseline")): "baseline"
    }
    levels = tuple((who, tags[who], _levels(numbers)) for who, numbers in rows.items())
    differences = tuple(
        (
            f"{c.name} over {c.baseline}",
            "control" if c.control else "",
            _differences(c.reward, c.judge, c.wins, c.refusals),
        )
        for c in comparisons(stage)
        if c.source == name
    )
    pictures = [
        _dots(gallery, rows, controls, measure, words, in_percent)
        for measure, words, in_percent in (("reward", "Reward", False), ("refusal_rate", "Refusals", True))
    ]
    return SourcePart(
        name=name,
        n=int(part.get("n", 0)),
        sensitive=bool(part.get("sensitive")),
        levels=_filled(LEVELS, levels),
        differences=_filled(("reward", JUDGE, "wins", "refusals"), differences),
        pictures=tuple(p for p in pictures if p is not None),
    )


def _filled(head: tuple[str, ...], rows: tuple[tuple[str, str, tuple[str, ...]], ...]) -> Table:
    """A table without the columns in which nothing was measured."""
    kept = [i for i in range(len(head)) if any(cells[i] for _, _, cells in rows)]
    return Table(
        tuple(head[i] for i in kept),
        tuple((who, tag, tuple(cells[i] for i in kept)) for who, tag, cells in rows),
    )


def _levels(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    reward, judge = read_interval(numbers.get("reward")), read_interval(numbers.get("judge"))
    refusals, ended = read_interval(numbers.get("refusal_rate")), finite(numbers.get("eos_rate"))
    plain = [finite(numbers.get(name)) for name in ("distinct_2", "distinct_openings", "kl")]
    words = finite(numbers.get("words"))
    return (
        "" if reward is None else spell(reward),
        "" if judge is None else spell(judge),
        "" if refusals is None else percent(refusals),
        "" if words is None else f"{words:.1f}",
        "" if ended is None else f"{100 * ended:.0f} %",
        *("" if value is None else compact(value) for value in plain),
    )


def _differences(
    reward: Interval | None, judge: Interval | None, wins: Interval | None, refusals: Interval | None
) -> tuple[str, ...]:
    return (
        "" if reward is None else spell(reward, sign=True),
        "" if judge is None else spell(judge, sign=True),
        "" if wins is None else percent(wins),
        "" if refusals is None else points(refusals),
    )


def _dots(
    gallery: Gallery, rows: Mapping[str, Any], controls: list[str], measure: str, words: str, in_percent: bool
) -> Picture | None:
    found = {who: read_interval(table(numbers).get(measure)) for who, numbers in rows.items()}
    bars = [
        Bar(who, value, percent(value) if in_percent else spell(value), who in controls)
        for who, value in found.items()
        if value is not None
    ]
    return (
        Picture(words, gallery.intervals(bars, f"{words} with 95 % intervals", rate=in_percent))
        if bars
        else None
    )


def rewards(run: RunFacts, gallery: Gallery) -> list[RewardPart]:
    """Each reward model's held-out accuracy beside its baselines, by source, and its calibration."""
    found = []
    for stage in run.of_kind("reward"):
        accuracy = accuracy_of(stage)
        if accuracy is None:
            continue
        quality = stage.summary["quality"]
        bars = [Bar(stage.name, accuracy, percent(accuracy))]
        bars += [Bar(name, value, percent(value), control=True) for name, value in baselines(stage).items()]
        pictures = [
            Picture(
                "Held-out accuracy, all prompts",
                gallery.intervals(bars, "Held-out accuracy", rate=True, line_at=0.5),
            )
        ]
        by_source = table(quality.get("by_source"))
        if len(by_source) > 1:
            pictures += [_by_source(gallery, stage.name, source, table(v)) for source, v in by_source.items()]
        bins = [_bin(table(row)) for row in quality.get("calibration") or []]
        if drawn := [row for row in bins if row is not None]:
            pictures.append(Picture("Calibration over pairs", gallery.calibration(drawn)))
        ece = finite(quality.get("ece"))
        note = "" if ece is None else f"Expected calibration error {ece:.3f}."
        found.append(RewardPart(stage.name, note, tuple(pictures)))
    return found


def _by_source(gallery: Gallery, name: str, source: str, values: Mapping[str, Any]) -> Picture:
    bars = []
    for key, value in values.items():
        interval = read_interval(value)
        if interval is not None:
            own = key == "reward_model"
            bars.append(
                Bar(name if own else key.replace("_", " "), interval, percent(interval), control=not own)
            )
    n = bars[0].interval.n if bars else None
    caption = f"Held-out accuracy, {source}" + ("" if n is None else f" ({n} prompts)")
    return Picture(caption, gallery.intervals(bars, caption, rate=True, line_at=0.5))


def _bin(row: Mapping[str, Any]) -> tuple[float, float, float] | None:
    p, observed, n = (finite(row.get(name)) for name in ("p", "observed", "n"))
    return None if p is None or observed is None or not n else (p, observed, n)


def reward_over_kl(run: RunFacts, gallery: Gallery) -> list[Picture]:
    """What the reward cost in KL: while training, and on held-out prompts."""
    pictures = []
    for stage in run.stages:
        kl, reward = stage.metrics.get("objective/kl"), stage.metrics.get("objective/scores")
        if kl is not None and reward is not None and len(kl.values) == len(reward.values) > 1:
            caption = f"{stage.name}, while training: one point per iteration"
            pictures.append(Picture(caption, gallery.path([(stage.name, kl.values, reward.values)], caption)))
    for evaluation in run.of_kind("evaluate"):
        paths = _held_out_paths(evaluation)
        if paths:
            caption = f"{evaluation.name}, held out: from the baseline to each policy"
            pictures.append(Picture(caption, gallery.path(paths, caption)))
    return pictures


def _held_out_paths(evaluation: StageFacts) -> list[tuple[str, list[float], list[float]]]:
    paths = []
    baseline = str(evaluation.summary.get("baseline", ""))
    for source, part in table(evaluation.summary.get("sources")).items():
        rows = table(part.get("rows"))
        start = read_interval(table(rows.get(baseline)).get("reward"))
        for who, numbers in rows.items():
            reward, kl = read_interval(numbers.get("reward")), finite(numbers.get("kl"))
            if start is not None and reward is not None and kl is not None and who != baseline:
                paths.append((f"{who}, {source}", [0.0, kl], [start.mean, reward.mean]))
    return paths


def curves(run: RunFacts, gallery: Gallery) -> list[CurvesPart]:
    """The metrics of each stage as small plots; metrics per source share the plot of their total."""
    parts = []
    for stage in run.stages:
        grouped = _grouped(stage.metrics)
        if not grouped:
            continue
        front = [name for name in TITLES if name in grouped]
        # The loss of a policy gradient says little: it comes to the front where it is the objective itself.
        if stage.supervised and "loss" in grouped:
            front.insert(0, "loss")
        across = "step" if stage.supervised else "iteration"
        panels = {
            name: _panel(name, grouped[name], across) for name in (*front, *sorted(set(grouped) - set(front)))
        }
        drawn = {name: Picture(panel.title, gallery.curves(panel)) for name, panel in panels.items()}
        smoothed = any(len(series.values) >= 60 for series in stage.metrics.values())
        main, more = (
            tuple(p for n, p in drawn.items() if (n in front) == wanted) for wanted in (True, False)
        )
        parts.append(
            CurvesPart(stage.name, main, more, smoothed)
            if main
            else CurvesPart(stage.name, more, (), smoothed)
        )
    return parts


def _grouped(metrics: Mapping[str, Series]) -> dict[str, list[Curve]]:
    """Metric -> its curve, then those of its parts (`objective/scores/<source>`) that differ from it."""
    grouped = {name: [Curve("all", metrics[name])] for name in metrics if _root(name, metrics) == name}
    for name, series in metrics.items():
        root = _root(name, metrics)
        if root != name and series != metrics[root]:
            grouped[root].append(Curve(name.removeprefix(f"{root}/"), series))
    return grouped


def _root(name: str, metrics: Mapping[str, Series]) -> str:
    """The shortest metric that `name` is a part of, which may be itself."""
    parts = name.split("/")
    prefixes = ("/".join(parts[: i + 1]) for i in range(len(parts)))
    return next(prefix for prefix in prefixes if prefix in metrics)


def _panel(name: str, group: list[Curve], across: str) -> Panel:
    title = TITLES.get(name, "Loss" if name == "loss" else name)
    return Panel(title, tuple(group), across, unit_range=name.endswith(UNIT_RANGE))
