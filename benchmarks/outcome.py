"""What a comparison came to, worked out from its traces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.plan import Comparison
from benchmarks.protocol import Pair, worst_difference
from benchmarks.stats import Ratio, paired_ratio


@dataclass(frozen=True)
class Outcome:
    """A comparison with its ratios, or with the reason why it has none.

    Attributes:
        comparison: What was compared.
        why: Why there is no ratio; empty where there is one.
        pairs: The traces.
        useful: FLOPs of each pair's rows that no trainer can leave out.
        speed: Their seconds over ours.
        memory: Their peak over ours; None where the system cannot measure one run alone.
        apart: Largest relative difference of losses, and of gradient norms.
    """

    comparison: Comparison
    why: str = ""
    pairs: Sequence[Pair] = ()
    useful: Sequence[float] = ()
    speed: Ratio | None = field(default=None, init=False)
    memory: Ratio | None = field(default=None, init=False)
    apart: tuple[float, float] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Work the numbers out."""
        if not self.pairs:
            return
        ours, theirs = [p.ours for p in self.pairs], [p.theirs for p in self.pairs]
        speed = paired_ratio([t.seconds for t in theirs], [t.seconds for t in ours])
        object.__setattr__(self, "speed", speed)
        if not any(t.whole_peak for t in (*ours, *theirs)):
            memory = paired_ratio([t.peak_mb for t in theirs], [t.peak_mb for t in ours])
            object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "apart", worst_difference(self.pairs))

    @property
    def seconds(self) -> tuple[float, float]:
        """Median seconds of a run, ours and theirs."""
        return median(p.ours.seconds for p in self.pairs), median(p.theirs.seconds for p in self.pairs)

    @property
    def rates(self) -> tuple[float, float]:
        """Useful FLOP/s, ours and theirs."""
        both = list(zip(self.useful, self.pairs, strict=True))
        return (
            median(flops / pair.ours.seconds for flops, pair in both),
            median(flops / pair.theirs.seconds for flops, pair in both),
        )


def best(outcomes: Iterable[Outcome]) -> set[str]:
    """Names of the comparisons with the setting to beat: of each group the one with the smallest ratio."""
    lowest: dict[tuple[object, ...], Outcome] = {}
    for outcome in outcomes:
        if outcome.speed is None:
            continue
        group = outcome.comparison.group
        held = lowest.get(group)
        if held is None or held.speed is None or outcome.speed.median < held.speed.median:
            lowest[group] = outcome
    return {outcome.comparison.name for outcome in lowest.values()}
