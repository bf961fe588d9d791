r"""Importance sampling: what a policy is worth, from episodes that another policy made.

With $\rho_t = \pi(a_t|s_t) / b(a_t|s_t)$, $b$ the policy that made the log, and
$w_t = \rho_0 \cdots \rho_t$, in which $w$ of an episode that has ended stays as it is:

| method | estimate |
| --- | --- |
| `is` | $\frac1n\sum_i w_T \sum_t \gamma^t r_t$ |
| `wis` | $\sum_i w_T G_i / \sum_i w_T$, with the return $G$ |
| `pdis` | $\frac1n\sum_i \sum_t \gamma^t w_t r_t$ |
| `wpdis` | $\sum_t \gamma^t \sum_i w_t r_t / \sum_i w_t$ |
| `dr` | $\frac1n\sum_i [\hat V(s_0) + \sum_t \gamma^t w_t \delta_t]$ |
| `wdr` | $\frac1n\sum_i \hat V(s_0) + \sum_t \gamma^t \sum_i w_t \delta_t / \sum_i w_t$ |
| `switch-dr` | `dr`, its terms with $w_t$ above a limit left out |

where $\delta_t = r_t + \gamma\hat V(s_{t+1}) - \hat Q(s_t, a_t)$, and $\hat V = 0$ behind an episode's
last row.
`is`, `pdis` and `dr` are unbiased if $b$ is known; the self-normalised ones (`wis`, `wpdis`, `wdr`) are
consistent, and vary less. Of episodes of one step, which contextual bandits are, `is` is called IPS and `wis`
SNIPS. Numpy, in float64.

Sources: Precup, Sutton and Singh 2000 (the first three); Thomas 2015 (`wpdis`); Jiang and Li 2016, arXiv
1511.03722 (`dr`); Thomas and Brunskill 2016, arXiv 1604.00923 (`wdr`); Wang et al. 2017, arXiv 1612.01205.
"""

import math
from typing import NamedTuple

import numpy as np

from leashrl.evaluate.student import t_quantile

METHODS = ("is", "wis", "pdis", "wpdis", "dr", "wdr", "switch-dr")
MODELLED = ("dr", "wdr", "switch-dr")
"""Those that need a model's Q and V."""


class Episodes(NamedTuple):
    """Logged episodes side by side, (n, T) each; behind an episode's end ratios are 1 and all else is 0."""

    there: np.ndarray  # bool: the step was taken
    ratio: np.ndarray  # pi(a|s) / b(a|s)
    reward: np.ndarray
    q: np.ndarray | None = None  # the model's Q(s_t, a_t)
    v: np.ndarray | None = None  # the model's V(s_t)


