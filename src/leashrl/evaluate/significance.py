"""Tests of whether one algorithm is better than another, in plain numpy.

Tables of scores are (runs, tasks), as in `statistics`. Two tests, each of unpaired and of matched runs:

- Student's t, which takes scores as normal: with Welch's (1947) degrees of freedom, the error summed over
  tasks. Of two equal algorithms with three runs or more it finds a difference (p < 0.05) in 5 % of cases or
  fewer, also where scores lie in two modes (`benchmarks/coverage.py`); with two runs it may in 13 %.
- Permutations of labels (Fisher 1935) or signs, which take nothing for granted but that equal algorithms give
  equal distributions. Few runs have few permutations: with 3 against 3 no p-value is below 0.1.

Many comparisons at once are corrected after Holm (1979), "A Simple Sequentially Rejective Multiple Test
Procedure".
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leashrl.errors import BadInput
from leashrl.evaluate.statistics import Interval, check_level, table_of
from leashrl.evaluate.student import t_quantile, t_tail

ALPHA = 0.05
LEAST_RUNS = 3
"""With fewer runs of either a difference is not decided: see above."""
EXACT, DRAWS = 50_000, 20_000
"""Up to so many permutations are all tried; of more, so many are drawn."""


@dataclass(frozen=True)
class Comparison:
    """How far apart two algorithms are, and whether that is chance."""

    difference: float
    """mean(a) - mean(b)."""
    low: float | None
    high: float | None
    """95 % interval of the difference; None where there is no deviation to estimate it from."""
    p: float | None
    """Of `t_test`."""
    p_permutation: float
    """Of `permutation_test`, which cannot be below `least_p`."""
    least_p: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class PairComparison(Comparison):
    """One pair of several that are compared at once; `a` has the higher mean."""

    a: str
    b: str
    p_holm: float | None
    """`p` corrected for the number of pairs."""
    decided: bool
    """Whether `p_holm` is below 5 %, with three runs or more of both."""


def difference_interval(a: Any, b: Any, *, paired: bool = False, level: float = 0.95) -> Interval:
    """The interval of mean(a) - mean(b), with the halved tail of `statistics.mean_interval`.

    Args:
      a, b: (runs, tasks), or (runs,) for one task.
      paired: run i of `a` belongs to run i of `b` (the same seed and data split, say). It helps only where
        the two vary together; the seed of a network alone hardly makes them.
      level: of confidence.

    Returns:
      The ends; None with one run of either, or where nothing varies.

    Raises:
      BadInput: tables of different tasks, or matched ones of different runs, or as in `mean_interval`.
    """
    check_level(level)
    value, error, df = _difference(*_tables(a, b, paired), paired)
    if not error:
        return None
    half = error * t_quantile((1 + level) / 2, df)
    return value - half, value + half


def t_test(a: Any, b: Any, *, paired: bool = False) -> float | None:
    """Two-sided p-value of equal means: Welch's t, or Student's of the differences of matched runs.

    Args:
      a, b, paired: as in `difference_interval`.

    Returns:
      p; None with one run of either, or where nothing varies.

    >>> round(t_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), 4)  # t = 3.674, 4 degrees of freedom
    0.0213
    >>> t_test([1.0], [4.0]) is None
    True
    """
    value, error, df = _difference(*_tables(a, b, paired), paired)
    return t_tail(value / error, df) if error else None


def permutation_test(a: Any, b: Any, *, paired: bool = False, seed: int = 0) -> float:
    """Two-sided p-value of equal distributions, by the difference of means over all permutations.

    Labels are permuted among the runs of each task by itself; of matched runs, the sign of each difference
    is. Up to 50,000 permutations are all tried, and p is exact; of more, 20,000 are drawn, and p counts the
    one at hand as one of them (Phipson and Smyth 2010).

    Args:
      a, b, paired: as in `difference_interval`.
      seed: of the draws.

    >>> permutation_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])  # 2 of 20
    0.1
    >>> permutation_test([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], paired=True)  # 2 of 8
    0.25
    """
    x, y = _tables(a, b, paired)
    seen = abs(float(x.mean() - y.mean()))
    near = 1e-9 * max(1.0, np.abs(x).max(), np.abs(y).max())  # sums in another order round otherwise
    if _arrangements(len(x), len(y), paired) ** x.shape[1] <= EXACT:
        means = [_every(x[:, m], y[:, m], paired) for m in range(x.shape[1])]
        sums = means[0]
        for more in means[1:]:
            sums = np.add.outer(sums, more).ravel()
        return float((np.abs(sums / len(means)) >= seen - near).mean())
    drawn = np.abs(_drawn(x, y, paired, np.random.default_rng(seed)))
    return float(1 + (drawn >= seen - near).sum()) / (1 + DRAWS)


def least_p(runs: int, others: int, *, tasks: int = 1, paired: bool = False) -> float:
    """The smallest p-value that `permutation_test` can have.

    >>> least_p(3, 3), least_p(5, 5, paired=True)
    (0.1, 0.0625)
    """
    mirrored = 2 if paired or runs == others else 1
    return min(1.0, mirrored / _arrangements(runs, others, paired) ** tasks)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected so that a false finding among all of them has the chance that each had alone.

    None, a test that could not be made, stays None and does not count.

    >>> holm([0.01, None, 0.04, 0.03])  # 3 x 0.01, 2 x 0.03, and not below what came before
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    before = 0.0
    for rank, (p, i) in enumerate(order):
        before = max(before, min(1.0, (len(order) - rank) * p))
        found[i] = before
    return found


def compare(a: Any, b: Any, *, paired: bool = False) -> Comparison:
    """Both tests and the interval of one comparison.

    Args:
      a, b, paired: as in `difference_interval`.
    """
    x, y = _tables(a, b, paired)
    low, high = difference_interval(x, y, paired=paired) or (None, None)
    return Comparison(
        difference=float(x.mean() - y.mean()),
        low=low,
        high=high,
        p=t_test(x, y, paired=paired),
        p_permutation=permutation_test(x, y, paired=paired),
        least_p=least_p(len(x), len(y), tasks=x.shape[1], paired=paired),
    )


def compare_all(scores: Mapping[str, Any]) -> list[PairComparison]:
    """Every pair of some algorithms, unpaired, corrected for their number.

    Args:
      scores: name -> (runs, tasks), or (runs,) for one task; the same tasks for all.

    Returns:
      One per pair, in the order of the means. The correction counts all pairs, since which of them are looked
      at is decided by the data.
    """
    tables = {name: table_of(values) for name, values in scores.items()}
    ranked = sorted(tables, key=lambda name: -tables[name].mean())
    pairs = list(itertools.combinations(ranked, 2))
    found = [compare(tables[a], tables[b]) for a, b in pairs]
    corrected = holm([row.p for row in found])

    def decided(a: str, b: str, p: float | None) -> bool:
        return min(len(tables[a]), len(tables[b])) >= LEAST_RUNS and p is not None and p < ALPHA

    return [
        PairComparison(**row.to_json(), a=a, b=b, p_holm=p, decided=decided(a, b, p))
        for (a, b), row, p in zip(pairs, found, corrected, strict=True)
    ]


# --- What they share ---------------------------------------------------------


def _tables(a: Any, b: Any, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = table_of(a), table_of(b)
    if x.shape[1] != y.shape[1]:
        raise BadInput(f"two tables of scores need the same tasks: shapes {x.shape} and {y.shape}")
    if paired and len(x) != len(y):
        raise BadInput(f"matched runs come in pairs, not {len(x)} and {len(y)}: set paired=False")
    return x, y


def _difference(x: np.ndarray, y: np.ndarray, paired: bool) -> tuple[float, float, float]:
    """The difference of means, its standard error (0 where there is none) and Satterthwaite's df."""
    groups, tasks = ([x - y] if paired else [x, y]), x.shape[1]
    value = float(x.mean() - y.mean())
    if min(map(len, groups)) < 2:
        return value, 0.0, 1.0
    parts = np.stack([g.var(0, ddof=1) / len(g) / tasks**2 for g in groups])
    error = float(np.sqrt(parts.sum()))
    if error <= 1e-12 * max(1.0, *(np.abs(g).max() for g in (x, y))):  # equal but for rounding
        return value, 0.0, 1.0
    free = np.array([[len(g) - 1] for g in groups])
    return value, error, float(parts.sum() ** 2 / (parts**2 / free).sum())


