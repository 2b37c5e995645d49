"""Each constraint on texts that keep it and texts that break it, by hand."""
# ruff: noqa: E501 - a table

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from answered import answered

from align.config.rewards import ConstraintsReward
from align.reward.scorers.constraints import constraints_scorer, holds, parse

KEPT_AND_BROKEN: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"name": "words", "at_most": 3}, ["one two three", "well-known fact", "one"], ["one two three four"]),
    ({"name": "words", "at_least": 2, "at_most": 3}, ["a b", "a b c"], ["a", "a b c d"]),
    ({"name": "words", "exactly": 2}, ["a, b!"], ["a", "a b c"]),
    (
        {"name": "sentences", "exactly": 2},
        ["One. Two!", 'He said "No." She left.', "Mr. Fox ran. He won.", "One? two"],
        ["One.", "One. Two. Three.", "One 2.5 two."],
    ),
    ({"name": "paragraphs", "exactly": 2}, ["a\n\nb", "a\nb\n \n\nc\n"], ["a\nb", "a\n\nb\n\nc"]),
    (
        {"name": "paragraphs", "exactly": 2, "separator": "stars"},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a\n\nb", "a\n***\n***\nb"],
    ),
    (
        {"name": "paragraph_starts_with", "paragraphs": 2, "nth": 2, "word": "Then"},
        ["First a.\n\nthen b", 'A\n\n"Then," he said'],
        ["Then a.\n\nB", "a\n\nthen b\n\nc", "A\n\nthence"],
    ),
    ({"name": "keywords", "words": ["sun", "Moon"]}, ["The Sun and the moonlight"], ["The sun", "moon"]),
    ({"name": "forbidden_words", "words": ["sun", "c++"]}, ["The sunlight", "c"], ["The Sun!", "use C++."]),
    ({"name": "keyword_frequency", "word": "Sun", "at_least": 2}, ["sun SUN", "sunsun"], ["sun"]),
    ({"name": "letter_frequency", "letter": "t", "at_most": 1}, ["The end"], ["That"]),
    ({"name": "letter_frequency", "letter": "!", "exactly": 2}, ["a! b!"], ["a!"]),
    ({"name": "capital_words", "at_least": 2}, ["GO NOW", "a NASA B thing"], ["GO now", "Go Now"]),
    ({"name": "placeholders", "at_least": 2}, ["[name], [street 3]"], ["[name]", "[] []", "(a) (b)"]),
    (
        {"name": "bullets", "exactly": 2},
        ["* a\n* b", "list:\n- a\n  - b"],
        ["* a", "* a\n* b\n* c", "**a**\n**b**", "---\n- a"],
    ),
    ({"name": "highlights", "at_least": 2}, ["*a* and *b c*", "**a** *b*"], ["*a*", "** **  *a*", "*a\nb*"]),
    (
        {"name": "sections", "marker": "Section", "at_least": 2},
        ["Section 1\na\nSection 2\nb"],
        ["Section 1", "Section one\nSection two"],
    ),
    ({"name": "json"}, ['{"a": [1]}', '```json\n{"a": 1}\n```', "3"], ["{'a': 1}", 'Here: {"a": 1}', "NaN"]),
    ({"name": "title"}, ["<<My day>>\nIt was"], ["<My day>", "<< >>", "<<a\nb>>"]),
    ({"name": "lowercase"}, ["all small, 3!"], ["All small", "123"]),
    ({"name": "uppercase"}, ["ALL BIG, 3!"], ["ALL bIG", "123"]),
    ({"name": "no_commas"}, ["so it is"], ["so, it is"]),
    ({"name": "quoted"}, ['"so it is"', ' "so" '], ['"so it is', '"', "'so'"]),
    ({"name": "starts_with", "phrase": "Dear Sir"}, ["dear sir, hello"], ["Hello, dear sir"]),
    (
        {"name": "ends_with", "phrase": "Any questions?"},
        ["Bye. any questions?", '"Any questions?"\n'],
        ["Any questions? No."],
    ),
    ({"name": "postscript"}, ["Bye.\n\nP.S. More", "p. s. more"], ["Bye. PS more"]),
    ({"name": "postscript", "marker": "P.P.S"}, ["P.P.S. more", "p.p.s more"], ["P.S. more"]),
    ({"name": "one_of", "phrases": ["Yes.", "No."]}, ["I say: No."], ["no.", "maybe"]),
    (
        {"name": "two_answers"},
        ["a\n******\nb", "******a******b"],
        ["a******a", "a", "a******b******c", "a******"],
    ),
]


