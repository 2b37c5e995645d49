"""Baselines against scikit-learn and scipy, and rules worked out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from align.data.types import Message, Ranking
from align.errors import DataError
from align.reward.baselines import BagOfWords, LengthRule, pairs, pairwise_accuracy

GOOD = ["please", "thank", "kindly", "careful", "safe", "gentle"]
BAD = ["hurt", "steal", "break", "burn", "attack", "lie"]
PLAIN = ["the", "a", "house", "dog", "walks", "over", "green", "road", "today", "and"]


def _ranking(name: str, answers: list[str], tiers: list[int], ratings: list[float] | None = None) -> Ranking:
    asked = (Message("user", "what now?"),)
    return Ranking(name, asked, tuple(answers), tuple(tiers), tuple(ratings or ()))


def _made_up(count: int, seed: int, rated: bool) -> list[Ranking]:
    """Rankings whose answers are rated by good minus bad words, plus noise and an offset per prompt."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        texts, ratings = [], []
        for _ in range(int(rng.integers(2, 5))):
            words = list(rng.choice(GOOD + BAD + PLAIN, size=8))
            texts.append(" ".join(words))
            ratings.append(sum((w in GOOD) - (w in BAD) for w in words) + float(rng.normal(scale=0.3)))
        offset = float(rng.normal(scale=20))
        order = np.argsort(np.argsort([-r for r in ratings])).tolist()
        rows.append(_ranking(str(i), texts, order, [r + offset for r in ratings] if rated else None))
    return rows


def _answers(rankings: list[Ranking]) -> list[str]:
    return [a for r in rankings for a in r.answers]


def _oracle_features(train: list[Ranking]) -> TfidfVectorizer:
    """The same features by scikit-learn (smooth idf, sublinear counts, rows of length 1)."""
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=r"\w+(?:['’]\w+)*"
    )
    return vectorizer.fit(_answers(train))


def test_accuracy_by_hand() -> None:
    ranking = _ranking("a", ["x", "y", "z", "w"], [0, 1, 1, 2])
    # Pairs: 01 right, 02 tied, 03 right, 13 wrong, 23 right.
    assert pairwise_accuracy([[2.0, 1.0, 2.0, 1.5]], [ranking]) == [(1 + 0.5 + 1 + 0 + 1) / 5]
    assert pairwise_accuracy([[0.0] * 4], [ranking]) == [0.5]
    better, worse = pairs(ranking)
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]


def test_accuracy_needs_two_tiers() -> None:
    with pytest.raises(DataError, match="b: all answers share one tier"):
        pairwise_accuracy([[1.0, 2.0]], [_ranking("b", ["x", "y"], [0, 0])])


@pytest.mark.parametrize(
    ("tiers", "rule", "sign"), [([0, 1], "shorter wins", -1), ([1, 0], "longer wins", 1)]
)
def test_length_rule_takes_the_better_direction(tiers: list[int], rule: str, sign: int) -> None:
    found = LengthRule().fit([_ranking(str(i), ["ab", "abcd"], tiers) for i in range(3)])
    assert found.rule == rule
    assert found.score(["a", "abc"]).tolist() == [sign * 1.0, sign * 3.0]


def test_length_rule_weighs_prompts_and_not_pairs() -> None:
    many = _ranking("many", ["a", "bb", "ccc", "dddd"], [3, 2, 1, 0])  # six pairs: longer wins
    few = [_ranking(str(i), ["a", "bb"], [0, 1]) for i in range(2)]  # two pairs: shorter wins
    assert LengthRule().fit([many, *few]).rule == "shorter wins"
    assert LengthRule().fit([]).rule == "longer wins"
    assert LengthRule().fit([_ranking("even", ["a", "bb", "ccc"], [0, 1, 0])]).rule == "longer wins"


