"""Statistics against numbers worked by hand and against exact enumeration of every bootstrap sample."""

import itertools

import numpy as np
import pytest

from leashrl.errors import BadInput
from leashrl.evaluate.statistics import interquartile_mean, mean, stratified_bootstrap_interval, summary


def test_interquartile_mean_by_hand():
    # eight numbers: two left out at each end, (3 + 4 + 5 + 6) / 4
    assert interquartile_mean([[1, 8], [2, 7], [3, 6], [4, 5]]) == 4.5
    # five numbers: floor(5 / 4) = 1 at each end, (2 + 3 + 10) / 3
    assert interquartile_mean([[100.0], [2.0], [-50.0], [3.0], [10.0]]) == 5.0
    # three numbers: none left out
    assert interquartile_mean([[0.0], [3.0], [9.0]]) == 4.0
    # leading axes are kept
    assert interquartile_mean(np.arange(24.0).reshape(3, 4, 2)).tolist() == [3.5, 11.5, 19.5]
    assert mean(np.arange(24.0).reshape(3, 4, 2)).tolist() == [3.5, 11.5, 19.5]
    assert mean([1.0, 2.0, 6.0]) == 3.0


def test_interquartile_mean_ignores_outliers_but_the_mean_does_not():
    scores = np.array([[1.0], [2.0], [3.0], [4.0]])
    wild = np.array([[-1e6], [2.0], [3.0], [1e9]])
    assert interquartile_mean(scores) == interquartile_mean(wild) == 2.5
    assert mean(scores) == 2.5
    assert mean(wild) > 1e8


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_bootstrap_of_the_mean_equals_exact_enumeration(level: float):
    runs = np.array([[0.0], [1.0], [10.0]])
    # all 27 equally likely resamples of 3 runs; 16 means are distinct: 0, 1/3, ..., 10
    exact = np.array([np.mean(draw) for draw in itertools.product(runs[:, 0], repeat=3)])
    low, high = stratified_bootstrap_interval(runs, mean, level=level, resamples=200_000)
    # none of these levels' quantiles falls on a step of the exact distribution function
    assert low == pytest.approx(np.quantile(exact, (1 - level) / 2, method="inverted_cdf"), abs=1e-12)
    assert high == pytest.approx(np.quantile(exact, (1 + level) / 2, method="inverted_cdf"), abs=1e-12)


def test_bootstrap_is_stratified():
    # Two runs, two tasks. Drawn per task, the sum is 0 + 0, 0 + 100, 2 + 0 or 2 + 100, each with chance 1/4
    # (after averaging the two draws: nine values). Drawn as whole rows [0, 0], [2, 100] it would be on a
    # line where task 2's mean is 50 times task 1's, which stratified draws leave.
    scores = np.array([[0.0, 0.0], [2.0, 100.0]])
    seen = set()

    def spy(tables: np.ndarray) -> np.ndarray:
        seen.update(tuple(pair) for pair in tables.mean(-2))
        return tables.mean((-2, -1))

    stratified_bootstrap_interval(scores, spy, resamples=2000)
    assert seen == set(itertools.product([0.0, 1.0, 2.0], [0.0, 50.0, 100.0]))


def test_bootstrap_of_two_tasks_equals_exact_enumeration():
    scores = np.array([[0.0, 5.0], [4.0, 7.0]])
    draws = list(itertools.product([0, 1], repeat=2))
    exact = [
        np.mean([*scores[list(a), 0], *scores[list(b), 1]]) for a, b in itertools.product(draws, repeat=2)
    ]
    # sixteen equally likely values, by hand from 2.5 (1/16) to 5.5 (1/16)
    assert min(exact) == 2.5
    assert max(exact) == 5.5
    low, high = stratified_bootstrap_interval(scores, mean, level=0.8, resamples=100_000)
    assert low == pytest.approx(np.quantile(exact, 0.1, method="inverted_cdf"))
    assert high == pytest.approx(np.quantile(exact, 0.9, method="inverted_cdf"))


def test_coverage_of_a_known_mean():
    # 20 normal runs: a 90 % percentile interval should hold the true mean in about 88 % of repetitions
    rng = np.random.default_rng(1)
    hits = 0
    for repetition in range(300):
        low, high = stratified_bootstrap_interval(
            rng.normal(3.0, 2.0, (20, 1)), level=0.9, resamples=400, seed=repetition
        )
        hits += low <= 3.0 <= high
    assert 0.80 < hits / 300 < 0.95


def test_interval_properties():
    scores = np.random.default_rng(0).normal(size=(5, 3))
    same = stratified_bootstrap_interval(scores, interquartile_mean, seed=4)
    assert same == stratified_bootstrap_interval(scores, interquartile_mean, seed=4)
    assert same != stratified_bootstrap_interval(scores, interquartile_mean, seed=5)
    narrow = stratified_bootstrap_interval(scores, interquartile_mean, level=0.5, seed=4)
    assert same[0] < narrow[0] < narrow[1] < same[1]
    assert stratified_bootstrap_interval([[7.0]]) == (7.0, 7.0)
    shifted = stratified_bootstrap_interval(10 + 2 * scores, interquartile_mean, seed=4)
    assert shifted == pytest.approx((10 + 2 * same[0], 10 + 2 * same[1]))


def test_summary_by_hand():
    row = summary([10.0, 20.0, 60.0])
    assert row["mean"] == 30.0
    assert row["iqm"] == 30.0
    assert row["std"] == pytest.approx(np.sqrt((400 + 100 + 900) / 2))
    assert row["n"] == 3
    assert 10.0 <= row["low"] < 30.0 < row["high"] <= 60.0
    assert summary([5.0]) == {"mean": 5.0, "iqm": 5.0, "low": 5.0, "high": 5.0, "std": 0.0, "n": 1}
    # over two tasks the spread is that of the runs' means, 1.5 and 3.5
    assert summary([[1.0, 2.0], [3.0, 4.0]])["std"] == pytest.approx(np.sqrt(2.0))


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        ([], {}, "not empty"),
        ([[[1.0]]], {}, "shape (1, 1, 1)"),
        ([1.0, np.nan], {}, "run 1"),
        ([[1.0, np.inf]], {}, "task 1 is inf"),
        ("abc", {}, "table of numbers"),
        ([[1.0, 2.0], [3.0]], {}, "table of numbers"),
        ([1.0, 2.0], {"level": 95}, "level"),
        ([1.0, 2.0], {"resamples": 0}, "resamples"),
        ([1.0, 2.0], {"resamples": 2.5}, "resamples"),
    ],
)
def test_bad_scores_are_refused_in_one_line(scores, options, words):
    with pytest.raises(BadInput) as caught:
        summary(scores, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
