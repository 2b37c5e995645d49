"""Views of rows, copies, and which rows are held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.data.types import Conversation, Labelled, Message, Prompt, Ranking
from align.data.views import contradictions, is_test, once, opening, view
from align.errors import DataError

Q, A, Q2, B = (
    Message(role, text)  # type: ignore[arg-type]
    for role, text in (("user", "q"), ("assistant", "a"), ("user", "q2"), ("assistant", "b"))
)
TALK = Conversation("talk", (Q, A, Q2, B), "s")
RANKED = Ranking("ranked", (Q,), ("a", "b"), (0, 1), (), "s")
TEXT = Conversation("text", (A,), "s")
LABELLED = Labelled("label", (Q,), "a", True, "s")


def test_conversations_and_rankings_serve_as_prompts_each_once() -> None:
    left_out: Counter[str] = Counter()
    rows = view([TALK, RANKED, Ranking("again", (Q,), ("c", "d"), (0, 1)), TEXT], "prompts", "s", left_out)
    assert rows == [Prompt("talk", (Q, A, Q2), "s"), Prompt("ranked", (Q,), "s")]
    assert left_out == {"further rows of a prompt": 1, "plain texts without a prompt": 1}


def test_the_ends_of_a_ranking_serve_as_labels() -> None:
    left_out: Counter[str] = Counter()
    rows = [
        Ranking("r", (Q,), ("a", "b", "c", "d", "e"), (1, 0, 2, 0, 3), (), "s"),
        Ranking("again", (Q,), ("b", "a"), (0, 1), (), "s"),  # b is desirable already, a undesirable is new
        Ranking("other", (Q2,), ("b", "a"), (0, 1), (), "s"),
    ]
    assert view(rows, "unpaired", "s", left_out) == [
        Labelled("r/2", (Q,), "b", True, "s"),
        Labelled("r/4", (Q,), "d", True, "s"),
        Labelled("r/5", (Q,), "e", False, "s"),
        Labelled("again/2", (Q,), "a", False, "s"),
        Labelled("other/1", (Q2,), "b", True, "s"),
        Labelled("other/2", (Q2,), "a", False, "s"),
    ]
    assert left_out == {"answers between the best and the worst": 2, "further copies of an answer": 1}


def test_labelled_answers_serve_as_they_are_and_as_prompts() -> None:
    assert view([LABELLED], "unpaired", "s", Counter()) == [LABELLED]
    assert view([LABELLED, RANKED], "prompts", "s", Counter()) == [Prompt("label", (Q,), "s")]
    assert opening(LABELLED) == opening(RANKED)


def test_a_row_of_ratings_ranks_only_where_they_differ() -> None:
    left_out: Counter[str] = Counter()
    single = Ranking("single", (Q,), ("a",), (0,), (3.0,))
    alike = Ranking("alike", (Q,), ("a", "b"), (0, 0), (3.0, 3.0))
    apart = Ranking("apart", (Q,), ("a", "b"), (0, 1), (3.0, 2.0))
    assert view([single, alike, apart], "rankings", "s", left_out) == [apart]
    assert left_out == {"single answers, which rank nothing": 1, "prompts whose answers are rated alike": 1}
    labelled = view([single, alike, apart], "unpaired", "s", Counter())
    assert [(row.id, row.desirable) for row in labelled] == [("apart/1", True), ("apart/2", False)]
    assert view([single, alike, apart], "ratings", "s", Counter()) == [single, alike, apart]
    with pytest.raises(DataError, match="row ranked: has an order but no ratings; give a number for each"):
        view([apart, RANKED], "ratings", "s", Counter())


@pytest.mark.parametrize(
    ("row", "expect", "what"),
    [
        (TALK, "rankings", "data s: holds conversations, not rankings; name data of kind rankings"),
        (
            RANKED,
            "conversations",
            "data s: holds rankings, not conversations; name data of kind conversations",
        ),
        (
            LABELLED,
            "rankings",
            "data s: holds unpaired answers, not rankings; name data of kind rankings",
        ),
        (
            TALK,
            "unpaired",
            "data s: holds conversations, not unpaired answers; name data of kind unpaired",
        ),
        (TALK, "ratings", "data s: holds conversations, not ratings; name data of kind ratings"),
        (Prompt("p", (Q,)), "rankings", "data s: holds prompts, not rankings; name data of kind rankings"),
    ],
)
def test_nothing_else_is_turned_into_another_kind(row: Any, expect: Any, what: str) -> None:
    with pytest.raises(DataError) as error:
        view([row], expect, "s", Counter())
    assert str(error.value) == what


def ranked(name: str, *tiers: str, prompt: Message = Q) -> Ranking:
    """A ranking of one-letter answers: `ranked("r", "ab", "c")` is a = b > c."""
    answers = tuple("".join(tiers))
    return Ranking(name, (prompt,), answers, tuple(i for i, tier in enumerate(tiers) for _ in tier))


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([ranked("1", "a", "b"), ranked("2", "b", "a")], [["1", "2"]]),
        ([ranked("1", "a", "b"), ranked("2", "b", "c"), ranked("3", "c", "a")], [["1", "2", "3"]]),
        ([ranked("1", "a", "b", "c"), ranked("2", "c", "a")], [["1", "2"]]),
        ([ranked("1", "a", "b", "a")], [["1"]]),
        ([ranked("1", "a", "b"), ranked("2", "b", "c"), ranked("3", "a", "c")], []),
        ([ranked("1", "ab", "c"), ranked("2", "a", "b")], []),  # a tie is no opinion against an order
        ([ranked("1", "a", "b"), ranked("2", "b", "a", prompt=Q2)], []),
        ([TALK, Prompt("p", (Q,))], []),
        ([LABELLED, Labelled("no", (Q,), "a", False), Labelled("b", (Q,), "b", False)], [["label", "no"]]),
        ([LABELLED, Labelled("else", (Q2,), "a", False)], []),
    ],
)
def test_rankings_of_one_prompt_that_cannot_all_hold(rows: list[Any], found: list[list[str]]) -> None:
    assert contradictions(rows) == found


def test_copies_are_found_whatever_their_id() -> None:
    other = Ranking("third", (Q,), ("a", "b"), (1, 0), (), "s")
    kept, copies = once([RANKED, Ranking("copy", (Q,), ("a", "b"), (0, 1), (), "s"), other])
    assert (kept, copies) == ([RANKED, other], ["copy"])
    with pytest.raises(DataError, match="row ranked: has the id of an earlier row"):
        once([RANKED, Ranking("ranked", (Q2,), ("a", "b"), (0, 1))])


def test_a_conversation_and_what_grows_out_of_it_open_alike() -> None:
    system = Message("system", "s")
    grown = Ranking("r", (system, Message("user", " Q\n"), A, Q2), ("x", "y"), (0, 1))
    assert opening(TALK) == opening(RANKED) == opening(grown) == "q"
    assert opening(TEXT) == "a"


def test_held_out_by_hash() -> None:
    value = int(hashlib.sha256(b"salt\x00how are you?").hexdigest(), 16) % 10_000
    assert not is_test("how are you?", value / 10_000, "salt"), "below, not at"
    assert is_test("how are you?", (value + 1) / 10_000, "salt")


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_part_holds_what_a_smaller_one_holds(text: str, one: float, two: float) -> None:
    small, large = sorted((one, two))
    assert is_test(text, large, "") or not is_test(text, small, "")


def test_the_part_is_the_part() -> None:
    held_out = sum(is_test(f"prompt {i}", 0.2, "x") for i in range(5000))
    assert 900 < held_out < 1100  # 1000, standard deviation 28


def test_prompts_keep_the_facts_of_their_rows() -> None:
    asked = (Message("user", "q"),)
    talk = Conversation("c/1", (*asked, Message("assistant", "a")), "c", facts={"answer": "42"})
    assert view([talk], "prompts", "c", Counter()) == [Prompt("c/1", asked, "c", {"answer": "42"})]
    left_out: Counter[str] = Counter()
    assert len(view([talk, Prompt("c/2", asked, "c", {"answer": "42"})], "prompts", "c", left_out)) == 1
    assert left_out == {"further rows of a prompt": 1}
    with pytest.raises(DataError, match="row c/2: has the prompt of row c/1 and other facts; keep the row"):
        view([talk, Prompt("c/2", asked, "c", {"answer": "43"})], "prompts", "c", Counter())


def test_rows_with_other_facts_are_no_copies() -> None:
    first = Prompt("c/1", (Message("user", "q"),), "c", {"answer": "42"})
    assert once([first, replace(first, id="c/2")]) == ([first], ["c/2"])
    other = replace(first, id="c/2", facts={"answer": "43"})
    assert once([first, other]) == ([first, other], [])
