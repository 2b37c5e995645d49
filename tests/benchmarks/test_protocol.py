from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmarks import run
from benchmarks.outcome import Outcome, best
from benchmarks.plan import Comparison, Peer, full, quick
from benchmarks.protocol import (
    PAIRS,
    NoRatio,
    Pair,
    difference,
    interleaved,
    measure,
    refuse_if_late,
    worst_difference,
)
from benchmarks.spec import Trace


def trace(seconds: float = 1.0, loss: float = 2.0, norm: float = 3.0, peak: float = 100.0) -> Trace:
    return Trace(seconds, [loss], [norm], peak)


def clock(*times: float) -> Callable[[], float]:
    left: Iterator[float] = iter(times)
    return lambda: next(left)


def test_turns_are_interleaved_a_b_b_a() -> None:
    turns = interleaved(4)
    assert "".join(side[0] for _, side in turns) == "ottootto"
    assert [number for number, _ in turns] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_pair_holds_both_sides_whoever_went_first() -> None:
    asked: list[tuple[str, int]] = []

    def run(side: str, number: int) -> Trace:
        asked.append((side, number))
        return trace(seconds=number + (0.5 if side == "theirs" else 0.25))

    pairs = measure(run, 3, 1e9, clock(*range(5)))
    assert asked == [("ours", 0), ("theirs", 0), ("theirs", 1), ("ours", 1), ("ours", 2), ("theirs", 2)]
    assert [(p.ours.seconds, p.theirs.seconds) for p in pairs] == [(0.25, 0.5), (1.25, 1.5), (2.25, 2.5)]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (trace(loss=2.0001), None),  # 5e-5
        (trace(loss=2.0003), "loss of step 1"),  # 1.5e-4
        (trace(loss=1.9997), "loss of step 1"),
        (trace(norm=3.002), None),  # 7e-4
        (trace(norm=3.004), "gradient norm of step 1"),  # 1.3e-3
        (Trace(1.0, [2.0, 2.0], [3.0, 3.0], 1.0), "1 steps against 2"),
        (Trace(1.0, [], [], 1.0), "1 steps against 0"),
        (trace(loss=float("nan")), "loss of step 1"),
        (trace(loss=0.0), "loss of step 1"),
    ],
)
def test_when_losses_agree(other: Trace, said: str | None) -> None:
    found = difference(trace(), other)
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([[5, 6], [7]], None),
        ([[5, 6], [8]], "answer 2 of 2"),
        ([[5], [7]], "answer 1 of 2: 2 tokens against 1"),
        ([[5, 6]], "2 answers against 1"),
        ([], "2 answers against 0"),
    ],
)
def test_sampled_answers_are_the_same_token_for_token(theirs: list[list[int]], said: str | None) -> None:
    found = difference(Trace(1.0, [], [], 1.0, tokens=[[5, 6], [7]]), Trace(1.0, [], [], 1.0, tokens=theirs))
    assert found is None if said is None else said in str(found)
    assert worst_difference([Pair(trace(), trace())]) == (0.0, 0.0)


def test_sides_that_both_computed_nothing_do_not_agree() -> None:
    assert difference(Trace(1.0, [], [], 1.0), Trace(1.0, [], [], 1.0)) is not None


def test_no_pairs_where_losses_differ() -> None:
    def run(side: str, number: int) -> Trace:
        return trace(loss=2.0 if side == "ours" or number < 2 else 2.1)

    with pytest.raises(NoRatio, match="loss of step 1"):
        measure(run, 3, 1e9)


def test_a_comparison_that_would_end_too_late_is_given_up() -> None:
    """One pair took 10 s, so 7 need 70."""
    with pytest.raises(NoRatio, match="7 pairs would take 70 s, and 60 s were left"):
        measure(lambda side, number: trace(), 7, 60.0, clock(0.0, 10.0))
    assert len(measure(lambda side, number: trace(), 2, 60.0, clock(0.0, 10.0, 20.0))) == 2


def test_a_comparison_is_given_up_after_its_warm_up() -> None:
    """A quarter of the rows took 3 s, so 7 pairs need 84."""
    with pytest.raises(NoRatio, match="84 s"):
        refuse_if_late(3.0, 0.25, 7, 83.0)
    refuse_if_late(3.0, 0.25, 7, 85.0)


def test_the_worst_difference() -> None:
    pairs = [Pair(trace(loss=2.0), trace(loss=2.5)), Pair(trace(norm=3.3), trace(norm=3.0))]
    assert worst_difference(pairs) == pytest.approx((0.2, 0.1))


def comparison(setting: str, cached: bool = False) -> Comparison:
    return Comparison("small", "dpo", "pairs", "full", Peer("trl", setting, cached=cached))


def outcome(setting: str, ratio: float, cached: bool = False) -> Outcome:
    pairs = [Pair(trace(peak=100.0), trace(seconds=ratio, peak=250.0))]
    return Outcome(comparison(setting, cached), pairs=pairs, useful=[12.0])


def test_an_outcome_works_its_numbers_out() -> None:
    found = outcome("tuned", 4.0)
    assert found.speed is not None
    assert found.memory is not None
    assert (found.speed.median, found.memory.median) == (4.0, 2.5)
    assert (found.seconds, found.rates) == ((1.0, 4.0), (12.0, 3.0))


def test_a_peak_of_the_whole_process_is_no_peak_of_a_run() -> None:
    whole = Trace(1.0, [2.0], [3.0], 100.0, whole_peak=True)
    assert Outcome(comparison("x"), pairs=[Pair(trace(), whole)], useful=[1.0]).memory is None


def test_the_best_setting_is_the_hardest_to_beat_of_its_group() -> None:
    found = [
        outcome("a", 4.0),
        outcome("b", 1.5),
        outcome("c", 1.2, cached=True),
        Outcome(comparison("d"), "late"),
    ]
    assert best(found) == {comparison("b").name, comparison("c", cached=True).name}


def test_the_plans_name_each_comparison_once() -> None:
    for plan in (full(), quick()):
        assert len({c.name for c in plan}) == len(plan)
    assert {c.pairs for c in full()} == {PAIRS}


def test_every_step_can_be_cut_as_each_peer_wants_it() -> None:
    assert not [c.name for c in full() if (c.rows * c.units) % c.peer.micro]


def test_the_grid_holds_what_is_hardest_to_beat() -> None:
    """Batch 1 with accumulation everywhere; grouping and a cached reference where they mean anything."""
    small = [c for c in full() if (c.model, c.adapter) == ("small", "full")]
    assert {(c.stage, c.data, c.peer.cached) for c in small if c.peer.micro == 1} == {
        ("sft", "conversations", False),
        ("reward", "pairs", False),
        ("reward", "rankings", False),
        ("dpo", "pairs", False),
        ("dpo", "pairs", True),
    }
    assert {c.data for c in small if c.peer.grouped} == {"conversations", "pairs"}
    assert {c.data for c in small if c.peer.checkpointing} == {"conversations", "pairs", "rankings"}


def test_words_that_no_comparison_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--only", "no such words"]) == 2
    assert capsys.readouterr().err == "--only: no comparison has all of these words; --list names them\n"
