"""What cheap rules reach: a reward model stands beside them, and one of them serves as a second judge.

numpy only, and the same input gives the same numbers: no threads of chance, no early stopping by a clock.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align.data.types import Ranking
from align.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TERM = re.compile(r"\w+(?:['’]\w+)*")


def pairwise_accuracy(scores: Sequence[Sequence[float] | Floats], rankings: Sequence[Ranking]) -> list[float]:
    """Share of pairs of different tiers that the scores put in the right order; equal scores count 1/2.

    Args:
        scores: For each ranking its K scores, higher is better.
        rankings: The rankings.

    Returns:
        One number per ranking, so that a mean over them gives each prompt the same weight.

    Raises:
        DataError: All answers of a ranking share one tier, so there is nothing to be right about.

    Example:
        >>> from align.data.types import Message
        >>> ranking = Ranking("a", (Message("user", "?"),), ("good", "so so", "bad"), (0, 1, 2))
        >>> pairwise_accuracy([[3.0, 1.0, 1.0]], [ranking])  # 1, 1 and 1/2
        [0.8333333333333334]
    """
    accuracies = []
    for mine, ranking in zip(scores, rankings, strict=True):
        better, worse = pairs(ranking)
        if not len(better):
            raise DataError(ranking.id, "all answers share one tier", "leave it out of the held-out rankings")
        ahead = np.sign(
            np.asarray(mine, dtype=np.float64)[better] - np.asarray(mine, dtype=np.float64)[worse]
        )
        accuracies.append(float((ahead + 1).mean() / 2))
    return accuracies


def pairs(ranking: Ranking) -> tuple[Ints, Ints]:
    """Places of the better and of the worse answer of each pair of different tiers, [P] each."""
    tiers = np.asarray(ranking.tiers)
    better, worse = np.nonzero(tiers[:, None] < tiers[None, :])
    return better, worse


class LengthRule:
    """Scores an answer by its number of characters, in the direction that fits the training rankings better.

    Attributes:
        rule: "shorter wins" or "longer wins".

    Example:
        >>> from align.data.types import Message
        >>> ranking = Ranking("a", (Message("user", "?"),), ("short", "quite a bit longer"), (0, 1))
        >>> rule = LengthRule().fit([ranking])
        >>> rule.rule, rule.score(["abc", "abcdef"]).tolist()
        ('shorter wins', [-3.0, -6.0])
    """

    rule = "longer wins"

    def fit(self, rankings: Sequence[Ranking]) -> LengthRule:
        """Choose the direction on training rankings; "longer wins" where both are as good."""
        usable = [r for r in rankings if len(pairs(r)[0])]
        longer = pairwise_accuracy([[len(a) for a in r.answers] for r in usable], usable)
        self.rule = "shorter wins" if usable and sum(longer) < len(longer) / 2 else "longer wins"
        return self

    def score(self, answers: Sequence[str]) -> Floats:
        """[len(answers)] characters, negative where shorter wins."""
        sign = -1.0 if self.rule == "shorter wins" else 1.0
        return sign * np.array([len(answer) for answer in answers], dtype=np.float64)


def _sums(place: Ints, value: Floats, size: int) -> Floats:
    """[size] sum of the values that belong to each place."""
    return np.bincount(place, value, minlength=size).astype(np.float64, copy=False)


@dataclass(frozen=True)
class Sparse:
    """A matrix [rows, columns] by its entries that are not 0: entry e stands at (row[e], column[e])."""

    row: Ints
    column: Ints
    value: Floats
    shape: tuple[int, int]

    def times(self, x: Floats) -> Floats:
        """[rows] of the matrix times x [columns]."""
        return _sums(self.row, self.value * x[self.column], self.shape[0])

    def transposed_times(self, x: Floats) -> Floats:
        """[columns] of the transposed matrix times x [rows]."""
        return _sums(self.column, self.value * x[self.row], self.shape[1])


class BagOfWords:
    """A linear score of the words and pairs of neighbouring words of an answer; the prompt is not read.

    Features: TF-IDF with sublinear counts, (1 + log tf) (1 + log((1 + N) / (1 + df))), rows of length 1,
        terms in
    at least `min_df` training answers. Fit, minimised over w:

    * ratings, where every ranking has them: 1/2 sum (q_k - mean q - w (x_k - mean x))^2, means over a prompt;
    * else all pairs of different tiers: sum - log sigmoid(w (x_better - x_worse)), each prompt with weight 1;

    plus ridge / 2 |w|^2. Both are convex, so there is one solution and nothing to draw.

    Args:
        ridge: Pull of the weights to 0. Between 0.1 and 10 it hardly matters on a hundred prompts.
        min_df: Training answers that a term must stand in.

    Example:
        >>> from align.data.types import Message
        >>> texts = [("boil the water", "no idea at all"), ("boil it and wait", "no idea of it")]
        >>> rankings = [Ranking(str(i), (Message("user", "tea?"),), t, (0, 1)) for i, t in enumerate(texts)]
        >>> scores = BagOfWords().fit(rankings).score(["tea?"] * 2, ["boil some", "no idea"])
        >>> bool(scores[0] > scores[1])
        True
    """

    def __init__(self, ridge: float = 0.3, min_df: int = 2) -> None:
        self.ridge, self.min_df = ridge, min_df
        self._columns: dict[str, int] = {}
        self._idf: Floats = np.zeros(0)
        self._weights: Floats = np.zeros(0)

    def fit(self, rankings: Sequence[Ranking]) -> BagOfWords:
        """Learn the terms and their weights from training rankings; returns itself."""
        answers = [answer for ranking in rankings for answer in ranking.answers]
        self._learn_terms(answers)
        features = self._features(answers)
        with_ratings = bool(rankings) and all(r.ratings for r in rankings)
        self._weights = (_fit_ratings if with_ratings else _fit_pairs)(features, rankings, self.ridge)
        return self

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> Floats:
        """[len(answers)] scores, higher is better; only scores of the same prompt can be compared.

        Args:
            prompts: One for each answer; not read.
            answers: Texts.
        """
        if len(prompts) != len(answers):
            raise ValueError(f"{len(prompts)} prompts for {len(answers)} answers")
        return self._features(answers).times(self._weights)

    def _learn_terms(self, answers: Sequence[str]) -> None:
        seen = Counter(term for answer in answers for term in set(_terms(answer)))
        kept = sorted(term for term, count in seen.items() if count >= self.min_df)
        self._columns = {term: i for i, term in enumerate(kept)}
        self._idf = np.array([1 + math.log((1 + len(answers)) / (1 + seen[term])) for term in kept])

    def _features(self, answers: Sequence[str]) -> Sparse:
        row: list[int] = []
        column: list[int] = []
        count: list[int] = []
        for i, answer in enumerate(answers):
            found = Counter(term for term in _terms(answer) if term in self._columns)
            row += [i] * len(found)
            column += [self._columns[term] for term in found]
            count += found.values()
        rows, columns = np.array(row, dtype=np.int64), np.array(column, dtype=np.int64)
        value = (1 + np.log(np.array(count, dtype=np.float64))) * self._idf[columns]
        length = np.sqrt(_sums(rows, value**2, len(answers)))
        return Sparse(rows, columns, value / length[rows], (len(answers), len(self._columns)))


def _terms(text: str) -> list[str]:
    words = _TERM.findall(text.lower())
    return words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]


def _starts(rankings: Sequence[Ranking]) -> Ints:
    """Row of each ranking's first answer, and behind them the number of rows."""
    return np.cumsum([0, *(len(r.answers) for r in rankings)])


