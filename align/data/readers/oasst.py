"""OpenAssistant: message trees with a human rank for each sibling reply, or rankings derived from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from align.data.fields import checked, messages, number, texts, wrong
from align.data.rankings import dense
from align.data.readers.base import Context, Rows, reader
from align.data.records import Record, said
from align.data.sources import Blob
from align.data.types import Message, Ranking, Role

ROLES: dict[Any, Role] = {"prompter": "user", "assistant": "assistant"}
MAX_DEPTH = 100


@dataclass(frozen=True)
class Node:
    """A message of a tree: its turn, the rank people gave it among its siblings, and the replies to it."""

    place: str
    turn: Message
    rank: float | None
    replies: tuple[Node, ...]


@reader("oasst_rankings")
def read(blobs: Iterable[Blob], context: Context) -> Rows:
    """Every set of sibling answers with at least two ranks, 0 is best; the turns above it are the prompt."""
    for rows in context.rows(blobs, lambda record: _rows(record, context)):
        yield from rows


def _rows(record: Record, context: Context) -> list[Ranking]:
    name = f"{context.name}/{record.key}"
    root = record.data.get("prompt")
    if not isinstance(root, dict):
        return [_derived(record, name, context)]
    found = []
    for place, (prompt, replies) in enumerate(_siblings(_node(record, "prompt", root), ())):
        ranked = [(reply.turn.content, reply.rank) for reply in replies if reply.rank is not None]
        if len({rank for _, rank in ranked}) < 2:
            context.left_out["prompts with fewer than two ranked answers"] += 1
            continue
        answers, ranks = zip(*ranked, strict=True)
        found.append(Ranking(f"{name}.{place}", prompt, answers, dense(ranks), (), context.name))
    return found


def _derived(record: Record, name: str, context: Context) -> Ranking:
    """A row of {prompt, responses, ranks}."""
    prompt = messages(record, "prompt", record.data.get("prompt"), "user")
    answers, ranks = texts(record, "responses"), record.data.get("ranks")
    if not isinstance(ranks, list) or len(ranks) != len(answers):
        raise wrong(
            record,
            "ranks",
            f"does not give one rank for each of the {len(answers)} responses",
            "make them fit",
        )
    levels = [number(record, f"ranks[{i}]", rank) for i, rank in enumerate(ranks)]
    if len(set(levels)) < 2:
        raise wrong(
            record, "ranks", "holds fewer than two different ranks", "leave the row out: it ranks nothing"
        )
    return Ranking(name, prompt, tuple(answers), dense(levels), (), context.name)


def _node(record: Record, place: str, node: Any) -> Node:
    if not isinstance(node, dict):
        raise wrong(record, place, f"is {said(node)}, not a message", "give the trees as they are exported")
    if place.count(".replies") > MAX_DEPTH:
        raise wrong(record, "prompt", f"is a tree of more than {MAX_DEPTH} levels", "leave the row out")
    role = ROLES.get(node.get("role"))
    if role is None:
        raise wrong(record, f"{place}.role", f"is {node.get('role')!r}", "give prompter or assistant")
    turn = Message(role, checked(record, f"{place}.text", node.get("text")))
    rank = None if node.get("rank") is None else number(record, f"{place}.rank", node["rank"])
    below = node.get("replies") or []
    if not isinstance(below, list):
        raise wrong(record, f"{place}.replies", f"is {said(below)}", "give a list of messages")
    replies = tuple(_node(record, f"{place}.replies[{i}]", reply) for i, reply in enumerate(below))
    return Node(place, turn, rank, replies)


def _siblings(
    node: Node, above: tuple[Message, ...]
) -> Iterator[tuple[tuple[Message, ...], tuple[Node, ...]]]:
    turns = (*above, node.turn)
    if node.turn.role == "user":
        yield turns, node.replies
    for reply in node.replies:
        yield from _siblings(reply, turns)
