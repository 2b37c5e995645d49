"""What scorers are given and must return."""

from __future__ import annotations

import pytest
import torch
from answered import answered

from align.errors import DataError, NumericsError
from align.reward.types import Scores, checked, one_by_one

ANSWERS = [answered(name=f"p/{i}") for i in range(5)]


def test_tokens_leave_eos_out() -> None:
    assert answered(tokens=7).tokens == 7
    assert answered(tokens=0).tokens == 0


def test_a_missing_fact_names_its_row() -> None:
    assert answered(answer="42").fact("answer") == "42"
    with pytest.raises(DataError, match="row p/0: its prompt carries no 'tests'"):
        answered(answer="42").fact("tests")


def test_one_by_one_keeps_the_order() -> None:
    scores = one_by_one(lambda answer: float(answer.id[-1]))(ANSWERS)
    assert scores.values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert scores.values.dtype == torch.float32


def test_good_scores_pass() -> None:
    scores = Scores(torch.ones(5), {"std": torch.zeros(5)})
    assert checked(scores, ANSWERS, "here") is scores


@pytest.mark.parametrize(
    ("scores", "line"),
    [
        (
            Scores(torch.tensor([0.0, float("nan"), 1.0, float("inf"), 0.0])),
            "here: the score is nan for rows p/1, p/3;",
        ),
        (Scores(torch.tensor([0.0, 1.0, 2.0, 3.0, float("-inf")])), "here: the score is -inf for row p/4;"),
        (Scores(torch.full((5,), float("nan"))), "here: the score is nan for rows p/0, p/1, p/2 and 2 more;"),
        (
            Scores(torch.ones(4)),
            r"here: scores of shape \[4\] for 5 answers \(rows p/0, p/1, p/2 and 2 more\);",
        ),
        (Scores(torch.ones(5, 1)), r"here: scores of shape \[5, 1\] for 5 answers"),
        (Scores(torch.ones(5), {"std": torch.full((5,), float("nan"))}), "here/std: the score is nan"),
    ],
)
def test_bad_scores_are_refused_with_their_rows(scores: Scores, line: str) -> None:
    with pytest.raises(NumericsError, match=f"^{line}"):
        checked(scores, ANSWERS, "here")
