"""A logged data set in memory, its episodes, and the views of it that algorithms train on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from leashrl.errors import BadInput, nearest
from leashrl.types import Space, Spec


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
      continues: a terminal row ends the task, and the log goes on behind it: `timeout` alone ends episodes.
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
    continues: bool = False

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
        propensity: Any = None,
        action_space: Space,
        name: str = "arrays",
        max_episode_steps: int | None = None,
    ) -> "Dataset":
        """Your own arrays, checked as a file is. Shapes as in the class; dtypes are converted.

        `action_space` may be gymnasium's; discrete actions may be whole floats, or (n, k) one-hot rows; where
        there is one dimension, observations and actions may be (n,).

        Args:
          propensity: (n,) probability of each logged action, or its density, under the policy that logged it.

        Raises:
          BadInput: anything that would make training wrong, with row numbers.
        """
        from leashrl.data.checks import to_dataset
        from leashrl.data.propensity import KEY, log_propensities
        from leashrl.data.raw import KEYS, Raw, as_space

        values = (obs, action, reward, terminal, timeout, next_obs)
        try:
            arrays = {k: np.asarray(v) for k, v in zip(KEYS, values, strict=True) if v is not None}
        except (TypeError, ValueError) as error:
            raise BadInput(f"{name}: an argument is not an array ({' '.join(str(error).split())})") from None
        extras = {} if propensity is None else {KEY: np.asarray(propensity)}
        space, limit = as_space(action_space), max_episode_steps
        found = to_dataset(Raw(name, arrays, extras, action_space=space, max_episode_steps=limit), name)
        log_propensities(found)  # what is none is told here
        return found

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        *,
        obs: Any,
        action: Any,
        reward: str,
        episode: str | None = None,
        time: str | None = None,
        terminal: str | None = None,
        timeout: str | None = None,
        propensity: str | None = None,
        bandit: bool = False,
        missing: str = "refuse",
        action_space: Space | None = None,
        max_episode_steps: int | None = None,
        name: str = "table",
    ) -> "Dataset":
        """A table with a row per step: pandas, polars, Arrow, or a dict of arrays.

        Args:
          obs, action: names of columns, or patterns such as `sensor_*`. Text becomes one 0 or 1 per category;
            a single action column of text makes the actions discrete.
          reward: a column of numbers.
          episode: a column that is the same within an episode; rows of one may lie apart.
          time: a column to sort each episode by; without it rows stay in their order.
          terminal, timeout: columns of flags. With `episode` the last row of one is cut if it is no terminal.
          propensity: a column of the logged actions' probabilities, or densities.
          bandit: each row is an episode that ends there, as in a contextual bandit; then nothing of the
            above says where episodes end.
          missing: of values that are missing, `refuse`, `drop` the row and cut the episode there, `fill` with
            the value before in the same episode, or `indicator`: 0, and a column that says so.
          action_space: where actions are numbers; never guessed.

        Raises:
          BadInput: no such column, values that are missing or no numbers, and all that `from_arrays` raises.
        """
        from leashrl.data.checks import to_dataset
        from leashrl.data.propensity import log_propensities
        from leashrl.data.tables import to_raw

        single = {
            "reward": reward,
            "episode": episode,
            "time": time,
            "terminal": terminal,
            "timeout": timeout,
            "propensity": propensity,
        }
        options = {"action_space": action_space, "max_episode_steps": max_episode_steps, "name": name}
        options |= {"bandit": bandit, "missing_values": missing}
        found = to_dataset(to_raw(frame, obs=obs, action=action, **single, **options), name)
        log_propensities(found)
        return found

    @classmethod
    def from_episodes(
        cls, episodes: Any, *, action_space: Space, name: str = "episodes", **keys: str
    ) -> "Dataset":
        """A list of dicts, one per episode, of `obs`, `action`, `reward` and perhaps `terminal`, T rows each.

        An episode whose `obs` has T + 1 rows brings its last observation along. `terminal` may be one flag
        for the episode; without it the episode was cut.

        Args:
          keys: other names for these four, such as `obs="observations"`.

        Raises:
          BadInput: an episode that lacks one of them, and all that `from_arrays` raises.
        """
        from leashrl.data.episodes import joined

        return cls.from_arrays(**joined(episodes, keys, name), action_space=action_space, name=name)

    def save(self, path: Any) -> None:
        """Write a `.hdf5`, `.h5` or `.npz` file that `leashrl.load` reads back as the same data set.

        Raises:
          BadInput: the file exists, has another suffix, or cannot be written.
        """
        from leashrl.data.episodes import write

        write(self, path)

    @property
    def columns(self) -> Any:
        """The `data.columns.Columns` that the data were made of; None where they came from no table."""
        from leashrl.data.columns import Columns

        return Columns.of(self.extras)

    @classmethod
    def from_transitions(
        cls,
        obs: Any,
        action: Any,
        reward: Any,
        next_obs: Any,
        terminal: Any,
        *,
        action_space: Space,
        name: str = "transitions",
    ) -> "Dataset":
        """Single transitions in no order, as buffers keep them: each an episode of its own.

        `data.transitions` says what becomes of them, and what is lost with their order.

        Raises:
          BadInput: arrays that differ in length, and all that `from_arrays` raises.
        """
        from leashrl.data.transitions import WANTED, rows_of

        values = (obs, action, reward, terminal, next_obs)
        arrays = {k: np.asarray(v) for k, v in zip(WANTED, values, strict=True)}
        rows = rows_of(arrays, name)
        return cls.from_arrays(
            *(rows[k] for k in WANTED[:4]), timeout=rows["timeouts"], action_space=action_space, name=name
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
            return self.timeout.copy() if self.continues else self.terminal | self.timeout
        return self.terminal | _at_limit(self.terminal, self.max_episode_steps, after_terminal=0)

    def episodes(self) -> list[slice]:
        """The rows of each episode, in order. An open tail is an episode too.

        >>> from leashrl.types import Box
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
            continues=self.continues,
        )

    # --- Views ------------------------------------------------------------------------

    def transitions(self, view: str = "bellman") -> dict[str, np.ndarray]:
        """Rows (s, a, r, terminal, s', a') as `obs, action, reward, terminal, next_obs, next_action`.

        a' is the next row's action, also after a row that ends an episode, where it means nothing.

        `bellman`: D4RL's `qlearning_dataset`, row for row. s' is the next row's observation (a stored
        `next_obs` is not used), rows at a time-out and the very last row are left out; but a row that is
        both terminal and a time-out is a terminal, where D4RL drops it. Without
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
            if not self.continues:  # a terminal needs no next row: its value ends there, cut or not
                cut = cut & ~self.terminal
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
