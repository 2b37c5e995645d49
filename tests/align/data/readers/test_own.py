"""The project's own forms of rows, with and without a card's names for the fields."""
# ruff: noqa: E501 - a table

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.data.readers import READERS, Context
from align.data.readers.own import OwnOptions
from align.data.sources import local
from align.data.types import Conversation, Labelled, Message, Prompt, Ranking, Stepwise
from align.errors import DataError

USER, ASSISTANT = Message("user", "q"), Message("assistant", "a")


def read(
    tmp_path: Path, *rows: dict[str, Any], fields: dict[str, str] | None = None, form: Any = None
) -> list[Any]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = Context("rows", "conversations", OwnOptions(form=form), fields or {})
    return list(READERS.get("own").read([local(path)], context))


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("row", "made"),
    [
        (
            {"messages": [turn("system", "s"), turn("user", "q"), turn("assistant", "a", weight=0.5)]},
            Conversation("rows/1", (Message("system", "s"), USER, Message("assistant", "a", 0.5)), "rows"),
        ),
        ({"prompt": "q", "completion": "a"}, Conversation("rows/1", (USER, ASSISTANT), "rows")),
        ({"prompt": "q", "completion": [turn("assistant", "a")]}, Conversation("rows/1", (USER, ASSISTANT), "rows")),
        (
            {"prompt": [turn("user", "q")], "completion": [turn("assistant", "a", weight=0.5)]},
            Conversation("rows/1", (USER, Message("assistant", "a", 0.5)), "rows"),
        ),
        ({"prompt": "q", "completion": "a", "label": True}, Labelled("rows/1", (USER,), "a", True, "rows")),
        (
            {"id": "x", "prompt": [turn("user", "q")], "completion": [turn("assistant", "a")], "label": False},
            Labelled("rows/x", (USER,), "a", False, "rows"),
        ),
        ({"prompt": "q", "completion": "a", "label": 0}, Labelled("rows/1", (USER,), "a", False, "rows")),
        ({"text": "once"}, Conversation("rows/1", (Message("assistant", "once"),), "rows")),
        ({"text": "once", "weight": 2}, Conversation("rows/1", (Message("assistant", "once"),), "rows", 2.0)),
        ({"prompt": "q", "completion": "a", "weight": "0.5"}, Conversation("rows/1", (USER, ASSISTANT), "rows", 0.5)),
        (
            {"messages": [turn("user", "q"), turn("assistant", "a")], "weight": 0.25},
            Conversation("rows/1", (USER, ASSISTANT), "rows", 0.25),
        ),
        (
            {"id": 7, "prompt": "q", "chosen": "a", "rejected": "b"},
            Ranking("rows/7", (USER,), ("a", "b"), (0, 1), (), "rows"),
        ),
        (
            {"chosen": [turn("user", "q"), turn("assistant", "a")], "rejected": [turn("user", "q"), turn("assistant", "b")]},
            Ranking("rows/1", (USER,), ("a", "b"), (0, 1), (), "rows"),
        ),
        (
            {"prompt": [turn("user", "q")], "chosen": [turn("assistant", "a")], "rejected": [turn("assistant", "b")]},
            Ranking("rows/1", (USER,), ("a", "b"), (0, 1), (), "rows"),
        ),
        (
            {"prompt": "q", "answers": ["a", "b", "c"], "tiers": [1, 0, 1]},
            Ranking("rows/1", (USER,), ("a", "b", "c"), (1, 0, 1), (), "rows"),
        ),
        (
            {"prompt": "q", "answers": ["a", "b", "c"], "ranks": [3, 1, 1]},  # 1, 1, 3 as in sports
            Ranking("rows/1", (USER,), ("a", "b", "c"), (1, 0, 0), (), "rows"),
        ),
        (
            {"prompt": "q", "answers": ["a", "b", "c"], "ratings": [2.5, 9, 2.5]},  # higher is better
            Ranking("rows/1", (USER,), ("a", "b", "c"), (1, 0, 1), (2.5, 9.0, 2.5), "rows"),
        ),
        (
            {"prompt": "q", "answers": ["a", "b"], "ratings": [3, 3]},  # ranks nothing, but rates
            Ranking("rows/1", (USER,), ("a", "b"), (0, 0), (3.0, 3.0), "rows"),
        ),
        (
            {"prompt": "q", "completions": ["a", "b", "c"], "labels": [True, 0.5, False]},
            Stepwise("rows/1", (USER,), ("a", "b", "c"), (1.0, 0.5, 0.0), "rows"),
        ),
        (
            {"prompt": "q", "answer": "a", "rating": 4},
            Ranking("rows/1", (USER,), ("a",), (0,), (4.0,), "rows"),
        ),
        (
            {"id": "x", "prompt": [turn("user", "q"), turn("assistant", "a"), turn("user", "q")], "source": "web"},
            Prompt("rows/x", (USER, ASSISTANT, USER), "rows"),
        ),
    ],
)  # fmt: skip
def test_forms(row: dict[str, Any], made: Any, tmp_path: Path) -> None:
    assert read(tmp_path, row) == [made]


