"""How good a reward model is, beside what a line of code would reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from align.data.types import Ranking
from align.evals.stats import bootstrap_mean, spearman
from align.reward.baselines import BagOfWords, LengthRule, pairwise_accuracy
from align.reward.calibration import pair_probabilities, reliability


def report(
    train: Sequence[Ranking], held_out: Sequence[Ranking], scores: Sequence[np.ndarray], seed: int
) -> dict[str, Any]:
    """Held-out accuracy per prompt with interval, calibration, and two baselines on the same rankings.

    Args:
        train: The rankings that the model was trained on; without any there are no baselines.
        held_out: Rankings of other prompts.
        scores: The model's scores [K] for each held-out ranking.
        seed: Of the bootstrap.

    Returns:
        JSON-able: accuracy, ece, calibration, baselines, by_source.
    """
    if not held_out:
        return {}
    rated, rule = {"reward model": list(scores)}, ""
    if train:  # ratings of single answers rank nothing
        words, length = BagOfWords().fit(train), LengthRule().fit(train)
        rated["bag of words"] = [words.score([_asked(r)] * len(r.answers), r.answers) for r in held_out]
        rated["length"], rule = [length.score(r.answers) for r in held_out], length.rule
    accuracy = {name: np.asarray(pairwise_accuracy(s, held_out)) for name, s in rated.items()}
    intervals = {name: asdict(bootstrap_mean(a, seed=seed)) for name, a in accuracy.items()}
    baselines = (
        {"length": {**intervals["length"], "rule": rule}, "bag_of_words": intervals["bag of words"]}
        if train
        else {}
    )
    curve = reliability(*pair_probabilities(scores, held_out))
    sources = sorted({r.source for r in held_out})
    return {
        "accuracy": intervals["reward model"],
        "ece": curve.ece,
        "calibration": curve.bins,
        "baselines": baselines,
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


def rating_report(
    scores: Sequence[np.ndarray],
    classes: Sequence[Sequence[int]],
    thresholds: np.ndarray,
    usual: int,
    seed: int,
) -> dict[str, Any]:
    """How near held-out answers come to their ratings, whatever prompt they answer.

    Args:
        scores: The model's scores [K] for each held-out prompt.
        classes: The K classes that its answers were rated into, 0 the lowest.
        thresholds: [J - 1] between the classes, increasing.
        usual: The class that is always guessed for comparison.
        seed: Of the bootstrap.

    Returns:
        JSON-able: `error` and `usual_error`, mean distances in classes of the predicted and of the usual
        class (means over a prompt's answers, with intervals over prompts); `order`, the share of pairs of
        answers of different classes, over all prompts, that the scores put in order; `spearman`, the rank
        correlation of scores and classes over all answers, null where either is constant; `answers`.
    """
    if not scores:
        return {}
    told = [np.asarray(row) for row in classes]
    predicted = [np.searchsorted(thresholds, s) for s in scores]
    errors = [float(np.abs(p - c).mean()) for p, c in zip(predicted, told, strict=True)]
    guessed = [float(np.abs(usual - c).mean()) for c in told]
    all_scores, all_classes = np.concatenate(list(scores)), np.concatenate(told)
    return {
        "error": asdict(bootstrap_mean(errors, seed=seed)),
        "usual_error": asdict(bootstrap_mean(guessed, seed=seed)),
        "order": _in_order(all_scores, all_classes),
        "spearman": spearman(all_scores, all_classes),
        "answers": len(all_scores),
    }


def step_report(
    values: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    usual: float,
    aggregate: Callable[[np.ndarray], float],
    *,
    probabilities: bool,
    seed: int,
) -> dict[str, Any]:
    """How well a process reward model judges the steps of held-out answers, and the answers as a whole.

    Args:
        values: What the model says of each answer's steps.
        labels: What people say of them.
        usual: The label that is always guessed for comparison.
        aggregate: Makes one number of an answer's steps.
        probabilities: Values and labels are probabilities; else any numbers.
        seed: Of the bootstrap.

    Returns:
        JSON-able: of steps on the right side of 1/2 `accuracy` and `usual_accuracy`, or of other numbers the
        mean distances `error` and `usual_error` (means over an answer's steps, with intervals over answers);
        `order` and `answers_order`, the shares of pairs of steps, and of answers by their aggregates, that
        differ in their label and are in order, null where none differ; `steps`.
    """
    if not values:
        return {}

    def right(said: np.ndarray | float, told: np.ndarray) -> float:
        return float(((np.asarray(said) > 0.5) == (told > 0.5)).mean())

    def far(said: np.ndarray | float, told: np.ndarray) -> float:
        return float(np.abs(said - told).mean())

    measure, name = (right, "accuracy") if probabilities else (far, "error")
    mine = [measure(v, y) for v, y in zip(values, labels, strict=True)]
    answers, truth = (np.array([aggregate(x) for x in rows]) for rows in (values, labels))
    return {
        name: asdict(bootstrap_mean(mine, seed=seed)),
        f"usual_{name}": asdict(bootstrap_mean([measure(usual, y) for y in labels], seed=seed)),
        "order": _in_order(np.concatenate(list(values)), np.concatenate(list(labels))),
        "answers_order": _in_order(answers, truth),
        "steps": sum(map(len, labels)),
    }


def _in_order(scores: np.ndarray, classes: np.ndarray) -> float | None:
    """Share of pairs of different classes in order, equal scores counting 1/2; None without pairs."""
    right, pairs = 0.0, 0
    for level in np.unique(classes):
        mine, worse = scores[classes == level], np.sort(scores[classes < level])
        sides = [np.searchsorted(worse, mine, side).sum() for side in ("left", "right")]
        right += float(sum(sides)) / 2
        pairs += len(mine) * len(worse)
    return right / pairs if pairs else None


def _asked(ranking: Ranking) -> str:
    return ranking.prompt[-1].content
