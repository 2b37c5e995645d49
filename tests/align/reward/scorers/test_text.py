"""Rules on text and length, expected values by hand."""

from __future__ import annotations

import pytest
from answered import answered

from align.config.rewards import LengthPenalty, RegexReward, RepetitionPenalty
from align.errors import ConfigError
from align.reward.scorers import text
from align.reward.scorers.text import length_scorer, regex_scorer, repetition_scorer


def test_a_pattern_is_searched_or_matched() -> None:
    answers = [answered("so\n#### 42"), answered("#### 42 "), answered("#### 42 or")]
    search = RegexReward(kind="regex", pattern=r"(?m)^#### \d+$")
    assert regex_scorer(search)(answers).values.tolist() == [1.0, 0.0, 0.0]
    full = RegexReward(kind="regex", pattern=r"#### \d+\s*", match="full")
    assert regex_scorer(full)(answers).values.tolist() == [0.0, 1.0, 0.0]


def test_a_pattern_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "PATIENCE", 0.1)
    scorer = regex_scorer(RegexReward(kind="regex", pattern="(a|aa)+$"))
    with pytest.raises(ConfigError, match=r"takes more than 0\.1 s on row p/0; write it without"):
        scorer([answered("a" * 60 + "b")])


def test_length_costs_from_allowed_to_the_end_of_the_window() -> None:
    scorer = length_scorer(LengthPenalty(kind="length_penalty", allowed=10, window=4))
    scores = scorer([answered(tokens=n) for n in (0, 10, 11, 12, 14, 99)]).values.tolist()
    assert scores == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


@pytest.mark.parametrize(
    ("said", "n", "score"),
    [
        ("a b c d", 2, 0.0),
        ("a b a b", 2, -1 / 3),  # ab, ba, ab: one of three stood before
        ("A b a B", 2, -1 / 3),
        ("no no no no no", 1, -0.8),
        ("a b", 3, 0.0),  # too short for any
        ("", 1, 0.0),
    ],
)
def test_repeated_n_grams(said: str, n: int, score: float) -> None:
    scorer = repetition_scorer(RepetitionPenalty(kind="repetition_penalty", n=n))
    assert scorer([answered(said)]).values.tolist() == pytest.approx([score])
