"""Statistics against numbers worked by hand, scipy, and exact enumeration of every bootstrap sample."""

import itertools

import numpy as np
import pytest
from scipy import special
from scipy import stats as scipy_stats

from leashrl.errors import BadInput
from leashrl.evaluate.statistics import (
    bounded_interval,
    improvement_interval,
    interquartile_mean,
    iqm_interval,
    mean,
    mean_interval,
    stratified_bootstrap_interval,
    summary,
)
from leashrl.evaluate.student import incomplete_beta, share_interval, t_quantile, t_tail


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
    assert row.mean == 30.0
    assert row.iqm == 30.0
    assert row.std == pytest.approx(np.sqrt((400 + 100 + 900) / 2))
    assert row.n == 3
    # tables: t of 2 degrees of freedom leaves 1.25 % above 6.2053
    assert (row.low, row.high) == pytest.approx(
        (30 - 6.2053 * np.sqrt(700 / 3), 30 + 6.2053 * np.sqrt(700 / 3)), rel=1e-4
    )
    alone = {"mean": 5.0, "iqm": 5.0, "low": None, "high": None, "std": None, "n": 1}
    assert summary([5.0]).to_json() == alone
    same = summary([5.0, 5.0, 5.0])
    assert (same.low, same.high, same.std) == (None, None, 0.0)  # no scatter to judge by
    # over two tasks the spread is that of the runs' means, 1.5 and 3.5
    assert summary([[1.0, 2.0], [3.0, 4.0]]).std == pytest.approx(np.sqrt(2.0))


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
        ([1.0, 2.0], {"level": float("nan")}, "level"),
    ],
)
def test_bad_scores_are_refused_in_one_line(scores, options, words):
    with pytest.raises(BadInput) as caught:
        summary(scores, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resamples", [0, 2.5])
def test_a_number_of_resamples_without_sense_is_refused(resamples):
    with pytest.raises(BadInput, match="resamples"):
        stratified_bootstrap_interval([1.0, 2.0], resamples=resamples)


# --- Intervals that hold what they say ---------------------------------------


@pytest.mark.parametrize("df", [1.0, 1.7, 2.0, 9.0, 249.0])
def test_students_t_equals_scipys(df):
    for level in (0.05, 0.5, 0.95, 0.975, 0.9999):
        t = scipy_stats.t.ppf((1 + level) / 2, df)
        assert t_quantile(level, df) == pytest.approx(t, rel=1e-9)
        assert t_tail(-t, df) == pytest.approx(1 - level, rel=1e-9)
    for x in (0.0, 1e-6, 0.3, 0.99, 1.0):
        assert incomplete_beta(df, 2.5, x) == pytest.approx(special.betainc(df, 2.5, x), rel=1e-10)


def test_a_shares_interval_is_clopper_and_pearsons():
    for hits, n in ((0, 3), (3, 3), (2, 7), (30, 90)):
        found = scipy_stats.binomtest(hits, n).proportion_ci(0.95, "exact")
        assert share_interval(hits, n) == pytest.approx(tuple(found), abs=1e-9)


def test_the_interval_of_one_task_is_students_with_half_the_misses():
    scores = np.array([49.4, 84.7, 33.7, 50.2])
    exact = scipy_stats.t.interval(0.975, 3, scores.mean(), scipy_stats.sem(scores))
    assert mean_interval(scores) == pytest.approx(exact)
    assert mean_interval(scores[:1]) is None and mean_interval([7.0, 7.0]) is None
    assert mean_interval([0.1 + 0.2, 0.3]) is None  # equal but for rounding


def test_the_interval_of_two_tasks_is_welchs():
    # the mean of two tasks is half the difference of one and the other's negative
    table = np.random.default_rng(3).normal(50, [3.0, 20.0], (4, 2))
    welch = scipy_stats.ttest_ind(table[:, 0], -table[:, 1], equal_var=False).confidence_interval(0.975)
    assert mean_interval(table) == pytest.approx((welch.low / 2, welch.high / 2))


def test_the_interval_of_an_iqm_is_tukey_and_mclaughlins():
    scores = np.array([[0.0], [1.0], [1.5], [2.0], [9.0], [10.0], [10.5], [11.0]])
    low, high = scipy_stats.mstats.trimmed_mean_ci(scores[:, 0], (0.25, 0.25), alpha=0.025)
    assert iqm_interval(scores) == pytest.approx((low, high))
    # one outlier: the trimmed mean's own would be narrower than the mean's, which is kept
    outlier = [0.0, 1.0, 2.0, 3.0, 1000.0]
    a, b = iqm_interval(outlier)
    c, d = mean_interval(outlier)
    assert (a + b) / 2 == pytest.approx(2.0) and b - a == pytest.approx(d - c)
    assert iqm_interval([1.0, 2.0, 4.0]) == mean_interval([1.0, 2.0, 4.0])  # nothing trimmed of three
    assert iqm_interval([1.0]) is None


def two_modes(share: float):
    """Two normal modes four of their standard deviations apart; the mean is 4 x share."""
    return lambda rng, shape: 4 * (rng.uniform(size=shape) < share) + rng.normal(size=shape)


FAMILY = [
    pytest.param(lambda rng, shape: rng.normal(size=shape), 0.0, id="normal"),
    *(pytest.param(two_modes(w), 4 * w, id=f"modes-{w}") for w in (0.5, 0.2)),
]


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
@pytest.mark.parametrize(("draw", "truth"), FAMILY)
def test_intervals_cover_what_they_say(draw, truth, seeds):
    """At least 93 % (benchmarks/coverage.py has it more exactly); the bootstrap has 50 to 91."""
    rng, count = np.random.default_rng(seeds), 3000
    ends = np.array([mean_interval(x) for x in draw(rng, (count, seeds))])
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    assert covered >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / count)
    assert covered < 0.99  # and it is not merely wide


