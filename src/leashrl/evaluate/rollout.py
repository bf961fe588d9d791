"""Evaluation in the real environment: all members of a run at once, on the host.

Ten episodes of every member are stepped side by side in this process, with one compiled call that chooses
all their actions; then the next ten. So one compiled shape serves any number of episodes, and an episode's
course depends on (policy, seed, its number) alone. A finished episode is not stepped any more.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import Policy
from leashrl.errors import BadInput, nearest
from leashrl.evaluate.environments import borrow, env_seed, give_back, versions
from leashrl.tasks import Task, normalise
from leashrl.types import Box, Discrete, Space, TimeStep

if TYPE_CHECKING:
    import gymnasium as gym

WAVE = 10
"""Episodes of one member that run side by side."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found. A member whose policy gave a non-finite action has NaN returns."""

    returns: np.ndarray
    """(members, episodes) float64, undiscounted."""
    lengths: np.ndarray
    """(members, episodes) int64 steps."""
    scores: np.ndarray | None
    """(members, episodes) normalised returns; None where the task has no reference scores."""
    failed: np.ndarray
    """(members,) bool: the member's policy gave a non-finite action, and its episodes were stopped."""
    task: Task
    versions: dict[str, str]
    """Environment id and versions of gymnasium and mujoco."""
    seconds: float
    env_steps: int
    """Steps of the simulator, all members and episodes together."""


def evaluate(
    policy: Policy,
    params: Any,
    task: Task,
    *,
    obs_mean: Any,
    obs_std: Any,
    action_space: Space,
    episodes: int | None = None,
    seed: int = 0,
    mode: str | None = None,
) -> Evaluation:
    """Run `episodes` whole episodes of every member's policy in the task's environment.

    Episode i starts from a seed derived from (seed, i) and draws its actions from a key derived from
    (seed, i, step): the same for all members, and whatever else runs beside it.

    Args:
      policy: acts on `(obs - obs_mean) / obs_std`. The compiled function is kept for this very object, so
        pass the same one at every evaluation of a run.
      params: `policy.params` of the states, with a leading axis of members on every array.
      task: a task with an environment.
      obs_mean, obs_std: (obs_dim,) the data's normaliser; zeros and ones where it is off.
      action_space: the data's. Actions of a Box leave the policy in [-1, 1], are mapped to the Box, and
        clipped to the environment's bounds; Discrete ones pass as integers.
      episodes: per member; the task's own number by default.
      seed: at least 0.
      mode: one of `policy.modes`; the first by default.

    Raises:
      BadInput: no environment or a missing package; observation or action sizes that do not fit the
        environment; an unknown mode; a bad seed or number of episodes.
    """
    start = time.perf_counter()
    episodes = task.episodes if episodes is None else episodes
    mode = policy.modes[0] if mode is None else mode
    if episodes < 1:
        raise BadInput(f"cannot evaluate on {episodes} episodes: give at least 1")
    if mode not in policy.modes:
        raise BadInput(f"the policy has no evaluation mode '{mode}': {nearest(mode, policy.modes)}")
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise BadInput("the policy's params hold no arrays, so the number of members is unknown")
    members = leaves[0].shape[0]
    key = jax.random.key(env_seed(seed, 2**32 - 1))  # no episode has that number

    envs = [borrow(task, WAVE) for _ in range(members)]
    mean, std = _check(envs[0][0], task, action_space, obs_mean, obs_std)
    to_env = _action_map(envs[0][0], action_space)
    init, act = _compiled(policy, mode)

    returns = np.zeros((members, episodes))
    lengths = np.zeros((members, episodes), np.int64)
    failed = np.zeros(members, bool)
    for first in range(0, episodes, WAVE):
        wave = np.arange(first, first + WAVE)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(wave))
        live = [
            (j, i, envs[j][i - first])
            for j in range(members)
            if not failed[j]
            for i in range(first, min(first + WAVE, episodes))
        ]
        obs = np.zeros((members, WAVE, len(mean)), np.float32)
        reward = np.zeros((members, WAVE), np.float32)
        for j, i, env in live:
            obs[j, i - first] = env.reset(seed=env_seed(seed, i))[0]
        carry = init(params)
        step = 0
        while live:
            raw, carry = act(params, carry, obs, reward, keys, np.int32(step), mean, std)
            raw = np.asarray(raw)
            failed |= ~np.isfinite(raw).reshape(members, -1).all(1)
            action = to_env(raw)
            obs, reward = obs.copy(), reward.copy()  # jax may still look at the old ones
            going = []
            for j, i, env in live:
                if failed[j]:
                    continue
                slot = i - first
                obs[j, slot], paid, terminated, truncated, _ = env.step(action[j, slot])
                reward[j, slot] = paid
                returns[j, i] += float(paid)
                lengths[j, i] += 1
                if not (terminated or truncated):
                    going.append((j, i, env))
            live = going
            step += 1
    for pair in envs:
        give_back(task, pair)

    env_steps = int(lengths.sum())
    returns[failed] = np.nan
    return Evaluation(
        returns=returns,
        lengths=lengths,
        scores=None if task.min_score is None else normalise(task, returns),
        failed=failed,
        task=task,
        versions=versions(task),
        seconds=time.perf_counter() - start,
        env_steps=env_steps,
    )


