"""What is done to rankings before they are tokenised."""

from __future__ import annotations

from dataclasses import replace

from align.data.types import Ranking


def thin(ranking: Ranking, max_answers: int) -> Ranking:
    """At most `max_answers` answers, spread evenly over the order from best to worst; both ends stay.

    Example:
        >>> from align.data.types import Message
        >>> r = Ranking("a", (Message("user", "?"),), tuple("abcde"), (4, 0, 1, 2, 3))
        >>> thin(r, 3).answers, thin(r, 3).tiers
        (('a', 'b', 'd'), (4, 0, 2))
    """
    count = len(ranking.answers)
    if count <= max_answers:
        return ranking
    order = sorted(range(count), key=lambda i: (ranking.tiers[i], i))
    kept = sorted({order[round(j * (count - 1) / (max_answers - 1))] for j in range(max_answers)})
    return replace(
        ranking,
        answers=tuple(ranking.answers[i] for i in kept),
        tiers=tuple(ranking.tiers[i] for i in kept),
        ratings=tuple(ranking.ratings[i] for i in kept) if ranking.ratings else (),
    )
