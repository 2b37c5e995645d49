"""The ids of IFEval as constraints of this project."""

from __future__ import annotations

from typing import Any

import pytest

from align.reward.scorers.constraints import holds, parse
from align.reward.scorers.ifeval import IDS, translated


@pytest.mark.parametrize(
    ("spec", "ours"),
    [
        (
            {"name": "length_constraints:number_words", "relation": "at least", "num_words": 300},
            {"name": "words", "at_least": 300},
        ),
        (
            {"name": "length_constraints:number_sentences", "relation": "less than", "num_sentences": 6},
            {"name": "sentences", "at_most": 5},
        ),
        (
            {"name": "en:length_constraints:number_paragraphs", "num_paragraphs": 3, "num_words": None},
            {"name": "paragraphs", "exactly": 3, "separator": "stars"},
        ),
        (
            {
                "name": "keywords:letter_frequency",
                "let_relation": "less than",
                "letter": "t",
                "let_frequency": 2,
            },
            {"name": "letter_frequency", "letter": "t", "at_most": 1},
        ),
        (
            {
                "name": "change_case:capital_word_frequency",
                "capital_relation": "at least",
                "capital_frequency": 3,
            },
            {"name": "capital_words", "at_least": 3},
        ),
        (
            {"name": "detectable_format:multiple_sections", "section_spliter": "Day", "num_sections": 4},
            {"name": "sections", "marker": "Day", "at_least": 4},
        ),
        (
            {"name": "detectable_format:number_bullet_lists", "num_bullets": 3},
            {"name": "bullets", "exactly": 3},
        ),
        ({"name": "startend:quotation"}, {"name": "quoted"}),
        ({"name": "words", "at_most": 3}, {"name": "words", "at_most": 3}),
    ],
)
def test_ids_and_keys(spec: dict[str, Any], ours: dict[str, Any]) -> None:
    assert translated(spec) == ours


def test_less_than_leaves_the_number_out() -> None:
    (fewer,) = parse([{"name": "length_constraints:number_words", "relation": "less than", "num_words": 3}])
    assert holds(fewer, "a b")
    assert not holds(fewer, "a b c")


def test_all_25_ids_of_the_paper_are_there() -> None:
    assert len(IDS) == 25
