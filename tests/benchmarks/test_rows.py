from __future__ import annotations

import json

import pytest

from benchmarks.rows import Row, batches, from_json, to_json


def row(name: str, length: int) -> Row:
    return Row(name, (1,), ((2,) * (length - 1),), ((1.0,) * (length - 1),))


def names(found: list[list[Row]]) -> list[str]:
    return ["".join(r.id for r in batch) for batch in found]


def test_rows_survive_the_way_through_json() -> None:
    given = [Row("a", (1, 2), ((3, 4), (5,)), ((0.0, 1.0), (1.0,)), (1, 0)), row("b", 3)]
    assert from_json(json.loads(json.dumps(to_json(given)))) == given


def test_pairs_name_the_better_answer_first_and_leave_ties_out() -> None:
    assert Row("a", (1,), ((2,),) * 3, ((1.0,),) * 3, (1, 0, 1)).pairs == [(1, 0), (1, 2)]
    assert len(Row("a", (1,), ((2,),) * 4, ((1.0,),) * 4, (0, 3, 1, 2)).pairs) == 6


def test_counts() -> None:
    found = Row("a", (1, 2, 3), ((4, 5), (6,)), ((1.0, 0.0), (1.0,)), (0, 1))
    assert (found.unique, found.longest, found.scored, found.whole(1)) == (6, 5, 2, [1, 2, 3, 6])


def test_batches_go_round() -> None:
    given = [row(name, 5) for name in "abcde"]
    assert names(batches(given, 2, 4)) == ["ab", "cd", "ea", "bc"]


def test_grouped_batches_hold_similar_lengths_in_the_order_of_their_first_row() -> None:
    given = [row("a", 9), row("b", 2), row("c", 8), row("d", 3), row("e", 5), row("f", 4)]
    # by length b2 d3 | f4 e5 | c8 a9; the part with row a comes first, then that with b, then that with e
    assert names(batches(given, 2, 3, grouped=True)) == ["ca", "bd", "fe"]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer"):
        batches([row("a", 2)], 2, 1)
