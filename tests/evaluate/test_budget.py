"""Choosing under a budget of episodes, against closed forms and enumeration of a bandit's whole tree."""

import math
import statistics
import time

import numpy as np
import pytest
from scipy.stats import norm

from leashrl.errors import BadInput
from leashrl.evaluate import expected_score, next_candidate

# --- Closed forms ------------------------------------------------------------


def means(*args, **settings) -> list[float]:
    return [row.mean for row in expected_score(*args, **settings)]


def best_of(values: list[float], k: int) -> float:
    """The expected largest of k values drawn without replacement: C(i, k - 1) of C(n, k) draws end at x_i."""
    n = len(values)
    return sum(x * math.comb(i, k - 1) for i, x in enumerate(sorted(values))) / math.comb(n, k)


FIXED = [3.0, 50.0, 10.0, 7.0, 30.0]


@pytest.mark.parametrize("rule", ["ucb", "uniform"])
def test_candidates_that_always_score_the_same(rule):
    """Up to an episode each the choice is the best of so many random candidates; then the best of all."""
    found = expected_score([[x] * 3 for x in FIXED], range(8), rule=rule, resamples=20_000)
    assert found[0].mean == statistics.mean(FIXED) == 20.0
    for k in range(1, 6):
        # the standard error is below 18 / sqrt(20,000) = 0.13
        assert found[k].mean == pytest.approx(best_of(FIXED, k), abs=0.5)
    assert best_of(FIXED, 2) == pytest.approx((50 * 4 + 30 * 3 + 10 * 2 + 7) / 10)
    assert [row.mean for row in found[5:]] == [50.0, 50.0, 50.0]
    assert [row.budget for row in found] == list(range(8))


def test_the_interval_holds_the_middle_of_the_choices():
    # 21 candidates 0, 1, ..., 20, none run: the quartiles of equally likely values
    (row,) = expected_score([[float(x)] for x in range(21)], [0], level=0.5)
    assert [row.mean, row.low, row.high] == pytest.approx([10, 5, 15])
    # one episode tells nothing: the same, by simulation
    (row,) = expected_score([[float(x)] for x in range(21)], [1], level=0.5, resamples=20_000)
    assert [row.low, row.high] == [5.0, 15.0] and row.mean == pytest.approx(10, abs=0.2)
    (row,) = expected_score([[0.0], [8.0]], [2])
    assert (row.mean, row.low, row.high) == (8.0, 8.0, 8.0)


@pytest.mark.parametrize("each", [1, 4, 9])
def test_two_gaussian_candidates_with_equal_episodes(each):
    """The better one has the larger mean of n episodes with chance Phi(delta / (sigma sqrt(2 / n)))."""
    delta, sigma = 1.0, 2.0
    shape = norm.ppf((np.arange(20_000) + 0.5) / 20_000) * sigma  # the distribution itself, not a draw
    (found,) = means([shape, shape + delta], [2 * each], rule="uniform", resamples=40_000)
    assert found == pytest.approx(delta * norm.cdf(delta / (sigma * math.sqrt(2 / each))), abs=0.012)


def test_a_large_budget_finds_the_best_and_ucb_finds_it_sooner():
    rng = np.random.default_rng(0)
    arms = [rng.normal(50 + 3 * i, 25, 200) for i in range(10)]
    top = max(x.mean() for x in arms)
    for rule in ("ucb", "uniform"):
        assert means(arms, [20_000], rule=rule, resamples=50) == [pytest.approx(top, abs=0.3)]
    ucb, uniform = (means(arms, [50, 200], rule=rule, resamples=4000) for rule in ("ucb", "uniform"))
    assert ucb[0] > uniform[0] + 0.3 and ucb[1] > uniform[1] + 0.3  # standard errors are 0.1


# --- The rule ----------------------------------------------------------------

ARMS = [[0.0, 1.0], [0.7], [0.2, 0.3, 2.0]]


def enumerate_ucb(seen: list[list[float]], arms: list[list[float]], left: int, c: float) -> float:
    """The exact worth of the choice after `left` more episodes, over all outcomes; the first wins a tie."""
    if not left:
        score = [statistics.mean(x) if x else -math.inf for x in seen]
        return statistics.mean(arms[score.index(max(score))])
    empty = [i for i, x in enumerate(seen) if not x]
    if empty:
        run = empty[0]
    else:
        everything = [x for mine in seen for x in mine]
        spread, t = statistics.pstdev(everything), len(everything)
        index = [statistics.mean(x) + c * spread * math.sqrt(math.log(t) / len(x)) for x in seen]
        run = max(range(len(arms)), key=lambda i: (round(index[i], 9), -i))
    after = [[*seen[:run], [*seen[run], x], *seen[run + 1 :]] for x in arms[run]]
    return statistics.mean(enumerate_ucb(s, arms, left - 1, c) for s in after)


