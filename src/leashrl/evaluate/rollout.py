"""Evaluation in the real environment: all members of a run at once, on the host.

Ten episodes of every member (of ten members at most) are stepped side by side in this process, with one
compiled call that chooses all their actions; then the next ten. So one compiled shape serves any number of
episodes, and an episode's course depends on (policy, seed, its number) alone. A finished episode is not
stepped any more.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from leashrl.core import Policy
from leashrl.errors import BadInput, nearest
from leashrl.tasks import Task, normalise
from leashrl.tasks.making import borrow, env_seed, give_back, versions, whole
from leashrl.types import Box, Discrete, Space, TimeStep

if TYPE_CHECKING:
    import gymnasium as gym

WAVE = 10
"""Episodes of one member that run side by side."""
MOST_ENVIRONMENTS = {"kitchen": 10, "ogbench": 10}
"""How many environments are held at once, by domain; 100 elsewhere. A kitchen takes 75 MB, an
arm of OGBench's 155, a hand 10."""


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
    envs: Sequence["gym.Env"] | None = None,
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
      envs: environments of the task to step in place of the library's own, a list; as many episodes run side
        by side, one member after the other.

    Raises:
      BadInput: no environment or a missing package; observation or action sizes that do not fit the
        environment; an unknown mode; a bad seed or number of episodes.
    """
    start = time.perf_counter()
    episodes = whole("episodes", task.episodes if episodes is None else episodes, 1)
    mode = _mode(policy, mode)
    members = _members(params)
    seeds = [env_seed(seed, i) for i in range(episodes)]
    key = jax.random.key(env_seed(seed, 2**32 - 1))  # no episode has that number

    together = min(members, max(1, MOST_ENVIRONMENTS.get(task.domain, 100) // WAVE))
    width = min(WAVE, episodes)
    own = envs is None
    envs = borrow(task, together * width) if own else single(envs)[:WAVE]
    if not own:
        together, width = 1, len(envs)
    mean, std = _check(envs[0], task, action_space, obs_mean, obs_std)
    init, act = _compiled(policy, mode)
    to_env = _action_map(envs[0], action_space)

    returns = np.zeros((members, episodes))
    lengths = np.zeros((members, episodes), np.int64)
    failed = np.zeros(members, bool)
    for low in range(0, members, together):
        group = slice(low, low + together)
        chosen = jax.tree.map(lambda x, group=group: x[group], params)
        for first in range(0, episodes, width):
            wave = slice(first, min(first + width, episodes))
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(first, first + WAVE))
            choose = functools.partial(act, chosen, keys=keys, mean=mean, std=std)
            returns[group, wave], lengths[group, wave], failed[group] = _wave(
                choose, init(chosen), to_env, envs, width, seeds[wave], failed[group], len(mean)
            )
    if own:
        give_back(task, envs)

    returns[failed] = np.nan
    return Evaluation(
        returns=returns,
        lengths=lengths,
        scores=None if task.min_score is None else normalise(task, returns),
        failed=failed,
        task=task,
        versions=versions(task),
        seconds=time.perf_counter() - start,
        env_steps=int(lengths.sum()),
    )


def _wave(
    choose: Callable,
    carry: Any,
    to_env: Callable[[np.ndarray], np.ndarray],
    envs: list["gym.Env"],
    width: int,
    seeds: list[int],
    failed: np.ndarray,
    obs_dim: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One episode per seed (WAVE of them at most) and member: returns, lengths, and who has failed by now.

    Member j's environments are `envs[j * width : (j + 1) * width]`.
    """
    members = len(failed)
    failed = failed.copy()
    returns = np.zeros((members, len(seeds)))
    lengths = np.zeros((members, len(seeds)), np.int64)
    obs = np.zeros((members, WAVE, obs_dim), np.float32)
    reward = np.zeros((members, WAVE), np.float32)
    live = [(j, i, envs[j * width + i]) for j in range(members) if not failed[j] for i in range(len(seeds))]
    for j, i, env in live:
        obs[j, i] = env.reset(seed=seeds[i])[0]
    step = 0
    while live:
        action, carry = choose(carry=carry, obs=obs, reward=reward, step=np.int32(step))
        action = np.asarray(action)
        for j, i, _ in live:
            failed[j] |= not np.isfinite(action[j, i]).all()
        action = to_env(action)
        obs, reward = obs.copy(), reward.copy()  # jax may still look at the old ones
        going = []
        for j, i, env in live:
            if failed[j]:
                continue
            obs[j, i], paid, terminated, truncated, _ = env.step(action[j, i])
            reward[j, i] = paid
            returns[j, i] += float(paid)
            lengths[j, i] += 1
            if not (terminated or truncated):
                going.append((j, i, env))
        live = going
        step += 1
    return returns, lengths, failed


@functools.lru_cache(maxsize=32)
def _compiled(policy: Policy, mode: str) -> tuple[Callable, Callable]:
    """`init` and `act` of a policy over (members, WAVE), compiled once per policy and number of members."""

    def init(params: Any) -> Any:
        return jax.vmap(jax.vmap(policy.init, in_axes=None, axis_size=WAVE))(params)

    def act(params: Any, *, carry, obs, reward, keys, step, mean, std) -> tuple[jax.Array, Any]:
        def one(params, carry, obs, reward, key):
            timestep = TimeStep(obs=(obs - mean) / std, reward=reward, first=step == 0)
            return policy.act(params, carry, timestep, jax.random.fold_in(key, step), mode)

        over_episodes = jax.vmap(one, in_axes=(None, 0, 0, 0, 0))
        return jax.vmap(over_episodes, in_axes=(0, 0, 0, 0, None))(params, carry, obs, reward, keys)

    return jax.jit(init), jax.jit(act)


def single(envs: Any) -> list["gym.Env"]:
    """The environments that were given, once they are a list of single ones."""
    if not isinstance(envs, Sequence) or not envs or not all(hasattr(env, "reset") for env in envs):
        raise BadInput(f"'envs' must be a list of single environments, not {type(envs).__name__}")
    return list(envs)


# --- What must fit -----------------------------------------------------------


def _mode(policy: Policy, mode: str | None) -> str:
    """The mode that is asked for, once the policy has it; the policy's first by default."""
    mode = policy.modes[0] if mode is None else mode
    if mode not in policy.modes:
        raise BadInput(f"the policy has no evaluation mode '{mode}': {nearest(mode, policy.modes)}")
    return mode


def _members(params: Any) -> int:
    """How many members the leading axis of `params` has."""
    leaves = jax.tree.leaves(params)
    if not leaves:
        raise BadInput("the policy's params hold no arrays, so the number of members is unknown")
    return leaves[0].shape[0]


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
        return lambda raw: space.executed(raw, env.action_space)
    return lambda raw: raw
