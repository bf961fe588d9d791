"""Tails and quantiles of Student's t and of the binomial, in plain Python: reports need no more."""

import functools
import math

STEPS = 60
"""Of a bisection: each halves the error, so that these reach double precision."""


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22).

    >>> round(incomplete_beta(2.0, 3.0, 0.5), 10)  # P(at least 2 of 4 tosses are heads) = 11 / 16
    0.6875
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly; the mirrored one is quick
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = value
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if abs(value - before) <= 1e-15 * abs(value):
            break
    return math.exp(log_front) * value / a


def t_tail(t: float, df: float) -> float:
    """P(|T| > |t|) for Student's t with `df` degrees of freedom: the two-sided p-value.

    >>> t_tail(1.0, 1.0)  # Cauchy's quartile
    0.5
    """
    return incomplete_beta(df / 2, 0.5, df / (df + t * t))


@functools.lru_cache(maxsize=4096)
def t_quantile(level: float, df: float) -> float:
    """The t that |T| stays below with probability `level`.

    >>> round(t_quantile(0.95, 1.0), 4), round(t_quantile(0.95, 2.0), 4)
    (12.7062, 4.3027)
    """
    log_density = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    t = 0.0
    for _ in range(200):  # the tail is convex, so that Newton's steps from 0 never go too far
        density = math.exp(log_density - (df + 1) / 2 * math.log1p(t * t / df))
        step = (t_tail(t, df) - (1 - level)) / (2 * density)
        t += step
        if abs(step) <= 1e-12 * t:
            break
    return t


def share_interval(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a probability that came true in `hits` of `n` draws; never too
    narrow.

    >>> low, high = share_interval(3, 3)
    >>> round(low, 4), high  # 0.025 ** (1 / 3)
    (0.2924, 1.0)
    """
    tail = (1 - level) / 2
    return (
        _beta_quantile(tail, hits, n - hits + 1) if hits else 0.0,
        _beta_quantile(1 - tail, hits + 1, n - hits) if hits < n else 1.0,
    )


@functools.lru_cache(maxsize=4096)
def _beta_quantile(q: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if incomplete_beta(a, b, middle) < q else (low, middle)
    return (low + high) / 2
