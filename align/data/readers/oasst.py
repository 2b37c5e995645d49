"""OpenAssistant: message trees with a human rank for each sibling reply, or rankings derived from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from align.data.readers.base import READERS, Context, Record, Rows, records
from align.data.sources import Blob
from align.data.types import Message, Ranking

ROLES = {"prompter": "user", "assistant": "assistant", "user": "user", "system": "system"}


@READERS.register("oasst_rankings")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Every set of sibling answers with at least two ranks, best rank 0; the turns above it are the prompt."""
    for blob in blobs:
        for rankings in context.rows(records(blob), lambda record: list(_record(record, context))):
            yield from rankings


def _record(record: Record, context: Context) -> Iterator[Ranking]:
    name = f"{context.name}/{record.number}"
    root = record.data.get("prompt")
    if isinstance(root, dict) and "replies" in root:
        for place, (prompt, replies) in enumerate(_siblings(root, ())):
            yield from _ranking(f"{name}.{place}", prompt, replies, context)
        return
    prompt = record.messages("prompt", root if root is not None else record.data.get("messages"), "user")
    answers = record.data.get("answers") or record.data.get("responses") or record.data.get("replies")
    if not isinstance(answers, list):
        raise record.error("answers", "is missing", "give answers, or a tree with prompt and replies")
    texts = [a if isinstance(a, str) else a.get("text") or a.get("content") for a in answers]
    ranks = record.data.get("ranks") or [a.get("rank") if isinstance(a, dict) else i for i, a in enumerate(answers)]
    replies = [{"text": t, "rank": r} for t, r in zip(texts, ranks, strict=True)]
    yield from _ranking(name, prompt, replies, context)


def _siblings(node: dict[str, Any], above: tuple[Message, ...]) -> Iterator[tuple[tuple[Message, ...], list[dict[str, Any]]]]:
    turns = (*above, Message(ROLES[node["role"]], node["text"]))  # type: ignore[arg-type]
    replies = node.get("replies") or []
    if node["role"] == "prompter":
        yield turns, replies
    for reply in replies:
        yield from _siblings(reply, turns)


def _ranking(name: str, prompt: tuple[Message, ...], replies: list[dict[str, Any]], context: Context) -> Iterator[Ranking]:
    ranked = [(r["text"], r["rank"]) for r in replies if r.get("rank") is not None and r["text"].strip()]
    levels = sorted({rank for _, rank in ranked})
    if len(levels) < 2:
        context.dropped["fewer than two ranked answers"] += 1
        return
    tiers = tuple(levels.index(rank) for _, rank in ranked)
    yield Ranking(name, prompt, tuple(text for text, _ in ranked), tiers, (), context.name)
