"""The online source: environments stepped on the host, rows kept on the device.

Between two compiled pieces of training every member takes `every` steps in an environment of its own, with
the policy as it then is. What it sees goes to a ring on the device and, with each checkpoint, to

    DIR/replay/rows-0000000000.safetensors    rows in the order they came, (members, n, ...) an array

Episode i of a member starts from a seed that its own seed and i decide. So these rows are all that a resumed
run needs: it resets each environment to the episode that was cut, and takes the same actions again.

A run that began offline brings its data set along. Observations and rewards are then written down as the
environment gives them, and reach the device as the data set's did.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import Policy, State
from leashrl.data import Normaliser
from leashrl.data.preprocessing import after_cut, return_to_go
from leashrl.disk.replay import drop_rows, read_rows, write_rows
from leashrl.errors import BadInput, Diverged
from leashrl.tasks import Task
from leashrl.tasks.making import borrow, give_back
from leashrl.training import replay
from leashrl.types import Array, Box, Mixed, Replay, Spec, TimeStep, Transitions

RECENT = 100
"""Episodes in the mean return that online runs report, as in the MIRACLE text's figures."""


def spec_of(task: Task) -> Spec:
    """What an algorithm must know of a task's environment."""
    env = borrow(task, 1)[0]
    space, shape = env.action_space, env.observation_space.shape or ()
    give_back(task, [env])
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        raise BadInput(f"task '{task.name}' has no continuous actions: it cannot be trained on online")
    return Spec(int(np.prod(shape)), Box(tuple(map(float, low)), tuple(map(float, high))))


@dataclass(frozen=True, eq=False)
class Offline:
    """What a run brings along that began offline."""

    rows: Transitions
    """The data set, on the device."""
    share: float
    """Of each batch, from the data set."""
    normaliser: Normaliser
    """What was done to the data's observations and rewards."""
    noise: float
    """Standard deviation of the Gaussian noise on the actions of a policy that draws none, in [-1, 1]."""
    gamma: float | None = None
    """With it, rows have their episode's discounted return to go once it has ended, and -inf before."""


