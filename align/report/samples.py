"""Samples side by side. Everything in them was written by a model or a stranger: it is shown as text only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from align.report.facts import RunFacts, StageFacts
from align.report.numbers import compact, finite
from align.report.text import Shown, shown
from align.report.verdict import table


@dataclass(frozen=True)
class Answer:
    """What one policy answered, and its scores in words."""

    who: str
    body: Shown
    scores: str


@dataclass(frozen=True)
class Card:
    """One prompt and its answers."""

    id: str
    prompt: Shown
    answers: tuple[Answer, ...]
    controls: str


@dataclass(frozen=True)
class SampleGroup:
    """The samples of one stage on one source.

    Attributes:
        sensitive: Folded twice: marked as sensitive, or by nobody marked as harmless.
        marked: The source is marked as sensitive.
        total: Rows in the artifact's samples.jsonl; the page shows the first of them.
    """

    stage: str
    source: str
    sensitive: bool
    marked: bool
    total: int
    file: str
    cards: tuple[Card, ...]


def sample_groups(run: RunFacts) -> list[SampleGroup]:
    """All samples of the run, those of evaluations first."""
    marks = _marks(run)
    stages = sorted((s for s in run.stages if s.samples.rows), key=lambda s: s.kind != "evaluate")
    return [
        SampleGroup(
            stage=stage.name,
            source=source,
            sensitive=marks.get(source, True),
            marked=marks.get(source, False),
            total=stage.samples.counts[source],
            file=f"{stage.folder.name}/samples.jsonl",
            cards=tuple(_card(stage, row) for row in rows),
        )
        for stage in stages
        for source, rows in sorted(stage.samples.rows.items(), key=lambda item: marks.get(item[0], True))
    ]


def _marks(run: RunFacts) -> dict[str, bool]:
    """Source -> whether its texts are marked as sensitive, from the evaluations that know."""
    return {
        source: bool(table(part).get("sensitive", True))
        for evaluation in run.of_kind("evaluate")
        for source, part in table(evaluation.summary.get("sources")).items()
    }


def _card(stage: StageFacts, row: Mapping[str, Any]) -> Card:
    controls = stage.summary.get("controls") or []
    rewards, judge = table(row.get("rewards")), table(row.get("judge"))
    answers, others = [], []
    for who, text in table(row.get("answers")).items():
        scores = _scores(reward=rewards.get(who), judge=judge.get(who))
        if who in controls:
            others.append(f"{who}: {scores}" if scores else who)
        else:
            answers.append(Answer(who, shown(_text(text)), scores))
    for who in ("before", "after"):
        if who in row:
            answers.append(Answer(who, shown(_text(row[who])), _scores(reward=row.get(f"score_{who}"))))
    return Card(
        str(row.get("id", "")), shown(_text(row.get("prompt", ""))), tuple(answers), "; ".join(others)
    )


def _scores(**values: object) -> str:
    found = [
        f"{name} {compact(number)}" for name, value in values.items() if (number := finite(value)) is not None
    ]
    return ", ".join(found)


def _text(value: object) -> str:
    """A text, or the turns of a conversation, as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(turn, dict) and "content" in turn for turn in value):
        return "\n".join(f"{turn.get('role', '')}: {turn['content']}" for turn in value)
    return json.dumps(value, ensure_ascii=False)
