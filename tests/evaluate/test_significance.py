"""Tests between algorithms, against scipy, brute force and simulation."""

import itertools

import numpy as np
import pytest
from scipy import stats

from leashrl.errors import BadInput
from leashrl.evaluate import significance
from leashrl.evaluate.significance import (
    compare,
    compare_all,
    difference_interval,
    holm,
    least_p,
    permutation_test,
    t_test,
)
from leashrl.evaluate.statistics import stratified_bootstrap_interval

A, B = np.array([49.4, 84.7, 33.7, 60.0]), np.array([97.4, 113.3, 112.8])


def test_the_t_tests_are_scipys():
    assert t_test(A, B) == pytest.approx(stats.ttest_ind(A, B, equal_var=False).pvalue)
    assert t_test(A[:3], B, paired=True) == pytest.approx(stats.ttest_rel(A[:3], B).pvalue)
    # the interval has the halved tail of all here
    both = stats.ttest_ind(A, B, equal_var=False).confidence_interval(0.975)
    assert difference_interval(A, B) == pytest.approx((both.low, both.high))
    both = stats.ttest_rel(A[:3], B).confidence_interval(0.975)
    assert difference_interval(A[:3], B, paired=True) == pytest.approx((both.low, both.high))


def test_with_one_run_or_without_scatter_there_is_no_t_test():
    for a, b in (([1.0], [2.0, 3.0]), ([1.0, 1.0], [2.0, 2.0])):
        assert t_test(a, b) is None and difference_interval(a, b) is None
    assert t_test([1.0, 2.0], [2.0, 3.0], paired=True) is None


def test_over_tasks_errors_add_up():
    # by hand: variances of means 1/2, 2 and 0.5, 4.5 over two tasks; Satterthwaite's df of the four, one each
    a, b = np.array([[1.0, 10.0], [2.0, 12.0]]), np.array([[0.0, 5.0], [1.0, 8.0]])
    parts = np.array([0.25, 1.0, 0.25, 2.25]) / 4  # s^2 / n / M^2, s^2 = 0.5, 2, 0.5, 4.5
    t, df = (6.25 - 3.5) / np.sqrt(parts.sum()), parts.sum() ** 2 / (parts**2).sum()
    assert t_test(a, b) == pytest.approx(2 * stats.t.sf(t, df))


@pytest.mark.parametrize("paired", [False, True])
def test_permutations_of_one_task_are_scipys(paired):
    a, b = (A[:3], B) if paired else (A, B)
    kind = "samples" if paired else "independent"
    exact = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x) - np.mean(y), permutation_type=kind, n_resamples=np.inf
    )
    mirrored = abs(a.mean() - b.mean())
    if not paired:  # scipy doubles the smaller tail; here |difference| is what counts
        pool = np.concatenate([a, b])
        found = [
            pool[list(i)].mean() - np.delete(pool, i).mean() for i in itertools.combinations(range(7), 4)
        ]
        assert permutation_test(a, b) == pytest.approx(np.mean(np.abs(found) >= mirrored - 1e-9))
    else:
        assert permutation_test(a, b, paired=True) == pytest.approx(exact.pvalue) == 0.25


def test_permutations_of_two_tasks_by_brute_force():
    a, b = np.array([[1.0, 10.0], [2.0, 12.0]]), np.array([[0.0, 5.0], [1.5, 11.0]])
    seen, found = abs(a.mean() - b.mean()), []
    for i, j in itertools.product(itertools.combinations(range(4), 2), repeat=2):
        means = []
        for task, mine in enumerate((i, j)):
            pool = np.concatenate([a[:, task], b[:, task]])
            means.append(pool[list(mine)].mean() - np.delete(pool, mine).mean())
        found.append(abs(np.mean(means)))
    assert permutation_test(a, b) == pytest.approx(np.mean(np.array(found) >= seen - 1e-12))


@pytest.mark.parametrize("paired", [False, True])
def test_many_permutations_are_drawn(paired, monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 1, (7, 1)), rng.normal(0, 1, (7, 1))
    exact = permutation_test(a, b, paired=paired)
    monkeypatch.setattr(significance, "EXACT", 10)
    drawn = permutation_test(a, b, paired=paired)
    assert drawn != exact and drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / 20_000))


def test_what_few_seeds_can_reach():
    assert least_p(3, 3) == permutation_test([1, 2, 3], [4, 5, 6]) == 0.1
    assert least_p(2, 2) == pytest.approx(1 / 3) and least_p(4, 4) == pytest.approx(2 / 70)
    assert least_p(3, 3, paired=True) == 0.25 and least_p(3, 3, tasks=2) == 2 / 400
    assert least_p(2, 3) == 0.1  # 10 arrangements, and the mirrored one has another size


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.9]) == [0.8, 0.9] and holm([None]) == [None] and holm([0.7, 0.8]) == [1.0, 1.0]


def test_all_pairs_and_what_is_decided():
    rows = compare_all({"low": [1.0, 2.0, 3.0], "high": [90.0, 91.0, 92.0], "near": [88.0, 91.0, 89.0]})
    assert [(r.a, r.b) for r in rows] == [("high", "near"), ("high", "low"), ("near", "low")]
    assert [r.decided for r in rows] == [False, True, True]
    assert rows[0].p_holm == rows[0].p and rows[0].least_p == 0.1  # the largest p is left as it is
    two = compare_all({"a": [1.0, 1.1], "b": [90.0, 90.1]})
    assert two[0].p < 0.05 and not two[0].decided  # two seeds of each decide nothing
    assert compare(A, B).difference == pytest.approx(A.mean() - B.mean())


@pytest.mark.parametrize("modes", [0.0, 4.0, 40.0])
def test_equal_algorithms_with_three_seeds_are_rarely_called_different(modes):
    rng, count = np.random.default_rng(1), 4000
    pairs = modes * (rng.uniform(size=(count, 2, 3)) < 0.5) + rng.normal(size=(count, 2, 3))
    found = np.mean([t_test(a, b) < 0.05 for a, b in pairs])
    assert found <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / count)
    if not modes:  # what was taken for a finding before: bootstrap intervals that do not meet
        ends = [[stratified_bootstrap_interval(v, resamples=300) for v in pair] for pair in pairs[:500]]
        assert np.mean([x[0] > y[1] or y[0] > x[1] for x, y in ends]) > 0.08


def test_of_three_equal_algorithms_none_is_called_ahead_more_often():
    rng, count = np.random.default_rng(2), 400
    tables = rng.normal(size=(count, 3, 3))
    found = np.mean([any(row.decided for row in compare_all(dict(enumerate(x)))) for x in tables])
    assert found <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / count)


@pytest.mark.parametrize(
    ("a", "b", "paired", "words"),
    [
        ([[1.0, 2.0]], [[1.0]], False, "the same tasks"),
        ([1.0, 2.0], [1.0], True, "come in pairs"),
        ([1.0, np.nan], [1.0, 2.0], False, "run 1"),
    ],
)
def test_bad_tables_are_one_line(a, b, paired, words):
    for test in (t_test, permutation_test, difference_interval, compare):
        with pytest.raises(BadInput, match=words):
            test(a, b, paired=paired)
