"""Statistics of evaluation scores, in plain numpy.

A table of scores is (runs, tasks): one number per training seed and task. The interquartile mean over all
runs and tasks together, with a bootstrap that resamples the runs within each task, is what Agarwal et al.
(2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv 2108.13264, recommend
where runs are few.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from leashrl.errors import BadInput

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


def stratified_bootstrap_interval(
    scores: Any,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic over runs and tasks.

    Each resample draws, for every task by itself, as many runs as there are with replacement; the interval
    holds the middle `level` of the statistic's values (numpy's linear interpolation between them).

    Args:
      scores: (runs, tasks), or (runs,) for one task. With one run the interval has no width.
      statistic: `mean`, `interquartile_mean`, or any `(..., runs, tasks) -> (...)`.
      level: of confidence, between 0 and 1.
      resamples: how many.
      seed: of the resampling.

    Raises:
      BadInput: no scores, a non-finite one among them, or a level or number of resamples that makes no sense.
    """
    table = _table(scores)
    _check(level, resamples)
    return _interval(statistic(_resample(table, resamples, np.random.default_rng(seed))), level)


def summary(scores: Any, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """One row of a table of results: mean, iqm, low and high (of the mean's interval), std and n.

    Args:
      scores: (runs, tasks), or (runs,) for one task: one number per training seed, not per episode;
        episodes of one seed are not independent runs.

    `std` is the sample standard deviation (n - 1) over the runs' means over tasks; 0 with one run. `n` is
    the number of runs.

    >>> summary([10.0, 20.0, 30.0])["mean"]
    20.0
    """
    table = _table(scores)
    runs = table.shape[0]
    low, high = stratified_bootstrap_interval(table, mean, level=level, resamples=resamples, seed=seed)
    return {
        "mean": float(mean(table)),
        "iqm": float(interquartile_mean(table)),
        "low": low,
        "high": high,
        "std": float(table.mean(1).std(ddof=1)) if runs > 1 else 0.0,
        "n": runs,
    }


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


def improvement_interval(
    a: Any, b: Any, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of `probability_of_improvement`.

    Each resample draws the runs of `a` and those of `b` anew, for every task by itself.

    Args:
      a, b: (runs, tasks), or (runs,) for one task.
      level, resamples, seed: as in `stratified_bootstrap_interval`.

    Raises:
      BadInput: as there; and tables of different tasks.
    """
    x, y = _table(a), _table(b)
    _check(level, resamples)
    random = np.random.default_rng(seed)
    values = probability_of_improvement(_resample(x, resamples, random), _resample(y, resamples, random))
    return _interval(values, level)


# --- What they share ---------------------------------------------------------


def _resample(table: np.ndarray, resamples: int, random: np.random.Generator) -> np.ndarray:
    """(resamples, runs, tasks): for every task by itself, as many runs as there are, with replacement."""
    runs, tasks = table.shape
    rows = random.integers(runs, size=(resamples, runs, tasks))
    return np.take_along_axis(table[None], rows, axis=1)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise BadInput(f"level must lie between 0 and 1, not {level}: 0.95 is usual")
    if not isinstance(resamples, int) or resamples < 1:
        raise BadInput(f"resamples must be an integer of at least 1, not {resamples!r}: 2000 is usual")


def _table(scores: Any) -> np.ndarray:
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
