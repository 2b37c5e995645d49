from __future__ import annotations

from benchmarks.outcome import Outcome
from benchmarks.plan import Comparison, Peer
from benchmarks.protocol import Pair
from benchmarks.spec import Trace
from benchmarks.table import markdown

MACHINE = {"date": "a day", "processor": "a chip"}


def outcome(setting: str, seconds: float, pairs: int = 7) -> Outcome:
    both = Pair(Trace(1.0, [2.0], [3.0], 100.0), Trace(seconds, [2.0], [3.0], 300.0))
    found = Comparison("small", "sft", "conversations", "lora", Peer("trl", setting))
    return Outcome(found, pairs=[both] * pairs, useful=[6e9] * pairs)


def test_a_table_has_a_line_for_each_ratio_and_one_for_each_reason() -> None:
    late = Outcome(Comparison("small", "dpo", "pairs", "full", Peer("trl", "tuned")), why="no time was left")
    text = markdown([outcome("a", 4.0), outcome("b", 2.0), late], {"other": "not run"}, MACHINE, gemm=10e9)
    lines = text.splitlines()
    assert lines[0] == "# a day"
    assert "processor a chip; GEMM peak 10 GFLOP/s." in lines
    (first, second) = [line for line in lines if "| trl |" in line]
    # 6 GFLOP in 1 s and in 4 s, of a peak of 10
    assert "| lora | trl | a | 4.00 [4.00, 4.00] | 3.00 | 1.00 / 4.00 | 60% / 15% | 0e+00, 0e+00 |" in first
    assert "| **b** | 2.00 [2.00, 2.00] |" in second
    assert "* small dpo pairs full trl tuned: no time was left" in lines
    assert "* other: not run" in lines
    assert "claims nothing" not in text


def test_few_pairs_claim_nothing() -> None:
    assert "Fewer than 7 pairs" in markdown([outcome("a", 4.0, pairs=3)], {}, MACHINE, gemm=10e9)
