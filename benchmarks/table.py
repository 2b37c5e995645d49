"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.outcome import Outcome, best
from benchmarks.protocol import PAIRS
from benchmarks.stats import Ratio

MODELS = {"smollm2_135m": "SmolLM2-135M", "small": "Llama 4M, random"}
HEAD = (
    "model", "stage", "data", "adapter", "peer", "setting", "times faster", "times less memory",
    "seconds (Align / peer)", "of the GEMM peak (Align / peer)", "losses, gradients apart",
)  # fmt: skip


def markdown(
    outcomes: Sequence[Outcome], absent: Mapping[str, str], machine: Mapping[str, str], gemm: float
) -> str:
    """Tables of what has a ratio and of what has none.

    Args:
        outcomes: Of the comparisons, in the order of the plan.
        absent: Peers that took no part -> why.
        machine: What it ran on.
        gemm: The GEMM peak, FLOP/s.
    """
    lowest = best(outcomes)
    rows = [_row(o, gemm, o.comparison.name in lowest) for o in outcomes if o.speed is not None]
    lines = [
        f"# {machine['date']}",
        "",
        "; ".join(f"{name} {value}" for name, value in machine.items() if name != "date")
        + f"; GEMM peak {gemm / 1e9:.0f} GFLOP/s.",
        "",
        "Median of paired ratios [95 % interval]; in bold the setting of the peers that is hardest to beat.",
    ]
    if any(o.speed.n < PAIRS for o in outcomes if o.speed is not None):
        lines += [
            "",
            f"**Fewer than {PAIRS} pairs: this shows that the benchmark works, and claims nothing.**",
        ]
    if rows:
        lines += ["", _line(HEAD), _line(["---"] * len(HEAD)), *map(_line, rows)]
    missing = [(o.comparison.name, o.why) for o in outcomes if o.speed is None] + list(absent.items())
    if missing:
        lines += ["", "No ratio:", "", *(f"* {name}: {why}" for name, why in missing)]
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome, gemm: float, bold: bool) -> list[str]:
    c = outcome.comparison
    assert outcome.speed is not None
    assert outcome.apart is not None
    (ours, theirs), (our_rate, their_rate) = outcome.seconds, outcome.rates
    memory = f"{outcome.memory.median:.2f}" if outcome.memory else "not measured"
    stage = f"{c.stage}, reference cached" if c.peer.cached else c.stage
    setting = f"**{c.peer.setting}**" if bold else c.peer.setting
    return [
        MODELS.get(c.model, Path(c.model).name), stage, c.data, c.adapter, c.peer.side, setting,
        ratio(outcome.speed), memory, f"{ours:.2f} / {theirs:.2f}",
        f"{our_rate / gemm:.0%} / {their_rate / gemm:.0%}",
        "same tokens" if c.stage == "rollout" else f"{outcome.apart[0]:.0e}, {outcome.apart[1]:.0e}",
    ]  # fmt: skip


def ratio(found: Ratio) -> str:
    """Median with its interval.

    Example:
        >>> ratio(Ratio(2.0, 1.9, 2.25, 7))
        '2.00 [1.90, 2.25]'
    """
    return f"{found.median:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
