"""Rankings as such: dense tiers, tiers from ratings, fewer answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from align.data.types import Ranking


def dense(levels: Sequence[float]) -> tuple[int, ...]:
    """Tiers without gaps, 0 for the lowest level; equal levels tie.

    Example:
        >>> dense([5, 2, 5, 9])
        (1, 0, 1, 2)
    """
    place = {level: tier for tier, level in enumerate(sorted(set(levels)))}
    return tuple(place[level] for level in levels)


def subset(ranking: Ranking, kept: Sequence[int]) -> Ranking:
    """The ranking of the answers at `kept`, in that order, with tiers made dense again."""
    return replace(
        ranking,
        answers=tuple(ranking.answers[i] for i in kept),
        tiers=dense([ranking.tiers[i] for i in kept]),
        ratings=tuple(ranking.ratings[i] for i in kept) if ranking.ratings else (),
    )


def thin(ranking: Ranking, max_answers: int) -> Ranking:
    """At most `max_answers` answers, spread over the tiers.

    One answer of each tier is taken, then a second one of each, and so on, in their given order. With more
    tiers than `max_answers`, evenly spaced tiers give one answer each, the best and the worst among them.

    Args:
        ranking: K answers.
        max_answers: At least 2.

    Returns:
        The ranking itself where it is small enough.
    """
    if len(ranking.answers) <= max_answers:
        return ranking
    tiers = [[i for i, t in enumerate(ranking.tiers) if t == tier] for tier in sorted(set(ranking.tiers))]
    if len(tiers) > max_answers:
        last = len(tiers) - 1
        tiers = [tiers[round(i * last / (max_answers - 1))] for i in range(max_answers)]
    by_turn = sorted((turn, number, i) for number, tier in enumerate(tiers) for turn, i in enumerate(tier))
    return subset(ranking, sorted(i for _, _, i in by_turn[:max_answers]))
