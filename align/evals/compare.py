"""Policies side by side on the same prompts: means with intervals, and paired differences to a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from align.evals.refusals import is_refusal
from align.evals.stats import bootstrap_mean, paired_difference, wilson, win_rate
from align.evals.text import distinct_n, distinct_openings, length_words


@dataclass(frozen=True)
class Measured:
    """One policy's answers with their scores, all in the order of the prompts.

    Attributes:
        texts: Answers.
        ended: Whether each ended by itself.
        rewards: The score that was optimised.
        judge: The second judge's score, higher is better; None where there is none.
        kl: Nats between the policy and the baseline, one estimate per answer; None for the baseline and
            controls.
    """

    texts: Sequence[str]
    ended: Sequence[bool]
    rewards: Sequence[float]
    judge: Sequence[float] | None
    kl: Sequence[float] | None

    def part(self, places: Sequence[int]) -> Measured:
        """The same for some of the prompts."""

        def pick(values: Sequence[Any] | None) -> Any:
            return None if values is None else [values[i] for i in places]

        return Measured(*(pick(v) for v in (self.texts, self.ended, self.rewards, self.judge, self.kl)))


def by_source(
    measured: Mapping[str, Measured],
    sources: Sequence[str],
    baseline: str,
    sensitive: Mapping[str, bool],
    seed: int,
) -> dict[str, Any]:
    """Tables per source of prompts.

    Args:
        measured: Policy or control -> its answers.
        sources: Source of each prompt.
        baseline: The policy that the others are compared with.
        sensitive: Source -> whether its texts should stay folded.
        seed: Of the bootstrap.

    Returns:
        Source -> {n, sensitive, rows: name -> numbers, versus: name -> paired differences to the baseline}.
    """
    tables = {}
    for source in sorted(set(sources)):
        places = [i for i, s in enumerate(sources) if s == source]
        parts = {name: m.part(places) for name, m in measured.items()}
        tables[source] = {
            "n": len(places),
            "sensitive": sensitive.get(source, False),
            "rows": {name: describe(m, seed) for name, m in parts.items()},
            "versus": {
                name: versus(m, parts[baseline], seed) for name, m in parts.items() if name != baseline
            },
        }
    return tables


def describe(m: Measured, seed: int) -> dict[str, Any]:
    """One policy's row of the table."""
    return {
        "reward": _mean(m.rewards, seed),
        "judge": _mean(m.judge, seed) if m.judge is not None else None,
        "refusal_rate": asdict(wilson(sum(_refusals(m)), len(m.texts))),
        "words": float(np.mean([length_words(t) for t in m.texts])),
        "eos_rate": float(np.mean(m.ended)),
        "distinct_2": distinct_n(m.texts, 2),
        "distinct_openings": distinct_openings(m.texts),
        "kl": float(np.mean(m.kl)) if m.kl is not None else None,
    }


def versus(m: Measured, baseline: Measured, seed: int) -> dict[str, Any]:
    """Paired differences to the baseline on the same prompts, above 0 where `m` is higher."""
    judged = None
    if m.judge is not None and baseline.judge is not None:
        judged = asdict(paired_difference(m.judge, baseline.judge, seed=seed))
    return {
        "reward_difference": asdict(paired_difference(m.rewards, baseline.rewards, seed=seed)),
        "judge_difference": judged,
        "win_rate": asdict(win_rate(m.rewards, baseline.rewards, seed=seed)),
        "refusal_difference": asdict(paired_difference(_refusals(m), _refusals(baseline), seed=seed)),
    }


def _refusals(m: Measured) -> list[float]:
    return [float(is_refusal(text)) for text in m.texts]


def _mean(values: Sequence[float], seed: int) -> dict[str, float]:
    return asdict(bootstrap_mean(values, seed=seed))