@pytest.mark.parametrize(
    ("spec", "kept", "broken"),
    KEPT_AND_BROKEN,
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_kept_and_broken(spec: dict[str, Any], kept: list[str], broken: list[str]) -> None:
    (constraint,) = parse([spec])
    assert [text for text in kept if not holds(constraint, text)] == []
    assert [text for text in broken if holds(constraint, text)] == []


def test_an_empty_answer_keeps_none() -> None:
    for spec, _, _ in KEPT_AND_BROKEN:
        assert not holds(parse([spec])[0], " \n")


def test_the_language() -> None:
    pytest.importorskip("langdetect")
    german = "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter von gestern."
    english = "This is a quite ordinary English sentence about the weather of yesterday."
    (constraint,) = parse([{"name": "language", "language": "de"}])
    assert holds(constraint, german)
    assert not holds(constraint, english)
    assert not holds(constraint, "123 456")


@pytest.mark.parametrize(
    ("specs", "line"),
    [
        ([], "is no list of constraints"),
        ("words", "is no list of constraints"),
        ([{"name": "wordz"}], r"constraint 0 \('wordz'\): Input tag 'wordz'"),
        (
            [{"name": "json"}, {"name": "words"}],
            r"constraint 1 \('words'\): Value error, give at_least, at_most or exactly",
        ),
        ([{"name": "words", "at_least": 3, "at_most": 2}], "at_least 3 is above at_most 2"),
        ([{"name": "words", "exactly": 3, "at_most": 3}], "exactly leaves no room"),
        (
            [{"name": "words", "at_most": "3"}],
            r"constraint 0 \('words'\): at_most: Input should be a valid integer",
        ),
        ([{"name": "json", "strict": True}], "strict: Extra inputs are not permitted"),
        (
            [{"name": "paragraph_starts_with", "paragraphs": 1, "nth": 2, "word": "a"}],
            "nth 2 is above paragraphs 1",
        ),
        ([{"name": "startend:nothing"}], "no constraint is called 'startend:nothing'"),
        (
            [{"name": "en:length_constraints:number_words", "num_words": 3}],
            "'relation' is none of at least, at most, exactly, less than",
        ),
        ([{"name": "keywords:existence"}], "constraint 'keywords:existence' lacks 'keywords'"),
    ],
)
def test_what_is_no_constraint(specs: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        parse(specs)


def test_the_part_that_is_kept_or_all() -> None:
    specs = [{"name": "no_commas"}, {"name": "words", "at_most": 2}, {"name": "lowercase"}, {"name": "json"}]
    answers = [
        answered("so it is", constraints=specs),
        answered("3", constraints=specs[:2]),
        answered("", constraints=specs),
    ]
    mean = constraints_scorer(ConstraintsReward(kind="constraints"))
    assert mean(answers).values.tolist() == [0.5, 1.0, 0.0]  # of the first: no comma, lower case
    least = constraints_scorer(ConstraintsReward(kind="constraints", aggregate="min"))
    assert least(answers).values.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.shared
def test_all_instructions_of_ifeval_are_read(shared: Path) -> None:
    rows = [
        json.loads(line) for line in (shared / "data" / "ifeval" / "ifeval_en.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 541
    counts = []
    for row in rows:
        specs = [
            {**keys, "name": name}
            for name, keys in zip(row["instruction_id_list"], row["kwargs"], strict=True)
        ]
        counts.append(len(parse(specs)))
    assert sum(counts) == 834
    assert sum(name.startswith("en:") for row in rows for name in row["instruction_id_list"]) == 834