class Simulator:
    """A `training.loop.Source`: one environment a member.

    Attributes:
      ring: the members' rows, on the device.
      stride: steps of a visit.
      every: updates between two visits.
      ended: a row for each episode that has ended and was not yet taken away by `take_ended`.
    """

    def __init__(
        self,
        task: Task,
        spec: Spec,
        policy: Policy,
        members: Sequence[Mapping[str, float]],
        keys: Array,
        *,
        steps: int,
        buffer: int,
        warmup: int,
        every: int,
        updates: int = 1,
        offline: Offline | None = None,
    ):
        """Every member's newest `buffer` rows are kept. A visit has `every` steps, each `updates` updates.

        Its first `warmup` actions are random, or, after offline training, the policy's own: random ones
        would tell little of where that policy goes.

        Raises:
          BadInput: the buffer does not hold an episode.
        """
        least = task.max_episode_steps + max(warmup, every)
        if buffer < least:
            raise BadInput(f"option 'buffer' must hold the warm-up and an episode: {least} on '{task.name}'")
        n = len(members)
        self.task, self.members, self.warmup = task, members, warmup
        self.stride, self.every = every, every * updates
        self.offline = offline
        self.space = spec.action
        self.envs = borrow(task, n)
        self.obs = np.zeros((n, spec.obs_dim), np.float32)
        self.episode = np.full(n, -1)  # its number; each new one is reset from its own seed
        self.total = np.zeros(n)  # the running episode's return
        self.length = np.zeros(n, np.int64)
        self.ended: list[dict[str, Any]] = []
        self.unsaved: list[dict[str, np.ndarray]] = []
        self.saved = 0  # rows on disk
        self.policy = policy
        self.act, self.act_after = _compiled(policy, offline.noise if offline else 0.0)
        self.keys = jax.vmap(jax.random.fold_in, (0, None))(keys, jnp.uint32(2**32 - 1))  # no update's key
        self.calibrated = offline is not None and offline.gamma is not None
        if offline is not None and offline.gamma is not None:
            self.tail = after_cut(np.asarray(offline.rows.reward), offline.gamma)
        capacity = min(buffer, steps + every + least)
        self.ring = replay.empty(n, capacity, spec, offline is not None, self.calibrated)
        self.running: list[list[float]] = [[] for _ in members]  # rewards, as the learner reads them
        for i in range(n):
            self.reset(i)

    @property
    def data(self) -> Replay | Mixed:
        """What updates draw from."""
        return self.ring if self.offline is None else Mixed(self.offline.rows, self.ring, self.offline.share)

    # --- Stepping ------------------------------------------------------------

    def visit(self, state: State, step: int) -> None:
        """`stride` more rows of each member, before the first of them the warm-up's."""
        params = self.policy.params(state)
        if int(self.ring.count) == 0:
            self.collect(params if self.offline else None, self.warmup, step)
        self.collect(params, self.stride, step)

    def collect(self, params: Any, n: int, step: int) -> None:
        """n steps of every member, by the policy with these params; None: uniformly random."""
        rows: dict[str, np.ndarray] = {}
        begin = int(self.ring.count)
        for t in range(n):
            row = np.uint32(begin + t)
            if params is None:
                action = np.asarray(_uniform(self.keys, row, self.space.dim))
            else:
                action = np.asarray(self.act(params, self.normalised(self.obs), self.keys, row))
            if not np.isfinite(action).all():
                raise Diverged(f"the policy gave an action that is not finite, after {step} updates")
            for name, value in self.take(action, step).items():
                if not t:
                    rows[name] = np.empty((len(value), n, *value.shape[1:]), value.dtype)
                rows[name][:, t] = value
        if self.offline:
            after, number = self.normalised(rows["next_obs"]), np.arange(begin, begin + n, dtype=np.uint32)
            rows["next_action"] = np.asarray(self.act_after(params, after, self.keys, number))
        self.unsaved.append(rows)
        self.append(rows)

    def append(self, rows: Mapping[str, np.ndarray]) -> None:
        """Put rows as the environment gave them into the ring, as the learner reads them."""
        ready = {name: value for name, value in rows.items() if name != "timeout"}
        ready |= {name: self.normalised(rows[name]) for name in ("obs", "next_obs")}
        if self.offline:
            ready["reward"] = self.offline.normaliser.reward(rows["reward"])
        if self.calibrated:
            ready["to_go"] = np.full(rows["reward"].shape, -np.inf, np.float32)
        self.ring = replay.append(self.ring, ready)
        if self.calibrated:
            self.settle(ready["reward"], rows["terminal"], rows["timeout"])

    def settle(self, reward: np.ndarray, terminal: np.ndarray, timeout: np.ndarray) -> None:
        """Returns to go of the episodes that ended among the newest rows, (members, n) each."""
        assert self.offline is not None and self.offline.gamma is not None
        gamma, size = self.offline.gamma, self.task.max_episode_steps
        count, capacity, beyond = int(self.ring.count), int(self.ring.capacity), len(self.ring.rows.reward)
        for i, t in np.ndindex(*reward.shape):
            self.running[i].append(float(reward[i, t]))
            if not (terminal[i, t] or timeout[i, t]):
                continue
            n = len(self.running[i])
            last = np.arange(n) == n - 1
            values = return_to_go(np.array(self.running[i]), last & terminal[i, t], last, gamma, self.tail)
            row = count - reward.shape[1] + t + 1 - n + np.arange(n)
            place = np.where(row >= count - capacity, i * capacity + row % capacity, beyond)
            fill = (0, max(0, size - n))  # one length, so that it is compiled once
            place = np.pad(place, fill, constant_values=beyond).astype(np.int32)
            self.ring = replay.set_to_go(self.ring, place, np.pad(values, fill))
            self.running[i] = []

    def normalised(self, obs: np.ndarray) -> np.ndarray:
        return obs if self.offline is None else self.offline.normaliser(obs)

    def in_units(self, action: np.ndarray, i: int) -> np.ndarray:
        """An action of member i as its environment takes it."""
        if not isinstance(self.space, Box):
            return action
        return self.space.executed(action, self.envs[i].action_space)

    def take(self, action: np.ndarray, step: int) -> dict[str, np.ndarray]:
        """One step of every member's environment: a row each."""
        n = len(self.envs)
        row = {
            "obs": self.obs.copy(),
            "action": action,
            "reward": np.zeros(n, np.float32),
            "terminal": np.zeros(n, bool),
            "timeout": np.zeros(n, bool),
            "next_obs": np.zeros_like(self.obs),
        }
        for i, env in enumerate(self.envs):
            self.obs[i], paid, terminal, timeout, _ = env.step(self.in_units(action[i], i))
            row["next_obs"][i], row["reward"][i] = self.obs[i], paid
            row["terminal"][i], row["timeout"][i] = terminal, timeout and not terminal
            self.total[i] += float(paid)
            self.length[i] += 1
            if terminal or timeout:
                end = {"step": step, "return": float(self.total[i]), "length": int(self.length[i])}
                self.ended.append(end | dict(self.members[i]))
                self.reset(i)
        return row

    def reset(self, i: int) -> None:
        """The next episode of member i."""
        self.episode[i] += 1
        # The third number keeps these apart from the episodes of evaluations.
        seed = np.random.SeedSequence([int(self.members[i]["seed"]), int(self.episode[i]), 1])
        self.obs[i] = self.envs[i].reset(seed=int(seed.generate_state(1)[0]))[0]
        self.total[i], self.length[i] = 0.0, 0

    def take_ended(self) -> list[dict[str, Any]]:
        ended, self.ended = self.ended, []
        return ended

    def close(self) -> None:
        """Give the environments back; nothing more is collected."""
        give_back(self.task, self.envs)
        self.envs = []

    # --- Disk ----------------------------------------------------------------

    def save(self, folder: Path) -> int:
        """Write the rows since the last time; how many each member has in all."""
        if self.unsaved:
            rows = {k: np.concatenate([x[k] for x in self.unsaved], 1) for k in self.unsaved[0]}
            write_rows(folder, self.saved, rows)
            self.saved += rows["reward"].shape[1]
            self.unsaved = []
        return self.saved

    def load(self, folder: Path, count: int) -> None:
        """Go on from the first `count` rows; files that a kill left beyond them are deleted.

        Raises:
          BadInput: rows are missing, or an environment does not give again what it gave.
        """
        capacity = int(self.ring.capacity)
        begun = [0] * len(self.envs)  # the row at which each member's running episode began
        while self.saved < count:
            rows = read_rows(folder, self.saved)
            n = rows["reward"].shape[1]
            for i, end in enumerate(rows["terminal"] | rows["timeout"]):
                self.episode[i] += int(end.sum())
                if end.any():
                    begun[i] = self.saved + int(np.flatnonzero(end)[-1]) + 1
            self.append(rows)
            self.saved += n
        drop_rows(folder, count)
        actions, after = np.asarray(self.ring.rows.action), np.asarray(self.ring.rows.next_obs)
        for i, env in enumerate(self.envs):
            self.episode[i] -= 1
            self.reset(i)
            for t in range(begun[i], count):
                row = i * capacity + t % capacity
                self.obs[i], paid, *_ = env.step(self.in_units(actions[row], i))
                self.total[i] += float(paid)
                self.length[i] += 1
                if not np.array_equal(self.normalised(self.obs[i]), after[row]):
                    raise BadInput(
                        f"'{folder}': the environment does not give again what it gave in row {t}: "
                        "another version of mujoco or gymnasium, or another processor?"
                    )


