"""Statistics of evaluation scores, in plain numpy.

A table of scores is (runs, tasks): one number per training seed and task. Means over tasks, interquartile
means over all runs and tasks together, performance profiles and probabilities of improvement are those of
Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv
2108.13264.

Intervals are not theirs. Their percentile bootstrap over n runs covers a mean in 50 % of cases with 2 runs,
75 % with 3, 86 % with 5 and 91 % with 10, where it says 95 %. What stands here holds what it says with few
runs; `benchmarks/coverage.py` simulates it and says where it does not.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from leashrl.errors import BadInput
from leashrl.evaluate.student import t_quantile

Statistic = Callable[[np.ndarray], np.ndarray]
"""`(..., runs, tasks) -> (...)`."""


def mean(scores: Any) -> np.ndarray:
    """Mean over runs and tasks.

    Args:
      scores: (..., runs, tasks).

    >>> float(mean([[1.0, 3.0], [2.0, 6.0]]))
    3.0
    """
    array = np.asarray(scores, np.float64)
    return array.reshape(*array.shape[:-2], -1).mean(-1)


def interquartile_mean(scores: Any) -> np.ndarray:
    """Mean of the middle half: of n sorted numbers, floor(n / 4) are left out at each end.

    Args:
      scores: (..., runs, tasks).

    Runs and tasks are pooled. With n < 4 nothing is left out. (The convention of scipy's
    `trim_mean(x, 0.25)`, without weighting the numbers at the edges.)

    >>> float(interquartile_mean([[0.0], [1.0], [2.0], [300.0]]))
    1.5
    """
    array = np.asarray(scores, np.float64)
    pooled = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)
    n = pooled.shape[-1]
    return pooled[..., n // 4 : n - n // 4].mean(-1)


# --- Intervals ---------------------------------------------------------------

Interval = tuple[float, float] | None
"""None where the runs say nothing of their scatter: one of them, or all the same."""


def mean_interval(scores: Any, *, level: float = 0.95) -> Interval:
    r"""Student's t interval of the mean over runs and tasks, with half the usual chance of a miss.

    $$\bar x \pm t_{1 - \alpha/4,\,\nu} \sqrt{\sum_m s_m^2 / n} \,/\, M, \qquad
      \nu = \Big(\sum_m s_m^2\Big)^2 \Big/ \sum_m \frac{s_m^4}{n - 1}$$

    of M tasks with n runs each, $s_m$ a task's standard deviation over runs, $\alpha$ = 1 - `level`. Runs are
    independent within each task (Welch 1947, Satterthwaite 1946); with one task $\nu = n - 1$.

    A t interval at `level` itself would be $t_{1 - \alpha/2}$. It is exact for normal scores, but scores of
    seeds come in clusters, and with 3 runs it covers 88 % where half of them lie in either of two modes,
    four of a mode's standard deviations apart. With the halved tail that is 93 %, and 97.5 % of normal
    scores. Where modes lie further apart, no interval from two or three numbers can be right: in 50 % and
    25 % of cases all of them come from one mode and show nothing of the other. `bounded_interval` holds
    there too.

    Args:
      scores: (runs, tasks), or (runs,) for one task.
      level: of confidence, between 0 and 1.

    Raises:
      BadInput: no scores, a non-finite one among them, or a level that makes no sense.

    >>> mean_interval([7.0]) is None
    True
    >>> [round(x, 2) for x in mean_interval([9.0, 10.0, 11.0])]  # 10 -+ 6.205 / sqrt(3)
    [6.42, 13.58]
    """
    table = table_of(scores)
    check_level(level)
    return _around(float(mean(table)), _half_width(table, 0, level))


def iqm_interval(scores: Any, *, level: float = 0.95) -> Interval:
    """The interval of the interquartile mean: Tukey and McLaughlin's t interval of a trimmed mean.

    Its error is that of the scores with the outer quarters drawn in to the nearest kept one (winsorised;
    Tukey and McLaughlin 1963, "Less Vulnerable Confidence and Significance Procedures for Location Based on
    a Single Sample"), task by task as in `mean_interval` and with its halved tail; degrees of freedom are
    one less than a task's runs that are kept. Of few scores in two modes that is too narrow, since the
    middle half may lie in one of them; so the interval is never narrower than the mean's.

    Args:
      scores, level: as in `mean_interval`, whose interval it is with fewer than 4 scores.
    """
    table = table_of(scores)
    check_level(level)
    widths = [_half_width(table, trimmed, level) for trimmed in (table.size // 4, 0)]
    return _around(float(interquartile_mean(table)), max((w for w in widths if w is not None), default=None))


def bounded_interval(
    scores: Any, low: float, high: float, *, level: float = 0.95, draws: int = 20_000, seed: int = 0
) -> tuple[float, float]:
    """An interval of one task's mean that holds for scores of any distribution between two bounds.

    Gaffke's (2005; Learned-Miller and Thomas 2020, "A New Confidence Interval for the Mean of a Bounded
    Random Variable", arXiv 1905.06208): the upper end is the 1 - alpha/2 quantile of the mean of the runs
    and of one more at `high`, weighted at random (uniformly on the simplex); the lower end the same with
    `low`. For scores at the two bounds alone it is Clopper and Pearson's. No distribution is known for
    which it covers less than it says (proofs are of special cases). It is wide: three equal runs in the
    middle leave 0.14 to 0.86 of the range.

    Args:
      scores: (runs,).
      low, high: between which a score must lie.
      level: of confidence.
      draws, seed: of the weights.

    Raises:
      BadInput: as in `mean_interval`; more than one task, or scores beyond the bounds.
    """
    table = table_of(scores)
    check_level(level)
    if table.shape[1] != 1:
        raise BadInput(f"a bounded interval is of one task: (runs,), not {table.shape}")
    if not low < high or table.min() < low or table.max() > high:
        raise BadInput(
            f"scores from {table.min():g} to {table.max():g} do not lie between {low:g} and {high:g}"
        )
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(table) + 1), draws)
    ends = [
        np.quantile(weights @ np.append(table[:, 0], bound), q)
        for bound, q in ((low, (1 - level) / 2), (high, (1 + level) / 2))
    ]
    return max(float(ends[0]), low), min(float(ends[1]), high)


def stratified_bootstrap_interval(
    scores: Any,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over runs and tasks, as Agarwal et al. have it.

    Each resample draws, for every task by itself, as many runs as there are with replacement; the interval
    holds the middle `level` of the statistic's values (numpy's linear interpolation between them). Of few
    runs it is too narrow, see above: take it to compare with published intervals, or for some 20 runs and
    more.

    Args:
      scores: (runs, tasks), or (runs,) for one task. With one run the interval has no width, and no meaning.
      statistic: `mean`, `interquartile_mean`, or any `(..., runs, tasks) -> (...)`.
      level: of confidence, between 0 and 1.
      resamples: how many.
      seed: of the resampling.

    Raises:
      BadInput: no scores, a non-finite one among them, or a level or number of resamples that makes no sense.
    """
    table = table_of(scores)
    check_level(level)
    if not isinstance(resamples, int) or resamples < 1:
        raise BadInput(f"resamples must be an integer of at least 1, not {resamples!r}: 2000 is usual")
    runs, tasks = table.shape
    rows = np.random.default_rng(seed).integers(runs, size=(resamples, runs, tasks))
    values = statistic(np.take_along_axis(table[None], rows, axis=1))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Score:
    """One row of a table of results, over `n` runs."""

    mean: float
    iqm: float
    """Interquartile mean."""
    low: float | None
    high: float | None
    """The ends of `mean_interval`; None for one run, and where all runs are the same."""
    std: float | None
    """Sample standard deviation (n - 1) over the runs' means over tasks; None for one run."""
    n: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def summary(scores: Any, *, level: float = 0.95) -> Score:
    """Mean, interquartile mean, interval and standard deviation of scores.

    Args:
      scores: (runs, tasks), or (runs,) for one task: one number per training seed, not per episode;
        episodes of one seed are not independent runs.
      level: of the interval.

    >>> summary([10.0, 20.0, 30.0]).mean
    20.0
    """
    table = table_of(scores)
    runs = table.shape[0]
    low, high = mean_interval(table, level=level) or (None, None)
    std = float(table.mean(1).std(ddof=1)) if runs > 1 else None
    return Score(float(mean(table)), float(interquartile_mean(table)), low, high, std, runs)


def _half_width(table: np.ndarray, trimmed: int, level: float) -> float | None:
    """Of the t interval of a mean over runs and tasks without the `trimmed` outer scores at either end."""
    runs, kept = len(table), table.size - 2 * trimmed
    if runs < 2:
        return None
    pooled = np.sort(table, axis=None)
    ends = pooled[trimmed], pooled[-1 - trimmed]
    inside = ((table >= ends[0]) & (table <= ends[1])).sum(0)
    parts = runs * np.clip(table, *ends).var(0, ddof=1) / kept**2  # a task's part of the squared error
    error = float(np.sqrt(parts.sum()))
    if error <= 1e-12 * max(1.0, abs(pooled).max()):  # equal but for rounding
        return None
    df = parts.sum() ** 2 / (parts**2 / np.maximum(inside - 1, 1)).sum()
    return error * t_quantile((1 + level) / 2, float(df))


def _around(value: float, half: float | None) -> Interval:
    return None if half is None else (value - half, value + half)


# --- Comparing algorithms ----------------------------------------------------


def performance_profile(scores: Any, thresholds: Any) -> np.ndarray:
    """Share of runs and tasks that score above each threshold.

        F(tau) = 1/M sum_m 1/N sum_n 1[x_nm > tau]

    the score distribution of Agarwal et al. (2021), arXiv 2108.13264, section 4.2. Where one curve lies above
    another everywhere, its algorithm is better at any level of ambition, outliers or not.

    Args:
      scores: (..., runs, tasks).
      thresholds: (k,) tau.

    Returns:
      (..., k) between 0 and 1, falling in tau.

    >>> performance_profile([[10.0, 50.0], [30.0, 90.0]], [0, 30, 90]).tolist()
    [1.0, 0.5, 0.0]
    """
    array = np.asarray(scores, np.float64)
    pooled = array.reshape(*array.shape[:-2], -1)
    return np.stack([(pooled > tau).mean(-1) for tau in np.asarray(thresholds, np.float64)], -1)


def probability_of_improvement(a: Any, b: Any) -> np.ndarray:
    """Chance that a run of `a` scores higher than a run of `b` on a task drawn at random.

        P(X > Y) = 1/M sum_m 1/(N K) sum_i sum_j S(x_im, y_jm),   S = 1 if x > y, 1/2 if equal, 0 otherwise

    after Agarwal et al. (2021), arXiv 2108.13264, section 4.3: each task's Mann-Whitney statistic,
    averaged. It says how often one is better, not by how much.

    Args:
      a: (..., runs, tasks).
      b: (..., runs, tasks): as many tasks, in the same order; the number of runs may be another.

    >>> float(probability_of_improvement([[1.0], [3.0]], [[2.0], [3.0]]))
    0.375
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.shape[-1:] != y.shape[-1:] or min(x.ndim, y.ndim) < 2:
        raise BadInput(
            f"two tables of scores, (runs, tasks), need the same tasks: shapes {x.shape} and {y.shape}"
        )
    x, y = x[..., :, None, :], y[..., None, :, :]
    return ((x > y) + 0.5 * (x == y)).mean((-3, -2, -1))


def improvement_interval(a: Any, b: Any, *, level: float = 0.95) -> Interval:
    r"""The interval of `probability_of_improvement`: Newcombe's (2006) of the Mann-Whitney statistic, by t.

    All p with $|\hat p - p| \le t\sqrt{V(p) / M}$, where of N and K runs, with $L = (N + K)/2 - 1$,

    $$V(p) = \frac{p(1-p)}{N K}\Big(1 + L\,\frac{1-p}{2-p} + L\,\frac{p}{1+p}\Big)$$

    (Hanley and McNeil's variance at p rather than at its estimate, so that the interval has a width where all
    runs of one are above all of the other), and t has M (N + K - 2) degrees of freedom.

    Args:
      a, b: (runs, tasks), or (runs,) for one task.
      level: of confidence.

    Returns:
      The ends, between 0 and 1; None with one run of either.

    Raises:
      BadInput: as in `mean_interval`; and tables of different tasks.
    """
    x, y = table_of(a), table_of(b)
    check_level(level)
    found = float(probability_of_improvement(x, y))
    n, k, tasks = len(x), len(y), x.shape[1]
    if min(n, k) < 2:
        return None
    t = t_quantile(level, float(tasks * (n + k - 2)))
    p = np.linspace(0, 1, 10_001)
    pairs = 1 + ((n + k) / 2 - 1) * ((1 - p) / (2 - p) + p / (1 + p))
    inside = p[np.abs(found - p) <= t * np.sqrt(p * (1 - p) * pairs / (n * k * tasks)) + 5e-5]
    return float(inside[0]), float(inside[-1])


# --- What they share ---------------------------------------------------------


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise BadInput(f"level must lie between 0 and 1, not {level}: 0.95 is usual")


def table_of(scores: Any) -> np.ndarray:
    """(runs, tasks) float64, all finite."""
    try:
        table = np.asarray(scores, np.float64)
    except (TypeError, ValueError):
        raise BadInput("scores must be a table of numbers, (runs,) or (runs, tasks)") from None
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0:
        raise BadInput(f"scores must be (runs,) or (runs, tasks) and not empty, not of shape {table.shape}")
    if not np.isfinite(table).all():
        run, column = (int(x) for x in np.argwhere(~np.isfinite(table))[0])
        raise BadInput(
            f"score of run {run} on task {column} is {table[run, column]}: leave failed runs out, and say so"
        )
    return table