def test_a_card_may_give_the_fields_other_names(tmp_path: Path) -> None:
    fields = {"prompt": "question", "answers": "replies", "ratings": "stars"}
    row = {"question": "q", "replies": ["a", "b"], "stars": [1, 5], "prompt": "something else"}
    assert read(tmp_path, row, fields=fields) == [
        Ranking("rows/1", (USER,), ("a", "b"), (1, 0), (1.0, 5.0), "rows")
    ]
    with pytest.raises(Exception, match=r"rows\.jsonl:1: field 'replies\[1\]' is a number, not text"):
        read(tmp_path, row | {"replies": ["a", 2]}, fields=fields)


LABEL_FIX = "give true for a desirable answer, else false; or a card with options: {form: completion}"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"label": "spam"}, f"field 'label' is 'spam'; {LABEL_FIX}"),
        ({"label": None}, f"field 'label' is null; {LABEL_FIX}"),
        ({"label": 2}, f"field 'label' is 2; {LABEL_FIX}"),
        ({"label": 0.5}, f"field 'label' is a number; {LABEL_FIX}"),
        ({"completion": 3}, "field 'completion' is a number, not text; give a string"),
        (
            {"completion": [turn("user", "q"), turn("assistant", "a")]},
            "field 'completion' has 2 turns; give one turn, the assistant's",
        ),
        (
            {"completion": [turn("user", "q")]},
            "field 'completion[0]' is the user's and the last turn; end with the assistant's",
        ),
    ],
)
def test_labels_that_are_none(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, {"prompt": "q", "completion": "a", "label": True, **change})
    assert str(error.value).endswith(f"rows.jsonl:1: {what}")


def test_a_completion_of_several_turns_is_none_of_sft_either(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="field 'completion' has 2 turns; give one turn, the assistant's"):
        read(tmp_path, {"prompt": "q", "completion": [turn("user", "q"), turn("assistant", "a")]})
    with pytest.raises(DataError, match="field 'completion' is an empty conversation; "):
        read(tmp_path, {"prompt": "q", "completion": []})


def test_ratings_in_csv_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,answer,rating\nq,a,4\nq,b,-2.5\n")
    rows = READERS.get("own").read([local(path)], Context("rows", "rankings", OwnOptions()))
    assert list(rows) == [
        Ranking("rows/1", (USER,), ("a",), (0,), (4.0,), "rows"),
        Ranking("rows/2", (USER,), ("b",), (0,), (-2.5,), "rows"),
    ]


def test_labels_in_csv_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,label\nq,a,True\nq,b,false\nq,c,1\nq,d,0\n")
    rows = READERS.get("own").read([local(path)], Context("rows", "unpaired", OwnOptions()))
    assert [row.desirable for row in rows] == [True, False, True, False]  # type: ignore[union-attr]