@functools.lru_cache(maxsize=32)
def _compiled(policy: Policy, mode: str) -> tuple[Callable, Callable]:
    """`init` and `act` of a policy over (members, WAVE), compiled once per policy and number of members."""

    def init(params: Any) -> Any:
        return jax.vmap(jax.vmap(policy.init, in_axes=None, axis_size=WAVE))(params)

    def act(params: Any, carry: Any, obs, reward, keys, step, mean, std) -> tuple[jax.Array, Any]:
        def one(params, carry, obs, reward, key):
            timestep = TimeStep(obs=(obs - mean) / std, reward=reward, first=step == 0)
            return policy.act(params, carry, timestep, jax.random.fold_in(key, step), mode)

        over_episodes = jax.vmap(one, in_axes=(None, 0, 0, 0, 0))
        return jax.vmap(over_episodes, in_axes=(0, 0, 0, 0, None))(params, carry, obs, reward, keys)

    return jax.jit(init), jax.jit(act)


# --- What must fit -----------------------------------------------------------


def _check(
    env: "gym.Env", task: Task, space: Space, obs_mean: Any, obs_std: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The normaliser as two (obs_dim,) float32 arrays, once all sizes fit the environment."""
    obs_dim = int(np.prod(env.observation_space.shape or ()))
    mean, std = np.asarray(obs_mean, np.float32), np.asarray(obs_std, np.float32)
    for name, value in (("obs_mean", mean), ("obs_std", std)):
        if value.shape != (obs_dim,):
            raise BadInput(
                f"task '{task.name}' gives observations of {obs_dim} numbers, but {name} has shape "
                f"{value.shape}: choose the task that the data came from"
            )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise BadInput("obs_mean and obs_std must be finite, and obs_std positive")
    n = getattr(env.action_space, "n", None)
    env_actions = f"{n} discrete actions" if n else f"actions of {env.action_space.shape} numbers"
    fits = space.n == n if isinstance(space, Discrete) else (space.dim,) == env.action_space.shape
    if not fits:
        raise BadInput(
            f"task '{task.name}' takes {env_actions}, but the data's action space is {space}: choose the "
            "task that the data came from"
        )
    return mean, std


def _action_map(env: "gym.Env", space: Space) -> Callable[[np.ndarray], np.ndarray]:
    """From the policy's actions to the environment's."""
    if isinstance(space, Box):
        low, high = env.action_space.low, env.action_space.high  # pyright: ignore[reportAttributeAccessIssue]
        return lambda raw: np.clip(space.from_unit(raw), low, high)
    return lambda raw: raw
