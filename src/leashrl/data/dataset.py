"""A logged data set in memory, and the two views of it that algorithms train on."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from leashrl.core import Preprocess
from leashrl.errors import BadInput, nearest
from leashrl.types import Box, Space, Spec


@dataclass(frozen=True, eq=False)
class Dataset:
    """A logged data set: numpy arrays in the environment's units, one row a step.

    Attributes:
      obs: (n, obs_dim) float32.
      action: (n, action_dim) float32 within `action_space`, or (n,) int32 for Discrete.
      reward: (n,) float32, as logged.
      terminal: (n,) bool: the environment ended here.
      timeout: (n,) bool: the episode was cut here; None if the source does not say.
      next_obs: (n, obs_dim) float32: the true next observation, where the source has it.
      action_space: given or read, never guessed from the actions.
      name: for people.
      max_episode_steps: the time limit; it finds the cuts where `timeout` is None.
      extras: what else the source holds (`infos/*`, `metadata/*`), read only when asked for.
      action_space_assumed: nobody gave the space and the file does not say: it is D4RL's [-1, 1].
    """

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminal: np.ndarray
    timeout: np.ndarray | None
    next_obs: np.ndarray | None
    action_space: Space
    name: str = "arrays"
    max_episode_steps: int | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    action_space_assumed: bool = False

    @classmethod
    def from_arrays(
        cls,
        obs: Any,
        action: Any,
        reward: Any,
        terminal: Any,
        *,
        timeout: Any = None,
        next_obs: Any = None,
        action_space: Space,
        name: str = "arrays",
        max_episode_steps: int | None = None,
    ) -> "Dataset":
        """Your own arrays, checked as a file is. Shapes as in the class; dtypes are converted.

        Raises:
          BadInput: anything that would make training wrong, with row numbers.
        """
        from leashrl.data.checks import to_dataset
        from leashrl.data.raw import KEYS, Raw

        values = (obs, action, reward, terminal, timeout, next_obs)
        try:
            arrays = {k: np.asarray(v) for k, v in zip(KEYS, values, strict=True) if v is not None}
        except (TypeError, ValueError) as error:
            raise BadInput(f"{name}: an argument is not an array ({' '.join(str(error).split())})") from None
        return to_dataset(
            Raw(name, arrays, action_space=action_space, max_episode_steps=max_episode_steps), name
        )

    def __repr__(self) -> str:
        obs, action = self.obs.shape[1], self.action_space.dim
        return f"Dataset({self.name!r}, {len(self)} rows, {obs} observations, {action} actions)"

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def spec(self) -> Spec:
        return Spec(self.obs.shape[1], self.action_space)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of the arrays: the same in any container."""
        digest = hashlib.sha256()
        for name in ("obs", "action", "reward", "terminal", "timeout", "next_obs"):
            array = getattr(self, name)
            if array is not None:
                array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(array.data)
        return digest.hexdigest()

    # --- Episodes -------------------------------------------------------------------

    @cached_property
    def ends(self) -> np.ndarray:
        """(n,) bool: rows that are an episode's last: terminal, cut, or at the time limit."""
        if self.timeout is not None:
            return self.terminal | self.timeout
        return self.terminal | _at_limit(self.terminal, self.max_episode_steps, after_terminal=0)

    def episodes(self) -> list[slice]:
        """The rows of each episode, in order. An open tail is an episode too.

        >>> data = Dataset.from_arrays([[0.0]] * 5, [[0.0]] * 5, [0.0] * 5, [0, 0, 1, 0, 0],
        ...                            action_space=Box((-1.0,), (1.0,)))
        >>> data.episodes()
        [slice(0, 3, None), slice(3, 5, None)]
        """
        stops = np.flatnonzero(self.ends) + 1
        if not stops.size or stops[-1] != len(self):
            stops = np.append(stops, len(self))
        return [slice(a, b) for a, b in zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True)]

    def returns(self) -> np.ndarray:
        """(episodes,) float64: undiscounted sum of the logged rewards."""
        starts = [part.start for part in self.episodes()]
        return np.add.reduceat(self.reward.astype(np.float64), starts)

    def top(self, fraction: float) -> "Dataset":
        """The best episodes by return, that share of their number (at least one), in their order.

        The data of 10% BC (`fraction=0.1`), split on true ends. Ends that were implied (the open
        tail, or the time limit) are marked as time-outs, so that no row is paired with a stranger.

        Raises:
          BadInput: `fraction` not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise BadInput(f"the share of best episodes must be in (0, 1], not {fraction}")
        episodes, returns = self.episodes(), self.returns()
        count = max(1, int(fraction * len(episodes) + 1e-9))
        best = np.sort(np.argsort(-returns, kind="stable")[:count])
        rows = np.concatenate([np.arange(episodes[i].start, episodes[i].stop) for i in best])
        last = np.zeros(len(self), bool)
        last[[part.stop - 1 for part in episodes]] = True
        timeout = last & ~self.terminal if self.timeout is None else self.timeout | (last & ~self.terminal)
        return Dataset(
            obs=self.obs[rows],
            action=self.action[rows],
            reward=self.reward[rows],
            terminal=self.terminal[rows],
            timeout=timeout[rows],
            next_obs=None if self.next_obs is None else self.next_obs[rows],
            action_space=self.action_space,
            name=f"{self.name}, best {fraction:.0%} of episodes",
            max_episode_steps=self.max_episode_steps,
            action_space_assumed=self.action_space_assumed,
        )

    # --- Views ------------------------------------------------------------------------

    def transitions(self, view: str = "bellman") -> dict[str, np.ndarray]:
        """Rows (s, a, r, terminal, s', a') as `obs, action, reward, terminal, next_obs, next_action`.

        a' is the next row's action, also after a row that ends an episode, where it means nothing.

        `bellman`: D4RL's `qlearning_dataset`, row for row. s' is the next row's observation (a stored
        `next_obs` is not used), rows at a time-out and the very last row are left out. Without
        `timeout`, a row is a time-out when D4RL's step counter reaches `max_episode_steps - 1`; as in
        D4RL, that counter stands at 1, not 0, on the first row after a terminal.

        `dynamics`: what models of the environment learn from; no s' is another episode's start. `known`
        (n,) bool says where s' is the observation that followed: in all rows where `next_obs` is stored.
        Elsewhere the view has the rows with a next row in the same episode, and the terminals, whose
        values need no s': theirs is their own observation, and not `known`.

        Raises:
          BadInput: an unknown view, or a view without rows.
        """
        rows = self.rows(view)
        if not rows.size:
            raise BadInput(
                f"{self.name}: the {view} view has no rows: every row is cut off or ends an episode"
            )
        found = {
            "obs": self.obs[rows],
            "action": self.action[rows],
            "reward": self.reward[rows],
            "terminal": self.terminal[rows],
            "next_action": self.action[np.minimum(rows + 1, len(self) - 1)],
        }
        if view == "bellman":
            return found | {"next_obs": self.obs[rows + 1]}
        if self.next_obs is not None:
            return found | {"next_obs": self.next_obs[rows], "known": np.ones(len(rows), bool)}
        known = ~self.ends[rows]
        return found | {"next_obs": self.obs[rows + known], "known": known}

    def whole(self) -> dict[str, np.ndarray]:
        """All rows as `obs, action, reward, step, end`: copies, with each row's place in its episode.

        `step` counts from the episode's first row; `end` is the row behind its last. Where `next_obs` is
        stored, `gap` has the rows that the next row's observation did not follow, each episode's last
        among them, and `gap_obs` what followed: all true next observations without a copy of them all.
        """
        parts = self.episodes()
        lengths = [part.stop - part.start for part in parts]
        start = np.repeat(np.array([part.start for part in parts], np.int32), lengths)
        gaps = {}
        if self.next_obs is not None:
            follows = np.all(self.next_obs[:-1] == self.obs[1:], axis=1)
            gap = np.flatnonzero(~np.append(follows, False)).astype(np.int32)
            gaps = {"gap": gap, "gap_obs": self.next_obs[gap]}
        return gaps | {
            "obs": self.obs.copy(),
            "action": self.action.copy(),
            "reward": self.reward.copy(),
            "step": np.arange(len(self), dtype=np.int32) - start,
            "end": np.repeat(np.array([part.stop for part in parts], np.int32), lengths),
        }

    def rows(self, view: str) -> np.ndarray:
        """The row numbers of a view of `transitions`, in order; there may be none."""
        if view == "bellman":
            cut = self.timeout
            if cut is None:
                cut = _at_limit(self.terminal, self.max_episode_steps, after_terminal=1)
            return np.flatnonzero(~cut[:-1])
        if view == "dynamics":
            if self.next_obs is not None:
                return np.arange(len(self))
            cut = self.ends & ~self.terminal
            cut[-1] = not self.terminal[-1]
            return np.flatnonzero(~cut)
        raise BadInput(f"no view '{view}' of a data set: {nearest(view, ('bellman', 'dynamics'))}")


def _at_limit(terminal: np.ndarray, limit: int | None, after_terminal: int) -> np.ndarray:
    """(n,) bool: rows at which a step counter stands at `limit - 1`.

    The counter grows by one a row, restarts at 0 after a row at the limit, and at `after_terminal`
    after any other terminal row.
    """
    at_limit = np.zeros(len(terminal), bool)
    if limit is None:
        return at_limit
    counter = start = 0
    for stop in [*(np.flatnonzero(terminal) + 1).tolist(), len(terminal)]:
        if counter < limit:  # a counter that starts beyond the limit never meets it
            at_limit[start + limit - 1 - counter : stop : limit] = True
        counter = 0 if stop and at_limit[stop - 1] else after_terminal
        start = stop
    return at_limit


# --- Ready for the device ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Normaliser:
    """`(obs - mean) / std`, per dimension; `std` already holds the added 1e-3. Zeros and ones when off.

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
        std = np.array([column.std(dtype=np.float64) for column in rows["obs"].T])
        normaliser = Normaliser(mean, (std + 1e-3).astype(np.float32), rescale)
        for key in rows.keys() & {
            "obs",
            "next_obs",
            "gap_obs",
        }:  # in place: the view's arrays are copies already
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
    """(n,) float32: each row's discounted return to its episode's end; behind a `last` row that is no
    terminal it goes on with `tail`, the value of what was cut off.

    >>> rewards, last = np.array([1.0, 2.0, 4.0]), np.array([False, True, True])
    >>> return_to_go(rewards, np.array([False, True, False]), last, 0.5, -8.0).tolist()
    [2.0, 2.0, 0.0]
    """
    found, after = np.empty(len(reward), np.float32), 0.0
    for i in range(len(reward) - 1, -1, -1):
        if last[i]:
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