def _arrangements(runs: int, others: int, paired: bool) -> int:
    return 2**runs if paired else math.comb(runs + others, runs)


def _every(x: np.ndarray, y: np.ndarray, paired: bool) -> np.ndarray:
    """The difference of means in every permutation of one task."""
    if paired:
        signs = np.array(list(itertools.product((1, -1), repeat=len(x))))
        return signs @ (x - y) / len(x)
    pooled, n = np.concatenate([x, y]), len(x)
    mine = np.array(list(itertools.combinations(range(len(pooled)), n)))
    sums = pooled[mine].sum(1)
    return sums / n - (pooled.sum() - sums) / len(y)


def _drawn(x: np.ndarray, y: np.ndarray, paired: bool, rng: np.random.Generator) -> np.ndarray:
    """The difference of means over tasks in `DRAWS` permutations."""
    total = np.zeros(DRAWS)
    for a, b in zip(x.T, y.T, strict=True):
        if paired:
            total += rng.choice((-1.0, 1.0), (DRAWS, len(a))) @ (a - b) / len(a)
            continue
        mixed = rng.permuted(np.tile(np.concatenate([a, b]), (DRAWS, 1)), axis=1)
        total += mixed[:, : len(a)].mean(1) - mixed[:, len(a) :].mean(1)
    return total / x.shape[1]
