"""From a data set to the rows that learners read: scaled observations, rewards and actions, returns to go."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from leashrl.core import Preprocess
from leashrl.data.dataset import Dataset
from leashrl.errors import BadInput, nearest
from leashrl.types import Box


@dataclass(frozen=True, eq=False)
class Normaliser:
    """`(obs - mean) / std`, per dimension; `std` is `scales`'s. Zeros and ones when off.

    Attributes:
      mean: (obs_dim,) float32.
      std: (obs_dim,) float32.
      reward: what was done to the rewards, numpy to numpy, of any shape; for rows that come later.
    """

    mean: np.ndarray
    std: np.ndarray
    reward: Callable[[np.ndarray], np.ndarray] = lambda reward: reward

    def __call__(self, obs: Any) -> Any:
        """(..., obs_dim) to the same shape; numpy or jax arrays."""
        return (obs - self.mean) / self.std


def prepare(
    dataset: Dataset, preprocess: Preprocess, view: str = "bellman", discount: float | None = None
) -> tuple[dict[str, np.ndarray], Normaliser]:
    """A view's rows as the learner reads them, and what was done to the observations.

    Actions are mapped to [-1, 1]; rewards and observations as `preprocess` says: `unit` and `zero-one`
    take the extremes over the data set, `standardise` the mean and standard deviation over the view's `obs`.
    With `best_percent`, the data set is its best episodes alone. The view `episodes` is `Dataset.whole`
    with returns to go. With `discount`, a view of transitions has them too, discounted (`return_to_go`).

    Raises:
      BadInput: an unknown choice; `unit` or `zero-one` where all rewards are equal, `return` where all
        returns are.
    """
    if not 1 <= preprocess.best_percent <= 100:
        raise BadInput(
            f"option 'preprocess.best_percent' must be from 1 to 100, not {preprocess.best_percent}"
        )
    if preprocess.best_percent < 100:
        dataset = dataset.top(preprocess.best_percent / 100)
    rows = dataset.whole() if view == "episodes" else dataset.transitions(view)
    if isinstance(dataset.action_space, Box):
        low, high = np.asarray(dataset.action_space.low), np.asarray(dataset.action_space.high)
        if not (np.all(low == -1) and np.all(high == 1)):
            for key in rows.keys() & {"action", "next_action"}:
                unit = dataset.action_space.to_unit(rows[key])
                rows[key] = np.clip(unit, -1, 1).astype(np.float32)

    rescale = rescaled(dataset, preprocess.reward)
    rows["reward"] = rescale(rows["reward"])
    obs_dim = dataset.obs.shape[1]
    normaliser = Normaliser(np.zeros(obs_dim, np.float32), np.ones(obs_dim, np.float32), rescale)
    if preprocess.obs == "standardise":
        # Column by column in float64: exact sums without a second copy of the data set.
        mean = np.array([column.mean(dtype=np.float64) for column in rows["obs"].T], np.float32)
        normaliser = Normaliser(mean, scales(rows["obs"]), rescale)
        # In place: the view's arrays are copies already.
        for key in rows.keys() & {"obs", "next_obs", "gap_obs"}:
            np.subtract(rows[key], normaliser.mean, out=rows[key])
            np.divide(rows[key], normaliser.std, out=rows[key])
    elif preprocess.obs != "none":
        known = nearest(preprocess.obs, ("none", "standardise"))
        raise BadInput(f"no observation preprocessing '{preprocess.obs}': {known}")
    if discount is not None:
        last = dataset.ends | (np.arange(len(dataset)) == len(dataset) - 1)
        reward = rescale(dataset.reward)
        tail = after_cut(reward, discount)
        rows["to_go"] = return_to_go(reward, dataset.terminal, last, discount, tail)[dataset.rows(view)]
    if view == "episodes":
        rows["to_go"] = to_go(rows["reward"], rows["end"])
    return rows, normaliser


def scales(obs: np.ndarray) -> np.ndarray:
    """(obs_dim,) float32: each column's standard deviation + 1e-3, as in TD3+BC; 1 where it never changes.

    Of a column that never changes nothing is known: with 1e-3 a drift of 0.01 would be ten deviations.

    >>> scales(np.array([[1.0, 5.0], [3.0, 5.0]]))
    array([1.001, 1.   ], dtype=float32)
    """
    found = [1.0 if (c == c[0]).all() else float(c.std(dtype=np.float64)) + 1e-3 for c in obs.T]
    return np.array(found, np.float32)


def rescaled(dataset: Dataset, how: str) -> Callable[[np.ndarray], np.ndarray]:
    """`Preprocess.reward` as a function of float32 rewards; scales are the data set's."""
    if how == "none":
        return lambda reward: reward
    if how in ("unit", "zero-one"):
        lowest, highest = float(dataset.reward.min()), float(dataset.reward.max())
        if lowest == highest:
            scaled = f"reward='{how}' has no range to scale"
            raise BadInput(f"{dataset.name}: every reward is {lowest:g}, so {scaled}")
        share = lambda reward: (reward.astype(np.float64) - lowest) / (highest - lowest)
        if how == "unit":
            return lambda reward: (2 * share(reward) - 1).astype(np.float32)
        return lambda reward: share(reward).astype(np.float32)
    if how == "return":
        returns = dataset.returns()
        if not returns.max() > returns.min():
            scaled = "reward='return' has no range to scale"
            raise BadInput(f"{dataset.name}: every episode's return is {returns[0]:g}, so {scaled}")
        scale = 1000 / (returns.max() - returns.min())
        return lambda reward: (reward.astype(np.float64) * scale).astype(np.float32)
    if how == "antmaze":
        return lambda reward: (4 * (reward - np.float32(0.5))).astype(np.float32)
    if how == "minus-one":
        return lambda reward: reward - np.float32(1)
    if how == "ten-minus-five":
        return lambda reward: (10 * reward - np.float32(5)).astype(np.float32)
    if how == "hundredfold":
        return lambda reward: (100 * reward).astype(np.float32)
    choices = ("none", "unit", "zero-one", "return", "antmaze", "minus-one", "ten-minus-five", "hundredfold")
    known = nearest(how, choices)
    raise BadInput(f"no reward preprocessing '{how}': {known}")


