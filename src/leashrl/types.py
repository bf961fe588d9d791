"""The values that travel between rooms: plain arrays with names. Imports only jax."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

Array = jax.Array
ArrayLike = jax.Array | np.ndarray
Metrics = dict[str, jax.Array]
"""Scalars under fixed names, one dictionary an update."""

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass of arrays (or pytrees of arrays), known to jax; fields marked static are none."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


# --- Spaces ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Box:
    """Continuous actions, `low[i] <= action[i] <= high[i]`. Algorithms see them mapped to [-1, 1]."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def dim(self) -> int:
        return len(self.low)

    @property
    def log_volume(self) -> float:
        """log of the factor by which a density in [-1, 1] is larger than one in the environment's units.

        >>> Box((0.0, -1.0), (2.0, 1.0)).log_volume
        0.0
        """
        return float(np.sum(np.log(np.subtract(self.high, self.low) / 2)))

    def to_unit(self, action: np.ndarray) -> np.ndarray:
        """Environment units to [-1, 1], affine per dimension; exact where the bounds are already ±1."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        if np.all(low == -1) and np.all(high == 1):
            return action
        return 2 * (action - low) / (high - low) - 1

    def from_unit(self, action: np.ndarray) -> np.ndarray:
        """[-1, 1] to environment units: the inverse of `to_unit`."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        if np.all(low == -1) and np.all(high == 1):
            return action
        return low + (action + 1) * (high - low) / 2

    def executed(self, action: Any, bounds: Any = None) -> Any:
        """What an environment is given: `from_unit`, within its bounds.

        In float32 the way to the bounds may overshoot by a rounding.

        Args:
          action: (..., dim) numpy or jax, in [-1, 1].
          bounds: the environment's action space, where its `low` and `high` may be others.

        >>> Box((0.0,), (2.0,)).executed(np.float32([1.5]))
        array([2.], dtype=float32)
        """
        bounds = self if bounds is None else bounds
        return self.from_unit(action).clip(
            np.asarray(bounds.low, np.float32), np.asarray(bounds.high, np.float32)
        )


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0, 1, ..., n - 1."""

    n: int

    @property
    def dim(self) -> int:
        return self.n


Space = Box | Discrete


@dataclasses.dataclass(frozen=True)
class Spec:
    """What an algorithm must know of a data set to build its networks. Static and hashable."""

    obs_dim: int
    action: Space


# --- Experience --------------------------------------------------------------


@pytree
class Transitions:
    """A whole data set as the learner sees it: on the device, shared by all members of a run.

    Actions lie in [-1, 1] (or are integers); observations and rewards are already preprocessed.
    """

    obs: ArrayLike  # (n, obs_dim) float32
    action: ArrayLike  # (n, action_dim) float32, or (n,) int32
    reward: ArrayLike  # (n,) float32
    terminal: ArrayLike  # (n,) bool; a time-out is not a terminal
    next_obs: ArrayLike  # (n, obs_dim) float32
    next_action: ArrayLike | None = None  # as action: the next row's, where there is one; None online
    to_go: ArrayLike | None = None  # (n,) float32, discounted return from here on, where it was asked for
    known: ArrayLike | None = None  # (n,) bool: next_obs is what followed; None: always


@pytree
class Episodes:
    """The same for sequence models: every row of the data set, in order, and its place in its episode."""

    obs: ArrayLike  # (n, obs_dim) float32
    action: ArrayLike  # (n, action_dim) float32, or (n,) int32
    reward: ArrayLike  # (n,) float32
    to_go: ArrayLike  # (n,) float32, the rewards' sum from here to the episode's end
    step: ArrayLike  # (n,) int32, rows since the episode began
    end: ArrayLike  # (n,) int32, the row behind the episode's last
    gap: ArrayLike | None = None  # (gaps,) int32, rows that the next row's observation did not follow
    gap_obs: ArrayLike | None = None  # (gaps, obs_dim) float32, what followed; None where it was not stored


@pytree
class Replay:
    """What an online run has seen, in place of a data set: a ring of rows for each member.

    The rings lie one behind the other in one table, so that no member's rows are ever copied. Inside
    the loop `first` is one member's scalar.
    """

    rows: Transitions  # (members * capacity, ...); row i of a member is at first + i % capacity
    first: ArrayLike  # (members,) int32, where each member's ring begins
    capacity: ArrayLike  # () int32
    count: ArrayLike  # () int32, rows written so far, of each member


@pytree
class Mixed:
    """A data set and a replay: what a run draws from that began offline and goes on online."""

    offline: Transitions  # shared by all members
    replay: Replay
    share: float = dataclasses.field(metadata={"static": True})  # of each batch, from `offline`


@pytree
class Batch:
    """One minibatch. `discount = gamma * (1 - terminal)`; a time-out never zeroes it."""

    obs: Array  # (batch, obs_dim)
    action: Array  # (batch, action_dim)
    reward: Array  # (batch,)
    discount: Array  # (batch,)
    next_obs: Array  # (batch, obs_dim)
    next_action: Array | None = None  # (batch, action_dim), for stages that ask for it
    to_go: Array | None = None  # (batch,), for stages that ask for it


@pytree
class TimeStep:
    """What a policy sees at one step of an episode, unbatched."""

    obs: Array  # (obs_dim,)
    reward: Array  # () the previous reward, 0 at the first step
    first: Array  # () bool, true at the first step of an episode
