"""How far estimated values can be trusted: intervals, actions off the data, flags, and a known value."""

from collections.abc import Mapping
from typing import Any

import numpy as np

# --- Intervals ----------------------------------------------------------------

INTERVALS = ("mean", "low", "high", "rank_low", "rank_high")


def intervals(
    values: np.ndarray, trained_on: int, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> dict[str, np.ndarray]:
    """What other episodes, trained on and held out, would have said: intervals of values and of ranks.

    A seed's fit to resampled episodes is as far from a fit to all of them as that one is from a fit to
    endless data. With s the standard deviation between the seeds, the error of their mean is
    s sqrt(1 + 1 / seeds) t, Student's t of seeds - 1 degrees; s is widened by sqrt(n / (n - 1)), as n
    resampled episodes vary too little. The held-out first states add the standard error of their mean. Errors
    are drawn for all policies at once, since these share episodes, and ranked. What all seeds get wrong alike
    is not in them.

    Args:
      values: (policies, seeds, held-out episodes), finite: Q(s_0, pi(s_0)).
      trained_on: how many episodes the seeds resampled.

    Returns:
      `mean` of each policy's value, (policies,), its `low` and `high`, and `rank_low` and `rank_high` of its
      rank from 1, the best. Without two seeds and two episodes on each side: NaN, and all ranks.

    >>> found = intervals(np.array([[[1.0, 1.0], [3.0, 3.0]]]), trained_on=10**6)
    >>> round(float(found["high"][0] - 2) / (2**0.5 * 1.5**0.5 * 12.71), 1)  # s = sqrt(2); t of 1 degree
    1.0
    """
    policies, seeds, episodes = values.shape
    mean = values.mean((1, 2))
    if min(seeds, episodes, trained_on) < 2:
        unknown, one = np.full(policies, np.nan), np.ones(policies, int)
        found = (mean, unknown, unknown, one, policies * one)
        return dict(zip(INTERVALS, found, strict=True))
    rng = np.random.default_rng(seed)
    fits, starts = values.mean(2) - mean[:, None], values.mean(1) - mean[:, None]
    widened = np.sqrt((1 + 1 / seeds) * trained_on / (trained_on - 1))
    errors = fits @ student(rng, seeds, draws) * widened + starts @ student(rng, episodes, draws) / np.sqrt(
        episodes
    )
    drawn = mean[:, None] + errors  # (policies, draws)
    ranks = 1 + (drawn[None] > drawn[:, None]).sum(1)  # how many others are better
    edges = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn, edges, axis=1)
    rank_low, rank_high = np.quantile(ranks, edges, axis=1, method="nearest").astype(int)
    return dict(zip(INTERVALS, (mean, low, high, rank_low, rank_high), strict=True))


def student(rng: np.random.Generator, n: int, draws: int) -> np.ndarray:
    """(n, draws): what turns n deviations from their mean into draws of s t, t Student's of n - 1 degrees."""
    return rng.normal(size=(n, draws)) / np.sqrt(rng.chisquare(n - 1, draws))


# --- Actions off the data -----------------------------------------------------


def strangeness(
    obs: np.ndarray, actions: np.ndarray, logged: np.ndarray, seen_obs: np.ndarray, seen_action: np.ndarray
) -> np.ndarray:
    """(policies,) share of a policy's actions that no data lie near; 0.05 is as near as held-out ones lie.

    (s, pi(s)) is far from the data if the nearest of the seen pairs is farther away than for 95 % of the
    held-out logged pairs (s, a), all in units of the seen pairs' standard deviations. A discrete action that
    is another one is as far away as the seen ones mostly are from each other.

    Args:
      obs: (n, obs_dim) held-out states, with their `logged` actions (n, ...).
      actions: (policies, n, ...) of the policies there, as `logged` in [-1, 1], or integers.
      seen_obs, seen_action: (m, obs_dim), (m, ...) of pairs that are trained on.

    >>> seen = np.linspace(-1, 1, 50)[:, None]
    >>> obs, logged = seen[:-1] + 0.01, seen[:-1] + 0.01
    >>> strangeness(obs, np.stack([logged, -logged]), logged, seen, seen).round(1).tolist()
    [0.0, 1.0]
    """
    if logged.ndim == 1:
        names = np.unique(np.concatenate([seen_action, logged, actions.ravel()]))
        seen_action, logged, actions = (
            (x[..., None] == names).astype(np.float32) for x in (seen_action, logged, actions)
        )
    sizes = seen_obs.std(0) + 1e-6, seen_action.std(0) + 1e-6
    seen_obs, seen_action = seen_obs / sizes[0], seen_action / sizes[1]
    states = _squares(obs / sizes[0], seen_obs)
    nearest = [(states + _squares(a / sizes[1], seen_action)).min(1) for a in (logged, *actions)]
    return np.mean(np.stack(nearest[1:]) > np.quantile(nearest[0], 0.95), axis=1)


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) squared distances between the rows of x and y."""
    return (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)


# --- Flags --------------------------------------------------------------------

FAR = ("extrapolates", "off the data", "leaves the data")
"""How the flags begin that make a value a guess."""
OUTSIDE = 0.125
"""A policy is flagged where more of its visits than that are not covered by the data."""
FEW = 0.005
"""And one whose occupancy weighs the rows as unevenly as if only this share of them were left."""


def flags(row: Mapping[str, Any], limits: tuple[float, float], scale: float) -> list[str]:
    """What speaks against one estimate, a few words each. Their absence proves nothing.

    Args:
      row: `value`, `drift`, `error`, `train_error`, `beyond`, `strange`, `outside` and `ess` of a policy.
      limits: as from `bounds`.
      scale: the spread of the logged values.
    """
    found = []
    if not limits[0] <= row["value"] <= limits[1]:
        found.append("extrapolates: no rewards of the data add up to this value")
    elif row["beyond"] > 0.01:
        found.append(f"extrapolates: {row['beyond']:.0%} of its Q beyond what the data's rewards allow")
    if abs(row["drift"]) > 0.1 * scale:
        found.append(f"still moving: {row['drift']:+.3g} in the last fifth")
    if row["error"] > 2 * row["train_error"]:
        found.append("over-fitted: its error is twice as large on held-out rows")
    if row["outside"] > OUTSIDE:
        found.append(
            f"leaves the data: no logged rows are like {row['outside']:.0%} of what it would meet; "
            "its value is a guess"
        )
    elif row["ess"] < FEW:
        found.append(f"rests on few rows: as good as {row['ess']:.1%} of them")
    if row["strange"] > 0.5:
        found.append(f"off the data: {row['strange']:.0%} of its actions far from any that was logged")
    return found


def calibration(value: float | None, logged: float, scale: float) -> str | None:
    """What to think where FQE misses the one value that is known: that of the data's own behaviour.

    >>> calibration(9.0, 10.0, scale=8.0)
    >>> calibration(4.0, 10.0, scale=8.0)
    "FQE gives the data's own behaviour 4, its rewards add up to 10: trust no value here, try more --steps"
    """
    if value is None:
        return "FQE diverged on the data's own behaviour: trust no value here"
    if abs(value - logged) <= 0.25 * scale:
        return None
    return (
        f"FQE gives the data's own behaviour {value:.4g}, its rewards add up to {logged:.4g}: "
        "trust no value here, try more --steps"
    )