# --- Returns to go ----------------------------------------------------------------------


def to_go(reward: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n,) float32: the sum of the rewards from each row to its episode's end, its own included.

    >>> to_go(np.array([1.0, 2.0, 4.0]), np.array([2, 2, 3])).tolist()
    [3.0, 2.0, 4.0]
    """
    before = np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
    return (before[end] - before[:-1]).astype(np.float32)


def return_to_go(
    reward: np.ndarray, terminal: np.ndarray, last: np.ndarray, discount: float, tail: float
) -> np.ndarray:
    """(n,) float32: each row's discounted return to its episode's end or the next terminal; behind a `last`
    row that is no terminal it goes on with `tail`, the value of what was cut off.

    >>> rewards, last = np.array([1.0, 2.0, 4.0]), np.array([False, True, True])
    >>> return_to_go(rewards, np.array([False, True, False]), last, 0.5, -8.0).tolist()
    [2.0, 2.0, 0.0]
    """
    found, after = np.empty(len(reward), np.float32), 0.0
    for i in range(len(reward) - 1, -1, -1):
        if last[i] or terminal[i]:  # where an episode goes on behind its task's end, its return does not
            after = 0.0 if terminal[i] else tail
        after = float(reward[i]) + discount * after
        found[i] = after
    return found


def after_cut(reward: np.ndarray, discount: float) -> float:
    """What a return is at least worth behind a cut: the lowest reward for ever, or nothing if that is more.

    Where all rewards of a failure are the lowest, its return is r / (1 - gamma), as Cal-QL's authors have it.

    >>> after_cut(np.array([-1.0, 0.0]), 0.5), after_cut(np.array([1.0, 3.0]), 0.5)
    (-2.0, 0.0)
    """
    lowest = min(0.0, float(reward.min()))
    return lowest / (1.0 - discount) if discount < 1.0 else 0.0
