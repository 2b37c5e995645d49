"""How good a reward model is, beside what a line of code would reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from align.data.types import Ranking
from align.evals.stats import bootstrap_mean
from align.reward.baselines import BagOfWords, LengthRule, pairwise_accuracy
from align.reward.calibration import pair_probabilities, reliability


def report(
    train: Sequence[Ranking], held_out: Sequence[Ranking], scores: Sequence[np.ndarray], seed: int
) -> dict[str, Any]:
    """Held-out accuracy per prompt with interval, calibration, and two baselines on the same rankings.

    Args:
        train: The rankings that the model was trained on.
        held_out: Rankings of other prompts.
        scores: The model's scores [K] for each held-out ranking.
        seed: Of the bootstrap.

    Returns:
        JSON-able: accuracy, ece, calibration, baselines, by_source.
    """
    if not held_out:
        return {}
    words, length = BagOfWords().fit(train), LengthRule().fit(train)
    rated = {
        "reward model": list(scores),
        "bag of words": [words.score([_asked(r)] * len(r.answers), r.answers) for r in held_out],
        "length": [length.score(r.answers) for r in held_out],
    }
    accuracy = {name: np.asarray(pairwise_accuracy(s, held_out)) for name, s in rated.items()}
    intervals = {name: asdict(bootstrap_mean(a, seed=seed)) for name, a in accuracy.items()}
    curve = reliability(*pair_probabilities(scores, held_out))
    sources = sorted({r.source for r in held_out})
    return {
        "accuracy": intervals["reward model"],
        "ece": curve.ece,
        "calibration": curve.bins,
        "baselines": {
            "length": {**intervals["length"], "rule": length.rule},
            "bag_of_words": intervals["bag of words"],
        },
        "by_source": {
            source: {
                name.replace(" ", "_"): asdict(
                    bootstrap_mean(a[[i for i, r in enumerate(held_out) if r.source == source]], seed=seed)
                )
                for name, a in accuracy.items()
            }
            for source in sources
        },
    }


def _asked(ranking: Ranking) -> str:
    return ranking.prompt[-1].content