class Estimate(NamedTuple):
    """A value, and what it rests on."""

    value: float
    influence: np.ndarray
    """(n,) of each episode on the value, of mean 0."""
    ess: float
    """Effective number of episodes; of methods with a weight per step, on average over the steps."""
    followed: int
    """Steps, of the longest episode's, up to which some episode has a weight."""
    clipped: float
    """Share of the weights (n, T) that were cut off."""
    bias: float | None
    """A bound of what cutting them off can have changed on average; None where there is none."""

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Of the value, by Student's t with Hall's correction for skewness (`skewed_interval`)."""
        low, high = skewed_interval(self.influence, level)
        return self.value + low, self.value + high


def cumulative(ratio: np.ndarray) -> np.ndarray:
    """(n, T) products of the ratios up to each step.

    >>> cumulative(np.array([[2.0, 0.5, 3.0]])).tolist()
    [[2.0, 1.0, 3.0]]
    """
    return np.cumprod(ratio, axis=1)


def estimate(
    method: str, episodes: Episodes, gamma: float, *, clip: float = math.inf, limit: float = math.inf
) -> Estimate:
    """One of `METHODS`.

    Args:
      clip: weights w_t above it are lowered to it: less variance, and a bias towards 0 (towards the model in
        `dr` and `wdr`).
      limit: `switch-dr`'s.
    """
    weight, there = cumulative(episodes.ratio), episodes.there
    cut = np.minimum(weight, clip)
    clipped = float(np.mean(weight > clip))
    if method == "switch-dr":
        cut, clipped = np.where(weight > limit, 0.0, cut), float(np.mean(weight > limit))
    discount = gamma ** np.arange(weight.shape[1])
    paid, start = episodes.reward, np.zeros(len(weight))
    if method in MODELLED:
        assert episodes.q is not None and episodes.v is not None
        paid = episodes.reward + gamma * np.pad(episodes.v[:, 1:], ((0, 0), (0, 1))) - episodes.q
        start = episodes.v[:, 0]
    if method in ("is", "wis"):  # as episodes of one step, which pays the whole return
        paid, cut, discount = (paid @ discount)[:, None], cut[:, -1:], np.ones(1)
        there = there[:, :1]
    ess = effective(cut, there, discount)
    followed = int(np.sum((weight * episodes.there).any(0)))
    if method in ("wis", "wpdis", "wdr"):
        value, influence = normalised(paid, cut, discount)
        value, influence = value + float(start.mean()), influence + start - start.mean()
        return Estimate(value, influence, ess, followed, clipped, None if clipped else 0.0)
    terms = start + (cut * paid) @ discount
    # all weights average 1: what the cut ones lack, times the most that is paid there
    lost = np.maximum(0.0, 1 - cut.mean(0)) * np.abs(paid).max(0)
    value = float(terms.mean())
    bias = float(lost @ discount) if clipped else 0.0
    return Estimate(value, terms - value, ess, followed, clipped, bias)


def effective(weight: np.ndarray, there: np.ndarray, discount: np.ndarray) -> float:
    """How many episodes with even weights say as much.

    Of the n_t episodes that last until step t that is (sum w)^2 / sum w^2, a share of n_t: the mean share,
    each step counting by its discount and n_t, times the number of episodes.

    >>> effective(np.array([[1.0], [1.0], [0.0], [0.0]]), np.ones((4, 1), bool), np.ones(1))
    2.0
    """
    weight, n = np.where(there, weight, 0.0), there.sum(0)
    square = (weight**2).sum(0)
    share = np.divide(weight.sum(0) ** 2, square * n, out=np.zeros(len(n)), where=square * n > 0)
    return float(len(weight) * np.average(share, weights=discount * n))


def normalised(paid: np.ndarray, weight: np.ndarray, discount: np.ndarray) -> tuple[float, np.ndarray]:
    """sum_t discount_t sum_i w_it paid_it / sum_i w_it, and each i's influence by the delta method."""
    total = weight.mean(0)
    safe = np.where(total > 0, total, 1.0)  # no weight at a step: the step pays nothing
    mean = (weight * paid).mean(0) / safe
    return float(mean @ discount), (weight * (paid - mean) / safe) @ discount


def skewed_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The interval of the mean of skewed values, less that mean, by Hall's cubic transformation (1992).

    With skewness g of n values, the studentised mean T has a distribution nearer to Student's once it is
    T + g T^2 / (3 sqrt n) + g^2 T^3 / (27 n) + g / (6 sqrt n); it is inverted in closed form. Importance
    weights have a long tail to the right, and the plain interval is then too low and too short.

    >>> low, high = skewed_interval(np.array([-1.0, 1.0]))  # no skewness: Student's t of one degree
    >>> round(low, 3), round(high, 3)
    (-12.706, 12.706)
    """
    n = len(values)
    if n < 2 or not np.ptp(values):
        return (-math.inf, math.inf) if n < 2 else (0.0, 0.0)
    error = float(values.std(ddof=1)) / math.sqrt(n)
    deviations = values - values.mean()
    skew = float(np.mean(deviations**3)) / float(np.mean(deviations**2)) ** 1.5
    t, root = t_quantile(level, n - 1), math.sqrt(n)
    ends = sorted(-error * untransformed(sign * t, skew / root) for sign in (-1, 1))
    return ends[0], ends[1]


def untransformed(x: float, a: float) -> float:
    """T with T + a T^2 / 3 + a^2 T^3 / 27 + a / 6 = x.

    >>> t = untransformed(2.0, 0.5)
    >>> round(t + 0.5 * t**2 / 3 + 0.25 * t**3 / 27 + 0.5 / 6, 12)
    2.0
    """
    if abs(a) < 1e-8:
        return x
    return 3 * (math.cbrt(1 + a * (x - a / 6)) - 1) / a