@pytest.mark.parametrize("c", [0.0, math.sqrt(2), 5.0])
@pytest.mark.parametrize("budget", [2, 4, 6])
def test_ucb_equals_the_enumeration_of_its_tree(c, budget):
    orders = [[ARMS[i] for i in (a, b, 3 - a - b)] for a in range(3) for b in range(3) if a != b]
    exact = statistics.mean(enumerate_ucb([[], [], []], arms, budget, c) for arms in orders)
    (found,) = means(ARMS, [budget], exploration=c, resamples=40_000)
    assert found == pytest.approx(exact, abs=0.006)  # standard error 0.0007


def test_next_candidate_by_hand():
    assert next_candidate([[1.0], [], []]) == 1
    # t = 4 scores 6, 2, 0, 2: mean 2.5, variance 11 - 6.25 = 4.75; means 4, 0, 2 of 2, 1 and 1 episodes
    # 4 + c sqrt(4.75 ln 4 / 2) = 2 + c sqrt(4.75 ln 4) where c = 2 / (2.5661 (1 - 0.7071)) = 2.661
    scores, equal = [[6.0, 2.0], [0.0], [2.0]], 2.661
    assert next_candidate(scores) == 0
    assert next_candidate(scores, exploration=equal - 0.01) == 0
    assert next_candidate(scores, exploration=equal + 0.01) == 2
    # far from zero too
    assert next_candidate([[1e9 + x for x in mine] for mine in scores], exploration=equal + 0.01) == 2


def test_units_and_order_of_scores_do_not_matter():
    rng = np.random.default_rng(3)
    arms = [rng.normal(i, 3.0, 20) for i in range(6)]
    once = means(arms, [0, 3, 10, 40])
    other = means([7 + x / 1000 for x in arms], [0, 3, 10, 40])
    np.testing.assert_allclose(other, [7 + x / 1000 for x in once])
    assert means(arms, [40, 3]) == [once[3], once[1]]
    assert means(arms, [40, 3], seed=1) != [once[3], once[1]]
    straight, reverse = (means(x, [40], resamples=20_000) for x in (arms, arms[::-1]))
    assert straight == [pytest.approx(reverse[0], abs=0.1)]


def test_ties_are_not_won_by_the_first():
    # both show 1.0 first; the other episode of the second is what tells them apart
    arms = [[1.0], [1.0, 0.0]]
    # half of the time the second shows 0 and the first is chosen; else a tie
    assert means(arms, [2], resamples=40_000) == [pytest.approx(0.75 * 1 + 0.25 * 0.5, abs=0.01)]


def test_a_choice_among_some():
    """With episodes enough, the best of three random ones of five."""
    found = expected_score([[x] for x in FIXED], [0, 3], candidates=3, resamples=20_000)
    assert found[0].mean == 20.0
    assert found[1].mean == pytest.approx(best_of(FIXED, 3), abs=0.5)
    assert found[1].low == 10.0 and found[1].high == 50.0


def test_it_is_fast():
    rng = np.random.default_rng(0)
    arms = [rng.normal(i, 3.0, 50) for i in range(10)]
    start = time.process_time()
    assert len(expected_score(arms, range(1, 101), resamples=1000)) == 100
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("arms", "settings", "words"),
    [
        ([], {}, "no candidates"),
        ([[1.0], []], {}, "candidate 1 must be"),
        ([[1.0], [[1.0]]], {}, "candidate 1 must be"),
        ([[1.0], ["x"]], {}, "must be numbers"),
        ([[1.0, math.nan]], {}, "not finite"),
        ([[1.0]], {"budgets": [-1]}, "0 or more, not -1"),
        ([[1.0]], {"budgets": [1.5]}, "not 1.5"),
        ([[1.0]], {"rule": "ubc"}, "did you mean 'ucb'"),
        ([[1.0]], {"candidates": 2}, "2 of 1 candidates"),
        ([[1.0]], {"exploration": -1.0}, "exploration"),
        ([[1.0]], {"resamples": 0}, "resamples"),
        ([[1.0]], {"level": 95}, "0.95 is usual"),
    ],
)
def test_bad_input(arms, settings, words):
    with pytest.raises(BadInput, match=words) as error:
        expected_score(arms, **({"budgets": [1]} | settings))
    assert "\n" not in str(error.value)
