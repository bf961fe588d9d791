r"""Does a policy stay where the data are? Weights of the logged rows, without a model and without roll-outs.

The discounted occupancy of a policy $\pi$ is the one density d over pairs of state and action with

$$E_d\,f(s,a) = (1-\gamma)\,E_{s_0} f(s_0,\pi(s_0)) + \gamma\,E_d\,f(s',\pi(s'))\quad\text{for all } f$$

If the data cover it, it is a weighting w of their rows. Here f are random Fourier features of a Gaussian
kernel (minimax weight learning, Uehara, Huang and Jiang 2020, arXiv 1910.12809), the weights are positive and
as even as they can be (the regularised Lagrangian of Yang et al. 2020, arXiv 2007.03438), and a convex
problem of some hundred unknowns finds them:

$$\min_{w\ge 0}\ \frac1{2n}\sum_i w_i^2 + \frac1{2\lambda}\,\Big|\frac1n\sum_i w_i x_i - b\Big|^2,\qquad
  x_i = \phi(s_i,a_i) - \gamma\,\phi(s'_i,\pi(s'_i)),\quad b = (1-\gamma)\,E\,\phi(s_0,\pi(s_0))$$

Two numbers are read off. Where the policy walks out of the data, what flows out of their rows flows into none
of them, whatever the weights: the part of b that stays unmatched. And how uneven the weights are: Kish's
effective sample size, as a share of the rows. Needs numpy alone.
"""

from typing import NamedTuple

import numpy as np

FEATURES = 256
PRICE = 400.0
"""lambda = (1 - gamma)^2 / PRICE: a match by an effective sample of fewer than 1/400 of the rows is none."""
ACTION = 20.0
"""Standard deviations of an action that count as one of a state. The weights then match what a policy does
near a state on average, which is what moves it on, and not each action: else no deterministic policy matches
rows of many random actions. Whether its actions were logged, `fqe.strangeness` asks."""
FAR = 10.0
"""Standard deviations beyond which a state is as far away as it gets."""


class Occupancy(NamedTuple):
    outside: float
    """From 0 to 1: the share of the policy's discounted visits that no weights of the rows reproduce."""
    ess: float
    """From 0 to 1: the effective sample size of the best weights, as a share of the rows."""


class Rows(NamedTuple):
    """Logged transitions that end in a known state or terminal, and first states."""

    obs: np.ndarray  # (n, obs_dim)
    action: np.ndarray  # (n, action_dim) in [-1, 1], or (n,) integers
    next_obs: np.ndarray  # (n, obs_dim)
    terminal: np.ndarray  # (n,) bool
    start: np.ndarray  # (m, obs_dim)


def occupancies(
    rows: Rows, next_action: np.ndarray, start_action: np.ndarray, gamma: float, seed: int = 0
) -> list[Occupancy]:
    """How well the rows cover each policy's discounted occupancy; the same features for all.

    Args:
      next_action: (policies, n, ...), pi(s').
      start_action: (policies, m, ...), pi(s_0).
      gamma: discount, below 1.
      seed: of the features.
    """
    action, next_action, start_action = comparable(rows.action, next_action, start_action)
    scale = ACTION * (action.std(0) + 1e-3)
    mean, std = rows.obs.mean(0, np.float64), rows.obs.std(0, dtype=np.float64) + 1e-3

    def pairs(obs: np.ndarray, action: np.ndarray) -> np.ndarray:
        return np.concatenate([np.clip((obs - mean) / std, -FAR, FAR), action / scale], axis=1)

    seen = pairs(rows.obs, action)
    frequencies = fourier(seen, np.random.default_rng(seed))
    here, alive = features(seen, frequencies), gamma * ~rows.terminal[:, None]
    found = []
    for behind, first in zip(next_action, start_action, strict=True):
        flow = here - alive * features(pairs(rows.next_obs, behind), frequencies)
        source = (1 - gamma) * features(pairs(rows.start, first), frequencies).mean(0)
        weights = match(flow, source, (1 - gamma) ** 2 / PRICE)
        left = np.linalg.norm(source - weights @ flow / len(flow)) / np.linalg.norm(source)
        found.append(Occupancy(float(min(left, 1.0)), effective(weights)))
    return found


def comparable(*actions: np.ndarray) -> list[np.ndarray]:
    """Actions in whose space a distance means something: integers become indicators."""
    if not np.issubdtype(actions[0].dtype, np.integer):
        return list(actions)
    names = np.unique(np.concatenate([x.ravel() for x in actions]))
    return [(x[..., None] == names).astype(np.float64) for x in actions]


def fourier(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(dim, FEATURES / 2) frequencies of a Gaussian kernel as wide as the rows are mostly apart."""
    one, other = rng.integers(len(x), size=(2, 2000))
    width = np.median(np.linalg.norm(x[one] - x[other], axis=1)) or 1.0
    return rng.normal(size=(x.shape[1], FEATURES // 2)) / width


def features(x: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """(n, FEATURES), whose products are about exp(-|x - y|^2 / (2 width^2)) (Rahimi and Recht 2007).

    >>> one = features(np.zeros((1, 2)), np.ones((2, 8)))
    >>> float((one @ one.T).round(6)[0, 0])  # of a pair with itself: 1
    1.0
    """
    angle = x @ frequencies
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1) / np.sqrt(frequencies.shape[1])


def match(flow: np.ndarray, source: np.ndarray, penalty: float, most: int = 100) -> np.ndarray:
    """(n,) the weights w >= 0 that minimise |w|^2 / (2 n) + |flow' w / n - source|^2 / (2 penalty).

    By Newton's method on the dual, which is concave and smooth: with w = max(0, flow @ u), maximise
    source . u - |w|^2 / (2 n) - penalty |u|^2 / 2.

    >>> match(np.array([[1.0], [-1.0]]), np.array([1.0]), 0.5).tolist()  # w_1 / 2 = 1 - 0.5 u, w_1 = u
    [1.0, 0.0]
    """
    n = len(flow)
    ridge = penalty * np.eye(flow.shape[1])

    def dual(u: np.ndarray) -> tuple[float, np.ndarray]:
        w = np.maximum(flow @ u, 0)
        return float(source @ u - w @ w / (2 * n) - penalty * u @ u / 2), w

    u = np.linalg.solve(flow.T @ flow / n + ridge, source)  # what it is without the sign
    value, weights = dual(u)
    for _ in range(most):
        gradient = source - weights @ flow / n - penalty * u
        if np.linalg.norm(gradient) <= 1e-5 * np.linalg.norm(source):
            break
        active = flow[weights > 0]
        step = np.linalg.solve(active.T @ active / n + ridge, gradient)
        length = 1.0
        tried, reached = dual(u + step)
        while tried < value + 1e-4 * length * (gradient @ step) and length > 1e-6:
            length /= 2
            tried, reached = dual(u + length * step)
        u, value, weights = u + length * step, tried, reached
    return weights


def effective(weights: np.ndarray) -> float:
    """Kish's effective sample size over the number of rows.

    >>> effective(np.array([1.0, 1.0, 0.0, 0.0])), effective(np.zeros(3))
    (0.5, 0.0)
    """
    squares = float(weights @ weights)
    return float(weights.sum()) ** 2 / (len(weights) * squares) if squares > 0 else 0.0