def test_no_interval_of_few_seeds_knows_of_a_mode_that_none_of_them_is_in():
    # half of two seeds from the one and the other mode, far apart: in half of the cases both are from one
    rng = np.random.default_rng(0)
    scores = np.where(rng.uniform(size=(2000, 2)) < 0.5, 113.0, 35.0) + rng.normal(size=(2000, 2))
    ends = np.array([mean_interval(x) for x in scores])
    assert 0.45 < np.mean((ends[:, 0] <= 74) & (ends[:, 1] >= 74)) < 0.6
    # with the scores' bounds known there is one that holds
    ends = np.array([bounded_interval(np.clip(x, 0, 120), 0, 120, draws=500) for x in scores[:500]])
    assert np.mean((ends[:, 0] <= 74) & (ends[:, 1] >= 74)) > 0.95


def test_a_bounded_interval_of_scores_at_the_bounds_is_clopper_and_pearsons():
    for hits, n in ((0, 2), (3, 3), (2, 5)):
        exact = scipy_stats.binomtest(hits, n).proportion_ci(0.95, "exact")
        found = bounded_interval([100.0] * hits + [0.0] * (n - hits), 0, 100, draws=200_000)
        assert found == pytest.approx((100 * exact.low, 100 * exact.high), abs=0.5)
    with pytest.raises(BadInput, match="do not lie between"):
        bounded_interval([1.0, 101.0], 0, 100)
    with pytest.raises(BadInput, match="one task"):
        bounded_interval([[1.0, 2.0]], 0, 100)


def test_the_interval_of_improvement_by_hand():
    # 3 of 3 runs above 3 of 3: p = 1. Newcombe, with t = 2.7764 of 4 degrees of freedom:
    # (1 - p)^2 = t^2 p (1 - p) (1 + 2 ((1 - p)/(2 - p) + p/(1 + p))) / 9; at p = 0.3366 both sides are 0.440
    low, high = improvement_interval([4.0, 5.0, 6.0], [1.0, 2.0, 3.0])
    p = low
    right = 2.7764**2 * p * (1 - p) * (1 + 2 * ((1 - p) / (2 - p) + p / (1 + p))) / 9
    assert (1 - p) ** 2 == pytest.approx(right, rel=2e-3) and low == pytest.approx(0.3366, abs=1e-3)
    assert high == 1.0
    assert improvement_interval([4.0], [1.0, 2.0]) is None
    with pytest.raises(BadInput, match="level must lie"):
        improvement_interval([1.0, 2.0], [3.0, 4.0], level=2.0)