def test_a_label_of_something_else_does_not_get_in_the_way(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a", "label": "sport"}
    assert read(tmp_path, row, form="completion") == [Conversation("rows/1", (USER, ASSISTANT), "rows")]


def test_a_card_may_name_the_form(tmp_path: Path) -> None:
    row = {
        "messages": [turn("user", "q"), turn("assistant", "a")],
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
    }
    assert read(tmp_path, row, form="messages") == [Conversation("rows/1", (USER, ASSISTANT), "rows")]
    assert read(tmp_path, row, form="pairs") == [Ranking("rows/1", (USER,), ("a", "b"), (0, 1), (), "rows")]


def test_two_files_of_one_source_number_their_rows_apart(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "t"}\n')
    files = [local(tmp_path / f"{name}.jsonl") for name in "ab"]
    rows = READERS.get("own").read(files, Context("rows", "conversations", OwnOptions()))
    assert [row.id for row in rows] == ["rows/1", "rows/2.1"]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"prompt": "q", "completions": ["a", "b"], "labels": [True]},
            "field 'labels' has 1 labels for 2 steps; give one label for each step",
        ),
        (
            {"prompt": "q", "completions": ["a"], "labels": ["yes"]},
            "field 'labels[0]' is text, not a number; give a number",
        ),
        (
            {"prompt": "q", "completions": ["a"], "labels": True},
            "field 'labels' is true or false, not a list; give true or false for each step",
        ),
        (
            {"prompt": "q", "completions": [], "labels": []},
            "field 'completions' is empty; give the steps of an answer",
        ),
        (
            {"prompt": "q", "completions": ["a"], "lables": [True]},
            "unknown field 'lables'; did you mean 'labels'?",
        ),
        ({"prompt": "q", "completions": ["a"]}, "unknown field 'completions'; did you mean 'completion'?"),
        ({"prompt": "q", "answer": "a", "ratings": 3}, "unknown field 'answer'; did you mean 'answers'?"),
    ],
)
def test_bad_steps_and_ratings(row: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, row)
    assert str(error.value).split(": ", 1)[1] == line


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbfOnce.\n\nTwice.\n")
    (got,) = READERS.get("own").read(
        [local(tmp_path / "book.txt")], Context("book", "conversations", OwnOptions())
    )
    assert got == Conversation("book/1", (Message("assistant", "Once.\n\nTwice.\n"),), "book")


# --- what a prompt's row carries beside the prompt -------------------------------------------------------

SCHEMA = {"type": "object"}


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ({"prompt": "q", "answer": "42"}, {"answer": "42"}),
        ({"prompt": "q", "answer": 42}, {"answer": "42"}),
        ({"prompt": "q", "answer": 0.5}, {"answer": "0.5"}),
        ({"prompt": "q", "constraints": [{"name": "json"}]}, {"constraints": [{"name": "json"}]}),
        ({"prompt": "q", "tests": ["assert f(1)"]}, {"tests": ["assert f(1)"]}),
        ({"prompt": "q", "tests": "assert f(1)"}, {"tests": ["assert f(1)"]}),
        ({"prompt": "q", "schema": SCHEMA, "answer": "a"}, {"schema": SCHEMA, "answer": "a"}),
        ({"prompt": "q", "author": "me"}, {}),
    ],
)
def test_prompts_carry_facts(row: dict[str, Any], facts: dict[str, Any], tmp_path: Path) -> None:
    assert read(tmp_path, row) == [Prompt("rows/1", (USER,), "rows", facts)]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (
            {"prompt": "q", "answer": ["a", "b"]},
            "field 'answer' is a list, not text or a number; give the right answer, or call the answers of a ranking answers",
        ),
        ({"prompt": "q", "answer": None}, "field 'answer' is null, not text or a number; "),
        ({"prompt": "q", "answer": True}, "field 'answer' is true or false, not text or a number; "),
        ({"prompt": "q", "answer": " "}, "field 'answer' is empty; "),
        ({"prompt": "q", "answer": float("nan")}, "field 'answer' is nan; "),
        (
            {"prompt": "q", "constraints": "json"},
            "field 'constraints' is text, not a list of constraints; give [{",
        ),
        ({"prompt": "q", "constraints": []}, "field 'constraints' is an empty list; "),
        ({"prompt": "q", "constraints": ["json"]}, "field 'constraints[0]' is text, not a constraint; "),
        (
            {"prompt": "q", "constraints": [{"kind": "json"}]},
            "field 'constraints[0].name' is missing or no text; ",
        ),
        ({"prompt": "q", "tests": [1]}, "field 'tests[0]' is a number, not text; "),
        ({"prompt": "q", "tests": []}, "field 'tests' is an empty list; "),
        ({"prompt": "q", "schema": "object"}, "field 'schema' is text, not an object; give a JSON Schema"),
        ({"prompt": "q", "constrains": []}, "unknown field 'constrains'; did you mean 'constraints'?"),
        ({"prompt": "q", "answr": "42"}, "unknown field 'answr'; did you mean 'answer'?"),
        (
            {"prompt": "q", "completion": "a", "answer": "42"},
            "unknown field 'answer'; did you mean 'answers'?",
        ),
    ],
)
def test_facts_of_the_wrong_form(row: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(tmp_path, row)
    assert str(error.value).split(": ", 1)[1].startswith(line)


def test_other_forms_may_have_fields_that_look_like_facts(tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a", "test": True, "schema": 3}
    assert read(tmp_path, row) == [Conversation("rows/1", (USER, ASSISTANT), "rows")]
