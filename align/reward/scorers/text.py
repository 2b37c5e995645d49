"""Rules on the answer's text and length."""

from __future__ import annotations

import regex

from align.config.rewards import LengthPenalty, RegexReward, RepetitionPenalty
from align.errors import ConfigError
from align.reward.types import Answered, Scorer, one_by_one

PATIENCE = 5.0  # seconds that a pattern may take on one answer


def regex_scorer(options: RegexReward) -> Scorer:
    """1 where the pattern is found, else 0."""
    pattern = regex.compile(options.pattern)
    find = pattern.fullmatch if options.match == "full" else pattern.search

    def score(answer: Answered) -> float:
        try:
            return float(find(answer.text, timeout=PATIENCE) is not None)
        except TimeoutError:
            what = f"the pattern {options.pattern!r} takes more than {PATIENCE:g} s on row {answer.id}"
            raise ConfigError("regex", what, "write it without a repetition inside a repetition") from None

    return one_by_one(score)


def length_scorer(options: LengthPenalty) -> Scorer:
    """0 up to `allowed` tokens, then linearly to -1 at `allowed + window`, as in arXiv:2503.14476."""

    def score(answer: Answered) -> float:
        return -min(1.0, max(0, answer.tokens - options.allowed) / options.window)

    return one_by_one(score)


def repetition_scorer(options: RepetitionPenalty) -> Scorer:
    """Minus the part of the answer's n-grams of words that stood before (arXiv:2502.03373); case aside."""

    def score(answer: Answered) -> float:
        words = answer.text.casefold().split()
        grams = [tuple(words[i : i + options.n]) for i in range(len(words) - options.n + 1)]
        return len(set(grams)) / len(grams) - 1.0 if grams else 0.0

    return one_by_one(score)