def recent(episodes: list[dict[str, Any]], member: Mapping[str, float]) -> dict[str, Any]:
    """A member's mean return over its last 100 episodes, and the best that this mean has been."""
    returns = [row["return"] for row in episodes if all(row[k] == v for k, v in member.items())]
    means = running_mean(returns)
    last, best = (float(means[-1]), float(means.max())) if returns else (None, None)
    return {"episodes": len(returns), "return_last_100": last, "best_last_100": best}


def running_mean(returns: Sequence[float]) -> np.ndarray:
    """The mean of the last 100 values (of fewer at the start) after each of them.

    >>> running_mean([1.0, 3.0]).tolist()
    [1.0, 2.0]
    """
    total = np.cumsum([0.0, *returns])
    n = np.arange(1, len(returns) + 1)
    first = np.maximum(n - RECENT, 0)
    return (total[n] - total[first]) / (n - first)


# --- Actions -----------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _compiled(policy: Policy, noise: float):
    """Actions as they are tried out: drawn where the policy can, else with Gaussian noise.

    Returns:
      `(params, obs (members, obs_dim), keys, row) -> actions`, in [-1, 1] or integers; the same of
      `(members, n, obs_dim)` and n rows: another draw, for the observations that came after.
    """
    mode = "sample" if "sample" in policy.modes else policy.modes[0]

    def one(params: Any, obs: Array, key: Array, row: Array) -> Array:
        timestep, key = TimeStep(obs, jnp.zeros(()), jnp.asarray(False)), jax.random.fold_in(key, row)
        action = policy.act(params, policy.init(params), timestep, key, mode)[0]
        if noise and mode != "sample":
            action = jnp.clip(action + noise * jax.random.normal(key, action.shape), -1.0, 1.0)
        return action

    def following(params: Any, obs: Array, keys: Array, rows: Array) -> Array:
        each = jax.vmap(one, in_axes=(None, 0, None, 0))
        return jax.vmap(each, in_axes=(0, 0, 0, None))(params, obs, keys, rows + jnp.uint32(2**31))

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None))), jax.jit(following)


@functools.partial(jax.jit, static_argnums=2)
def _uniform(keys: Array, row: Array, dim: int) -> Array:
    """Actions (members, dim) from all over [-1, 1]."""
    one = lambda key: jax.random.uniform(jax.random.fold_in(key, row), (dim,), minval=-1.0, maxval=1.0)
    return jax.vmap(one)(keys)
