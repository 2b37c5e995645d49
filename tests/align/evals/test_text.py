"""Length and variety, counted by hand."""

from __future__ import annotations

import pytest

from align.evals.text import distinct_n, distinct_openings, length_words, words_of


def test_words_keep_apostrophes_and_drop_marks() -> None:
    assert words_of("Don’t -- I CAN'T (3 times)!") == ["don’t", "i", "can't", "3", "times"]
    assert length_words("Don’t -- I CAN'T (3 times)!") == 5
    assert length_words("...") == 0


@pytest.mark.parametrize(
    ("texts", "n", "expected"),
    [
        (["a b a b", "A B"], 1, 2 / 6),
        (["a b a b", "A B"], 2, 2 / 4),
        (["a b a b", "A B"], 3, 2 / 2),
        (["a b", "c d"], 2, 1.0),  # no n-gram across texts
        (["a"], 2, 0.0),
        ([], 1, 0.0),
    ],
)
def test_distinct_n(texts: list[str], n: int, expected: float) -> None:
    assert distinct_n(texts, n) == pytest.approx(expected)


def test_distinct_openings() -> None:
    canned = ["I can't help with that.", "I can't help with murder.", "i can't, help with X"]
    assert distinct_openings(canned) == pytest.approx(1 / 3)
    assert distinct_openings(canned, words=5) == 1.0
    assert distinct_openings(["", "", "Boil it."]) == pytest.approx(2 / 3)
    assert distinct_openings([]) == 0.0