def test_ratings_fit_is_a_ridge_regression_within_prompts() -> None:
    train, test = _made_up(40, 0, rated=True), _made_up(10, 1, rated=True)
    vectorizer = _oracle_features(train)

    def centred(rows: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([x - x.mean(axis=0) for x in rows])

    features = centred([vectorizer.transform(r.answers).toarray() for r in train])
    ratings = centred([np.array(r.ratings) for r in train])
    oracle = Ridge(alpha=0.3, fit_intercept=False, tol=1e-12).fit(features, ratings)
    expected = vectorizer.transform(_answers(test)).toarray() @ oracle.coef_
    found = BagOfWords(ridge=0.3).fit(train).score([""] * len(expected), _answers(test))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


def test_pairs_fit_is_a_logistic_regression_with_equal_prompts() -> None:
    train, test = _made_up(25, 2, rated=False), _made_up(10, 3, rated=False)
    vectorizer = _oracle_features(train)
    differences, weights = [], []
    for ranking in train:
        x = vectorizer.transform(ranking.answers).toarray()
        places = [
            (i, j) for i, j in itertools.permutations(range(len(x)), 2) if ranking.tiers[i] < ranking.tiers[j]
        ]
        differences += [x[i] - x[j] for i, j in places]
        weights += [1 / len(places)] * len(places)
    d, c = np.array(differences), np.array(weights)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = d @ w
        gradient = 0.5 * w - d.T @ (c / (1 + np.exp(z)))
        return float(c @ np.logaddexp(0, -z) + 0.25 * w @ w), gradient

    oracle = minimize(
        loss, np.zeros(d.shape[1]), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    )
    expected = vectorizer.transform(_answers(test)).toarray() @ oracle.x
    found = BagOfWords(ridge=0.5).fit(train).score([""] * len(expected), _answers(test))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rated", [True, False])
def test_it_learns_and_fits_the_same_twice(rated: bool) -> None:
    train, test = _made_up(80, 4, rated), _made_up(60, 5, rated)
    scores = [BagOfWords().fit(train).score([""] * len(r.answers), r.answers) for r in test]
    assert np.mean(pairwise_accuracy(scores, test)) > 0.8
    again = BagOfWords().fit(train).score([""] * len(test[0].answers), test[0].answers)
    assert again.tolist() == scores[0].tolist()


def test_one_ranking_without_ratings_makes_all_of_them_pairs() -> None:
    rated = _made_up(20, 6, rated=True)
    bare = [_ranking(r.id, list(r.answers), list(r.tiers)) for r in rated]
    mixed = [*rated[:-1], bare[-1]]
    answers = list(rated[0].answers)
    asked = [""] * len(answers)
    assert BagOfWords().fit(mixed).score(asked, answers).tolist() == pytest.approx(
        BagOfWords().fit(bare).score(asked, answers).tolist()
    )


def test_nothing_to_learn_from_scores_0() -> None:
    unseen = BagOfWords().fit(
        [_ranking("a", ["one two", "three four"], [0, 1])]
    )  # no term stands in two answers
    assert unseen.score(["", "", ""], ["one", "", "three"]).tolist() == [0.0, 0.0, 0.0]
    tied = BagOfWords().fit([_ranking("a", ["one two", "one two"], [0, 0])])
    assert tied.score([""], ["one two"]).tolist() == [0.0]
    assert BagOfWords().fit([]).score([""], ["one"]).tolist() == [0.0]


def test_separable_pairs_with_hardly_a_ridge_converge() -> None:
    rows = [_ranking(str(i), ["safe road", "burn road"], [0, 1]) for i in range(50)]
    scores = BagOfWords(ridge=1e-6).fit(rows).score(["", ""], ["safe road", "burn road"])
    assert np.isfinite(scores).all()
    assert scores[0] > scores[1] + 5


def test_prompts_and_answers_must_match() -> None:
    with pytest.raises(ValueError, match="1 prompts for 2 answers"):
        BagOfWords().fit([]).score([""], ["a", "b"])
