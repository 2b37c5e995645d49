"""Tiers and fewer answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.data.rankings import dense, rating_scale, subset, thin
from align.data.types import Message, Ranking
from align.errors import DataError


def ranking(*tiers: int, ratings: tuple[float, ...] = ()) -> Ranking:
    return Ranking(
        "r", (Message("user", "q"),), tuple(f"{i}" for i in range(len(tiers))), tiers, ratings, "s"
    )


@pytest.mark.parametrize(
    ("levels", "tiers"),
    [
        ([0.5, 0.0, 0.5, 1.0], (1, 0, 1, 2)),
        ([3], (0,)),
        ([], ()),
        ([-1, -3, -2], (2, 0, 1)),
        ([7, 7], (0, 0)),
    ],
)
def test_tiers_have_no_gaps(levels: list[float], tiers: tuple[int, ...]) -> None:
    assert dense(levels) == tiers


def test_a_subset_keeps_order_ratings_and_source() -> None:
    part = subset(ranking(3, 0, 1, 2, ratings=(0.1, 0.9, 0.8, 0.5)), [0, 2])
    assert (part.answers, part.tiers, part.ratings, part.source) == (("0", "2"), (1, 0), (0.1, 0.8), "s")


@pytest.mark.parametrize(
    ("tiers", "most", "answers"),
    [
        ((0, 0, 0, 0, 1, 2), 3, "045"),  # one of each tier first
        ((0, 0, 0, 0, 1, 2), 4, "0145"),  # then a second one of the first
        ((1, 1, 0, 1, 0, 1), 3, "024"),
        ((6, 5, 4, 3, 2, 1, 0), 3, "036"),  # more tiers than places: evenly spaced, both ends
        ((6, 5, 4, 3, 2, 1, 0), 2, "06"),
        ((1, 1, 1, 0), 2, "03"),  # never a tie alone
    ],
)
def test_thinning_by_hand(tiers: tuple[int, ...], most: int, answers: str) -> None:
    assert "".join(thin(ranking(*tiers), most).answers) == answers


def test_a_small_ranking_stays_as_it_is() -> None:
    row = ranking(0, 1, 2)
    assert thin(row, 3) is row


@given(st.lists(st.integers(0, 6), min_size=2, max_size=60), st.integers(2, 9))
def test_thinning_keeps_the_order_and_both_ends(tiers: list[int], most: int) -> None:
    row = ranking(*dense(tiers))
    part = thin(row, most)
    assert len(part.answers) == min(most, len(tiers))
    before = {answer: tier for answer, tier in zip(row.answers, row.tiers, strict=True)}
    kept = [before[answer] for answer in part.answers]
    assert part.tiers == dense(kept)
    assert {min(kept), max(kept)} == {min(row.tiers), max(row.tiers)}
    assert len(set(kept)) == min(most, len(set(tiers))), "as many tiers as fit"


def rated(*ratings: float) -> Ranking:
    return ranking(*(0 for _ in ratings), ratings=ratings)


def test_a_scale_is_read_off_the_ratings_or_given() -> None:
    rows = [rated(3.0), rated(1.0, 3.0), rated(2.5)]
    assert rating_scale(rows, None, "k") == (1.0, 2.5, 3.0)
    assert rating_scale(rows, [1.0, 2.0, 3.0, 4.0], "k") == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("rows", "given", "line"),
    [
        (
            [rated(*range(25))], None,
            "k: the data hold 25 different ratings from 0 to 24; give the levels that they are rounded to, "
            "k=[..., ...]",
        ),
        (
            [rated(1.0, 6.0)], [1.0, 3.0, 5.0],
            "k: the rating 6 lies outside the scale 1 to 5; mend it, or widen k",
        ),
        (
            [rated(2.0), rated(2.0)], None,
            "k: the data have only one level of ratings; give answers that were rated differently",
        ),
        (
            [rated(2.0), rated(2.25)], [1.0, 2.0, 3.0],
            "k: the data have only one level of ratings; give answers that were rated differently",
        ),
    ],
)  # fmt: skip
def test_ratings_that_are_on_no_scale(rows: list[Ranking], given: list[float] | None, line: str) -> None:
    with pytest.raises(DataError) as error:
        rating_scale(rows, given, "k")
    assert str(error.value) == line
