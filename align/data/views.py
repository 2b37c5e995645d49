"""Rows of a source before they are used: as the kind that is wanted, each once, held out by their prompt."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from align.data.types import Conversation, Message, Prompt, Ranking
from align.errors import DataError

Expect = Literal["conversations", "rankings", "prompts"]
Row = Conversation | Ranking | Prompt
WANTED: dict[Expect, type[Row]] = {"conversations": Conversation, "rankings": Ranking, "prompts": Prompt}
NAMES = {kind: name for name, kind in WANTED.items()}


def view(rows: Sequence[Row], expect: Expect, name: str, left_out: Counter[str]) -> list[Any]:
    """The rows as the kind that is wanted: as they are, or their prompts, each once.

    Args:
        rows: Of one source.
        expect: The kind.
        name: Of the source, for messages.
        left_out: Reason -> rows that the view has no place for; added to.

    Raises:
        DataError: The rows cannot serve as that kind.
    """
    if expect != "prompts":
        refuse_other_kind(rows, expect, f"data {name}", f"name data of kind {expect}")
        return list(rows)
    kept: dict[tuple[Message, ...], Prompt] = {}
    for row in rows:
        asked = prompt_of(row)
        if not asked:
            left_out["plain texts without a prompt"] += 1
        elif asked in kept:
            left_out["further rows of a prompt"] += 1
        else:
            kept[asked] = Prompt(row.id, asked, row.source)
    return list(kept.values())


def refuse_other_kind(rows: Sequence[Row], kind: Expect, where: str, fix: str) -> None:
    """Refuse rows among which one is of another kind.

    Raises:
        DataError: At `where`, with `fix`.
    """
    other = next((row for row in rows if not isinstance(row, WANTED[kind])), None)
    if other is not None:
        raise DataError(where, f"holds {NAMES[type(other)]}, not {kind}", fix)


def contradictions(rows: Sequence[Row]) -> list[list[str]]:
    """Prompts whose rankings cannot all hold: by some of them x > y > ... > x.

    Returns:
        For each such prompt the ids of its rankings.
    """
    by_prompt: dict[tuple[Message, ...], list[Ranking]] = {}
    for row in rows:
        if isinstance(row, Ranking):
            by_prompt.setdefault(row.prompt, []).append(row)
    return [[row.id for row in same] for same in by_prompt.values() if _is_cyclic(same)]


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
    return row.prompt if isinstance(row, Ranking) else row.messages


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
    messages = row.prompt if isinstance(row, Ranking) else row.messages
    first = next((message for message in messages if message.role == "user"), messages[0])
    return " ".join(first.content.casefold().split())


def is_test(opening: str, part: float, salt: str) -> bool:
    """Whether rows of this opening are held out: a pure function, so no view of a source trains on them."""
    value = int(hashlib.sha256(f"{salt}\x00{opening}".encode()).hexdigest(), 16) % 10_000
    return value / 10_000 < part
