"""Rows of a source before they are used: as the kind that is wanted, each once, held out by their prompt."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from align.data.types import Conversation, Labelled, Message, Prompt, Ranking, Stepwise
from align.errors import DataError

Expect = Literal["conversations", "rankings", "ratings", "unpaired", "stepwise", "prompts"]
Row = Conversation | Ranking | Labelled | Stepwise | Prompt
WANTED: dict[Expect, type[Row]] = {
    "conversations": Conversation,
    "ratings": Ranking,
    "rankings": Ranking,
    "unpaired": Labelled,
    "stepwise": Stepwise,
    "prompts": Prompt,
}
NAMES = {kind: name for name, kind in WANTED.items()}  # of the two names of a Ranking the later
SINGLE = "single answers, which rank nothing"


def view(rows: Sequence[Row], expect: Expect, name: str, left_out: Counter[str]) -> list[Any]:
    """The rows as the kind that is wanted: as they are, those that rank or rate, their prompts, or labels.

    Args:
        rows: Of one source.
        expect: The kind.
        name: Of the source, for messages.
        left_out: Reason -> rows that the view has no place for; added to.

    Raises:
        DataError: The rows cannot serve as that kind.
    """
    if expect == "unpaired":
        rows = _unpaired(rows, left_out)
    if expect != "prompts":
        refuse_other_kind(rows, expect, f"data {name}", f"name data of kind {expect}")
        fit = {"rankings": _ranks, "ratings": _rates}.get(expect)
        return list(rows) if fit is None else [row for row in rows if fit(row, left_out)]
    return _prompts(rows, left_out)


def _unpaired(rows: Sequence[Row], left_out: Counter[str]) -> list[Row]:
    """Answers of a ranking's best tier as desirable, of its worst as undesirable, each once a label."""
    found: list[Row] = []
    seen: set[Row] = set()
    for row in rows:
        if not isinstance(row, Ranking):
            found.append(row)
            continue
        if not _ranks(row, left_out):
            continue
        ends = {min(row.tiers): True, max(row.tiers): False}
        for i, (answer, tier) in enumerate(zip(row.answers, row.tiers, strict=True)):
            if tier not in ends:
                left_out["answers between the best and the worst"] += 1
                continue
            made = Labelled("", row.prompt, answer, ends[tier], row.source)
            if made in seen:
                left_out["further copies of an answer"] += 1
                continue
            seen.add(made)
            found.append(replace(made, id=f"{row.id}/{i + 1}"))
    return found


def _prompts(rows: Sequence[Row], left_out: Counter[str]) -> list[Prompt]:
    """Each prompt once.

    Raises:
        DataError: Two rows give one prompt different facts.
    """
    kept: dict[tuple[Message, ...], Prompt] = {}
    for row in rows:
        asked = prompt_of(row)
        if not asked:
            left_out["plain texts without a prompt"] += 1
        elif asked in kept:
            if facts_of(row) != kept[asked].facts:
                what = f"has the prompt of row {kept[asked].id} and other facts"
                raise DataError(f"row {row.id}", what, "keep the row that is right")
            left_out["further rows of a prompt"] += 1
        else:
            kept[asked] = Prompt(row.id, asked, row.source, facts_of(row))
    return list(kept.values())


def _ranks(row: Any, left_out: Counter[str]) -> bool:
    """Whether some answer is better than another; a row of ratings may hold one answer, or equal ones."""
    if len(set(row.tiers)) > 1:
        return True
    single = len(row.answers) == 1
    left_out[SINGLE if single else "prompts whose answers are rated alike"] += 1
    return False


def _rates(row: Any, left_out: Counter[str]) -> bool:
    if not row.ratings:
        raise DataError(f"row {row.id}", "has an order but no ratings", "give a number for each answer")
    return True


def refuse_other_kind(rows: Sequence[Row], kind: Expect, where: str, fix: str) -> None:
    """Refuse rows among which one is of another kind.

    Raises:
        DataError: At `where`, with `fix`.
    """
    other = next((row for row in rows if not isinstance(row, WANTED[kind])), None)
    if other is not None:
        raise DataError(where, f"holds {_said(NAMES[type(other)])}, not {_said(kind)}", fix)


def _said(kind: Expect) -> str:
    return "unpaired answers" if kind == "unpaired" else kind


def contradictions(rows: Sequence[Row]) -> list[list[str]]:
    """Rows that cannot all hold: rankings by which x > y > ... > x, answers that are called good and bad.

    Returns:
        For each prompt of such rankings, and for each such answer, the ids of its rows.
    """
    by_prompt: dict[tuple[Message, ...], list[Ranking]] = {}
    by_answer: dict[tuple[tuple[Message, ...], str], list[Labelled]] = {}
    for row in rows:
        if isinstance(row, Ranking):
            by_prompt.setdefault(row.prompt, []).append(row)
        if isinstance(row, Labelled):
            by_answer.setdefault((row.prompt, row.answer), []).append(row)
    rankings = [[row.id for row in same] for same in by_prompt.values() if _is_cyclic(same)]
    labels = [[row.id for row in same] for same in by_answer.values() if len({r.desirable for r in same}) > 1]
    return rankings + labels


def _is_cyclic(rankings: Sequence[Ranking]) -> bool:
    better: TopologicalSorter[str] = TopologicalSorter()
    for ranking in rankings:
        for answer, tier in zip(ranking.answers, ranking.tiers, strict=True):
            above = (a for a, t in zip(ranking.answers, ranking.tiers, strict=True) if t == tier - 1)
            better.add(answer, *above)
    try:
        better.prepare()
    except CycleError:
        return True
    return False


def prompt_of(row: Row) -> tuple[Message, ...]:
    """The turns before the last answer; none for plain text."""
    if isinstance(row, Conversation):
        last = max(i for i, message in enumerate(row.messages) if message.role == "assistant")
        return row.messages[:last]
    return row.prompt if isinstance(row, Ranking | Labelled | Stepwise) else row.messages


def facts_of(row: Row) -> Mapping[str, Any]:
    """What a row carries beside its prompt for whoever scores answers to it."""
    return row.facts if isinstance(row, Conversation | Prompt) else {}


def once(rows: Sequence[Row]) -> tuple[list[Any], list[str]]:
    """Each row once, and the ids of the copies left out.

    Raises:
        DataError: Two different rows have one id.
    """
    kept: list[Row] = []
    copies: list[str] = []
    seen: set[Row] = set()
    ids: set[str] = set()
    for row in rows:
        content = replace(row, id="")
        if content in seen:
            copies.append(row.id)
            continue
        if row.id in ids:
            raise DataError(f"row {row.id}", "has the id of an earlier row", "give each row an id of its own")
        seen.add(content)
        ids.add(row.id)
        kept.append(row)
    return kept, copies


def opening(row: Row) -> str:
    """What decides which part a row belongs to: the text of its first user turn, folded.

    A conversation and the longer ones that grow out of it open alike, so they are held out together.
    """
    messages = row.prompt if isinstance(row, Ranking | Labelled | Stepwise) else row.messages
    first = next((message for message in messages if message.role == "user"), messages[0])
    return " ".join(first.content.casefold().split())


def is_test(opening: str, part: float, salt: str) -> bool:
    """Whether rows of this opening are held out: a pure function, so no view of a source trains on them."""
    value = int(hashlib.sha256(f"{salt}\x00{opening}".encode()).hexdigest(), 16) % 10_000
    return value / 10_000 < part
