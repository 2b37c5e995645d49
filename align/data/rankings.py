"""Rankings as such: dense tiers, tiers from ratings, fewer answers, the scale of their ratings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from align.data.types import Ranking
from align.errors import DataError

MOST_LEVELS = 20  # of a scale that is read off the data


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


def rating_scale(rankings: Sequence[Ranking], given: Sequence[float] | None, key: str) -> tuple[float, ...]:
    """The ordered levels of a rating scale, lowest first.

    Args:
        rankings: Rated answers.
        given: The levels; None takes every different rating.
        key: The option that gives them, for messages.

    Raises:
        DataError: Fewer than two levels, or too many to be a scale; or no rating on all but one of them.
    """
    found = sorted({rating for ranking in rankings for rating in ranking.ratings})
    scale = tuple(found if given is None else given)
    if len(scale) > MOST_LEVELS and given is None:
        what = f"the data hold {len(scale)} different ratings from {found[0]:g} to {found[-1]:g}"
        raise DataError(key, what, f"give the levels that they are rounded to, {key}=[..., ...]")
    if len({level_of(rating, scale, key) for rating in found}) < 2:
        raise DataError(
            key, "the data have only one level of ratings", "give answers that were rated differently"
        )
    return scale


def level_of(rating: float, scale: Sequence[float], key: str) -> int:
    """The place of the level that a rating is nearest to, the lower one half way.

    Raises:
        DataError: The rating lies outside the scale.

    Example:
        >>> [level_of(rating, (1, 2, 5), "scale") for rating in (1, 1.6, 3.5, 4)]
        [0, 1, 1, 2]
    """
    if not scale[0] <= rating <= scale[-1]:
        what = f"the rating {rating:g} lies outside the scale {scale[0]:g} to {scale[-1]:g}"
        raise DataError(key, what, f"mend it, or widen {key}")
    return min(range(len(scale)), key=lambda place: (abs(scale[place] - rating), place))