def _fit_ratings(features: Sparse, rankings: Sequence[Ranking], ridge: float) -> Floats:
    """Ridge regression of ratings within prompts: one linear system."""
    prompt = np.repeat(np.arange(len(rankings)), np.diff(_starts(rankings)))
    sizes = np.maximum(np.bincount(prompt, minlength=len(rankings)), 1)

    def centred(x: Floats) -> Floats:
        return x - (_sums(prompt, x, len(rankings)) / sizes)[prompt]

    def curvature(x: Floats) -> Floats:
        return features.transposed_times(centred(features.times(x))) + ridge * x

    ratings = np.array([q for r in rankings for q in r.ratings], dtype=np.float64)
    return _conjugate_gradients(curvature, features.transposed_times(centred(ratings)))


def _fit_pairs(features: Sparse, rankings: Sequence[Ranking], ridge: float) -> Floats:
    """Logistic regression on pairs by Newton's method, each step solved by conjugate gradients."""
    found = [(start, *pairs(r)) for start, r in zip(_starts(rankings)[:-1], rankings, strict=True)]
    better = np.array([start + i for start, b, _ in found for i in b], dtype=np.int64)
    worse = np.array([start + i for start, _, w in found for i in w], dtype=np.int64)
    prompt_weight = np.array([1 / len(b) for _, b, _ in found for _ in b], dtype=np.float64)
    rows = features.shape[0]

    def spread(x: Floats) -> Floats:
        """From pairs back to answers, the transpose of taking differences."""
        return _sums(better, x, rows) - _sums(worse, x, rows)

    weights = np.zeros(features.shape[1])
    for _ in range(20):
        scores = features.times(weights)
        wrong = 0.5 - 0.5 * np.tanh((scores[better] - scores[worse]) / 2)
        gradient = ridge * weights - features.transposed_times(spread(prompt_weight * wrong))
        steepness = prompt_weight * wrong * (1 - wrong)

        def curvature(x: Floats, steepness: Floats = steepness) -> Floats:
            moved = features.times(x)
            return features.transposed_times(spread(steepness * (moved[better] - moved[worse]))) + ridge * x

        step = _conjugate_gradients(curvature, gradient)
        weights = weights - step
        if np.abs(step).max(initial=0.0) < 1e-8:
            break
    return weights


def _conjugate_gradients(matrix: Callable[[Floats], Floats], target: Floats) -> Floats:
    """Solve matrix x = target, the matrix symmetric and positive, to a relative residual of 1e-10."""
    x = np.zeros_like(target)
    residual = target.copy()
    direction = residual.copy()
    size = float(residual @ residual)
    goal = size * 1e-20
    for _ in range(1000):
        if size <= goal:
            break
        image = matrix(direction)
        rate = size / float(direction @ image)
        x += rate * direction
        residual -= rate * image
        previous, size = size, float(residual @ residual)
        direction = residual + size / previous * direction
    return x
